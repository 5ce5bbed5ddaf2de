"""Our solutions of the exercises for chapter 07. Other solutions can be as good."""

import math

import torch
import torch.nn.functional as F


def predict_rows():
    # The first pass reads 3 tokens, and then each pass computes only the row of the newest token. When the model has
    # read 8 tokens, the window is full: it keeps the last 4, whose positions begin at 0 again. Their keys were rotated
    # for other positions, so the next pass computes all 4 rows.
    return [3, 1, 1, 1, 1, 1, 4, 1, 1]


def bits_per_character(nats_per_token, tokens, characters):
    # The whole text has nats_per_token × tokens nats, however we divide it. A fair coin has ln 2 nats, which are one
    # bit. A model with long tokens has more nats per token, although it may be the better model.
    return nats_per_token * tokens / characters / math.log(2)


@torch.no_grad()
def text_nll(model, tokens, lengths):
    # Term i is about token i + 1, so a text of n tokens has the terms 0 to n - 2. The padding is at the right, where a
    # causal model does not look, so the terms of the text are exact, and the terms of the padding are left out.
    logits = model(tokens[:, :-1])  # (B, L - 1, V)
    terms = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(len(tokens), -1)
    inside = torch.arange(terms.shape[1], device=tokens.device) < lengths[:, None] - 1  # (B, L - 1)
    return (terms * inside).sum(1)


def nucleus(logits, p):
    # A token stays if the tokens before it in the sorted list sum to less than p. This keeps the token with which the
    # sum reaches p, and so it always keeps the first one. Where the model is sure, one token stays; where it is unsure,
    # many do.
    probability, order = logits.softmax(-1).sort(-1, descending=True)  # (..., V)
    kept = probability.masked_fill(probability.cumsum(-1) - probability >= p, 0)
    kept = kept / kept.sum(-1, keepdim=True)
    return torch.zeros_like(kept).scatter(-1, order, kept)
