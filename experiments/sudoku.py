"""How many puzzles does each order of writing solve?

    python -m experiments.sudoku             # measures the shipped model and your latest runs: an hour on one core
    python -m experiments.sudoku --render    # only writes the page and its figure again

The numbers are in docs/sudoku.json, which says of each puzzle which way solved it, and the page is docs/sudoku.md.
"""

import io
import itertools
import random
import zipfile
from collections import Counter
from dataclasses import dataclass
from importlib import import_module

from experiments import pages
from plumbing import checkpoint, cli, files, measures, sudoku

import torch

tensors = import_module("01_tensors")
diffusion = import_module("04_diffusion")
chapter = import_module("14_sudoku")

SEED = 2  # of the test puzzles; training has another one
HINTS = range(25, 36)
EACH = 28  # test puzzles for each number of hints
SHIPPED = "sudoku"
PUBLISHED = "kaidoku==1.0.1", "22f80e1740c041897b16dc7960118ec769fad0776700f28ff736665738e7186c"  # MIT license
WAYS = {  # what each way is called, and its colour in the figure
    "certain": ("most certain digit first", tensors.COLORS["dllm"]),
    "corrected": ("most certain digit first, with take-back", tensors.COLORS["real"]),
    "random": ("random order", tensors.COLORS["other"]),
    "once": ("all blanks in one pass", "tab:gray"),
    "left": ("left to right", tensors.COLORS["gpt"]),
}


@dataclass(frozen=True)
class Command(pages.Settings):
    """The flags of this program."""

    dllm: str = ""  # name or folder of a dLLM's run, in addition to the shipped one; by default your latest
    gpt: str = ""  # name or folder of a GPT's run; by default your latest


# 1. Puzzles


def needs_singles_only(cells):
    """Return whether naked and hidden singles alone solve a puzzle."""
    places = sudoku.places_of(cells)
    return sudoku.fill_singles(places) and not sudoku.smallest_choice(places, by_unit=False)


def published_puzzles(level, count=20):
    """Return the first puzzles of one level in a package that ranks them by the methods a person needs, from 1 to 9.

    UserError if pip cannot fetch the package.
    """
    with zipfile.ZipFile(io.BytesIO(files.fetch_wheel(*PUBLISHED))) as wheel:
        lines = wheel.read("kaidoku/data/sudoku.txt").decode().split("\n")
    chosen = [line for line in lines if line.startswith(f"{level} ")]
    return [sudoku.read_cells(line[2:]) for line in chosen[:count]]


# 2. Measuring


@torch.no_grad()
def solved_by(model, way, puzzles, solutions, before=None):
    """Return which puzzles (N, 81) a model solves in one of the WAYS, bools (N,). before: those of "certain".

    With take-back, these puzzles need not be solved again, because it begins with the same digits.
    """
    torch.manual_seed(SEED)
    if way == "left":
        return (chapter.read_and_write(model, puzzles) == solutions).all(1)
    if way == "corrected":
        solved = before.clone()
        for last in chapter.solve_and_correct(model, puzzles[~before]):
            solved[~before] = (last.canvas == solutions[~before]).all(1)
        return solved
    options = {"certain": {}, "random": {"select": diffusion.scattered}, "once": {"passes": 1}}[way]
    *_, last = chapter.solve(model, puzzles, **options)
    return (last.canvas == solutions).all(1)


def reasons(model, puzzles, solutions):
    """Return how a person would see the correct digits that the most certain order writes: {reason: its share}."""
    counts = Counter()
    before = puzzles
    for state in chapter.solve(model, puzzles):
        for n, i in (state.committed & (state.canvas == solutions)).nonzero().tolist():
            digit = int(state.canvas[n, i]) + 1
            counts[sudoku.reason(sudoku.to_cells(before[n]).tolist(), i, digit)] += 1
        before = state.canvas
    return {reason: count / counts.total() for reason, count in counts.items()} | {"digits": counts.total()}


@torch.no_grad()
def first_pass(model, puzzles, solutions):
    """Return the share of correct digits in the first pass: {blanks: (mean, standard error over the puzzles)}."""
    digit, confidence = diffusion.propose(model(puzzles), 0.0)
    right = (digit == solutions).double()
    blank = puzzles == chapter.BLANK
    certain = (confidence * blank).argmax(1, keepdim=True)  # (N, 1)
    first = blank.long().argmax(1, keepdim=True)  # (N, 1)
    return {"the blank that the model is most certain of": measures.mean_and_error(right.gather(1, certain)[:, 0]),
            "the first blank": measures.mean_and_error(right.gather(1, first)[:, 0]),
            "all blanks": measures.mean_and_error((right * blank).sum(1) / blank.sum(1))}


def example(model):
    """Return the worked example: its puzzle, the pass that wrote each cell, and chapter 14's text."""
    puzzle = sudoku.to_tokens(sudoku.read_cells(chapter.EXAMPLE))
    states = list(chapter.solve(model, puzzle[None]))
    order = sum(number * state.committed[0].long() for number, state in enumerate(states, 1))
    return {"puzzle": chapter.EXAMPLE, "order": order.tolist(), "text": chapter.show_order(model, puzzle)}


def about(model, info):
    """Return what the page says about a model."""
    return {"kind": "GPT" if model.config.causal else "dLLM", "parameters": sum(p.numel() for p in model.parameters()),
            "grids": info["step"] * info["train"]["batch_size"], "minutes": info["seconds"] / 60,
            **{key: info.get(key) for key in ("command", "commit", "machine", "NELBO", "NLL", "error")}}


def measure(settings):
    """Return the numbers of the page: those of the shipped model, and those of the runs that the settings name."""
    hard = {level: published_puzzles(level) for level in (6, 9)}  # first, since there may be no network
    shipped = files.RUNS / SHIPPED
    others = checkpoint.find(settings.dllm, "sudoku"), checkpoint.find(settings.gpt, "sudoku-gpt")
    draw = random.Random(SEED)
    pairs = [sudoku.make_puzzle(draw, hints) for hints in HINTS for _ in range(EACH)]
    puzzles, solutions = sudoku.to_tokens(pairs).unbind(1)  # (N, 81) each
    values = {"origin": pages.origin("sudoku", torch.device("cpu")), "seed": SEED, "budget": chapter.BUDGET,
              "hints": [81 - puzzle.count(0) for puzzle, _ in pairs],
              "singles": [needs_singles_only(puzzle) for puzzle, _ in pairs], "models": {}, "lines": []}
    for folder in dict.fromkeys((shipped, *others)):
        model, _, info = checkpoint.load(folder, kinds=("sudoku", "sudoku-gpt"))
        values["models"][folder.name] = about(model, info)
        ways = ["left"] if model.config.causal else ["certain", "random", "once"]
        if folder == shipped:
            ways.insert(1, "corrected")
        solved = None
        for way in ways:
            solved = solved_by(model, way, puzzles, solutions, before=solved)
            values["lines"].append({"model": folder.name, "way": way, "solved": solved.long().tolist()})
            print(f"{folder.name}, {WAYS[way][0]}: {solved.double().mean():.1%}", flush=True)
    model, _, _ = checkpoint.load(shipped, kinds=("sudoku",))
    values |= {"first": first_pass(model, puzzles, solutions), "example": example(model),
               "reasons": reasons(model, puzzles[::7], solutions[::7]),
               "published": {str(level): solved_of_published(model, cells) for level, cells in hard.items()}}
    return values | {"summary": summary(values)}


def solved_of_published(model, cells):
    """Return which puzzles, a list of cells, need singles only, and which ones a model solves: {name: list}."""
    puzzles = sudoku.to_tokens(cells)
    solutions = sudoku.to_tokens([next(sudoku.solutions(puzzle)) for puzzle in cells])
    certain = solved_by(model, "certain", puzzles, solutions)
    corrected = solved_by(model, "corrected", puzzles, solutions, before=certain)
    return {"singles": [needs_singles_only(puzzle) for puzzle in cells],
            "certain": certain.long().tolist(), "corrected": corrected.long().tolist()}


def summary(values):
    """Return the numbers that the page's sentences quote, some of which follow from others."""
    shares = {line["way"]: sum(line["solved"]) / len(line["solved"])
              for line in values["lines"] if line["model"] == SHIPPED}
    return shares | {"puzzles": len(values["hints"]), "package": PUBLISHED[0],
                     "harder": len(values["hints"]) - sum(values["singles"])}


# 3. The page


def percent(solved):
    """Return the mean of zeros and ones with its standard error, as text."""
    mean, error = measures.mean_and_error(torch.tensor(solved))
    return f"{mean:.1%} ± {error:.1%}"


def tables(values):
    singles = values["singles"]
    groups = {"all puzzles": [True] * len(singles), "singles only": singles,
              "more than singles": [not single for single in singles]}
    rows = []
    for line in values["lines"]:
        shares = [percent([*itertools.compress(line["solved"], chosen)]) for chosen in groups.values()]
        rows.append([line["model"], WAYS[line["way"]][0], *shares])
    columns = ["model", "order", *(f"{name} ({sum(chosen)})" for name, chosen in groups.items())]
    hard = [[level, f"{sum(row['singles'])} of {len(row['singles'])}", percent(row["certain"]),
             percent(row["corrected"])] for level, row in values["published"].items()]
    models = []
    for name, model in values["models"].items():
        measure = "NLL" if model["kind"] == "GPT" else "NELBO"
        models.append([f"`{name}`", model["kind"], f"{model['parameters']:,}", f"{model['grids']:,}",
                       f"{model['minutes']:.1f}", f"{measure} {model[measure]:.3f} ± {model['error']:.3f}",
                       f"`{model['commit']}`", model["machine"]])
    order = values["example"]["order"]
    return {
        "solved": pages.table(rows, columns),
        "models": pages.table(models, ["model", "kind", "parameters", "grids", "minutes", "nats per cell", "commit",
                                       "machine"]),
        "published": pages.table(hard, ["level", "singles only", WAYS["certain"][0], WAYS["corrected"][0]]),
        "first": pages.table([[blanks, f"{mean:.1%} ± {error:.1%}"] for blanks, (mean, error) in
                              values["first"].items()], ["proposal for", "correct"]),
        "puzzle": sudoku.picture(sudoku.read_cells(values["example"]["puzzle"])),
        "order": "\n".join(" ".join(f"{n:2}" for n in order[9 * r : 9 * r + 9]) for r in range(9)),
    }


def draw(values, folder):
    """Figure: the shares solved by number of hints."""
    figure, axes = tensors.pyplot(show=False).subplots(figsize=(7, 4.6), layout="constrained")
    hints = sorted(set(values["hints"]))
    for line in values["lines"]:
        if line["model"] != SHIPPED and line["way"] != "left":
            continue
        points = []
        for n in hints:
            chosen = itertools.compress(line["solved"], [own == n for own in values["hints"]])
            points.append(measures.mean_and_error(torch.tensor([*chosen])))
        name, color = WAYS[line["way"]]
        means, errors = 100 * torch.tensor(points).T
        axes.errorbar(hints, means, errors, marker="o", ms=4, capsize=2, color=color, label=f"{name} ({line['model']})")
    axes.set(xlabel="hints", ylabel="puzzles solved, %", ylim=(-3, 103))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    pages.save_figure(figure, folder / "sudoku_solved.png")


if __name__ == "__main__":
    cli.run(lambda: pages.run("sudoku", Command, measure, draw, tables))
