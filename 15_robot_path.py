"""Chapter 15: can the same model smooth the path of a robot?

    python 15_robot_path.py
"""

import math
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from plumbing import checkpoint, cli, devices, runs, settings, tokenizers
from plumbing.settings import OptionalText, Switch

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")

SIDE = 48  # cells of a frame in each direction; the vocabulary is SIDE × SIDE cells
KNOTS, SHARES = (2, 3, 4, 5, 6), (0.25, 0.35, 0.2, 0.12, 0.08)  # random points of a curve, and how often so many


# 1. Smooth paths


@cache
def smoothest(knots, order, samples=96):
    """Return the matrix (samples, knots) that takes points to the smoothest curve through them.

    The curve passes the points at equal intervals of time. It has the least sum of its squared derivatives of this
    order: 2 makes a cubic spline, and 3 a minimum-jerk curve, which resembles the movements of a human hand (Flash and
    Hogan 1985). The conditions are linear (Lagrange multipliers), so the curve is linear in the points.
    """
    derivative = np.diff(np.eye(samples), order, axis=0)  # (samples - order, samples)
    passes = np.eye(samples)[np.linspace(0, samples - 1, knots).round().astype(int)]  # (knots, samples)
    system = np.block([[derivative.T @ derivative, passes.T], [passes, np.zeros((knots, knots))]])
    conditions = np.concatenate((np.zeros((samples, knots)), np.eye(knots)))
    return torch.tensor(np.linalg.solve(system, conditions)[:samples], dtype=torch.float32)


def resample(curves, count):
    """Return `count` points of each of curves (B, S, 2), at equal distances along it: (B, count, 2)."""
    along = F.pad(curves.diff(dim=1).norm(dim=-1).cumsum(1), (1, 0))  # (B, S) distance from the start
    wanted = along[:, -1:] * torch.linspace(0, 1, count, dtype=curves.dtype)  # (B, count)
    after = torch.searchsorted(along, wanted).clamp(1, curves.shape[1] - 1)  # (B, count) the first sample beyond
    low, high = along.gather(1, after - 1), along.gather(1, after)
    share = ((wanted - low) / (high - low).clamp(min=1e-9))[..., None]
    after = after[..., None].expand(-1, -1, 2)
    return torch.lerp(curves.gather(1, after - 1), curves.gather(1, after), share)


def smooth_paths(count, points, side=SIDE):
    """Return `count` random smooth paths of as many points inside a square of this side: (count, points, 2).

    The random points of a curve are steps of 0.5 to 1.5 in a direction that changes from step to step, by an amount
    that is typical for the curve. The curve is then moved and scaled, so that it fills most of the square.
    """
    curves = []
    for knots, number in zip(KNOTS, torch.multinomial(torch.tensor(SHARES), count, True).bincount(minlength=5).tolist()):
        bend = 1.3 * torch.rand(number, 1) * torch.randn(number, knots - 1)  # (number, knots - 1) radians
        heading = (bend + F.pad(2 * math.pi * torch.rand(number, 1), (0, knots - 2))).cumsum(1)
        steps = (0.5 + torch.rand(number, knots - 1, 1)) * torch.stack((heading.cos(), heading.sin()), -1)
        corners = F.pad(steps.cumsum(1), (0, 0, 1, 0))  # (number, knots, 2)
        order = 2 + (torch.rand(number, 1, 1) < 0.5) * (knots > 2)
        curves.append(torch.where(order == 2, smoothest(knots, 2) @ corners, smoothest(knots, min(3, knots)) @ corners))
    paths = resample(torch.cat(curves)[torch.randperm(count)], points)
    paths = paths - ((paths.amax(1) + paths.amin(1)) / 2)[:, None]  # the middle of each path is now 0
    radius = side / 2 * (0.7 + 0.27 * torch.rand(count))
    paths = paths * (radius / paths.norm(dim=-1).amax(1))[:, None, None]
    room = side / 2 - paths.abs().amax(1)  # (count, 2) how far each path can move and stay inside
    return paths + side / 2 + ((1.96 * torch.rand(count, 2) - 0.98) * room)[:, None]


# 2. A waypoint is a token


def to_tokens(points, side=SIDE):
    """Return the cells of points (..., 2) in a square: row × side + column, (...). A point outside gets the nearest."""
    column, row = points.floor().long().clamp(0, side - 1).unbind(-1)
    return row * side + column


class EndlessPaths:
    """Generated paths, for chapter 05's `get_batch`: every window that it takes from them is a new path."""

    def __init__(self, device):
        self.device = device

    def __len__(self):
        return 1 << 30

    def __getitem__(self, index):
        """index: (B, T). Returns the tokens of B paths of T points (B, T)."""
        return to_tokens(smooth_paths(*index.shape)).to(self.device)


def make_model(config):
    """Return chapter 03's Transformer, with vectors of the cells that begin as waves over the square.

    Neighbouring cells then have similar vectors, in the embedding and in the head. From random vectors, the model would
    have to learn from examples which of the cells are neighbours, and that takes most of a short training.
    """
    model, C = transformer.Transformer(config), config.n_embd
    wavelengths = torch.logspace(math.log10(3), math.log10(2 * SIDE), C // 4)
    angle = 2 * math.pi * torch.arange(SIDE)[:, None] / wavelengths  # (SIDE, C / 4)
    waves = math.sqrt(2) * torch.cat((angle.cos(), angle.sin()), -1)  # (SIDE, C / 2), with a mean square of 1
    rows, columns = waves[:, None].expand(-1, SIDE, -1), waves[None].expand(SIDE, -1, -1)
    cells = torch.cat((rows, columns), -1).flatten(0, 1)  # (SIDE × SIDE, C)
    with torch.no_grad():
        model.token_emb.weight[: config.mask_id] = cells
        model.head.weight.copy_(0.1 * C**-0.5 * cells)
    return model


# 6. The program


@dataclass(frozen=True)
class Command:
    """The flags of this chapter."""

    config: str = "robot-path-laptop"  # the settings file: a name in configs/, or the path of a YAML file
    run: OptionalText = None  # name of the run, which is also its folder under checkpoints/
    fresh: Switch = False  # start the run again instead of resuming it
    device: str = "auto"  # auto, cpu, cuda or mps
    model: transformer.TransformerConfig = transformer.TransformerConfig()
    train: training.DiffusionTrainConfig = training.DiffusionTrainConfig()


def train(command):
    """Train a model with chapter 05's loop. Returns the run's folder."""
    device, config = devices.pick_device(command.device), command.train
    model_config = replace(command.model, vocab_size=SIDE * SIDE)
    if model_config.n_embd % 4:
        raise cli.UserError("--n-embd must be a multiple of 4: half of it for rows, half for columns, each two waves")
    name = command.run or Path(command.config).stem
    info = {"kind": "robot-path", "corpus": "generated smooth paths", "settings": command.config, "train": asdict(config)}
    run = runs.Run(checkpoint.RUNS / name, asdict(model_config) | asdict(config), config, tokenizers.Cells(SIDE),
                   info | runs.provenance(), command.fresh)
    torch.manual_seed(config.seed)
    model = make_model(model_config).to(device)
    print(f"{transformer.count_parameters(model):,} parameters, settings {command.config!r}, {device}; run {name}")
    trainer = training.Trainer(model, config, device)
    run.announce(compiled=trainer.network is not model)
    torch.manual_seed(0)  # all runs are evaluated on the same paths
    held_out = to_tokens(smooth_paths(512, model_config.seq_len)).flatten().to(device)
    training.train(trainer, EndlessPaths(device), held_out, training.masked_diffusion(config), run)
    run.report("NELBO")
    return run.folder


def main(argv=None):
    command = settings.parse(Command, argv)
    train(command)


if __name__ == "__main__":
    cli.run(main)
