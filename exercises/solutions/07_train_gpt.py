"""Our solutions to the exercises for chapter 07. Other solutions can be just as good."""

import math

import torch
import torch.nn.functional as F


def predict_rows():
    # The first pass reads 3 tokens, and each later pass computes only the row of the newest token. When the model has
    # read 8 tokens, its window is full. The window then keeps the last 4 tokens, and their positions begin at 0 again.
    # The old keys were rotated for other positions, so the next pass computes all 4 rows.
    return [3, 1, 1, 1, 1, 1, 4, 1, 1]


def bits_per_character(nats_per_token, tokens, characters):
    # The NLL of the whole text is nats_per_token × tokens nats, and one bit is ln 2 nats. A model with long tokens has
    # more nats per token, even if it predicts the text better.
    return nats_per_token * tokens / characters / math.log(2)


@torch.no_grad()
def text_nll(model, tokens, lengths):
    # Term i predicts token i + 1, so a text of n tokens has the terms 0 to n - 2. The padding is at the right, where a
    # causal model does not look, so these terms are exact. All other terms are left out.
    logits = model(tokens[:, :-1])  # (B, L - 1, V)
    terms = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(len(tokens), -1)
    inside = torch.arange(terms.shape[1], device=tokens.device) < lengths[:, None] - 1  # (B, L - 1)
    return (terms * inside).sum(1)


def nucleus(logits, p):
    # A token stays if the probabilities before it in the sorted list sum to less than p. So the token with which the
    # sum reaches p stays, and the first token always stays. If the model is sure, one token stays; if it is unsure,
    # many tokens stay.
    probability, order = logits.softmax(-1).sort(-1, descending=True)  # (..., V)
    kept = probability.masked_fill(probability.cumsum(-1) - probability >= p, 0)
    kept = kept / kept.sum(-1, keepdim=True)
    return torch.zeros_like(kept).scatter(-1, order, kept)
