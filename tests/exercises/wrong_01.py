"""Plausible mistakes in the exercises for chapter 01. Each docstring names the mistake."""

import math
from collections import Counter


def shapes_aligned_left():
    """The shapes are aligned at their first numbers."""
    return [(2, 4, 3), None, (2, 4, 3), None, (2, 3), (2, 3, 3)]


def shapes_of_a_flat_look_up():
    """Indexing keeps the shape of the tokens."""
    return [(2, 4), (2, 4, 3), None, (5, 2, 4, 3), (2, 3), (2, 3, 3)]


def shapes_with_a_kept_dimension():
    """A mean leaves a dimension of size 1 behind."""
    return [(2, 4, 3), (2, 4, 3), None, (5, 2, 4, 3), (2, 1, 3), (2, 3, 3)]


def shapes_without_an_error():
    """Shapes that do not fit are repeated too."""
    return [(2, 4, 3), (2, 4, 3), (2, 4, 3), (5, 2, 4, 3), (2, 3), (2, 3, 3)]


def softmax_that_overflows(logits):
    """The formula as it stands."""
    return logits.exp() / logits.exp().sum(-1, keepdim=True)


def softmax_of_everything(logits):
    """The sum runs over all dimensions."""
    weights = (logits - logits.max()).exp()
    return weights / weights.sum()


def softmax_with_one_maximum(logits):
    """The largest logit of all rows: a row far below it becomes 0 / 0."""
    weights = (logits - logits.max()).exp()
    return weights / weights.sum(-1, keepdim=True)


def softmax_of_columns(logits):
    """The first dimension instead of the last one."""
    weights = (logits - logits.amax(0, keepdim=True)).exp()
    return weights / weights.sum(0, keepdim=True)


def softmax_in_place(logits):
    """The caller's logits are changed."""
    logits -= logits.amax(-1, keepdim=True).clone()
    return logits.exp() / logits.exp().sum(-1, keepdim=True)


def step_uphill(w, b, x, y, lr):
    """The gradient is added."""
    residual = w * x + b - y
    return w + lr * (2 * residual * x).mean(), b + lr * (2 * residual).mean()


def step_without_the_two(w, b, x, y, lr):
    """The factor 2 of the derivative of a square is missing."""
    residual = w * x + b - y
    return w - lr * (residual * x).mean(), b - lr * residual.mean()


def step_of_the_sum(w, b, x, y, lr):
    """A sum instead of a mean."""
    residual = w * x + b - y
    return w - lr * (2 * residual * x).sum(), b - lr * (2 * residual).sum()


def step_one_after_the_other(w, b, x, y, lr):
    """The derivative of b is taken at the new w."""
    w = w - lr * (2 * (w * x + b - y) * x).mean()
    return w, b - lr * (2 * (w * x + b - y)).mean()


def entropy_of_pieces(text, n):
    """The entropy of whole pieces, not of the last character given the others."""
    pieces = Counter(text[i : i + n + 1] for i in range(len(text) - n))
    return -sum(count / (len(text) - n) * math.log(count / (len(text) - n)) for count in pieces.values())


def entropy_with_the_last_context(text, n):
    """The end of the text is counted as a context, although nothing follows it."""
    pieces = Counter(text[i : i + n + 1] for i in range(len(text) - n))
    contexts = Counter(text[i : i + n] for i in range(len(text) - n + 1)) if n else {"": len(text)}
    return -sum(count / (len(text) - n) * math.log(count / contexts[piece[:n]]) for piece, count in pieces.items())


def entropy_per_length(text, n):
    """The sum is divided by the length of the text."""
    pieces = Counter(text[i : i + n + 1] for i in range(len(text) - n))
    contexts = Counter(text[i : i + n] for i in range(len(text) - n))
    return -sum(count / len(text) * math.log(count / contexts[piece[:n]]) for piece, count in pieces.items())


def entropy_in_bits(text, n):
    """The logarithm to the base 2."""
    pieces = Counter(text[i : i + n + 1] for i in range(len(text) - n))
    contexts = Counter(text[i : i + n] for i in range(len(text) - n))
    return -sum(count / (len(text) - n) * math.log2(count / contexts[piece[:n]]) for piece, count in pieces.items())


def entropy_of_one_character(text, n):
    """Only the one character before counts, whatever n is."""
    return entropy_per_length(text, n) if n == 0 else entropy_given_one(text)


def entropy_given_one(text):
    pieces, contexts = Counter(zip(text, text[1:])), Counter(text[:-1])
    return -sum(count / (len(text) - 1) * math.log(count / contexts[a]) for (a, _), count in pieces.items())


WRONG = {
    "predict_shapes": [shapes_aligned_left, shapes_of_a_flat_look_up, shapes_with_a_kept_dimension,
                       shapes_without_an_error],
    "stable_softmax": [softmax_that_overflows, softmax_of_everything, softmax_with_one_maximum, softmax_of_columns,
                       softmax_in_place],
    "sgd_step": [step_uphill, step_without_the_two, step_of_the_sum, step_one_after_the_other],
    "entropy_given": [entropy_of_pieces, entropy_with_the_last_context, entropy_per_length, entropy_in_bits,
                      entropy_of_one_character],
}
