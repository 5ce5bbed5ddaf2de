"""Exercises for chapter 10: measures by hand, a fair comparison, and the likelihood in one order.

Read 10_dllm_vs_gpt.py first. Replace each `raise NotImplementedError` with your own lines, and then run

    python exercises/check.py 10
"""
# ruff: noqa: F401 - the functions that you write use these imports

import math

import torch


def predict_measures():
    """Predict four measures of written text. (10 minutes)

    Return a list of four numbers:

        1. the share of known words in "the bat sat on the mat", if the training text is "the cat sat on the sofa"
        2. the share of distinct runs of four characters in "abababab"
        3. the length of the longest run of characters that "to be good" copies from the training text "not to be"
        4. the divergence between two texts that have no run in common

    Hint: a comment at the beginning of chapter 10's second part defines these measures.
    """
    raise NotImplementedError


def paired_difference(a, b):
    """Return how much better model A is than model B on the same windows: (mean, standard error). (10 minutes)

    a (N,) has the NLL of model A for each of N windows, and b (N,) has the NLL of model B for the same windows.
    Return two floats: the mean of b - a, which is above 0 if A is better, and the standard error of this mean.
    Some windows are hard for both models. The standard error must not include this shared difficulty.

    Hint: how large is the standard error of a mean of N independent numbers? Which numbers are independent here?
    """
    raise NotImplementedError


def nll_in_order(model, x0, order):
    """Return the exact -log p(text | order) for one order of writing, in nats: a float. (20 minutes)

    With the order 0, 1, 2, … this is the NLL of a dLLM that writes from left to right, like a GPT.
    model is a dLLM: model(tokens, t) turns tokens (B, T) and their shares of masks t (B,) into logits (B, T, V).
    x0 (T,) is the text. order is a permutation of 0 … T - 1: position order[0] is written first.
    In each pass, one more token of the text is visible, and the model predicts the next token in this order.

    Hint: begin with a canvas of masks. What does the canvas look like in pass i, and which probability counts?
    """
    raise NotImplementedError
