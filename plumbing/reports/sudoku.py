"""Chapter 14's page: how many puzzles each way of writing solves, measured here and told from the numbers alone.

    run(dllm, gpt, folder)    measure the models of two runs, and the shipped one, and write the page into `folder`
    page(results)             the page as Markdown
"""

import math
import random
from collections import Counter
from importlib import import_module

import torch

from plumbing import checkpoint, cli, grids, measures
from plumbing.reports import pages, sudoku_figures

diffusion = import_module("04_diffusion")
gpt = import_module("07_train_gpt")
chapter = import_module("14_sudoku")

SEED, HINTS, EACH = 2, range(25, 36), 28  # the test puzzles: 28 for each number of hints, 308 in all
WAYS = sudoku_figures.WAYS
GROUPS = {"all": "all puzzles", "singles": "singles only", "more": "more than singles", "25": "25 to 28 hints",
          "29": "29 to 32 hints", "33": "33 to 35 hints"}


# 1. Measuring


def make_test():
    """Return a list of (puzzle, solution), EACH for each number in HINTS. Training has another seed."""
    draw = random.Random(SEED)
    return [grids.make_puzzle(draw, hints) for hints in HINTS for _ in range(EACH)]


@torch.no_grad()
def solved_by(model, way, puzzles, solutions, before=None):
    """Return which puzzles (N, 81) a model solves in one of the WAYS, bools (N,). before: those of "surest".

    With take-back, the solved puzzles need not be solved again: it begins with the same digits.
    """
    torch.manual_seed(SEED)
    canvas = grids.tokens_of(puzzles)
    if way == "left":
        cells = grids.cells_of(gpt.generate(model, canvas, chapter.CELLS, temperature=0.0)[:, chapter.CELLS :])
        return (cells == solutions).all(1)
    if way == "corrected":
        solved = before.clone()
        if not solved.all():
            *_, last = chapter.solve_and_correct(model, canvas[~before])
            solved[~before] = (grids.cells_of(last.canvas) == solutions[~before]).all(1)
        return solved
    options = {"surest": {}, "random": {"select": diffusion.scattered}, "once": {"passes": 1}}[way]
    *_, last = chapter.solve(model, canvas, **options)
    return (grids.cells_of(last.canvas) == solutions).all(1)


def reasons(model, puzzles, solutions):
    """Return how a person would see the correct digits that the surest-first order writes: {reason: how many}."""
    counts, before = Counter(), puzzles
    for state in chapter.solve(model, grids.tokens_of(puzzles)):
        after = grids.cells_of(state.canvas)
        for n, i in state.committed.nonzero().tolist():
            if after[n, i] == solutions[n, i]:
                counts[grids.reason(before[n].tolist(), i, int(after[n, i]))] += 1
        before = after
    return dict(counts)


@torch.no_grad()
def first_pass(model, puzzles, solutions):
    """Return the share of correct digits in the first pass for the surest blank, the first blank and all blanks: each
    as (mean, standard error over the puzzles)."""
    canvas = grids.tokens_of(puzzles)
    digit, sure = diffusion.propose(model(canvas), 0.0)
    right, blank = grids.cells_of(digit) == solutions, canvas == chapter.BLANK
    surest, first = (sure * blank).argmax(1, True), blank.long().argmax(1, True)  # (N, 1)
    return {"the surest blank": measures.mean_and_error(right.gather(1, surest).double()[:, 0]),
            "the first blank": measures.mean_and_error(right.gather(1, first).double()[:, 0]),
            "all blanks": measures.mean_and_error((right & blank).double().sum(1) / blank.sum(1))}


def example(model):
    """Return the worked example: its puzzle and solution, the pass that wrote each cell, and chapter 14's text."""
    puzzle = grids.tokens_of(grids.read_cells(chapter.EXAMPLE))
    history = list(chapter.solve(model, puzzle[None]))
    order = sum(state.step * state.committed[0].long() for state in history)
    return {"puzzle": chapter.EXAMPLE, "cells": grids.cells_of(history[-1].canvas[0]).tolist(),
            "order": order.tolist(), "text": chapter.show_order(model, puzzle)}


def solved_of_published(model):
    """Return {level: {"surest": solved, "corrected": solved, "singles": list}}; {} if there is no network."""
    found, levels = {}, {}
    try:
        levels = grids.published()
    except cli.UserError as error:
        print(f"  without published puzzles: {error}")
    for level, puzzles in levels.items():
        cells, solutions = torch.tensor(puzzles), torch.tensor([next(grids.solutions(p)) for p in puzzles])
        surest = solved_by(model, "surest", cells, solutions)
        found[str(level)] = {"surest": surest.long().tolist(), "corrected": solved_by(
            model, "corrected", cells, solutions, surest).long().tolist(),
            "singles": [grids.needs_singles_only(p) for p in puzzles]}
    return found


def run(dllm, other, folder):
    """Measure the dLLM and the GPT of two runs, and the shipped model if there is one. Print all, write the page."""
    pages.make_folder(folder)
    pairs = make_test()
    puzzles, solutions = torch.tensor(pairs).unbind(1)  # (N, 81) each
    results = {"origin": pages.origin(), "seed": SEED, "budget": chapter.BUDGET, "models": {}, "lines": [],
               "hints": (puzzles > 0).sum(1).tolist(), "singles": [grids.needs_singles_only(p) for p, _ in pairs]}
    folders = [checkpoint.SHIPPED_SUDOKU, dllm, other]
    for path in dict.fromkeys(folder for folder in folders if (folder / "model.safetensors").is_file()):
        model, _, info = checkpoint.load(path)
        config = info["train"]
        results["models"][path.name] = {
            "causal": model.config.causal, "parameters": sum(p.numel() for p in model.parameters()),
            "grids": info["step"] * config["batch_size"], "minutes": info["seconds"] / 60,
            **{key: info.get(key) for key in ("command", "commit", "machine", "NELBO", "NLL", "error")}}
        before = None
        ways = ("left",) if model.config.causal else ("surest", "random", "once")
        for way in ways if "told" in results else ("surest", "corrected", *ways[1:]):  # take-back takes minutes
            solved = solved_by(model, way, puzzles, solutions, before)
            before = solved if way == "surest" else before
            results["lines"].append({"model": path.name, "way": way, "solved": solved.long().tolist()})
            print(row_text(results, results["lines"][-1]), flush=True)
        if "told" not in results:  # the first model: the shipped one, if it is there
            results |= {"told": path.name, "first": first_pass(model, puzzles, solutions),
                        "reasons": reasons(model, puzzles[::7], solutions[::7]), "example": example(model),
                        "published": solved_of_published(model)}
    cli.heading(f"A worked example: {results['told']} writes the surest digit first")
    print(f"{grids.picture(grids.read_cells(chapter.EXAMPLE))}\n\n{results['example']['text']}")
    write(results, folder)


# 2. Reading the results


def share(results, line, group):
    """Return (mean, standard error) of the solved puzzles of a line of results, in one of the GROUPS."""
    chosen = [solved for solved, hints, singles in zip(line["solved"], results["hints"], results["singles"])
              if group == "all" or (group == "singles" and singles) or (group == "more" and not singles)
              or group.isdigit() and int(group) <= hints < int(group) + 4]
    return measures.mean_and_error(torch.tensor(chosen)) if len(chosen) > 1 else (math.nan, math.nan)


def row_text(results, line):
    """Return a line of results as text for the terminal."""
    shares = [share(results, line, group) for group in ("all", "singles", "more")]
    return f"  {line['model']:18} {WAYS[line['way']]:35}" + "".join(f" {m:7.1%} ± {e:5.1%}" for m, e in shares)


# 3. The page


def percent(mean, error):
    return "" if math.isnan(mean) else f"{mean:.1%} ± {error:.1%}"


def page(results):
    """The page as Markdown."""
    sections = INTRODUCTION, table(results), hard(results), why(results), worked(results), rerun(results)
    return pages.wrap("\n\n".join(part.strip() for part in sections if part)) + "\n"


INTRODUCTION = """
# Sudoku, where any order wins

A Sudoku is a text of 81 characters, and its blanks are masks. Chapter 04's model, loss and sampler solve it unchanged:
14_sudoku.py adds only the puzzles, and position vectors that begin as sums of vectors for row, column and box. This
page compares orders of writing. A GPT of the same size, where one was trained, reads the puzzle and then writes the 81
digits of the solution from left to right. All models always write the most probable digit.

- *Surest digit first*: each pass writes one digit, the one with the highest probability.
- *Take-back*: if digits contradict each other at the end, the sampler takes back the least sure digit and all younger
  ones, and fills the blanks again, without this digit in this cell. If there is still a conflict, it does the same with
  the second least sure digit of the first attempt, and so on.
- *Random order*: each pass writes one digit, in a random blank.
- *All blanks in one pass*: no digit sees any other new digit.
- *Singles only*: a person can solve the puzzle without guessing, by blanks for which only one digit is left (naked
  singles) and digits for which only one blank of a row, column or box is left (hidden singles).

![A puzzle is being solved](figures/sudoku.gif)
"""


def table(results):
    rows = []
    for line in results["lines"]:
        rows.append((line["model"], WAYS[line["way"]], *(percent(*share(results, line, group)) for group in GROUPS)))
    counts = [sum(int(group) <= hints < int(group) + 4 for hints in results["hints"]) for group in ("25", "29", "33")]
    singles, total = sum(results["singles"]), len(results["singles"])
    sizes = (total, singles, total - singles, *counts)
    heads = [f"{name} ({size})" for name, size in zip(GROUPS.values(), sizes)]
    trained = "\n".join(
        f"- `{name}`: {'GPT' if model['causal'] else 'dLLM'} of {model['parameters']:,} parameters, trained on "
        f"{model['grids']:,} grids in {model['minutes']:.1f} minutes; its "
        + (f"NLL is {model['NLL']:.3f} ± {model['error']:.3f} nats per cell of the solution"
           if model["causal"] else f"NELBO is {model['NELBO']:.3f} ± {model['error']:.3f} nats per blank")
        + f", on other puzzles. `{model['command']}`, commit `{model['commit']}`, {model['machine']}."
        for name, model in results["models"].items())
    return f"""
## Puzzles solved

The {total} test puzzles were generated with another seed than those of training. An exact solver made sure that each
has one solution, and a puzzle counts as solved if all 81 digits are right. The number after ± is the standard error
over the puzzles. It is 0 where all puzzles or none were solved; the true share may then still differ from 100 % or 0 %
by about 3 divided by the number of puzzles, which the head of the column names.

{pages.table(["model", "order", *heads], rows)}

![Puzzles solved by number of hints, and the order of the worked example](figures/sudoku_solved.png)

{trained}
"""


def hard(results):
    rows = [(level, f"{sum(line['singles'])} of {len(line['singles'])}", *(
        percent(*measures.mean_and_error(torch.tensor(line[way]).double())) for way in ("surest", "corrected")))
        for level, line in results["published"].items()]
    if not rows:
        return ""
    return f"""
## Published puzzles

The package {grids.PUBLISHED[0]} ranks its puzzles by the methods that a person needs, from 1 to 9. These are the
first 20 of two levels, solved by `{results['told']}`. No such puzzle was used in training.

{pages.table(["level", "singles only", WAYS["surest"], WAYS["corrected"]], rows)}
"""


def why(results):
    first, seen = results["first"], results["reasons"]
    total = sum(seen.values())
    parts = ", ".join(f"{seen.get(kind, 0) / total:.1%} {name}" for kind, name in (
        ("naked single", "were naked singles"), ("hidden single", "hidden singles"), ("more", "neither")))
    rows = [(name, percent(*value)) for name, value in first.items()]
    before, after = (share(results, line, "all")[0] for line in results["lines"][:2])  # of the first model
    return f"""
## Why the order decides

In the first pass, `{results['told']}` proposes a digit for every blank. They are not equally good:

{pages.table(["proposal of the first pass", "correct"], rows)}

A GPT must write the first blank first. A model that has learned every order can be asked for the surest blank, and each
digit that it writes makes other blanks easier. No rule was ever told to it, but of the {total:,} correct digits that
it wrote into every seventh puzzle, a person would see most as singles at that moment: {parts}. Its confidence
finds the easy question.

Take-back raises the share of solved puzzles from {before:.1%} to {after:.1%}; after {results['budget']} passes nothing
more is taken back. It does not need the solution, because a reader can see that digits contradict each other.
"""


def worked(results):
    shown = results["example"]
    order = "\n".join(" ".join(f"{n:2}" for n in shown["order"][9 * r : 9 * r + 9]) for r in range(9))
    return f"""
## A worked example

These are the first digits that `{results['told']}` writes into a published puzzle. The figure shows all of them.

{pages.quote(shown["text"])}

The puzzle, and the pass that wrote each digit (0: a hint):

{pages.quote(grids.picture(grids.read_cells(shown["puzzle"])))}

{pages.quote(order)}
"""


def rerun(results):
    origin = results["origin"]
    return f"""
## How to repeat this

    {origin['command']}

Seed {results['seed']} of the test puzzles, commit `{origin['commit']}`, {origin['machine']}, PyTorch
{origin['torch']}, {origin['date'][:10]}. The file [sudoku.json](sudoku.json) says for each puzzle which way solved it.
The picture at the top is `python 14_sudoku.py --solve {results['example']['puzzle']} --gif docs/figures/sudoku.gif`.
"""


def write(results, folder):
    pages.publish(results, folder, "sudoku", page(results), {"solved": sudoku_figures.draw_solved})
