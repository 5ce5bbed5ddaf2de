"""Chapter 14: when does it help that a model can write in any order?

    python 14_sudoku.py             # without a GPU: trains two models in ten minutes on two cores, and compares them
    python 14_sudoku.py solve 53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79
    python 14_sudoku.py solve puzzles.txt --quiet                 # a file with one puzzle on each line
    python 14_sudoku.py solve --gif out.gif --html out.html       # watch the puzzle above being solved

A Sudoku is a text of 81 characters, in which the blanks are masks. So we can use chapter 04's loss and sampler, with
one change: in training, the given digits are never masked. The model begins with position vectors that say which cells
share a row, a column or a box. It must learn the rules of Sudoku from solved puzzles.

The dLLM learns to fill the blanks in any order. So in each pass, it can write the digit of which it is most certain.
Usually there is an easy blank, for example one whose row, column and box exclude eight of the nine digits. Each new
digit makes other blanks easier. A GPT must begin with the first blank, even if that blank is hard, and it cannot
correct a digit.

You should see how many new puzzles the dLLM solves in four ways: the most certain digit first; from left to right; in a
random order; all digits in one pass. The last line of the table is for the GPT. The worked example below the table
shows why the order matters.
"""

import random
import sys
import time
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path

from plumbing import checkpoint, cli, devices, measures, sudoku, text

import torch
from tqdm import tqdm
from tyro.conf import Positional

tensors = import_module("01_tensors")
transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
generation = import_module("06_generate")
gpt = import_module("07_train_gpt")

CELLS = sudoku.CELLS
BLANK = 9  # tokens 0 … 8 are the digits 1 … 9; token 9 is a blank, and the dLLM's mask
HELD_OUT = 256  # number of puzzles for the evaluations
EXAMPLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"


# 1. Puzzles


def shuffled_lines(n, device=None):
    """Return n random orders of nine rows: (n, 9). Rows 0 to 2, rows 3 to 5 and rows 6 to 8 stay together."""
    bands = torch.rand(n, 3, device=device).argsort(1)  # (n, 3)
    within = torch.rand(n, 3, 3, device=device).argsort(2)  # (n, 3, 3)
    return (3 * bands[:, :, None] + within).flatten(1)


def vary(puzzles, solutions):
    """Turn puzzles and their solutions into other valid puzzles and solutions: (B, 81) each.

    The digits are renamed. The rows change places within each band of three rows, and the bands change places, too. The
    same is done with the columns. Half of the grids are also reflected. One puzzle can become about a trillion
    different puzzles.
    """
    n, device = len(puzzles), puzzles.device
    rows = shuffled_lines(n, device)
    columns = shuffled_lines(n, device)
    cell = 9 * rows[:, :, None] + columns[:, None, :]  # (B, 9, 9) the number of the cell that moves here
    stays = torch.rand(n, 1, 1, device=device) < 0.5
    cell = torch.where(stays, cell, cell.transpose(1, 2)).flatten(1)  # (B, 81) half of the grids are reflected
    digits = torch.rand(n, 9, device=device).argsort(1)
    blank = torch.full((n, 1), BLANK, device=device)
    name = torch.cat((digits, blank), dim=1)  # (B, 10) the new name of each digit; a blank stays a blank
    return name.gather(1, puzzles.gather(1, cell)), name.gather(1, solutions.gather(1, cell))


# 2. Two tasks: fill the blanks in any order, or write the solution from left to right


class Puzzles:
    """What the two tasks of this section have in common.

    `puzzles` and `solutions` are (N, 81). The first HELD_OUT puzzles are for the evaluations. `windows` lists the
    numbers of these puzzles. A batch consists of puzzles (B, 81) and their solutions (B, 81).
    """

    def __init__(self, puzzles, solutions, tokenizer):
        self.puzzles, self.solutions, self.tokenizer = puzzles, solutions, tokenizer
        self.windows = torch.arange(HELD_OUT, device=puzzles.device)

    def batch(self, n):
        numbers = torch.randint(HELD_OUT, len(self.puzzles), (n,), device=self.puzzles.device)
        return vary(self.puzzles[numbers], self.solutions[numbers])

    def loss(self, model, batch):
        total, count = self.losses(model, *batch)
        return total.sum() / count.sum()

    @torch.no_grad()
    def evaluate(self, model, numbers):
        """Return the NELBO or NLL of held-out puzzles: (mean, standard error), in nats per predicted cell."""
        with diffusion.same_numbers(0, numbers.device):  # all evaluations use the same puzzles and masks
            total, count = self.losses(model, *vary(self.puzzles[numbers], self.solutions[numbers]))
        return measures.mean_and_error(total / count)


class AnyOrder(Puzzles):
    """The task of the dLLM: chapter 04's loss, but only blanks are masked. The NELBO is in nats per blank."""

    measure = "NELBO"

    def losses(self, model, puzzles, solutions):
        """Mask some blanks of each puzzle (B, 81), and fill in the other blanks.

        Returns, for each puzzle, the summed loss of its masked blanks (B,), and their number (B,).
        """
        blank = puzzles == BLANK
        chance = torch.rand(solutions.shape, device=solutions.device)
        k = diffusion.spread_evenly(len(solutions), blank.sum(1), solutions.device)  # (B,) from 1 to all blanks
        xt = torch.where(diffusion.highest(chance, blank, k), BLANK, solutions)
        return diffusion.hidden_losses(model, solutions, xt, k / CELLS).sum(1), k

    def sample(self, model):
        *_, last = solve(model, self.puzzles[:1])
        return sudoku.picture(sudoku.to_cells(last.canvas[0]).tolist())


class LeftToRight(Puzzles):
    """The task of the GPT: read a puzzle, then write its solution. The NLL is in nats per cell of the solution."""

    measure = "NLL"

    def losses(self, model, puzzles, solutions):
        windows = torch.cat((puzzles, solutions), dim=1)  # (B, 162)
        losses = gpt.next_token_losses(model, windows)[:, CELLS - 1 :]  # (B, 81) for the cells of the solution
        return losses.sum(1), torch.full((len(losses),), CELLS, device=losses.device)

    def sample(self, model):
        return sudoku.picture(sudoku.to_cells(read_and_write(model, self.puzzles[:1])[0]).tolist())


def read_and_write(model, puzzles):
    """Return the solutions (B, 81) that a GPT writes for puzzles (B, 81). It always writes the most likely digit."""
    return gpt.write(model, puzzles, CELLS, temperature=0.0)[:, CELLS:]


def with_cell_positions(config):
    """Return a Transformer whose position vectors begin as sums of random vectors for row, column and box.

    So even before training, a position vector says to which row, column and box its cell belongs. Training changes
    these vectors like all other weights. A GPT reads a puzzle and then its solution. Where it predicts a cell of the
    solution, the position vector also contains a second sum, for the predicted cell.
    """
    model = transformer.Transformer(config)
    T, C = model.pos_emb.weight.shape
    lines = torch.tensor([sudoku.ROW, sudoku.COLUMN, sudoku.BOX]) + torch.tensor([[0], [9], [18]])  # (3, 81)
    sums = torch.randn(2, 27, C)[:, lines].sum(1) / 3**0.5  # (2, 81, C)
    vectors = sums[0, torch.arange(T) % CELLS]
    if config.causal:
        vectors[CELLS - 1 :] += sums[1, : T - CELLS + 1]
    with torch.no_grad():
        model.pos_emb.weight.copy_(vectors)
    return model


# 3. Solving


def solve(model, canvas, select=diffusion.by_confidence, passes=CELLS):
    """Fill the blanks of canvas (B, 81) with chapter 04's sampler, by default one blank per pass. Yields States.

    The temperature is 0, so the proposal for a blank is always the most probable digit. `select` chooses the proposals
    that are written. By default, these are the proposals of which the model is most certain.
    """
    return diffusion.unmask(model, canvas, passes, temperature=0.0, select=select)


def leftmost(logits, confidence, masked, count):
    """Write the first blanks, as a GPT must. This is a selection rule, as in chapter 04."""
    place = torch.arange(masked.shape[1], device=masked.device)
    return diffusion.highest(-place.float().expand(masked.shape), masked, count)


class WithoutDigits:
    """A model that never proposes forbidden digits. `banned` (B, 81, 9) is True where a digit is forbidden."""

    def __init__(self, model, banned):
        self.model, self.config, self.banned = model, model.config, banned

    def __call__(self, tokens, t):
        return self.model(tokens, t).masked_fill(self.banned, -torch.inf)


BUDGET = 30 * CELLS  # no attempt begins after this number of passes


def solve_and_correct(model, canvas, budget=BUDGET):
    """Solve the grids of canvas (B, 81). If digits of a grid are in conflict, try that grid again. Yields States.

    The first wrong digit is often not one of the digits in conflict, because later digits were chosen to fit it. But
    the model was usually less certain of the first wrong digit than of most other digits. So the second attempt takes
    back the least certain digit of the first attempt, and all digits that were written after it. Then it forbids the
    least certain digit in its cell, and fills the blanks again. The third attempt does the same with the second least
    certain digit, and so on. (This is a limited discrepancy search with one discrepancy, Harvey and Ginsberg 1995.)
    """
    turn = torch.zeros_like(canvas)  # (B, 81) the number of the pass that wrote each cell; 0 for a given digit
    passes = 0
    state = diffusion.State(canvas, torch.ones(canvas.shape, device=canvas.device), canvas == BLANK)
    for state in solve(model, canvas):
        passes += 1
        turn[state.committed] = passes
        yield state
    if not passes:  # there was no blank
        yield state
    first = state
    doubtful = first.confidence.argsort(1)  # (B, 81) the cells of each grid, the least certain first
    for n in range(int((turn > 0).sum(1).max())):
        rows = sudoku.conflicts(sudoku.to_cells(state.canvas)).any(1).nonzero()[:, 0]  # (R,) grids with conflicts
        if not len(rows) or passes >= budget:
            return
        for part in take_back(model, first, turn, rows, doubtful[rows, n, None]):
            passes += 1
            committed = torch.zeros_like(first.committed).index_copy(0, rows, part.committed)
            state = diffusion.State(state.canvas.index_copy(0, rows, part.canvas),
                                    state.confidence.index_copy(0, rows, part.confidence), committed)
            yield state


def take_back(model, first, turn, rows, cell):
    """Take back digits of some grids, and solve these grids again. Yields States.

    `first` is the State after the first attempt, and `rows` (R,) has the numbers of the grids. `cell` (R, 1) has one
    cell of each grid. This cell is masked, and so are all cells that were written later. The old digit of the cell is
    forbidden there. `turn` (B, 81) says which pass wrote each cell.
    """
    digit = first.canvas[rows].gather(1, cell)  # (R, 1)
    turn = turn[rows]
    masked = (turn >= turn.gather(1, cell)) & (turn > 0)  # (R, 81)
    banned = torch.zeros(len(rows), CELLS, 9, dtype=torch.bool, device=rows.device)
    banned[torch.arange(len(rows), device=rows.device), cell[:, 0], digit[:, 0]] = True
    for state in solve(WithoutDigits(model, banned), first.canvas[rows].masked_fill(masked, BLANK)):
        confidence = torch.where(masked, state.confidence, first.confidence[rows])
        yield replace(state, confidence=confidence)


# 4. The demonstration


def compare(dllm, other):
    """Print how many of 33 new puzzles each way of writing solves. `dllm` and `other` are the models' folders."""
    draw = random.Random(2)
    pairs = [sudoku.make_puzzle(draw, hints) for hints in range(25, 36) for _ in range(3)]
    puzzles, solutions = sudoku.to_tokens(pairs).unbind(1)  # (N, 81) each
    model, _, _ = checkpoint.load(dllm, kinds=("sudoku",))
    causal, _, _ = checkpoint.load(other, kinds=("sudoku-gpt",))
    torch.manual_seed(1)
    tensors.heading(f"How many of {len(pairs)} new puzzles, with 25 to 35 hints, are solved")
    for name, options in (("the most certain digit first", {}), ("from left to right", {"select": leftmost}),
                          ("in a random order", {"select": diffusion.scattered}),
                          ("all blanks in one pass", {"passes": 1})):
        *_, last = solve(model, puzzles, **options)
        print(f"   {name:32} {(last.canvas == solutions).all(1).sum():3}", flush=True)
    solved = (read_and_write(causal, puzzles) == solutions).all(1).sum()
    print(f"   {'from left to right, by the GPT':32} {solved:3}   (docs/sudoku.md gives it more attempts)")
    tensors.heading("A worked example: the most certain digit first")
    print(sudoku.picture(sudoku.read_cells(EXAMPLE)) + "\n")
    print(show_order(model, sudoku.to_tokens(sudoku.read_cells(EXAMPLE))))


def show_order(model, puzzle, rows=10):
    """Return a table of the first digits that the model writes into puzzle (81,).

    For each digit, the table says how certain the model is, and how a person would find the digit.
    """
    states = list(solve(model, puzzle[None]))
    lines = ["pass  cell              digit  probability  a person sees it as"]
    before = puzzle
    for number, state in enumerate(states[:rows], 1):
        i = int(state.committed[0].nonzero())
        digit = int(state.canvas[0, i]) + 1
        reason = sudoku.reason(sudoku.to_cells(before).tolist(), i, digit)
        lines.append(f"{number:4}  {sudoku.cell_name(i)} {digit:6}  {state.confidence[0, i]:11.2%}  {reason}")
        before = state.canvas[0]
    first = int((puzzle == BLANK).nonzero()[0])
    turn = next(number for number, state in enumerate(states, 1) if state.committed[0, first])
    early, late = states[0].confidence[0, first], states[-1].confidence[0, first]
    lines.append(f"A GPT must begin with the first blank, {sudoku.cell_name(first)}. In pass 1, this model\n"
                 f"gives {early:.1%} to its best digit there. It writes that cell in pass {turn}, at {late:.1%}.")
    return "\n".join(lines)


# 5. The command line


@dataclass(frozen=True)
class Train:
    """The flags of training."""

    config: str = "laptop"  # a settings file: a name in configs/sudoku/, or the path of a YAML file
    run: str = ""  # name of the dLLM's run, which is also its folder under checkpoints/; "-gpt" is added for the GPT
    fresh: bool = False  # start both runs again instead of resuming them
    device: str = "auto"  # auto, cpu, cuda or mps
    puzzles: int = 2000  # number of puzzles, of which 256 are for the evaluations
    model: transformer.Shape = transformer.Shape(seq_len=CELLS, positions="learned")
    train: training.TrainConfig = training.TrainConfig()

    def __post_init__(self):
        if not 2 * HELD_OUT <= self.puzzles <= 10**6:
            raise ValueError(f"puzzles must be from {2 * HELD_OUT} to 1000000")
        if self.model.seq_len != CELLS or self.model.positions != "learned" or self.model.time_conditioned:
            raise ValueError("a Sudoku model needs seq_len 81, positions learned, and no time_conditioned")


@dataclass(frozen=True)
class Solve:
    """The flags of solving."""

    puzzle: Positional[str] = EXAMPLE  # 81 characters, or a file with one puzzle on each line; blanks are . or 0 or _
    checkpoint: str = ""  # name or folder of a run; by default your latest dLLM for Sudoku, or the shipped one
    device: str = "auto"  # auto, cpu, cuda or mps
    seconds: float = 60.0  # after this time, unfinished grids are printed; in a file, every 64 puzzles get this time
    quiet: bool = False  # print only the solutions
    gif: Path | None = None  # save an animation: a path that ends in .gif
    html: Path | None = None  # save a web page with a player: a path that ends in .html

    def __post_init__(self):
        if not 0 <= self.seconds <= 1e6:
            raise ValueError("seconds must be from 0 to 1000000")


def within(states, seconds):
    """Yield States until `seconds` seconds have passed. Always yield at least one State."""
    began = time.monotonic()
    for state in states:
        yield state
        if time.monotonic() - began > seconds:
            print(f"stopped after {seconds:g} seconds: a larger --seconds tries more", file=sys.stderr)
            return


def train_one(settings, kind, name, task, config):
    """Train a model on a task. Returns the folder of the run, or None after Ctrl-C."""
    about = {"corpus": "puzzles", "puzzles": settings.puzzles}
    settings = replace(settings, run=name)
    return training.start(settings, kind, task, config, about, task.puzzles.device, build=with_cell_positions)


def train_both(settings):
    """Train the dLLM, and then the GPT on the same puzzles. If both runs are finished, compare the two models."""
    device = devices.pick_device(settings.device)
    config = transformer.TransformerConfig(**asdict(settings.model), vocab_size=9)
    training.check_memory(config, settings.train, device)  # before the puzzles are made
    puzzles, solutions = (part.to(device) for part in sudoku.training_puzzles(settings.puzzles))
    name = settings.run or f"sudoku-{Path(settings.config).stem}"

    task = AnyOrder(puzzles, solutions, text.Characters(sudoku.DIGITS))
    dllm = train_one(settings, "sudoku", name, task, config)
    if dllm is None:  # Ctrl-C; the same command resumes the run
        return
    task = LeftToRight(puzzles, solutions, text.Characters(sudoku.DIGITS + "."))  # a GPT also reads blanks, as token 9
    shape = replace(settings.model, seq_len=2 * CELLS - 1)  # the puzzle, and all digits of the solution but the last
    config = transformer.TransformerConfig(**asdict(shape), vocab_size=10, causal=True)
    other = train_one(settings, "sudoku-gpt", f"{name}-gpt", task, config)
    if other is None:
        return
    compare(dllm, other)
    print("\npython -m experiments.sudoku measures this on many puzzles (docs/sudoku.md).\n"
          "Next: 15_robot_path.py, where the blanks are points of a path.")


def solve_given(settings):
    """Solve the puzzles given in the settings, and print the solutions. Returns whether all solutions are valid."""
    puzzles = sudoku.read_puzzles(settings.puzzle, settings.quiet)
    if len(puzzles) > 1 and (settings.gif or settings.html):
        raise cli.UserError("--gif and --html show one puzzle: name one")
    folder = checkpoint.find(settings.checkpoint, "sudoku")
    model, _, _ = checkpoint.load(folder, devices.pick_device(settings.device), kinds=("sudoku",))
    name = cli.printable(folder.name)
    is_watched = len(puzzles) == 1 and (settings.gif or settings.html or not settings.quiet)
    valid = 0
    for start in range(0, len(puzzles), 64):  # 64 puzzles at once
        given = torch.tensor(puzzles[start : start + 64])  # (B, 81)
        canvas = sudoku.to_tokens(given)
        states = within(solve_and_correct(model, canvas.to(model.head.weight.device)), settings.seconds)
        if is_watched:
            title = f"{name} · the most certain digit first; after a conflict, doubtful ones are masked again"
            states = map(sudoku.state_on_paper, states)
            last = generation.watch(states, sudoku.on_paper(canvas), sudoku.PAPER, settings, title)
            canvas = last.canvas[:, sudoku.PLACES]
        else:
            for state in tqdm(states, "passes", disable=settings.quiet):
                canvas = state.canvas.cpu()
        solved = sudoku.to_cells(canvas)
        right = sudoku.is_solution(solved, given)
        valid += int(right.sum())
        for cells, is_right in zip(solved, right):
            line = "".join(map(str, cells.tolist()))
            wrong = int(sudoku.conflicts(cells[None]).sum())
            verdict = "valid" if is_right else f"not valid: {wrong} digits are in conflict"
            print(line if settings.quiet else f"{line}  {verdict}")
    if not settings.quiet:
        print(f"{valid} of {len(puzzles)} solved by {name}")
    return valid == len(puzzles)


def main(argv=None):
    command, words = cli.sub_command(("train", "solve"), argv)
    if command == "train":
        train_both(cli.parse(Train, words, configs="sudoku"))
        return
    sys.exit(0 if solve_given(cli.parse(Solve, words)) else 1)


if __name__ == "__main__":
    cli.run(main)
