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

    The model reads seq_len=8 tokens at most. The prompt has 3 tokens, and the GPT writes 9 more, with cached=True. A
    row is one position of one pass. Return a list of nine numbers: for each pass, how many rows the model computes.
    Hint: the first pass reads the whole prompt. What happens when the window is full?
    """
    raise NotImplementedError


def bits_per_character(nats_per_token, tokens, characters):
    """Convert a likelihood to a unit in which models with different tokens can be compared. (5 minutes)

    A model reads a text as `tokens` tokens. Its mean negative log-likelihood is `nats_per_token`. The same text has
    `characters` characters. Return the mean number of bits per character. One bit is the surprise of a fair coin.
    Hint: the negative log-likelihood of the whole text does not depend on the unit in which we count its length.
    """
    raise NotImplementedError


def text_nll(model, tokens, lengths):
    """Return the negative log-likelihood of each text of a padded batch. (20 minutes)

    model: a GPT, with tokens (B, T) → logits (B, T, V). tokens: (B, L) texts, each filled up at its right end with any
    token. lengths: (B,) how many tokens of each row are text, at least 2. Return (B,): for each text the sum of
    -log p(token | tokens before it), in nats, over all of its tokens but the first, which is given. What the padding
    contains must not change the result.
    Hint: a row with n tokens of text has n - 1 terms. Compute all terms (B, L - 1), and then leave out the others.
    """
    raise NotImplementedError


def nucleus(logits, p):
    """Return the probabilities of nucleus sampling, also called top-p sampling. (25 minutes)

    Top-k keeps equally many tokens everywhere, also where the model is sure. Nucleus sampling (Holtzman et al. 2019,
    arXiv:1904.09751) keeps at each position the most probable tokens: the fewest whose probabilities sum to at least p.
    All other tokens get the probability 0, and those that stay keep their proportions and sum to 1 again.
    logits: (..., V). p: from above 0 to 1. Return (..., V), in the order of the vocabulary. At least one token always
    stays, and for p = 1 all of them do. The given logits stay as they are.
    Hint: sort each position's probabilities with descending=True. cumsum adds them up, and scatter takes them back.
    """
    raise NotImplementedError
