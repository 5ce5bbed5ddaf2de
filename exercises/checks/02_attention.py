"""Checks of the exercises for chapter 02. check.py calls check_NAME with the learner's function NAME."""

from importlib import import_module

import torch

attention = import_module("02_attention")
tools = import_module("exercises.checks.tools")


def check_predict_changes(f):
    answer = f()
    right = isinstance(answer, (list, tuple)) and len(answer) == 4
    right = right and all(isinstance(positions, (list, tuple, set, range)) for positions in answer)
    assert right, "The function must return a list of four lists."
    here = torch.arange(6)
    back = here[:, None] - here  # (6, 6)
    causal, pair = back >= 0, (back >= 0) & (back <= 1)
    cases = (("the layer without a mask", [None]), ("the causal layer", [causal]),
             ("the layer that looks one position back", [pair]), ("the two layers", [pair, pair]))
    for (case, masks), positions in zip(cases, answer):
        assert sorted(positions) == changes(masks, 2, 6), f"For {case}, other outputs change than you predict."


def changes(masks, place, T):
    """Return the positions whose outputs change if the input at `place` changes. Each mask stands for one layer."""
    x = torch.randn(T, 8)
    changed = x.clone()
    changed[place] += 1
    for mask in masks:
        x = x + attention.attention(x, x, x, mask)[0]
        changed = changed + attention.attention(changed, changed, changed, mask)[0]
    return [i for i in range(T) if not torch.allclose(x[i], changed[i])]


def check_window_mask(f):
    for T, width in ((6, 2), (5, 1), (4, 4), (3, 9)):
        mask = f(T, width)
        right = tools.is_tensor(mask, (T, T), torch.bool)
        assert right, "The result must be a boolean tensor of the shape (T, T)."
        assert mask.diagonal().all(), "Every position must be allowed to look at itself."
        assert not mask.triu(1).any(), "No position may look at a later one; the row is the position that looks."
        counts = mask.sum(1).tolist()
        assert max(counts) <= width, "A position may look at `width` positions at most, itself included."
        assert counts == [min(i + 1, width) for i in range(T)], "A position must look at `width` positions if it can."
        near = all(mask[i, i - n] for i, count in enumerate(counts) for n in range(count))
        assert near, "The window must hold the nearest positions, without gaps."


def check_look_back(f):
    T, d = 12, 32
    x = torch.full((T, d), 4.0)
    for distance in (0, 1, 3, -2):
        answer = f(x.clone(), distance)
        pair = isinstance(answer, (list, tuple)) and len(answer) == 2
        right = pair and all(tools.is_tensor(part, (T, d)) for part in answer)
        assert right, "The function must return two tensors of the shape (T, d), the queries and the keys."
        lengths = torch.stack([part.norm(dim=-1) for part in answer])
        assert torch.allclose(lengths, x.norm(dim=-1).expand_as(lengths)), "A rotation does not change a length."
        weights = attention.attention(*answer, x)[1]
        best = weights.argmax(-1).tolist()
        places = [i for i in range(T) if 0 <= i - distance < T]
        ahead = all(best[i] == i + distance for i in places if 0 <= i + distance < T)
        assert not distance or not ahead, f"With distance {distance}, the head looks in the opposite direction."
        right = all(best[i] == i - distance for i in places)
        assert right, f"With distance {distance}, position i does not look at position i - distance most."
        enough = all(weights[i, i - distance] > 0.9 for i in places)
        assert enough, f"With distance {distance}, position i - distance gets less than nine tenths of the weight."
