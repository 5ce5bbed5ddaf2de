"""Measures of text with known values, and the yardstick for texts of an invented language."""

import math
import random
import statistics
from collections import Counter

from helpers import LETTERS, made_up_text
from plumbing import measures

import pytest
import torch


@pytest.fixture
def text():
    return made_up_text()


# Means and errors


def test_the_mean_and_its_error_by_hand():
    assert measures.mean_and_error(torch.tensor([1.0, 2.0, 3.0, 6.0])) == pytest.approx((3, math.sqrt(14 / 3 / 4)))


def test_the_jackknife_of_a_mean_is_its_standard_error():
    found = measures.with_errors(lambda kept: {"mean": sum(kept) / len(kept)}, [1.0, 2.0, 3.5, 7.0, 7.5])
    assert (found["mean"], found["mean_error"]) == pytest.approx(
        measures.mean_and_error(torch.tensor([1.0, 2.0, 3.5, 7.0, 7.5])))


def test_the_jackknife_error_is_the_spread_of_the_measure():
    """The test uses known words, which are not a mean over texts, and many lists of texts of different lengths."""
    draw = random.Random(0)
    lists = []
    for _ in range(400):
        lengths = [draw.randint(2, 12) for _ in range(12)]
        lists.append([" ".join(draw.choices(("known", "other"), (3, 1), k=length)) for length in lengths])
    measure = lambda texts: {"words": measures.known_words(texts, {"known"})}  # noqa: E731
    found = [measures.with_errors(measure, texts) for texts in lists]
    spread = torch.tensor([one["words"] for one in found]).std().item()
    assert sum(one["words_error"] for one in found) / 400 == pytest.approx(spread, rel=0.1)


# Words and runs


def test_known_words():
    vocabulary = set(measures.words_of("The king's men, the end.\nWell-met: 'tis so!"))
    assert vocabulary == {"the", "king's", "men", "end", "well", "met", "'tis", "so"}
    assert measures.known_words(["the men", "THE mem!"], vocabulary) == 3 / 4
    assert measures.known_words(["  \n."], vocabulary) == 0  # no word at all
    assert measures.words_of("அகர, முதல… (கொடு)!") == ["அகர", "முதல", "கொடு"]  # Tamil vowel signs belong to words


def test_distinct_runs():
    assert measures.distinct(["abcdefg"]) == 1
    assert measures.distinct(["aaaaaaa"]) == 1 / 4
    assert measures.distinct(["abcd", "abcd"]) == 1 / 2  # over all texts together
    assert measures.distinct(["abc"]) == 0  # too short for a run


def test_runs_do_not_cross_the_border_of_two_texts():
    assert measures.count_runs(["abab", "babab"], n=3) == Counter({"bab": 3, "aba": 2})


def test_divergence():
    one = Counter({"abcd": 3, "bcde": 1})
    assert measures.divergence(one, Counter({"abcd": 30, "bcde": 10})) == pytest.approx(0)  # only shares count
    assert measures.divergence(one, Counter({"xyzx": 7})) == pytest.approx(math.log(2))
    both, alone = Counter("ab"), Counter("a")  # the mean of the shares is 3/4 for a and 1/4 for b
    expected = (math.log(2 / 3) / 2 + math.log(2) / 2 + math.log(4 / 3)) / 2
    assert measures.divergence(both, alone) == pytest.approx(expected)
    assert measures.divergence(alone, both) == pytest.approx(expected)


def test_longest_copy():
    text = "to be, or not to be, that is the question"
    assert measures.longest_copy(["xx not to be xx", "zz"], text) == len(" not to be")
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


# The yardstick

LENGTH, TEXTS = 200, 24  # characters of a text, and texts of a set


class Language:
    """A Markov chain of invented words. Each word has 12 possible followers, and frequent words follow more words."""

    def __init__(self):
        self.draw = random.Random(0)
        self.words = ["".join(self.draw.choices("abcdefghijklmnop", k=self.draw.randint(2, 7))) for _ in range(600)]
        self.weights = [1 / rank for rank in range(1, 601)]
        self.followers = {word: self.draw.choices(self.words, self.weights, k=12) for word in self.words}
        self.text = self.write(40_000)
        self.training = [self.text[i : i + LENGTH] for i in range(0, len(self.text), LENGTH)]
        held_out = self.texts(200)
        self.real = held_out[:TEXTS]
        judge, vocabulary = measures.Judge(self.text, 19), set(measures.words_of(self.text))
        self.yardstick = measures.Yardstick(self.real, held_out, self.training, judge, vocabulary)

    def write(self, length):
        text, word = "", self.draw.choices(self.words, self.weights)[0]
        while len(text) < length:
            text += word + self.draw.choice((" ", " ", " ", ".\n"))
            word = self.draw.choice(self.followers[word])
        return text[:length]

    def texts(self, number):
        return [self.write(LENGTH) for _ in range(number)]


@pytest.fixture(scope="module")
def language():
    return Language()


@pytest.fixture(scope="module")
def others(language):
    """The distances of eight other sets of real texts."""
    return [language.yardstick.quality(language.texts(TEXTS)) for _ in range(8)]


def test_real_text_has_no_distance_from_itself(language):
    found = language.yardstick.quality(language.real)
    assert all(gap == 0 for gap, _ in found["gaps"].values()) and found["largest"][0] == found["mean"][0] == 0


def test_the_unit_is_how_far_apart_sets_of_real_texts_are(others):
    for name in measures.MEASURES:
        distances, errors = zip(*(other["gaps"][name] for other in others))
        assert 0.4 < math.sqrt(sum(distance**2 for distance in distances) / 8) < 2
        assert 0.4 < sum(errors) / 8 < 2  # so the error of a distance is about one unit, too


def shuffled(language):
    """Return real texts with their words in random order."""
    lists = [text.split(" ") for text in language.texts(TEXTS)]
    return [" ".join(language.draw.sample(words, len(words))) for words in lists]


def misspelt(language):
    """Return real texts in which two letters of every word are exchanged."""
    return [" ".join(word[::-1] for word in text.split(" ")) for text in language.texts(TEXTS)]


def repeating(language):
    """Return texts that each repeat one real sentence."""
    return [(text[:40] * LENGTH)[:LENGTH] for text in language.texts(TEXTS)]


def one_text(language):
    """Return the same real text many times."""
    return language.texts(1) * TEXTS


def memorised(language):
    """Return pieces of the training text."""
    return language.draw.sample(language.training, TEXTS)


@pytest.mark.parametrize("make, measure, sign", [
    (shuffled, "judge", 1), (misspelt, "words", -1), (repeating, "divergence", 1), (one_text, "distinct", -1),
    (memorised, "judge", -1)])
def test_bad_texts_are_further_from_real_text_than_other_real_text(language, others, make, measure, sign):
    """The distance in `measure` has the right sign, and is far larger than its standard error."""
    bad = language.yardstick.quality(make(language))
    gap, error = bad["gaps"][measure]
    assert sign * gap > max(4, 3 * error, 1.5 * max(abs(other["gaps"][measure][0]) for other in others))
    assert bad["largest"][0] > 1.2 * max(other["largest"][0] for other in others)


def test_the_largest_and_the_mean_distance(language):
    found = language.yardstick.quality(shuffled(language))
    gaps = list(found["gaps"].values())
    assert found["largest"] == max((abs(gap), error) for gap, error in gaps)
    assert found["mean"][0] == pytest.approx(sum(abs(gap) for gap, _ in gaps) / 4)
    gap, _ = found["gaps"]["judge"]
    difference = found["judge"] - language.yardstick.real["judge"]
    assert gap * language.yardstick.spread["judge"] == pytest.approx(difference)


def test_the_error_of_the_mean_distance_is_its_spread_over_sets(language, monkeypatch):
    texts = language.texts(TEXTS)
    _, whole = language.yardstick.quality(texts)["mean"]
    real = language.yardstick.real
    monkeypatch.setattr(language.yardstick, "real_without", [real] * TEXTS)  # the real texts are always the same here
    assert whole > language.yardstick.quality(texts)["mean"][1]  # usually the choice of the real texts counts, too
    means, errors = zip(*(language.yardstick.quality(shuffled(language))["mean"] for _ in range(16)))
    assert 0.5 < sum(errors) / 16 / statistics.stdev(means) < 2


def test_a_few_short_texts_are_enough(language):
    """Short texts can be equal in every measure. The spread must still be positive, because we divide by it."""
    texts = ["ab ab ab ab", "ab ab ab ba", "ab ab ab ab."]
    yardstick = measures.Yardstick(texts[:2], texts, texts, measures.Judge(language.text, 19), {"ab"})
    found = yardstick.quality(["ba ba ba ba", "ab ab ab ab"])
    assert all(math.isfinite(number) for gap in found["gaps"].values() for number in gap)
