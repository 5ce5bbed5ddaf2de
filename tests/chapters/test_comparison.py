"""Chapter 10: every measure on texts with known answers, and the report from two tiny runs."""

import dataclasses
import hashlib
import json
import math
import random
import re
from importlib import import_module

import pytest
import torch
from conftest import Unigram

from plumbing import checkpoint, cli, measures, tokenizers
from plumbing.reports import dllm_vs_gpt as report

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
comparison = import_module("10_dllm_vs_gpt")
verse = import_module("09_generate_tamil")

LETTERS = "\n abcdefgh."


@pytest.fixture
def text():
    """4,000 characters of made-up words."""
    draw = random.Random(0)
    words = ["".join(draw.choices(LETTERS[2:10], k=draw.randint(1, 6))) for _ in range(60)]
    return "".join(draw.choice(words) + draw.choice((" ", " ", " ", ".\n")) for _ in range(1200))[:4000]


# Samples


def test_known_words():
    vocabulary = set(measures.words_of("The king's men, the end.\nWell-met: 'tis so!"))
    assert vocabulary == {"the", "king's", "men", "end", "well", "met", "'tis", "so"}
    assert measures.known_words(["the men", "THE mem!"], vocabulary) == 3 / 4
    assert measures.known_words(["  \n."], vocabulary) == 0  # no word at all


def test_distinct_runs():
    assert measures.distinct(["abcdefg"]) == 1
    assert measures.distinct(["aaaaaaa"]) == 1 / 4
    assert measures.distinct(["abcd", "abcd"]) == 1 / 2  # over all texts together
    assert measures.distinct(["abc"]) == 0  # too short for a run


def test_longest_copy():
    text = "to be, or not to be, that is the question"
    assert measures.longest_copy(["xx not to be xx", "zz"], text) == len(" not to be")
    assert measures.longest_copy([text], text) == len(text)
    assert measures.longest_copy(["ZZZ", ""], text) == 0
    draw = random.Random(1)
    for _ in range(20):  # against trying every run
        text, sample = ("".join(draw.choices("ab", k=n)) for n in (60, 25))
        runs = [sample[i:j] for i in range(25) for j in range(i + 1, 26)]
        assert measures.longest_copy([sample], text) == max(len(run) for run in runs if run in text)


def test_the_judge_is_a_distribution(text):
    judge = measures.Judge(text, len(LETTERS), order=4)
    for context in ("", text[:1], text[100:103], text[500:520], "hhhhhh", "??"):
        total = sum(judge.probability(context, character) for character in LETTERS)
        assert total == pytest.approx(1)
        assert min(judge.probability(context, character) for character in LETTERS) > 0


def test_the_judge_against_counts_by_hand():
    judge = measures.Judge("abababac", 3, order=2)  # of 6 starts: a 3 times (b follows), b 3 times (a follows)
    lowest = (3 + 2 / 3) / (6 + 2)  # p(b) with no context, over the uniform 1/3
    assert judge.probability("", "b") == pytest.approx(lowest)
    assert judge.probability("a", "b") == pytest.approx((3 + lowest) / (3 + 1))
    assert judge.probability("xxa", "b") == judge.probability("a", "b")  # one character of context counts
    assert judge.nll(["ab"]) == pytest.approx(-math.log(judge.probability("a", "b")))


def test_the_judge_prefers_its_own_text(text):
    judge = measures.Judge(text, len(LETTERS))
    draw = random.Random(0)
    noise = "".join(draw.choices(LETTERS, k=400))
    assert judge.nll([text[:400]]) < judge.nll([noise]) - 1
    assert judge.nll([noise]) > math.log(len(LETTERS)) - 0.3


# Likelihood


def test_loss_with_visible_characters_of_a_unigram_model_is_its_cross_entropy(tiny):
    frequencies = torch.tensor([0.3, 0.25, 0.15, 0.1, 0.08, 0.06, 0.04, 0.02])
    model = Unigram(tiny.config, frequencies)
    generator = torch.Generator().manual_seed(0)
    x0 = torch.multinomial(frequencies, 2000 * 16, replacement=True, generator=generator).view(2000, 16)
    x0[:, 0] = 7  # given, and never counted
    exact = -frequencies.log()[x0[:, 1:]].mean().item()
    for visible in (1, 5, 15):
        mean, error = comparison.loss_with_visible(model, x0, visible)
        assert abs(mean - exact) < 4 * error


def test_the_mean_over_visible_characters_is_the_nelbo(tiny):
    for parameter in tiny.model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x0 = torch.randint(tiny.config.vocab_size, (300, 16), generator=torch.Generator().manual_seed(0))
    losses = [comparison.loss_with_visible(tiny.model, x0, visible, seed=visible) for visible in range(1, 16)]
    mean = sum(loss for loss, _ in losses) / 15
    bound, error = diffusion.nelbo(tiny.model, x0, draws=8, given=1)
    assert abs(mean - bound) < 4 * math.hypot(error, max(e for _, e in losses))


# Infilling


def test_infilling_by_one_who_knows_the_answer_and_by_one_who_never_does(tiny):
    windows = torch.randint(8, (30, 17), generator=torch.Generator().manual_seed(0))
    asked = []

    def knows(rows, start, end):
        asked.append((start, end))
        return rows[:, start:end]

    assert comparison.exact_characters(knows, windows, 4, batch_size=8) == (1, 0)
    assert set(asked) == {(6, 10)} and len(asked) == 4  # in the middle
    assert comparison.exact_characters(lambda rows, s, e: (rows[:, s:e] + 1) % 8, windows, 4)[0] == 0
    mean, error = comparison.exact_characters(lambda rows, s, e: torch.zeros_like(rows[:, s:e]), windows, 4)
    assert mean == pytest.approx((windows[:, 6:10] == 0).double().mean().item()) and 0 < error < 0.2


class Neighbours(torch.nn.Module):
    """Knows sequences that count up: a masked token follows its visible neighbour, on either side."""

    def __init__(self, config):
        super().__init__()
        self.config = config

    def forward(self, tokens, t=None):
        V = self.config.vocab_size
        known = tokens < V
        logits = torch.zeros(*tokens.shape, V)
        left, right = (tokens.roll(1, 1) + 1) % V, (tokens.roll(-1, 1) - 1) % V
        for guess, seen in ((left, known.roll(1, 1)), (right, known.roll(-1, 1))):
            logits += 9 * torch.nn.functional.one_hot(guess, V) * seen[..., None]
        return logits


def test_infilling_starts_where_the_model_is_surest(tiny):
    windows = (torch.arange(17) + torch.arange(8)[:, None]) % 8
    model = Neighbours(tiny.config)
    for blank in (1, 5, 8):
        filler = lambda *where: comparison.fill(model, *where)  # noqa: E731
        assert comparison.exact_characters(filler, windows, blank) == (1, 0)


def test_a_gpt_fills_from_the_left_only(tiny):
    torch.manual_seed(0)
    gpt = transformer.Transformer(dataclasses.replace(tiny.config, causal=True)).eval()
    for parameter in gpt.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    rows = torch.randint(8, (5, 17))
    other = rows.clone()
    other[:, 9:] = torch.randint(8, (5, 8))
    filled = comparison.fill(gpt, rows, 6, 9)
    assert filled.shape == (5, 3) and torch.equal(filled, comparison.fill(gpt, other, 6, 9))
    assert torch.equal(filled[:, 0], gpt(rows[:, :6])[:, -1].argmax(-1))  # greedy


def test_the_bigram_follows_its_counts():
    ids = torch.tensor([0, 1, 0, 1, 0, 2, 2, 2, 0, 1])
    bigram = comparison.Bigram(ids, 3)
    assert bigram.next.tolist() == [1, 0, 2]
    assert bigram.fill(torch.tensor([[0, 9, 9, 9, 9]]), 1, 4).tolist() == [[1, 0, 1]]


# The report


@pytest.fixture
def two_runs(tmp_path, text, monkeypatch):
    """A corpus, an untrained dLLM and an untrained GPT of it, and a size that takes seconds."""
    path = tmp_path / "words.txt"
    path.write_text(text, encoding="utf-8")
    tokenizer = tokenizers.CharTokenizer.from_text(text)
    for name, causal in (("one", False), ("two", True)):
        torch.manual_seed(0)
        config = transformer.TransformerConfig(tokenizer.vocab_size, 16, 1, 2, 16, causal=causal)
        info = {"corpus_sha256": hashlib.sha256(text.encode()).hexdigest(), "train": {"seed": 1, "ema": 0.9}}
        checkpoint.save(tmp_path / name, transformer.Transformer(config), tokenizer, info)
    reuse = dict(n_layer=1, n_head=1, n_embd=8, seq_len=8, batch_size=2, steps=6, evaluate_every=2, compile="off")
    monkeypatch.setitem(comparison.SIZES, "quick", comparison.Size(1, 4, 4, 2, (2, 4), reuse))
    monkeypatch.setattr(comparison, "BLANKS", (1, 4))
    monkeypatch.setattr("sys.argv", ["10_dllm_vs_gpt.py"])
    return ["--corpus", str(path), "--dllm", str(tmp_path / "one"), "--gpt", str(tmp_path / "two"),
            "--size", "quick", "--device", "cpu", "--out", str(tmp_path / "docs")]


def test_the_report_from_two_tiny_runs(two_runs, tmp_path):
    comparison.main(two_runs)
    out = tmp_path / "docs"
    article = (out / "dllm_vs_gpt.md").read_text(encoding="utf-8")
    figures = re.findall(r"!\[.*?\]\((.*?)\)", article)
    assert len(figures) == 5 and all((out / name).is_file() for name in figures)
    assert {path.name for path in (out / "figures").iterdir()} == {name.split("/")[1] for name in figures}
    assert article.count("\n## ") == 7
    results = json.loads((out / "dllm_vs_gpt.json").read_text(encoding="utf-8"))
    bound, samples = results["likelihood"]["dllm"], results["samples"]
    assert f"{bound['NELBO']:.4f} ± {bound['error']:.4f}" in article
    assert abs(bound["NELBO"] - math.log(10)) < 0.2 > abs(results["likelihood"]["gpt"]["NLL"] - math.log(10))
    assert {(r["model"], r["nfe"]) for r in samples["table"]} == {("dllm", 2), ("dllm", 4), ("gpt", 16)}
    assert samples["real"]["words"] > 0.7 > max(r["words"] for r in samples["table"])  # cut words; noise
    runs = results["reuse"]["runs"]
    assert len(runs) == 9 and all(r["curve"][-1]["step"] == 4 for r in runs)  # the last evaluation stands apart
    losses = {r["model"]: r["end"]["loss"] for r in runs if r["fraction"] == 1}
    assert losses["gpt"] != losses["decayed"] and "; with weight decay it is" in article
    for r in runs:
        assert r["end"]["epochs"] == pytest.approx(4 * 2 * 8 / r["characters"])
    assert results["seed"] == 1 and results["dllm"]["info"]["train"]["seed"] == 1
    assert report.article(results) == article  # a function of the numbers alone


def test_verdicts_follow_the_numbers():
    assert report.winner(1.0, 2.0) == "GPT" and report.winner(1.0, 2.0, lower=True) == "dLLM"
    assert report.winner(1.0, 2.0, error=0.6) == "neither"
    assert report.winner(2.0, 1.0, error=0.4) == "dLLM"


def test_the_article_turns_with_the_numbers(two_runs, tmp_path):
    comparison.main(two_runs)
    results = json.loads((tmp_path / "docs" / "dllm_vs_gpt.json").read_text(encoding="utf-8"))
    losses = results["likelihood"]
    for bound, words in ((1.0, "The dLLM is ahead by at least 1.000"), (3.0, "The GPT is ahead by 1.000"),
                         (2.0, "equal within the error")):
        losses["dllm"].update(NELBO=bound, error=0.01)
        losses["gpt"].update(NLL=2.0)
        assert words in report.article(results)
    best, end = ({"step": step, "epochs": step / 10, "loss": loss} for step, loss in ((10, 2.0), (40, 2.5)))
    assert report.course({"best": best, "end": end}) == "is lowest after 1.0 epochs and ends 0.500 higher"
    assert report.course({"best": end, "end": end}) == "is at its lowest at the end, after 4.0 epochs"
    results["dllm"]["parameters"] = 3 * results["gpt"]["parameters"]
    assert "the dLLM has 3.0 times the parameters" in report.article(results)


def stopped(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.run(lambda: comparison.main(command))
    lines = capsys.readouterr().err.strip().splitlines()
    assert end.value.code == 2 and len(lines) == 1
    return lines[0]


def test_a_missing_run_names_the_command_that_makes_it(two_runs, tmp_path, monkeypatch, capsys):
    for name in ("RUNS", "SHIPPED", "SHIPPED_GPT"):
        monkeypatch.setattr(checkpoint, name, tmp_path / "none")
    for kind, script in (("--dllm", "05_train.py"), ("--gpt", "07_train_gpt.py")):
        at = two_runs.index(kind)
        assert f"python {script}" in stopped(two_runs[:at] + two_runs[at + 2 :], capsys)


def test_what_cannot_work_is_said_before_the_work(two_runs, tmp_path, capsys):
    assert "from 0 to" in stopped([*two_runs, "--seed", "-1"], capsys)
    assert "is not a folder" in stopped([*two_runs, "--out", str(tmp_path / "words.txt")], capsys)


def test_wrong_runs(two_runs, tmp_path, text, capsys):
    swapped = [str(tmp_path / {"one": "two", "two": "one"}.get(word.split("/")[-1], word)) if "/" in word else word
               for word in two_runs]
    assert "is not a dllm" in stopped(swapped, capsys)
    (tmp_path / "words.txt").write_text(text + " ab", encoding="utf-8")
    assert "another text" in stopped(two_runs, capsys)
