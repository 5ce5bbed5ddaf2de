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

    A row holds the vectors of one position. The model reads at most seq_len=8 tokens.
    The prompt has 3 tokens, and the GPT writes 9 more tokens with cached=True.
    Return a list of nine numbers, one for each pass.

    Hint: the first pass reads the whole prompt. What happens when the window is full?
    """
    raise NotImplementedError


def bits_per_character(nats_per_token, tokens, characters):
    """Convert a negative log-likelihood from nats per token to bits per character. Return a float. (5 minutes)

    A tokenizer turns a text of `characters` characters into `tokens` tokens.
    The mean negative log-likelihood per token is `nats_per_token`. One bit is the surprise of one toss of a fair coin.
    Models with different tokens can be compared in bits per character, but not in nats per token.

    Hint: the negative log-likelihood of the whole text does not depend on the unit in which we count its length.
    """
    raise NotImplementedError


def text_nll(model, tokens, lengths):
    """Return the negative log-likelihood of each text in a padded batch, in nats: a tensor (B,). (20 minutes)

    `model` is a GPT, which turns tokens (B, T) into logits (B, T, V).
    `tokens` (B, L) holds texts, each padded at its right end. `lengths` (B,) holds the lengths of the texts.
    Each text has at least 2 tokens.
    For each text, sum -log p(token | tokens before it) over all tokens except the first, which is given.
    The tokens of the padding must not change the result.

    Hint: a text of n tokens has n - 1 terms. Compute (B, L - 1) terms, and then leave out the terms of the padding.
    """
    raise NotImplementedError


def nucleus(logits, p):
    """Return the probabilities that nucleus sampling (top-p sampling) uses, as a tensor (..., V). (25 minutes)

    Top-k keeps the same number of tokens at every position, even where the model is sure of one token.
    Nucleus sampling (Holtzman et al. 2019, arXiv:1904.09751) keeps the most probable tokens:
    as few as are needed for a total probability of at least p. All other tokens get probability 0.
    The probabilities of the kept tokens are scaled so that they sum to 1.
    `logits` (..., V) are in the order of the vocabulary, and must not be changed. `p` is above 0 and at most 1.

    Hint: sort the probabilities with descending=True, add them up with cumsum, and put them back with scatter.
    """
    raise NotImplementedError
