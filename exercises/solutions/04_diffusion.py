"""Our solutions of the exercises for chapter 04. Other solutions can be as good."""

from importlib import import_module
from itertools import combinations

import torch

from plumbing import sampling

diffusion = import_module("04_diffusion")


def predict_masks():
    # Three characters with the rate 1/4 give 3/4 masks, and none of them is masked with probability (3/4)³. If t is
    # random too, the mean rate is 1/2, and there is no mask if t is the smallest of four random numbers. So a text of T
    # tokens has no mask in one of T + 1 cases, which is why chapter 04 then masks an exact number of tokens.
    return [3 / 4, 27 / 64, 3 / 2, 1 / 4]


@torch.no_grad()
def nelbo_by_hand(model, x0):
    # When k characters are still masked, all sets of k positions are equally likely, and each of the k is the next one
    # with probability 1/k. So the loss of a set is the mean over its masks, the loss at k is the mean over its sets,
    # and the NELBO is the sum over k: the model writes one character at each k from T down to 1.
    T, total = len(x0), 0.0
    for k in range(1, T + 1):
        sets = torch.tensor(list(combinations(range(T), k)))  # (n, k)
        xt = x0.expand(len(sets), T).scatter(1, sets, model.config.mask_id)  # (n, T)
        losses = diffusion.masked_cross_entropy(model, x0.expand_as(xt), xt, torch.full((len(sets),), k / T))
        total += (losses.sum(1) / k).mean().item()
    return total


def least_confident(confidence, masked, count, generator=None):
    # The highest of the negative scores is the lowest confidence, and top_ranked leaves out the visible positions. In
    # a sampler this is a bad rule: it writes first what the model knows least, and everything later depends on it.
    return sampling.top_ranked(-confidence, masked, count)


def in_blocks(size):
    # A confidence is at most 1, so with a distance of 2 between blocks even the least confident position of a block
    # ranks before the next block. Chapter 11 uses such blocks, because text that is finished can be kept in a cache.
    def select(confidence, masked, count, generator=None):
        block = torch.arange(confidence.shape[1], device=confidence.device) // size  # (T,)
        return sampling.top_ranked(confidence - 2 * block, masked, count)

    return select
