"""How near written texts are to real text: four measures at once, in a unit that makes them comparable.

A sampler can please one measure by repeating itself, and another one by noise. A good sampler writes texts whose values
are near those of real text in every measure.
"""

import functools
import math
import random
import statistics
from collections import Counter

from plumbing import measures

MEASURES = ("words", "judge", "distinct", "divergence")
SPLITS = 30  # random splits of real text that say how far apart two sets of real texts are


def count_runs(samples, n=4):
    """Return how often each run of n characters occurs in a list of texts: a Counter."""
    return Counter(run for text in samples for run in measures.runs_of(text, n))


def divergence(samples, reference):
    """Return the Jensen-Shannon divergence between two Counters of runs of characters, in nats.

    With p and q, the shares of a run in the two, and m = (p + q) / 2, it is the mean of
    Σ p log(p / m) and Σ q log(q / m): 0 if the shares are equal, log 2 if no run is in both. Repetition and noise both
    raise it (MAUVE, Pillutla et al. 2021, arXiv:2102.01454, compares the clusters of a language model in this spirit).
    """
    total, reference_total = samples.total(), reference.total()
    both = [(n / total, reference[run] / reference_total) for run, n in samples.items() if run in reference]
    value = sum(x * math.log(2 * x / (x + y)) + y * math.log(2 * y / (x + y)) for x, y in both)
    return (value + math.log(2) * (2 - sum(x + y for x, y in both))) / 2


class Yardstick:
    """Measures texts, and their distances from the real texts `real`.

    real: the N texts that are compared. held_out: all texts that no model has seen, of the same length, `real` among
    them. training: texts of the same length that the models have learned from. judge, vocabulary: as in measures.

    The reference of the divergence has equal parts of training text and of held-out text that is not in `real`, because
    a model cannot know the names of the persons in a play that it has not read. A distance is the difference from
    `real`, divided by how far two sets of N real texts usually are apart: the root mean square over random splits.
    """

    def __init__(self, real, held_out, training, judge, vocabulary, seed=0):
        chance = random.Random(seed)
        others = [text for text in held_out if text not in set(real)]
        chance.shuffle(others)
        half = len(others) // 2
        self.reference = count_runs(others[:half] + chance.sample(training, min(half, len(training))))
        self.vocabulary, self.judged = vocabulary, functools.cache(lambda text: judge.nll([text]))
        pool, n = list(real) + others[half:], min(len(real), (len(real) + len(others) - half) // 2)
        squares = dict.fromkeys(MEASURES, 0.0)
        for _ in range(SPLITS):
            chance.shuffle(pool)
            one, other = self.values(pool[:n]), self.values(pool[n : 2 * n])
            squares = {key: square + (one[key] - other[key]) ** 2 for key, square in squares.items()}
        # Where there are too few texts for two sets of N, the sets are smaller, and their differences larger.
        # With a few short texts all values may be equal; then a thousandth stands in for their spread.
        self.spread = {key: max(1e-3, math.sqrt(square / SPLITS * n / len(real))) for key, square in squares.items()}
        self.real = self.measured(real)

    def values(self, samples):
        """Return {measure: value} of a list of texts."""
        runs = count_runs(samples)
        return {"words": measures.known_words(samples, self.vocabulary),
                "judge": statistics.fmean(map(self.judged, samples)),
                "distinct": len(runs) / max(1, runs.total()), "divergence": divergence(runs, self.reference)}

    def measured(self, samples):
        """Return {measure: value, measure_error: its standard error over the texts}."""
        left_out = measures.left_out(self.values, samples)
        errors = {f"{key}_error": measures.jackknife_error([values[key] for values in left_out]) for key in MEASURES}
        return self.values(samples) | errors

    def quality(self, samples):
        """Return `measured` of N texts, with distances from real text and their standard errors.

        They are under "gaps", {measure: (distance with its sign, error)}, and under "largest" and "mean": (distance
        without sign, error). The error of the largest one is that of its measure.
        """
        found = self.measured(samples)
        gaps = {key: ((found[key] - self.real[key]) / self.spread[key],
                      math.hypot(found[f"{key}_error"], self.real[f"{key}_error"]) / self.spread[key])
                for key in MEASURES}
        largest = max(gaps.values(), key=lambda gap: abs(gap[0]))
        mean = sum(abs(gap) for gap, _ in gaps.values()) / len(gaps)
        return found | {"gaps": gaps, "largest": (abs(largest[0]), largest[1]),
                        "mean": (mean, math.hypot(*(error for _, error in gaps.values())) / len(gaps))}
