"""Exercises for chapter 02: which outputs change, a sliding window, and a head that looks back.

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
    A layer adds the output of attention to its input.
    Return a list of four lists, one for each case below: the positions whose outputs change after

        one layer in which every position looks at all positions,
        one causal layer,
        one layer in which each position looks at itself and at the position before it,
        two layers as in the third case, one after the other.

    Hint: draw six points for the inputs and six points for the outputs. Draw an arrow from each input to every output
    that reads it.
    """
    raise NotImplementedError


def window_mask(T, width):
    """Return the mask of attention with a sliding window, a boolean tensor (T, T). (10 minutes)

    Each position looks at `width` positions: at itself and at the width - 1 positions before it.
    Near the start of the text, a position looks only at the positions that exist.
    The entry in row i and column j is True if position i may look at position j.
    Some large models have such windows in most layers.
    In a layer with a window, the cost grows in proportion to T, not to T².

    Hint: chapter 01 compares a column of positions with a row of positions. Here you need two comparisons.
    """
    raise NotImplementedError


def look_back(x, distance):
    """Return the queries and the keys of a head that always looks `distance` positions back. (20 minutes)

    x (T, d) has the same vector at every position, so only rotations can tell the positions apart.
    Make the queries (T, d) and the keys (T, d) from x with chapter 02's `rotate` and `rotary_table`.
    If position i - distance exists, position i must look at that position with an attention weight above 0.9.
    With distance 0, each position looks at itself. With a negative distance, each position looks ahead.

    Hint: the product of a query and a key depends on the difference between their rotations.
    When is the product largest?
    """
    raise NotImplementedError
