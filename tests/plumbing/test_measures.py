"""The measures of text, on texts whose values are known."""

import math
import random

import pytest
import torch
from helpers import LETTERS, made_up_text, seeded

from plumbing import measures


@pytest.fixture
def text():
    return made_up_text()


# Means and errors


def test_the_mean_and_its_error_by_hand():
    assert measures.mean_and_error(torch.tensor([1.0, 2.0, 3.0, 6.0])) == pytest.approx((3, math.sqrt(14 / 3 / 4)))


def test_the_standard_error_is_the_spread_of_many_means():
    draws = torch.randn(2000, 25, generator=seeded(0))
    errors = torch.tensor([measures.mean_and_error(row)[1] for row in draws])
    assert errors.mean().item() == pytest.approx(draws.mean(1).std().item(), rel=0.05)


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = [1.0, 2.0, 3.5, 7.0, 7.5]
    error = measures.jackknife_error(measures.left_out(lambda kept: sum(kept) / len(kept), values))
    assert error == pytest.approx(measures.mean_and_error(torch.tensor(values))[1])


def test_the_jackknife_error_is_the_spread_of_the_measure():
    """For known words, over many lists of texts whose lengths in words differ."""
    draw = random.Random(0)

    def texts():
        return [" ".join(draw.choices(("known", "other"), (3, 1), k=draw.randint(2, 12))) for _ in range(12)]

    lists = [texts() for _ in range(400)]
    measure = lambda samples: measures.known_words(samples, {"known"})  # noqa: E731
    spread = torch.tensor([measure(samples) for samples in lists]).std().item()
    errors = torch.tensor([measures.jackknife_error(measures.left_out(measure, samples)) for samples in lists])
    assert errors.mean().item() == pytest.approx(spread, rel=0.1)


# Words, runs and copies


def test_known_words():
    vocabulary = set(measures.words_of("The king's men, the end.\nWell-met: 'tis so!"))
    assert vocabulary == {"the", "king's", "men", "end", "well", "met", "'tis", "so"}
    assert measures.known_words(["the men", "THE mem!"], vocabulary) == 3 / 4
    assert measures.known_words(["  \n."], vocabulary) == 0  # no word at all


def test_known_words_in_tamil():
    vocabulary = set(measures.words_of("அகர முதல\nகொடு\n\n"))
    assert vocabulary == {"அகர", "முதல", "கொடு"} and measures.words_of("அகர, முதல… (கொடு)!") == ["அகர", "முதல", "கொடு"]
    assert measures.known_words(["அகர கொ", "கொடு"], vocabulary) == pytest.approx(2 / 3)


def test_distinct_runs():
    assert measures.distinct(["abcdefg"]) == 1
    assert measures.distinct(["aaaaaaa"]) == 1 / 4
    assert measures.distinct(["abcd", "abcd"]) == 1 / 2  # over all texts together
    assert measures.distinct(["abc"]) == 0  # too short for a run


def test_distinct_runs_become_fewer_with_more_text(text):
    texts = [text[i : i + 100] for i in range(0, 4000, 100)]
    shares = [measures.distinct(texts[:n]) for n in (5, 10, 20, 40)]
    assert shares == sorted(shares, reverse=True) and shares[0] > 1.5 * shares[-1]


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


# The judge


def test_the_judge_is_a_distribution(text):
    judge = measures.Judge(text, len(LETTERS), order=4)
    for context in ("", text[:1], text[100:103], text[500:520], "hhhhhh", "??"):
        probabilities = [judge.probability(context, character) for character in LETTERS]
        assert sum(probabilities) == pytest.approx(1) and min(probabilities) > 0


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


def test_quality_holds_every_measure_with_its_error(text):
    texts = [text[i : i + 200] for i in range(0, 1000, 200)]
    judge, vocabulary = measures.Judge(text[2000:], len(LETTERS)), set(measures.words_of(text[:500]))
    found = measures.quality(texts, judge, vocabulary)
    assert found["words"] == measures.known_words(texts, vocabulary)
    assert found["distinct"] == measures.distinct(texts)
    assert found["judge"] == pytest.approx(judge.nll(texts))
    assert all(0 < found[f"{name}_error"] < 0.2 for name in ("words", "distinct", "judge"))
    same = measures.quality([texts[0]] * 4, judge, vocabulary)
    assert same["words_error"] == pytest.approx(0) and same["judge_error"] == pytest.approx(0)


# Blanks


def test_exact_characters_of_fillers_that_know_the_answer_or_never_do():
    windows = torch.randint(8, (30, 17), generator=seeded(0))
    asked = []

    def knows(rows, start, end):
        asked.append((start, end))
        return rows[:, start:end]

    assert measures.exact_characters(knows, windows, 4, batch_size=8) == (1, 0)
    assert set(asked) == {(6, 10)} and len(asked) == 4  # in the middle
    assert measures.exact_characters(lambda rows, s, e: (rows[:, s:e] + 1) % 8, windows, 4)[0] == 0
    mean, error = measures.exact_characters(lambda rows, s, e: torch.zeros_like(rows[:, s:e]), windows, 4)
    assert mean == pytest.approx((windows[:, 6:10] == 0).double().mean().item()) and 0 < error < 0.2


def test_the_bigram_follows_its_counts():
    ids = torch.tensor([0, 1, 0, 1, 0, 2, 2, 2, 0, 1])
    bigram = measures.Bigram(ids, 3)
    assert bigram.next.tolist() == [1, 0, 2]
    assert bigram.fill(torch.tensor([[0, 9, 9, 9, 9]]), 1, 4).tolist() == [[1, 0, 1]]
