"""Chapter 14's page: how many puzzles each way of writing solves, measured here and told from the numbers alone.

    run(dllm, gpt, folder)    measure the models of two runs, and the shipped one, and write the page into `folder`
    page(results)             the page as Markdown
"""

import math
import random
from collections import Counter
from importlib import import_module

import torch

from plumbing import checkpoint, cli, devices, figures, measures, runs, sudoku
from plumbing.reports import pages

diffusion = import_module("04_diffusion")
gpt = import_module("07_train_gpt")
chapter = import_module("14_sudoku")

SEED, HINTS, EACH = 2, range(25, 36), 28  # the test puzzles: 28 for each number of hints, 308 in all
WAYS = {"surest": "surest digit first", "corrected": "surest digit first, with take-back", "random": "random order",
        "once": "all blanks in one pass", "left": "left to right"}
GROUPS = {"all": "all puzzles", "singles": "singles only", "more": "more than singles", "25": "25 to 28 hints",
          "29": "29 to 32 hints", "33": "33 to 35 hints"}
COLORS = {"surest": figures.COLORS["dllm"], "corrected": figures.COLORS["real"], "random": figures.COLORS["other"],
          "once": "tab:gray", "left": figures.COLORS["gpt"]}


# 1. Measuring


def test_puzzles(each=EACH):
    """Return (puzzles, solutions) as lists of cells; `each` puzzles for each number in HINTS, never used in training."""
    draw = random.Random(SEED)
    return zip(*(sudoku.make_puzzle(draw, hints) for hints in HINTS for _ in range(each)))


@torch.no_grad()
def solved_by(model, way, puzzles, solutions, before=None):
    """Return which puzzles (N, 81) a model solves in one of the WAYS, bools (N,). before: those of "surest".

    With take-back, the solved puzzles need not be solved again: it begins with the same digits.
    """
    torch.manual_seed(SEED)
    canvas = chapter.tokens_of(puzzles)
    if way == "left":
        cells = chapter.cells_of(gpt.generate(model, canvas, chapter.CELLS, temperature=0.0)[:, chapter.CELLS :])
        return (cells == solutions).all(1)
    if way == "corrected":
        solved = before.clone()
        if not solved.all():
            *_, last = chapter.solve_and_correct(model, canvas[~before])
            solved[~before] = (chapter.cells_of(last.canvas) == solutions[~before]).all(1)
        return solved
    options = {"surest": {}, "random": {"select": diffusion.at_random}, "once": {"passes": 1}}[way]
    *_, last = chapter.solve(model, canvas, **options)
    return (chapter.cells_of(last.canvas) == solutions).all(1)


def reasons(model, puzzles, solutions):
    """Return how a person would see the correct digits that the surest-first order writes: {reason: how many}."""
    counts, before = Counter(), puzzles
    for state in chapter.solve(model, chapter.tokens_of(puzzles)):
        after = chapter.cells_of(state.canvas)
        for n, i in state.committed.nonzero().tolist():
            if after[n, i] == solutions[n, i]:
                counts[sudoku.reason(before[n].tolist(), i, int(after[n, i]))] += 1
        before = after
    return dict(counts)


@torch.no_grad()
def first_pass(model, puzzles, solutions):
    """Return the share of correct digits in the first pass for the surest blank, the first blank and all blanks: each
    as (mean, standard error over the puzzles)."""
    canvas = chapter.tokens_of(puzzles)
    digit, sure = diffusion.propose(model(canvas), 0.0)
    right, blank = chapter.cells_of(digit) == solutions, canvas == chapter.BLANK
    surest, first = (sure * blank).argmax(1, True), blank.long().argmax(1, True)  # (N, 1)
    return {"the surest blank": measures.mean_and_error(right.gather(1, surest).double()[:, 0]),
            "the first blank": measures.mean_and_error(right.gather(1, first).double()[:, 0]),
            "all blanks": measures.mean_and_error((right & blank).double().sum(1) / blank.sum(1))}


def example(model):
    """Return the worked example: {"puzzle", "order", "confidence"}, the pass and the probability of each cell."""
    canvas = chapter.tokens_of(sudoku.read_cells(chapter.EXAMPLE))[None]
    history = list(chapter.solve(model, canvas))
    order = sum(state.step * state.committed[0].long() for state in history)
    return {"puzzle": chapter.EXAMPLE, "cells": chapter.cells_of(history[-1].canvas[0]).tolist(),
            "order": order.tolist(), "confidence": [round(c, 4) for c in history[-1].confidence[0].tolist()]}


def run(dllm, other, folder, each=EACH):
    """Measure the dLLM and the GPT of two runs, and the shipped model if there is one. Print a table, write the page.

    each: puzzles for each number of hints.
    """
    pages.make_folder(folder)
    pairs = list(test_puzzles(each))
    puzzles, solutions = torch.tensor(pairs).unbind(1)  # (N, 81) each
    results = {"origin": pages.origin(), "seed": SEED, "budget": chapter.BUDGET, "models": {}, "lines": [],
               "hints": (puzzles > 0).sum(1).tolist(), "singles": [sudoku.needs_singles_only(p) for p, _ in pairs]}
    folders = [checkpoint.SHIPPED_SUDOKU, dllm, other]
    for path in dict.fromkeys(folder for folder in folders if (folder / "model.safetensors").is_file()):
        model, _, info = checkpoint.load(path)
        config = info["train"]
        results["models"][path.name] = {
            "causal": model.config.causal, "parameters": sum(p.numel() for p in model.parameters()),
            "grids": info["step"] * config["batch_size"], "minutes": info["seconds"] / 60,
            **{key: info.get(key) for key in ("command", "commit", "machine", "NELBO", "NLL", "error")}}
        before = None
        for way in ("left",) if model.config.causal else ("surest", "corrected", "random", "once"):
            solved = solved_by(model, way, puzzles, solutions, before)
            before = solved if way == "surest" else before
            results["lines"].append({"model": path.name, "way": way, "solved": solved.long().tolist()})
            print(row_text(results, results["lines"][-1]), flush=True)
        if not results.get("first"):  # of the first dLLM: the shipped one, if it is there
            results |= {"told": path.name, "first": first_pass(model, puzzles, solutions),
                        "reasons": reasons(model, puzzles, solutions), "example": example(model)}
    write(results, folder)

def write(results, folder):
    """"""
