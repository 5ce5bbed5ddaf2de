"""Exercises for chapter 02: what a change reaches, a window, and a head that looks back by rotation.

Read 02_attention.py first. Replace each `raise NotImplementedError` with your own lines, and then run

    python exercises/check.py 02
"""
# ruff: noqa: F401 - the functions that you write use these imports

from importlib import import_module

import torch

attention = import_module("02_attention")


def predict_changes():
    """Predict which outputs change when one input changes. (5 minutes)

    A text has 6 positions, 0 to 5. We change the input at position 2.
    A layer adds to each position what the attention of this position reads.
    Return a list of four lists: the positions whose outputs change after

        one layer in which every position looks at all positions,
        one causal layer,
        one layer in which each position looks at itself and at the position before it,
        two such layers, one after the other.

    Hint: draw six points for the inputs and six for the outputs, and an arrow for each look.
    """
    raise NotImplementedError


def window_mask(T, width):
    """Return the mask of attention with a sliding window: boolean (T, T). (10 minutes)

    Each position looks at `width` positions: at itself and at the width - 1 positions before it.
    The first positions have fewer. True means that the position of the row may look at the position of the column.
    Some large models use such windows in most layers, because the cost then grows only in proportion to T.

    Hint: chapter 01 compares a column of positions with a row of positions. Here you need two comparisons.
    """
    raise NotImplementedError


def look_back(x, distance):
    """Return the queries and the keys of a head that always looks `distance` positions back. (20 minutes)

    x: (T, d), the same vector at every position, so only the rotation can tell positions apart.
    Make both (T, d) from x with chapter 02's `rotate` and `rotary_table`.
    Position i must give more than nine tenths of its weight to position i - distance, where there is one.
    With distance 0 a position looks at itself; with a negative distance it looks ahead.

    Hint: the product of a query and a key depends on the difference of their rotations. When is it largest?
    """
    raise NotImplementedError
