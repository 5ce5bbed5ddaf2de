"""How much does the model of chapter 15 improve the smoothing of a path, and does it know curves better than a rule?

    python -m experiments.robot_path             # measures the shipped model on 300 problems: 15 minutes on one core
    python -m experiments.robot_path --render    # only writes the page and its figure again

The numbers are in docs/robot_path.json, and the page is docs/robot_path.md. A smoother gets a path (N, 2) in cells and
the inflated map `blocked` (H, W), and returns a path in cells.
"""

import math
import time
from dataclasses import dataclass
from functools import partial
from importlib import import_module

from experiments import pages
from plumbing import checkpoint, cli, measures, robot

import numpy as np
import torch
from tqdm import tqdm

tensors = import_module("01_tensors")
chapter = import_module("15_robot_path")

EXAMPLES = 6  # number of problems whose paths are kept and drawn
FRAMES = 8  # the model restores each curve in this many frames, and the result is the mean


@dataclass(frozen=True)
class Command(pages.Settings):
    """The flags of this program."""

    checkpoint: str = "robot-path"  # name or folder of a run
    problems: int = 300  # number of generated problems
    seed: int = 0  # seed of the problems
    rounds: int = chapter.ROUNDS  # number of rounds of hill climbing

    def __post_init__(self):
        if not EXAMPLES <= self.problems <= 10**6:
            raise ValueError(f"problems must be from {EXAMPLES} to 1000000")


# 1. The smoothers of Nav2, the navigation system of ROS 2, written after their sources in nav2_smoother


def gradient(path, blocked, data=0.2, smooth=0.3, tolerance=1e-10, iterations=1000, refinements=2):
    """Return the path after Nav2's simple smoother, with its default weights.

    In each iteration, the points move one after the other. Each point moves by

        data * (original place - place) + smooth * (sum of the places of both neighbours - 2 * place)

    The iterations end when the moves of one iteration sum to less than `tolerance` cells. (Nav2 has this limit in
    metres.) Then the smoothed path is smoothed again, `refinements` times. If a point enters a blocked cell, the
    function returns the path as it was before this iteration.
    """
    H, W = blocked.shape
    rows = blocked.tolist()
    before, now = path.tolist(), path.tolist()
    for _ in range(iterations - 1):
        last = [point[:] for point in now]
        change = 0.0
        for i in range(1, len(now) - 1):
            for axis in (0, 1):
                place = now[i][axis]
                move = data * (before[i][axis] - place) + smooth * (now[i - 1][axis] + now[i + 1][axis] - 2 * place)
                now[i][axis] = place + move
                change += abs(move)
            x, y = math.floor(now[i][0]), math.floor(now[i][1])
            if not (0 <= x < W and 0 <= y < H) or rows[y][x]:
                return np.array(last)
        if change < tolerance:
            break
    else:
        return np.array(now)
    now = np.array(now)
    return gradient(now, blocked, data, smooth, tolerance, iterations, refinements - 1) if refinements else now


SAVITZKY_GOLAY = np.array([-2, 3, 6, 7, 6, 3, -2]) / 21  # middle value of a cubic polynomial fitted to seven points


def savitzky_golay(path, blocked=None, passes=3):
    """Return the path after Nav2's Savitzky-Golay smoother, which does not read the map.

    A filter over seven points is applied to the path three times. Beyond the ends of the path, the filter repeats the
    end points. Nav2 leaves paths of fewer than eleven points unchanged. (Savitzky and Golay 1964, "Smoothing and
    Differentiation of Data by Simplified Least Squares Procedures".)
    """
    for _ in range(passes if len(path) > 10 else 0):
        padded = np.concatenate((path[:1].repeat(3, 0), path, path[-1:].repeat(3, 0)))
        filtered = sum(weight * padded[i : i + len(path)] for i, weight in enumerate(SAVITZKY_GOLAY))
        path = np.concatenate((path[:1], filtered[1:-1], path[-1:]))
    return path


# 2. Straight lines


def straight_lines(path, blocked):
    """Return the shortest path that consists of free straight lines between points of `path`.

    Dynamic programming finds this path.
    """
    N = len(path)
    i, j = np.triu_indices(N, 1)
    free = np.zeros((N, N), bool)
    for part in np.array_split(np.arange(len(i)), 1 + len(i) // 2000):  # in parts, to save memory
        free[i[part], j[part]] = ~robot.collides(blocked, path[i[part]], path[j[part]])
    distance = np.where(free, np.linalg.norm(path[:, None] - path, axis=-1), np.inf)
    best = np.zeros(N)  # the length of the shortest way to each point
    before = np.zeros(N, int)  # the point before each point on this shortest way
    for k in range(1, N):
        before[k] = (best[:k] + distance[:k, k]).argmin()
        best[k] = best[before[k]] + distance[before[k], k]
    kept = [N - 1]
    while kept[-1]:
        kept.append(before[kept[-1]])
    return path[kept[::-1]]


WAYS = {
    "A*": lambda path, blocked: path,
    "gradient smoother": gradient,
    "Savitzky-Golay smoother": savitzky_golay,
    "straight lines between corners": straight_lines,
}


# 3. Controls, which replace the model's proposals in chapter 15's hill climbing, with the same arguments


def cubic(blocked, windows, masked, draw):
    """Move the masked waypoints of each window to a cubic curve, and return the windows.

    The curve continues the segments on both sides of the masked span (cubic Hermite interpolation). If one side has no
    segment, because the window ends there, the curve begins or ends in the direction of the straight line across the
    span.
    """
    filled = windows.copy()
    for window, hidden in zip(filled, masked):
        first, last = np.flatnonzero(hidden)[[0, -1]] + (-1, 1)  # the visible waypoints on both sides
        t = np.arange(1, last - first)[:, None] / (last - first)
        a, b = window[first], window[last]
        line = (b - a) / (last - first)
        out = a - window[first - 1] if first else line
        into = window[last + 1] - b if last + 1 < len(window) else line
        bend_out, bend_in = (last - first) * (out - line), (last - first) * (into - line)
        window[hidden] = a + t * (b - a) + t * (1 - t) * ((1 - t) * bend_out - t * bend_in)
    return filled


def midpoints(blocked, windows, masked, draw):
    """Put each masked waypoint halfway between its neighbours, and return the windows."""
    halfway = windows.copy()
    halfway[:, 1:-1] = (windows[:, :-2] + windows[:, 2:]) / 2
    return np.where(masked[..., None], halfway, windows)


def random_points(blocked, windows, masked, draw):
    """Move each masked waypoint at random, by about a cell, and return the windows.

    If a waypoint would enter a blocked cell, it does not move.
    """
    moved = windows + draw.normal(size=windows.shape)
    free = masked & ~robot.at(blocked, moved)
    return np.where(free[..., None], moved, windows)


def without_map(model):
    """Return the proposals of a model that sees only the edges of the map.

    The difference from the model with the map shows how much the map helps.
    """
    return lambda blocked, *arguments: chapter.refill(model, np.zeros_like(blocked), *arguments)


CONTROLS = {"straight lines": chapter.straight, "cubic curves": cubic, "midpoints": midpoints,
            "random points": random_points}  # fmt: skip


# 4. Measures of one path


def largest_turn(path, reach):
    """Return how sharply a path turns: the largest sum of |turns| within a length of `reach`, in radians."""
    path = robot.without_repeats(path)
    turn = np.abs(robot.turns(path))
    if not len(turn):
        return 0.0
    place = robot.distances(path).cumsum()[:-1]  # distance of each turn along the path
    total = np.r_[0, turn.cumsum()]
    return (total[np.searchsorted(place, place + reach, side="right")] - total[:-1]).max()


def is_free(path, blocked, start, goal):
    """Return True if a path is free of collisions, begins exactly at `start`, and ends exactly at `goal`."""
    ends = np.array_equal(path[[0, -1]], np.stack((start, goal)))
    return ends and not robot.collides(blocked, path[:-1], path[1:]).any()


def numbers_of(path, grid, blocked, start, goal, shortest, seconds):
    """Return the measures of one path: {name: number}. `shortest` is the length of the shortest path."""
    return {
        "free": float(is_free(path, blocked, start, goal)),
        "points": float(not robot.at(blocked, path).any()),
        "turning": math.degrees(robot.total_turning(path)),
        "largest": math.degrees(largest_turn(path, 1 / grid.resolution)),
        "length": robot.length(path) / shortest,
        "ms": 1000 * seconds,
    }


# 5. Measuring


def smooth_in_every_way(proposers, T, number, settings):
    """Smooth the path of one problem. Return (the problem's parts, {way: path}, {way: CPU seconds})."""
    problem = robot.random_problem((settings.seed, number))
    _, blocked, start, goal = problem
    raw = robot.astar(blocked, start, goal)
    paths, seconds = {}, {}
    for name, way in WAYS.items():
        began = time.process_time()
        paths[name] = way(raw, blocked)
        seconds[name] = time.process_time() - began
    for name, propose in proposers.items():
        began = time.process_time()
        *_, paths[name] = chapter.smooth(propose, T, blocked, raw, settings.rounds, seed=number)
        seconds[name] = time.process_time() - began
    return problem, paths, seconds


def restore(proposers, T):
    """Hide the middle third of each curve of chapter 15's evaluations, and restore this third in several ways.

    No training has seen these curves, and there are no obstacles. The result is (the curves, {name: the restored
    curves}), each (N, T, 2). The model restores each curve in several frames, because the mean of the results is more
    exact.
    """
    with chapter.diffusion.same_numbers(0, torch.device("cpu")):
        truth = chapter.smooth_paths(chapter.HELD_OUT, T).double().numpy()
    masked = np.zeros(truth.shape[:2], bool)
    masked[:, T // 3 : 2 * T // 3] = True
    open_space = np.zeros((3 * chapter.SIDE, 3 * chapter.SIDE), bool)  # wider than the curves
    draw = np.random.default_rng(0)
    restored = {}
    for name in ("model", "straight lines", "cubic curves"):
        repeats = FRAMES if name == "model" else 1
        filled = [proposers[name](open_space, truth + chapter.SIDE, masked, draw) for _ in range(repeats)]
        restored[name] = np.mean(filled, axis=0) - chapter.SIDE
    return truth, restored


def misses(truth, restored):
    """Return how far restored waypoints are from the true waypoints: {name: (mean, standard error)}.

    The unit is the mean distance between neighbouring waypoints of a curve.
    """
    T = truth.shape[1]
    step = np.linalg.norm(np.diff(truth, axis=1), axis=-1).mean(1)
    found = {}
    for name, paths in restored.items():
        apart = np.linalg.norm(paths - truth, axis=-1)[:, T // 3 : 2 * T // 3].mean(1)
        found[name] = measures.mean_and_error(torch.from_numpy(apart / step))
    return found


def measure(settings):
    """Smooth the A* paths of generated problems with each method, and measure the model on smooth curves.

    Returns the numbers of the page.
    """
    model, _, info = checkpoint.load(checkpoint.find(settings.checkpoint, "robot-path"), kinds=("robot-path",))
    T = model.config.seq_len
    proposers = {"model": partial(chapter.refill, model), "model without the map": without_map(model), **CONTROLS}
    found = {name: [] for name in (*WAYS, *proposers)}
    examples = []
    for number in tqdm(range(settings.problems), unit="problem", dynamic_ncols=True):
        problem, paths, seconds = smooth_in_every_way(proposers, T, number, settings)
        shortest = robot.length(paths["straight lines between corners"])
        for name, path in paths.items():
            found[name].append(numbers_of(path, *problem, shortest, seconds[name]))
        if number < EXAMPLES:
            examples.append({name: paths[name].round(2).tolist() for name in ("A*", "model", "straight lines")})
    truth, restored = restore(proposers, T)
    grid = problem[0]
    return {
        "origin": pages.origin("robot_path", torch.device("cpu")),
        "model": {"name": settings.checkpoint, "parameters": sum(p.numel() for p in model.parameters()),
                  "steps": info["step"], "NELBO": info["NELBO"], "error": info["error"]},
        "problems": settings.problems, "seed": settings.seed, "rounds": settings.rounds, "spans": chapter.SPANS,
        "metres": {"cell": grid.resolution, "map": round(len(grid.blocked) * grid.resolution),
                   "radius": robot.RADIUS * grid.resolution, "spacing": chapter.SPACING * grid.resolution},
        "ways": {name: mean_of_each(rows) for name, rows in found.items()},
        "minus": {name: minus(found["model"], found[name]) for name in proposers if name != "model"},
        "failed": sum(not row["free"] for name in proposers for row in found[name]),
        "curves": chapter.HELD_OUT, "misses": misses(truth, restored), "examples": examples,
    }


def mean_of_each(rows):
    """Return {measure: (mean, standard error over the problems)}. Each of the `rows` is {measure: number}."""
    columns = {key: torch.tensor([row[key] for row in rows], dtype=torch.float64) for key in rows[0]}
    return {key: measures.mean_and_error(column) for key, column in columns.items()}


def minus(mine, others):
    """Compare the model with another way of smoothing. Return {measure: (mean difference, standard error)}.

    A difference is the model's number minus the other way's number for the same problem.
    """
    return mean_of_each([{key: a[key] - b[key] for key in a} for a, b in zip(mine, others)])


# 6. The page


def tables(values):
    columns = ["", "success", "total turning, °", "largest turn in 1 m, °", "length / shortest", "ms"]
    kinds = {"free": ".1%", "turning": ".1f", "largest": ".1f", "length": ".4f", "ms": ".1f"}
    rows = []
    for name, row in values["ways"].items():
        named = name if name in WAYS else f"proposals: {name}"
        rows.append([named, *(with_error(row[key], kind) for key, kind in kinds.items())])
    return {"ways": pages.table(rows, columns)}


def with_error(value, kind):
    mean, error = value
    return f"{mean:{kind}} ± {error:{kind}}"


def draw(values, folder):
    """Save the figure: the maps of the first problems, with three paths each."""
    figure, axes = tensors.pyplot(show=False).subplots(2, EXAMPLES // 2, figsize=(10, 7), layout="constrained")
    for number, (axis, paths) in enumerate(zip(axes.flat, values["examples"])):
        grid, blocked, *_ = robot.random_problem((values["seed"], number))
        robot.draw_map(axis, grid.blocked, blocked, {name: np.array(path) for name, path in paths.items()})
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    pages.save_figure(figure, folder / "robot_path_examples.png")


if __name__ == "__main__":
    cli.run(lambda: pages.run("robot_path", Command, measure, draw, tables))
