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

    x has the shape (2, 4, 3), `table` has (7, 3), and `tokens`, which holds integers below 7, has (2, 4).
    Return a list of six shapes: each a tuple, or None if PyTorch reports an error.

        table[tokens]
        x + torch.ones(4, 1)
        x + torch.ones(2, 4)
        x + torch.ones(5, 1, 1, 1)
        x.mean(1)
        x.transpose(1, 2) @ x

    Hint: to combine two shapes, write them below each other so that their last numbers are aligned.
    """
    raise NotImplementedError


def stable_softmax(logits):
    """Return the softmax over the last dimension, also for very large logits. (10 minutes)

    logits: (..., V) → (..., V). The given logits stay as they are.
    In a row z, the result at v is exp z_v / sum_u exp z_u. Use exp, but none of PyTorch's softmax functions.
    A float32 cannot hold exp(100), so for large logits this formula, computed as it stands, gives NaN.

    Hint: how do the probabilities of a row change if you subtract the same number from all of its logits?
    """
    raise NotImplementedError


def entropy_given(text, n):
    """Return the entropy of the next character given the n characters before it, in nats. (20 minutes)

    With n = 1 this is chapter 01's `bigram_entropy`, a lower bound for models that see one earlier character.
    With a larger n it is the bound for models that look back further; with n = 0, for models that see nothing.
    Every position of the text that has n characters before it counts once. The result is a float.

    Hint: as in `bigram_entropy`, count two things: pieces of n + 1 characters, and the first n characters of each.
    """
    raise NotImplementedError
