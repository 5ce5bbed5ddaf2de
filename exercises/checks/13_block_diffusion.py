"""What the exercises for chapter 13 must do. check.py gives each function the learner's function of the same name."""

from importlib import import_module
from itertools import product

import torch

block_diffusion = import_module("13_block_diffusion")


def check_predict_seen(f):
    answer = f()
    assert isinstance(answer, (list, tuple)) and len(answer) == 10, "The function must return a list of ten numbers."
    seen = block_diffusion.two_streams(torch.tensor([1, 1, 1, 4, 4])).visible.sum(1).tolist()
    for row, (mine, true) in enumerate(zip(answer, seen)):
        name = f"The clean row at position {row}" if row < 5 else f"The noisy row at position {row - 4}"
        assert mine == true, f"{name} sees another number of rows than your list says."


def check_expected_characters(f):
    def equals(rates, wanted):
        value = f(list(rates))
        assert isinstance(value, (int, float)), "The function must return a float."
        return abs(value - wanted) < 1e-9

    assert equals([], 1), "A pass without drafts must add one character, as a GPT does."
    assert equals([1, 1, 1], 4), "If all three drafts are always accepted, a pass must add four characters."
    assert equals([0, 1, 1], 1), "If the first draft is always refused, the later ones cannot help."
    assert equals([0.5], 1.5), "If there is one draft, and it is accepted every second time, a pass must add 1.5."
    for rates in ((0.8, 0.5), (0.9, 0.2, 0.7), (0.6, 0.6, 0.6, 0.6)):
        mean = 0.0
        for accepted in product((True, False), repeat=len(rates)):  # what would happen to each draft
            chance = 1.0
            for rate, is_accepted in zip(rates, accepted):
                chance *= rate if is_accepted else 1 - rate
            mean += chance * (1 + [*accepted, False].index(False))
        assert equals(rates, mean), "The mean is not right for rates that differ. A refused draft ends the pass."


def check_block_mask(f):
    for T, size in ((6, 2), (5, 2), (4, 1), (4, 4), (7, 3), (3, 8)):
        mask, case = f(T, size), f"For T={T} and size={size},"
        right = torch.is_tensor(mask) and mask.dtype == torch.bool and mask.shape == (2 * T, 2 * T)
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
            assert clean_clean[i, j] == (own or before), (
                f"{case} a clean row must see exactly the clean rows of its own block and of earlier blocks.")


def check_acceptance(f):
    torch.manual_seed(0)
    pairs = [torch.rand(2, n).pow(3).double() for n in (2, 3, 6) for _ in range(5)]
    pairs += [torch.tensor(pair, dtype=torch.float64) for pair in (
        ((0.5, 0.5, 0.0), (0.0, 0.5, 0.5)), ((1.0, 0.0), (0.0, 1.0)), ((0.2, 0.3, 0.5), (0.2, 0.3, 0.5)),
        ((0.0, 0.0, 1.0), (0.3, 0.3, 0.4)))]
    for p, q in (pair / pair.sum(1, keepdim=True) for pair in pairs):
        result = f(p.clone(), q.clone())
        assert isinstance(result, (tuple, list)) and len(result) == 2, "The function must return two tensors."
        right = all(torch.is_tensor(x) and x.shape == p.shape for x in result)
        assert right, "Both results must be tensors of the shape (V,)."
        accept, replace = (x.double() for x in result)
        finite = bool(accept.isfinite().all() and replace.isfinite().all())
        assert finite, "A number is not finite. Think of tokens with q = 0, and of the case that p and q are equal."
        assert ((accept >= 0) & (accept <= 1)).all(), "Each number of `accept` must be from 0 to 1."
        proper = (replace >= 0).all() and abs(replace.sum() - 1) < 1e-6
        assert proper, "The tensor `replace` must be probabilities: no number below 0, and the sum 1."
        token = q * accept + (1 - (q * accept).sum()) * replace
        assert torch.allclose(token, p, atol=1e-6), (
            "The token, which is an accepted draft or its replacement, does not have the distribution p.")
        most = torch.minimum(p, q).sum()
        assert (q * accept).sum() > most - 1e-6, "The distribution is right, but a draft could be accepted more often."
