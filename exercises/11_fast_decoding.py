"""Exercises for chapter 11: forward passes, what two tokens say about each other, and a rule of your own.

Read 11_fast_decoding.py first. Replace each `raise NotImplementedError` with your own lines, and then run

    python exercises/check.py 11
"""
# ruff: noqa: F401 - the functions that you write use these imports

from importlib import import_module

import torch

fast = import_module("11_fast_decoding")


def predict_passes():
    """Predict how many forward passes chapter 11's `denoise_blocks` needs for a text. (10 minutes)

    The canvas has 20 positions: 4 given tokens, and then 16 masks.
    The model is not trained: all its probabilities are above 0 and below 1. Return six numbers, for

        1. denoise_blocks(model, canvas, steps=8)
        2. denoise_blocks(model, canvas, steps=1, block=8)
        3. denoise_blocks(model, canvas, steps=8, correction=6)
        4. denoise_blocks(model, canvas, steps=16, select=threshold(0.0), block=4)
        5. denoise_blocks(model, canvas, steps=16, select=threshold(1.0))
        6. denoise_blocks(model, canvas, steps=8, select=threshold(1.0))

    Hint: `plan_blocks` gives each block at least one pass, and a rule is told how many tokens were planned.
    """
    raise NotImplementedError


def mutual_information(joint):
    """Return how much is lost if two tokens are drawn independently of each other, in nats: a float. (15 minutes)

    joint: (V, V), the probabilities of all pairs of a first and a second token; some can be 0.
    One pass draws each of the two tokens from its own distribution, without looking at the other token.
    The loss is the mean, over pairs from `joint`, of log(probability in `joint` / probability in this pass).
    This is the error that the rule `entropy_bound` keeps small.

    Hint: which sums of `joint` are the two distributions? A pair of probability 0 adds 0.
    """
    raise NotImplementedError


def threshold_apart(tau):
    """Return a rule that writes confident proposals, but no two neighbours in the same pass. (30 minutes)

    A rule is a function of logits, confidence (B, T), masked (B, T) and count (B,). It returns (B, T) bool.
    Go through the masks of a row, from the most to the least confident, as long as the confidence is at least tau.
    Choose a mask unless the rule has already chosen the position directly before or after it in this pass.
    In the end, let chapter 11's `top_up` add proposals if fewer than `count` are chosen.

    Hint: argsort(descending=True), and one loop over the rows and their positions. Speed does not matter here.
    """
    raise NotImplementedError
