"""Exercises for chapter 01: shapes, a softmax that does not overflow, and how much context helps.

Read 01_tensors.py first. Replace each `raise NotImplementedError` with your own lines, and then run

    python exercises/check.py 01
"""
# ruff: noqa: F401 - the functions that you write use these imports

import math
from collections import Counter

import torch


def predict_shapes():
    """Predict the shapes of six results. (5 minutes)

    x has the shape (2, 4, 3), `table` has the shape (7, 3), and `tokens` has the shape (2, 4).
    The entries of `tokens` are integers from 0 to 6.
    Return a list of six entries, one for each line below. Each entry is the shape of the result, as a tuple.
    If PyTorch reports an error, the entry is None.

        table[tokens]
        x + torch.ones(4, 1)
        x + torch.ones(2, 4)
        x + torch.ones(5, 1, 1, 1)
        x.mean(1)
        x.transpose(1, 2) @ x

    Hint: write the two shapes below each other, aligned at the right. Then compare the numbers.
    """
    raise NotImplementedError


def stable_softmax(logits):
    """Return the softmax over the last dimension, also for very large logits. (10 minutes)

    The logits and the result have the shape (..., V). Do not change the tensor `logits`.
    For a row z of logits, entry v of the result is exp z_v / sum_u exp z_u.
    Use exp, but none of PyTorch's softmax functions.
    A float32 cannot hold a number as large as exp(100), so this formula gives NaN for large logits.

    Hint: how do the probabilities of a row change if you subtract the same number from all logits of the row?
    """
    raise NotImplementedError


def entropy_given(text, n):
    """Return the entropy of a character, in nats, if the n characters before it are known. (20 minutes)

    With n = 1, chapter 01's `bigram_entropy` gives the same result. With n = 0, no character is known.
    A model that sees only the n characters before each position cannot have a lower loss on this text.
    The first n positions of the text do not count, and each later position counts once. Return a float.

    Hint: as in `bigram_entropy`, count all pieces of n + 1 characters, and the first n characters of each piece.
    """
    raise NotImplementedError
