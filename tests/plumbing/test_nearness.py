"""The yardstick for nearness to real text, with texts of known quality in a small language that is made here."""

import math
import random
from collections import Counter

import pytest

from plumbing import measures, nearness

LENGTH, TEXTS = 200, 24  # characters of a text, and texts of a set


class Language:
    """A Markov chain over invented words: each word has 12 followers, and frequent words follow more words."""

    def __init__(self):
        self.draw = random.Random(0)
        self.words = ["".join(self.draw.choices("abcdefghijklmnop", k=self.draw.randint(2, 7))) for _ in range(600)]
        self.weights = [1 / rank for rank in range(1, 601)]
        self.followers = {word: self.draw.choices(self.words, self.weights, k=12) for word in self.words}
        self.text = self.write(40_000)
        self.training = [self.text[i : i + LENGTH] for i in range(0, len(self.text), LENGTH)]
        self.held_out = self.texts(200)
        judge, vocabulary = measures.Judge(self.text, 19), set(measures.words_of(self.text))
        self.yardstick = nearness.Yardstick(self.held_out[:TEXTS], self.held_out, self.training, judge, vocabulary)

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


# Divergence


def test_the_divergence_of_equal_and_of_disjoint_texts():
    one = Counter({"abcd": 3, "bcde": 1})
    assert nearness.divergence(one, one) == pytest.approx(0)
    assert nearness.divergence(one, Counter({"abcd": 30, "bcde": 10})) == pytest.approx(0)  # only shares count
    assert nearness.divergence(one, Counter({"xyzx": 7})) == pytest.approx(math.log(2))


def test_the_divergence_by_hand():
    both, alone = Counter("ab"), Counter("a")  # the mean of the shares is 3/4 for a and 1/4 for b
    expected = (math.log(2 / 3) / 2 + math.log(2) / 2 + math.log(4 / 3)) / 2
    assert nearness.divergence(both, alone) == pytest.approx(expected)
    assert nearness.divergence(alone, both) == pytest.approx(expected)


def test_runs_do_not_cross_the_border_of_two_texts():
    assert nearness.count_runs(["abab", "babab"], n=3) == Counter({"bab": 3, "aba": 2})


# The yardstick


def test_real_text_has_no_distance_from_itself(language):
    found = language.yardstick.quality(language.held_out[:TEXTS])
    assert all(gap == 0 for gap, _ in found["gaps"].values()) and found["largest"][0] == found["mean"][0] == 0


def test_the_unit_is_how_far_apart_sets_of_real_texts_are(language):
    gaps = [language.yardstick.quality(language.texts(TEXTS))["gaps"] for _ in range(8)]
    for key in nearness.MEASURES:
        distances, errors = zip(*(gap[key] for gap in gaps))
        assert 0.4 < math.sqrt(sum(distance**2 for distance in distances) / 8) < 2
        assert 0.4 < sum(errors) / 8 < 2  # so the error of a distance is about one unit, too


@pytest.fixture(scope="module")
def others(language):
    """The distances of three more sets of real texts."""
    return [language.yardstick.quality(language.texts(TEXTS)) for _ in range(3)]


def shuffled(language):
    """Real texts with their words in random order."""
    lists = [text.split(" ") for text in language.texts(TEXTS)]
    return [" ".join(language.draw.sample(words, len(words))) for words in lists]


def repeating(language):
    """Each text repeats one real sentence."""
    return [(text[:40] * LENGTH)[:LENGTH] for text in language.texts(TEXTS)]


def one_text(language):
    """All texts are the same real text."""
    return language.texts(1) * TEXTS


def unigram(language):
    """Words that are drawn independently, each as often as in the training text."""
    words = language.text.split(" ")
    return [" ".join(language.draw.choices(words, k=LENGTH))[:LENGTH] for _ in range(TEXTS)]


def memorised(language):
    """Training text."""
    return language.draw.sample(language.training, TEXTS)


@pytest.mark.parametrize(
    "make, measure, sign",
    [(shuffled, "judge", 1), (repeating, "distinct", -1), (repeating, "divergence", 1), (one_text, "distinct", -1),
     (one_text, "divergence", 1), (unigram, "judge", 1), (unigram, "divergence", 1), (memorised, "judge", -1)])
def test_bad_texts_are_further_from_real_text_than_other_real_text(language, others, make, measure, sign):
    """`measure` tells what is wrong with them, and in which direction. Its distance is also far beyond its error."""
    bad = language.yardstick.quality(make(language))
    gap, error = bad["gaps"][measure]
    assert sign * gap > max(4, 3 * error, 2 * max(abs(other["gaps"][measure][0]) for other in others))
    assert bad["largest"][0] > 1.5 * max(other["largest"][0] for other in others)
    assert bad["mean"][0] > 1.2 * max(other["mean"][0] for other in others)


def test_errors_fall_with_the_number_of_texts(language):
    """Four times as many texts halve the standard error of a mean. Words, runs and divergence are no means over texts,
    but their errors fall, too."""
    texts = language.texts(4 * TEXTS)
    parts = [language.yardstick.measured(texts[i : i + TEXTS]) for i in range(0, len(texts), TEXTS)]
    found = language.yardstick.measured(texts)
    for key in (f"{name}_error" for name in nearness.MEASURES):
        few = math.sqrt(sum(part[key] ** 2 for part in parts) / 4)
        assert 0 < found[key] < 0.65 * few
        assert key != "judge_error" or found[key] == pytest.approx(few / 2, rel=0.1)


def test_the_largest_and_the_mean_distance(language):
    found = language.yardstick.quality(unigram(language))
    gaps = list(found["gaps"].values())
    assert found["largest"] == max((abs(gap), error) for gap, error in gaps)
    assert found["mean"][0] == pytest.approx(sum(abs(gap) for gap, _ in gaps) / 4)
    assert found["mean"][1] == pytest.approx(math.sqrt(sum(error**2 for _, error in gaps)) / 4)


def test_a_few_short_texts_are_enough(language):
    """They may be equal in every measure. The spread is still positive, so that a distance is a number."""
    texts = ["ab ab ab ab", "ab ab ab ba", "ab ab ab ab."]
    judge = measures.Judge(language.text, 19)
    yardstick = nearness.Yardstick(texts[:2], texts, texts, judge, {"ab"})
    assert all(spread > 0 for spread in yardstick.spread.values())
    found = yardstick.quality(["ba ba ba ba", "ab ab ab ab"])
    assert all(math.isfinite(number) for gap in found["gaps"].values() for number in gap)
