"""Exercises for chapter 06: windows, a text with two given ends, a forbidden letter, and how well a word fits.

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

    A model reads 128 positions at once. The canvas has 230 positions, and all of them are masked. A full window gets
    steps=64. Return the list of windows (left, right, steps), in order.
    Hint: a window begins a quarter of its size before the text that it adds, and the last one is moved to the left.
    """
    raise NotImplementedError


def canvas_with_ends(start, end, length, tokenizer):
    """Return the ids of a text that begins with `start`, ends with `end`, and is masked between them. (10 minutes)

    start, end: texts, of which one or both can be empty. length: the number of positions of the whole canvas. The
    result is a list of `length` ints. If both ends together are longer than `length`, raise ValueError.
    Hint: tokenizer.encode(text) returns a list of ids, and tokenizer.mask_id is the id of a mask.
    """
    raise NotImplementedError


def without(model, banned):
    """Return a model that never writes the tokens `banned`. (20 minutes)

    A lipogram is a text that avoids a letter. With this function the samplers of chapters 04 and 06 can write one.
    model: a dLLM. banned: a list of token ids, not all of the vocabulary. The result has the attribute `config` of the
    model. It can be called with tokens (B, T) and t (B,), where t can be left out, and it returns logits (B, T, V).
    They give the banned tokens the probability 0. The other tokens keep the proportions of their probabilities. The
    given model, and the logits that it returns, stay as they are.
    Hint: write a small class with the methods __init__ and __call__. Which logit gives a softmax the probability 0?
    """
    raise NotImplementedError


def template_perplexity(model, canvas, filling):
    """Return how surprised the model is by `filling`, the tokens for the masks of a template. (25 minutes)

    canvas: (T,) a template, which is a text with masks. filling: (M,) one token for each mask, from left to right.
    The model fills the masks from left to right, one per pass, and it sees both sides of each mask. By the chain rule,
    -log p(filling | template) is the sum of M terms. The perplexity is exp(that sum / M), a float. A model that chooses
    among n equally likely tokens has the perplexity n. The canvas stays as it is.
    Hint: `model` expects tokens (B, T) and returns logits (B, T, V). Work on a clone of the canvas under
    torch.no_grad(). In pass i, which masks are already filled?
    """
    raise NotImplementedError
