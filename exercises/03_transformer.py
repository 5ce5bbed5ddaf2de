"""Exercises for chapter 03: growth, a budget of parameters, what each block adds, and a test for causality.

Read 03_transformer.py first. Replace each `raise NotImplementedError` with your own lines, and then run

    python exercises/check.py 03
"""
# ruff: noqa: F401 - the functions that you write use these imports

from importlib import import_module

import torch

attention = import_module("02_attention")
transformer = import_module("03_transformer")


def predict_growth():
    """Predict by which factor the parameters of the blocks grow. (5 minutes)

    Take chapter 03's TransformerConfig with its default settings. Count the parameters of all blocks together: of their
    attention and of their MLPs, without the embedding and the head. By which factor does this number grow if one
    setting is doubled? Return a list of five numbers, for n_layer, n_embd, n_head, seq_len and vocab_size.
    Hint: chapter 03 prints a formula for each part. Which letters stand in those of the attention and the MLP?
    """
    raise NotImplementedError


def largest_width(budget, vocab_size, n_layer):
    """Return the largest n_embd of a Transformer that has at most `budget` parameters. (15 minutes)

    All other settings are the defaults of TransformerConfig, and n_embd must be a multiple of 64. `budget` is large
    enough for n_embd=64. It limits all parameters: those of the embedding, the blocks and the head. Return an int.
    Hint: a loop is enough. The embedding has one row more than the head; for which token?
    """
    raise NotImplementedError


def logits_by_depth(model, tokens):
    """Return what the model would predict if it stopped early, after each of its blocks. (20 minutes)

    model: chapter 03's Transformer with rotary positions, without a convolution and without noise levels as an input.
    tokens: (B, T). Entry n of the result holds the logits that the model's last two steps, `norm` and `head`, make from
    the residual stream after n blocks. So the result is (L + 1, B, T, V) for L blocks: entry 0 uses the embedding
    alone, and the last entry is what model(tokens) returns. This method is called the logit lens.
    Hint: read Transformer.forward, and write down its steps one by one. torch.stack joins a list of tensors.
    """
    raise NotImplementedError


def sees_the_future(model, T):
    """Find out by experiments whether a model uses later tokens. (20 minutes)

    model: a function of tokens (1, T) that returns logits (1, T, V). Its vocabulary has the size
    model.config.vocab_size. Return True if the logits at any position depend on the token at any later position, and
    False otherwise. Call the model, and believe nothing that its config says. Some of the models of the check have
    mistakes: they look ahead at one place only.
    Hint: change one token at a time. Which logits may change then, and which may not?
    """
    raise NotImplementedError
