"""Two processes compute what one process computes, whether they hold copies or parts of the model."""

import os
import subprocess
import sys
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from helpers import ROOT, refusal
from scaling import ALONE, backward, free_port, gradients, make_config, make_model, make_windows

from plumbing import cli, locks, parallel, runs

scale = import_module("12_scale")

WORKER = """
import sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from test_parallel import *
out, team = Path(sys.argv[1]), parallel.join("cpu")
jobs = {"ddp": ("ddp", "float32"), "fsdp": ("fsdp", "float32"), "bfloat16": ("fsdp", "bfloat16")}
for name, (engine, dtype) in jobs.items():
    found = run_steps(engine, team, out / name, dtype)
    if team.lead:
        torch.save(found, out / f"{name}.pt")
scale.dist.destroy_process_group()
"""


def run_steps(engine, team, out=None, dtype="float32"):
    """The gradient of one step; and after three steps the weights, averages, an evaluation and the saved state."""
    windows = make_windows()
    config = make_config(engine=engine, accumulate=2, prefix=0.5, evaluate_windows=8, dtype=dtype, ema=0.5)
    trainer = scale.make_trainer(make_model(time_conditioned=True), config, team)

    def full(tensors):
        return {k: v.full_tensor() if hasattr(v, "full_tensor") else v.clone() for k, v in tensors.items()}

    x0, xt, masked = scale.draw(windows, config, 50, 2, team.rank, team.world)
    (loss,) = team.total(backward(trainer.network, x0, xt, masked, team, 2, trainer.dtype))
    first, masks = full(gradients(trainer.model)), ((xt == 50).sum().item(), masked)
    for optimizer in trainer.optimizers:
        optimizer.zero_grad()
    for step in range(2, 5):
        batch = scale.draw(windows, config, 50, step, team.rank, team.world)
        (again,) = team.total(scale.update(trainer, *batch, team).item())
        if step == 2:
            assert abs(again - loss) < 1e-5
            norm, _ = parallel.norms(trainer)
    with torch.autocast("cpu", trainer.dtype, enabled=dtype != "float32"):
        mean, _ = scale.evaluate(trainer.averaged, windows, config, team, 8)
    if out:
        parallel.save(out, team, trainer, {"step": 3}, {})
    weights, average = (full(dict(model.named_parameters())) for model in (trainer.model, trainer.averaged))
    return {"loss": loss, "gradients": first, "masks": masks, "norm": norm, "weights": weights, "averaged": average,
            "nelbo": mean}


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """A folder with the results of two processes, for each engine."""
    out = tmp_path_factory.mktemp("two")
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORKER, out, ROOT, ROOT / "tests", ROOT / "tests" / "plumbing"]
    team = [subprocess.Popen(command, env=os.environ | common | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
            for rank in range(2)]
    errors = [process.communicate(timeout=600)[1] for process in team]
    assert [process.returncode for process in team] == [0, 0], errors
    return out


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_two_processes_do_what_one_does(of_two, engine):
    one, two = run_steps(engine, ALONE), torch.load(of_two / f"{engine}.pt")
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


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_saved_by_two_resumed_by_one(of_two, engine):
    trainer = scale.make_trainer(make_model(time_conditioned=True), make_config(), ALONE)
    for p in [*trainer.model.parameters(), *trainer.averaged.parameters()]:
        p.data.zero_()
    progress = runs.load_state(of_two / engine, ("progress",))["progress"]
    parallel.restore(of_two / engine, progress, trainer)
    two = torch.load(of_two / f"{engine}.pt")
    for part in ("weights", "averaged"):
        for name, p in (trainer.model if part == "weights" else trainer.averaged).named_parameters():
            assert torch.equal(p, two[part][name])
    muon, adamw = trainer.optimizers
    assert trainer.step == 3
    assert all(muon.state[p]["momentum"].norm() > 0 for p in muon.param_groups[0]["params"])
    assert all(adamw.state[p]["step"] == 3 for p in adamw.param_groups[0]["params"])


# Processes that belong together


def test_processes_of_torchrun_end_with_it(monkeypatch):
    watched = []
    monkeypatch.setattr(cli, "end_with_parent", lambda: watched.append(True))
    parallel.join("cpu")
    assert not watched  # a shell may end before its programs
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    parallel.join("cpu")
    assert watched


def test_more_processes_than_gpus(monkeypatch):
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2")):  # without LOCAL_RANK, which some launchers do not set
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(cli.UserError, match="1 GPUs"):
        parallel.join("auto")


def test_all_processes_end_if_one_refuses(tmp_path, monkeypatch, tiny):
    """Whether the first process refuses or another one, each raises an error and none waits for ever."""
    config = make_config(steps=9)
    for lead, others in ((True, 0), (False, 0), (True, 1), (False, 1)):
        team = SimpleNamespace(lead=lead, world=2, total=lambda value, others=others: [value + others])
        arguments = team, None, tmp_path / "a", {"steps": 9}, config, tiny.tokenizer, {}
        if others:
            assert "another process" in refusal(parallel.TeamRun, *arguments)
        else:
            with parallel.TeamRun(*arguments) as run:
                assert (run.lock is not None) == lead
        assert list(tmp_path.iterdir()) == []
    lock = locks.Lock(tmp_path / "a")
    team = SimpleNamespace(lead=True, world=2, total=lambda value: [value])
    assert "in use" in refusal(parallel.TeamRun, team, *arguments[1:])
    lock.release()


def test_several_processes_need_cpus_or_gpus(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(parallel.devices, "pick_device", lambda name: torch.device("mps"))
    monkeypatch.setattr(parallel.dist, "init_process_group", lambda *_, **__: pytest.fail("joined"))
    with pytest.raises(cli.UserError, match="cannot share the device mps"):
        parallel.join("mps")
