"""Exercises for chapter 07: rows of the buffer, bits per character, likelihood of padded texts, and nucleus sampling.

Read 07_train_gpt.py first. Replace each `raise NotImplementedError` with your own lines, and then run

    python exercises/check.py 07
"""
# ruff: noqa: F401 - the functions that you write use these imports

import math

import torch
import torch.nn.functional as F


def predict_rows():
    """Predict how many rows each pass of chapter 07's `stream` computes. (10 minutes)

    A row is one position of one pass. The model reads at most seq_len=8 tokens.
    The prompt has 3 tokens, and the GPT writes 9 more, with cached=True.
    Return a list of nine numbers, one for each pass.

    Hint: the first pass reads the whole prompt. What happens when the window is full?
    """
    raise NotImplementedError


def bits_per_character(nats_per_token, tokens, characters):
    """Return a likelihood in a unit in which models with different tokens can be compared, a float. (5 minutes)

    A model reads a text as `tokens` tokens, with a mean negative log-likelihood of `nats_per_token`.
    The same text has `characters` characters. One bit is the surprise of a fair coin.

    Hint: the negative log-likelihood of the whole text does not depend on the unit in which we count its length.
    """
    raise NotImplementedError


def text_nll(model, tokens, lengths):
    """Return the negative log-likelihood of each text of a padded batch: (B,), in nats. (20 minutes)

    model: a GPT, tokens (B, T) → logits (B, T, V).
    tokens: (B, L), texts padded at their right ends. lengths: (B,), the number of tokens of each text, at least 2.
    Sum -log p(token | tokens before it) over all tokens of a text except for the first, which is given.
    What the padding contains must not change the result.

    Hint: a text of n tokens has n - 1 terms. Compute (B, L - 1) terms, and then leave out those of the padding.
    """
    raise NotImplementedError


def nucleus(logits, p):
    """Return the probabilities of nucleus sampling, also called top-p sampling: (..., V). (25 minutes)

    Top-k keeps the same number of tokens everywhere, even where the model is sure. Nucleus sampling (Holtzman et al.
    2019, arXiv:1904.09751) keeps the smallest group of most probable tokens whose probabilities sum to at least
    p. All other tokens get 0. The tokens that stay keep their proportions, and sum to 1 again.
    logits: (..., V), in the order of the vocabulary; they stay as they are. p: above 0, at most 1.

    Hint: sort each position's probabilities with descending=True. cumsum adds them up, and scatter puts them back.
    """
    raise NotImplementedError
