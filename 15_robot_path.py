"""Chapter 15: can a dLLM smooth the path of a robot, and obey a map that it has never seen?

    python 15_robot_path.py                    # trains 6 minutes on two cores, then smooths a few generated paths
    python 15_robot_path.py smooth             # a path in docs/maps/room.yaml, with your latest or the shipped model
    python 15_robot_path.py smooth --map map.yaml --start -1.5,2 --goal 4,2.5 --radius 0.3    # a path in your own map

The path of a planner such as A* goes from cell to cell of a map, so it has sharp turns. Here a path is a list of
waypoints. Each waypoint becomes one token, the number of the cell in which the waypoint lies. The model learns from
generated curves what smooth paths look like. It never sees a map. To smooth a path, the program masks waypoints around
sharp turns, and the model proposes new waypoints. The map is a constraint on the logits: a cell in which the robot
would touch an obstacle gets the logit minus infinity, so the model cannot choose it.

Do we need a model for this task? No. The program accepts only proposals that improve the path, so a simple control
works even better: it proposes straight lines. On average, A*'s paths turn by 333 degrees, the model's by 106, and those
with straight lines across the masked waypoints by 86. Even without the constraint, no path touches an obstacle, because
the program refuses every proposal that would touch one (docs/robot_path.md). So this chapter shows how a model can obey
a map that it has never seen, and why a model should always be compared with a control.

A map is a picture and a YAML file in the format of ROS's map server. docs/maps/room.yaml explains each line.
"""

import math
from dataclasses import asdict, dataclass
from functools import cache, partial
from importlib import import_module
from pathlib import Path

from plumbing import checkpoint, cli, devices, files, robot

import numpy as np
import torch
import torch.nn.functional as F

tensors = import_module("01_tensors")
transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")

SIDE = 48  # a frame is a square of SIDE × SIDE cells, and each cell is a token of the vocabulary


# 1. Smooth paths

SAMPLES = 96  # number of points of a generated curve


@cache
def smoothest(knots, order):
    """Return the matrix (SAMPLES, knots) that turns `knots` points into the smoothest curve through these points.

    The curve reaches the points at equal intervals of time. Of all such curves, the smoothest has the least sum of
    squared derivatives. `order` is the order of these derivatives: 2 gives a cubic spline, and 3 gives a minimum-jerk
    curve, which resembles the movements of a human hand (Flash and Hogan 1985). The curve is the solution of linear
    equations (with Lagrange multipliers), so it is a matrix times the points.
    """
    derivative = np.diff(np.eye(SAMPLES), order, axis=0)  # (SAMPLES - order, SAMPLES)
    passes = np.eye(SAMPLES)[np.linspace(0, SAMPLES - 1, knots).round().astype(int)]  # (knots, SAMPLES)
    system = np.block([[derivative.T @ derivative, passes.T], [passes, np.zeros((knots, knots))]])
    conditions = np.concatenate((np.zeros((SAMPLES, knots)), np.eye(knots)))
    return torch.tensor(np.linalg.solve(system, conditions)[:SAMPLES], dtype=torch.float32)


KNOTS = {2: 0.25, 3: 0.35, 4: 0.2, 5: 0.12, 6: 0.08}  # {number of random points: share of the curves}
BEND = 1.3  # standard deviation of the turn at each point of the most winding curves, in radians
FILL = 0.7, 0.97  # least and greatest distance of a path's farthest point from its middle, as a share of SIDE / 2


def smooth_curves(n, knots):
    """Return n random smooth curves: (n, SAMPLES, 2). Each curve goes through `knots` random points.

    Consecutive random points are 0.5 to 1.5 apart. At each point, the direction changes by a random angle. Some curves
    get larger angles than others.
    """
    bend = BEND * torch.rand(n, 1) * torch.randn(n, knots - 1)  # (n, knots - 1) radians
    heading = (bend + F.pad(2 * math.pi * torch.rand(n, 1), (0, knots - 2))).cumsum(1)
    size = 0.5 + torch.rand(n, knots - 1, 1)
    steps = size * torch.stack((heading.cos(), heading.sin()), -1)
    points = F.pad(steps.cumsum(1), (0, 0, 1, 0))  # (n, knots, 2)
    spline = smoothest(knots, 2) @ points
    minimum_jerk = smoothest(knots, min(3, knots)) @ points
    return torch.where(torch.rand(n, 1, 1) < 0.5, spline, minimum_jerk)


def smooth_paths(n, T):
    """Return n random smooth paths of T evenly spaced points: (n, T, 2). Each path fills most of a frame."""
    counts = torch.multinomial(torch.tensor([*KNOTS.values()]), n, replacement=True).bincount(minlength=len(KNOTS))
    curves = torch.cat([smooth_curves(count, knots) for knots, count in zip(KNOTS, counts.tolist())])
    curves = curves[torch.randperm(n)].numpy()
    paths = torch.from_numpy(np.stack([robot.evenly(curve, T) for curve in curves])).float()
    paths = paths - ((paths.amax(1) + paths.amin(1)) / 2)[:, None]  # the middle of each path is now 0
    radius = SIDE / 2 * torch.empty(n).uniform_(*FILL)
    paths = paths * (radius / paths.norm(dim=-1).amax(1))[:, None, None]
    room = SIDE / 2 - paths.abs().amax(1)  # (n, 2) how far each path can move inside the frame
    shift = room * (2 * torch.rand(n, 2) - 1)
    return paths + SIDE / 2 + shift[:, None]


# 2. A waypoint is a token

HELD_OUT = 512  # paths for the evaluations


def to_tokens(points):
    """Turn points (..., 2) in a frame into tokens (...): row × SIDE + column.

    A point outside the frame gets the nearest cell.
    """
    column, row = points.floor().long().clamp(0, SIDE - 1).unbind(-1)
    return row * SIDE + column


class Paths(training.MaskedDiffusion):
    """The task of chapter 05, but with new paths in every batch, so the model cannot overfit."""

    def __init__(self, T, device, t_max=1.0):
        self.tokenizer = robot.Cells(SIDE)
        self.T, self.device, self.t_max = T, device, t_max
        with diffusion.same_numbers(0, torch.device("cpu")):  # all evaluations use the same paths
            self.windows = self.batch(HELD_OUT)

    def batch(self, n):
        return to_tokens(smooth_paths(n, self.T)).to(self.device)


def with_waves(config):
    """Return chapter 03's Transformer, in which the vectors of the cells begin as waves over the frame.

    With waves, neighbouring cells have similar vectors, both in the embedding and in the head. With random vectors, the
    model would have to learn from examples which cells are neighbours.
    """
    model = transformer.Transformer(config)
    C = config.n_embd
    wavelengths = torch.logspace(math.log10(3), math.log10(2 * SIDE), C // 4)
    angle = 2 * math.pi * torch.arange(SIDE)[:, None] / wavelengths  # (SIDE, C / 4)
    waves = math.sqrt(2) * torch.cat((angle.cos(), angle.sin()), -1)  # (SIDE, C / 2), with a mean square of 1
    rows = waves[:, None].expand(-1, SIDE, -1)
    columns = waves[None].expand(SIDE, -1, -1)
    cells = torch.cat((rows, columns), -1).flatten(0, 1)  # (SIDE × SIDE, C)
    with torch.no_grad():
        model.token_emb.weight[: config.mask_id] = cells
        model.head.weight.copy_(0.1 * C**-0.5 * cells)
    return model


# 3. The map is a constraint


class Constrained:
    """A model that cannot write a waypoint into a blocked cell. `blocked` (B, V) is True for blocked cells."""

    def __init__(self, model, blocked):
        self.model, self.config, self.blocked = model, model.config, blocked

    def __call__(self, canvas, t):
        return self.model(canvas, t).masked_fill(self.blocked[:, None], -math.inf)  # (B, T, V)


REACH = 3  # `positions` averages the cells that are at most this many rows and columns from the likeliest cell


def positions(logits):
    """Turn logits (B, T, V) into positions in the frame: (B, T, 2).

    A position is the mean of the cells around the likeliest cell, weighted by their probabilities. So a position can
    lie anywhere in a cell, not only at its centre.
    """
    peak = logits.argmax(-1)[..., None]  # (B, T, 1)
    place = torch.arange(SIDE)
    near_row = (place - peak // SIDE).abs() <= REACH  # (B, T, SIDE)
    near_column = (place - peak % SIDE).abs() <= REACH  # (B, T, SIDE)
    p = logits.softmax(-1).unflatten(-1, (SIDE, SIDE)) * near_row[..., None] * near_column[..., None, :]
    p = p / p.sum((-1, -2), keepdim=True)  # (B, T, rows, columns)
    x = (p.sum(-2) * (place + 0.5)).sum(-1)
    y = (p.sum(-1) * (place + 0.5)).sum(-1)
    return torch.stack((x, y), -1)


@torch.no_grad()
def refill(model, blocked, windows, masked, draw):
    """Let the model write the masked waypoints of windows (B, T, 2) again, in one pass. Return the new windows.

    `masked` (B, T) is True for the masked waypoints. `blocked` (H, W) is the inflated map: True for each cell in which
    the robot would touch an obstacle. The model writes cells of a frame, and `positions` turns each cell into a more
    exact point. If this point is in a blocked cell of the map, the centre of the written cell is used instead.
    """
    frames = robot.Frames(windows, SIDE, draw)
    centres = frames.centres()  # (B, V, 2)
    cells = torch.from_numpy(robot.at(blocked, centres))  # (B, V)
    stuck = cells.all(1, keepdim=True)  # if a frame has no free cell, its window stays the same
    masked = torch.from_numpy(masked) & ~stuck
    canvas = to_tokens(torch.from_numpy(frames.enter(windows))).masked_fill(masked, model.config.mask_id)
    logits = Constrained(model, cells & ~stuck)(canvas, masked.float().mean(1))  # (B, T, V)
    written = np.take_along_axis(centres, logits.argmax(-1, keepdim=True).numpy(), 1)  # (B, T, 2)
    exact = frames.leave(positions(logits).numpy())
    new = np.where(robot.at(blocked, exact)[..., None], written, exact)
    return np.where(masked.numpy()[..., None], new, windows)


# 4. Smoothing: the program accepts proposals that improve the path

SPACING = 4.0  # distance between two waypoints, in cells of the map
ROUNDS = 12  # how often waypoints are masked and filled in again
SPANS = 16  # number of spans that are masked in each round; each span has its own window
HALF_WIDTHS = 1, 2, 3, 5, 8, 11  # a span has one of these numbers of waypoints on each side of a sharp turn
SHARES = 1, 0.5, 0.25, 0.1  # a span is moved by these shares of the way to its proposal, and the best move is kept


def straight(blocked, windows, masked, draw):
    """Draw straight lines across the masked waypoints of windows (B, T, 2). Return the new windows.

    This is the control of the experiment: it does the work of `refill` without a model and without a map. In each
    window, `masked` (B, T) is True for one span of waypoints.
    """
    filled = windows.copy()
    for window, hidden in zip(filled, masked):
        first, last = np.flatnonzero(hidden)[[0, -1]]
        window[first - 1 : last + 2] = np.linspace(window[first - 1], window[last + 1], last - first + 3)
    return filled


def moved(path, proposal, first, blocked):
    """Move n waypoints of `path` towards `proposal` (n, 2). Return the best path.

    `first` is the index in `path` of the first of the n waypoints. A move must lower the sum of the squared turns, so
    that the path turns less, or more evenly. It must not increase the total turning or the length, and the changed
    segments must not collide with obstacles. If no move is allowed, the path stays the same. This is hill climbing: no
    proposal can make a path worse.
    """
    best = path
    turns = robot.turns(path)
    least = np.square(turns).sum()
    turning = np.abs(turns).sum()
    length = robot.length(path)
    last = first + len(proposal)
    for share in SHARES:
        new = path.copy()
        new[first:last] += share * (proposal - path[first:last])
        turns = robot.turns(new)
        if np.square(turns).sum() >= least or np.abs(turns).sum() > turning or robot.length(new) > length:
            continue
        changed = new[first - 1 : last + 1]  # with the segments on both sides
        if not robot.collides(blocked, changed[:-1], changed[1:]).any():
            best = new
            least = np.square(turns).sum()
    return best


def smooth(propose, T, blocked, raw, rounds=ROUNDS, seed=1):
    """Smooth a planner's path `raw` (N, 2). Yields the path after each round.

    `blocked` (H, W) is the inflated map, as in `refill`. `propose` makes proposals for windows of T waypoints. Examples
    are `straight`, and `refill` with a model. Before the first round, yields `raw` with waypoints at equal distances.
    No path collides with an obstacle, and no path is longer or turns more than the path before it.
    """
    draw = np.random.default_rng(seed)
    path = robot.waypoints(raw, blocked, T, SPACING)
    yield path
    for _ in range(rounds):
        sharpness = np.abs(robot.turns(path))
        if len(path) < T or not sharpness.any():
            return
        turn = 1 + draw.choice(len(sharpness), SPANS, p=sharpness / sharpness.sum())  # (spans,) the middle of each span
        half = draw.choice(HALF_WIDTHS, SPANS)
        left = np.clip(turn - T // 2, 0, len(path) - T)  # where the window of each span begins
        place = left[:, None] + np.arange(T)  # (spans, T) in the path
        masked = np.abs(place - turn[:, None]) <= half[:, None]
        masked[:, [0, -1]] = False
        filled = propose(blocked, path[place], masked, draw)
        for window, hidden, first in zip(filled, masked, left + masked.argmax(1)):
            path = moved(path, window[hidden], first, blocked)
        yield path


# 5. The demonstration


def smooth_both(model, blocked, raw, rounds=ROUNDS, seed=1):
    """Smooth the planner's path `raw` with the model, and also with the control. Return {name: path}."""
    paths = {"A*": raw}
    for name, propose in {"model": partial(refill, model), "straight": straight}.items():
        *_, paths[name] = smooth(propose, model.config.seq_len, blocked, raw, rounds, seed)
    return paths


def show(axes, grid, blocked, paths):
    """Draw a map with the paths {name: (N, 2)}. Print the length and the total turning of each path."""
    robot.draw_map(axes, grid.blocked, blocked, paths)
    axes.legend()
    for name, path in paths.items():
        turning = math.degrees(robot.total_turning(path))
        print(f"{name:8} {robot.length(path) * grid.resolution:8.2f} m, {turning:6.0f} degrees of turning")


def demonstrate(model, problems=4):
    """Smooth the paths that A* finds in some generated maps, with the model and with the control."""
    tensors.heading(f"Paths of {problems} generated maps of 10 m × 10 m, before and after")
    figure, axes = tensors.pyplot(show=False).subplots(1, problems, figsize=(4 * problems, 4), layout="constrained")
    for number, axis in enumerate(axes):
        grid, blocked, start, goal = robot.random_problem((1, number))
        raw = robot.astar(blocked, start, goal)
        show(axis, grid, blocked, smooth_both(model, blocked, raw, seed=number))
    tensors.save_figure(figure, "15_robot_path", show=False)


# 6. The command line


@dataclass(frozen=True)
class Train:
    """The flags of training."""

    config: str = "laptop"  # a settings file: a name in configs/robot/, or the path of a YAML file
    run: str = ""  # name of the run, which is also its folder under checkpoints/
    fresh: bool = False  # start the run again instead of resuming it
    device: str = "auto"  # auto, cpu, cuda or mps
    model: transformer.Shape = transformer.Shape(seq_len=24)
    train: training.DiffusionTrainConfig = training.DiffusionTrainConfig()

    def __post_init__(self):
        if self.model.n_embd % 4 or self.model.seq_len < 4:
            raise ValueError("n_embd must be a multiple of 4, and seq_len at least 4")


@dataclass(frozen=True)
class Smooth:
    """The flags for smoothing a path on a map."""

    map: Path = files.ROOT / "docs" / "maps" / "room.yaml"  # YAML file of a map, in the format of ROS's map server
    start: str = "1.0,2.0"  # the start, X,Y in metres, in the map's coordinates
    goal: str = "8.5,3.0"  # the goal, X,Y in metres, in the map's coordinates
    radius: float = 0.2  # radius of the robot in metres; obstacles are inflated by this radius
    out: Path = files.ROOT / "figures"  # folder for path.csv, path.json (a ROS 2 message nav_msgs/Path) and path.png
    checkpoint: str = ""  # name or folder of a run; by default your latest model of paths, or the shipped one
    rounds: int = ROUNDS  # how often waypoints are masked and filled in again
    seed: int = 1  # seed for the random spans and frames

    def __post_init__(self):
        if not 0 <= self.radius < 1e9:
            raise ValueError("radius must be at least 0 metres")
        if not (0 <= self.rounds <= 1000 and 0 <= self.seed < 2**63):
            raise ValueError("rounds must be from 0 to 1000, and seed at least 0")


def train_on_paths(settings):
    device = devices.pick_device(settings.device)
    config = transformer.TransformerConfig(**asdict(settings.model), vocab_size=SIDE * SIDE)
    training.check_memory(config, settings.train, device)  # before Paths draws the first paths
    task = Paths(config.seq_len, device, settings.train.t_max)
    folder = training.start(settings, "robot-path", task, config, {"corpus": "paths"}, device, build=with_waves)
    if folder is None:  # Ctrl-C
        return
    model, _, _ = checkpoint.load(folder, kinds=("robot-path",))
    demonstrate(model)
    print("\npython -m experiments.robot_path measures what the model adds (docs/robot_path.md).\n"
          "This was the last chapter: you now know every part of a diffusion language model.")


def smooth_on_map(settings):
    """Smooth a path in the user's map. Save it as path.csv, path.json and path.png."""
    grid = robot.load_map(settings.map)
    if settings.radius > max(grid.blocked.shape) * grid.resolution:
        raise cli.UserError("--radius is larger than the map: it is the robot's radius in metres")
    blocked = robot.inflate(grid.blocked, settings.radius / grid.resolution)
    raw = robot.plan(grid, blocked, settings.start, settings.goal)
    model, _, _ = checkpoint.load(checkpoint.find(settings.checkpoint, "robot-path"), kinds=("robot-path",))
    settings.out.mkdir(parents=True, exist_ok=True)  # before the long work, so that errors come early
    paths = smooth_both(model, blocked, raw, settings.rounds, settings.seed)
    robot.write_csv(settings.out / "path.csv", grid.to_metres(paths["model"]))
    robot.write_message(settings.out / "path.json", grid.to_metres(paths["model"]))
    figure, axes = tensors.pyplot(show=False).subplots(figsize=(7, 7), layout="constrained")
    show(axes, grid, blocked, paths)
    with files.whole_file(settings.out / "path.png") as unfinished:
        figure.savefig(unfinished, format="png", dpi=130)
    print(f"wrote path.csv, path.json and path.png into {settings.out}")


def main(argv=None):
    command, words = cli.sub_command(("train", "smooth"), argv)
    if command == "train":
        train_on_paths(cli.parse(Train, words, configs="robot"))
        return
    smooth_on_map(cli.parse(Smooth, words))


if __name__ == "__main__":
    cli.run(main)
