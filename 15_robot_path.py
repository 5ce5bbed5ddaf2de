"""Chapter 15: can the same model smooth the path of a robot?

    python 15_robot_path.py                    # train 6 minutes on two cores, then measure 300 problems
    python 15_robot_path.py --evaluate 300     # measure your latest model, or the shipped one
    python 15_robot_path.py --map map.yaml --start -1.5,2 --goal 4,2.5    # smooth a path in a map of your robot

A planner such as A* finds a path along the cells of a map, with sharp turns. Here a path is a row of waypoints, and a
waypoint is a token: the cell in which it lies. The model learns from generated curves how smooth paths look, and never
sees a map. To smooth a path, the program masks the waypoints at its sharpest turns, and the model fills them in again.
The map is a constraint on the logits: a cell in which the robot would touch an obstacle has the logit minus infinity,
so no waypoint is written there. You will see a table that compares the result with the smoothers that robots use today.
"""

import math
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from plumbing import checkpoint, cli, devices, robot_maps, robot_paths, runs, settings, tokenizers
from plumbing.reports import pages
from plumbing.settings import Count, Natural, NonNegative, OptionalPath, OptionalText, Switch, number

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")

SIDE = 48  # cells of a frame in each direction; the vocabulary is SIDE × SIDE cells
HELD_OUT = 512  # paths for the evaluation
KNOTS, OFTEN = (2, 3, 4, 5, 6), (0.25, 0.35, 0.2, 0.12, 0.08)  # random points of a curve: numbers, probabilities


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


def smooth_paths(count, points, side=SIDE):
    """Return `count` random smooth paths of as many points inside a square of this side: (count, points, 2).

    The random points of a curve are steps of 0.5 to 1.5 in a direction that changes from step to step, by an amount
    that is typical for the curve. The curve is then moved and scaled, so that it fills most of the square.
    """
    curves = []
    for knots, n in zip(KNOTS, torch.multinomial(torch.tensor(OFTEN), count, True).bincount(minlength=5).tolist()):
        bend = 1.3 * torch.rand(n, 1) * torch.randn(n, knots - 1)  # (n, knots - 1) radians
        heading = (bend + F.pad(2 * math.pi * torch.rand(n, 1), (0, knots - 2))).cumsum(1)
        steps = (0.5 + torch.rand(n, knots - 1, 1)) * torch.stack((heading.cos(), heading.sin()), -1)
        corners = F.pad(steps.cumsum(1), (0, 0, 1, 0))  # (n, knots, 2)
        spline, minimum_jerk = (smoothest(knots, min(order, knots)) @ corners for order in (2, 3))  # (n, samples, 2)
        curves.append(torch.where(torch.rand(n, 1, 1) < 0.5, spline, minimum_jerk))
    curves = torch.cat(curves)[torch.randperm(count)].numpy()
    paths = torch.from_numpy(np.stack([robot_paths.evenly(curve, points) for curve in curves])).float()
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
    first have to learn from examples which of the cells are neighbours.
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


# 3. The map is a constraint

class Constrained:
    """A model that cannot write a waypoint into a blocked cell. `denoise` calls it like the model itself.

    blocked: (B, V), True for the cells that each row of the canvas must not use.
    """

    def __init__(self, model, blocked):
        self.model, self.config, self.blocked = model, model.config, blocked

    def __call__(self, canvas, t):
        self.logits = self.model(canvas, t).masked_fill(self.blocked[:, None], -math.inf)  # (B, T, V)
        return self.logits


def positions(logits, reach=3, side=SIDE):
    """Return the positions in the square that logits (..., V) mean: the mean around their peak, (..., 2).

    The mean is over the cells that are at most `reach` rows and columns from the most probable cell. It may lie
    anywhere inside a cell, so that a path is not bound to the centres of cells.
    """
    place, peak = torch.arange(side), logits.argmax(-1)[..., None]  # (side,), (..., 1)
    row, column = (place - peak // side).abs() <= reach, (place - peak % side).abs() <= reach  # (..., side) each
    p = logits.softmax(-1).unflatten(-1, (side, side)) * row[..., None] * column[..., None, :]
    p = p / p.sum((-1, -2), keepdim=True)  # (..., side, side) rows, columns
    return torch.stack(((p.sum(-2) * (place + 0.5)).sum(-1), (p.sum(-1) * (place + 0.5)).sum(-1)), -1)


def refill(model, blocked, windows, masked, random, passes):
    """Write the masked (B, T) waypoints of windows (B, T, 2) again, with chapter 04's sampler. Yields the windows.

    blocked: the inflated map (H, W). A waypoint that is not yet written is where it was. If the mean of `positions`
    lies in a blocked cell of the map, the waypoint is the centre of the cell that was written.
    """
    frames = robot_paths.Frames(windows, SIDE, random)
    centres = frames.centres()  # (B, V, 2)
    cells = torch.from_numpy(robot_maps.at(blocked, centres))  # (B, V)
    masked = masked & ~cells.all(1, keepdim=True).numpy()  # a frame without a free cell cannot change its window
    canvas = to_tokens(torch.from_numpy(frames.enter(windows)))
    canvas, network = canvas.masked_fill(torch.from_numpy(masked), model.config.mask_id), Constrained(model, cells)
    for state in diffusion.denoise(network, canvas, passes, temperature=0, select=diffusion.by_confidence, mend=0):
        if state.step:
            now, exact = state.committed.numpy(), np.zeros(windows.shape)
            exact[now] = positions(network.logits[state.committed])
            exact = frames.leave(exact)
            written = np.take_along_axis(centres, (state.canvas * state.committed).numpy()[..., None], 1)
            exact = np.where(robot_maps.at(blocked, exact)[..., None], written, exact)
            windows = np.where(now[..., None], exact, windows)
        yield windows


# 4. Smoothing

@dataclass(frozen=True)
class Smoothing:
    """How to smooth."""

    rounds: Natural = 12  # how often waypoints are masked and filled in again
    spans: number(int, 1, 1000) = 16  # spans of waypoints that are masked in each round, each in a frame of its own
    passes: Count = 1  # forward passes that fill a span
    spacing: number(float, 0.5, 100) = 4.0  # cells between two waypoints


HALF_WIDTHS = 1, 2, 3, 5, 8, 11  # how many waypoints on each side of a sharp turn are masked with it
SHARES = 1, 0.5, 0.25, 0.1  # shares of the way to a proposal that are tried; the best one is kept


def roughness(path):
    """Return the total turning, plus a part that is small if the turning is spread evenly over the waypoints."""
    return robot_paths.total_turning(path) + 2 * np.square(robot_paths.turns(path)).sum()


def moved(path, proposal, first, blocked):
    """Return `path`, its waypoints from `first` on moved towards `proposal` (n, 2), as far as that improves the path.

    The new path is less rough, it does not turn more, it is not longer, and its changed segments do not collide.
    """
    best, last = path, first + len(proposal)
    for share in SHARES:
        new = path.copy()
        new[first:last] += share * (proposal - path[first:last])
        part = new[first - 1 : last + 1]  # with the segments on both sides
        if (roughness(new) < roughness(best) and robot_paths.total_turning(new) <= robot_paths.total_turning(path)
                and robot_paths.length(new) <= robot_paths.length(path)
                and not robot_maps.collides(blocked, part[:-1], part[1:]).any()):
            best = new
    return best


def smooth(model, blocked, raw, how=Smoothing(), seed=0):
    """Smooth a planner's path raw (N, 2) in cells of the inflated map blocked (H, W). Yields a path for each round.

    No path collides, and none is longer than `raw` or turns more. The ends stay where they are.
    """
    random, T = np.random.default_rng(seed), model.config.seq_len
    path = robot_paths.waypoints(raw, blocked, T, how.spacing)
    yield path
    for _ in range(how.rounds if len(path) >= T and robot_paths.turns(path).any() else 0):
        sharp = np.abs(robot_paths.turns(path)) + 1e-6
        spans = []
        for turn in 1 + random.choice(len(sharp), how.spans, p=sharp / sharp.sum()):
            left = int(np.clip(turn - T // 2, 0, len(path) - T))  # the window of the span
            half = random.choice(HALF_WIDTHS)
            spans.append((left, max(turn - half, left + 1), min(turn + half + 1, left + T - 1)))
        windows = np.stack([path[left : left + T] for left, _, _ in spans])
        masked = np.array([[first <= left + i < last for i in range(T)] for left, first, last in spans])
        *_, filled = refill(model, blocked, windows, masked, random, how.passes)
        for (left, first, last), window in zip(spans, filled):
            path = moved(path, window[first - left : last - left], first, blocked)
        yield path


# 5. The program

@dataclass(frozen=True)
class Command:
    """The flags of this chapter."""

    config: str = "robot-path-laptop"  # the settings file: a name in configs/, or the path of a YAML file
    run: OptionalText = None  # name of the run, which is also its folder under checkpoints/
    fresh: Switch = False  # start the run again instead of resuming it
    device: str = "auto"  # auto, cpu, cuda or mps
    evaluate: Natural = 0  # only measure a trained model (--run, your latest or the shipped) on this many problems
    out: OptionalPath = None  # folder for the page of the measurement, or for the files of a path
    map: OptionalPath = None  # smooth a path in this map of ROS's map server, a YAML file
    start: OptionalText = None  # with --map: the start as X,Y in metres, in the map's frame
    goal: OptionalText = None  # with --map: the goal, in the same way
    radius: NonNegative = 0.2  # with --map: radius of the robot in metres, by which obstacles are inflated
    smoothing: Smoothing = Smoothing()
    model: transformer.TransformerConfig = transformer.TransformerConfig()
    train: training.DiffusionTrainConfig = training.DiffusionTrainConfig()


def train(command):
    """Train a model with chapter 05's loop. Returns the run's folder, or None if the run was interrupted."""
    device, config = devices.pick_device(command.device), command.train
    shape = replace(command.model, vocab_size=SIDE * SIDE)
    if command.out:
        pages.make_folder(command.out)  # before the work
    if shape.n_embd % 4 or shape.seq_len < 4:
        raise cli.UserError("--n-embd must be a multiple of 4, and --seq-len at least 4")
    info = {"kind": "robot-path", "corpus": "generated paths", "settings": command.config, "train": asdict(config)}
    folder = runs.folder_of(command.run or Path(command.config).stem, "robot-path", "paths", command.config)
    wanted, tokenizer = asdict(shape) | asdict(config), tokenizers.Cells(SIDE)
    with runs.Run(folder, wanted, config, tokenizer, info | runs.provenance(device), command.fresh) as run:
        torch.manual_seed(config.seed)
        model = make_model(shape).to(device)
        print(f"{transformer.count_parameters(model):,} parameters, settings {command.config!r}, run {folder.name}")
        trainer = training.Trainer(model, config, device)
        run.announce(compiled=trainer.network is not model)
        torch.manual_seed(0)  # the evaluation of every run uses the same paths
        held_out = to_tokens(smooth_paths(HELD_OUT, shape.seq_len)).flatten().to(device)
        training.train(trainer, EndlessPaths(device), held_out, training.masked_diffusion(config), run)
        run.report("NELBO")
        return folder if run.finished else None


def smooth_on_map(command):
    """Write a smooth path on the user's map as path.csv, path.json and path.png."""
    grid = robot_maps.load_map(command.map)
    if command.radius > max(grid.blocked.shape) * grid.resolution:
        raise cli.UserError("--radius is larger than the map: it is the robot's radius in metres")
    blocked = robot_maps.inflate(grid.blocked, command.radius / grid.resolution)
    raw = robot_paths.plan(grid, blocked, command.start, command.goal)
    model, *_ = checkpoint.load(checkpoint.find(command.run, "robot-path"))
    *_, path = smooth(model, blocked, raw, command.smoothing, command.train.seed)
    for name, line in (("A*", raw), ("model", path)):
        turning = math.degrees(robot_paths.total_turning(line))
        print(f"{name:6} {robot_paths.length(line) * grid.resolution:8.2f} m, {turning:6.0f} degrees of turning")
    robot_paths.write_files(command.out or Path("."), grid, blocked, {"A*": raw, "model": path})


def check_flags(command):
    """Raise UserError for a flag of training with --map or --evaluate, and for a point without a map."""
    usual = settings.parse(Command, ["--config", command.config])
    trained = command.model, replace(command.train, seed=usual.train.seed), command.fresh, command.device
    if (command.map or command.evaluate) and trained != (usual.model, usual.train, False, "auto"):
        raise cli.UserError("--map and --evaluate use a trained model, on the CPU: leave out the flags of training")
    if not command.map and (command.start or command.goal):
        raise cli.UserError("--start and --goal are points on a map: add --map FILE")


def main(argv=None):
    command = settings.parse(Command, argv)
    check_flags(command)
    if command.map:
        smooth_on_map(command)
    elif folder := checkpoint.find(command.run, "robot-path") if command.evaluate else train(command):
        report = import_module("plumbing.reports.robot_path")  # imported late, because it imports this chapter
        report.run(folder, command.evaluate or 300, command.smoothing, command.out or folder / "report")


if __name__ == "__main__":
    cli.run(main)
