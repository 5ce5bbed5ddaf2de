"""Exercises for chapter 06: windows, a forbidden letter, and how well a word fits.

Read 06_generate.py first. Replace each `raise NotImplementedError` with your own lines, and then run

    python exercises/check.py 06
"""
# ruff: noqa: F401 - the functions that you write use these imports

import math
from importlib import import_module

import torch

generation = import_module("06_generate")


def predict_windows():
    """Predict how chapter 06's `plan_windows` cuts a long text into windows. (10 minutes)

    The canvas has 230 positions, and all of them are masked. The model's window has 128 positions, and steps=64.
    Return the list of windows (left, right, passes), from left to right.

    Hint: the first quarter of a later window overlaps the window before it. The last window is moved to the left.
    """
    raise NotImplementedError


def without(model, banned):
    """Return a model that never writes the tokens in `banned`. (20 minutes)

    With the new model, the samplers of chapters 04 and 06 write a lipogram, a text that avoids a letter.
    The new model has the same `config` as `model`. It is called with tokens (B, T), or with tokens
    and t (B,), and returns logits.
    After softmax, every banned token has probability 0, and all other probabilities keep their proportions.
    Your function must not change `model` or the logits that `model` returns.

    Hint: write a small class with the methods __init__ and __call__. Which logit has the probability 0 after softmax?
    """
    raise NotImplementedError


def template_perplexity(model, canvas, filling):
    """Return the perplexity of `filling`, the tokens that replace the masks of `canvas`. (25 minutes)

    `canvas` (T,) is a text with M masks. `filling` (M,) has one token for each mask, from left to right.
    The masks are filled from left to right, one per pass. The model sees the tokens on both sides of each mask.
    By the chain rule, -log p(filling | canvas) is a sum of M terms. The perplexity is exp(sum / M), a float.
    If a model chooses among n equally likely tokens, the perplexity is n. Your function must not change `canvas`.

    Hint: model(tokens (B, T)) returns logits (B, T, V). Work on a clone under torch.no_grad().
    """
    raise NotImplementedError
