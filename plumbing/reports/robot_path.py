"""The measuring of chapter 15, and the page that is made of its numbers alone.

    measure(model, problems)    every way to smooth, on generated problems: {results}
    write(results, folder)      FOLDER/robot_path.md and .json, and FOLDER/figures/robot_path_*.png
"""

import math
import time
from importlib import import_module

import numpy as np
import torch
from tqdm import tqdm

from plumbing import checkpoint, cli, figures, measures, robot_maps, robot_paths, smoothers
from plumbing.reports import pages

chapter = import_module("15_robot_path")

RADIUS = 2.0  # cells by which obstacles are inflated: 0.2 m
EXAMPLES = 6  # problems whose paths are kept and drawn
MEASURES = {  # name in the results: (heading, format of mean and error)
    "free": ("success", ".1%"),
    "turning": ("total turning, °", ".1f"),
    "largest": ("largest turn in 1 m, °", ".1f"),
    "length": ("length / shortest", ".4f"),
    "clearance": ("clearance, m", ".3f"),
    "ms": ("ms", ".1f"),
}
WAYS = {  # name: function (path, blocked) → path
    "A*": lambda path, blocked: path,
    "gradient smoother": smoothers.gradient,
    "Savitzky-Golay smoother": lambda path, blocked: smoothers.savitzky_golay(path),
    "spline": lambda path, blocked: smoothers.spline(path),
    "straight lines": smoothers.shortcuts,
}


# 1. Measuring


def free(path, blocked, start, goal):
    """Return whether a path does not collide, and begins and ends exactly at `start` and `goal`."""
    ends = np.array_equal(path[[0, -1]], np.stack((start, goal)))
    return ends and not robot_maps.collides(blocked, path[:-1], path[1:]).any()


def values_of(path, grid, blocked, start, goal, shortest, seconds):
    """Return the measures of one path: {name: number}. shortest: a length in cells."""
    return {
        "free": float(free(path, blocked, start, goal)),
        "points": float(not robot_maps.at(blocked, path).any()),
        "turning": math.degrees(robot_paths.total_turning(path)),
        "largest": math.degrees(robot_paths.largest_turn(path, 1 / grid.resolution)),
        "length": robot_paths.length(path) / shortest,
        "clearance": robot_maps.clearance(grid.blocked, robot_paths.samples(path)).min() * grid.resolution,
        "ms": 1000 * seconds,
    }


def measure(model, problems, seed=0, how=None):
    """Smooth the A* path of `problems` generated problems in every way. Returns plain values, as `page` reads them."""
    how = how or chapter.Smoothing()
    found = {name: [] for name in (*WAYS, "model")}
    rounds, examples = [], []
    for number in tqdm(range(problems), unit="problem", dynamic_ncols=True):
        grid, blocked, start, goal = robot_maps.random_problem((seed, number), RADIUS)
        raw, paths, seconds = robot_maps.astar(blocked, start, goal), {}, {}
        for name, way in WAYS.items():
            began = time.perf_counter()
            paths[name] = way(raw, blocked)
            seconds[name] = time.perf_counter() - began
        began = time.perf_counter()
        stages = list(chapter.smooth(model, blocked, raw, how, seed=number))
        paths["model"], seconds["model"] = stages[-1], time.perf_counter() - began
        shortest = robot_paths.length(paths["straight lines"])
        for name, path in paths.items():
            found[name].append(values_of(path, grid, blocked, start, goal, shortest, seconds[name]))
        stages += stages[-1:] * (how.rounds + 1 - len(stages))
        rounds.append([(math.degrees(robot_paths.total_turning(path)), robot_paths.length(path) / shortest)
                       for path in stages])
        if number < EXAMPLES:
            examples.append({name: paths[name].round(2).tolist() for name in ("A*", "gradient smoother", "model")})
    return {"problems": problems, "seed": seed, "how": vars(how), "table": summary(found),
            "rounds": np.mean(rounds, axis=0).round(4).tolist(), "against": against(found), "examples": examples}


def summary(found):
    """Return {way: {measure: (mean, standard error over the problems)}} of {way: [measures of a path]}."""
    return {name: {key: measures.mean_and_error(torch.tensor([row[key] for row in rows], dtype=torch.float64))
                   for key in rows[0]} for name, rows in found.items()}


def against(found):
    """Compare the model with every other way on the same problems.

    Returns {way: {"turning", "largest", "length": (mean of the model's number - the other's, standard error), "better":
    share of the problems in which the model turns less and is not longer}}.
    """
    table = {}
    for name in WAYS:
        rows = list(zip(found["model"], found[name]))
        better = [a["turning"] < b["turning"] and a["length"] <= b["length"] + 1e-9 for a, b in rows]
        table[name] = {key: measures.mean_and_error(torch.tensor([mine[key] - other[key] for mine, other in rows],
                                                                 dtype=torch.float64))
                       for key in ("turning", "largest", "length")} | {"better": sum(better) / len(better)}
    return table


# 2. The page


def shown(value, kind):
    mean, error = value
    return f"{mean:{kind}} ± {error:{kind.removeprefix('+')}}"


def table(results):
    """The table of all ways, in Markdown."""
    head = ["", *(heading for heading, _ in MEASURES.values())]
    return pages.table(head, [(name, *(shown(row[key], kind) for key, (_, kind) in MEASURES.items()))
                              for name, row in results["table"].items()])


def verdict(results, name, key, unit, digits):
    """Say how the model's `key` compares with that of the way `name` on the same problems."""
    mean, error = results["against"][name][key]
    if abs(mean) <= 2 * error:
        return f"is the same within two standard errors ({mean:+.{digits}f} ± {error:.{digits}f}{unit})"
    return f"is {'lower' if mean < 0 else 'higher'} by {abs(mean):.{digits}f} ± {error:.{digits}f}{unit}"


def sentence(results, name):
    turning, largest = (verdict(results, name, key, "°", 1) for key in ("turning", "largest"))
    return (f"Compared with the line *{name}*, the model's total turning {turning}, its largest turn in 1 m {largest}, "
            f"and its length {verdict(results, name, 'length', ' times the shortest', 4)}.")


def page(results):
    """The page as Markdown."""
    text = INTRODUCTION, measured(results), where(results), ROUNDS.format(**results["how"]), rerun(results)
    return pages.wrap("\n\n".join(part.strip() for part in text)) + "\n"


INTRODUCTION = """
# Smoothing the path of a robot, measured

Chapter 15 (15_robot_path.py) trains the book's model on generated smooth curves. A waypoint is a token: the cell of a
square in which it lies. The program takes the path of a planner, masks the waypoints at its sharpest turns and lets the
model fill them in again. The map is a constraint: a cell in which the robot would touch an obstacle has the logit minus
infinity. This page compares the result with those of four other ways to smooth the same paths.

- *A\\** is the shortest path over the centres of cells with eight neighbours, which all other lines begin with.
- The *gradient smoother* is the simple smoother of Nav2, the navigation system of ROS 2, and the *Savitzky-Golay
  smoother* is its other one. Both are written in plumbing/smoothers.py after their published algorithms, with their
  default settings.
- The *spline* is a natural cubic spline through every eighth point of the path.
- *Straight lines* is the shortest way along straight free lines between points of the A\\* path. Its length is the
  *shortest* of the table. It turns at few corners, and not in curves.

The problems are generated: maps of 10 m × 10 m with cells of 0.1 m, walls with doors, boxes and pillars, and a start
and a goal that are at least 5 m apart. The obstacles are inflated by 0.2 m.

![Paths of six problems](figures/robot_path_examples.png)
"""


def measured(results):
    strict, points = (results["table"]["gradient smoother"][key][0] for key in ("free", "points"))
    return f"""
## The measures

{table(results)}

The number after ± is the standard error over the {results['problems']} problems.

- *Success* is the share of the paths that begin and end exactly at start and goal, and do not enter a cell of the
  inflated obstacles, not even with a part of a segment. Nav2's gradient smoother checks the points of a path only: of
  its paths, {points:.1%} have no point in such a cell, and {strict:.1%} have no segment that enters one.
- *Total turning* is the sum of the angles by which the path changes its direction.
- *Largest turn in 1 m* is the largest such sum in any stretch of one metre.
- *Clearance* is the smallest distance from the path to an obstacle (not inflated).
- *ms* is the time for one path in milliseconds, in Python and on one thread or more of a CPU. Nav2's own programs are
  written in C++, so these are not their times.
"""


def where(results):
    rows = [(name, shown(row["turning"], "+.1f"), shown(row["largest"], "+.1f"), shown(row["length"], "+.4f"),
             f"{row['better']:.1%}") for name, row in results["against"].items()]
    model = results["table"]["model"]
    failed = round((1 - model["free"][0]) * results["problems"])
    gradient = results["table"]["gradient smoother"]
    rivals = {key: min(results["table"], key=lambda name: results["table"][name][key][0])
              for key in ("turning", "largest", "length")}
    head = ["the model minus", "total turning, °", "largest turn in 1 m, °", "length / shortest", "better"]
    return f"""
## Where the model wins, and where it does not

The next table shows, problem by problem, the model's number minus that of another way. *Better* is the share of the
problems in which the model's path turns less and is not longer.

{pages.table(head, rows)}

Of the model's {results['problems']} paths, {failed} collide or miss an end. This is by construction: the program does
not accept a change that makes the path collide, turn more or become longer. {sentence(results, 'gradient smoother')}
{sentence(results, 'straight lines')}

The line *{rivals['turning']}* has the least total turning, *{rivals['largest']}* the lowest largest turn, and
*{rivals['length']}* the least length. The fastest line that changes the path is *{quickest(results)}*. The model takes
{model['ms'][0] / gradient['ms'][0]:.0f} times as long as our gradient smoother in Python. Its clearance is
{model['clearance'][0]:.3f} m, and that of the A\\* path is {results['table']['A*']['clearance'][0]:.3f} m: nothing in
this method pushes a path away from obstacles. The model's path is a line with a waypoint about every
{results['how']['spacing'] / 10:.1f} m, and it turns at the waypoints; the gradient smoother's points are 0.1 m apart.
"""


def quickest(results):
    """The name of the fastest way that changes the path."""
    return min((name for name in results["table"] if name != "A*"), key=lambda name: results["table"][name]["ms"][0])


ROUNDS = """
## How many rounds it needs

In each round the program masks {spans} spans of waypoints around sharp turns. The model fills all of them, each in a
frame that is turned and moved by a random amount. Forward passes in a round: {passes}. The figure shows the means after
each of the {rounds} rounds; round 0 is the A\\* path as waypoints at equal distances, which already cut its corners.

![Turning and length after each round](figures/robot_path_rounds.png)
"""


def rerun(results):
    origin, model = results["origin"], results["model"]
    return f"""
## How to repeat this

    {origin['command']}

Model `{model['name']}`: {model['parameters']:,} parameters, {model['steps']:,} steps of training, NELBO (negative
evidence lower bound) {model['NELBO']:.3f} ± {model['error']:.3f} nats per waypoint. Problems of seed {results['seed']},
commit `{origin['commit']}`, {origin['machine']}, PyTorch {origin['torch']}, {origin['date'][:10]}. The file
[robot_path.json](robot_path.json) holds all numbers and the paths of the figure.
"""


# 3. Figures


def draw_examples(results, plt):
    """Figure: the maps of the first problems with three paths each."""
    figure, axes = plt.subplots(2, EXAMPLES // 2, figsize=(10, 7), layout="constrained")
    colors = dict(zip(("A*", "gradient smoother", "model"), (figures.COLORS[key] for key in ("other", "gpt", "dllm"))))
    for number, (axis, paths) in enumerate(zip(axes.flat, results["examples"])):
        grid, blocked, *_ = robot_maps.random_problem((results["seed"], number), RADIUS)
        robot_paths.draw(axis, grid.blocked, blocked, {name: np.array(path) for name, path in paths.items()}, colors)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def draw_rounds(results, plt):
    """Figure: mean turning and length after each round."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    ways = {name: figures.COLORS[key] for name, key in
            (("A*", "other"), ("gradient smoother", "gpt"), ("straight lines", "real"))}
    for axis, key, values, label in zip(axes, ("turning", "length"), zip(*results["rounds"]),
                                        ("total turning, °", "length / shortest")):
        axis.plot(values, "o-", ms=3, color=figures.COLORS["dllm"], label="model")
        for name, color in ways.items():
            axis.axhline(results["table"][name][key][0], ls=":", color=color, label=name)
        axis.set(xlabel="rounds", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0].legend()
    return figure


def write(results, folder):
    pages.publish(results, folder, "robot_path", page(results), {"examples": draw_examples, "rounds": draw_rounds})


# 4. All of it


def run(folder, problems, how, out):
    """Measure the model in `folder` on generated problems, print the table and write the page into `out`."""
    if problems < 2:
        raise cli.UserError("--evaluate needs at least 2 problems, because the errors come from their differences")
    pages.make_folder(out)  # before the work
    model, _, info = checkpoint.load(folder)
    if "NELBO" not in info:
        raise cli.UserError(f"{folder} stopped before its first evaluation: run the same training again, it resumes")
    parameters = sum(p.numel() for p in model.parameters())
    results = measure(model, problems, how=how) | {"origin": pages.origin(), "model": {
        "name": folder.resolve().name, "parameters": parameters, "steps": info["step"], "NELBO": info["NELBO"],
        "error": info["error"]}}
    print(table(results))
    write(results, out)
