"""Checks of the exercises for chapter 13. check.py calls check_NAME with the learner's function NAME."""

from importlib import import_module
from itertools import product

import torch

block_diffusion = import_module("13_block_diffusion")
tools = import_module("exercises.checks.tools")


def check_predict_seen(f):
    answer = f()
    assert tools.are_numbers(answer, 10), "The function must return a list of ten numbers."
    seen = block_diffusion.two_streams(torch.tensor([1, 1, 1, 4, 4]), width=0).visible.sum(1).tolist()
    for row, (mine, true) in enumerate(zip(answer, seen)):
        name = f"The clean row at position {row}" if row < 5 else f"The noisy row at position {row - 4}"
        assert mine == true, f"{name} sees another number of rows than your list says."


def check_expected_characters(f):
    for rates, wanted, sentence in (
            ([], 1, "A pass without drafts must add one character, as a GPT does."),
            ([1, 1, 1], 4, "If all three drafts are always accepted, a pass must add four characters."),
            ([0, 1, 1], 1, "If the first draft is always refused, the later ones cannot help."),
            ([0.5], 1.5, "If there is one draft, and it is accepted every second time, a pass must add 1.5."),
            ([0.9, 0.2, 0.7], 2.206, "The mean is not right for rates that differ. A refused draft ends the pass.")):
        value = f(rates)
        assert tools.is_number(value), "The function must return a float."
        assert tools.close(value, wanted), sentence


def check_block_mask(f):
    for T, size in ((6, 2), (7, 3), (3, 8)):
        mask, case = f(T, size), f"For T={T} and size={size},"
        right = tools.is_tensor(mask, (2 * T, 2 * T), torch.bool)
        assert right, "The function must return a tensor (2T, 2T) of the type bool."
        noisy_noisy, noisy_clean = mask[:T, :T], mask[:T, T:]
        clean_noisy, clean_clean = mask[T:, :T], mask[T:, T:]
        assert mask.diagonal().all(), f"{case} every row must see itself."
        assert not clean_noisy.any(), f"{case} no clean row may see a noisy row."
        assert not noisy_clean.diagonal().any(), f"{case} a noisy row must not see the clean row of its own position."
        for i, j in product(range(T), repeat=2):
            own, before = i // size == j // size, j // size < i // size
            assert noisy_noisy[i, j] == own, f"{case} a noisy row must see exactly the noisy rows of its own block."
            assert noisy_clean[i, j] == before, f"{case} a noisy row must see exactly the clean rows of earlier blocks."
            right = clean_clean[i, j] == (own or before)
            assert right, f"{case} a clean row must see exactly the clean rows of its own block and of earlier blocks."


def check_acceptance(f):
    pairs = [torch.rand(2, n).pow(3).double() for n in (2, 3, 6) for _ in range(5)]
    pairs += [torch.tensor(pair).double() for pair in (
        ((0.5, 0.5, 0.0), (0.0, 0.5, 0.5)), ((1.0, 0.0), (0.0, 1.0)), ((0.2, 0.3, 0.5), (0.2, 0.3, 0.5)))]
    for p, q in (pair / pair.sum(1, keepdim=True) for pair in pairs):
        result = f(p.clone(), q.clone())
        assert isinstance(result, (tuple, list)) and len(result) == 2, "The function must return two tensors."
        right = all(tools.is_tensor(x, p.shape) for x in result)
        assert right, "Both results must be tensors of the shape (V,)."
        accept, replace = (x.double() for x in result)
        finite = bool(accept.isfinite().all() and replace.isfinite().all())
        assert finite, "A number is not finite. Think of tokens with q = 0, and of the case that p and q are equal."
        assert ((accept >= 0) & (accept <= 1)).all(), "Each number of `accept` must be from 0 to 1."
        proper = (replace >= 0).all() and tools.close(replace.sum(), 1)
        assert proper, "The tensor `replace` must be probabilities: no number below 0, and the sum 1."
        token = q * accept + (1 - (q * accept).sum()) * replace
        exact = torch.allclose(token, p, atol=1e-6)
        assert exact, "The token, which is an accepted draft or its replacement, does not have the distribution p."
        often = (q * accept).sum() > torch.minimum(p, q).sum() - 1e-6
        assert often, "The distribution is right, but a draft could be accepted more often."
