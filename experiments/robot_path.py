"""How well does chapter 15 smooth the path of a robot, compared with the smoothers that robots use today?

    python -m experiments.robot_path             # measures the shipped model on 300 problems: ten minutes on one core
    python -m experiments.robot_path --render    # only writes the page and its figures again

The numbers are in docs/robot_path.json, and the page is docs/robot_path.md. All smoothers take and return paths (N, 2)
in cells, and read the inflated map blocked (H, W).
"""

import math
import time
from dataclasses import dataclass
from importlib import import_module

from experiments import pages
from plumbing import checkpoint, cli, measures, robot

import numpy as np
import torch
from tqdm import tqdm

tensors = import_module("01_tensors")
chapter = import_module("15_robot_path")

EXAMPLES = 6  # problems whose paths are kept and drawn


@dataclass(frozen=True)
class Command(pages.Settings):
    """The flags of this program."""

    checkpoint: str = "robot-path"  # name or folder of a run
    problems: int = 300  # generated problems
    seed: int = 0  # of the problems
    rounds: int = chapter.ROUNDS  # rounds of the model

    def __post_init__(self):
        if not EXAMPLES <= self.problems <= 10**6:
            raise ValueError(f"problems must be from {EXAMPLES} to 1000000")


# 1. The smoothers of Nav2, the navigation system of ROS 2, written after their sources in nav2_smoother


def gradient(path, blocked, data=0.2, smooth=0.3, tolerance=1e-10, iterations=1000, refinements=2):
    """Return Nav2's simple smoother with its default weights.

    Point i moves by data (its place before - place) + smooth (sum of both neighbours - 2 place), one after the other,
    until all moves of an iteration together are below the tolerance, in metres there and in cells here. If a point
    enters a blocked cell, the result is the path before that iteration. Then the smoothed path is smoothed again.
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


SAVITZKY_GOLAY = np.array([-2, 3, 6, 7, 6, 3, -2]) / 21  # cubic polynomial through seven points, value in the middle


def savitzky_golay(path, blocked=None, passes=3):
    """Return Nav2's Savitzky-Golay smoother: three passes of a filter over seven points. It does not read the map.

    Beyond its ends the path stands still. Nav2 leaves paths of fewer than eleven points as they are. (Savitzky and
    Golay 1964, "Smoothing and Differentiation of Data by Simplified Least Squares Procedures".)
    """
    for _ in range(passes if len(path) > 10 else 0):
        padded = np.concatenate((path[:1].repeat(3, 0), path, path[-1:].repeat(3, 0)))
        filtered = sum(weight * padded[i : i + len(path)] for i, weight in enumerate(SAVITZKY_GOLAY))
        path = np.concatenate((path[:1], filtered[1:-1], path[-1:]))
    return path


# 2. Straight lines


def straight_lines(path, blocked):
    """Return the shortest path along straight free lines between points of `path`, found by dynamic programming."""
    N = len(path)
    i, j = np.triu_indices(N, 1)
    free = np.zeros((N, N), bool)
    for part in np.array_split(np.arange(len(i)), 1 + len(i) // 2000):  # to save memory
        free[i[part], j[part]] = ~robot.collides(blocked, path[i[part]], path[j[part]])
    distance = np.where(free, np.linalg.norm(path[:, None] - path, axis=-1), np.inf)
    best = np.zeros(N)  # the length of the shortest way to each point
    before = np.zeros(N, int)  # the point before it on that way
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
    "straight lines": straight_lines,
}


# 3. Measures of one path


def largest_turn(path, reach):
    """Return the largest sum of |turns| in any stretch of a path that is `reach` long, in radians."""
    path = robot.without_repeats(path)
    turn = np.abs(robot.turns(path))
    if not len(turn):
        return 0.0
    place = robot.distances(path).cumsum()[:-1]  # of each turn, along the path
    total = np.r_[0, turn.cumsum()]
    return (total[np.searchsorted(place, place + reach, side="right")] - total[:-1]).max()


def samples(path, step=0.25):
    """Return points on a path, at most `step` apart, with all points of the path among them: (M, 2)."""
    counts = np.ceil(robot.distances(path) / step).astype(int).clip(1)
    parts = [a + (b - a) * np.arange(count)[:, None] / count for a, b, count in zip(path, path[1:], counts)]
    return np.concatenate((*parts, path[-1:]))


def clearance(blocked, points):
    """Return the distance in cells from each of points (N, 2) to the nearest blocked cell's square: (N,)."""
    rows, columns = np.nonzero(blocked)
    dx = np.abs(points[:, :1] - (columns + 0.5)) - 0.5
    dy = np.abs(points[:, 1:] - (rows + 0.5)) - 0.5
    return np.hypot(dx.clip(0), dy.clip(0)).min(1, initial=np.inf)  # infinite if there is no blocked cell


def is_free(path, blocked, start, goal):
    """Return whether a path does not collide, and begins and ends exactly at `start` and `goal`."""
    ends = np.array_equal(path[[0, -1]], np.stack((start, goal)))
    return ends and not robot.collides(blocked, path[:-1], path[1:]).any()


def numbers_of(path, grid, blocked, start, goal, shortest, seconds):
    """Return the measures of one path: {name: number}. shortest: a length in cells."""
    return {
        "free": float(is_free(path, blocked, start, goal)),
        "points": float(not robot.at(blocked, path).any()),
        "turning": math.degrees(robot.total_turning(path)),
        "largest": math.degrees(largest_turn(path, 1 / grid.resolution)),
        "length": robot.length(path) / shortest,
        "clearance": clearance(grid.blocked, samples(path)).min() * grid.resolution,
        "ms": 1000 * seconds,
    }


# 4. Measuring


def smooth_in_every_way(model, number, settings):
    """Return (the map's parts, {way: path}, {way: seconds}, the model's path after each round) of one problem."""
    problem = robot.random_problem((settings.seed, number))
    _, blocked, start, goal = problem
    raw = robot.astar(blocked, start, goal)
    paths, seconds = {}, {}
    for name, way in WAYS.items():
        began = time.perf_counter()
        paths[name] = way(raw, blocked)
        seconds[name] = time.perf_counter() - began
    began = time.perf_counter()
    stages = list(chapter.smooth(model, blocked, raw, settings.rounds, seed=number))
    seconds["model"] = time.perf_counter() - began
    paths["model"] = stages[-1]
    stages += stages[-1:] * (settings.rounds + 1 - len(stages))  # nothing was left to smooth
    return problem, paths, seconds, stages


def measure(settings):
    """Smooth the A* paths of generated problems in every way. Returns the numbers of the page."""
    model, _, info = checkpoint.load(checkpoint.find(settings.checkpoint, "robot-path"), kinds=("robot-path",))
    found = {name: [] for name in (*WAYS, "model")}
    rounds, examples = [], []
    for number in tqdm(range(settings.problems), unit="problem", dynamic_ncols=True):
        problem, paths, seconds, stages = smooth_in_every_way(model, number, settings)
        shortest = robot.length(paths["straight lines"])
        for name, path in paths.items():
            found[name].append(numbers_of(path, *problem, shortest, seconds[name]))
        rounds.append([[math.degrees(robot.total_turning(path)), robot.length(path) / shortest] for path in stages])
        if number < EXAMPLES:
            examples.append({name: paths[name].round(2).tolist() for name in ("A*", "gradient smoother", "model")})
    resolution = problem[0].resolution
    ways = {name: mean_of_each(rows) for name, rows in found.items()}
    return {
        "origin": pages.origin("robot_path", torch.device("cpu")),
        "model": {"name": settings.checkpoint, "parameters": sum(p.numel() for p in model.parameters()),
                  "steps": info["step"], "NELBO": info["NELBO"], "error": info["error"]},
        "problems": settings.problems, "seed": settings.seed, "rounds": settings.rounds,
        "spans": chapter.SPANS,
        "metres": {"cell": resolution, "map": round(problem[0].blocked.shape[0] * resolution),
                   "radius": robot.RADIUS * resolution, "spacing": chapter.SPACING * resolution},
        "ways": ways, "minus": {name: minus(found["model"], found[name]) for name in WAYS},
        "failed": sum(not row["free"] for row in found["model"]),
        "times_as_long": ways["model"]["ms"][0] / ways["gradient smoother"]["ms"][0],
        "after_rounds": np.mean(rounds, axis=0).round(4).tolist(), "examples": examples,
    }


def mean_of_each(rows):
    """Return {measure: (mean, standard error over the problems)} of a list of {measure: number}."""
    columns = {key: torch.tensor([row[key] for row in rows], dtype=torch.float64) for key in rows[0]}
    return {key: measures.mean_and_error(column) for key, column in columns.items()}


def minus(mine, others):
    """Return how the model's numbers differ from those of another way, problem by problem.

    That is {measure: (mean difference, its standard error)}, and in "better" the share of the problems in which the
    model's path turns less and is not longer.
    """
    pairs = list(zip(mine, others))
    rows = [{key: a[key] - b[key] for key in ("turning", "largest", "length")} for a, b in pairs]
    better = [row["turning"] < 0 and row["length"] <= 1e-9 for row in rows]
    return mean_of_each(rows) | {"better": sum(better) / len(better)}


# 5. The page


def tables(values):
    columns = ["", "success", "total turning, °", "largest turn in 1 m, °", "length / shortest", "clearance, m", "ms"]
    kinds = {"free": ".1%", "turning": ".1f", "largest": ".1f", "length": ".4f", "clearance": ".3f", "ms": ".1f"}
    ways = [[name, *(with_error(row[key], kind) for key, kind in kinds.items())]
            for name, row in values["ways"].items()]
    difference = [[name, *(with_error(row[key], "+" + kinds[key]) for key in ("turning", "largest", "length")),
                   f"{row['better']:.1%}"] for name, row in values["minus"].items()]
    return {"ways": pages.table(ways, columns),
            "minus": pages.table(difference, ["the model minus", *columns[2:5], "better"])}


def with_error(value, kind):
    mean, error = value
    return f"{mean:{kind}} ± {error:{kind.removeprefix('+')}}"


def draw(values, folder):
    draw_examples(values, folder / "robot_path_examples.png")
    draw_rounds(values, folder / "robot_path_rounds.png")


def draw_examples(values, path):
    """Figure: the maps of the first problems with three paths each."""
    figure, axes = tensors.pyplot(show=False).subplots(2, EXAMPLES // 2, figsize=(10, 7), layout="constrained")
    colors = {"A*": "other", "gradient smoother": "gpt", "model": "dllm"}
    for number, (axis, paths) in enumerate(zip(axes.flat, values["examples"])):
        grid, blocked, *_ = robot.random_problem((values["seed"], number))
        named = {(name, tensors.COLORS[colors[name]]): np.array(points) for name, points in paths.items()}
        robot.draw_map(axis, grid.blocked, blocked, named)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    pages.save_figure(figure, path)


def draw_rounds(values, path):
    """Figure: mean turning and length after each round."""
    figure, axes = tensors.pyplot(show=False).subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    colors = {"A*": "other", "gradient smoother": "gpt", "straight lines": "real"}
    labels = {"turning": "total turning, °", "length": "length / shortest"}
    for axis, key, means in zip(axes, labels, zip(*values["after_rounds"])):
        axis.plot(means, "o-", ms=3, color=tensors.COLORS["dllm"], label="model")
        for name, color in colors.items():
            axis.axhline(values["ways"][name][key][0], ls=":", color=tensors.COLORS[color], label=name)
        axis.set(xlabel="rounds", ylabel=labels[key])
        axis.grid(alpha=0.3)
    axes[0].legend()
    pages.save_figure(figure, path)


if __name__ == "__main__":
    cli.run(lambda: pages.run("robot_path", Command, measure, draw, tables))
