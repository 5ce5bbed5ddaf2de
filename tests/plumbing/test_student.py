"""student.py: a dLLM that learns from what other dLLMs predict."""

import json
from importlib import import_module

import pytest
import torch
from helpers import make_model, seeded

from plumbing import checkpoint, cli
from plumbing.reports import student

diffusion, training, gpt = (import_module(name) for name in ("04_diffusion", "05_train", "07_train_gpt"))
TEXT = "the quick brown fox jumps over the lazy dog\n" * 60
FLAGS = ["--n-layer", "1", "--n-head", "2", "--n-embd", "16", "--seq-len", "32", "--batch-size", "4", "--warmup", "0",
         "--compile", "off", "--dtype", "float32", "--device", "cpu", "--evaluate-every", "10",
         "--evaluate-windows", "4", "--config", "laptop-small", "--minutes", "0"]


@pytest.fixture
def models():
    return [make_model(5, seq_len=8, std=0.5, seed=seed) for seed in range(3)]


class Certain(torch.nn.Module):
    """A teacher that knows the text x0."""

    def __init__(self, x0):
        super().__init__()
        self.x0 = x0

    def forward(self, xt, t):
        return 100 * torch.nn.functional.one_hot(self.x0, 5).float()


def test_a_certain_teacher_is_the_text(models):
    """Then the loss is that of chapter 04: the same noise levels, the same masks, the same mean."""
    x0 = torch.randint(5, (6, 8), generator=seeded(3))
    for t_max in (1.0, 0.5):
        plain = diffusion.diffusion_loss(models[0], x0, t_max, seeded(4)).item()
        taught = student.taught_loss(models[0], x0, [Certain(x0)] * 2, t_max, seeded(4))
        assert taught.item() == pytest.approx(plain, abs=1e-5)


def test_the_target_is_the_mean_of_the_teachers(models):
    x0, (model, *teachers) = torch.randint(5, (6, 8), generator=seeded(3)), models
    seen = []
    hook = model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    loss = student.taught_loss(model, x0, teachers, 1.0, seeded(4))
    hook.remove()
    ((xt, t),) = seen
    target = sum(teacher(xt, t).softmax(-1) for teacher in teachers) / 2
    masked = xt == model.config.mask_id
    by_hand = -(target * model(xt, t).log_softmax(-1)).sum(-1)[masked].mean()
    assert loss.item() == pytest.approx(by_hand.item(), abs=1e-5)
    loss.backward()
    assert all(parameter.grad is None for teacher in teachers for parameter in teacher.parameters())


@pytest.fixture
def first(runs_folder, tmp_path):
    """The flags with which the runs `first` and `second` were trained for 20 steps on a small text."""
    (tmp_path / "fox.txt").write_text(TEXT, encoding="utf-8")
    flags = [*FLAGS, "--corpus", str(tmp_path / "fox.txt")]
    for run in ("first", "second"):
        training.main([*flags, "--run", run, "--steps", "20"])
    return flags


def test_a_run_goes_on_with_teachers(first, runs_folder):
    teachers = ["--teachers", "first,second", "--run", "third"]
    training.main([*first, "--run", "third", "--steps", "20"])
    before = json.loads((runs_folder / "third" / "config.json").read_text(encoding="utf-8"))["info"]
    student.main([*first, *teachers, "--steps", "60"])
    info = checkpoint.load(runs_folder / "third")[2]
    assert info["step"] == 60 and info["train"]["teachers"] == "first,second" and info["NELBO"] < before["NELBO"]
    steps = [json.loads(line)["step"] for line in (runs_folder / "third" / "log.jsonl").read_text().splitlines()]
    assert steps == [10, 20, 30, 40, 50, 60]  # one run: the first 20 steps are those of the text
    with pytest.raises(cli.UserError, match="different teachers"):
        student.main([*first, "--teachers", "first", "--run", "third", "--steps", "70"])


@pytest.mark.parametrize("flags, message", [
    ([], "a student needs --teachers"),
    (["--teachers", "first", "--plain", "9"], "neither --plain nor --weight"),
    (["--teachers", "first", "--weight", "1/t"], "neither --plain nor --weight"),
    (["--teachers", "nobody"], "no model at 'nobody'"),
    (["--teachers", "first", "--run", "first", "--fresh"], "first cannot teach itself")])
def test_refusals(first, flags, message):
    with pytest.raises(cli.UserError, match=message):
        student.main([*first, *([] if "--run" in flags else ["--run", "third"]), *flags])


def test_a_gpt_cannot_teach_a_dllm(first, runs_folder):
    gpt.main([*first, "--run", "gpt", "--config", "gpt-laptop", "--steps", "10"])
    with pytest.raises(cli.UserError, match="gpt is a GPT, and only a dLLM can teach a dLLM"):
        student.main([*first, "--run", "third", "--teachers", "gpt"])
