"""Chapter 04: how can a model write text in any order?

    python 04_diffusion.py          # about 20 seconds
"""

import math
from dataclasses import dataclass
from importlib import import_module

import torch
import torch.nn.functional as F

transformer = import_module("03_transformer")


# 1. Noise


@dataclass(frozen=True)
class NoiseSchedule:
    """How fast tokens disappear as t goes from 0 (clean) to 1 (all masked).

    alpha(t) is the probability that a token is still visible; weight(t) = -alpha'(t) / (1 - alpha(t)) is
    what a masked token's cross-entropy counts for in the NELBO (MDLM, Sahoo et al. 2024, equation 10).
    The NELBO itself is the same for each schedule: it only decides which noise levels get the samples.
    """

    name: str = "linear"

    def __post_init__(self):
        if self.name not in ("linear", "cosine", "sqrt"):
            raise ValueError(f"schedule is {self.name!r}; choose from linear, cosine, sqrt")

    def alpha(self, t):
        if self.name == "linear":
            return 1 - t
        if self.name == "cosine":
            return torch.cos(math.pi / 2 * t)
        return 1 - t.sqrt()

    def alpha_prime(self, t):
        if self.name == "linear":
            return -torch.ones_like(t)
        if self.name == "cosine":
            return -math.pi / 2 * torch.sin(math.pi / 2 * t)
        return -0.5 / t.sqrt()

    def weight(self, t):
        return -self.alpha_prime(t) / (1 - self.alpha(t))


def mask_tokens(x0, t, mask_id, schedule=NoiseSchedule(), generator=None):
    """Hide each token of x0 (B, T) on its own with probability 1 - alpha(t), t: (B,). Returns xt (B, T)."""
    hidden = torch.rand(x0.shape, device=x0.device, generator=generator) >= schedule.alpha(t)[:, None]
    return torch.where(hidden, mask_id, x0)


def mask_exactly(x0, k, mask_id, generator=None):
    """Hide exactly k (B,) tokens of each row of x0 (B, T), every choice equally likely. Returns xt (B, T)."""
    rank = torch.rand(x0.shape, device=x0.device, generator=generator).argsort(1).argsort(1)  # (B, T)
    return torch.where(rank < k[:, None], mask_id, x0)


# 2. Training loss and likelihood


def stratified(n, device=None, generator=None):
    """n numbers in [0, 1), one in each n-th of the interval, in random order: (n,).

    Spreading the noise levels of a batch evenly takes most of the variance out of the loss.
    """
    u = torch.rand(n, device=device, generator=generator)
    return (torch.randperm(n, device=device, generator=generator) + u) / n


def masked_cross_entropy(model, x0, xt, t):
    """Cross-entropy of x0 under model(xt) at each masked position, 0 at the visible ones: (B, T), in nats."""
    logits = model(xt, t)  # (B, T, V)
    loss = F.cross_entropy(logits.float().flatten(0, 1), x0.flatten(), reduction="none").view_as(x0)
    return loss * (xt == model.config.mask_id)


def diffusion_loss(model, x0, t_max=0.8, generator=None):
    """What training minimises: the mean cross-entropy over masked tokens of x0 (B, T).

    It weighs each masked token alike, whatever t, which trains better than the NELBO's weight 1/t but is
    not a likelihood. Levels above `t_max` are left out: with almost nothing visible there is little to
    learn but letter frequencies, and a model meets those levels only in the first steps of sampling.
    """
    B, T = x0.shape
    k = 1 + (stratified(B, x0.device, generator) * t_max * T).long().clamp(max=T - 1)  # (B,)
    xt = mask_exactly(x0, k, model.config.mask_id, generator)
    return masked_cross_entropy(model, x0, xt, k / T).sum() / k.sum()


@torch.no_grad()
def nelbo(model, x0, draws=1, batch_size=64, seed=0):
    """Upper bound on the negative log-likelihood of x0 (N, T), in nats per token: (mean, standard error).

    -log p(x0) <= E over k uniform in 1 … T of (T / k) Σ over the k masked tokens of their cross-entropy
    (LLaDA, Nie et al. 2025, equation 6). k is stratified over all N × draws evaluations, and the seed is
    fixed, so that two models are compared on the same masks.
    """
    generator = torch.Generator(x0.device).manual_seed(seed)
    x0 = x0.repeat(draws, 1)
    N, T = x0.shape
    k = 1 + (stratified(N, x0.device, generator) * T).long().clamp(max=T - 1)  # (N,)
    bounds = []
    for rows, ks in zip(x0.split(batch_size), k.split(batch_size)):
        xt = mask_exactly(rows, ks, model.config.mask_id, generator)
        bounds.append(masked_cross_entropy(model, rows, xt, ks / T).sum(1) / ks)  # (T/k) Σ / T
    bounds = torch.cat(bounds).double()  # (N,)
    return bounds.mean().item(), (bounds.std() / len(bounds) ** 0.5).item()


# 3. Sampling


@dataclass(frozen=True)
class State:
    """One step of `denoise`: what every view, progress bar and test consumes."""

    canvas: torch.Tensor  # (B, T) tokens, model.config.mask_id where still unknown
    confidence: torch.Tensor  # (B, T) probability when committed; given: 1; still masked: best guess so far
    committed: torch.Tensor  # (B, T) True where this step put a token
    step: int  # 0 is the untouched canvas
    nfe: int  # forward passes so far


def by_confidence(confidence, masked, count, generator=None):
    """Selection rule: commit the `count` (B,) proposals that the model is surest of. Returns (B, T) bool."""
    return top_ranked(confidence, masked, count)


def at_random(confidence, masked, count, generator=None):
    """Selection rule: commit `count` (B,) masked positions chosen at random, as the theory has it."""
    noise = torch.rand(confidence.shape, device=confidence.device, generator=generator)
    return top_ranked(noise, masked, count)


def top_ranked(score, masked, count):
    """True at the `count` (B,) highest scores (B, T) among the masked positions of each row."""
    rank = score.masked_fill(~masked, -math.inf).argsort(1, descending=True).argsort(1)  # (B, T)
    return (rank < count[:, None]) & masked


def propose(logits, temperature, top_k=None, generator=None):
    """A token for each position and its probability, from logits (B, T, V): two tensors (B, T).

    temperature 0 takes the likeliest. The probability is that of the drawn token before temperature and
    top-k, so that it says how sure the model is and not how we draw.
    """
    probability = logits.float().softmax(-1)  # (B, T, V)
    if temperature == 0:
        token = logits.argmax(-1)
    else:
        if top_k is not None:
            least = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[..., -1:]
            logits = logits.masked_fill(logits < least, -math.inf)
        drawn = (logits.double() / temperature).softmax(-1).flatten(0, 1)  # fp32 draws are biased
        token = torch.multinomial(drawn, 1, generator=generator).view(logits.shape[:2])
    return token, probability.gather(-1, token[..., None])[..., 0]


@torch.no_grad()
def denoise(model, canvas, steps=64, temperature=0.8, top_k=None, select=by_confidence, generator=None):
    """Fill the masks of `canvas` (B, T) in `steps` forward passes, or fewer if there are fewer masks.

    Each pass proposes a token for every masked position, and the rule `select` says which of them to keep.
    Tokens that are given (a prompt, or the text around a blank) never change. Yields a `State` before the
    first pass and after each; the last has no masks.
    """
    mask_id = model.config.mask_id
    masked = canvas == mask_id
    total = masked.sum(1)  # (B,)
    steps = min(steps, int(total.max()))
    confidence = (~masked).float()
    yield State(canvas, confidence, torch.zeros_like(masked), 0, 0)
    for step in range(1, steps + 1):
        t = (canvas == mask_id).float().mean(1)  # (B,) the share of masks is the noise level
        token, sure = propose(model(canvas, t), temperature, top_k, generator)
        left = total * (steps - step) // steps  # masks to leave after this step
        commit = select(sure, masked, masked.sum(1) - left, generator)  # (B, T)
        canvas = torch.where(commit, token, canvas)
        confidence = torch.where(masked, sure, confidence)
        masked = masked & ~commit
        yield State(canvas, confidence, commit, step, step)
