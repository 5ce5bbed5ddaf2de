"""Exercises for chapter 04: how many masks there are, the bound by hand, and two rules for the order of writing.

Read 04_diffusion.py first. Replace each `raise NotImplementedError` with your own lines, and then run

    python exercises/check.py 04
"""
# ruff: noqa: F401 - the functions that you write use these imports

import math
from importlib import import_module
from itertools import combinations, permutations

import torch

from plumbing import sampling

diffusion = import_module("04_diffusion")


def predict_masks():
    """Predict how many characters of a short text are masked. (10 minutes)

    A text has three characters, and each of them is masked independently with probability t. Return four numbers:

        the mean number of masks for t = 1/4,
        the probability that no character is masked for t = 1/4,
        the mean number of masks if t is drawn evenly between 0 and 1, as in chapter 04's `simple_loss`,
        the probability that no character is masked if t is drawn evenly between 0 and 1.

    Hint: give each character a random number between 0 and 1, and mask it if that number is below t. If t is a random
    number too, there are four random numbers, and each of the four is equally likely to be the smallest.
    """
    raise NotImplementedError


def nelbo_by_hand(model, x0):
    """Return the NELBO of a text of a few characters, exactly, from all of its masks. (30 minutes)

    model: called with tokens (B, T) and t (B,), it returns logits (B, T, V); model.config.mask_id is the mask token.
    x0: (T,) the text. The model writes one character per pass, in a random order, and all orders are equally likely.
    The NELBO is the mean over the orders of -log p(text | order), in nats for the whole text. Return a float. Derive it
    yourself, without chapter 04's `derive_bound`: the check compares with it. The model is not time-conditioned, so any
    t will do.
    Hint: one way is a loop over all orders, with one pass per character. The other is a sum over all sets of masked
    positions: when k characters are masked, what is the probability of each set, and of each of the k to be next?
    """
    raise NotImplementedError


def least_confident(confidence, masked, count, generator=None):
    """Select the proposals to write: those of which the model is least sure. (10 minutes)

    This is a selection rule like chapter 04's `by_confidence`, in the opposite order, and `denoise` can use it as its
    argument `select`. confidence: (B, T), from 0 to 1. masked: (B, T) boolean, True where a token is still masked.
    count: (B,) how many tokens each row must write, at most as many as it has masks. Return (B, T), boolean: True at
    exactly `count` masked positions of each row, those with the lowest confidence.
    Hint: read the function `sampling.top_ranked`, which `by_confidence` calls.
    """
    raise NotImplementedError


def in_blocks(size):
    """Return a selection rule that writes a text block by block, from left to right. (20 minutes)

    A block is `size` positions long; the first one begins at position 0, and the last one can be shorter. The result is
    a function with the arguments of `least_confident`. In each row it selects masked positions of the leftmost block
    that has masks, in the order of confidence, the most confident ones first. If `count` is larger than the number of
    masks in that block, it goes on with the next block in the same way. With size=1 the text is written from left to
    right, as by a GPT. With a size of T or more the rule is `by_confidence`.
    Hint: give each position one score that ranks first by its block and then by its confidence, which is at most 1.
    """
    raise NotImplementedError
