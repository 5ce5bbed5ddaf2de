"""Exercises for chapter 10: measures by hand, a fair comparison, and the likelihood in one order.

Read 10_dllm_vs_gpt.py first. Replace each `raise NotImplementedError` with your own lines, and then run

    python exercises/check.py 10
"""
# ruff: noqa: F401 - the functions that you write use these imports

import math

import torch


def predict_measures():
    """Predict four measures of written text. (10 minutes)

    Return four numbers.

        The share of known words of "the bat sat on the mat", if the training text is "the cat sat on the sofa".
        The distinct runs of four characters of "abababab".
        The longest copy of "to be good" from the training text "not to be".
        The divergence between two texts that have no run in common.

    Hint: chapter 10 defines these measures before its second part. They are small fractions, a length and a logarithm.
    """
    raise NotImplementedError


def paired_difference(a, b):
    """Return how much better model A is than model B on the same windows: (mean, standard error). (10 minutes)

    a, b: (N,), the NLLs, or NELBOs, of the two models for each of N windows; the result is two floats.
    The mean is that of b - a, which is above 0 if A is better.
    Some windows are hard for both models. The standard error must not include this shared difficulty.

    Hint: how large is the error of one mean of N independent numbers? Which numbers are independent here?
    """
    raise NotImplementedError


def nll_in_order(model, x0, order):
    """Return -log p(text | order) for one order of writing, exactly, in nats: a float. (20 minutes)

    With the order 0, 1, 2, … this is the NLL of a dLLM that writes from left to right, like a GPT.
    model: a dLLM, tokens (B, T) and t (B,) → logits (B, T, V). The model reads t, the share of masks.
    x0: (T,), the text. order: a permutation of 0 … T - 1; position order[0] is written first.
    In each pass, one more token of the text is visible, and the model is asked for the next one in this order.

    Hint: begin with a canvas of masks. What does the canvas look like in pass i, and which probability counts?
    """
    raise NotImplementedError
