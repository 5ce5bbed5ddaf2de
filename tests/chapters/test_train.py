"""Chapter 05: the schedule, Muon, batches, and a run that no interruption, setting or bad number can spoil."""

import copy
import dataclasses
import json
import math
import random
import signal
import time
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from helpers import COMMANDS, Killed, log_of, refusal, seeded, write_settings
from PIL import Image
from safetensors.torch import load_file

from plumbing import checkpoint, cli, files, muon, runs

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
train = import_module("05_train")

SENTENCE = "அகர முதல எழுத்தெல்லாம் ஆதி பகவன் முதற்றே உலகு. Café, été, naïve!\n"


# The parts


def test_learning_rate_rises_stays_and_falls_to_nothing():
    config = train.TrainConfig(warmup=10, cooldown=0.5)
    rates = [train.learning_rate_factor(step, 100, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[:10] == sorted(rates[:10])
    assert rates[9:50] == [1.0] * 41
    assert rates[50:] == sorted(rates[50:], reverse=True) and rates[-1] == pytest.approx(0.02)
    assert all(0 < rate <= 1 for rate in rates)
    constant = train.TrainConfig(warmup=0, cooldown=0)
    assert {train.learning_rate_factor(step, 100, constant) for step in range(100)} == {1.0}


def with_singular_values(values, rows, columns, seed):
    generator = seeded(seed)
    left, _ = torch.linalg.qr(torch.randn(rows, len(values), generator=generator))
    right, _ = torch.linalg.qr(torch.randn(columns, len(values), generator=generator))
    return left * values @ right.mT


@pytest.mark.parametrize("rows, columns", [(12, 48), (48, 12), (12, 12)])
def test_orthogonalize_brings_all_singular_values_near_one(rows, columns):
    values = torch.linspace(0.05, 1, 12)
    batch = torch.stack([scale * with_singular_values(values, rows, columns, seed=0) for scale in (1e-3, 1, 50)])
    result = muon.orthogonalize(batch, torch.float32)
    found = torch.linalg.svdvals(result)
    assert found.min() > 0.5 and found.max() < 1.3
    for matrix, one in zip(batch, result):
        torch.testing.assert_close(muon.orthogonalize(matrix[None], torch.float32)[0], one, rtol=1e-4, atol=1e-5)
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        assert F.cosine_similarity(one.flatten(), (left @ right).flatten(), dim=0) > 0.95  # the same directions
    assert torch.equal(muon.orthogonalize(torch.zeros(1, 3, 4), torch.float32), torch.zeros(1, 3, 4))


def test_the_polynomials_bring_numbers_from_a_hundredth_to_one_near_one():
    x = torch.linspace(0.01, 1, 1000)
    for a, b, c in muon.POLYNOMIALS:
        spread = x.max() / x.min()
        x = a * x + b * x**3 + c * x**5
        assert x.max() / x.min() < spread / 1.5
    assert x.min() > 0.72 and x.max() < 1.28


def plain_muon(p, grads, lr, decay):
    """Muon one matrix at a time."""
    p, buffer = p.clone(), torch.zeros_like(p)
    for g in grads:
        buffer = 0.95 * buffer + 0.05 * g
        x = 0.05 * g + 0.95 * buffer
        x = x / x.norm()
        for a, b, c in muon.POLYNOMIALS:
            if x.shape[0] > x.shape[1]:
                gram = x.mT @ x
                x = a * x + x @ (b * gram + c * gram @ gram)
            else:
                gram = x @ x.mT
                x = a * x + (b * gram + c * gram @ gram) @ x
        p = p * (1 - lr * decay) - lr * math.sqrt(max(1, p.shape[0] / p.shape[1])) * x
    return p


def test_muon_in_batches_equals_muon_one_by_one():
    generator = seeded(0)
    shapes = [(8, 8), (24, 8), (8, 24), (24, 8), (8, 8)]
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    grads = [[torch.randn(shape, generator=generator) for shape in shapes] for _ in range(3)]
    expected = [plain_muon(p.data, [step[i] for step in grads], 0.02, 0.1) for i, p in enumerate(params)]
    optimizer = muon.Muon(params, 0.02, 0.95, weight_decay=0.1)
    for step in grads:
        for p, g in zip(params, step):
            p.grad = g.clone()
        optimizer.step()
    for p, right in zip(params, expected):
        torch.testing.assert_close(p.data, right, rtol=1e-4, atol=1e-5)


def test_every_parameter_has_one_optimizer(tiny):
    for change in ({}, {"positions": "learned", "norm": "layer", "activation": "gelu", "time_conditioned": True}):
        model = transformer.Transformer(dataclasses.replace(tiny.config, **change))
        groups = [p for o in train.make_optimizers(model, train.TrainConfig(), torch.float32)
                  for group in o.param_groups for p in group["params"]]  # fmt: skip
        assert sorted(map(id, groups)) == sorted(map(id, model.parameters()))


def test_batches_are_slices_of_the_corpus():
    data = torch.arange(50) * 3
    torch.manual_seed(0)
    batch = train.get_batch(data, 2000, 8)
    assert batch.shape == (2000, 8)
    starts = batch[:, 0] // 3
    assert torch.equal(batch, torch.stack([data[s : s + 8] for s in starts.tolist()]))
    assert set(starts.tolist()) == set(range(43))  # each window, the first and the last included
    assert torch.equal(train.get_batch(data, 1, 50), data[None])


def test_windows_are_the_corpus_cut_in_rows():
    data = torch.arange(50)
    rows = train.windows_of(data, 8)
    assert torch.equal(rows.flatten(), torch.arange(48))
    assert torch.equal(train.windows_of(data, 8, 100), rows)
    some = train.windows_of(data, 8, 3)
    assert some[:, 0].tolist() == [0, 16, 32]
    assert train.windows_of(data, 8, 4).shape == (4, 8)


def test_one_batch_can_be_learned_by_heart(tiny):
    torch.manual_seed(0)
    config = dataclasses.replace(tiny.config, vocab_size=40, n_embd=32, positions="learned")
    trainer = train.Trainer(transformer.Transformer(config), train.TrainConfig(compile="off"), "cpu")
    x0 = torch.randint(config.vocab_size, (4, 16))
    losses = [trainer.update(diffusion.diffusion_loss, [x0.repeat(4, 1)]).item() for _ in range(150)]
    assert sum(losses[-20:]) / 20 < losses[0] / 10 and trainer.step == 150


def test_the_plain_loop_learns_a_text_by_heart(tiny, capsys):
    torch.manual_seed(0)
    config = dataclasses.replace(tiny.config, n_embd=32, positions="learned")
    data = torch.arange(16) % config.vocab_size  # one window: the same batch at every step
    losses = train.plain_loop(transformer.Transformer(config), data, 120, batch_size=8)
    assert sum(losses[-20:]) / 20 < losses[0] / 5
    assert "step   119" in capsys.readouterr().out


def test_the_trainer_of_a_saved_state_continues_exactly(tiny):
    def trainer():
        torch.manual_seed(0)
        return train.Trainer(transformer.Transformer(tiny.config), train.TrainConfig(compile="off"), "cpu")

    def steps(trainer, numbers):
        for number in numbers:
            torch.manual_seed(number)
            trainer.update(diffusion.diffusion_loss, [torch.randint(8, (4, 16))], 0.5)
        return trainer

    whole, half, other = steps(trainer(), range(6)), steps(trainer(), range(3)), trainer()
    other.restore(copy.deepcopy(half.state()), half.step)
    steps(other, range(3, 6))
    assert other.step == 6
    for name in ("model", "averaged"):
        one, two = (getattr(t, name).state_dict() for t in (whole, other))
        assert all(torch.equal(one[key], two[key]) for key in one)


# The loop, with a loss of the test's own

FIXED = train.Objective(  # predicts the token at each position; without masks, nothing is random
    measure="loss", extra=0,
    loss=lambda model, x0: F.cross_entropy(model(x0).flatten(0, 1), x0.flatten()),
    evaluate=lambda model, windows, draws: (0.0, 0.0),
    sample=lambda model: torch.zeros(3, dtype=torch.long),
)  # fmt: skip


def trained(tiny, folder, **changes):
    """(the trained model, its averaged weights as they were saved) after three steps of FIXED."""
    config = train.DiffusionTrainConfig(**dict(steps=3, evaluate_every=3, batch_size=8, warmup=0, dtype="float32",
                                      compile="off", lr_matrix=0.002, lr_other=0.002) | changes)  # fmt: skip
    torch.manual_seed(0)
    model = transformer.Transformer(tiny.config)
    data = torch.randint(tiny.config.vocab_size, (400,))
    with runs.Run(folder, {"steps": 3}, config, tiny.tokenizer, {}, quiet=True) as run:
        train.train(train.Trainer(model, config, "cpu"), data, data, FIXED, run)
    return model.state_dict(), load_file(folder / "model.safetensors")


def test_accumulating_gradients_changes_nothing(tiny, tmp_path):
    """The masks of chapter 05 are drawn per pass, so this is true of a loss without them."""
    once, _ = trained(tiny, tmp_path / "once")
    parts, _ = trained(tiny, tmp_path / "parts", accumulate=4)
    other, _ = trained(tiny, tmp_path / "other", seed=2)
    for name in once:
        torch.testing.assert_close(parts[name], once[name], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(other["head.weight"], once["head.weight"], rtol=1e-4, atol=1e-5)


def test_the_average_is_of_the_weights(tiny, tmp_path):
    model, averaged = trained(tiny, tmp_path / "none", ema=0)
    assert all(torch.equal(model[name], averaged[name]) for name in model)
    model, averaged = trained(tiny, tmp_path / "some", ema=0.9)
    assert not torch.equal(model["head.weight"], averaged["head.weight"])


# Whole runs


def test_a_training_sample_does_not_command_the_terminal(tmp_path, runs_folder, capsys):
    (tmp_path / "corpus.txt").write_text("\x1b\u202e\b\x07" * 300, newline="")
    settings = write_settings(tmp_path / "tiny.yaml", steps=2, evaluate_every=2)
    train.main(["--corpus", str(tmp_path / "corpus.txt"), "--config", str(settings), "--device", "cpu", "--run", "x"])
    out = capsys.readouterr().out
    assert r"\x1b" in out and r"\u202e" in out and set(COMMANDS.findall(out)) == {"\n"}


@pytest.fixture(scope="module")
def text_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    lines = [f"{i % 7} {SENTENCE}" for i in range(60)]
    (folder / "verse.txt").write_text("".join(lines), encoding="utf-8")
    write_settings(folder / "tiny.yaml")
    return folder


@pytest.fixture(scope="module")
def command(text_files):
    return ["--corpus", str(text_files / "verse.txt"), "--config", str(text_files / "tiny.yaml"), "--device", "cpu"]


@pytest.fixture(scope="module")
def reference(book, command):
    """An uninterrupted run, in a process of its own: (its end, its folder)."""
    return book.run("05_train.py", *command, "--run", "whole"), book.runs / "whole"


def assert_same(folder, other):
    one, two = (load_file(f / "model.safetensors") for f in (folder, other))
    assert one.keys() == two.keys()
    different = [name for name in one if not torch.equal(one[name], two[name])]
    assert not different, f"{different} differ"
    assert log_of(folder) == log_of(other)
    states = [runs.load_state(f) for f in (folder, other)]
    assert states[0]["progress"]["step"] == states[1]["progress"]["step"]
    for name in ("model", "averaged"):
        assert all(torch.equal(states[0][name][key], states[1][name][key]) for key in states[0][name])


def test_a_file_of_your_own_from_text_to_model(reference, text_files):
    end, folder = reference
    assert end.code == 0, end.err
    assert "step 60" in end.out and "06_generate.py" in end.out
    assert {"model.safetensors", "config.json", "log.jsonl", "curve.png", "train_state.pt"} == {
        path.name for path in folder.iterdir()}  # fmt: skip
    model, tokenizer, info = checkpoint.load(folder)
    text = (text_files / "verse.txt").read_text(encoding="utf-8")
    assert tokenizer.vocabulary == "".join(sorted(set(text))) and tokenizer.vocab_size == model.config.vocab_size
    assert info["step"] == 60 and info["corpus"] == "verse" and info["corpus_sha256"] == files.sha256_of(text)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["info"] == info and "é" in config["tokenizer"]["vocabulary"]
    log = log_of(folder)
    assert [record["step"] for record in log] == [10, 20, 30, 40, 50, 60]
    assert all(math.isfinite(record["NELBO"]) and record["error"] > 0 for record in log)
    assert log[-1]["NELBO"] < math.log(tokenizer.vocab_size) and log[-1]["NELBO"] < log[0]["NELBO"]
    with Image.open(folder / "curve.png") as image:
        image.load()
        assert min(image.size) > 300


def test_the_same_command_says_that_the_run_is_finished(reference, book, command, monkeypatch, capsys):
    monkeypatch.setattr(checkpoint, "RUNS", book.runs)
    before = {name: (reference[1] / name).read_bytes() for name in ("model.safetensors", "train_state.pt", "log.jsonl")}
    train.main([*command, "--run", "whole"])
    assert "finished" in capsys.readouterr().out
    assert all((reference[1] / name).read_bytes() == data for name, data in before.items())


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)


def test_a_killed_run_goes_on_as_if_nothing_had_happened(reference, book, command, monkeypatch):
    process = book.start("05_train.py", *command, "--run", "killed")
    wait_for(book.runs / "killed" / "train_state.pt", process)
    time.sleep(random.random() / 2)
    process.kill()
    process.communicate()
    monkeypatch.setattr(checkpoint, "RUNS", book.runs)
    train.main([*command, "--run", "killed"])
    assert_same(book.runs / "killed", reference[1])


def test_ctrl_c_saves_and_ends_well(reference, book, command, monkeypatch):
    process = book.start("05_train.py", *command, "--run", "stopped", "--evaluate-every", "10")
    wait_for(book.runs / "stopped" / "train_state.pt", process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0 and "Traceback" not in err
    checkpoint.load(book.runs / "stopped")
    monkeypatch.setattr(checkpoint, "RUNS", book.runs)
    train.main([*command, "--run", "stopped"])
    assert_same(book.runs / "stopped", reference[1])


def test_ctrl_c_at_any_step(reference, runs_folder, command, monkeypatch, capsys):
    """Also before the first evaluation, when there is nothing to show yet."""
    real, calls = diffusion.diffusion_loss, []

    def loss(*arguments, **named):
        calls.append(1)
        if len(calls) in (3, 30, 31, 59):
            signal.raise_signal(signal.SIGINT)
        return real(*arguments, **named)

    monkeypatch.setattr(diffusion, "diffusion_loss", loss)
    for step in (3, 30, 31, 59):
        train.main([*command, "--run", "often"])
        assert runs.load_state(runs_folder / "often")["progress"]["step"] == step
        checkpoint.load(runs_folder / "often")
        signal.signal(signal.SIGINT, signal.default_int_handler)
    train.main([*command, "--run", "often"])
    assert len(calls) == 60  # no step was done twice
    assert "resuming from step 59" in capsys.readouterr().out
    assert_same(runs_folder / "often", reference[1])


@pytest.mark.parametrize("when", ["before the model", "between the model and the state", "after the state"])
def test_a_run_killed_at_every_save(reference, runs_folder, command, monkeypatch, when):
    victim, module = ("save", checkpoint) if when == "before the model" else ("save_state", runs)
    real, spared = getattr(module, victim), iter(range(100))

    def save(*arguments):
        if when == "after the state" or next(spared) % 2:  # each second time it goes well
            real(*arguments)
            if when != "after the state":
                return
        raise Killed

    monkeypatch.setattr(module, victim, save)
    for _ in range(20):
        try:
            train.main([*command, "--run", "unlucky"])
            break
        except Killed:
            continue
    else:
        pytest.fail("the run does not get on")
    assert_same(runs_folder / "unlucky", reference[1])


def test_other_settings_do_not_mix_with_a_run(runs_folder, command, text_files, capsys):
    train.main([*command, "--run", "mine", "--steps", "5"])
    before = {path.name: path.read_bytes() for path in (runs_folder / "mine").iterdir()}
    for name, value in (("lr_other", "0.001"), ("n_embd", "32"), ("seed", "9"), ("t_max", "0.5")):
        with pytest.raises(cli.UserError, match=f"{name}.*--fresh"):
            train.main([*command, "--run", "mine", "--steps", "5", "--" + name.replace("_", "-"), value])
    (text_files / "other.txt").write_text(SENTENCE * 70, encoding="utf-8")
    with pytest.raises(cli.UserError, match="corpus"):
        train.main([*command, "--run", "mine", "--steps", "5", "--corpus", str(text_files / "other.txt")])
    assert {path.name: path.read_bytes() for path in (runs_folder / "mine").iterdir()} == before
    train.main([*command, "--run", "mine", "--steps", "5", "--seed", "9", "--fresh"])
    assert checkpoint.load(runs_folder / "mine")[2]["train"]["seed"] == 9
    assert len(log_of(runs_folder / "mine")) == 1
    assert "resuming" not in capsys.readouterr().out


def test_a_finished_run_goes_on_with_more_steps(runs_folder, command, capsys):
    train.main([*command, "--run", "mine", "--steps", "5"])
    before = runs.load_state(runs_folder / "mine")
    train.main([*command, "--run", "mine", "--steps", "8"])
    after = runs.load_state(runs_folder / "mine")
    assert "resuming from step 5" in capsys.readouterr().out
    assert after["progress"]["step"] == 8
    assert not torch.equal(before["model"]["head.weight"], after["model"]["head.weight"])
    assert [record["step"] for record in log_of(runs_folder / "mine")][-2:] == [5, 8]


def test_a_finished_run_with_a_time_budget_goes_on_with_more_steps(runs_folder, command):
    """The budget is spent. It must neither end the run after one step nor shorten the last evaluation."""
    command = [*command, "--run", "mine", "--minutes", "0.03"]
    train.main([*command, "--steps", "100000"])
    done = runs.load_state(runs_folder / "mine")["progress"]["step"]
    train.main([*command, "--steps", str(done + 7)])
    after = runs.load_state(runs_folder / "mine")["progress"]
    assert after["step"] == after["steps"] == done + 7
    assert "windows" not in log_of(runs_folder / "mine")[-1]


def test_an_evaluation_that_is_not_a_number_is_not_the_best(runs_folder, command, monkeypatch):
    values = iter([3.0, math.nan, 2.0, 2.0])
    monkeypatch.setattr(diffusion, "nelbo", lambda model, windows, draws: (next(values), 0.1))
    train.main([*command, "--run", "mine", "--steps", "15", "--evaluate-every", "5"])
    assert runs.load_state(runs_folder / "mine")["progress"]["lowest"] == 2.0
    assert [record["best_step"] for record in log_of(runs_folder / "mine")] == [5, 5, 15]


def test_fresh_starts_again_over_a_damaged_state(runs_folder, command):
    (runs_folder / "mine").mkdir(parents=True)
    (runs_folder / "mine" / "train_state.pt").write_bytes(b"damaged")
    with pytest.raises(cli.UserError, match="damaged"):
        train.main([*command, "--run", "mine", "--steps", "5"])
    train.main([*command, "--run", "mine", "--steps", "5", "--fresh"])
    assert checkpoint.load(runs_folder / "mine")[2]["step"] == 5


@pytest.mark.parametrize("state", [{"a": 1}, [1, 2], {"progress": {}, "settings": None}])
def test_a_state_of_another_program(runs_folder, command, state):
    runs.save_state(runs_folder / "mine", state)
    with pytest.raises(cli.UserError):
        train.main([*command, "--run", "mine", "--steps", "5"])


def test_minutes_fix_the_number_of_steps(runs_folder, command, capsys):
    train.main([*command, "--run", "short", "--steps", "100000", "--evaluate-every", "100000", "--minutes", "0.01"])
    progress = runs.load_state(runs_folder / "short")["progress"]
    assert 1 <= progress["step"] < 100000 and progress["steps"] <= progress["step"]
    assert log_of(runs_folder / "short")[-1]["step"] == progress["step"]
    train.main([*command, "--run", "short", "--steps", "100000", "--evaluate-every", "100000", "--minutes", "0.01"])
    assert "finished" in capsys.readouterr().out
    assert len(log_of(runs_folder / "short")) == 1


def test_a_corpus_too_short_for_its_windows(runs_folder, command):
    with pytest.raises(cli.UserError, match="verse is too short.*--seq-len"):
        train.main([*command, "--seq-len", "512"])
    assert not runs_folder.exists()


@pytest.mark.parametrize("first, saved", [(1, 0), (15, 10), (25, 20)])
def test_a_loss_that_is_no_number_ends_the_run_and_spoils_nothing(runs_folder, command, monkeypatch, first, saved):
    real, calls = diffusion.diffusion_loss, []

    def loss(*arguments, **named):
        calls.append(1)
        return real(*arguments, **named) * (math.nan if len(calls) >= first else 1)

    monkeypatch.setattr(diffusion, "diffusion_loss", loss)
    with pytest.raises(cli.UserError, match="not finite.*--lr"):
        train.main([*command, "--run", "nan"])
    if saved:
        assert checkpoint.load(runs_folder / "nan")[2]["step"] == saved
        for values in (log_of(runs_folder / "nan")[-1], checkpoint.load(runs_folder / "nan")[2]):
            assert math.isfinite(values["NELBO"])
    else:
        assert not (runs_folder / "nan" / "model.safetensors").exists()


@pytest.mark.parametrize("flags", [
    ["--no-such-flag"], ["--steps", "0"], ["--config", "nowhere"], ["--corpus", "nowhere.txt"], ["--device", "tpu"],
    ["--dtype", "float8"], ["--lr-matrix"], ["--batch-size", "100000000000"],
    ["--minutes", "inf"], ["--minutes", "1e308"],
    ["--run", "a/b"], ["--run", "x" * 201], ["--run", ""], ["--corpus", "~nouser/x.txt"],
])  # fmt: skip
def test_mistakes_end_in_a_clear_message_and_exit_code_2(runs_folder, command, flags):
    error = refusal(train.main, [*command, *flags])
    assert flags[0].removeprefix("--") in error or flags[-1] in error
    assert not runs_folder.exists()
