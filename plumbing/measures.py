"""Measures of text: known words, distinct runs, the longest copy, a judge; and a mean with its standard error."""

import math
import re
import statistics
from collections import Counter


def words_of(text):
    """What stands between spaces and punctuation, in lower case."""
    return re.findall(r"[^\s.,;:!?()\[\]&$\"…-]+", text.lower())


def known_words(samples, vocabulary):
    """Share of the words of `samples` that are in the set `vocabulary`."""
    words = [word for text in samples for word in words_of(text)]
    return sum(word in vocabulary for word in words) / max(1, len(words))


def longest_copy(samples, text):
    """Length of the longest run of characters that stands in one of `samples` and in `text`, by bisection."""
    low, high = 0, max(map(len, samples))
    while low < high:
        n = (low + high + 1) // 2
        runs = {sample[i : i + n] for sample in samples for i in range(len(sample) - n + 1)}
        if runs.isdisjoint(text[i : i + n] for i in range(len(text) - n + 1)):
            high = n - 1
        else:
            low = n
    return low


def mean_and_error(values):
    """Mean of values (N,) and its standard error."""
    values = values.cpu().double()
    return values.mean().item(), (values.std() / len(values) ** 0.5).item()


def distinct(samples, n=4):
    """Share of the runs of `n` characters in `samples` that are different ones: low where text repeats itself."""
    runs = [text[i : i + n] for text in samples for i in range(len(text) - n + 1)]
    return len(set(runs)) / max(1, len(runs))


class Judge:
    """A character n-gram model of a text, to read what the two models wrote: it shares nothing with them.

    Each order is interpolated with the next lower one (Witten and Bell 1991): after a context h that occurred
    c(h) times with u(h) different successors, p(x | h) = (c(hx) + u(h) p(x | h without its first)) / (c(h) + u(h)).
    The lowest order is uniform, so that every character is possible.
    """

    def __init__(self, text, symbols, order=6):
        self.symbols, self.order = symbols, order
        ends = range(len(text) - order)  # the same starts for each length, so that c(h) = Σ c(hx)
        self.counts = [Counter(text[i : i + n] for i in ends) for n in range(order + 1)]
        self.followers = [Counter(run[:-1] for run in counts) for counts in self.counts[1:]]

    def probability(self, context, character):
        """p(character | context), of which the last order - 1 characters count."""
        p = 1 / self.symbols
        for n in range(min(self.order - 1, len(context)) + 1):
            h = context[len(context) - n :]
            if kinds := self.followers[n][h]:
                p = (self.counts[n + 1][h + character] + kinds * p) / (self.counts[n][h] + kinds)
        return p

    def nll(self, samples):
        """Mean over all but the first character of each of `samples`, in nats."""
        losses = [-math.log(self.probability(text[max(0, i - self.order + 1) : i], text[i]))
                  for text in samples for i in range(1, len(text))]
        return statistics.fmean(losses)
