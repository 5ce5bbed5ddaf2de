"""Chapter 14: where does it help that a model may write in any order?

    python 14_sudoku.py                             # no GPU: trains two models in under 6 minutes, then compares them
    python 14_sudoku.py --solve 53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79
    python 14_sudoku.py --solve puzzles.txt --quiet                 # a file with one puzzle on each line
    python 14_sudoku.py --solve puzzle.txt --gif out.gif --html out.html    # watch it being solved

A Sudoku is a text of 81 characters, and its blanks are masks. So chapter 04's model, loss and sampler solve it without
any change. The model learns from every order in which the blanks can be filled. A solver can therefore ask it for the
surest digit first: at every step some blank is easy, because eight digits are excluded, and each digit that is written
makes another blank easy. A GPT must begin with the first blank, however hard it is, and it cannot correct itself.

You should see the share of puzzles solved by the surest digit first, in random order, in one pass and by the GPT.
"""

import sys
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path

import torch

from plumbing import checkpoint, cli, devices, grid_views, grids, measures, runs, sampling, settings, tokenizers
from plumbing.reports import pages
from plumbing.settings import OptionalPath, OptionalText, Switch

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
gpt = import_module("07_train_gpt")

CELLS, BLANK = grids.CELLS, 9  # tokens 0 … 8 are the digits 1 … 9; token 9 is the mask, and a blank of the puzzle
HELD_OUT = 256  # puzzles for validation
BUDGET = 30 * CELLS  # no attempt to take digits back begins after so many passes
EXAMPLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"


# 1. Puzzles


def shuffled_lines(n, device=None):
    """Return n random orders of nine rows (n, 9) that keep the rows of a band of three together."""
    bands, within = torch.rand(n, 3, device=device).argsort(1), torch.rand(n, 3, 3, device=device).argsort(2)
    return (3 * bands[:, :, None] + within).flatten(1)


def vary(puzzles, solutions):
    """Return other puzzles and solutions, (B, 81) each, by changes that keep the rules: they rename digits, exchange
    rows within a band, bands, columns and stacks, and reflect the grid."""
    n, device = len(puzzles), puzzles.device
    rows, columns = shuffled_lines(n, device), shuffled_lines(n, device)
    cell = 9 * rows[:, :, None] + columns[:, None, :]  # (B, 9, 9) which old cell comes here
    cell = torch.where(torch.rand(n, 1, 1, device=device) < 0.5, cell, cell.transpose(1, 2)).flatten(1)  # (B, 81)
    name = torch.cat((torch.rand(n, 9, device=device).argsort(1), torch.full((n, 1), BLANK, device=device)), dim=1)
    return tuple(name.gather(1, cells.gather(1, cell)) for cells in (puzzles, solutions))


# 2. Two models: positions told by row, column and box


def told(model):
    """Set the learned position vectors of `model` to sums of one random vector for each row, column and box.

    Training then begins with three facts about each cell, and it may change them. A GPT reads the puzzle and then the
    solution, so a position also gets a second sum, for the cell of the solution that it must predict.
    """
    lines = torch.tensor([grids.ROW, grids.COLUMN, grids.BOX]) + torch.tensor([[0], [9], [18]])  # (3, 81)
    T, C = model.pos_emb.weight.shape
    here, next_cell = torch.randn(2, 27, C)[:, lines].sum(1).div(3**0.5)
    vectors = here[torch.arange(T) % CELLS]
    vectors[CELLS - 1 :] += next_cell[: T - CELLS + 1] if model.config.causal else 0
    with torch.no_grad():
        model.pos_emb.weight.copy_(vectors)
    return model


def any_order(puzzles, solutions):
    """Return the Objective of the dLLM for puzzles and solutions (N, 81): chapter 04's loss, with the hints visible.

    A window of the training data is one number, that of a puzzle. NELBO: in nats per blank, given the hints.
    """

    def losses(model, numbers):  # numbers (B, 1) → the sum of the losses of each grid (B,), and its number of masks
        puzzle, x0 = vary(puzzles[numbers[:, 0]], solutions[numbers[:, 0]])
        blank, chance = puzzle == BLANK, torch.rand(x0.shape, device=x0.device)
        k = 1 + (sampling.stratified(len(x0), x0.device) * blank.sum(1)).long()  # (B,) from 1 to all blanks
        xt = torch.where(sampling.top_ranked(chance, blank, k), BLANK, x0)
        return diffusion.masked_cross_entropy(model, x0, xt, k / CELLS).sum(1), k

    def loss(model, numbers):
        total, k = losses(model, numbers)
        return total.sum() / k.sum()

    @torch.no_grad()
    def evaluate(model, numbers, draws):
        torch.manual_seed(0)  # all evaluations meet the same puzzles and masks
        total, k = losses(model, numbers.repeat(draws, 1))
        return measures.mean_and_error(total / k)

    def sample(model):
        return list(solve(model, puzzles[:1]))[-1].canvas[0]

    return training.Objective("NELBO", 1 - CELLS, loss, evaluate, sample)


def left_to_right(puzzles, solutions):
    """Return the Objective of the GPT: chapter 07's loss on the solution, which it writes after it has read the puzzle.

    NLL: in nats per cell of the solution, the hints included.
    """

    def losses(model, numbers):
        windows = torch.cat(vary(puzzles[numbers[:, 0]], solutions[numbers[:, 0]]), dim=1)  # (B, 162)
        return gpt.next_token_cross_entropy(model, windows)[:, CELLS - 1 :]  # (B, 81)

    @torch.no_grad()
    def evaluate(model, numbers, draws):
        torch.manual_seed(0)
        return measures.mean_and_error(losses(model, numbers).mean(1))

    def sample(model):
        return gpt.generate(model, puzzles[:1], CELLS, temperature=0.0)[0, CELLS:]

    return training.Objective("NLL", 2 - 2 * CELLS, lambda *batch: losses(*batch).mean(), evaluate, sample)


# 3. Training


def train(command, kind):
    """Train a model of this kind, "sudoku" or "sudoku-gpt", with chapter 05's loop. Returns (folder, whether done)."""
    device, config, causal = devices.pick_device(command.device), command.train, kind == "sudoku-gpt"
    shape = dict(vocab_size=10, seq_len=2 * CELLS - 1) if causal else dict(vocab_size=9)
    model_config = replace(command.model, **shape, causal=causal)
    tokenizer = tokenizers.CharTokenizer(grids.DIGITS + "." * causal)
    name = (command.run or Path(command.config).stem) + kind.removeprefix("sudoku")
    folder = runs.folder_of(name, kind, "sudoku", command.config)
    wanted = asdict(model_config) | asdict(config) | {"puzzles": command.puzzles}
    info = {"kind": kind, "puzzles": command.puzzles, "settings": command.config, "train": asdict(config)}
    with runs.Run(folder, wanted, config, tokenizer, info | runs.provenance(device), command.fresh) as run:
        puzzles, solutions = grids.tokens_of(grids.puzzle_file(command.puzzles, seed=1)).to(device).unbind(1)  # (N, 81)
        torch.manual_seed(config.seed)
        model = told(transformer.Transformer(model_config)).to(device)
        print(f"{'GPT' if causal else 'dLLM'}, {transformer.count_parameters(model):,} parameters, settings "
              f"{command.config!r}, {device}; {len(puzzles):,} puzzles; run {folder.name}", flush=True)
        trainer = training.Trainer(model, config, device)
        run.announce(compiled=trainer.network is not model)
        objective = (left_to_right if causal else any_order)(puzzles, solutions)
        numbers = torch.arange(len(puzzles), device=device)
        training.train(trainer, numbers[HELD_OUT:], numbers[:HELD_OUT], objective, run)
        run.report(objective.measure)
        return folder, run.finished


# 4. Solving


def solve(model, canvas, select=diffusion.by_confidence, passes=CELLS):
    """Fill the blanks of canvas (B, 81) with chapter 04's sampler, one digit per pass. Yields its States.

    At temperature 0, the proposal for a blank is its most probable digit. `select` chooses which proposal to write.
    """
    yield from diffusion.denoise(model, canvas, passes, temperature=0.0, select=select, mend=0)


class Without:
    """A model that never proposes the digits banned (B, 81, 9)."""

    def __init__(self, model, banned):
        self.model, self.config, self.banned = model, model.config, banned

    def __call__(self, tokens, t):
        return self.model(tokens, t).masked_fill(self.banned, -torch.inf)


def solve_and_correct(model, canvas, budget=BUDGET):
    """Solve canvas (B, 81), and take digits back while some contradict each other. Yields States.

    The first wrong digit is rarely one of those in conflict: later digits fit it, until none fits any more. But it was
    less sure than most. So attempt n takes back the n-th least sure digit of the first attempt and all younger ones,
    does not write that digit there again, and solves the rest as before (a limited discrepancy search, Harvey and
    Ginsberg 1995). No attempt begins after `budget` passes.
    """
    born = torch.zeros_like(canvas)  # (B, 81) the pass that wrote each cell; 0: given
    for state in solve(model, canvas):
        born = torch.where(state.committed, state.nfe, born)
        yield state
    first, device = state, canvas.device
    for doubted in first.confidence.argsort(1).T:  # (B,) the least sure cell of each grid, then the second, …
        rows, passes = grids.conflicts(grids.cells_of(state.canvas)).any(1).nonzero()[:, 0], state.nfe  # (R,)
        if not len(rows) or passes >= budget:
            return
        cell = doubted[rows, None]  # (R, 1)
        digit = first.canvas[rows].gather(1, cell)  # (R, 1)
        back = (born[rows] >= born[rows].gather(1, cell)) & (born[rows] > 0)  # (R, 81)
        here, this = (torch.arange(n, device=device) == x for n, x in ((CELLS, cell), (9, digit)))  # (R, 81), (R, 9)
        again = Without(model, here[:, :, None] & this[:, None, :])
        for part in solve(again, first.canvas[rows].masked_fill(back, BLANK)):
            sure = torch.where(back, part.confidence, first.confidence[rows])
            state = replace(state, step=passes + part.step, nfe=passes + part.nfe,
                            canvas=state.canvas.index_copy(0, rows, part.canvas),
                            confidence=state.confidence.index_copy(0, rows, sure),
                            committed=torch.zeros_like(first.committed).index_copy(0, rows, part.committed))
            yield state


# 5. Showing


def show_order(model, puzzle, rows=10):
    """Return as text the first digits that the model writes into puzzle (81,), how sure it is, and why it is right."""
    history = list(solve(model, puzzle[None]))
    first = int((puzzle == BLANK).nonzero()[0])
    lines = ["pass  cell              digit  probability  a person sees it as"]
    for before, state in zip(history[:rows], history[1:]):
        i = int(state.committed[0].nonzero())
        cells, digit = grids.cells_of(before.canvas[0]).tolist(), int(state.canvas[0, i]) + 1
        lines.append(f"{state.step:4}  {grids.cell_name(i)} {digit:6}  {float(state.confidence[0, i]):11.2%}  "
                     f"{grids.reason(cells, i, digit)}")
    turn = next(state.step for state in history if state.committed[0, first])
    early, late = (float(history[n].confidence[0, first]) for n in (1, -1))
    return "\n".join([*lines, f"A GPT must begin with the first blank, {grids.cell_name(first)}. In pass 1, this model",
                      f"gives {early:.1%} to its best digit there. It writes that cell in pass {turn}, at {late:.1%}."])


def solve_given(command):
    """Solve what --solve names, and print the solutions. Returns whether all of them are valid."""
    puzzles = grids.read_puzzles(command.solve)
    grid_views.check(command, len(puzzles))
    folder = checkpoint.find(command.run, "sudoku")
    model, *_ = checkpoint.load(folder, devices.pick_device(command.device))
    if (model.config.causal, model.config.vocab_size, model.config.seq_len) != (False, 9, CELLS):
        raise cli.UserError(f"{folder} is not a Sudoku model; python 14_sudoku.py trains one")
    failed = 0
    for part in (puzzles[i : i + 64] for i in range(0, len(puzzles), 64)):
        given = torch.tensor([cells for cells, _ in part])
        states = solve_and_correct(model, grids.tokens_of(given).to(model.head.weight.device))
        solved = grids.cells_of(grid_views.watch(states, BLANK, command).canvas)
        for (_, unique), cells, valid in zip(part, solved, grids.is_solution(solved, given).tolist()):
            failed += not valid
            verdict = "valid" if valid else f"not valid: {int(grids.conflicts(cells).sum())} digits are in conflict"
            verdict += "" if unique else "; the puzzle has several solutions"
            if len(puzzles) == 1 and not command.quiet:
                print(grids.picture(cells.tolist()))
            print("".join(map(str, cells.tolist())) + ("" if command.quiet else f"  {verdict}"))
    if not command.quiet:
        print(f"{len(puzzles) - failed} of {len(puzzles)} solved by {folder.name}")
    return not failed


# 6. The command line


@dataclass(frozen=True)
class Command:
    """The flags of this chapter."""

    config: str = "sudoku-laptop"  # the settings file: a name in configs/, or the path of a YAML file
    run: OptionalText = None  # name of the run, which is also its folder under checkpoints/
    fresh: Switch = False  # start the run again instead of resuming it
    device: str = "auto"  # auto, cpu, cuda or mps
    puzzles: settings.number(int, 2 * HELD_OUT) = 2000  # number of puzzles to train on and to validate with
    out: OptionalPath = None  # folder for the page of the report; by default report/ in the folder of the dLLM's run
    solve: OptionalText = None  # solve this puzzle, or those of a file, with your latest run or the shipped model
    quiet: Switch = False  # with --solve: print the solutions and nothing else
    gif: OptionalPath = None  # with --solve: save an animation, a path that ends in .gif
    html: OptionalPath = None  # with --solve: save a web page with a player, a path that ends in .html
    model: transformer.TransformerConfig = transformer.TransformerConfig()
    train: training.TrainConfig = training.TrainConfig()


def check_flags(command):
    """Raise UserError for flags of solving without --solve, flags of training with it, and models without sense."""
    usual = settings.parse(Command, ["--config", command.config])
    if command.solve is None and (command.quiet or command.gif or command.html):
        raise cli.UserError("--quiet, --gif and --html are flags of solving: add --solve")
    keys = ("model", "train", "puzzles", "fresh", "out")
    changed = any(getattr(command, key) != getattr(usual, key) for key in keys)
    if command.solve is not None and changed:
        raise cli.UserError("--solve uses a trained model: leave out the flags of training")
    for key, value in (("seq_len", CELLS), ("positions", "learned"), ("time_conditioned", False)):
        if getattr(command.model, key) != value:
            raise cli.UserError(f"{key} must be {value} for Sudoku: leave out --{key.replace('_', '-')}")


def main(argv=None):
    command = settings.parse(Command, argv)
    check_flags(command)
    if command.solve is not None:
        sys.exit(0 if solve_given(command) else 1)
    if command.out:
        pages.make_folder(command.out)  # before the work
    dllm, done = train(command, "sudoku")
    other, done = train(command, "sudoku-gpt") if done else (None, False)
    if not done:  # Ctrl-C: the same command resumes
        return
    report = import_module("plumbing.reports.sudoku")  # imported late, because it imports this chapter
    report.run(dllm, other, command.out or dllm / "report")
    print("\nNext: 15_robot_path.py, where the blanks are points of a path.")


if __name__ == "__main__":
    cli.run(main)
