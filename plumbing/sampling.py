"""Calculations on random numbers and scores that chapter 04 builds on."""

import math

import torch

from plumbing import cli


def stratified(n, device=None, generator=None):
    """n random numbers, one from each of n equal parts of [0, 1), in random order: (n,)."""
    u = torch.rand(n, device=device, generator=generator)
    return (torch.randperm(n, device=device, generator=generator) + u) / n


def draw(logits, temperature, top_k=None, generator=None):
    """One random token for each position of logits (B, T, V): (B, T). Temperature 0 takes the most probable token.

    temperature: the logits are divided by it, so less than 1 makes probable tokens more probable.
    top_k: only the top_k most probable tokens of each position can be drawn. UserError if a position has no
    probabilities, because its logits are not finite numbers.
    """
    if temperature == 0:
        highest, token = logits.max(-1)
        check_finite(highest)
        return token
    if top_k is not None:
        least = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    # Take the first token whose cumulative probability reaches a random number. torch.multinomial is much slower.
    cumulative = (logits.float() / temperature).softmax(-1).cumsum(-1)  # (B, T, V)
    check_finite(cumulative[..., -1:])
    chance = 1 - torch.rand(*logits.shape[:2], 1, device=logits.device, generator=generator)  # (B, T, 1), never 0
    return torch.searchsorted(cumulative, chance * cumulative[..., -1:])[..., 0]


def check_finite(values):
    """Raise UserError if one of `values` is infinite, or NaN: not a number."""
    if not values.isfinite().all():
        raise cli.UserError("the model's predictions are not finite numbers: its weights are too large or damaged, or "
                            "--guidance is too large")


def top_ranked(score, masked, count):
    """True at the `count` (B,) masked positions that have the highest score (B, T) in their row: (B, T)."""
    rank = score.masked_fill(~masked, -math.inf).argsort(1, descending=True).argsort(1)  # (B, T)
    return (rank < count[:, None]) & masked


def distance_to_surer(score, masked):
    """Distance from each masked position to the nearest masked one with a higher score (B, T): (B, T).

    It is infinite if no score is higher, and 0 if the position is not masked. Mountaineers call the distance from a
    peak to the nearest higher ground the isolation of that peak.
    """
    score, T = score.masked_fill(~masked, -math.inf), score.shape[1]
    place = torch.arange(T, device=score.device, dtype=score.dtype)
    higher = score[:, None, :] > score[:, :, None]  # (B, T, T): is the second position higher than the first?
    distance = torch.where(higher, (place[:, None] - place).abs(), math.inf).amin(-1)  # (B, T)
    return distance.masked_fill(~masked, 0)
