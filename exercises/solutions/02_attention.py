"""Our solutions to the exercises for chapter 02. Other solutions can be just as good."""

from importlib import import_module

import torch

attention = import_module("02_attention")


def predict_changes():
    # Without a mask, every position reads position 2. In a causal layer, the positions 2 to 5 read it. In the last two
    # cases, a change moves one position further with every layer. So a deep model can use text far outside the window
    # of one layer.
    return [[0, 1, 2, 3, 4, 5], [2, 3, 4, 5], [2, 3], [2, 3, 4]]


def window_mask(T, width):
    # A row is the position that looks, and a column is the position at which it looks. Their distance must be at least
    # 0, so that nothing later is seen. It must be less than `width`, because the distance 0 is one of the `width`
    # positions.
    distance = torch.arange(T)[:, None] - torch.arange(T)[None, :]  # (T, T)
    return (distance >= 0) & (distance < width)


def look_back(x, distance):
    # All vectors are equal before the rotation, so the product is largest if the query and the key are rotated alike.
    # The query at position i is rotated as if it stood at i - distance, so it matches the key there.
    here = torch.arange(len(x))
    d = x.shape[-1]
    queries = attention.rotate(x, attention.rotary_table(here - distance, d))
    keys = attention.rotate(x, attention.rotary_table(here, d))
    return queries, keys
