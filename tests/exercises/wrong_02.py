"""Plausible mistakes in the exercises for chapter 02. Each docstring names the mistake."""

import math
from importlib import import_module

import torch

attention = import_module("02_attention")


def changes_without_itself():
    """The changed position itself is forgotten."""
    return [[0, 1, 3, 4, 5], [3, 4, 5], [3], [3, 4]]


def changes_that_look_ahead():
    """A causal layer is taken for one that sees what follows."""
    return [[0, 1, 2, 3, 4, 5], [0, 1, 2], [1, 2], [0, 1, 2]]


def changes_that_do_not_travel():
    """The second layer reaches no further than the first one."""
    return [[0, 1, 2, 3, 4, 5], [2, 3, 4, 5], [2, 3], [2, 3]]


def changes_that_travel_twice_as_far():
    """Two layers are taken for two windows with a gap."""
    return [[0, 1, 2, 3, 4, 5], [2, 3, 4, 5], [2, 3], [2, 3, 4, 5]]


def window_with_one_more(T, width):
    """`width` positions before itself."""
    distance = torch.arange(T)[:, None] - torch.arange(T)[None, :]
    return (distance >= 0) & (distance <= width)


def window_without_itself(T, width):
    """The position itself is not in its window."""
    distance = torch.arange(T)[:, None] - torch.arange(T)[None, :]
    return (distance > 0) & (distance <= width)


def window_transposed(T, width):
    """Rows and columns are exchanged."""
    distance = torch.arange(T)[None, :] - torch.arange(T)[:, None]
    return (distance >= 0) & (distance < width)


def window_to_both_sides(T, width):
    """The causal half is forgotten."""
    return (torch.arange(T)[:, None] - torch.arange(T)[None, :]).abs() < width


def window_of_numbers(T, width):
    """Ones and zeros instead of True and False."""
    return torch.ones(T, T).tril() - torch.ones(T, T).tril(-width)


def head_without_scale(x, w_q, w_k, w_v, mask):
    """The scores are not divided."""
    scores = (x @ w_q) @ (x @ w_k).T
    return scores.masked_fill(~mask, -math.inf).softmax(-1) @ (x @ w_v)


def head_with_the_scale_of_x(x, w_q, w_k, w_v, mask):
    """The size of x instead of the size of a query."""
    scores = (x @ w_q) @ (x @ w_k).T / math.sqrt(x.shape[-1])
    return scores.masked_fill(~mask, -math.inf).softmax(-1) @ (x @ w_v)


def head_of_columns(x, w_q, w_k, w_v, mask):
    """The softmax runs over the queries."""
    scores = (x @ w_q) @ (x @ w_k).T / math.sqrt(w_q.shape[-1])
    return scores.masked_fill(~mask, -math.inf).softmax(0) @ (x @ w_v)


def head_masked_late(x, w_q, w_k, w_v, mask):
    """The mask comes after the softmax, so the weights no longer sum to 1."""
    weights = ((x @ w_q) @ (x @ w_k).T / math.sqrt(w_q.shape[-1])).softmax(-1)
    return weights.masked_fill(~mask, 0) @ (x @ w_v)


def head_with_zero_scores(x, w_q, w_k, w_v, mask):
    """Hidden scores are 0, which is not the weight 0."""
    scores = (x @ w_q) @ (x @ w_k).T / math.sqrt(w_q.shape[-1])
    return scores.masked_fill(~mask, 0).softmax(-1) @ (x @ w_v)


def head_without_a_mask(x, w_q, w_k, w_v, mask):
    """The mask is forgotten."""
    return ((x @ w_q) @ (x @ w_k).T / math.sqrt(w_q.shape[-1])).softmax(-1) @ (x @ w_v)


def head_with_the_opposite_mask(x, w_q, w_k, w_v, mask):
    """What may be seen is hidden."""
    scores = (x @ w_q) @ (x @ w_k).T / math.sqrt(w_q.shape[-1])
    return scores.masked_fill(mask, -math.inf).softmax(-1) @ (x @ w_v)


def look_ahead(x, distance):
    """The sign of the distance is wrong."""
    here, d = torch.arange(len(x)), x.shape[-1]
    keys = attention.rotate(x, attention.rotary_table(here, d))
    return attention.rotate(x, attention.rotary_table(here + distance, d)), keys


def look_at_itself(x, distance):
    """Queries and keys are rotated alike."""
    rotated = attention.rotate(x, attention.rotary_table(torch.arange(len(x)) - distance, x.shape[-1]))
    return rotated, rotated


def look_by_shifting(x, distance):
    """The rows are shifted, but all rows are equal."""
    table = attention.rotary_table(torch.arange(len(x)), x.shape[-1])
    return attention.rotate(x.roll(distance, 0), table), attention.rotate(x, table)


def look_back_from_the_same_place(x, distance):
    """The queries are all rotated by the distance, not by position and distance."""
    here, d = torch.arange(len(x)), x.shape[-1]
    queries = attention.rotate(x, attention.rotary_table(torch.full((len(x),), -distance), d))
    return queries, attention.rotate(x, attention.rotary_table(here, d))


WRONG = {
    "predict_changes": [changes_without_itself, changes_that_look_ahead, changes_that_do_not_travel,
                        changes_that_travel_twice_as_far],
    "window_mask": [window_with_one_more, window_without_itself, window_transposed, window_to_both_sides,
                    window_of_numbers],
    "one_head": [head_without_scale, head_with_the_scale_of_x, head_of_columns, head_masked_late,
                 head_with_zero_scores, head_without_a_mask, head_with_the_opposite_mask],
    "look_back": [look_ahead, look_at_itself, look_by_shifting, look_back_from_the_same_place],
}
