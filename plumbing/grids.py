"""Sudoku without a model: grids and puzzles, an exact solver, a rating, and the usual format of 81 characters.

Cells are a list of 81 numbers, row by row: 1 to 9, and 0 for a blank. In a row, a column or a box of three by three
cells, no digit may occur twice. These are the units; cells that share a unit are peers. A puzzle is a grid with blanks,
and its digits are the hints.
"""

import io
import random
import zipfile
from pathlib import Path

import torch
from tqdm import tqdm

from plumbing import cli, download, files

ROW, COLUMN = [i // 9 for i in range(81)], [i % 9 for i in range(81)]
BOX = [i // 27 * 3 + i % 9 // 3 for i in range(81)]
UNITS = [[i for i in range(81) if kind[i] == n] for kind in (ROW, COLUMN, BOX) for n in range(9)]
UNITS_OF = [[unit for unit in UNITS if i in unit] for i in range(81)]
PEERS = [sorted({j for unit in UNITS_OF[i] for j in unit} - {i}) for i in range(81)]
ALL = 0b111111111  # a set of digits is a number: bit d - 1 stands for the digit d
BLANKS, DIGITS = ".0_", "123456789"
CELLS = 81
PUBLISHED = "kaidoku==1.0.1", "22f80e1740c041897b16dc7960118ec769fad0776700f28ff736665738e7186c"  # MIT license
RULE = "------+-------+------"


# 1. The rules


def tokens_of(cells):
    """Return the tokens of cells: 0 … 8 for the digits 1 … 9, and 9, the mask, for a blank. `cells_of` undoes this."""
    return (torch.as_tensor(cells) - 1) % 10


def cells_of(tokens):
    return (tokens + 1) % 10


def conflicts(cells):
    """Return where a digit of cells (..., 81) occurs again in its row, column or box, a tensor of bools (..., 81)."""
    return ((cells[..., None] == cells[..., torch.tensor(PEERS)]) & (cells[..., None] > 0)).any(-1)


def is_solution(cells, puzzles):
    """Return which grids (B, 81) are complete, obey the rules and keep the digits of `puzzles` (B, 81): bools (B,)."""
    return ((cells > 0) & ~conflicts(cells) & ((puzzles == 0) | (puzzles == cells))).all(1)


def candidates(cells):
    """Return the set of digits that each blank may hold according to its peers, as bits; 0 where there is a digit."""
    allowed = [0 if digit else ALL for digit in cells]
    for i, digit in enumerate(cells):
        if digit:
            for j in PEERS[i]:
                allowed[j] &= ~(1 << digit - 1)
    return allowed


# 2. The exact solver


def solutions(cells, draw=None):
    """Yield every solution of `cells`, each a list of 81 digits. The digits of `cells` must not contradict each other.

    It fills the blank with the fewest candidates, or a digit that has only one place left in a unit, and goes back
    where a blank has no candidate. draw: a random.Random that tries the digits in random order.
    """
    yield from search(list(cells), candidates(cells), draw)


def search(cells, allowed, draw):
    best, fewest = None, 10
    for i in range(81):
        if not cells[i]:
            count = allowed[i].bit_count()
            if count < fewest:
                best, fewest = i, count
                if count < 2:
                    break
    if best is None:
        yield cells
        return
    digits = [d for d in range(1, 10) if allowed[best] >> d - 1 & 1]
    if fewest > 1 and (single := hidden_single(cells, allowed)):
        best, digits = single[0], [single[1]] if single[1] else []
    if draw:
        draw.shuffle(digits)
    for digit in digits:
        further, left = list(cells), list(allowed)
        place(further, left, best, digit)
        yield from search(further, left, draw)


def place(cells, allowed, i, digit):
    """Write `digit` into cell i, and remove it from the candidates of the peers."""
    cells[i], allowed[i] = digit, 0
    for j in PEERS[i]:
        allowed[j] &= ~(1 << digit - 1)


def hidden_single(cells, allowed):
    """Return (cell, digit) of a digit that only one cell of a unit can hold, or None. (0, 0): a digit has no place."""
    for unit in UNITS:
        once = twice = there = 0
        for i in unit:
            bits = allowed[i]
            twice |= once & bits
            once |= bits
            if cells[i]:
                there |= 1 << cells[i] - 1
        if once | there != ALL:
            return 0, 0
        if single := once & ~twice:
            i = next(i for i in unit if allowed[i] & single)
            return i, (allowed[i] & single).bit_length()
    return None


def count_solutions(cells, limit=2):
    """Return the number of solutions of `cells`, but at most `limit`."""
    return sum(1 for _, _ in zip(range(limit), solutions(cells)))


def reason(cells, i, digit):
    """Return how a person can see that blank i holds `digit`: "naked single", "hidden single" or "more".

    A naked single is the only digit that its peers allow in a blank. A hidden single is a digit that only one blank of
    a unit can hold.
    """
    allowed, bit = candidates(cells), 1 << digit - 1
    if allowed[i] == bit:
        return "naked single"
    only = any(not any(allowed[j] & bit for j in unit if j != i) for unit in UNITS_OF[i])
    return "hidden single" if only and allowed[i] & bit else "more"


def needs_singles_only(cells):
    """Return whether naked and hidden singles alone, the first two rules that people learn, solve a puzzle."""
    cells = list(cells)
    allowed = candidates(cells)
    while 0 in cells:
        naked = next((i for i in range(81) if allowed[i].bit_count() == 1), None)
        found = hidden_single(cells, allowed) if naked is None else (naked, allowed[naked].bit_length())
        if not found or not found[1]:
            return False
        place(cells, allowed, *found)
    return True


# 3. The generator


def full_grid(draw):
    """Return a random complete grid, a list of 81 digits. draw: a random.Random."""
    cells = [0] * 81
    cells[:9] = draw.sample(range(1, 10), 9)
    return next(solutions(cells, draw))


def make_puzzle(draw, hints):
    """Return (puzzle, solution) with one solution and `hints` hints. draw: a random.Random.

    It removes the digits of a full grid in random order, except where a second solution would appear, and begins
    again with another grid if it cannot remove enough of them.
    """
    while True:
        solution = full_grid(draw)
        puzzle, left = list(solution), 81
        for i in draw.sample(range(81), 81):
            puzzle[i] = 0
            allowed = candidates(puzzle)
            allowed[i] &= ~(1 << solution[i] - 1)
            if next(search(list(puzzle), allowed, None), None):  # a solution with another digit in this cell
                puzzle[i] = solution[i]
            elif (left := left - 1) == hints:
                return puzzle, solution


def puzzle_file(number, seed, hints=range(24, 36)):
    """Return `number` pairs (puzzle, solution) with one solution each, from data/ if an earlier run wrote them there.

    All numbers of `hints` are as frequent. A puzzle takes about 15 milliseconds.
    """
    path = files.DATA / f"sudoku-{number}-{hints[0]}-{hints[-1]}-{seed}.txt"
    lines = files.read_text(path).split() if path.is_file() else []  # puzzle, solution, puzzle, …
    whole = {len(line) for line in lines} == {CELLS} and set("".join(lines)) <= set("0" + DIGITS)
    if len(lines) != 2 * number or not whole:
        draw = random.Random(seed)
        pairs = [make_puzzle(draw, draw.choice(hints))
                 for _ in tqdm(range(number), "puzzles", dynamic_ncols=True, delay=2)]
        lines = ["".join(map(str, cells)) for pair in pairs for cells in pair]
        with files.whole_file(path) as partial:
            partial.write_text("".join(f"{p} {s}\n" for p, s in zip(lines[::2], lines[1::2])), encoding="utf-8")
    cells = [[int(digit) for digit in line] for line in lines]
    return list(zip(cells[::2], cells[1::2]))


def published(levels=(6, 9), each=20):
    """Return {level: puzzles} from a package that ranks puzzles by the methods that a person needs, from 1 to 9.

    They are the first `each` of each level. UserError if pip cannot fetch the package.
    """
    with zipfile.ZipFile(io.BytesIO(download.fetch_wheel(*PUBLISHED))) as wheel:
        lines = wheel.read("kaidoku/data/sudoku.txt").decode().split("\n")
    return {level: [read_cells(line[2:]) for line in lines if line[:2] == f"{level} "][:each] for level in levels}


# 4. The usual format


def read_cells(text):
    """Return the cells of a puzzle of 81 characters. UserError if `text` is none. `check_puzzle` checks the rules."""
    unknown = "".join(sorted(set(text) - set(DIGITS + BLANKS)))
    if unknown:
        raise cli.UserError(f"a puzzle has digits, and {' or '.join(BLANKS)} for blanks, but not {unknown[:10]!r}")
    if len(text) != 81:
        raise cli.UserError(f"a puzzle has 81 characters, row by row, but this one has {len(text)}")
    return [0 if character in BLANKS else int(character) for character in text]


def check_puzzle(cells):
    """Return the number of solutions of a puzzle, at most 2. UserError if there is none."""
    if wrong := conflicts(torch.tensor(cells)).nonzero().flatten().tolist():
        first, second = wrong[0], next(j for j in PEERS[wrong[0]] if cells[j] == cells[wrong[0]])
        raise cli.UserError(f"the hints contradict each other: {cells[first]} in {cell_name(first)} and in "
                            f"{cell_name(second)}")
    found = count_solutions(cells)
    if not found:
        raise cli.UserError("this puzzle has no solution")
    return found


def cell_name(i):
    return f"row {ROW[i] + 1}, column {COLUMN[i] + 1}"


def read_puzzles(source):
    """Return [(puzzle, whether it has one solution)] of `source`: a puzzle, or a file with one puzzle on each line.

    Empty lines and lines that begin with # do not count. UserError, with the number of the line, for the first line
    that is no puzzle or has no solution.
    """
    path, lines = Path(source), [source.strip()]
    names = [f"{source[:40]!r} is not a file, and " if set(lines[0]) - set(DIGITS + BLANKS) else ""]
    if len(source) < 256 and path.is_file():
        try:
            text = files.read_text(path)
        except UnicodeDecodeError:
            raise cli.UserError(f"{path} is not a text file with one puzzle on each line") from None
        numbered = [(n, line.strip()) for n, line in enumerate(text.split("\n"), 1)]
        numbered = [(n, line) for n, line in numbered if line and not line.startswith("#")]
        names, lines = [f"{path}, line {n}: " for n, _ in numbered], [line for _, line in numbered]
        if not lines:
            raise cli.UserError(f"{path} has no puzzle: write one on each line")
    puzzles = []
    for name, line in zip(names, lines):
        try:
            cells = read_cells(line)
            puzzles.append((cells, check_puzzle(cells) == 1))
        except cli.UserError as error:
            raise cli.UserError(f"{name}{error}") from None
    return puzzles


def picture(cells):
    """Return a grid as text: eleven lines of 21 characters, with lines between the boxes and a point for a blank."""
    rows = [" | ".join(" ".join(str(d or ".") for d in cells[9 * r + c : 9 * r + c + 3]) for c in (0, 3, 6))
            for r in range(9)]
    return "\n".join(rows[:3] + [RULE] + rows[3:6] + [RULE] + rows[6:])
