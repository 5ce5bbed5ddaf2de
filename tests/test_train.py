"""Chapter 05: the schedule, Muon, batches, and a run that survives interruptions, new settings and bad numbers."""

import json
import math
import signal
from importlib import import_module
from types import SimpleNamespace

from helpers import Killed, log_of, make_model, refusal, write_settings
from plumbing import checkpoint, cli, devices, files, run, text

import pytest
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from safetensors.torch import load_file

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")

SENTENCE = "அகர முதல எழுத்தெல்லாம் ஆதி பகவன் முதற்றே உலகு. Café, été, naïve!\n"


# The parts


def test_the_learning_rate_rises_stays_and_falls_to_nothing():
    config = training.TrainConfig(warmup=10, cooldown=0.5)
    rates = [training.learning_rate(step, step / 100, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[:10] == sorted(rates[:10])
    assert rates[9:51] == [1.0] * 42
    assert rates[50:] == sorted(rates[50:], reverse=True) and rates[-1] == pytest.approx(0.02)
    assert training.learning_rate(50, 0.75, config) == pytest.approx(0.5)  # by time, whatever the step is
    constant = training.TrainConfig(warmup=0, cooldown=0)
    assert {training.learning_rate(step, step / 100, constant) for step in range(100)} == {1.0}


def with_singular_values(values, rows, columns):
    torch.manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn(rows, len(values)))
    right, _ = torch.linalg.qr(torch.randn(columns, len(values)))
    return left * values @ right.mT


@pytest.mark.parametrize("rows, columns", [(12, 48), (48, 12), (12, 12)])
def test_orthogonalize_brings_all_singular_values_near_one(rows, columns):
    values = torch.linspace(0.05, 1, 12)
    batch = torch.stack([scale * with_singular_values(values, rows, columns) for scale in (1e-3, 1, 50)])
    result = training.orthogonalize(batch)
    found = torch.linalg.svdvals(result)
    assert found.min() > 0.5 and found.max() < 1.3
    for matrix, one in zip(batch, result):
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        assert F.cosine_similarity(one.flatten(), (left @ right).flatten(), dim=0) > 0.95  # the same directions
    assert torch.equal(training.orthogonalize(torch.zeros(1, 3, 4)), torch.zeros(1, 3, 4))


def test_the_polynomials_bring_numbers_from_a_hundredth_to_one_near_one():
    x = torch.linspace(0.01, 1, 1000)
    for a, b, c in training.POLYNOMIALS:
        spread = x.max() / x.min()
        x = a * x + b * x**3 + c * x**5
        assert x.max() / x.min() < spread / 1.5
    assert x.min() > 0.72 and x.max() < 1.28


def plain_muon(p, grads, lr, decay):
    """Compute Muon for one matrix at a time."""
    p, average = p.clone(), torch.zeros_like(p)
    for g in grads:
        average = 0.95 * average + 0.05 * g
        x = 0.05 * g + 0.95 * average
        x = x / x.norm()
        for a, b, c in training.POLYNOMIALS:
            wide = x if x.shape[0] <= x.shape[1] else x.mT
            gram = wide @ wide.mT
            wide = a * wide + (b * gram + c * gram @ gram) @ wide
            x = wide if x.shape[0] <= x.shape[1] else wide.mT
        p = p * (1 - lr * decay) - lr * math.sqrt(max(1, p.shape[0] / p.shape[1])) * x
    return p


def test_muon_in_batches_equals_muon_one_by_one():
    torch.manual_seed(0)
    shapes = [(8, 8), (24, 8), (8, 24), (24, 8), (8, 8)]
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    grads = [[torch.randn(shape) for shape in shapes] for _ in range(3)]
    expected = [plain_muon(p.data, [step[i] for step in grads], 0.02, 0.1) for i, p in enumerate(params)]
    optimizer = training.Muon(params, 0.02, 0.95, weight_decay=0.1)
    for step in grads:
        for p, g in zip(params, step):
            p.grad = g.clone()
        optimizer.step()
    for p, right in zip(params, expected):
        torch.testing.assert_close(p.data, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_every_parameter_has_one_optimizer(name):
    model = make_model(9, positions="learned", norm="layer", activation="gelu", time_conditioned=True, conv=3)
    matrices, others = training.make_optimizers(model, training.TrainConfig(optimizer=name), torch.float32)
    found = [[p for group in optimizer.param_groups for p in group["params"]] for optimizer in (matrices, others)]
    assert sorted(map(id, found[0] + found[1])) == sorted(map(id, model.parameters()))
    assert all(p.ndim == 2 for p in found[0]) and len(found[0]) == 4  # qkv, out, up and down of the only block
    assert isinstance(matrices, training.Muon) == (name == "muon")


def test_batches_are_windows_of_the_text():
    tokens = torch.arange(50) * 3
    torch.manual_seed(0)
    batch = training.random_windows(tokens, 2000, 8)
    starts = batch[:, 0] // 3
    assert torch.equal(batch, torch.stack([tokens[s : s + 8] for s in starts.tolist()]))
    assert set(starts.tolist()) == set(range(43))  # each window, the first and the last included
    assert torch.equal(training.random_windows(tokens, 1, 50), tokens[None])


def make_task(window=8, letters="abcdefghij" * 30, task=training.MaskedDiffusion, **named):
    tokenizer = text.Characters.of(letters)
    return task(tokenizer, (letters, letters[:53]), window, torch.device("cpu"), **named)


def test_the_windows_of_evaluation_are_the_unseen_text_cut_in_rows():
    task = make_task()
    assert torch.equal(task.windows.flatten(), torch.tensor(task.tokenizer.encode("abcdefghij" * 6))[:48])
    assert torch.equal(training.evenly(task.windows, 100), task.windows)
    assert torch.equal(training.evenly(task.windows, 3), task.windows[[0, 2, 4]])
    with pytest.raises(cli.UserError, match="--seq-len"):
        make_task(window=40)


def test_the_loss_hides_up_to_t_max_of_each_window(monkeypatch):
    seen = []
    monkeypatch.setattr(diffusion, "simple_loss", lambda model, x0, k: seen.append(k))
    task = make_task(window=20, t_max=0.5)
    for _ in range(50):
        task.loss(None, task.batch(8))
    assert {int(k) for ks in seen for k in ks} == set(range(1, 11))
    assert all(len(ks) == 8 and ks.max() > 8 and ks.min() < 3 for ks in seen)  # spread evenly in every batch


def test_one_batch_can_be_learned_by_heart():
    task = make_task()
    task.batch = lambda n: task.windows[:4].repeat(n // 4, 1)
    config = training.TrainConfig(steps=150, batch_size=16, warmup=5, evaluations=0, compile="off", dtype="float32")
    model = make_model(10, seq_len=8, n_embd=32, positions="learned")
    before = diffusion.nelbo(model, task.windows[:4], draws=20)[0]
    training.train(model, task, config, run.Run(None, config), torch.device("cpu"))
    assert diffusion.nelbo(model, task.windows[:4], draws=20)[0] < before / 5


def test_the_plain_loop_learns(capsys):
    torch.manual_seed(0)
    model = make_model(10, seq_len=8, n_embd=32)
    tokens = torch.tensor(text.Characters.of("abcdefghij").encode("abcdefghij" * 9))
    losses = training.plain_loop(model, tokens, steps=120)
    assert len(losses) == 120 and sum(losses[-10:]) < 0.7 * sum(losses[:10])
    assert f"step   119   loss {losses[-1]:.3f}" in capsys.readouterr().out


class Fixed(training.MaskedDiffusion):
    """A task without random numbers: each step has the same rows, and the loss needs no masks."""

    def batch(self, n):
        self.at = getattr(self, "at", 0)
        rows = torch.arange(self.at, self.at + n) % 8
        self.at += n
        return self.windows[rows % len(self.windows)]

    def loss(self, model, x0):
        return F.cross_entropy(model(x0).flatten(0, 1), x0.flatten())


def train_fixed(**changes):
    """Return (the weights after 6 steps, the averaged weights) of a training on the task Fixed."""
    usual = {"steps": 6, "batch_size": 8, "warmup": 2, "evaluations": 1, "compile": "off", "dtype": "float32"}
    config = training.TrainConfig(**(usual | changes))
    model = make_model(10, seq_len=8, std=0.1)
    this = run.Run(None, config)
    training.train(model, make_task(task=Fixed), config, this, torch.device("cpu"))
    return model.state_dict(), this.parts["averaged"].state_dict()


def test_accumulating_gradients_changes_nothing():
    once, _ = train_fixed(optimizer="adamw", clip=1e-3)  # a small clip shows a wrong scale of the gradients
    parts, _ = train_fixed(optimizer="adamw", clip=1e-3, accumulate=4)
    for name in once:
        torch.testing.assert_close(parts[name], once[name], rtol=1e-4, atol=1e-5)


def test_the_average_covers_about_the_last_ninth_at_first():
    """The test computes the average from the weights after each step."""
    history = []
    for steps in range(1, 7):
        history.append(train_fixed(steps=steps, cooldown=0)[0]["head.weight"])
    average = make_model(10, seq_len=8, std=0.1).state_dict()["head.weight"]
    for step, weight in enumerate(history):
        decay = min(0.5, (step + 1) / (step + 10))
        average = decay * average + (1 - decay) * weight
    _, averaged = train_fixed(cooldown=0, ema=0.5)
    torch.testing.assert_close(averaged["head.weight"], average)
    model, averaged = train_fixed(ema=0)
    assert all(torch.equal(model[name], averaged[name]) for name in model)


def test_the_gradient_is_clipped_and_both_rates_follow_the_schedule(monkeypatch):
    norms, rates = [], []
    real = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda p, norm: norms.append(norm) or real(p, norm))
    step = training.Muon.step
    monkeypatch.setattr(training.Muon, "step", lambda self: rates.append(self.param_groups[0]["lr"]) or step(self))
    train_fixed(clip=0.7, warmup=2, cooldown=0.5, lr_matrix=0.1)
    assert norms == [0.7] * 6
    assert rates == pytest.approx([0.05, 0.1, 0.1, 0.1, 0.1 * (2 / 6) / 0.5, 0.1 * (1 / 6) / 0.5])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bit_numbers_learn_too_and_the_weights_stay_in_32(dtype):
    plain, _ = train_fixed(steps=30)
    half, _ = train_fixed(steps=30, dtype=dtype)
    assert half["head.weight"].dtype == torch.float32
    distance = (half["head.weight"] - plain["head.weight"]).norm() / plain["head.weight"].norm()
    assert 0 < distance < 0.2


# Whole runs


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "verse.txt").write_text("".join(f"{i % 7} {SENTENCE}" for i in range(60)), encoding="utf-8")
    write_settings(folder / "tiny.yaml")
    return ["--corpus", str(folder / "verse.txt"), "--config", str(folder / "tiny.yaml"), "--device", "cpu"]


@pytest.fixture
def runs_folder(runs_folder, monkeypatch):
    """An empty folder for runs. No curves are drawn, because drawing would take most of the time."""
    monkeypatch.setattr(training, "draw_curves", lambda *_: None)
    return runs_folder


@pytest.fixture(scope="module")
def reference(book, command):
    """An uninterrupted run in a new process: (result of the process, folder of the run)."""
    return book.run("05_train.py", *command, "--run", "whole"), book.runs / "whole"


def assert_same(folder, other):
    one, two = (load_file(f / "model.safetensors") for f in (folder, other))
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
    assert log_of(folder) == log_of(other)
    states = [torch.load(f / "state.pt", weights_only=True) for f in (folder, other)]
    for name in ("model", "averaged"):
        assert all(torch.equal(states[0][name][key], states[1][name][key]) for key in states[0][name])
    numbers = [[checkpoint.load(f)[2][name] for name in ("NELBO", "error", "step")] for f in (folder, other)]
    assert numbers[0] == numbers[1]


def test_a_file_of_your_own_from_text_to_model(reference):
    end, folder = reference
    assert end.code == 0, end.err
    assert "step 60" in end.out and "06_generate.py" in end.out
    names = {path.name for path in folder.iterdir()} - {".lock"}
    assert names == {"model.safetensors", "config.json", "log.jsonl", "curve.png", "state.pt"}
    model, tokenizer, info = checkpoint.load(folder, kinds=("dllm",))
    assert tokenizer.decode(tokenizer.encode(SENTENCE)) == SENTENCE
    assert info["corpus"] == "verse" and info["train"]["steps"] == 60 and "05_train.py" in info["command"]
    records = log_of(folder)
    assert [record["step"] for record in records] == [0, 10, 20, 30, 40, 50, 60]
    assert records[-1]["NELBO"] < records[0]["NELBO"] - 0.5


def test_the_reported_number_is_of_the_saved_weights_on_all_unseen_text(reference, command):
    end, folder = reference
    model, tokenizer, info = checkpoint.load(folder)
    corpus = text.load(command[1])
    task = training.MaskedDiffusion(tokenizer, text.split(corpus.text), 16, torch.device("cpu"))
    assert len(task.windows) < training.FINAL_WINDOWS
    mean, error = diffusion.nelbo(model, task.windows)
    assert (info["NELBO"], info["error"]) == (mean, error)
    assert f"NELBO {mean:.4f} ± {error:.4f}" in end.out


def test_a_run_that_gets_worse_keeps_its_best_weights(runs_folder, command, monkeypatch):
    values = iter([3.0, 2.0, 1.0, 5.0, None, 6.0, 7.0, 8.0, 0.5])

    def nelbo(model, windows):
        value = next(values)
        if value is None:
            raise Killed
        return value, 0.1

    monkeypatch.setattr(diffusion, "nelbo", nelbo)
    with pytest.raises(Killed):
        training.main([*command, "--run", "worse"])
    training.main([*command, "--run", "worse"])  # it remembers what was best
    _, _, info = checkpoint.load(runs_folder / "worse")
    assert info["step"] == 20 and info["NELBO"] == 0.5  # the last one is measured on more text


def test_the_same_command_says_that_the_run_is_finished(reference, book, command, monkeypatch, capsys):
    monkeypatch.setattr(files, "RUNS", book.runs)
    before = (reference[1] / "model.safetensors").read_bytes()
    training.main([*command, "--run", "whole"])
    assert "finished: a larger --steps" in capsys.readouterr().out
    assert (reference[1] / "model.safetensors").read_bytes() == before


def test_ctrl_c_at_any_step(reference, runs_folder, command, monkeypatch, capsys):
    real, calls = diffusion.simple_loss, []

    def loss(*arguments):
        calls.append(1)
        if len(calls) in (1, 30, 31, 59):
            signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(diffusion, "simple_loss", loss)
    for step in (1, 30, 31, 59):
        training.main([*command, "--run", "often"])
        assert torch.load(runs_folder / "often" / "state.pt", weights_only=True)["step"] == step
        out = capsys.readouterr().out
        assert "the same command resumes" in out and "06_generate.py" not in out
    training.main([*command, "--run", "often"])
    assert len(calls) == 60  # no step was done twice
    assert_same(runs_folder / "often", reference[1])


@pytest.mark.parametrize("is_before", [True, False])
def test_a_run_that_is_killed_again_and_again(reference, runs_folder, command, monkeypatch, is_before):
    """The kill comes while the run writes a file, before or after the new file replaces the old file."""
    real, spared = files.os.replace, iter(range(1000))

    def replace(*paths):
        killed = next(spared) % 5 == 4
        if not (killed and is_before):
            real(*paths)
        if killed:
            raise Killed

    monkeypatch.setattr(files.os, "replace", replace)
    kills = 0
    for _ in range(40):
        try:
            training.main([*command, "--run", "unlucky"])
            break
        except Killed:
            kills += 1
    assert 2 <= kills < 39
    monkeypatch.undo()
    assert_same(runs_folder / "unlucky", reference[1])


def test_other_settings_do_not_mix_with_a_run(runs_folder, command, tmp_path):
    training.main([*command, "--run", "mine", "--steps", "20"])
    for flag, value in (("--n-layer", "2"), ("--lr-matrix", "0.5")):
        error = refusal(training.main, [*command, "--run", "mine", "--steps", "40", flag, value])
        assert flag.removeprefix("--").replace("-", "_") in error
    (tmp_path / "verse.txt").write_text("another text of the same name " * 60)
    flags = ["--corpus", str(tmp_path / "verse.txt"), *command[2:], "--run", "mine", "--steps", "40"]
    assert "corpus_sha256" in refusal(training.main, flags)


def test_a_finished_run_goes_on_with_more_steps_as_if_it_had_them_from_the_start(runs_folder, command):
    flags = [*command, "--cooldown", "0", "--evaluations", "1"]
    training.main([*flags, "--run", "twice", "--steps", "20"])
    training.main([*flags, "--run", "twice", "--steps", "40"])
    assert [record["step"] for record in log_of(runs_folder / "twice")] == [0, 20, 40]
    training.main([*flags, "--run", "once", "--steps", "40"])
    one, two = (torch.load(runs_folder / name / "state.pt", weights_only=True) for name in ("twice", "once"))
    assert one["step"] == two["step"] == 40
    assert all(torch.equal(one["model"][name], two["model"][name]) for name in one["model"])


def test_fresh_starts_again_over_a_damaged_state(runs_folder, command):
    training.main([*command, "--run", "mine", "--steps", "10"])
    state = runs_folder / "mine" / "state.pt"
    state.write_bytes(state.read_bytes()[:-100])
    assert "damaged: use --fresh" in refusal(training.main, [*command, "--run", "mine", "--steps", "10"])
    training.main([*command, "--run", "mine", "--steps", "10", "--fresh"])
    state.unlink()
    assert "--fresh" in refusal(training.main, [*command, "--run", "mine", "--steps", "10"])


def test_two_programs_do_not_train_one_run(runs_folder, command):
    holder = run.Run("mine", training.TrainConfig())
    assert "another program" in refusal(training.main, [*command, "--run", "mine"])
    holder.lock.release()
    training.main([*command, "--run", "mine", "--steps", "2"])


@pytest.mark.parametrize("tick, pause", [(1.0, 0.1), (3.0, 30.0), (90.0, 0.0)])
def test_minutes_are_minutes_of_training_and_evaluations_take_little_more(monkeypatch, tick, pause):
    clock = SimpleNamespace(now=100.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(run, "time", clock)
    task = make_task()
    batches, evaluations = [], []

    def batch(n):
        clock.now += tick
        batches.append(n)
        return task.windows[:n]

    def evaluate(model, windows):
        clock.now += pause
        evaluations.append(len(batches))
        return 1.0, 0.1

    task.batch, task.evaluate = batch, evaluate
    config = training.TrainConfig(minutes=2, batch_size=2, evaluations=10, compile="off", dtype="float32", warmup=0)
    this = run.Run(None, config)
    training.train(make_model(10, seq_len=8), task, config, this, torch.device("cpu"))
    assert len(batches) == math.ceil(120 / tick)  # the first step at which the time is over
    assert evaluations[0] == 0 and evaluations[-1] == len(batches)
    before_the_last = pause * (len(evaluations) - 1)
    assert before_the_last <= 0.05 * 120 + 2 * pause
    if pause < 1:
        assert len(evaluations) == min(11, len(batches) + 1)


def test_evaluations_and_samples_leave_no_trace_in_the_weights(reference, runs_folder, command):
    training.main([*command, "--run", "few", "--evaluations", "1"])
    few, many = (torch.load(folder / "state.pt", weights_only=True) for folder in (runs_folder / "few", reference[1]))
    assert [len(state["log"]) for state in (few, many)] == [2, 7]
    assert all(torch.equal(few["model"][name], many["model"][name]) for name in few["model"])


@pytest.mark.parametrize("first, saved", [(1, 0), (25, 20)])
def test_a_loss_that_is_no_number_ends_the_run_and_spoils_nothing(runs_folder, command, monkeypatch, first, saved):
    real, calls = diffusion.simple_loss, []

    def loss(*arguments):
        calls.append(1)
        return real(*arguments) * (math.nan if len(calls) >= first else 1)

    monkeypatch.setattr(diffusion, "simple_loss", loss)
    assert "not finite" in refusal(training.main, [*command, "--run", "nan"])
    assert checkpoint.load(runs_folder / "nan")[2]["step"] == saved
    monkeypatch.undo()
    monkeypatch.setattr(files, "RUNS", runs_folder)
    training.main([*command, "--run", "nan"])  # the saved state is from before the accident
    assert math.isfinite(log_of(runs_folder / "nan")[-1]["NELBO"])


def test_a_short_run_is_not_compiled_and_a_long_one_is(monkeypatch):
    compiled = []
    part = SimpleNamespace(compile=lambda: compiled.append(1))
    monkeypatch.setattr(devices.sys, "platform", "linux")
    monkeypatch.setattr(devices.shutil, "which", lambda name: "/usr/bin/g++")
    cpu = torch.device("cpu")
    for when, steps, minutes, count in (("auto", 30, 0, 0), ("auto", 50_000, 1, 0), ("auto", 50_000, 5, 1),
                                        ("off", 50_000, 0, 0), ("on", 30, 0, 1)):
        compiled.clear()
        devices.compile_parts([part], cpu, SimpleNamespace(compile=when, steps=steps, minutes=minutes))
        assert len(compiled) == count


@pytest.mark.parametrize("flags", [
    ["--steps", "0"], ["--lr-matrix", "nan"], ["--ema", "1"], ["--cooldown", "1.1"], ["--accumulate", "3"],
    ["--t-max", "1.5"], ["--evaluate-windows", "1"], ["--run", ".hidden"], ["--seq-len", "5000"], ["--causal"],
], ids=" ".join)
def test_mistakes_end_in_a_clear_message_before_any_training(runs_folder, command, flags):
    error = refusal(training.main, [*command, *flags])
    assert flags[0].removeprefix("--").replace("-", "_") in error.replace("-", "_")
    assert not list(runs_folder.glob("*/model.safetensors"))


def test_the_curve_is_of_the_log(reference, tmp_path, monkeypatch):
    lines = []
    plot = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda axes, x, y, **named: lines.append((x, y)) or plot(axes, x, y, **named))
    training.draw_curves([reference[1]], tmp_path / "curve.png")
    records = [json.loads(line) for line in (reference[1] / "log.jsonl").read_text().splitlines()]
    steps, seconds, bounds = ([record[name] for record in records] for name in ("step", "seconds", "NELBO"))
    assert lines == [(steps, bounds), (seconds, bounds)]
