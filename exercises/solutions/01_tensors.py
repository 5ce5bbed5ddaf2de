"""Our solutions of the exercises for chapter 01. Other solutions can be as good."""

import math
from collections import Counter


def predict_shapes():
    # Indexing replaces each token by a row, so the size of a row is added at the right. (2, 4) fits (2, 4, 3) nowhere,
    # since 4 stands below 3 and neither is 1. (5, 1, 1, 1) has one dimension more, which the result gets at its left.
    # The mean removes the dimension with the four entries, and the product sums over it.
    return [(2, 4, 3), (2, 4, 3), None, (5, 2, 4, 3), (2, 3), (2, 3, 3)]


def stable_softmax(logits):
    # If we subtract c from all logits of a row, the numerator and the denominator are both multiplied by exp(-c), so
    # the probabilities stay the same. With the row's largest logit as c, no exponent is above 0, so nothing overflows,
    # and the sum is at least 1, so we never divide by 0.
    weights = (logits - logits.amax(-1, keepdim=True)).exp()
    return weights / weights.sum(-1, keepdim=True)


def entropy_given(text, n):
    # A context counts only where a character follows it, so the last n characters of the text are not counted as one.
    # With more context the entropy of a text falls towards 0, because soon most contexts occur only once. The
    # frequencies then describe this one text, and no longer the language: that is overfitting.
    places = len(text) - n
    pieces = Counter(text[i : i + n + 1] for i in range(places))
    contexts = Counter(text[i : i + n] for i in range(places))
    return -sum(count / places * math.log(count / contexts[piece[:n]]) for piece, count in pieces.items())
