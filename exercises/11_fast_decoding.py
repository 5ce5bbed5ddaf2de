"""Exercises for chapter 11: the number of passes, mutual information, and a rule of your own.

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
    The model is not trained: all its probabilities are above 0 and below 1.
    Return a list of six numbers, the numbers of passes in these cases:

        1. denoise_blocks(model, canvas, steps=8)
        2. denoise_blocks(model, canvas, steps=1, block=8)
        3. denoise_blocks(model, canvas, steps=8, correction=6)
        4. denoise_blocks(model, canvas, steps=16, select=threshold(0.0), block=4)
        5. denoise_blocks(model, canvas, steps=16, select=threshold(1.0))
        6. denoise_blocks(model, canvas, steps=8, select=threshold(1.0))

    Hint: `plan_blocks` gives each block at least one pass. `count` tells a rule how many tokens are planned.
    """
    raise NotImplementedError


def mutual_information(joint):
    """Return the mutual information of two tokens, in nats: a float. (15 minutes)

    joint (V, V) has the probability of each pair of a first and a second token; some probabilities can be 0.
    In one pass, each of the two tokens is drawn from its own distribution, without looking at the other token.
    Return the mean of log(p / q) over pairs drawn from `joint`. Here p is the probability of a pair in `joint`,
    and q is the probability that the pass draws this pair. The rule `entropy_bound` keeps this mean small.

    Hint: which sums of `joint` are the two distributions? A pair with p = 0 adds 0 to the mean.
    """
    raise NotImplementedError


def threshold_apart(tau):
    """Return a rule that writes confident proposals, but no two neighbours in the same pass. (30 minutes)

    A rule is a function of logits, confidence (B, T), masked (B, T) and count (B,). It returns bools (B, T).
    Go through the masks of a row, from the most to the least confident, and stop when the confidence is below tau.
    Choose a mask if the rule has chosen neither of its two neighbours in this pass.
    At the end, chapter 11's `top_up` adds proposals if fewer than `count` are chosen.

    Hint: use argsort(descending=True), and one loop over the rows and their positions. Speed does not matter here.
    """
    raise NotImplementedError
