"""Plausible mistakes in the exercises for chapter 04. Each docstring names the mistake."""

import math
from importlib import import_module
from itertools import combinations, permutations

import torch

from plumbing import sampling

diffusion = import_module("04_diffusion")


def masks_of_the_mean_rate():
    """A random t is replaced by its mean, 1/2."""
    return [3 / 4, 27 / 64, 3 / 2, 1 / 8]


def masks_that_are_visible():
    """t is taken for the probability that a character is visible."""
    return [9 / 4, 1 / 64, 3 / 2, 1 / 4]


def masks_of_one_character():
    """The probabilities are those of one character."""
    return [3 / 4, 3 / 4, 3 / 2, 1 / 2]


def masks_of_at_least_one():
    """The probability that some character is masked."""
    return [3 / 4, 37 / 64, 3 / 2, 3 / 4]


def losses_of_all_sets(model, x0):
    """{set of masked positions: the sum of the losses at its masks}."""
    T, found = len(x0), {}
    for k in range(1, T + 1):
        for masked in combinations(range(T), k):
            xt = x0.index_fill(0, torch.tensor(masked), model.config.mask_id)[None]
            with torch.no_grad():
                found[masked] = diffusion.masked_cross_entropy(model, x0[None], xt, torch.ones(1)).sum().item()
    return found


def bound_without_one_over_k(model, x0):
    """All losses of a set count, although only one character is written."""
    found, T = losses_of_all_sets(model, x0), len(x0)
    return sum(loss / math.comb(T, len(masked)) for masked, loss in found.items())


def bound_of_equal_sets(model, x0):
    """All sets of masks have the same weight, whatever their size is."""
    found, T = losses_of_all_sets(model, x0), len(x0)
    return T * sum(loss / len(masked) for masked, loss in found.items()) / len(found)


def bound_per_character(model, x0):
    """Divided by the number of characters."""
    found, T = losses_of_all_sets(model, x0), len(x0)
    return sum(loss / len(masked) / math.comb(T, len(masked)) for masked, loss in found.items()) / T


def bound_from_all_masks(model, x0):
    """One pass with masks only, so no character sees another one."""
    return losses_of_all_sets(model, x0)[tuple(range(len(x0)))]


def losses_of_orders(model, x0):
    """-log p(text | order) for each order."""
    losses = []
    for order in permutations(range(len(x0))):
        total = 0.0
        for i, place in enumerate(order):
            xt = x0.index_fill(0, torch.tensor(order[i:]), model.config.mask_id)[None]
            with torch.no_grad():
                total -= model(xt, torch.ones(1))[0, place].log_softmax(-1)[x0[place]].item()
        losses.append(total)
    return losses


def likelihood_instead_of_bound(model, x0):
    """The logarithm of the mean instead of the mean of the logarithms."""
    losses = losses_of_orders(model, x0)
    return -math.log(sum(math.exp(-loss) for loss in losses) / len(losses))


def bound_of_one_order(model, x0):
    """Only the order from left to right."""
    return losses_of_orders(model, x0)[0]


def elbo(model, x0):
    """The sign is wrong."""
    losses = losses_of_orders(model, x0)
    return -sum(losses) / len(losses)


def most_confident(confidence, masked, count, generator=None):
    """The rule of the chapter."""
    return diffusion.by_confidence(confidence, masked, count)


def least_confident_of_all(confidence, masked, count, generator=None):
    """Visible positions are selected too."""
    return confidence.argsort(1).argsort(1) < count[:, None]


def least_confident_but_fewer(confidence, masked, count, generator=None):
    """Visible positions are ranked too and left out afterwards, so fewer are written than asked for."""
    return (confidence.argsort(1).argsort(1) < count[:, None]) & masked


def least_confident_of_the_first_row(confidence, masked, count, generator=None):
    """Every row gets the count of the first one."""
    return sampling.top_ranked(-confidence, masked, count[:1].expand_as(count))


def least_confident_with_one_argsort(confidence, masked, count, generator=None):
    """The order of the positions is taken for their ranks."""
    return (confidence.masked_fill(~masked, 2).argsort(1) < count[:, None]) & masked


def blocks_that_overlap(size):
    """The score of a block is a share, so a confident position of the next block can win."""
    def select(confidence, masked, count, generator=None):
        T = confidence.shape[1]
        return sampling.top_ranked(confidence - torch.arange(T) // size / (T / size), masked, count)

    return select


def blocks_from_the_right(size):
    """The last block comes first."""
    def select(confidence, masked, count, generator=None):
        return sampling.top_ranked(confidence + 2 * (torch.arange(confidence.shape[1]) // size), masked, count)

    return select


def blocks_that_stop(size):
    """The rule never goes on to the next block, so a pass writes too few tokens."""
    def select(confidence, masked, count, generator=None):
        block = torch.arange(confidence.shape[1]) // size
        first = block.expand_as(masked).masked_fill(~masked, 10**6).amin(1, keepdim=True)
        return sampling.top_ranked(confidence, masked & (block == first), count)

    return select


def blocks_from_left_to_right(size):
    """Within a block the leftmost position comes first."""
    def select(confidence, masked, count, generator=None):
        return sampling.top_ranked(-torch.arange(confidence.shape[1]).expand_as(confidence).float(), masked, count)

    return select


def number_of_blocks(size):
    """size is taken for the number of blocks."""
    def select(confidence, masked, count, generator=None):
        T = confidence.shape[1]
        return sampling.top_ranked(confidence - 2 * (torch.arange(T) // max(1, T // size)), masked, count)

    return select


WRONG = {
    "predict_masks": [masks_of_the_mean_rate, masks_that_are_visible, masks_of_one_character, masks_of_at_least_one],
    "nelbo_by_hand": [bound_without_one_over_k, bound_of_equal_sets, bound_per_character, bound_from_all_masks,
                      likelihood_instead_of_bound, bound_of_one_order, elbo],
    "least_confident": [most_confident, least_confident_of_all, least_confident_but_fewer,
                        least_confident_of_the_first_row, least_confident_with_one_argsort],
    "in_blocks": [blocks_that_overlap, blocks_from_the_right, blocks_that_stop, blocks_from_left_to_right,
                  number_of_blocks],
}
