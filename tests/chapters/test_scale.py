"""Chapter 12: noise, gradients, settings, and a run that is the same on one process, on two, and after a kill."""

import dataclasses
import itertools
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from importlib import import_module
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
import yaml
from helpers import COMMANDS, ROOT, Book, Trap, refusal
from scaling import ALONE, backward, free_port, gradients, make_config, make_model, make_windows

from plumbing import checkpoint, devices, figures, files, parallel, runs, settings, tokenized, tokenizers

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
generating = import_module("06_generate")
scale = import_module("12_scale")

paper = import_module("plumbing.reports.scale")

NAMED = ("tiny", "small", "medium", "tinystories")
MICRO = {
    "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "seq_len": 16},
    "data": {"tokenizer": "bytes", "validation": 0.2},
    "train": {"batch_size": 4, "steps": 20, "evaluate_every": 5, "evaluate_windows": 8, "warmup": 2,
              "dtype": "float32", "compile": "off", "lr_matrix": "5e-3"},
}  # fmt: skip


def test_the_first_tokens_do_not_command_the_terminal(capsys):
    text = "a\x1b[2J\x07\b\r\u202e".encode()
    scale.show_words(torch.tensor([*text, *text]), tokenizers.Bytes())
    out = capsys.readouterr().out
    assert r"a|\x1b|[|2|J|\x07|\x08|\r|" in out and set(COMMANDS.findall(out)) == {"\n"}


# 1. Noise


@pytest.fixture
def windows():
    return make_windows()


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
    """All 2⁴ ways to mask four tokens are enumerated and t is integrated, so nothing is sampled."""
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


# 2. Gradients (tests/plumbing/test_parallel.py compares two processes with one)


def test_parts_and_recomputing_change_no_gradient(windows):
    x0, xt, masked = scale.draw(windows, make_config(), 50, 0)
    found = []
    for parts, recompute in ((1, False), (4, False), (2, True)):
        model = make_model(recompute, time_conditioned=True)
        loss = backward(model, x0, xt, masked, ALONE, parts)
        found.append((loss, gradients(model)))
    mean = diffusion.masked_cross_entropy(model, x0, xt, (xt == 50).float().mean(1)).sum() / masked
    for loss, grads in found:
        assert loss == pytest.approx(mean.item(), abs=1e-6)
        for name, grad in grads.items():
            torch.testing.assert_close(grad, found[0][1][name], atol=1e-6, rtol=1e-5)


def test_the_mean_of_two_means_is_another_gradient(windows):
    """Averages per process, instead of one common count, would give another gradient."""
    config = make_config(prefix=0.5)
    right, wrong = make_model(), make_model()
    x0, xt, masked = scale.draw(windows, config, 50, 2)
    backward(right, x0, xt, masked, ALONE)
    for rank in range(2):
        x, y = x0[rank::2], xt[rank::2]
        own = diffusion.masked_cross_entropy(wrong, x, y, None).sum() / (y == 50).sum()
        (own / 2).backward()
    off = sum((a - b).square().sum() for a, b in zip(gradients(right).values(), gradients(wrong).values())).sqrt()
    size = sum(a.square().sum() for a in gradients(right).values()).sqrt()
    assert off > 0.02 * size


# 3. Settings


def parse(tmp_path, text, *flags):
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return settings.parse(scale.Command, ["--config", str(path), *flags])


def test_sections_then_flags_long_and_short(tmp_path):
    text = "model: {n_layer: 3}\ntrain:\n  lr: 3e-4\n  seed: 5\n"
    command = parse(tmp_path, "base: defaults\n" + text, "--model.n_layer", "12", "--train.lr=1e-3", "--steps", "1e2")
    assert command.model == transformer.TransformerConfig(n_layer=12) and command.data == tokenized.DataConfig()
    assert command.train == scale.TrainConfig(lr=1e-3, seed=5, steps=100)
    config = parse(tmp_path, text).train.with_one_rate()
    assert config.lr_matrix == config.lr_other == 3e-4 and scale.TrainConfig().with_one_rate().lr_matrix != 3e-4
    assert config.accumulate == 2  # from tiny.yaml
    data = parse(tmp_path, "data: {documents: yes, max_length: 1_000}").data
    assert data == tokenized.DataConfig(documents=True, max_length=1000)
    for flag in ("--run", "--run-name"):
        assert parse(tmp_path, "", flag, "mine").run_name == "mine"


@pytest.mark.parametrize("text, words_of_the_line", [
    ("train: {batchsize: 3}", ["'batchsize'", "did you mean batch_size"]),
    ("model: {seq_length: 3}", ["did you mean seq_len"]),
    ("data: {data_set: x}", ["did you mean dataset"]),
    ("trian: {steps: 3}", ["'trian'"]),
    ("train: 3", ["'train'", "name: value"]),
    ("train: [steps]", ["'train'", "name: value"]),
    ("train: {lr: fast}", ["not valid"]),
    ("train: {steps: 1.5}", ["not valid"]),
    ("train: {recompute: 2}", ["recompute must be true or false"]),
    ("data: {limit: 1.5}", ["not valid"]),
    ("model: {vocab_size: 3}", ["unknown"]),
    ("- steps: 3", ["name: value"]),
])  # fmt: skip
def test_what_yaml_and_fingers_get_wrong(tmp_path, text, words_of_the_line):
    line = refusal(parse, tmp_path, text)
    assert all(word in line for word in words_of_the_line), line


@pytest.mark.parametrize("flags", [("--train.lr", "fast"), ("--train.no_such", "1"), ("--n-layer", "many"), ("stray",)])
def test_flags_that_cannot_be(tmp_path, flags):
    assert refusal(parse, tmp_path, "", *flags)


@pytest.mark.parametrize("values", [
    {"schedule": "square"}, {"decay": "exp"}, {"engine": "zero"}, {"watch": "tv"}, {"prefix": 2}, {"short": -1},
    {"lr": 2}, {"t_max": 0},
])  # fmt: skip
def test_training_settings_out_of_range(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        scale.TrainConfig(**values)


@pytest.mark.parametrize("values", [{"tokenizer": "wordpiece"}, {"validation": 0}, {"max_length": -1},
                                    {"documents": True, "tokenizer": "chars"}])
def test_data_settings_out_of_range(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        tokenized.DataConfig(**values)


def test_every_setting_is_a_flag_and_every_schedule_a_choice(capsys):
    with pytest.raises(SystemExit) as end:
        scale.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0
    for name in settings.flag_types(scale.Command):
        assert f"--{name.replace('_', '-')}" in text
    assert "{" + ",".join(diffusion.NoiseSchedule.NAMES) + "}" in text
    assert "--vocab-size" not in text and "--causal" not in text and "--minutes" not in text
    assert "--weight " not in text


def test_the_learning_rate_can_follow_a_cosine():
    config = make_config(decay="cosine", warmup=10)
    rates = [scale.learning_rate_factor(step, 100, config) for step in range(100)]
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[50] == pytest.approx(0.5) and 0 < rates[-1] < 1e-3
    stable = make_config(warmup=10, cooldown=0.5)
    assert [scale.learning_rate_factor(step, 100, stable) for step in (4, 30, 75)] == [0.5, 1.0, 0.5]


# 4. Whole runs


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
    monkeypatch.setattr(figures, "draw_curve", lambda *_: None)

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
    assert "held-out tokens: " in printed and "characters per token" in printed and "per character" in printed
    generating.main(["--checkpoint", str(folder), "--prompt", "3 times’", "--len", "30", "--steps", "5", "--quiet"])
    assert capsys.readouterr().out.startswith("3 times’")


def test_killed_and_resumed_reads_the_same_batches(run, monkeypatch):
    read, draw, save = [], scale.draw, parallel.save

    def recording(*arguments):
        read.append((arguments[3], draw(*arguments)))
        return read[-1][1]

    def killing(folder, team, trainer, *others):
        if trainer.step == 15:
            raise KeyboardInterrupt  # after the log was written, before the state is
        save(folder, team, trainer, *others)

    monkeypatch.setattr(scale, "draw", recording)
    folder, whole = run("whole")
    straight, read[:] = list(read), []
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(parallel, "save", killing)
        run("killed")
    half = folder.with_name("killed") / "state-15"  # as after a kill during saving
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


@pytest.mark.parametrize("seconds, steps", [(0.01, [1, 21, 40]), (2, [1, *range(3, 40, 2), 40]), (9, [*range(1, 41)])])
def test_processes_look_more_often_whether_to_stop_if_steps_are_slow(run, monkeypatch, seconds, steps):
    """After torchrun has asked them to stop, it waits only 30 seconds."""
    seen, step_of, total = [], {}, parallel.Team.total

    def sums(team, *values):
        if len(values) == 3:
            seen.append(step_of["trainer"].step)
        return total(team, *values)

    def count_step(self, trainer, loss, count=parallel.TeamRun.count_step):
        step_of["trainer"] = trainer
        count(self, trainer, loss)

    def clock():
        return seconds * step_of["trainer"].step if step_of else 0.0

    monkeypatch.setattr(parallel.Team, "total", sums)
    monkeypatch.setattr(parallel.TeamRun, "count_step", count_step)
    monkeypatch.setattr(parallel, "time", SimpleNamespace(monotonic=clock))
    run("slow", "--train.steps", "40", train={"evaluate_every": 40})
    assert sorted(set(seen)) == steps  # an evaluation sums three numbers, too


def test_two_processes_interrupted_and_finished_by_one(run, write, tmp_path, monkeypatch):
    """Through torchrun, with FSDP2 and Ctrl-C."""
    book = Book(tmp_path / "book").folder
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_addr=127.0.0.1",
               f"--master_port={free_port()}", "12_scale.py", "--config", write(), "--run-name", "two",
               "--train.engine", "fsdp", "--steps", "100000", "--device", "cpu"]
    process = subprocess.Popen(command, cwd=book, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True)
    log, end = book / "checkpoints" / "two" / "log.jsonl", time.monotonic() + 500
    while time.monotonic() < end and process.poll() is None and not (log.is_file() and log.read_text().count("\n") > 1):
        time.sleep(0.05)
    monkeypatch.setattr(checkpoint, "RUNS", book / "checkpoints")
    line = refusal(scale.main, ["--config", str(write()), "--run", "two", "--device", "cpu", "--fresh"])
    assert "run two is in use by process" in line and "12_scale.py" in line
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    state = torch.load(book / "checkpoints" / "two" / "train_state.pt")["progress"]
    assert state["step"] >= 10 and "damaged" not in errors, errors
    before = runs.read_log(log)
    scale.main(["--config", str(write()), "--run", "two", "--steps", str(state["step"] + 5), "--device", "cpu"])
    after = runs.read_log(log)
    assert after[: len(before)] == before and after[-1]["step"] == state["step"] + 5
    assert after[-1]["train_loss"] < before[0]["train_loss"]
    assert len(list((book / "checkpoints" / "two").glob("state-*"))) == 1


def test_a_damaged_state_is_one_line(run, caplog):
    folder, _ = run("damaged", "--train.steps", "5")
    (part,) = (folder / "state-5").iterdir()
    assert part.suffix == ".safetensors"
    whole = part.read_bytes()
    for bytes_left in (whole[:-1], whole[:1000], whole[:8], b"", whole.replace(b"saved_off", b"saved_OFF")):
        part.write_bytes(bytes_left)
        caplog.clear()
        assert "--fresh" in refusal(run, "damaged", "--train.steps", "10")
        assert not [record for record in caplog.records if record.levelname != "DEBUG"]
    part.unlink()
    assert "--fresh" in refusal(run, "damaged", "--train.steps", "10")
    part.symlink_to("/dev/zero")
    assert "--fresh" in refusal(run, "damaged", "--train.steps", "10")
    part.unlink()
    part.write_bytes(whole)
    state = torch.load(folder / "train_state.pt")
    for key, value in (("tensors", "../\x1b[2J"), ("tensors", "state-7"), ("parts", "1"), ("step", -(10**18))):
        torch.save(state | {"progress": state["progress"] | {key: value}}, folder / "train_state.pt")
        assert "\x1b" not in refusal(run, "damaged", "--train.steps", "10")
    torch.save(state, folder / "train_state.pt")
    assert [record["step"] for record in run("damaged", "--train.steps", "10")[1]] == [5, 10]


def test_nothing_of_a_saved_run_is_executed(run, tmp_path):
    """Earlier editions wrote .metadata and .distcp with pickle, and read them so."""
    folder, _ = run("trap", "--train.steps", "5")
    for name in (".metadata", "__0_0.distcp"):
        (folder / "state-5" / name).write_bytes(pickle.dumps(Trap(tmp_path / "trapped")))
    run("trap", "--train.steps", "10")
    for file in (folder / "state-10").iterdir():
        file.write_bytes(pickle.dumps(Trap(tmp_path / "trapped")))
    assert "damaged" in refusal(run, "trap", "--train.steps", "15")
    state = torch.load(folder / "train_state.pt")
    del state["progress"]["parts"]  # as an earlier edition wrote it
    torch.save(state, folder / "train_state.pt")
    assert "earlier edition" in refusal(run, "trap", "--train.steps", "15")
    assert not (tmp_path / "trapped").exists()


def test_a_state_that_is_saved_already_is_not_written_again(tmp_path):
    """Ctrl-C right after an evaluation saves the same step twice. The first copy must survive a kill in the second."""
    trainer, progress = scale.make_trainer(make_model(), make_config(), ALONE), {"step": 0}
    parallel.save(tmp_path, ALONE, trainer, progress, {})
    (tmp_path / "state-0" / "witness").touch()
    parallel.save(tmp_path, ALONE, trainer, progress, {})
    assert (tmp_path / "state-0" / "witness").exists()
    trainer.step = 1
    parallel.save(tmp_path, ALONE, trainer, progress, {})
    assert [path.name for path in tmp_path.glob("state-*")] == ["state-1"] and progress["tensors"] == "state-1"


def test_a_full_disk_leaves_the_old_state(run, monkeypatch):
    folder, _ = run("full", "--train.steps", "5")
    before = {path.name: path.read_bytes() for path in folder.rglob("*") if path.suffix in (".pt", ".safetensors")}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save", full)
        assert "the disk is full" in refusal(run, "full", "--train.steps", "10")
    after = {path.name: path.read_bytes() for path in folder.rglob("*") if path.suffix in (".pt", ".safetensors")}
    del before["model.safetensors"], after["model.safetensors"]
    assert after == before and sorted(os.listdir(folder.parent)) == ["full"]
    assert [record["step"] for record in run("full", "--train.steps", "10")[1]] == [5, 10]


def test_bytes_that_command_a_terminal_are_not_printed(run, capsys):
    run("bytes", "--train.steps", "5")  # an untrained model of bytes writes all of them
    assert set(COMMANDS.findall(capsys.readouterr().out)) == {"\n"}


def test_runs_that_cannot_be(run, tmp_path, capsys):
    run("first", "--train.steps", "5")
    assert "n_layer" in refusal(run, "first", "--model.n_layer", "2")
    assert "schedule" in refusal(run, "first", "--schedule", "cosine")
    assert "t_max" in refusal(run, "first", "--t-max", "0.8")  # the default of early runs
    assert "multiple" in refusal(parallel.check, make_config(), parallel.Team(0, 3, ALONE.device))
    assert "bfloat16" in refusal(run, "second", "--train.engine", "fsdp", "--dtype", "float16")
    assert "too short" in refusal(run, "second", "--model.seq_len", "100000")
    for flags, word in ((("--train.accumulate", "3"), "multiple"), (("--n-head", "5"), "n_embd")):
        assert word in refusal(run, "second", *flags)
    assert not (tmp_path / "runs" / "second").exists()
    _, records = run("first", "--train.steps", "10", "--train.accumulate", "2")  # what may change
    assert records[-1]["step"] == 10
    _, records = run("first", "--train.steps", "5", "--fresh", "--model.n_layer", "2")
    assert [record["step"] for record in records] == [5]


def test_a_run_of_the_first_edition_is_resumed(run):
    """Its state has no number of steps."""
    folder, _ = run("old", "--steps", "5")
    state = torch.load(folder / "train_state.pt")
    del state["progress"]["steps"]
    torch.save(state, folder / "train_state.pt")
    assert [record["step"] for record in run("old", "--steps", "10")[1]] == [5, 10]


def test_the_settings_of_a_run_can_be_read_again(run):
    folder, _ = run("first", "--steps", "5", "--lr", "0.01", "--documents", "--n-embd", "8")
    again = settings.parse(scale.Command, ["--config", str(folder / "settings.yaml")])
    assert (again.train.lr_matrix, again.train.lr_other, again.train.lr_matrix) == (0.01, 0.01, 0.01)
    assert again.data.documents and (again.model.n_embd, again.train.steps, again.train.compile) == (8, 5, "off")
    assert again.train.with_one_rate() == again.train
    _, records = run("first", "--config", str(folder / "settings.yaml"), "--steps", "10")
    assert [record["step"] for record in records] == [5, 10]


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
    command = settings.parse(scale.Command, ["--config", name])
    with torch.device("meta"):
        model = transformer.Transformer(dataclasses.replace(command.model, vocab_size=50257))
    millions = transformer.count_parameters(model) / 1e6
    assert f"{millions:.0f}M" in text
    expected = {"tiny": 25, "small": 125, "medium": 350, "tinystories": 64}[name]
    assert millions == pytest.approx(expected, rel=0.03)
    if name == "tinystories":
        c = model.config
        assert (c.n_layer, c.n_embd, c.n_head, c.seq_len, c.positions, c.norm) == (4, 512, 16, 256, "rope", "rms")
    assert command.data.limit == (10**10 if name == "medium" else 0)


# 5. docs/scale.md


def test_the_page_is_what_the_code_writes():
    assert (ROOT / "docs" / "scale.md").read_text(encoding="utf-8") == paper.page(), "python -m plumbing.reports.scale"


@pytest.mark.parametrize("name", NAMED)
def test_parameters_and_choices_on_paper(name):
    config, train = paper.read(name)
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
def test_activations_on_paper_are_those_that_a_step_keeps(dtype, recompute):
    """Every storage that the graph keeps, counted once."""

    def kept(layers, windows):
        shape = transformer.TransformerConfig(50, 64, layers, 4, 128)
        model = scale.make_model(shape, make_config(recompute=recompute))
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
