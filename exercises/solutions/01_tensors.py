"""Our solutions to the exercises for chapter 01. Other solutions can be just as good."""

import math
from collections import Counter


def predict_shapes():
    # Indexing replaces each token by a row of 3 numbers, so the shape ends with 3. (2, 4) does not fit (2, 4, 3):
    # aligned at the right, 4 stands below 3, and neither is 1. (5, 1, 1, 1) has one dimension more, so the result also
    # has this dimension. The mean removes the dimension with the four entries, and the product sums over it.
    return [(2, 4, 3), (2, 4, 3), None, (5, 2, 4, 3), (2, 3), (2, 3, 3)]


def stable_softmax(logits):
    # Subtracting c from all logits of a row multiplies the numerator and the denominator by exp(-c), so the
    # probabilities stay the same. If c is the largest logit of the row, no exponent is above 0, so nothing overflows.
    # The sum is then at least 1, so we never divide by 0.
    weights = (logits - logits.amax(-1, keepdim=True)).exp()
    return weights / weights.sum(-1, keepdim=True)


def entropy_given(text, n):
    # A context counts only if a character follows it, so the last n characters of the text do not count. With more
    # context the entropy falls towards 0, because soon most contexts occur only once. The frequencies then describe
    # this one text, and no longer the language: that is overfitting.
    places = len(text) - n
    pieces = Counter(text[i : i + n + 1] for i in range(places))
    contexts = Counter(text[i : i + n] for i in range(places))
    return -sum(count / places * math.log(count / contexts[piece[:n]]) for piece, count in pieces.items())
