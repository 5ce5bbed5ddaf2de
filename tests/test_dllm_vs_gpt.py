"""Chapter 10: losses and fillers with known answers, and the whole comparison of two tiny runs."""

import dataclasses
import hashlib
import json
import math
import re
import signal
from importlib import import_module

from experiments import dllm_vs_gpt as page
from helpers import Unigram, made_up_text, make_model, refusal
from plumbing import checkpoint, measures, text

import pytest
import torch

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
comparison = import_module("10_dllm_vs_gpt")


# Likelihood


def test_loss_with_visible_characters_of_a_unigram_model_is_its_cross_entropy(tiny):
    torch.manual_seed(0)
    frequencies = torch.tensor([0.3, 0.25, 0.15, 0.1, 0.08, 0.06, 0.04, 0.02])
    x0 = torch.multinomial(frequencies, 2000 * 16, replacement=True).view(2000, 16)
    x0[:, 0] = 7  # given, and never counted
    exact = -frequencies.log()[x0[:, 1:]].mean().item()
    for visible in (1, 5, 15):
        mean, error = comparison.loss_with_visible(Unigram(tiny.config, frequencies), x0, visible)
        assert abs(mean - exact) < 4 * error


def test_the_mean_over_visible_characters_is_the_nelbo():
    model = make_model(8, std=0.5)
    x0 = torch.randint(8, (300, 16))
    losses = [comparison.loss_with_visible(model, x0, visible, seed=visible) for visible in range(1, 16)]
    mean = sum(loss for loss, _ in losses) / 15
    bound, error = diffusion.nelbo(model, x0, draws=8, given=1)
    assert abs(mean - bound) < 4 * math.hypot(error, max(e for _, e in losses))


# Filling blanks


class Neighbours(torch.nn.Module):
    """Knows sequences that count up: a masked token follows its visible neighbour, on either side."""

    config = transformer.TransformerConfig(seq_len=17, vocab_size=8)

    def forward(self, tokens, t=None):
        known = tokens < 8
        logits = torch.zeros(*tokens.shape, 8)
        left, right = (tokens.roll(1, 1) + 1) % 8, (tokens.roll(-1, 1) - 1) % 8
        for guess, seen in ((left, known.roll(1, 1)), (right, known.roll(-1, 1))):
            logits += 9 * torch.nn.functional.one_hot(guess, 8) * seen[..., None]
        return logits


@pytest.mark.parametrize("blank", [1, 5, 8])
def test_infilling_starts_where_the_model_is_surest(blank):
    windows = (torch.arange(17) + torch.arange(8)[:, None]) % 8
    assert comparison.restored(lambda *where: comparison.fill(Neighbours(), *where), windows, blank) == (1, 0)


def test_a_gpt_fills_from_the_left_only():
    gpt = make_model(8, seq_len=17, std=0.5, causal=True)
    rows = torch.randint(8, (5, 17))
    other = rows.clone()
    other[:, 9:] = torch.randint(8, (5, 8))
    filled = comparison.fill(gpt, rows, 6, 9)
    assert filled.shape == (5, 3) and torch.equal(filled, comparison.fill(gpt, other, 6, 9))
    assert torch.equal(filled[:, 0], gpt(rows[:, :6])[:, -1].argmax(-1))  # the most likely one


def test_what_fillers_restore():
    windows = torch.randint(8, (30, 17))
    asked = []

    def knows(rows, start, end):
        asked.append((start, end))
        return rows[:, start:end]

    assert comparison.restored(knows, windows, 4) == (1, 0) and asked == [(6, 10)]  # in the middle
    assert comparison.restored(lambda rows, s, e: (rows[:, s:e] + 1) % 8, windows, 4)[0] == 0
    mean, error = comparison.restored(lambda rows, s, e: torch.zeros_like(rows[:, s:e]), windows, 4)
    assert mean == pytest.approx((windows[:, 6:10] == 0).double().mean().item()) and 0 < error < 0.2


def test_common_followers_are_those_of_the_text():
    followers = comparison.common_followers(torch.tensor([0, 1, 0, 1, 0, 2, 2, 2, 0, 1]), 3)
    assert followers.tolist() == [1, 0, 2]
    assert comparison.fill_with_followers(followers, torch.tensor([[0, 9, 9, 9, 9]]), 1, 4).tolist() == [[1, 0, 1]]


# Reading the same text again

SMALL = comparison.Size(1, 4, 4, 2, (2, 4), dict(n_layer=1, n_head=1, n_embd=8, seq_len=8),
                        dict(batch_size=2, steps=6, evaluations=3, compile="off"))


@pytest.mark.parametrize("kind", ["dllm", "gpt"])
def test_a_learning_curve_counts_epochs_and_falls(kind):
    size = dataclasses.replace(SMALL, train=dict(batch_size=16, steps=40, evaluations=2, compile="off", warmup=5))
    parts = text.split(made_up_text())
    curve = comparison.learning_curve(kind, parts, size, 1, text.Characters.of(made_up_text()), torch.device("cpu"))
    assert [point["step"] for point in curve] == [20, 40]
    assert curve[-1]["epochs"] == pytest.approx(40 * 16 * 8 / 3600)
    assert curve[1]["loss"] < curve[0]["loss"] < 3


def test_ctrl_c_in_a_training_ends_the_whole_comparison(monkeypatch):
    original = training.MaskedDiffusion.batch
    monkeypatch.setattr(training.MaskedDiffusion, "batch",
                        lambda *arguments: (signal.raise_signal(signal.SIGINT), original(*arguments))[1])
    parts = text.split(made_up_text())
    with pytest.raises(KeyboardInterrupt):
        comparison.reuse(parts, SMALL, 1, text.Characters.of(made_up_text()), torch.device("cpu"))


# The whole comparison


def make_runs(folder, **gpt):
    """Save an untrained dLLM and an untrained GPT of a text, and return the flags that compare them. gpt: its shape."""
    corpus = folder / "words.txt"
    corpus.write_text(made_up_text(), encoding="utf-8")
    tokenizer = text.Characters.of(made_up_text())
    checksum = hashlib.sha256(made_up_text().encode()).hexdigest()
    for kind in ("dllm", "gpt"):
        model = make_model(tokenizer.vocab_size, causal=kind == "gpt", **(gpt if kind == "gpt" else {}))
        info = {"kind": kind, "corpus_sha256": checksum, "step": 3, "train": {"batch_size": 5}}
        checkpoint.save(folder / kind, model, tokenizer, info)
    return ["--corpus", str(corpus), "--dllm", str(folder / "dllm"), "--gpt", str(folder / "gpt"), "--size", "quick",
            "--device", "cpu"]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The folder into which chapter 10 has written the numbers of two tiny runs."""
    folder = tmp_path_factory.mktemp("comparison")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setitem(comparison.SIZES, "quick", SMALL)
        comparison.main(make_runs(folder))
    return folder / "dllm" / "report"  # by default, the folder of the dLLM's run


@pytest.fixture
def values(compared):
    return json.loads((compared / "dllm_vs_gpt.json").read_text(encoding="utf-8"))


def test_the_numbers_of_two_untrained_models(values):
    losses, samples = values["likelihood"], values["samples"]
    assert abs(losses["dllm"]["NELBO"] - math.log(10)) < 0.2 > abs(losses["gpt"]["NLL"] - math.log(10))
    assert values["dllm"]["characters_read"] == values["gpt"]["characters_read"] == 3 * 5 * 16
    assert {(row["model"], row["nfe"]) for row in samples["table"]} == {("dllm", 2), ("dllm", 4), ("gpt", 16)}
    assert {row["temperature"] for row in samples["table"]} == {0.8, 0.9, 1.0}
    assert samples["real"]["words"] > 0.7 > max(row["words"] for row in samples["table"])  # cut words; noise
    assert all(set(measures.MEASURES) <= set(row) for row in (samples["real"], *samples["table"]))
    assert all(row["error"] > 0 and row["characters_per_second"] > 0 for row in values["speed"]["table"])
    assert [row["blank"] for row in values["infilling"]["table"]] == [1, 4]
    assert all(case["context"] + case["truth"] in made_up_text() for case in values["infilling"]["cases"])


def test_the_numbers_of_part_5(values):
    runs = values["reuse"]["runs"]
    assert len(runs) == 9 and all(run["end"]["step"] == 6 for run in runs)
    losses = {run["model"]: run["end"]["loss"] for run in runs if run["fraction"] == 1}
    assert len(set(losses.values())) == 3  # weight decay changes something
    for run in runs:
        assert run["end"]["epochs"] == pytest.approx(6 * 2 * 8 / run["characters"])
        assert run["best"]["loss"] == min(point["loss"] for point in run["curve"])


def test_the_page_of_these_numbers(compared, tmp_path):
    (tmp_path / "dllm_vs_gpt.json").write_bytes((compared / "dllm_vs_gpt.json").read_bytes())
    page.main(["--render", "--out", str(tmp_path)])
    article = (tmp_path / "dllm_vs_gpt.md").read_text(encoding="utf-8")
    figures = re.findall(r"!\[.*?\]\((.*?)\)", article)
    assert len(figures) == 3 and all((tmp_path / name).is_file() for name in figures)
    assert article.count("dLLM (0.0M characters read)") > 5  # in the tables, the budget belongs to the name


def test_models_of_different_sizes_are_compared_with_a_warning(tmp_path, capsys):
    corpus = text.Corpus("words", made_up_text())
    for layers, warning in ((1, False), (3, True)):
        make_runs(tmp_path, n_layer=layers)
        comparison.load_pair(str(tmp_path / "dllm"), str(tmp_path / "gpt"), corpus, torch.device("cpu"))
        out = capsys.readouterr().out
        assert "240 characters read" in out and ("Warning" in out) == warning


def test_wrong_runs(tmp_path, runs_folder):
    flags = make_runs(tmp_path)
    dllm, gpt = flags.index("--dllm") + 1, flags.index("--gpt") + 1
    swapped = [*flags, "--dllm", flags[gpt], "--gpt", flags[dllm]]
    assert "gpt is a GPT, and this program needs a dLLM" in refusal(comparison.main, swapped)
    missing = flags[: gpt - 1] + flags[gpt + 1 :]
    assert "python 07_train_gpt.py" in refusal(comparison.main, missing)
    (tmp_path / "words.txt").write_text(made_up_text() + " ab", encoding="utf-8")
    assert "another text" in refusal(comparison.main, flags)


def test_what_cannot_work_is_said_before_the_work(tmp_path):
    flags = make_runs(tmp_path)
    assert "from 0 to" in refusal(comparison.main, [*flags, "--seed", "-1"])
    assert "too short" in refusal(comparison.main, flags)  # for the models of part 5 at the usual size
    with pytest.raises(FileExistsError):  # cli.run makes one line of it
        comparison.main([*flags, "--out", str(tmp_path / "words.txt")])
