"""How many puzzles does each order of writing solve?

    python 14_sudoku.py                      # first: train a dLLM and a GPT that see the same number of grids
    python -m experiments.sudoku             # measures these two and the shipped model: half an hour on one core
    python -m experiments.sudoku --render    # only writes the page and its figure again

The page is docs/sudoku.md. Its numbers are in docs/sudoku.json, which also says which puzzles each way has solved.
"""

import io
import itertools
import json
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

SEED = 2  # seed of the test puzzles; training uses another seed
HINTS = range(25, 36)
EACH = 28  # number of test puzzles for each number of hints
ATTEMPTS = chapter.BUDGET // sudoku.CELLS  # a GPT's attempts, with 81 passes each; take-back gets as many passes in all
AT_ONCE = 16  # puzzles in one beam search; more of them would need too much memory
# Every puzzle with fewer than 17 hints has several solutions. Gordon Royle has collected puzzles with 17 hints and a
# single solution. These are ten of his puzzles.
SEVENTEEN = (
    "000000010400000000020000000000050407008000300001090000300400200050100000000806000",
    "000000010400000000020000000000050604008000300001090000300400200050100000000807000",
    "000000012000035000000600070700000300000400800100000000000120000080000040050000600",
    "000000012003600000000007000410020000000500300700000600280000040000300500000000000",
    "000000012008030000000000040120500000000004700060000000507000300000620000000100000",
    "000000012040050000000009000070600400000100000000000050000087500601000300200000000",
    "000000012050400000000000030700600400001000000000080000920000800000510700000003000",
    "000000012300000060000040000900000500000001070020000000000350400001400800060000000",
    "000000012400090000000000050070200000600000400000108000018000000000030700502000000",
    "000000012500008000000700000600120000700000450000030000030000800000500700020000000",
)
SHIPPED = "sudoku"
PUBLISHED = "kaidoku==1.0.1", "22f80e1740c041897b16dc7960118ec769fad0776700f28ff736665738e7186c"  # MIT license
WAYS = {  # {way: (name, colour in the figure)}
    "certain": ("most certain digit first", tensors.COLORS["dllm"]),
    "corrected": ("most certain digit first, with take-back", tensors.COLORS["real"]),
    "random": ("random order", tensors.COLORS["other"]),
    "once": ("all blanks in one pass", "tab:gray"),
    "left": ("left to right", "tab:brown"),
    "retries": (f"left to right, up to {ATTEMPTS} attempts", tensors.COLORS["gpt"]),
    "beam": (f"left to right, beam search of width {ATTEMPTS}", tensors.COLORS["gpt"]),
}


@dataclass(frozen=True)
class Command(pages.Settings):
    """The flags of this program."""

    dllm: str = ""  # name or folder of a dLLM's run, in addition to the shipped model; by default your latest run
    gpt: str = ""  # name or folder of a GPT's run; by default your latest run


# 1. Puzzles


def needs_singles_only(cells):
    """Return True if naked and hidden singles alone solve a puzzle."""
    places = sudoku.places_of(cells)
    return sudoku.fill_singles(places) and not sudoku.smallest_choice(places, by_unit=False)


def published_puzzles(level, count=20):
    """Return the first `count` puzzles of one level, from a published Python package.

    The package ranks its puzzles from level 1 to level 9, by the methods that a person needs to solve them. Raises
    UserError if pip cannot fetch the package.
    """
    with zipfile.ZipFile(io.BytesIO(files.fetch_wheel(*PUBLISHED))) as wheel:
        lines = wheel.read("kaidoku/data/sudoku.txt").decode().split("\n")
    chosen = [line for line in lines if line.startswith(f"{level} ")]
    return [sudoku.read_cells(line[2:]) for line in chosen[:count]]


# 2. Measuring


@torch.no_grad()
def solved_by(model, way, puzzles, solutions, before=None):
    """Return a boolean tensor (N,): True for each row of `puzzles` (N, 81) that the model solves.

    `way` is a key of WAYS. For "corrected" (take-back), `before` is the result of "certain". Take-back
    begins like "certain", so it tries only the puzzles that "certain" has not solved.
    """
    torch.manual_seed(SEED)
    if model.config.causal:
        solve = {"left": write_grids, "retries": retry, "beam": search_beams}[way]
        return (solve(model, puzzles) == solutions).all(1)
    if way == "corrected":
        solved = before.clone()
        for last in chapter.solve_and_correct(model, puzzles[~before]):
            solved[~before] = (last.canvas == solutions[~before]).all(1)
        return solved
    options = {"certain": {}, "random": {"select": diffusion.scattered}, "once": {"passes": 1},
               "left": {"select": chapter.leftmost}}[way]
    *_, last = chapter.solve(model, puzzles, **options)
    return (last.canvas == solutions).all(1)


@torch.no_grad()
def write_grids(model, puzzles, temperature=0.0):
    """Return the grids (B, 81) that a GPT writes after it has read puzzles (B, 81). The hints stay."""
    cache = model.make_cache(len(puzzles), model.config.seq_len)
    logits = model(puzzles, cache=cache)[:, -1]  # (B, V)
    written = []
    for i in range(sudoku.CELLS):
        digit = diffusion.draw(logits[:, :9], temperature)  # (B,)
        written.append(torch.where(puzzles[:, i] == chapter.BLANK, digit, puzzles[:, i]))
        if i + 1 < sudoku.CELLS:
            logits = model(written[-1][:, None], positions=torch.tensor([sudoku.CELLS + i]), cache=cache)[:, -1]
    return torch.stack(written, 1)


def in_conflict(grids):
    """Return a boolean tensor (B,): True for each row of `grids` (B, 81) that contradicts itself.

    This check does not need the solution.
    """
    return sudoku.conflicts(sudoku.to_cells(grids)).any(1)


def retry(model, puzzles):
    """Return the grids (B, 81) that a GPT writes. If a grid contradicts itself, the GPT writes this grid again.

    The GPT has at most ATTEMPTS attempts. The first attempt takes the most likely digits; all later attempts draw their
    digits.
    """
    grids = write_grids(model, puzzles)
    for _ in range(ATTEMPTS - 1):
        wrong = in_conflict(grids)
        if not wrong.any():
            break
        grids[wrong] = write_grids(model, puzzles[wrong], temperature=1.0)
    return grids


def search_beams(model, puzzles, width=ATTEMPTS):
    """Return the solutions (B, 81) that a beam search finds for `puzzles` (B, 81).

    The search writes `width` grids at the same time. After each cell it keeps the `width` most probable continuations
    of all these grids. In the end it takes the most probable grid that does not contradict itself.
    """
    return torch.cat([search_some(model, some, width) for some in puzzles.split(AT_ONCE)])


@torch.no_grad()
def search_some(model, puzzles, width):
    B = len(puzzles)
    rows = puzzles.repeat_interleave(width, 0)  # (B width, 81)
    cache = model.make_cache(B * width, model.config.seq_len)
    logits = model(rows, cache=cache)[:, -1]  # (B width, V)
    score = torch.full((B, width), -torch.inf)
    score[:, 0] = 0  # all beams begin alike, so only the first beam counts
    grids = torch.zeros(B, width, 0, dtype=torch.long)
    for i in range(sudoku.CELLS):
        log_p = logits[:, :9].log_softmax(-1).view(B, width, 9)
        hint = puzzles[:, i, None, None]  # (B, 1, 1)
        allowed = (hint == chapter.BLANK) | (hint == torch.arange(9))  # (B, 1, 9)
        total = (score[..., None] + log_p).masked_fill(~allowed, -torch.inf).flatten(1)  # (B, 9 width)
        score, best = total.topk(width)  # (B, width) each
        parent, digit = best // 9, best % 9
        grids = torch.cat((grids.gather(1, parent[..., None].expand(-1, -1, i)), digit[..., None]), 2)
        if i + 1 < sudoku.CELLS:
            rows = (torch.arange(B)[:, None] * width + parent).flatten()  # the buffers' rows follow their beams
            for layer in cache.layers:
                layer.k, layer.v = layer.k[rows], layer.v[rows]
            logits = model(digit.view(-1, 1), positions=torch.tensor([sudoku.CELLS + i]), cache=cache)[:, -1]
    wrong = in_conflict(grids.flatten(0, 1)).view(B, width)
    chosen = torch.where(wrong, -torch.inf, score).argmax(1)  # the first grid if all grids contradict themselves
    return grids[torch.arange(B), chosen]


def reasons(model, puzzles, solutions):
    """Return how a person could have found the digits that the model writes correctly: {reason: its share}.

    The model writes its most certain digit first.
    """
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
    """Return how often the first pass proposes correct digits: {blanks: (mean, standard error over the puzzles)}."""
    digit, confidence = diffusion.propose(model(puzzles), 0.0)
    right = (digit == solutions).double()
    blank = puzzles == chapter.BLANK
    certain = (confidence * blank).argmax(1, keepdim=True)  # (N, 1)
    first = blank.long().argmax(1, keepdim=True)  # (N, 1)
    return {"the blank with the most certain digit": measures.mean_and_error(right.gather(1, certain)[:, 0]),
            "the first blank": measures.mean_and_error(right.gather(1, first)[:, 0]),
            "all blanks": measures.mean_and_error((right * blank).sum(1) / blank.sum(1))}


def example(model):
    """Return the worked example: its puzzle, the pass that wrote each cell, and what chapter 14 prints."""
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
    """Return the numbers of the page, for the shipped model and for the runs that the settings name.

    The page has a line for each pair of a model and a way of writing. If the page already has a line for
    the same training, this line is not measured again. Each new line is saved at once.
    """
    known = known_lines(settings.out)
    hard = {f"level {level}": published_puzzles(level) for level in (6, 9)}  # first, because there may be no network
    hard["17 hints"] = [sudoku.read_cells(puzzle) for puzzle in SEVENTEEN]
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
        ways = ["certain", "left"]
        if model.config.causal:
            ways = ["left", "retries", "beam"]
        if folder == shipped:
            ways = ["certain", "corrected", "left", "random", "once"]
        solved = None
        for way in ways:
            line = known.get((folder.name, info["commit"], way))
            if line is None:
                solved = solved_by(model, way, puzzles, solutions, before=solved)
                line = {"model": folder.name, "way": way, "solved": solved.long().tolist(), "commit": files.commit()}
            solved = torch.tensor(line["solved"]) == 1
            values["lines"].append(line)
            pages.measured("sudoku", values, settings.out)
            print(f"{folder.name}, {WAYS[way][0]}: {solved.double().mean():.1%}", flush=True)
    model, _, _ = checkpoint.load(shipped, kinds=("sudoku",))
    values |= {"first": first_pass(model, puzzles, solutions), "example": example(model),
               "reasons": reasons(model, puzzles[::7], solutions[::7]),
               "published": {name: solved_of_published(model, cells) for name, cells in hard.items()}}
    return values | {"summary": summary(values)}


def known_lines(folder):
    """Return the lines of the page in `folder`: {(model, commit of its training, way): line}."""
    if not (folder / "sudoku.json").is_file():
        return {}
    values = pages.read("sudoku", folder)
    found = {}
    for line in values["lines"]:
        found[line["model"], values["models"][line["model"]]["commit"], line["way"]] = (
            {"commit": values["origin"]["commit"]} | line)
    return found


def solved_of_published(model, cells):
    """For each puzzle, return whether it needs singles only, and whether the model solves it: {name: list}."""
    puzzles = sudoku.to_tokens(cells)
    solutions = sudoku.to_tokens([next(sudoku.solutions(puzzle)) for puzzle in cells])
    certain = solved_by(model, "certain", puzzles, solutions)
    corrected = solved_by(model, "corrected", puzzles, solutions, before=certain)
    return {"singles": [needs_singles_only(puzzle) for puzzle in cells],
            "certain": certain.long().tolist(), "corrected": corrected.long().tolist()}


def summary(values):
    """Return the numbers that the sentences of the page quote."""
    shares = {line["way"]: sum(line["solved"]) / len(line["solved"])
              for line in values["lines"] if line["model"] == SHIPPED}
    return shares | {"puzzles": len(values["hints"]), "package": PUBLISHED[0],
                     "harder": len(values["hints"]) - sum(values["singles"])}


# 3. The page


def percent(solved):
    """Return a string: the share of ones in `solved`, and the standard error of this share."""
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
    hard = [[name, f"{sum(row['singles'])} of {len(row['singles'])}", percent(row["certain"]),
             percent(row["corrected"])] for name, row in values["published"].items()]
    models = []
    again = json.loads(files.read_text(pages.AGAIN))
    for name, model in values["models"].items():
        model = model | again.get(name, {})
        measure = "NLL" if model["kind"] == "GPT" else "NELBO"
        models.append([f"`{name}`", model["kind"], f"{model['parameters']:,}", f"{model['grids']:,}",
                       f"{measure} {model[measure]:.3f} ± {model['error']:.3f}", f"`{model['commit']}`"])
    order = values["example"]["order"]
    shares = {(line["model"], line["way"]): sum(line["solved"]) / len(line["solved"]) for line in values["lines"]}
    of_pair = {way: share for (name, way), share in shares.items()
               if name != SHIPPED and values["models"][name]["kind"] == "dLLM"}
    of_gpt = [share for (name, _), share in shares.items() if values["models"][name]["kind"] == "GPT"]
    return {
        "share_certain": f"{shares[SHIPPED, 'certain']:.0%}", "share_corrected": f"{shares[SHIPPED, 'corrected']:.0%}",
        "pair_certain": f"{of_pair['certain']:.0%}", "pair_left": f"{of_pair['left']:.0%}",
        "share_gpt": f"{of_gpt[0]:.0%}", "share_gpt_best": f"{max(of_gpt):.0%}",
        "solved": pages.table(rows, columns),
        "models": pages.table(models, ["model", "kind", "parameters", "grids", "nats per cell", "commit"]),
        "published": pages.table(hard, ["puzzles", "singles only", WAYS["certain"][0], WAYS["corrected"][0]]),
        "first": pages.table([[blanks, f"{mean:.1%} ± {error:.1%}"] for blanks, (mean, error) in
                              values["first"].items()], ["proposal for", "correct"]),
        "puzzle": sudoku.picture(sudoku.read_cells(values["example"]["puzzle"])),
        "order": "\n".join(" ".join(f"{n:2}" for n in order[9 * r : 9 * r + 9]) for r in range(9)),
    }


def draw(values, folder):
    """Save the figure: the share of puzzles solved, by number of hints."""
    figure, axes = tensors.pyplot(show=False).subplots(figsize=(7, 4.6), layout="constrained")
    hints = sorted(set(values["hints"]))
    for line in values["lines"]:
        if line["model"] != SHIPPED and line["way"] != "beam":  # beam: the best method from left to right
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
