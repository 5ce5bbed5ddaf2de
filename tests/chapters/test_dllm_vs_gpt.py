"""Chapter 10: losses and fillers with known answers, verdicts, and the page from two tiny runs."""

import dataclasses
import hashlib
import json
import math
import re
import shutil
import signal
from importlib import import_module

import pytest
import torch
from helpers import Unigram, made_up_text, refusal, seeded

from plumbing import checkpoint, cli, files, measures, nearness, pair, runs, settings, tokenizers
from plumbing.reports import comparison_parts, data_reuse, pages
from plumbing.reports import comparison_verdicts as verdicts
from plumbing.reports import dllm_vs_gpt as report

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
comparison = import_module("10_dllm_vs_gpt")


@pytest.fixture
def text():
    return made_up_text()


# Likelihood


def test_loss_with_visible_characters_of_a_unigram_model_is_its_cross_entropy(tiny):
    frequencies = torch.tensor([0.3, 0.25, 0.15, 0.1, 0.08, 0.06, 0.04, 0.02])
    model = Unigram(tiny.config, frequencies)
    generator = seeded(0)
    x0 = torch.multinomial(frequencies, 2000 * 16, replacement=True, generator=generator).view(2000, 16)
    x0[:, 0] = 7  # given, and never counted
    exact = -frequencies.log()[x0[:, 1:]].mean().item()
    for visible in (1, 5, 15):
        mean, error = comparison.loss_with_visible(model, x0, visible)
        assert abs(mean - exact) < 4 * error


def test_the_mean_over_visible_characters_is_the_nelbo(tiny):
    for parameter in tiny.model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x0 = torch.randint(tiny.config.vocab_size, (300, 16), generator=seeded(0))
    losses = [comparison.loss_with_visible(tiny.model, x0, visible, seed=visible) for visible in range(1, 16)]
    mean = sum(loss for loss, _ in losses) / 15
    bound, error = diffusion.nelbo(tiny.model, x0, draws=8, given=1)
    assert abs(mean - bound) < 4 * math.hypot(error, max(e for _, e in losses))


@pytest.mark.parametrize("length", [2, 3, 4])
def test_the_nelbo_of_equal_letters_is_their_entropy_and_not_below(length):
    for letter in (0, 1):
        text = torch.full((length,), letter)
        steps, _ = diffusion.derive_bound(comparison.EqualLetters(), text)
        assert all(nats == pytest.approx(math.log(2), abs=1e-3) for nats in steps.values())  # NLL and NELBO
        bound, error = diffusion.nelbo(comparison.EqualLetters(), text[None], draws=12 * length)
        assert length * bound == pytest.approx(math.log(2), abs=1e-6) and error == 0


@pytest.mark.parametrize("length", [2, 3, 4])
def test_if_the_letters_of_a_step_are_coupled_the_same_sum_is_no_bound(length):
    """The coupled letters of a whole text cost ln 2, as they must: this is the NLL of writing it in one step."""
    text = torch.ones(length, dtype=torch.long)
    model, masks = comparison.EqualLetters(text), torch.full((1, length), 2)
    cost = diffusion.masked_cross_entropy(model, text[None], masks, torch.ones(1)).sum().item()
    assert cost == pytest.approx(math.log(2))
    total = length * diffusion.nelbo(model, text[None], draws=12 * length)[0]
    assert total == pytest.approx(math.log(2) / length) and total < cost


def test_a_worse_model_of_equal_letters_has_a_higher_nelbo():
    """The entropy is the lowest mean NLL of every model, so also of one that gives both letters 1/2 everywhere."""
    class Ignorant(comparison.EqualLetters):
        def forward(self, tokens, t=None):
            return 0 * super().forward(tokens, t)

    bound, _ = diffusion.nelbo(Ignorant(), torch.zeros(1, 4, dtype=torch.long), draws=40)
    assert 4 * bound == pytest.approx(4 * math.log(2))


def test_the_demonstration_of_a_false_bound(capsys):
    table = comparison.false_bound()
    *_, entropy, bound, false = capsys.readouterr().out.splitlines()
    assert [row["length"] for row in table] == [2, 4]
    assert entropy.count("0.693") == bound.count("0.693") == 2 and "0.347" in false and "0.173" in false
    for row in table:
        assert row["coupled"] < row["entropy"] == math.log(2) == pytest.approx(row["NELBO"])


# Infilling


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
        assert measures.exact_characters(filler, windows, blank) == (1, 0)


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


# Reading the same text again


def test_ctrl_c_in_a_training_run_ends_the_whole_comparison(tiny, monkeypatch, capsys):
    handler = signal.getsignal(signal.SIGINT)
    count = runs.Run.count_step
    monkeypatch.setattr(runs.Run, "count_step", lambda *step: (signal.raise_signal(signal.SIGINT), count(*step)))
    data = torch.randint(8, (400,), generator=seeded(0))
    size = comparison.Size(shape=dict(n_layer=1, n_head=1, n_embd=8, seq_len=8),
                           train=dict(batch_size=2, steps=6, evaluate_every=2, compile="off"))
    with pytest.raises(KeyboardInterrupt):
        data_reuse.measure(data, data, comparison.FRACTIONS, comparison.LEARNERS, size, 1, tiny.tokenizer)
    assert signal.getsignal(signal.SIGINT) is handler and "lowest" not in capsys.readouterr().out.split("overfits")[1]


# The page


@pytest.fixture
def two_runs(tmp_path, text, monkeypatch):
    """The flags for a corpus, and an untrained dLLM and an untrained GPT of it. The sizes take seconds."""
    return make_runs(tmp_path, text, monkeypatch)


def make_runs(folder, text, monkeypatch):
    path = folder / "words.txt"
    path.write_text(text, encoding="utf-8")
    tokenizer = tokenizers.CharTokenizer.from_text(text)
    for name, causal in (("one", False), ("two", True)):
        torch.manual_seed(0)
        config = transformer.TransformerConfig(tokenizer.vocab_size, 16, 1, 2, 16, causal=causal)
        info = {"corpus_sha256": hashlib.sha256(text.encode()).hexdigest(), "train": {"seed": 1, "ema": 0.9}}
        checkpoint.save(folder / name, transformer.Transformer(config), tokenizer, info)
    size = comparison.Size(1, 4, 4, 2, (2, 4), dict(n_layer=1, n_head=1, n_embd=8, seq_len=8),
                           dict(batch_size=2, steps=6, evaluate_every=2, compile="off"))
    monkeypatch.setitem(comparison.SIZES, "quick", size)
    monkeypatch.setattr(comparison, "BLANKS", (1, 4))
    monkeypatch.setattr("sys.argv", ["10_dllm_vs_gpt.py"])
    return ["--corpus", str(path), "--dllm", str(folder / "one"), "--gpt", str(folder / "two"),
            "--size", "quick", "--device", "cpu", "--out", str(folder / "docs")]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of a page that chapter 10 has written."""
    folder = tmp_path_factory.mktemp("comparison")
    with pytest.MonkeyPatch.context() as monkeypatch:
        comparison.main(make_runs(folder, made_up_text(), monkeypatch))
    return folder / "docs"


@pytest.fixture
def results(written):
    return json.loads((written / "dllm_vs_gpt.json").read_text(encoding="utf-8"))


def test_the_page_from_two_tiny_runs(written, results):
    article = (written / "dllm_vs_gpt.md").read_text(encoding="utf-8")
    figures = re.findall(r"!\[.*?\]\((.*?)\)", article)
    assert len(figures) == 5 and all((written / name).is_file() for name in figures)
    assert {path.name for path in (written / "figures").iterdir()} == {name.split("/")[1] for name in figures}
    assert article.count("\n## ") == 7
    bound, samples = results["likelihood"]["dllm"], results["samples"]
    assert f"{bound['NELBO']:.4f} ± {bound['error']:.4f}" in article
    assert abs(bound["NELBO"] - math.log(10)) < 0.2 > abs(results["likelihood"]["gpt"]["NLL"] - math.log(10))
    assert {(r["model"], r["nfe"]) for r in samples["table"]} == {("dllm", 2), ("dllm", 4), ("gpt", 16)}
    assert samples["real"]["words"] > 0.7 > max(r["words"] for r in samples["table"])  # cut words; noise
    for row in (samples["real"], *samples["table"]):
        assert all(0 <= row[f"{key}_error"] < 0.5 for key in nearness.MEASURES) and row["judge_error"] > 0
    assert {r["temperature"] for r in samples["table"]} == {0.8, 0.9, 1.0}
    for row in samples["table"]:
        distances = [abs(distance) for distance, _ in row["gaps"].values()]
        assert row["largest"][0] == max(distances) and row["mean"][0] == pytest.approx(sum(distances) / 4)
        gap, error = row["gaps"]["judge"]
        assert gap * samples["spread"]["judge"] == pytest.approx(row["judge"] - samples["real"]["judge"]) and error > 0
        for key in ("largest", "mean"):
            assert "{:.1f} ± {:.1f}".format(*row[key]) in article
    assert all(row["error"] > 0 and row["characters_per_second"] > 0 for row in results["speed"]["table"])
    runs = results["reuse"]["runs"]
    assert len(runs) == 9 and all(r["curve"][-1]["step"] == 4 for r in runs)  # the last evaluation stands apart
    losses = {r["model"]: r["end"]["loss"] for r in runs if r["fraction"] == 1}
    assert losses["gpt"] != losses["decayed"] and "; with weight decay it is" in " ".join(article.split())
    for r in runs:
        assert r["end"]["epochs"] == pytest.approx(4 * 2 * 8 / r["characters"])
    assert results["seed"] == 1 and results["dllm"]["info"]["train"]["seed"] == 1
    assert report.article(results) == article  # a function of the numbers alone


def test_the_committed_page_is_made_from_the_committed_numbers():
    docs = files.ROOT / "docs"
    results = json.loads((docs / "dllm_vs_gpt.json").read_text(encoding="utf-8"))
    assert report.article(results) == (docs / "dllm_vs_gpt.md").read_text(encoding="utf-8")


def test_the_page_is_written_again_from_its_numbers(written, tmp_path):
    shutil.copy(written / "dllm_vs_gpt.json", tmp_path)
    report.main(["--folder", str(tmp_path)])
    for name in ("dllm_vs_gpt.md", "dllm_vs_gpt.json"):
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()
    with pytest.raises(cli.UserError, match="10_dllm_vs_gpt.py --out"):
        report.main(["--folder", str(tmp_path / "none")])


def test_lines_of_the_page_are_wrapped_and_quotes_are_kept():
    kept = "| x | y |\n|---|---|\n\n" + pages.quote("  e" * 90 + "\n\nf")
    text = "a " * 100 + "\n\n- b " + "c " * 100 + "\n- d\n\n" + kept
    wrapped = pages.wrap(text)
    assert " ".join(wrapped.split()) == " ".join(text.split()) and wrapped.endswith("\n- d\n\n" + kept)
    assert max(len(line) for line in wrapped.splitlines() if "e" not in line) <= 118
    assert "\n- b c" in wrapped and "\n  c c" in wrapped and "\n- d\n" in wrapped


# Verdicts


def test_verdicts_follow_the_numbers():
    assert verdicts.winner(1.0, 2.0) == "GPT" and verdicts.winner(1.0, 2.0, lower=True) == "dLLM"
    assert verdicts.winner(1.0, 2.0, error=0.6) == verdicts.NO_DIFFERENCE
    assert verdicts.winner(2.0, 1.0, error=0.4) == "dLLM"


def measured(value, error=0.01):
    return {"words": value, "words_error": error}


@pytest.mark.parametrize("dllm, gpt, better", [
    (0.98, 0.90, "GPT"),  # real text has 0.91: a higher share of known words is not better
    (0.92, 0.98, "dLLM"),
    (0.94, 0.93, verdicts.NO_DIFFERENCE),
    (0.90, 0.94, verdicts.NO_DIFFERENCE),  # 0.01 below and 0.03 above: the error of real text counts twice
])
def test_the_model_nearer_to_real_text_is_better(dllm, gpt, better):
    real = measured(0.91)
    assert verdicts.nearer(measured(dllm), measured(gpt), real, "words") == better
    other = {"dLLM": "GPT", "GPT": "dLLM"}.get(better, better)
    assert verdicts.nearer(measured(gpt), measured(dllm), real, "words") == other


def test_a_verdict_on_each_measure_and_on_the_mean_distance(results):
    found = {question: (x, y, better) for question, x, y, better in verdicts.decisions(results)}
    for temperature in ("0.8", "1"):
        for name in ("Known words", "Distinct runs", "Divergence", "Judge's NLL"):
            assert sum(question.startswith(f"{name} at temperature {temperature},") for question in found) == 1
    x, y = (verdicts.sample_row(results, model, 0.8) for model in ("dllm", "gpt"))
    for distances, better in (((2.0, 5.0), "dLLM"), ((5.0, 2.0), "GPT"), ((5.0, 4.0), verdicts.NO_DIFFERENCE)):
        x["mean"], y["mean"] = ([distance, 0.6] for distance in distances)
        row = next(r for r in verdicts.decisions(results) if r[0] == "Mean distance from real text at temperature 0.8")
        assert row[1:] == (f"{distances[0]} ± 0.6", f"{distances[1]} ± 0.6", better)


@pytest.mark.parametrize("truth", [(0.5, 0.9, 0.7), (0.9, 0.8, 0.7)])  # on both sides of real text, and on one side
def test_the_error_of_the_difference_of_distances(truth, monkeypatch):
    """The error that `nearer` computes is the spread of the difference over many repetitions of the experiment."""
    errors, seen = (0.01, 0.02, 0.03), []
    monkeypatch.setattr(verdicts, "winner", lambda x, y, error, lower: seen.append((x - y, error)))
    draws = torch.randn(4000, 3, generator=seeded(0), dtype=torch.float64)
    for draw in (draws * torch.tensor(errors) + torch.tensor(truth)).tolist():
        verdicts.nearer(*map(measured, draw, errors), "words")
    differences, computed = torch.tensor(seen, dtype=torch.float64).unbind(1)
    assert computed.mean().item() == pytest.approx(differences.std().item(), rel=0.05)


def test_the_page_turns_with_the_numbers(results):
    losses = results["likelihood"]
    for bound, words in ((1.0, "The dLLM is ahead by at least 1.000"), (3.0, "The GPT is ahead by 1.000"),
                         (2.0, "within two standard errors")):
        losses["dllm"].update(NELBO=bound, error=0.01)
        losses["gpt"].update(NLL=2.0)
        assert words in report.article(results)
    best, end = ({"step": step, "epochs": step / 10, "loss": loss} for step, loss in ((10, 2.0), (40, 2.5)))
    course = comparison_parts.course
    assert course({"best": best, "end": end}) == "is lowest after 1.0 epochs and ends 0.500 higher"
    assert course({"best": end, "end": end}) == "is lowest at the end, after 4.0 epochs"
    results["dllm"]["parameters"] = 3 * results["gpt"]["parameters"]
    assert "the dLLM has 3.0 times the parameters" in report.article(results)
    results["dllm"]["info"]["NELBO"] = 1.234
    assert "recorded a NELBO of 1.234" in " ".join(report.article(results).split())


# The command


def prepared(flags):
    return comparison.prepare(settings.parse(comparison.Command, flags), comparison.SIZES)


def test_by_default_the_page_is_beside_the_run(two_runs, tmp_path):
    at = two_runs.index("--out")
    command, *_ = prepared(two_runs[:at] + two_runs[at + 2 :])
    assert command.out == tmp_path / "one" / "report" and (command.out / "figures").is_dir()
    assert (command.size, command.device) == ("quick", torch.device("cpu"))


def test_models_of_different_sizes_are_compared_with_a_warning(two_runs, tmp_path, text, capsys):
    prepared(two_runs)
    assert "dLLM: one" in (same := capsys.readouterr().out) and "GPT:  two" in same and "Warning" not in same
    model, tokenizer, info = checkpoint.load(tmp_path / "two")
    larger = dataclasses.replace(model.config, n_layer=3)
    checkpoint.save(tmp_path / "two", transformer.Transformer(larger), tokenizer, info)
    prepared(two_runs)
    warning = capsys.readouterr().out
    assert "Warning" in warning and "times as many parameters" in warning
    assert f"python 07_train_gpt.py --corpus {tmp_path / 'words.txt'} --run partner --n-layer 1 --n-head 2" in warning


def test_the_partner_of_a_shipped_dllm_is_a_dllm_of_the_shape_of_your_gpt():
    shape = dict(n_layer=2, n_head=3, n_embd=96, seq_len=128, conv=5, conv_in="every")
    shipped, own = {"name": "shakespeare", "model": {}}, {"name": "mine", "model": shape}
    command = pair.matching_command(shipped, own, "my text.txt")
    assert command == ("python 05_train.py --corpus 'my text.txt' --run partner --n-layer 2 --n-head 3 --n-embd 96 "
                       "--seq-len 128 --conv 5 --conv-in every")


def test_a_missing_run_names_the_command_that_makes_it(two_runs, tmp_path, monkeypatch):
    for name in ("RUNS", "SHIPPED", "SHIPPED_GPT"):
        monkeypatch.setattr(checkpoint, name, tmp_path / "none")
    for kind, script in (("--dllm", "05_train.py"), ("--gpt", "07_train_gpt.py")):
        at = two_runs.index(kind)
        assert f"python {script}" in refusal(comparison.main, two_runs[:at] + two_runs[at + 2 :])


def test_what_cannot_work_is_said_before_the_work(two_runs, tmp_path):
    assert "from 0 to" in refusal(comparison.main, [*two_runs, "--seed", "-1"])
    assert "quick" in refusal(comparison.main, [*two_runs, "--size", "huge"])
    assert "is not a folder" in refusal(comparison.main, [*two_runs, "--out", str(tmp_path / "words.txt")])


def test_wrong_runs(two_runs, tmp_path, text):
    swapped = [str(tmp_path / {"one": "two", "two": "one"}.get(word.split("/")[-1], word)) if "/" in word else word
               for word in two_runs]
    assert "is not a dllm" in refusal(comparison.main, swapped)
    (tmp_path / "words.txt").write_text(text + " ab", encoding="utf-8")
    assert "another text" in refusal(comparison.main, two_runs)
