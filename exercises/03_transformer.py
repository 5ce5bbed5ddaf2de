"""Exercises for chapter 03: growth, what each block adds, and a test for causality.

Read 03_transformer.py first. Replace each `raise NotImplementedError` with your own lines, and then run

    python exercises/check.py 03
"""
# ruff: noqa: F401 - the functions that you write use these imports

from importlib import import_module

import torch

attention = import_module("02_attention")
transformer = import_module("03_transformer")


def predict_growth():
    """Predict by which factor the number of parameters in the blocks grows if one setting is doubled. (5 minutes)

    Take chapter 03's TransformerConfig with its default settings.
    Count the parameters of the attention and of the MLP in all blocks, without the embedding and the head.
    Return five factors: for n_layer, n_embd, n_head, seq_len and vocab_size.

    Hint: chapter 03 prints a formula for each part. Which letters occur in the formulas of the attention and the MLP?
    """
    raise NotImplementedError


def logits_by_depth(model, tokens):
    """Return what the model would predict if it stopped early, after each of its L blocks. (20 minutes)

    model: chapter 03's Transformer with rotary positions, without convolution and without time. tokens: (B, T).
    Entry n of the result (L + 1, B, T, V) is what the model's `norm` and `head` make of the stream after n blocks.
    So entry 0 uses the embedding alone, and the last entry is what model(tokens) returns.
    This method is called the logit lens.

    Hint: read Transformer.forward, and write down its steps one by one. torch.stack joins a list of tensors.
    """
    raise NotImplementedError


def sees_the_future(model, T):
    """Find out by experiments whether a model uses later tokens. (20 minutes)

    model: a function of tokens (1, T) that returns logits (1, T, V). The size V is model.config.vocab_size.
    Return True if the logits at any position depend on the token at any later position, and False otherwise.
    Don't trust the model's config: some of the models in the check look ahead by mistake, at one place only.

    Hint: change one token at a time. Which logits may change then, and which may not?
    """
    raise NotImplementedError
