"""Our solutions of the exercises for chapter 02. Other solutions can be as good."""

from importlib import import_module

import torch

attention = import_module("02_attention")


def predict_changes():
    # Without a mask every position reads from position 2, and in a causal layer the positions from 2 on do. In the last
    # two cases a change moves one position further with every layer. So a deep model can use text that is far outside
    # the window of one layer.
    return [[0, 1, 2, 3, 4, 5], [2, 3, 4, 5], [2, 3], [2, 3, 4]]


def window_mask(T, width):
    # The distance of the looking position (row) to the other one (column) must be 0 at least, so that nothing later is
    # seen, and less than `width`. The distance 0 is one of the `width` positions.
    distance = torch.arange(T)[:, None] - torch.arange(T)[None, :]  # (T, T)
    return (distance >= 0) & (distance < width)


def look_back(x, distance):
    # The product is largest where the rotations of the query and of the key agree, since the vectors are equal before
    # the rotation. A query at position i that is rotated as if it stood at i - distance agrees with the key there.
    here = torch.arange(len(x))
    d = x.shape[-1]
    queries = attention.rotate(x, attention.rotary_table(here - distance, d))
    keys = attention.rotate(x, attention.rotary_table(here, d))
    return queries, keys
