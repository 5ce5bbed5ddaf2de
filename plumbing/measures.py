"""Measures of text: known words, distinct runs, the longest copy and a judge. Means and their standard errors.

No measure alone is a score. A good text has values near those of real text. A bad one can have 100 % known words, if it
repeats one of them, and it can read well because it is copied.
"""

import math
import re
import statistics
from collections import Counter

import torch


def mean_and_error(values):
    """Return (mean, standard error of the mean) of a tensor of independent values (N,)."""
    values = values.cpu().double()
    return values.mean().item(), (values.std() / len(values) ** 0.5).item()


def left_out(measure, samples):
    """Return N values: measure(texts) for the list `samples` of N texts without each of them in turn."""
    return [measure(samples[:i] + samples[i + 1 :]) for i in range(len(samples))]


def jackknife_error(values):
    """Return the standard error of a measure of N texts from the N values of `left_out`.

    The jackknife (Tukey 1958) observes how much the value changes when a text is missing. It also works if the measure
    is not a mean over the texts. For such a mean it equals `mean_and_error`.
    """
    N = len(values)
    return ((N - 1) / N) ** 0.5 * math.dist(values, [statistics.fmean(values)] * N)


def words_of(text):
    """Return the words of a text in lower case: all runs of characters without spaces and punctuation."""
    return re.findall(r"[^\s.,;:!?()\[\]&$\"…-]+", text.lower())


def known_words(samples, vocabulary):
    """Return the share of the words of `samples` that are in the set `vocabulary`; 0 if there are no words."""
    words = [word for text in samples for word in words_of(text)]
    return sum(word in vocabulary for word in words) / max(1, len(words))


def runs_of(text, n):
    """Return all runs of n characters in a text, one for each place where a run can begin."""
    return [text[i : i + n] for i in range(len(text) - n + 1)]


def distinct(samples, n=4):
    """Return the number of different runs of n characters in `samples`, divided by the number of all runs.

    The value is low where texts repeat themselves or each other. It also falls with the number and length of the texts,
    so compare only values of equally many texts of one length. (This is "distinct-n" of Li et al. 2015,
    arXiv:1510.03055, for characters instead of words.)
    """
    runs = [run for text in samples for run in runs_of(text, n)]
    return len(set(runs)) / max(1, len(runs))


def longest_copy(samples, text):
    """Return the length of the longest run of characters that is in one of `samples` and also in `text`.

    If a run of n characters is in both, so is a run of n - 1. This allows a binary search for the largest n.
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


class Judge:
    """A character n-gram model of a text: it predicts each character from up to order - 1 characters before it.

    It judges texts of other models and shares no weights with them. Each order is interpolated with the next lower one
    by the rule of Witten and Bell (1991, "The zero-frequency problem"; method C). If the context h occurred c(h) times
    in the text and was followed by u(h) different characters, then

        p(x | h) = (c(hx) + u(h) p(x | h without its first character)) / (c(h) + u(h))

    Below the lowest order is the uniform distribution over `symbols` characters, so that no character is impossible.
    """

    def __init__(self, text, symbols, order=6):
        self.symbols, self.order = symbols, order
        # Runs of every length begin at the same places, so that c(h) is the sum of c(hx) over all x.
        starts = range(len(text) - order)
        self.counts = [Counter(text[i : i + n] for i in starts) for n in range(order + 1)]
        self.followers = [Counter(run[:-1] for run in counts) for counts in self.counts[1:]]

    def probability(self, context, character):
        """Return p(character | context). Only the last order - 1 characters of the context count."""
        p = 1 / self.symbols
        for n in range(min(self.order - 1, len(context)) + 1):
            h = context[len(context) - n :]
            if kinds := self.followers[n][h]:
                p = (self.counts[n + 1][h + character] + kinds * p) / (self.counts[n][h] + kinds)
        return p

    def nll(self, samples):
        """Return the negative log-likelihood (NLL): the mean of -log p over all characters of `samples` but the first
        of each text, in nats per character. A low value means that the judge finds the texts likely."""
        losses = [-math.log(self.probability(text[max(0, i - self.order + 1) : i], text[i]))
                  for text in samples for i in range(1, len(text))]
        return statistics.fmean(losses)


def quality(samples, judge, vocabulary):
    """Return known words, distinct runs and the judge's NLL of a list of N texts of one length, each with its standard
    error over the texts: {"words", "words_error", "distinct", "distinct_error", "judge", "judge_error"}."""
    judged, error = mean_and_error(torch.tensor([judge.nll([text]) for text in samples], dtype=torch.float64))
    found = {"judge": judged, "judge_error": error}
    for name, measure in (("words", lambda texts: known_words(texts, vocabulary)), ("distinct", distinct)):
        found |= {name: measure(samples), f"{name}_error": jackknife_error(left_out(measure, samples))}
    return found


class Bigram:
    """Fills a blank with the character that most often follows the one before. A model should do better than this.

    ids: the tokens (N,) of the training text. symbols: the size of the vocabulary.
    """

    def __init__(self, ids, symbols):
        pairs = torch.bincount(ids[:-1] * symbols + ids[1:], minlength=symbols**2).view(symbols, symbols)
        self.next = pairs.argmax(1)  # (symbols,)

    def fill(self, rows, start, end):
        """Return tokens (B, end - start) for the blank [start, end) of rows (B, T), chosen from left to right."""
        guesses = [rows[:, start - 1]]
        for _ in range(start, end):
            guesses.append(self.next[guesses[-1]])
        return torch.stack(guesses[1:], dim=1)


def exact_characters(filler, windows, blank, batch_size=64):
    """Measure which share of the characters of a blank in the middle of windows (N, T) `filler` restores exactly.

    filler: function (rows (B, T), start, end) → (B, end - start). blank: its length. Returns (mean, standard error over
    the windows).
    """
    start = (windows.shape[1] - blank) // 2
    end = start + blank
    right = [filler(rows, start, end) == rows[:, start:end] for rows in windows.split(batch_size)]
    return mean_and_error(torch.cat(right).cpu().double().mean(1))
