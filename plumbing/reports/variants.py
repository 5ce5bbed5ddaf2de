"""Ways to train a masked diffusion model that were tried for this book and are not settings of it.

    python -m plumbing.reports.variants --variant bell --config laptop --minutes 1    # and all flags of 05_train.py

The ablation (plumbing/reports/ablation.py) measures them. A variant replaces the training loss of chapter 04, its noise
schedule, the order of the blocks of chapter 03, or the polynomials of Muon. Everything else is as in chapter 05.
"""

from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Literal

import torch
import torch.nn as nn

from plumbing import cli, measures, muon, sampling, settings

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
train = import_module("05_train")

plain_loss = diffusion.diffusion_loss


def loss_of(model, x0, masked):
    """Mean cross-entropy of the masked positions (B, T) of x0 (B, T), all with the same weight."""
    k = masked.sum(1)  # (B,)
    xt = torch.where(masked, model.config.mask_id, x0)
    return diffusion.masked_cross_entropy(model, x0, xt, k / x0.shape[1]).sum() / k.sum()


def bell(model, x0, t_max, **_):
    """Noise levels from a bell-shaped density: the logistic function of a normal number (arXiv:2605.13026)."""
    B, T = x0.shape
    normal = torch.special.ndtri(sampling.stratified(B, x0.device).clamp(1e-4, 1 - 1e-4))  # (B,) spread evenly
    k = 1 + (torch.sigmoid(1.2 * normal) * T).long().clamp(max=T - 1)
    return loss_of(model, x0, diffusion.mask_exactly(x0, k, model.config.mask_id) == model.config.mask_id)


def complementary(model, x0, t_max, **_):
    """Half as many texts, each twice: what is masked in one copy is visible in the other."""
    x0 = x0[: len(x0) // 2]
    k = 1 + (sampling.stratified(len(x0), x0.device) * t_max * (x0.shape[1] - 1)).long()
    masked = diffusion.mask_exactly(x0, k, model.config.mask_id) == model.config.mask_id
    return loss_of(model, x0.repeat(2, 1), torch.cat((masked, ~masked)))


def cropped(model, x0, t_max, **_):
    """One batch in a hundred is cut to a random length."""
    if torch.rand(()) < 0.01:
        x0 = x0[:, : int(torch.randint(16, x0.shape[1], ()))]
    return plain_loss(model, x0, t_max)


class Twice(nn.ModuleList):
    """Blocks of which the middle ones run twice, with the same weights (arXiv:2605.26106)."""

    def __iter__(self):
        first, *middle, last = super().__iter__()
        return iter((first, *middle, *middle, last))


class TwiceLater(nn.ModuleList):
    """The convolutions of such blocks, without that of the first block."""

    def __iter__(self):
        *middle, last = super().__iter__()
        return iter((*middle, *middle, last))


def looped(config):
    """Return a Transformer with the blocks Twice."""
    model = transformer.Transformer(config)
    model.blocks = Twice(model.blocks)
    if len(model.later_convs):
        model.later_convs = TwiceLater(model.later_convs)
    return model


class WithSchedules(transformer.Transformer):
    """A Transformer with a noise schedule for each token v: at noise level t, v is masked with probability t^w_v.

    The logarithms of the numbers w are learned (after MD4, Shi et al. 2024, arXiv:2406.04329). They are all 0 at first,
    which is the linear schedule.
    """

    def __init__(self, config):
        super().__init__(config)
        self.log_w = nn.Parameter(torch.zeros(config.vocab_size))


def bound(logits, x0, masked, t, w):
    """The NELBO's integrand at noise levels t (B, 1), in nats per token: (B,). logits: (B, T, V), masked: (B, T) bool.

    When t falls, a masked token x appears at the rate w_x / t. The model expects each v at the rate w_v / t times its
    probability. The cost of this difference (the Kullback-Leibler divergence of two jump processes) is, for the true
    rate a and the expected rates b_v, a log(a / b_x) - a + Σ b_v. With all w = 1, this is 1/t times the cross-entropy.
    """
    log_p = logits.float().log_softmax(-1)  # (B, T, V)
    surprise = -log_p.gather(-1, x0[..., None])[..., 0]  # (B, T)
    cost = (w[x0] * (surprise - 1) + log_p.exp() @ w) / t
    return (masked * cost).mean(1)


def schedules(model, x0, t_max, **_):
    """The usual loss with masks by these schedules, which learn to lower the NELBO.

    Half as many texts, each with two random masks. The NELBO also depends on w through the masks' probabilities. That
    part of its gradient is estimated with the value of the other mask as a baseline (REINFORCE with leave-one-out). The
    factor 0.01 keeps this noisy gradient small when all gradients are clipped together.
    """
    x0 = x0[: len(x0) // 2].repeat(2, 1)  # (B, T)
    t = sampling.stratified(len(x0) // 2, x0.device).clamp(min=1e-6).mul(t_max).repeat(2)[:, None]  # (B, 1)
    w = model.log_w.sub(model.log_w.mean()).exp()
    chance = (t ** w[x0]).clamp(1e-6, 1 - 1e-6)  # (B, T)
    masked = torch.rand_like(chance) < chance
    logits = model(torch.where(masked, model.config.mask_id, x0), masked.float().mean(1))
    losses = nn.functional.cross_entropy(logits.mT, x0, reduction="none") * masked  # (B, T)
    value = bound(logits.detach(), x0, masked, t, w)  # (B,)
    log_chance = torch.where(masked, chance, 1 - chance).log().sum(1)  # (B,)
    first, second = value.detach().chunk(2)
    better = 0.01 * (value + torch.cat((first - second, second - first)) * log_chance).mean()  # for its gradient alone
    return losses.sum() / masked.sum().clamp(min=1) + better - better.detach()


@torch.no_grad()
def schedules_nelbo(model, x0, draws=1, batch_size=64, seed=0):
    """The NELBO with these schedules, as chapter 04's `nelbo`: (mean, standard error) in nats per token."""
    generator, x0 = torch.Generator().manual_seed(seed), x0.repeat(draws, 1)
    t = sampling.stratified(len(x0), generator=generator).clamp(min=1e-6)[:, None]  # (N, 1)
    w, bounds = model.log_w.sub(model.log_w.mean()).exp(), []
    for rows, level in zip(x0.split(batch_size), t.split(batch_size)):
        masked = torch.rand(rows.shape, generator=generator) < level ** w[rows]
        logits = model(torch.where(masked, model.config.mask_id, rows), masked.float().mean(1))
        bounds.append(bound(logits, rows, masked, level, w))
    return measures.mean_and_error(torch.cat(bounds))


FIVE_STEPS = ((3.4445, -4.7750, 2.0315),) * 5  # the polynomials of Jordan et al. 2024
LOSSES = {"bell": bell, "complementary": complementary, "cropped": cropped}


@dataclass(frozen=True)
class Command(train.Command):
    """The flags of chapter 05, and what is changed."""

    # what to change
    variant: Literal["bell", "complementary", "cropped", "five-steps", "looped", "schedules"] = "bell"


def main(argv=None):
    variant, train.Command = settings.parse(Command, argv).variant, Command
    if variant in LOSSES:
        diffusion.diffusion_loss = LOSSES[variant]
    elif variant == "five-steps":
        muon.POLYNOMIALS = FIVE_STEPS
    elif variant == "schedules":
        diffusion.diffusion_loss, diffusion.nelbo = schedules, schedules_nelbo
        train.start_run = partial(train.start_run, build=WithSchedules)
    else:
        train.start_run = partial(train.start_run, build=looped)
    train.main(argv)


if __name__ == "__main__":
    cli.run(main)
