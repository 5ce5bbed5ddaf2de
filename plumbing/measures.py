"""Measures of written text, and their standard errors. Chapter 10 explains the measures.

Four measures say how real a text looks: known words, distinct runs, divergence and a judge. The class Yardstick gives
all four the same unit, the distance from real text. The function `longest_copy` finds text that a model has learned by
heart.
"""

import functools
import math
import random
import re
import statistics
from collections import Counter

# 1. Means and standard errors


def mean_and_error(values):
    """Return (mean, standard error of the mean) of a tensor of independent values (N,)."""
    values = values.cpu().double()
    return values.mean().item(), (values.std() / len(values) ** 0.5).item()


def left_out(measure, samples):
    """Return N values for a list of N texts. Value i is the measure of all texts except text i."""
    return [measure(samples[:i] + samples[i + 1 :]) for i in range(len(samples))]


def jackknife_error(values):
    """Return the standard error of a measure of N texts. `values` are the N values that `left_out` returned.

    The jackknife (Tukey 1958) asks how much the measure changes when one text is missing. It also works for measures
    that are not means over texts. For a mean, the result equals that of `mean_and_error`.
    """
    N = len(values)
    return ((N - 1) / N) ** 0.5 * math.dist(values, [statistics.fmean(values)] * N)


def with_errors(measure, samples):
    """Return a dict with the values {name: value} of `measure(samples)`, and standard errors {name_error: error}."""
    return measure(samples) | errors_of(left_out(measure, samples))


def errors_of(without):
    """Return the standard errors {name_error: error}. `without` is a list of dicts {name: value} from `left_out`."""
    return {f"{name}_error": jackknife_error([values[name] for values in without]) for name in without[0]}


# 2. Words and runs of characters


def words_of(text):
    """Return the list of words of a text, in lower case. Words contain no spaces and no punctuation."""
    return re.findall(r"[^\s.,;:!?()\[\]&$\"…-]+", text.lower())


def known_words(samples, vocabulary):
    """Return the share of words in `samples` that are in the set `vocabulary`, or 0 if there are no words."""
    words = [word for text in samples for word in words_of(text)]
    return sum(word in vocabulary for word in words) / max(1, len(words))


def runs_of(text, n):
    """Return all runs of n neighbouring characters in a text. Runs overlap each other."""
    return [text[i : i + n] for i in range(len(text) - n + 1)]


def count_runs(samples, n=4):
    """Return a Counter of all runs of n characters in a list of texts."""
    return Counter(run for text in samples for run in runs_of(text, n))


def distinct(samples, n=4):
    """Return the number of different runs of n characters in `samples`, divided by the number of all runs.

    This share is smaller for longer texts, because every text repeats something. So compare only sets of texts with the
    same total length. Li et al. (2015, arXiv:1510.03055) count runs of words in this way.
    """
    runs = count_runs(samples, n)
    return len(runs) / max(1, runs.total())


def divergence(samples, reference):
    """Return the Jensen-Shannon divergence, in nats, between two Counters that count runs of characters.

    Let p and q be the shares of a run in the two Counters, and m = (p + q) / 2. The divergence is the mean of two sums
    over all runs: Σ p log(p / m) and Σ q log(q / m). It is 0 if all shares are equal, and log 2 if the Counters have no
    run in common.
    """
    total, reference_total = samples.total(), reference.total()
    both = [(n / total, reference[run] / reference_total) for run, n in samples.items() if run in reference]
    value = sum(p * math.log(2 * p / (p + q)) + q * math.log(2 * q / (p + q)) for p, q in both)
    alone = 2 - sum(p + q for p, q in both)  # the summed shares of all runs that occur in only one Counter
    return (value + math.log(2) * alone) / 2


def longest_copy(samples, text):
    """Return the length of the longest run of characters in `text` that also occurs in one of `samples`.

    A shared run of n characters contains a shared run of n - 1 characters, so a binary search finds the largest n.
    """
    low, high = 0, max(map(len, samples))
    while low < high:
        n = (low + high + 1) // 2
        runs = {run for sample in samples for run in runs_of(sample, n)}
        if runs.isdisjoint(text[i : i + n] for i in range(len(text) - n + 1)):
            high = n - 1
        else:
            low = n
    return low


# 3. The judge


class Judge:
    """A character n-gram model, which learns from a text and judges the texts of neural models.

    The context h of a character x consists of up to `order` - 1 characters before x. The rule of Witten and Bell (1991,
    "The zero-frequency problem", method C) mixes contexts of different lengths. If h occurs c(h) times in the text, and
    u(h) different characters follow h, then

        p(x | h) = (c(hx) + u(h) p(x | h without its first character)) / (c(h) + u(h))

    The empty context is mixed with the uniform distribution over `symbols` characters. So no character is impossible.
    """

    def __init__(self, text, symbols, order=6):
        self.symbols, self.order = symbols, order
        # Runs of every length are counted from the same starting places, so that c(h) is the sum of c(hx) over all x.
        starts = range(len(text) - order)
        self.counts = [Counter(text[i : i + n] for i in starts) for n in range(order + 1)]
        self.followers = [Counter(run[:-1] for run in counts) for counts in self.counts[1:]]

    def probability(self, context, character):
        """Return p(character | context). Only the last `order` - 1 characters of the context count."""
        p = 1 / self.symbols
        for n in range(min(self.order - 1, len(context)) + 1):
            h = context[len(context) - n :]
            different = self.followers[n][h]
            if different:
                p = (self.counts[n + 1][h + character] + different * p) / (self.counts[n][h] + different)
        return p

    def nll(self, samples):
        """Return the mean NLL of texts, in nats per character. The NLL leaves out the first character of each text."""
        losses = []
        for text in samples:
            for i in range(1, len(text)):
                context = text[max(0, i - self.order + 1) : i]
                losses.append(-math.log(self.probability(context, text[i])))
        return statistics.fmean(losses)


# 4. Distances from real text

MEASURES = ("words", "judge", "distinct", "divergence")
SPLITS = 30  # number of random splits of real texts in measure_spread


class Yardstick:
    """Measures texts, and their distances from real texts.

    `real` is a list of N real texts to compare with. `held_out` lists all texts that no model has seen, including
    `real`. `training` lists texts from which the models learned. All these texts have the same length. `vocabulary` is
    the set of words in the training text.
    """

    def __init__(self, real, held_out, training, judge, vocabulary, seed=0):
        chance = random.Random(seed)
        known = set(real)
        others = [text for text in held_out if text not in known]
        chance.shuffle(others)
        half = len(others) // 2
        # Half of the reference is training text, because a model cannot know the names in a play that it has not read.
        self.reference = count_runs(others[:half] + chance.sample(training, min(half, len(training))))
        self.vocabulary = vocabulary
        self.judged = functools.cache(lambda text: judge.nll([text]))
        self.spread = self.measure_spread(real, others[half:], chance)
        self.real_without = left_out(self.values, real)
        self.real = self.values(real) | errors_of(self.real_without)

    def measure_spread(self, real, others, chance):
        """Return how much two sets of N real texts usually differ: {measure: root mean square difference}."""
        pool = list(real) + others
        n = min(len(real), len(pool) // 2)
        squares = dict.fromkeys(MEASURES, 0.0)
        for _ in range(SPLITS):
            chance.shuffle(pool)
            one, other = self.values(pool[:n]), self.values(pool[n : 2 * n])
            for name in MEASURES:
                squares[name] += (one[name] - other[name]) ** 2
        # If there are too few texts for two sets of N, the sets are smaller and differ more: the factor n / N corrects
        # for this. A few short texts can have equal values. Then the spread is set to a thousandth, because we divide
        # by it.
        return {name: max(1e-3, math.sqrt(square / SPLITS * n / len(real))) for name, square in squares.items()}

    def values(self, samples):
        """Return {measure: value} for a list of texts."""
        return {
            "words": known_words(samples, self.vocabulary),
            "judge": statistics.fmean(map(self.judged, samples)),
            "distinct": distinct(samples),
            "divergence": divergence(count_runs(samples), self.reference),
        }

    def quality(self, samples):
        """Measure a list of texts. Return a dict with the measures, their errors, and the distances from real text.

        "gaps" is a dict {measure: (signed distance, error)}. "largest" and "mean" are pairs (distance, error): the
        largest and the mean of the absolute distances. The four measures depend on each other, so the error of the mean
        is a jackknife error.
        """
        without = left_out(self.values, samples)
        found = self.values(samples) | errors_of(without)
        gaps = {}
        for name in MEASURES:
            error = math.hypot(found[f"{name}_error"], self.real[f"{name}_error"])
            gaps[name] = (found[name] - self.real[name]) / self.spread[name], error / self.spread[name]
        largest, its_error = max(gaps.values(), key=lambda gap: abs(gap[0]))
        error = jackknife_error([self.mean_distance(values, self.real) for values in without])
        error_of_real = jackknife_error([self.mean_distance(found, values) for values in self.real_without])
        mean = self.mean_distance(found, self.real), math.hypot(error, error_of_real)
        return found | {"gaps": gaps, "largest": (abs(largest), its_error), "mean": mean}

    def mean_distance(self, values, real):
        """Return the mean absolute distance between two dicts of measures."""
        return statistics.fmean(abs(values[name] - real[name]) / self.spread[name] for name in MEASURES)
