"""Chapter 12: tokenizers, files of tokens, batches that processes share, and runs of one and of two processes."""

import hashlib
import json
import math
import signal
import subprocess
import time
import tracemalloc
from dataclasses import asdict
from importlib import import_module
from types import SimpleNamespace

from experiments import scale as paper
from helpers import COMMANDS, ROOT, Unigram, log_of, make_model, refusal, start, write_settings
from plumbing import checkpoint, cli, files, parallel, text, token_files

import numpy as np
import pytest
import torch

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
generation = import_module("06_generate")
scale = import_module("12_scale")

CPU = torch.device("cpu")
STORY = "Once upon a time, a “little” model of café size ate மசாலா. It didn't sleep!\n\n"


# Tokenizers


@pytest.fixture(scope="module")
def bpe():
    try:
        return token_files.BytePairs()
    except cli.UserError as error:
        pytest.skip(str(error))


def test_known_encodings_of_gpt2(bpe):
    known = {"The quick brown fox": [464, 2068, 7586, 21831], "hello world": [31373, 995], "’": [447, 247], "": [],
             "<|endoftext|>": [27, 91, 437, 1659, 5239, 91, 29], "\n\n": [628]}  # fmt: skip
    for written, tokens in known.items():
        assert bpe.encode(written) == tokens and bpe.decode(tokens) == written
    assert (bpe.vocab_size, bpe.end) == (50257, 50256)


@pytest.mark.parametrize("kind", ["bpe", "bytes"])
def test_text_comes_back_whole(kind, request):
    tokenizer = request.getfixturevalue("bpe") if kind == "bpe" else token_files.Bytes()
    tokens = tokenizer.encode(STORY)
    assert tokenizer.decode(tokens) == tokenizer.decode(torch.tensor(tokens)) == STORY
    assert tokenizer.encode_all([STORY, "x"]) == [tokens, tokenizer.encode("x")]
    mask, end = tokenizer.mask_id, tokenizer.end
    assert tokenizer.decode([mask, end, end, end, *tokenizer.encode("a"), end]) == "░∎a∎"
    with pytest.raises(ValueError, match="must lie"):
        tokenizer.decode([mask + 1])
    assert len(tokenizer.shown) == mask + 1 and tokenizer.shown[end:] == ["∎", "░"]
    half = tokenizer.encode("’")[0]  # it has only some bytes of the character
    assert "\ufffd" in tokenizer.shown[half] and "\ufffd" in tokenizer.decode([half])
    description = {"kind": tokenizer.kind, "vocabulary": tokenizer.vocabulary}
    assert type(text.from_description(description)) is type(tokenizer)
    with pytest.raises(ValueError, match="vocabulary"):
        text.from_description(description | {"vocabulary": "other"})


def test_without_a_vocabulary_and_a_network_it_says_what_to_do(tmp_path, monkeypatch):
    def refuse(*arguments, **named):
        raise subprocess.CalledProcessError(1, "pip")

    monkeypatch.setattr(files, "DATA", tmp_path)
    monkeypatch.setattr(subprocess, "run", refuse)
    (tmp_path / "gpt2_merges.txt").write_text("#version: 0.2\nt h\n")  # another file of this name does not count
    line = refusal(token_files.BytePairs)
    assert "vocab.bpe" in line and "--tokenizer bytes" in line


# Files of tokens


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    """A function prepare(**settings) that calls token_files.prepare with bytes in an empty folder."""
    monkeypatch.setattr(files, "DATA", tmp_path)
    return lambda **settings: token_files.prepare(token_files.Source(**{"tokenizer": "bytes"} | settings))


@pytest.fixture
def parquet(tmp_path):
    import datasets

    path = tmp_path / "stories.parquet"
    rows = [{"text": f"story {i} " + "é" * i} for i in range(20)] + [{"text": ""}]
    datasets.Dataset.from_list(rows).to_parquet(path)
    return str(path)


def test_texts_become_one_checked_file(prepare, parquet, tmp_path):
    tokens, tokenizer, checksum = prepare(dataset=parquet)
    everything = "".join(f"story {i} " + "é" * i + "∎" for i in range(20))
    assert tokenizer.decode(tokens.tolist()) == everything and tokens.dtype == np.uint16 and not tokens.flags.writeable
    (path,) = (tmp_path / "tokens").glob("*.bin")
    assert checksum == hashlib.sha256(path.read_bytes()).hexdigest()
    before = path.stat().st_mtime_ns
    assert np.array_equal(prepare(dataset=parquet)[0], tokens) and path.stat().st_mtime_ns == before
    assert prepare(dataset=parquet, limit=30)[0].tolist() == tokens[:30].tolist()

    damaged = bytearray(path.read_bytes())
    damaged[7] ^= 1
    path.write_bytes(damaged)
    assert "damaged" in refusal(prepare, dataset=parquet)
    path.unlink()  # to free space
    assert tokenizer.decode(prepare(dataset=parquet)[0].tolist()) == everything
    path.with_suffix(".json").write_text("{}")
    assert "damaged" in refusal(prepare, dataset=parquet)


def test_text_files_and_lines_of_json(prepare, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("<|endoftext|>\n".join(["One story. " * 40 + "\n", "Two. " * 200, "  "]), encoding="utf-8")
    tokens, tokenizer, _ = prepare(dataset=str(path))
    assert tokenizer.decode(tokens.tolist()) == "One story. " * 40 + "∎" + "Two. " * 200 + "∎  ∎"
    path.write_text("One story. " * 100)  # the file has another date: it is read again
    assert tokenizer.decode(prepare(dataset=str(path))[0].tolist()) == "One story. " * 100 + "∎"
    (tmp_path / "b.jsonl").write_text('{"text": "a"}\n{"text": "bc"}\n')
    for name in ("b.jsonl", "*.jsonl"):
        assert prepare(dataset=str(tmp_path / name))[0].tolist() == [97, 256, 98, 99, 256]


def test_what_cannot_be_read(prepare, parquet, tmp_path):
    said = refusal(prepare, dataset=parquet, column="story")
    assert "column 'story'" in said and "the columns are text" in said
    assert "no file" in refusal(prepare, dataset=str(tmp_path / "*.json"))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    assert "cannot read" in refusal(prepare, dataset=str(tmp_path / "bad.parquet"))
    (tmp_path / "empty.jsonl").write_text('{"text": ""}\n')
    assert "no text" in refusal(prepare, dataset=str(tmp_path / "empty.jsonl"))
    for line in ('{"text": "a"', "[1]", "[" * 100_000, "\xff"):
        (tmp_path / "bad.jsonl").write_bytes(line.encode("latin-1"))
        assert "cannot read" in refusal(prepare, dataset=str(tmp_path / "bad.jsonl"))


def test_a_line_without_an_end_does_not_fill_the_memory(prepare, tmp_path):
    path = tmp_path / "a.jsonl"
    with open(path, "wb") as file:
        file.truncate(3 << 30)  # it takes no room
    tracemalloc.start()
    assert "has a line of more than" in refusal(prepare, dataset=str(path))
    assert tracemalloc.get_traced_memory()[1] < 1 << 28
    tracemalloc.stop()


@pytest.mark.parametrize("n", [1, 2, 7, 97, 1000])
def test_every_window_comes_once_before_any_comes_twice(n):
    windows = token_files.Windows(np.arange(n * 8, dtype=np.uint16), 8)
    numbers, laps = windows.order(0, 3 * n, seed=5)
    for lap in range(3):
        assert sorted(numbers[laps == lap]) == list(range(n))
    first = windows.read(numbers[:n], laps[:n])
    assert sorted(first.flatten().tolist()) == list(range(8 * n)) and first.dtype == torch.int64
    in_steps = np.concatenate([windows.order(step, n, seed=5)[0] for step in range(3)])
    assert np.array_equal(in_steps, numbers)
    later = windows.read(numbers[n:], laps[n:])  # cut elsewhere, and always from the tokens
    assert torch.all(later.diff() == 1) and later.max() < 8 * n
    if n > 2:
        assert set(later[:n, 0].tolist()) != set(first[:, 0].tolist())


def test_windows_of_documents_end_where_the_text_ends():
    end = 9
    windows = token_files.Windows(np.array([1, 2, end, 3, 4, 5, 6, 7, 8, end, end, 1, end], np.uint16), 4, end)
    rows = windows.read(np.arange(windows.n))
    assert rows.tolist() == [[1, 2, end, end], [3, 4, 5, 6], [end] * 4, [1, end, end, end]]
    assert windows.text_of(rows).sum(1).tolist() == [3, 4, 1, 2]
    assert token_files.Windows(np.arange(8, dtype=np.uint16), 4).text_of(rows).all()


# A batch that processes share


def make_config(**changes):
    return scale.TrainConfig(**{"batch_size": 8, "short": 0.0} | changes)


@pytest.fixture(scope="module")
def windows():
    return token_files.Windows(np.random.default_rng(0).integers(0, 50, 4000).astype(np.uint16), 16)


@pytest.mark.parametrize("changes", [{}, {"prefix": 1.0}, {"short": 1.0}, {"schedule": "cosine"}, {"t_max": 0.5}])
def test_any_number_of_processes_draws_the_same_batch(windows, changes):
    config = make_config(**changes)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    for step in range(5):
        x0, xt, masks = scale.draw(windows, config, 50, step)
        assert masks == (xt == 50).sum() and torch.equal(torch.where(xt == 50, x0, xt), x0)
        assert (xt == 50).any(1).all()
        for world in (2, 4):
            parts = [scale.draw(windows, config, 50, step, rank, world) for rank in range(world)]
            assert {part[2] for part in parts} == {masks}
            for i, expected in enumerate((x0, xt)):
                assert torch.equal(torch.stack([part[i] for part in parts], 1).flatten(0, 1), expected)
    assert torch.equal(torch.get_rng_state(), state)
    others = [scale.draw(windows, config, 50, 3), scale.draw(windows, make_config(seed=2, **changes), 50, 4)]
    for other_x0, other_xt, _ in others:  # another step, and another seed
        assert not torch.equal(x0, other_x0) and not torch.equal(xt == 50, other_xt == 50)


@pytest.mark.parametrize("name", diffusion.NoiseSchedule.NAMES)
@pytest.mark.parametrize("t_max", [1.0, 0.6])
def test_the_share_of_masks_follows_the_schedule(windows, name, t_max):
    config = make_config(batch_size=512, schedule=name, prefix=0.0, t_max=t_max)
    share = scale.draw(windows, config, 50, 0)[2] / (512 * 16)
    t = torch.linspace(0, t_max, 10001)
    expected = (1 - diffusion.NoiseSchedule(name).alpha(t)).mean().item()
    assert share == pytest.approx(expected + 1 / 32, abs=0.02)  # at least one mask a window


def test_prefixes_stay_clean_and_short_steps_are_short(windows):
    _, xt, _ = scale.draw(windows, make_config(batch_size=256, prefix=1.0), 50, 3)
    assert xt.shape[1] == 16
    assert (xt[:, 0] == 50).float().mean() < 0.1 and (xt[:, -1] == 50).float().mean() > 0.4  # 1/32, and 1/2
    lengths = {scale.draw(windows, make_config(short=1.0), 50, step)[1].shape[1] for step in range(40)}
    assert len(lengths) > 5 and max(lengths) <= 16
    whole = [scale.draw(windows, make_config(short=0.5), 50, step)[1].shape[1] == 16 for step in range(100)]
    assert 30 < sum(whole) < 70


def gradients_of(model, windows, config, world=1):
    """Return the loss and the gradients of a step. One process computes what `world` processes would sum up."""
    model.zero_grad()
    loss = 0.0
    for rank in range(world):
        tokenizer = SimpleNamespace(mask_id=50)
        task = scale.Words(tokenizer, windows, windows, config, parallel.Team(rank, world, CPU))
        task.run = SimpleNamespace(step=2)
        for part in range(config.accumulate):
            share = task.loss(model, task.batch(config.batch_size // world // config.accumulate))
            assert model.require_backward_grad_sync == (part == config.accumulate - 1)
            share = share / config.accumulate / world
            share.backward()
            loss += share.item()
        assert not task.parts
    return loss, [p.grad.clone() for p in model.parameters()]


def test_processes_parts_and_recomputing_change_no_gradient(windows):
    model = make_model(50, std=0.2, n_layer=2, time_conditioned=True)
    again = scale.make_model(model.config, recompute=True)
    again.load_state_dict(model.state_dict())
    x0, xt, masks = scale.draw(windows, make_config(prefix=0.5), 50, 2)
    exact = diffusion.hidden_losses(model, x0, xt, (xt == 50).float().mean(1)).sum() / masks
    one = gradients_of(model, windows, make_config(prefix=0.5))
    assert one[0] == pytest.approx(exact.item(), rel=1e-5)
    for network, parts, world in ((model, 4, 1), (model, 1, 2), (model, 2, 4), (again, 2, 2)):
        loss, found = gradients_of(network, windows, make_config(prefix=0.5, accumulate=parts), world)
        assert loss == pytest.approx(one[0], rel=1e-5)
        for gradient, expected in zip(found, one[1]):
            torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-4)

    model.zero_grad()
    for rank in range(2):  # each process divides by its own number of masks: a different gradient
        mine = slice(rank, None, 2)
        losses = diffusion.hidden_losses(model, x0[mine], xt[mine], (xt[mine] == 50).float().mean(1))
        (losses.sum() / (xt[mine] == 50).sum() / 2).backward()
    off = sum((p.grad - expected).square().sum() for p, expected in zip(model.parameters(), one[1])).sqrt()
    assert off > 0.02 * sum(expected.square().sum() for expected in one[1]).sqrt()


def test_what_fills_a_window_does_not_count():
    """For this model, all 51 tokens are equally likely, so each token of a text costs ln 51."""
    tokens = np.array([1, 2, 50, 3, 4, 5, 50, 6, 50, 7, 50], np.uint16)
    windows = token_files.Windows(tokens, 8, end=50)
    task = scale.Words(SimpleNamespace(mask_id=51), windows, windows, make_config(), parallel.Team(0, 1, CPU))
    model = Unigram(SimpleNamespace(mask_id=51), torch.full((51,), 1 / 51))
    mean, error = task.evaluate(model, task.windows)
    assert mean == pytest.approx(math.log(51) * 4 * 8 / 11) and error < 1e-5


# Several processes


class FakeTeam:
    """A Team of two processes. `others` lists what the other process adds to each sum."""

    world, device = 2, CPU

    def __init__(self, rank, others=0.0):
        self.rank, self.lead, self.others = rank, rank == 0, others

    def total(self, number):
        return float(number) + self.others


def test_the_others_follow_the_first_process_and_write_nothing(runs_folder):
    team = FakeTeam(1)
    config = make_config(steps=10)
    run = parallel.TeamRun(team, 64, "a", config)
    run.step, team.others = 3, 0.7
    assert run.progress_now() == 0.7 and not run.is_due()  # that of the first process, by its clock
    team.others = 0
    assert not run.must_stop()
    team.others = 1
    assert run.must_stop()
    run.resume(model=make_model(50))
    run.save_state()
    assert not runs_folder.exists()

    first = parallel.TeamRun(FakeTeam(0), 64, "a", config)
    first.step = 3
    assert first.progress_now() == 0.3 and first.is_due()
    seeds = []
    for one in (first, run):
        one.seed_step()
        seeds.append(torch.initial_seed())
    assert len(set(seeds)) == 2  # for dropout
    first.resume(model=make_model(50))
    first.save_state()
    assert "is damaged" not in refusal(parallel.TeamRun, FakeTeam(1), 64, "a", config)  # the first one found no state
    assert parallel.TeamRun(FakeTeam(1, others=1), 64, "a", config).saved["step"] == 3


# Whole runs


@pytest.fixture
def settings_file(tmp_path):
    """A function that writes a settings file for a tiny model and a small text, and returns the path of the file."""
    path = tmp_path / "text.txt"
    stories = (f"{i} times {i} is {i * i}. It’s so." * 3 for i in range(90))
    path.write_text("\n<|endoftext|>\n".join(stories), encoding="utf-8")
    usual = {"dataset": str(path), "tokenizer": "bytes", "validation": 0.2, "steps": 20, "evaluations": 4, "warmup": 2,
             "lr_matrix": 0.005, "accumulate": 1}
    return lambda **changes: write_settings(tmp_path / "micro.yaml", **usual | changes)


@pytest.fixture
def run(settings_file, runs_folder, tmp_path, monkeypatch):
    """A function run(name, *flags, **changes) that runs chapter 12 in this process, and returns the run's folder."""
    monkeypatch.setattr(files, "DATA", tmp_path / "data")
    monkeypatch.setattr(scale, "best_product", lambda *_: 1e9)
    monkeypatch.setattr(training, "draw_curves", lambda *_: None)

    def run(name, *flags, **changes):
        scale.main(["--config", str(settings_file(**changes)), "--run-name", name, "--device", "cpu", *flags])
        return files.RUNS / name

    return run


def bounds(folder):
    """Return the NELBOs in the log of a run."""
    return [record["NELBO"] for record in log_of(folder)]


def test_a_run_leaves_a_model_that_chapter_06_writes_with(run, capsys):
    folder = run("first", "--steps", "40", "--recompute", documents=True)
    records = log_of(folder)
    assert [record["step"] for record in records] == list(range(0, 41, 10))
    assert records[-1]["NELBO"] < records[0]["NELBO"] < math.log(257) + 0.1
    assert records[-1]["tokens_per_second"] > 0
    _, tokenizer, info = checkpoint.load(folder)
    assert tokenizer.kind == "bytes" and info["processes"] == 1 and info["documents"]
    printed = capsys.readouterr().out
    for part in ("held-out tokens: ", "characters per token", "nats per character", "tokens/s"):
        assert part in printed
    assert set(COMMANDS.findall(printed)) == {"\n"}  # an untrained model of bytes writes all of them
    generation.main(["--checkpoint", str(folder), "--prompt", "3 times’", "--len", "30", "--steps", "5", "--quiet"])
    assert capsys.readouterr().out.startswith("3 times’")


def test_two_processes_asked_to_stop_and_finished_by_one(run, book, settings_file, monkeypatch):
    """torchrun stops both processes as a cluster would. The result equals that of one process alone."""
    alone = run("alone", "--steps", "100")
    flags = "--config", settings_file(), "--run-name", "two", "--steps", "100", "--accumulate", "2", "--device", "cpu"
    process = start("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "12_scale.py", *flags,
                    cwd=book.folder)
    state = book.runs / "two" / "state.pt"
    end = time.monotonic() + 200
    while not state.is_file() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=100)
    assert out.count("saved at step") == out.count("held-out tokens") == 1, errors  # only the first one speaks
    assert 0 < torch.load(state, weights_only=True)["step"] < 100
    monkeypatch.setattr(files, "RUNS", book.runs)
    together = run("two", "--steps", "100", "--recompute")  # this and --accumulate may change
    assert bounds(together) == pytest.approx(bounds(alone), abs=1e-4)


def test_runs_that_cannot_be(run, monkeypatch):
    run("first", "--steps", "5")
    for flags, word in ((("--schedule", "cosine"), "schedule"), (("--batch-size", "8"), "batch_size"),
                        (("--documents",), "documents"), (("--validation", "0.1"), "validation")):
        assert word in refusal(run, "first", *flags)
    assert "too short" in refusal(run, "second", "--seq-len", "100000")
    assert not (files.RUNS / "second").exists()
    with monkeypatch.context() as patch:
        patch.setattr(parallel, "join", lambda name: parallel.Team(0, 3, CPU))
        assert "multiple of 3 processes" in refusal(run, "second")


@pytest.mark.parametrize("flag", ["prefix=2", "short=-1", "validation=0", "limit=-1"])
def test_settings_out_of_range(flag):
    assert flag.split("=")[0] in refusal(cli.parse, scale.Command, [f"--{flag}"], configs="scale")


@pytest.mark.parametrize("name, millions", [("tiny", 25), ("small", 123), ("medium", 355), ("tinystories", 64)])
def test_the_named_sizes_are_as_large_as_they_say(name, millions):
    path = ROOT / "configs" / "scale" / f"{name}.yaml"
    assert f"{millions}M parameters" in path.read_text()
    with torch.device("meta"):
        model = transformer.Transformer(paper.read(name)[0])
    assert transformer.count_parameters(model) / 1e6 == pytest.approx(millions, rel=0.02)


def test_what_the_default_of_a_gpu_needs_fits_a_small_card():
    settings = cli.parse(training.Command, ["--config", "gpu"], section="dllm")
    config = transformer.TransformerConfig(**asdict(settings.model), vocab_size=65)
    assert 1e9 < sum(paper.memory(config, settings.train, settings.train.batch_size).values()) < 3e9


# docs/scale.md


def test_the_page_is_what_the_code_computes():
    computed = json.loads(json.dumps(paper.compute()))
    written = json.loads((ROOT / "docs" / "scale.json").read_text(encoding="utf-8"))
    assert written == computed, "python -m experiments.scale"


@pytest.mark.parametrize("recompute", [False, True])
def test_activations_on_paper_are_those_that_a_step_keeps(recompute):
    """A storage that the graph keeps several times is counted once."""

    def kept(config, windows):
        model = scale.make_model(config, recompute)
        storages = {}

        def pack(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return tensor

        x0 = torch.zeros(windows, 64, dtype=torch.long)
        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", torch.bfloat16):
            loss = diffusion.simple_loss(model, x0, torch.full((windows,), 32))  # holds the graph
        assert loss.requires_grad
        return sum(storage.nbytes() for storage in storages.values())

    measured, computed = {}, {}
    for layers in (2, 4):
        config = transformer.TransformerConfig(64, layers, 4, 128, vocab_size=50)
        measured[layers] = (kept(config, 6) - kept(config, 2)) / (4 * 64)  # bytes per token
        computed[layers] = paper.kept_per_token(config, recompute)
    assert measured[4] - measured[2] == pytest.approx(computed[4] - computed[2], rel=0.02)
    if not recompute:  # that one block is whole at a time shows in the backward pass only
        assert measured[4] - 4 * 50 == pytest.approx(computed[4], rel=0.02)
