"""Ways to train a masked diffusion model that were tried for this book and are not settings of it.

    python -m plumbing.reports.variants --variant bell --config laptop --minutes 1    # and all flags of 05_train.py

The ablation (plumbing/reports/ablation.py) measures them. A variant replaces the training loss of chapter 04, or the
order of the blocks of chapter 03, and trains with everything else as in chapter 05.
"""

from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Literal

import torch
import torch.nn as nn

from plumbing import cli, sampling, settings

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


def looped(config):
    """Return a Transformer with the blocks Twice."""
    model = transformer.Transformer(config)
    model.blocks = Twice(model.blocks)
    return model


LOSSES = {"bell": bell, "complementary": complementary, "cropped": cropped}


@dataclass(frozen=True)
class Command(train.Command):
    """The flags of chapter 05, and what is changed."""

    variant: Literal["bell", "complementary", "cropped", "looped"] = "bell"  # what to change


def main(argv=None):
    variant, train.Command = settings.parse(Command, argv).variant, Command
    if variant in LOSSES:
        diffusion.diffusion_loss = LOSSES[variant]
    else:
        train.start_run = partial(train.start_run, build=looped)
    train.main(argv)


if __name__ == "__main__":
    cli.run(main)
