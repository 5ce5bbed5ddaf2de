"""Plausible mistakes in the exercises for chapter 07. Each docstring names the mistake."""

import math

import torch
import torch.nn.functional as F


def rows_without_a_window():
    """The window never gets full."""
    return [3, 1, 1, 1, 1, 1, 1, 1, 1]


def rows_without_a_cache():
    """Every pass computes all rows."""
    return [3, 4, 5, 6, 7, 8, 4, 5, 6]


def window_full_too_early():
    """The window is emptied one token too early."""
    return [3, 1, 1, 1, 1, 4, 1, 1, 1]


def nats_for_bits(nats_per_token, tokens, characters):
    """Nats are not bits."""
    return nats_per_token * tokens / characters


def times_ln2(nats_per_token, tokens, characters):
    """Multiplied where we must divide."""
    return nats_per_token * tokens / characters * math.log(2)


def ratio_upside_down(nats_per_token, tokens, characters):
    """Characters per token instead of tokens per character."""
    return nats_per_token * characters / tokens / math.log(2)


def bits_per_token(nats_per_token, tokens, characters):
    """The lengths are forgotten."""
    return nats_per_token / math.log(2)


def terms_of(model, tokens):
    with torch.no_grad():
        logits = model(tokens[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        return loss.view(len(tokens), -1)


def padding_counts(model, tokens, lengths):
    """The terms of the padding are not left out."""
    return terms_of(model, tokens).sum(1)


def one_term_too_many(model, tokens, lengths):
    """A text of n tokens gets n terms."""
    terms = terms_of(model, tokens)
    return (terms * (torch.arange(terms.shape[1]) < lengths[:, None])).sum(1)


def one_term_too_few(model, tokens, lengths):
    """The last token of each text is forgotten."""
    terms = terms_of(model, tokens)
    return (terms * (torch.arange(terms.shape[1]) < lengths[:, None] - 2)).sum(1)


def mean_for_sum(model, tokens, lengths):
    """The mean of the terms instead of their sum."""
    terms = terms_of(model, tokens)
    return (terms * (torch.arange(terms.shape[1]) < lengths[:, None] - 1)).sum(1) / (lengths - 1)


@torch.no_grad()
def predict_the_same_token(model, tokens, lengths):
    """Each position predicts the token that it reads."""
    terms = F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten(), reduction="none").view(tokens.shape)
    return (terms * (torch.arange(terms.shape[1]) < lengths[:, None] - 1)).sum(1)


def one_number(model, tokens, lengths):
    """One number for the whole batch."""
    terms = terms_of(model, tokens)
    return (terms * (torch.arange(terms.shape[1]) < lengths[:, None] - 1)).sum()


def parts(logits):
    probability, order = logits.softmax(-1).sort(-1, descending=True)
    return probability, order, probability.cumsum(-1)


def crossing_token_lost(logits, p):
    """The token with which the sum reaches p is left out."""
    probability, order, total = parts(logits)
    kept = probability * (total <= p)
    return torch.zeros_like(kept).scatter(-1, order, kept / kept.sum(-1, keepdim=True))


def one_token_too_many(logits, p):
    """One token more than is needed."""
    probability, order, total = parts(logits)
    kept = probability * (total - probability - F.pad(probability, (1, 0))[..., :-1] < p)
    return torch.zeros_like(kept).scatter(-1, order, kept / kept.sum(-1, keepdim=True))


def still_sorted(logits, p):
    """The probabilities stay in sorted order."""
    probability, _, total = parts(logits)
    kept = probability * (total - probability < p)
    return kept / kept.sum(-1, keepdim=True)


def not_normalised(logits, p):
    """The sum is below 1."""
    probability, order, total = parts(logits)
    return torch.zeros_like(probability).scatter(-1, order, probability * (total - probability < p))


def threshold(logits, p):
    """Every token whose probability is at least 1 - p."""
    probability = logits.softmax(-1)
    kept = probability * (probability >= 1 - p)
    return kept / kept.sum(-1, keepdim=True)


def even_among_the_kept(logits, p):
    """All tokens that stay become equally likely."""
    probability, order, total = parts(logits)
    kept = (total - probability < p).float()
    return torch.zeros_like(kept).scatter(-1, order, kept / kept.sum(-1, keepdim=True))


def one_nucleus_for_all(logits, p):
    """The number of tokens is that of the first position, as in top-k."""
    probability, order, total = parts(logits)
    first = (total - probability < p).reshape(-1, logits.shape[-1])[0]
    kept = probability * first
    return torch.zeros_like(kept).scatter(-1, order, kept / kept.sum(-1, keepdim=True))


WRONG = {
    "predict_rows": [rows_without_a_window, rows_without_a_cache, window_full_too_early],
    "bits_per_character": [nats_for_bits, times_ln2, ratio_upside_down, bits_per_token],
    "text_nll": [padding_counts, one_term_too_many, one_term_too_few, mean_for_sum, predict_the_same_token, one_number],
    "nucleus": [crossing_token_lost, one_token_too_many, still_sorted, not_normalised, threshold, even_among_the_kept,
                one_nucleus_for_all],
}
