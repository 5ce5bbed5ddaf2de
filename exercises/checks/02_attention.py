"""What the exercises for chapter 02 must do. check.py gives each function the learner's function of the same name."""

from importlib import import_module

import torch

attention = import_module("02_attention")


def check_predict_changes(f):
    answer = f()
    right = isinstance(answer, (list, tuple)) and len(answer) == 4
    right = right and all(isinstance(positions, (list, tuple, set, range)) for positions in answer)
    assert right, "The function must return a list of four lists."
    here = torch.arange(6)
    causal, pair = here[:, None] >= here, (here[:, None] - here).clamp(-1, 2) // 2 == 0
    cases = {"the layer without a mask": [None], "the causal layer": [causal],
             "the layer that looks one position back": [pair], "the two layers": [pair, pair]}  # fmt: skip
    for (case, masks), positions in zip(cases.items(), answer):
        assert sorted(positions) == changes(masks, 2, 6), f"For {case}, other outputs change than you predict."


def changes(masks, place, T):
    """The positions whose outputs change if the input at `place` changes, after a layer for each of the masks."""
    torch.manual_seed(0)
    x = torch.randn(T, 8)
    changed = x.clone()
    changed[place] += 1
    for mask in masks:
        x, changed = (y + attention.attention(y, y, y, mask)[0] for y in (x, changed))
    return [i for i in range(T) if not torch.allclose(x[i], changed[i])]


def check_window_mask(f):
    for T, width in ((6, 2), (6, 3), (5, 1), (4, 4), (3, 9), (1, 1)):
        mask = f(T, width)
        right = torch.is_tensor(mask) and mask.shape == (T, T) and mask.dtype == torch.bool
        assert right, "The result must be a boolean tensor of the shape (T, T)."
        assert mask.diagonal().all(), "Every position must be allowed to look at itself."
        assert not mask.triu(1).any(), "No position may look at a later one; the row is the position that looks."
        counts = mask.sum(1).tolist()
        assert counts[0] == 1, "Before the first position there is nothing to look at."
        assert max(counts) <= width, "A position may look at `width` positions at most, itself included."
        assert counts == [min(i + 1, width) for i in range(T)], "A position must look at `width` positions if it can."
        near = all(mask[i, i - n] for i, count in enumerate(counts) for n in range(count))
        assert near, "The window must hold the nearest positions, without gaps."


def check_one_head(f):
    torch.manual_seed(0)
    every, causal = torch.ones(5, 5, dtype=torch.bool), torch.ones(5, 5, dtype=torch.bool).tril()
    for C, d in ((6, 6), (6, 3), (4, 16)):
        x, w_q, w_k, w_v = torch.randn(5, C), *torch.randn(3, C, d)
        answer = f(x, w_q, w_k, w_v, every)
        assert torch.is_tensor(answer) and answer.shape == (5, d), "The result must be a tensor of the shape (T, d)."
        finite = answer.isfinite().all() and f(x, w_q, w_k, w_v, causal).isfinite().all()
        assert finite, "The result is not finite. Remember that True in the mask means that a position may look."
        mean = (x @ w_v).mean(0).expand(5, d)
        same = torch.allclose(f(x, 0 * w_q, w_k, w_v, every), mean, atol=1e-5)
        assert same, "If all scores are equal, each output must be the mean of the values."
        same = torch.allclose(f(x, 0 * w_q, w_k, w_v, causal)[0], (x @ w_v)[0], atol=1e-5)
        assert same, "A position that may look only at itself must get its own value, with the weight 1."
        for mask, kind in ((every, "a mask that allows everything"), (causal, "the causal mask")):
            wanted, _ = attention.attention(x @ w_q, x @ w_k, x @ w_v, mask)
            same = torch.allclose(f(x, w_q, w_k, w_v, mask), wanted, atol=1e-5)
            assert same, f"With {kind}, the result is not that of chapter 02's attention."


def check_look_back(f):
    for T, d in ((12, 32), (20, 64)):
        x = torch.full((T, d), 4.0)
        for distance in (0, 1, 3, -2):
            answer = f(x.clone(), distance)
            pair = isinstance(answer, (list, tuple)) and len(answer) == 2
            right = pair and all(torch.is_tensor(part) and part.shape == (T, d) for part in answer)
            assert right, "The function must return two tensors of the shape (T, d), the queries and the keys."
            lengths = torch.stack([part.norm(dim=-1) for part in answer])
            assert torch.allclose(lengths, x.norm(dim=-1).expand_as(lengths)), "A rotation does not change a length."
            weights = attention.attention(*answer, x)[1]
            places, best = [i for i in range(T) if 0 <= i - distance < T], weights.argmax(-1).tolist()
            ahead = all(best[i] == i + distance for i in places if 0 <= i + distance < T)
            assert not distance or not ahead, f"With distance {distance}, the head looks in the opposite direction."
            right = all(best[i] == i - distance for i in places)
            assert right, f"With distance {distance}, position i does not look at position i - distance most."
            enough = all(weights[i, i - distance] > 0.9 for i in places)
            assert enough, f"With distance {distance}, position i - distance gets less than nine tenths of the weight."
