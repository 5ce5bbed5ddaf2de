"""Exercises for chapter 04: the number of masks, the NELBO by hand, and two selection rules.

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
    """Predict how many characters are hidden in a text of three characters. (10 minutes)

    Return a list of four numbers, the answers to these questions:

        `hide` hides k of the three characters. k is 1, 2 or 3, equally often. What is the mean number of masks?
        With this random k, what is the probability that the first character is hidden?
        `mask_tokens` hides each character with probability 1/4. What is the probability that no character is hidden?
        What is the probability that no character is hidden if the rate is drawn uniformly between 0 and 1?

    Hint for the last number: draw a random number between 0 and 1 for each character. A character is hidden if its
    number is below the rate. The rate and these three numbers are four random numbers. Which of the four is the
    smallest if no character is hidden?
    """
    raise NotImplementedError


def nelbo_by_hand(model, x0, given):
    """Return the exact NELBO of a short text x0 (T,). (30 minutes)

    The characters before position `given` are known.
    The model writes the other T - given characters, one per pass, and all orders are equally likely.
    The NELBO is the mean of -log p(written characters | order) over all orders.
    Return a float: the NELBO of all written characters together, in nats.
    model(tokens, t) takes tokens (B, T) and t (B,), and returns logits (B, T, V). The model ignores t.
    Do not call the functions in section 3 of chapter 04, because the check itself uses them.

    Hint: loop over all orders, with one pass per character, or sum over all sets of hidden characters.
    """
    raise NotImplementedError


def by_margin(logits, confidence, masked, count):
    """Rule: write where the margin of the most likely token is largest. (10 minutes)

    The margin is the probability of the most likely token minus the probability of the second most likely token
    (Kim et al. 2025, arXiv:2502.06768).
    `logits` has the shape (B, T, V), with V at least 2. This rule ignores `confidence` (B, T).
    `masked` (B, T) is True where a mask is left, and `count` (B,) is the number of masks to fill in each row.
    Return a boolean tensor (B, T) that is True at exactly `count` masked positions of each row.

    Hint: read chapter 04's `by_confidence`. tensor.topk(2).values holds the two largest numbers.
    """
    raise NotImplementedError


def in_blocks(size):
    """Return a rule that writes a text block by block, from left to right. (20 minutes)

    A rule is a function with the same arguments as `by_margin`.
    A block is `size` positions long, but the last block of a text can be shorter.
    In each row, the rule takes the leftmost block that has masks, and chooses its masks with the highest confidence.
    If this block has fewer than `count` masks, the rule continues in the next block in the same way.
    With size=1, the rule writes from left to right, like a GPT.

    Hint: give each position a score. Positions in earlier blocks must have higher scores, whatever their confidence is.
    The confidence is at most 1.
    """
    raise NotImplementedError
