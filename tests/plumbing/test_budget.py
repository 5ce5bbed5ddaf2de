"""budget.py: a run ends within its time, whatever the machine does. All clocks here are fake, so no test is timed."""

import signal
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from helpers import make_model

from plumbing import checkpoint, runs

training = import_module("05_train")

VALIDATION = 400  # windows of validation text; a usual evaluation uses 40 of them


class Machine:
    """A machine with a clock of its own, which trains and evaluates without computing anything.

    step_seconds: function (number of the step, clock) → seconds. window_seconds: an evaluation of one window.
    draws_count: whether an evaluation with 4 draws takes four times as long, as that of a dLLM does.
    """

    def __init__(self, monkeypatch, step_seconds, window_seconds=0.01, sample_seconds=0.5, draws_count=True):
        self.clock, self.planned, self.evaluated = 0.0, [], []
        self.step_seconds, self.window_seconds, self.draws_count = step_seconds, window_seconds, draws_count
        self.sample_seconds = sample_seconds
        monkeypatch.setattr(runs, "time", SimpleNamespace(monotonic=lambda: self.clock))

    def run(self, folder, tokenizer, minutes, most=50_000, every=500, compiled=True, resumed=False):
        """Train with chapter 05's loop: (the steps, the last record of the log)."""
        config = training.DiffusionTrainConfig(steps=most, minutes=minutes, evaluate_every=every, evaluate_windows=40,
                                               batch_size=2, compile="off", warmup=0)  # fmt: skip
        trainer = training.Trainer(make_model(tokenizer.vocab_size), config, "cpu")

        def update(loss, parts, factor):
            self.clock += self.step_seconds(trainer.step + 1, self.clock)
            trainer.step += 1
            self.planned.append((run.steps, factor))
            return torch.tensor(1.0)

        def evaluate(model, windows, draws):
            self.clock += len(windows) * (draws if self.draws_count else 1) * self.window_seconds
            self.evaluated.append(len(windows) * draws)
            return 1.0, 0.1

        def sample(model):
            self.clock += self.sample_seconds
            return torch.zeros(1, dtype=torch.long)

        trainer.update = update
        objective = training.Objective("NELBO", 0, None, evaluate, sample)
        with runs.Run(folder, {"steps": most}, config, tokenizer, {}) as run:
            run.announce(compiled)
            data = torch.zeros(16 * VALIDATION, dtype=torch.long)
            training.train(trainer, data, data, objective, run)
        return trainer.step, (runs.read_log(folder / "log.jsonl") or [None])[-1]


SITUATIONS = {  # name: (seconds of a step, the smallest share of the steps that would fit without any pause)
    "constant": (lambda step, clock: 0.5, 0.9),
    "compiles": (lambda step, clock: 60.0 if step == 1 else 0.5, 0.7),
    "compiles twice": (lambda step, clock: 30.0 if step in (1, 2) else 0.5, 0.7),
    "compiles again at step 3": (lambda step, clock: 30.0 if step in (1, 3) else 0.5, 0.7),
    "slower from the middle on": (lambda step, clock: 0.5 if clock < 165 else 1.0, 0.65),
    "slower near the end": (lambda step, clock: 0.5 if clock < 300 else 2.0, 0.8),
    "slow for a while": (lambda step, clock: 2.5 if 100 < clock < 112 else 0.5, 0.85),
    "faster from the middle on": (lambda step, clock: 0.5 if clock < 165 else 0.25, 0.9),
    "jitters": (lambda step, clock: 0.1 + 0.8 * (step * 7919 % 100) / 100, 0.9),
    "a few steps only": (lambda step, clock: 25.0, 0.8),
}


@pytest.mark.parametrize("name", SITUATIONS)
@pytest.mark.parametrize("compiled", [True, False])
def test_a_run_ends_with_its_budget_and_its_learning_rate_falls_smoothly(tmp_path, tiny, monkeypatch, name, compiled):
    step_seconds, share = SITUATIONS[name]
    machine = Machine(monkeypatch, step_seconds)
    steps, last = machine.run(tmp_path / "run", tiny.tokenizer, 5.5, every=150, compiled=compiled)
    assert steps == last["step"] and machine.clock <= 1.02 * 330
    assert machine.evaluated[-1] == 4 * VALIDATION or "near the end" in name and last["windows"] > 0.7 * VALIDATION
    assert checkpoint.load(tmp_path / "run")[2]["step"] > 0
    assert machine.clock >= 0.9 * 330 or "faster" in name  # the schedule is kept, and some time is left over
    if name == "a few steps only":
        assert steps in (11, 12)
        return
    assert steps >= share * 660
    # Late plans grow by little, so the learning rate never rises much, and it ends near 0.
    plans, factors = zip(*machine.planned)
    assert max(plans[int(0.4 * steps) :]) <= 1.06 * max(plans[int(0.25 * steps) : int(0.4 * steps)])
    assert max(after - before for before, after in zip(factors[40:], factors[41:])) < 0.06 and factors[-1] < 0.1


def test_a_gpt_whose_last_evaluation_is_cheap_uses_the_time(tmp_path, tiny, monkeypatch):
    machine = Machine(monkeypatch, lambda step, clock: 0.5, window_seconds=0.03, draws_count=False)
    steps, _ = machine.run(tmp_path / "run", tiny.tokenizer, 5.5)
    assert 0.97 * 330 <= machine.clock <= 1.01 * 330


def test_evaluations_that_are_slow_are_counted(tmp_path, tiny, monkeypatch):
    """On this machine each evaluation takes 4 seconds, its sample 5, and the last evaluation would take 160 seconds."""
    machine = Machine(monkeypatch, lambda step, clock: 0.5, window_seconds=0.1, sample_seconds=5.0)
    steps, last = machine.run(tmp_path / "run", tiny.tokenizer, 5.5, every=50)
    assert 0.95 * 330 <= machine.clock <= 1.025 * 330
    assert 4 <= last["windows"] < VALIDATION and machine.evaluated[-1] == 4 * last["windows"]
    assert 0.15 * 330 < 4 * last["windows"] * 0.1 < 0.25 * 330  # about the share that is kept free for it


def test_a_machine_that_evaluates_more_slowly_at_the_end_shortens_the_last_evaluation(tmp_path, tiny, monkeypatch):
    machine = Machine(monkeypatch, lambda step, clock: 0.5, window_seconds=0.01)

    def step_seconds(step, clock):
        machine.window_seconds = 0.01 if clock < 300 else 0.1
        return 0.5

    machine.step_seconds = step_seconds
    steps, last = machine.run(tmp_path / "run", tiny.tokenizer, 5.5)
    assert last["windows"] < VALIDATION and machine.clock < 1.05 * 330


@pytest.mark.parametrize("seconds", [1e-9, 0.001, 0.1, 1.0, 100.0])
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("window_seconds", [0.0, 0.1])
def test_a_tiny_budget_gives_a_model(tmp_path, tiny, monkeypatch, seconds, compiled, window_seconds, capsys):
    machine = Machine(monkeypatch, lambda step, clock: seconds, window_seconds, sample_seconds=0.0)
    steps, last = machine.run(tmp_path / "run", tiny.tokenizer, 0.01, most=1000, compiled=compiled)
    assert steps == last["step"] >= 1
    assert steps == 1 or (steps - 1) * seconds <= 0.6
    if window_seconds:
        assert 4 * last["windows"] <= machine.evaluated[-2]  # no longer than a usual evaluation
    checkpoint.load(tmp_path / "run")
    before = machine.clock
    assert machine.run(tmp_path / "run", tiny.tokenizer, 0.01, most=1000)[0] == steps  # it is finished
    assert machine.clock == before and "finished" in capsys.readouterr().out


def test_a_step_so_slow_that_few_fit(tmp_path, tiny, monkeypatch):
    """Without compilation, the first step shows already how slow the machine is."""
    for seconds, expected in ((11.0, 4), (20.0, 2), (50.0, 1)):
        machine = Machine(monkeypatch, lambda step, clock, seconds=seconds: seconds)
        steps, _ = machine.run(tmp_path / f"run{seconds}", tiny.tokenizer, 1, compiled=False)
        assert steps == expected and machine.clock <= 63


def test_a_resumed_run_keeps_its_plan(tmp_path, tiny, monkeypatch):
    machine = Machine(monkeypatch, lambda step, clock: 0.5)

    def step_seconds(step, clock):
        if step == 310:
            signal.raise_signal(signal.SIGINT)
        return 0.5

    machine.step_seconds = step_seconds
    assert machine.run(tmp_path / "run", tiny.tokenizer, 5.5, every=150)[0] == 310
    planned = runs.load_state(tmp_path / "run")["progress"]["steps"]
    assert 600 < planned < 660
    machine.step_seconds = lambda step, clock: 2.0
    steps, last = machine.run(tmp_path / "run", tiny.tokenizer, 5.5, every=150)
    assert steps == planned == last["step"] and "windows" not in last


def test_a_run_without_a_budget_is_not_measured(tmp_path, tiny, monkeypatch):
    machine = Machine(monkeypatch, lambda step, clock: 1000.0)
    steps, last = machine.run(tmp_path / "run", tiny.tokenizer, 0, most=7, every=5)
    assert steps == 7 and machine.evaluated == [40, 40, 4 * VALIDATION]


def test_a_run_that_was_stopped_before_its_first_plan_plans_when_it_is_resumed(tmp_path, tiny, monkeypatch):
    machine = Machine(monkeypatch, lambda step, clock: signal.raise_signal(signal.SIGINT) or 60.0)
    assert machine.run(tmp_path / "run", tiny.tokenizer, 5.5) == (1, None)
    machine.step_seconds = lambda step, clock: 0.5
    steps, _ = machine.run(tmp_path / "run", tiny.tokenizer, 5.5, compiled=False)
    assert 470 < steps < 540 and 0.97 * 330 <= machine.clock <= 1.02 * 330
