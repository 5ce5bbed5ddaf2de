"""Exercises for chapter 03: the number of parameters, what each block adds, and a test for causality.

Read 03_transformer.py first. Replace each `raise NotImplementedError` with your own lines, and then run

    python exercises/check.py 03
"""
# ruff: noqa: F401 - the functions that you write use these imports

from importlib import import_module

import torch

attention = import_module("02_attention")
transformer = import_module("03_transformer")


def predict_growth():
    """Predict how much the number of parameters in the blocks grows if one setting is doubled. (5 minutes)

    Start from the default settings of chapter 03's TransformerConfig.
    Count only the parameters of attention and MLP, in all blocks.
    Double one setting at a time: n_layer, n_embd, n_head, seq_len and vocab_size.
    Return a list of the five factors by which the number grows.

    Hint: chapter 03 prints a formula for each part. Which letters occur in the formulas of the attention and the MLP?
    """
    raise NotImplementedError


def logits_by_depth(model, tokens):
    """Return the logits that a model would give if it stopped after 0, 1, …, L blocks (the logit lens). (20 minutes)

    `model` is chapter 03's Transformer with L blocks and rotary positions. It has no convolution and reads no t.
    The shape of `tokens` is (B, T), and the shape of the result is (L + 1, B, T, V).
    To get entry n of the result, apply the model's `norm` and `head` to the residual stream after n blocks.
    So entry 0 uses only the embedding, and the last entry is equal to model(tokens).

    Hint: read Transformer.forward, and write down its steps one by one. torch.stack joins a list of tensors.
    """
    raise NotImplementedError


def sees_the_future(model, T):
    """Find out by experiment whether a model uses later tokens. (20 minutes)

    `model` is a function that turns tokens (1, T) into logits (1, T, V). V is model.config.vocab_size.
    If the logits at some position depend on the token at a later position, return True. Otherwise return False.
    Don't trust model.config.causal: in the check, it is sometimes wrong. In some models only one position looks ahead.

    Hint: change one token at a time. Which logits of a causal model can change then?
    """
    raise NotImplementedError
