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

    The canvas has 230 positions, all masked. A model reads 128 of them at once, and a full window gets 64 passes.
    Return the list of windows (left, right, passes), in order.

    Hint: a window begins a quarter of its size before the text that it adds, and the last one is moved to the left.
    """
    raise NotImplementedError


def without(model, banned):
    """Return a model that never writes the tokens `banned`. (20 minutes)

    A text that avoids a letter is called a lipogram. With this, the samplers of chapters 04 and 06 can write one.
    The new model has the `config` of `model`. Called with tokens (B, T), with or without t (B,), it returns logits.
    Their softmax gives banned tokens 0; all other tokens keep the proportions of their probabilities.
    The given model, and the logits that it returns, stay as they are.

    Hint: write a small class with the methods __init__ and __call__. Which logit gives a softmax the probability 0?
    """
    raise NotImplementedError


def template_perplexity(model, canvas, filling):
    """Return the perplexity of `filling`, the tokens for a template's masks: how surprising they are. (25 minutes)

    canvas: (T,), a text with M masks. filling: (M,), one token for each mask, from left to right.
    The model fills the masks from left to right, one per pass, and sees both sides of each mask.
    By the chain rule, -log p(filling | template) is a sum of M terms. The perplexity is exp(sum / M), a float.
    A model that chooses among n equally likely tokens has the perplexity n. The canvas stays as it is.

    Hint: model(tokens (B, T)) returns logits (B, T, V). Work on a clone under torch.no_grad().
    """
    raise NotImplementedError
