"""Calculations on random numbers and scores that chapter 04 builds on."""

import math

import torch

from plumbing import cli


def stratified(n, device=None, generator=None):
    """n random numbers, one from each of n equal parts of [0, 1), in random order: (n,)."""
    u = torch.rand(n, device=device, generator=generator)
    return (torch.randperm(n, device=device, generator=generator) + u) / n


def probabilities(logits, temperature, top_k=None):
    """The probabilities from which a token is drawn, for each position of logits (…, V): (…, V).

    temperature: the logits are divided by it, so less than 1 makes probable tokens more probable. Temperature 0 gives
    the most probable token all of the probability.
    top_k: only the top_k most probable tokens of each position can be drawn. UserError if a position has no
    probabilities, because its logits are not finite numbers.
    """
    if temperature == 0:
        highest, token = logits.max(-1, keepdim=True)
        check_finite(highest)
        return torch.zeros_like(logits).scatter(-1, token, 1)
    if top_k is not None:
        least = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    return (logits.float() / temperature).softmax(-1)


def pick(weights, generator=None):
    """One random token for each position of weights (…, V), in proportion to them, which need not sum to 1: (…)."""
    # Take the first token whose cumulative weight reaches a random number. torch.multinomial is much slower.
    cumulative = weights.cumsum(-1)  # (…, V)
    check_finite(cumulative[..., -1:])
    chance = 1 - torch.rand(*weights.shape[:-1], 1, device=weights.device, generator=generator)  # (…, 1), never 0
    return torch.searchsorted(cumulative, chance * cumulative[..., -1:])[..., 0]


def draw(logits, temperature, top_k=None, generator=None):
    """One random token for each position of logits (…, V), as `probabilities` says: (…)."""
    weights = probabilities(logits, temperature, top_k)
    return weights.argmax(-1) if temperature == 0 else pick(weights, generator)


def gumbel(weights, generator=None):
    """Gumbel noise -log(-log u), u uniform in (0, 1), for weights (…): (…). With this noise added to the logarithms of
    the weights, each of them is the highest sum with a probability in proportion to its weight."""
    u = torch.rand(weights.shape, device=weights.device, generator=generator)
    return -(-u.clamp(1e-6, 1 - 1e-6).log()).log()


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
