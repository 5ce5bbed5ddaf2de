"""Chapter 14: where does it help to write in any order?

    python 14_sudoku.py                                    # no GPU: at most 6 minutes of training on two cores
    python 14_sudoku.py --solve 53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79
    python 14_sudoku.py --solve puzzles.txt --quiet        # a file with one puzzle on each line
"""

import random
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path

import torch

from plumbing import checkpoint, cli, devices, measures, runs, sampling, settings, sudoku, tokenizers
from plumbing.settings import Count, OptionalText, Switch

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
gpt = import_module("07_train_gpt")

CELLS, BLANK = 81, 9  # token 0 … 8: the digits 1 … 9; token 9: the mask, and the blank of a puzzle
HELD_OUT = 256  # puzzles for validation


# 1. Puzzles


def make_puzzles(number, seed):
    """Return (puzzles, solutions) with one solution each and 24 to 35 hints, as tokens: (number, 81) each."""
    draw = random.Random(seed)
    pairs = torch.tensor([sudoku.make_puzzle(draw, draw.randint(24, 35)) for _ in range(number)])  # (N, 2, 81)
    return tuple(torch.where(pairs == 0, BLANK, pairs - 1).unbind(1))


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
    lines = torch.tensor([sudoku.ROW, sudoku.COLUMN, sudoku.BOX]) + torch.tensor([[0], [9], [18]])  # (3, 81)
    T, C = model.pos_emb.weight.shape
    here, next_cell = torch.randn(2, 27, C)[:, lines].sum(1).div(3**0.5)
    vectors = here[torch.arange(T) % CELLS]
    vectors[CELLS - 1 :] += next_cell[: T - CELLS + 1] if model.config.causal else 0
    with torch.no_grad():
        model.pos_emb.weight.copy_(vectors)
    return model


def by_any_order(puzzles, solutions):
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

    def evaluate(model, numbers, draws):
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)  # all evaluations meet the same puzzles and masks
            total, k = losses(model, numbers.repeat(draws, 1))
        return measures.mean_and_error(total / k)

    def sample(model):
        *_, state = diffusion.denoise(model, puzzles[:1], CELLS, 0.0, select=diffusion.by_confidence, pace=1)
        return state.canvas[0]

    return training.Objective("NELBO", 1 - CELLS, loss, evaluate, sample)


def from_left_to_right(puzzles, solutions):
    """Return the Objective of the GPT: chapter 07's loss on the solution, which it writes after it has read the puzzle.

    NLL: in nats per cell of the solution, the hints included; it is the same for all orders of the puzzle's cells.
    """

    def losses(model, numbers):
        windows = torch.cat(vary(puzzles[numbers[:, 0]], solutions[numbers[:, 0]]), dim=1)  # (B, 162)
        return gpt.next_token_cross_entropy(model, windows)[:, CELLS - 1 :]  # (B, 81)

    def evaluate(model, numbers, draws):
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            return measures.mean_and_error(losses(model, numbers).mean(1))

    def sample(model):
        return gpt.generate(model, puzzles[:1], CELLS, temperature=0.0)[0, CELLS:]

    return training.Objective("NLL", 2 - 2 * CELLS, lambda *batch: losses(*batch).mean(), evaluate, sample)


# 3. Training


def train(command, kind):
    """Train a dLLM or a GPT (kind: "sudoku" or "sudoku-gpt") with chapter 05's loop. Returns the run's folder."""
    device, config, causal = devices.pick_device(command.device), command.train, kind != "sudoku"
    shape = dict(vocab_size=10, seq_len=2 * CELLS - 1) if causal else dict(vocab_size=9, seq_len=CELLS)
    model_config = replace(command.model, **shape, positions="learned", causal=causal)
    tokenizer = tokenizers.CharTokenizer(sudoku.DIGITS + "." * causal)
    name = (command.run or Path(command.config).stem) + "-gpt" * causal
    wanted = asdict(model_config) | asdict(config) | {"puzzles": command.puzzles}
    info = {"kind": kind, "puzzles": command.puzzles, "settings": command.config, "train": asdict(config)}
    run = runs.Run(checkpoint.RUNS / name, wanted, config, tokenizer, info | runs.provenance(), command.fresh,
                   command.quiet)
    torch.manual_seed(config.seed)
    model = told(transformer.Transformer(model_config)).to(device)
    print(f"{kind}, {transformer.count_parameters(model):,} parameters, settings {command.config!r}, {device}; run "
          f"{name}; making {command.puzzles:,} puzzles", flush=True)
    puzzles, solutions = (cells.to(device) for cells in make_puzzles(command.puzzles, config.seed))
    trainer = training.Trainer(model, config, device)
    run.announce(compiled=trainer.network is not model)
    objective = (from_left_to_right if causal else by_any_order)(puzzles, solutions)
    numbers = torch.arange(command.puzzles, device=device)
    held_out = min(HELD_OUT, command.puzzles // 2)
    training.train(trainer, numbers[held_out:], numbers[:held_out], objective, run)
    run.report(objective.measure)
    return run.folder


@dataclass(frozen=True)
class Command:
    """The flags of this chapter."""

    config: str = "sudoku-laptop"  # the settings file: a name in configs/, or the path of a YAML file
    run: OptionalText = None  # name of the run, which is also its folder under checkpoints/
    fresh: Switch = False  # start the run again instead of resuming it
    device: str = "auto"  # auto, cpu, cuda or mps
    quiet: Switch = False
    puzzles: Count = 2000  # number of puzzles to learn from, before they are varied
    kind: str = "sudoku"
    model: transformer.TransformerConfig = transformer.TransformerConfig()
    train: training.TrainConfig = training.TrainConfig()


def main(argv=None):
    command = settings.parse(Command, argv)
    train(command, command.kind)


if __name__ == "__main__":
    cli.run(main)
