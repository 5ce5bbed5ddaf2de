"""Our solutions to the exercises for chapter 04. Other solutions can be just as good."""

from importlib import import_module
from itertools import combinations

import torch

diffusion = import_module("04_diffusion")


def predict_masks():
    # Each k from 1 to 3 is equally likely, so the mean is 2, and each character is hidden with probability 2/3. With
    # the rate 1/4, no character is hidden with probability (3/4)³. With a random rate, no character is hidden if the
    # rate is the smallest of four random numbers. So one of T + 1 texts of T tokens would have no mask, and nothing to
    # learn from. This is why chapter 04 trains with an exact number of masks, which is never 0.
    return [2, 2 / 3, 27 / 64, 1 / 4]


@torch.no_grad()
def nelbo_by_hand(model, x0, given):
    # When k characters are still hidden, all sets of k positions are equally likely, and each character of a set is the
    # next one with probability 1/k. So the loss of a set is the mean over its characters, and the loss at k is the mean
    # over all sets of k positions. The model writes one character at each k from T - given down to 1, so the NELBO is
    # the sum over k.
    T = len(x0)
    total = 0.0
    for k in range(1, T - given + 1):
        losses = []
        for hidden in combinations(range(given, T), k):
            places = torch.tensor(hidden)
            xt = x0.index_fill(0, places, model.config.mask_id)
            log_p = model(xt[None], torch.tensor([k / T]))[0].log_softmax(-1)  # (T, V)
            losses.append(-log_p[places, x0[places]].mean())
        total += torch.stack(losses).mean().item()
    return total


def by_margin(logits, confidence, masked, count):
    # If two tokens are almost equally likely, choosing one of them is a guess. The confidence does not show this: next
    # to a token with a confidence of 0.4, the second token can have a probability of 0.39, or of 0.01.
    most, second = logits.softmax(-1).topk(2).values.unbind(-1)  # (B, T) each
    return diffusion.highest(most - second, masked, count)


def in_blocks(size):
    # A confidence is at most 1. The score falls by 2 from each block to the next, so even the least confident position
    # of a block ranks before the next block. Blocks save time, because a buffer can keep the keys and values of
    # finished text.
    def select(logits, confidence, masked, count):
        block = torch.arange(confidence.shape[1], device=confidence.device) // size  # (T,)
        return diffusion.highest(confidence - 2 * block, masked, count)

    return select
