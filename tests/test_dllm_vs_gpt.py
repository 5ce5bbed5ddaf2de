"""Chapter 10: losses and fillers with known answers, and the whole comparison of two tiny runs."""

import dataclasses
import hashlib
import itertools
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


# How loose is the bound?


def test_in_a_fixed_order_the_nll_is_exact():
    """The exact NLL agrees with chapter 04's sums over all sets of masks."""
    model = make_model(4, seq_len=5, std=0.8)
    x = torch.randint(4, (1, 4))
    for order in itertools.permutations(range(1, 4)):
        turns = torch.zeros(4)
        turns[list(order)] = torch.arange(3.0)
        expected = 0.0
        canvas = torch.full_like(x, model.config.mask_id)
        canvas[:, 0] = x[:, 0]
        for i in order:
            t = (canvas == model.config.mask_id).float().mean(1)
            expected -= model(canvas, t).log_softmax(-1)[0, i, x[0, i]].item()
            canvas[0, i] = x[0, i]
        assert comparison.exact_nll(model, x, comparison.fixed(turns)).item() == pytest.approx(expected / 3, abs=1e-5)


def test_for_each_order_the_probabilities_of_all_texts_sum_to_one():
    """This also holds for an order that depends on the visible tokens."""
    model = make_model(3, seq_len=5, std=0.8)
    x = torch.tensor([[1, *rest] for rest in itertools.product(range(3), repeat=3)])  # all texts that begin with 1
    for order in (comparison.fixed(torch.arange(4.0)), diffusion.by_confidence):
        p = (-3 * comparison.exact_nll(model, x, order)).exp()
        assert p.sum().item() == pytest.approx(1, abs=1e-5)


def test_the_nelbo_is_the_mean_over_random_orders_and_more_orders_are_tighter():
    model = make_model(8, std=0.5)
    part = comparison.looseness(model, torch.randint(8, (200, 8)), seed=1)
    bound, mean, *rest = part["rows"]
    assert abs(bound["NLL"] - mean["NLL"]) < 4 * math.hypot(bound["error"], mean["error"])
    mixed = [row["minus"] for row in rest if row["name"].startswith("-log")]
    assert 0 > mixed[0] > mixed[1] > mixed[2]


def test_the_nll_of_a_mixture_of_orders():
    nlls = torch.tensor([[1.0, 2.0], [1.0, 3.0]])  # two orders, two texts of three tokens
    expected = [1.0, -math.log((math.exp(-6) + math.exp(-9)) / 2) / 3]
    assert comparison.mixture(nlls, 3).tolist() == pytest.approx(expected)


# Filling blanks


class Neighbours(torch.nn.Module):
    """A dLLM of sequences that count up. It predicts a masked token from a visible neighbour on either side."""

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


class CountsUp(torch.nn.Module):
    """A GPT of sequences that count up. After a 3, it is undecided between 4 and 0."""

    config = transformer.TransformerConfig(seq_len=17, vocab_size=8, causal=True)

    def forward(self, tokens, t=None, positions=None, cache=None):
        logits = 9.0 * torch.nn.functional.one_hot((tokens + 1) % 8, 8)
        undecided = torch.tensor([9.1, 0, 0, 0, 9.0, 0, 0, 0])
        return torch.where((tokens == 3)[..., None], undecided, logits)

    def make_cache(self, *sizes):
        return None


def test_with_several_tries_a_gpt_uses_the_right_side():
    rows = (torch.arange(17) % 8).expand(3, 17).clone()  # 0 1 2 3 4 5 6 7 0 …
    assert comparison.fill(CountsUp(), rows, 4, 6).tolist() == [[0, 1]] * 3  # the most likely continuation
    torch.manual_seed(0)
    assert comparison.fill_with_tries(CountsUp(), rows, 4, 6).tolist() == [[4, 5]] * 3


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

SMALL = comparison.Size(1, 4, 2, 4, 2, (2, 4), dict(n_layer=1, n_head=1, n_embd=8, seq_len=8),
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


# Who is better?


def test_holms_rule():
    assert comparison.are_clear([0.04]) == [True]
    assert comparison.are_clear([0.04, 0.03]) == [False, False]  # the smaller one must be below 0.025
    assert comparison.are_clear([0.04, 0.02]) == [True, True]
    assert comparison.are_clear([0.001, 0.03, 0.02]) == [True, True, True]
    assert comparison.are_clear([0.001, 0.06, 0.02]) == [True, False, True]
    assert comparison.are_clear([0.001, 0.03, 0.026]) == [True, False, False]


def test_among_many_questions_without_a_difference_chance_rarely_decides_one():
    torch.manual_seed(0)
    wrong = 0
    for _ in range(400):
        advantages = torch.randn(12).tolist()
        rows = [comparison.question("", "", 0, 0, advantage, 1.0) for advantage in advantages]
        wrong += set(comparison.verdicts(rows)) != {"not clear"}
    assert 5 < wrong < 40  # 20 expected


def measured(value, error=0.01):
    return {"words": value, "words_error": error}


@pytest.mark.parametrize("dllm, gpt, better", [
    (0.98, 0.90, "GPT"),  # real text has 0.91: a higher share of known words is not better
    (0.92, 0.98, "dLLM"),
    (0.94, 0.93, "not clear"),
    (0.90, 0.94, "not clear"),  # 0.01 below and 0.03 above: the error of real text counts twice
])
def test_the_model_nearer_to_real_text_is_better(dllm, gpt, better):
    row = comparison.nearer("", "", measured(dllm), measured(gpt), measured(0.91), "words")
    assert comparison.verdicts([row]) == [better]


@pytest.mark.parametrize("truth", [(0.5, 0.9, 0.7), (0.9, 0.8, 0.7)])  # on both sides of real text, and on one side
def test_the_error_of_an_advantage_is_its_spread_over_many_repetitions(truth):
    errors = (0.01, 0.02, 0.03)
    torch.manual_seed(0)
    draws = torch.randn(4000, 3, dtype=torch.float64) * torch.tensor(errors) + torch.tensor(truth)
    rows = [comparison.nearer("", "", *map(measured, draw, errors), "words") for draw in draws.tolist()]
    advantages = torch.tensor([row["advantage"] for row in rows])
    assert sum(row["error"] for row in rows) / 4000 == pytest.approx(advantages.std().item(), rel=0.05)


def test_over_pairs_the_error_also_counts_the_seeds():
    assert page.mean_of([{"a": [1, 2], "b": "x"}, {"a": [3, 2], "b": "y"}]) == {"a": [2, 2], "b": "x"}
    one = comparison.question("", "", 1.0, 2.0, advantage=1.0, error=0.3)
    other = comparison.question("", "", 1.0, 2.0, advantage=2.0, error=0.3)
    (row,) = page.over_pairs([[one], [other]])
    assert row["advantage"] == 1.5
    assert row["error"] == pytest.approx(math.hypot(0.3, 0.5))  # 1 and 2: the error of their mean is 0.5


# The whole comparison


def make_runs(folder, **gpt):
    """Save an untrained dLLM and an untrained GPT, and return the flags that compare them. `gpt` is the GPT's shape."""
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
    """The folder with the numbers that chapter 10 measured for two tiny runs."""
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
    assert {row["temperature"] for row in samples["table"]} == set(comparison.TEMPERATURES)
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


def test_the_page_of_three_pairs_and_the_shipped_one(tmp_path, monkeypatch):
    monkeypatch.setitem(comparison.SIZES, "quick", SMALL)
    make_runs(tmp_path)
    run = dict(error=0.1, factor=1.0, weight_decay=0.1, curve=[{"step": 3, "seconds": 5.0}])
    dllm = run | dict(run=str(tmp_path / "dllm"), measure="NELBO", value=2.5)
    gpt = run | dict(run=str(tmp_path / "gpt"), measure="NLL", value=2.4)
    search = [dllm | {"run": "equal-dllm-1"}, gpt | {"run": "equal-gpt-1"}]
    trained = {"search": search, "chosen": {"dllm": [dllm] * 2, "gpt": [gpt] * 2}}
    monkeypatch.setattr(page.equal_pair, "read", lambda: trained)
    monkeypatch.setattr(page, "SHIPPED", {"dllm": dllm["run"], "gpt": gpt["run"]})
    checksum = hashlib.sha256(made_up_text().encode()).hexdigest()
    monkeypatch.setattr(page.text, "load", lambda name: text.Corpus("words", made_up_text()))
    assert text.Corpus("words", made_up_text()).sha256 == checksum
    page.main(["--size", "quick", "--device", "cpu", "--out", str(tmp_path)])
    article = (tmp_path / "dllm_vs_gpt.md").read_text(encoding="utf-8")
    figures = re.findall(r"!\[.*?\]\((.*?)\)", article)
    assert figures and all((tmp_path / name).is_file() for name in figures)
    monkeypatch.setattr(comparison, "speed", lambda *arguments: {"changed": True})
    found = page.measure(page.Command(only="speed", size="quick", device="cpu", out=tmp_path))
    assert found["speed"]["equal"] == {"changed": True} and len(found["equal"]) == 2  # the rest stays


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
