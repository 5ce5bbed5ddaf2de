"""Exercises for chapter 04: the number of masks, the bound by hand, and two rules that say where to write.

Read 04_diffusion.py first. Replace each `raise NotImplementedError` with your own lines, and then run

    python exercises/check.py 04
"""
# ruff: noqa: F401 - the functions that you write use these imports

import math
from importlib import import_module
from itertools import combinations, permutations

import torch

diffusion = import_module("04_diffusion")


def predict_masks():
    """Predict how many characters of a text of three characters are hidden. (10 minutes)

    Return four numbers.

        `hide` hides k of the three characters; k is 1, 2 or 3, each equally often. What is the mean number of masks?
        With this k, what is the probability that the first character is hidden?
        `mask_tokens` hides each character with probability 1/4. What is the probability that none is hidden?
        What is this last probability if the rate is not 1/4, but drawn evenly between 0 and 1?

    Hint for the last number: a character is hidden if a random number between 0 and 1 is below the rate. With a random
    rate there are four random numbers, and each of them is equally likely to be the smallest.
    """
    raise NotImplementedError


def nelbo_by_hand(model, x0, given):
    """Return the NELBO of a short text whose first `given` characters are known, exactly. (30 minutes)

    x0: (T,). The model writes the other T - given characters, one per pass; all orders are equally likely.
    The NELBO is the mean over all orders of -log p(these characters | order), in nats for all together: a float.
    Calculate it from model(tokens (B, T), t (B,)) → logits (B, T, V). The model ignores t.
    Do not call the functions of chapter 04's section 3: the check compares your result with theirs.

    Hint: a loop over all orders, with one pass per character; or a sum over all sets of hidden characters.
    """
    raise NotImplementedError


def by_margin(logits, confidence, masked, count):
    """Rule: write where the most likely token is furthest ahead of the second most likely one. (10 minutes)

    "Furthest ahead" means the largest difference of their probabilities (Kim et al. 2025, arXiv:2502.06768).
    logits: (B, T, V), V at least 2. confidence: (B, T), which this rule ignores.
    masked: (B, T), True where a mask is left. count: (B,), the number of masks to fill in each row.
    Return (B, T), True at exactly `count` masked positions of each row.

    Hint: read chapter 04's `by_confidence`. tensor.topk(2).values holds the two largest numbers.
    """
    raise NotImplementedError


def in_blocks(size):
    """Return a rule that writes a text block by block, from left to right. (20 minutes)

    A rule is a function with the arguments of `by_margin`. A block is `size` positions long; the last can be shorter.
    In each row, the rule chooses masks of the leftmost block that still has any, the most confident ones first.
    If `count` is larger than the number of masks in that block, the rule goes on in the next block in the same way.
    With size=1 the text is written from left to right, as by a GPT.

    Hint: give each position one score, which ranks first by the block and then by the confidence (at most 1).
    """
    raise NotImplementedError
