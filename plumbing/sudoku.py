"""Sudoku without a model: the rules, an exact solver, a generator, the usual format, and pictures of grids.

A grid is a list of 81 cells, row by row. Each cell has a digit from 1 to 9, or 0 for a blank. Rows, columns and boxes
of three by three cells are called units. No unit is allowed to have a digit twice. Cells that share a unit are called
peers. A puzzle is a grid with blanks, and its digits are called hints.
"""

import os
import random
from dataclasses import replace

from plumbing import files
from plumbing.cli import UserError
from plumbing.text import Characters

import torch
from tqdm import tqdm

CELLS = 81
ROW = [i // 9 for i in range(CELLS)]
COLUMN = [i % 9 for i in range(CELLS)]
BOX = [i // 27 * 3 + i % 9 // 3 for i in range(CELLS)]
UNITS = [[i for i in range(CELLS) if kind[i] == n] for kind in (ROW, COLUMN, BOX) for n in range(9)]
PEERS = [sorted({j for unit in UNITS if i in unit for j in unit} - {i}) for i in range(CELLS)]
DIGITS, BLANKS = "123456789", ".0_"


# 1. The rules


def to_tokens(cells):
    """Turn cells into tokens. The digits 1 … 9 become 0 … 8, and blanks become 9, the mask. `to_cells` undoes this."""
    return (torch.as_tensor(cells) - 1) % 10


def to_cells(tokens):
    return (tokens + 1) % 10


def conflicts(cells):
    """Return a boolean tensor (B, 81): True for each of the cells (B, 81) that has the same digit as a peer."""
    again = cells[:, :, None] == cells[:, torch.tensor(PEERS)]  # (B, 81, 20)
    return again.any(2) & (cells > 0)


def is_solution(cells, puzzles):
    """Return a boolean tensor (B,): True for each row of `cells` (B, 81) that solves its puzzle.

    The puzzles are the rows of `puzzles` (B, 81). A solution has no blank, obeys the rules, and keeps all hints of its
    puzzle.
    """
    kept = (puzzles == 0) | (puzzles == cells)
    return ((cells > 0) & ~conflicts(cells) & kept).all(1)


# 2. The exact solver. It stores a set of cells as an integer, in which bit i is 1 if the set contains cell i.

ALL = (1 << CELLS) - 1
UNIT_SETS = [sum(1 << i for i in unit) for unit in UNITS]
PEER_SETS = [sum(1 << i for i in peers) for peers in PEERS]


def members(cells):
    """Yield the numbers of all cells in the set `cells`."""
    while cells:
        lowest = cells & -cells
        yield lowest.bit_length() - 1
        cells ^= lowest


def places_of(cells):
    """Return a list of nine sets of cells: for each digit, all cells of a grid that can hold this digit.

    A blank can hold a digit if none of its peers has this digit. Any other cell can hold only its own digit.
    """
    places = [ALL] * 9
    held = [0] * 9
    for i, digit in enumerate(cells):
        if digit:
            places[digit - 1] &= ~PEER_SETS[i]
            held[digit - 1] |= 1 << i
    filled = sum(held)
    return [free & ~(filled ^ own) for free, own in zip(places, held)]


def write(places, i, digit):
    """Write `digit` into cell i: cell i can then hold no other digit, and its peers cannot hold `digit`."""
    for other in range(9):
        places[other] &= ~(1 << i) if other != digit - 1 else ~PEER_SETS[i]


def with_candidates(places):
    """Return a list in which entry n (0 to 10) is the set of all cells for which at least n digits are possible."""
    at_least = [ALL] + [0] * 10
    for cells in places:
        for n in range(9, 0, -1):
            at_least[n] |= at_least[n - 1] & cells
    return at_least


def fill_singles(places):
    """Write naked singles and hidden singles until none is left.

    A naked single is a cell that can hold only one digit. A hidden single is a digit that only one cell of a unit can
    hold. Returns False after a contradiction: a cell can hold no digit, or a digit has no place in a unit.
    """
    undecided = ALL  # the cells that can hold several digits
    while True:
        possible = several = 0
        for cells in places:
            several |= possible & cells
            possible |= cells
        if possible != ALL:
            return False
        naked = undecided & ~several
        undecided = several
        for digit in range(9):
            for i in members(places[digit] & naked):
                places[digit] &= ~PEER_SETS[i]
        if naked:
            continue
        hidden = []
        for digit in range(9):
            for unit in UNIT_SETS:
                here = places[digit] & unit
                if not here:
                    return False
                if not here & (here - 1) and here & undecided:  # exactly one cell, and its digit is not yet known
                    hidden.append((digit, here))
        if not hidden:
            return True
        for digit, here in hidden:
            write(places, here.bit_length() - 1, digit + 1)


def solutions(cells, draw=None):
    """Yield every solution of a grid, as a list of 81 digits. If `draw` is a random.Random, the order is random."""
    yield from search(places_of(cells), draw)


def search(places, draw=None):
    """Yield every full grid that obeys the rules and has each digit only in cells that can hold this digit.

    `places` lists these cells for each digit, in the form that `places_of` returns. The search fills in all singles.
    Then it tries each pair that `smallest_choice` returns, and continues from there.
    """
    if not fill_singles(places):
        return
    choice = smallest_choice(places, by_unit=draw is None)  # random grids are filled cell by cell
    if not choice:
        yield [next(digit + 1 for digit in range(9) if places[digit] >> i & 1) for i in range(CELLS)]
    if draw:
        draw.shuffle(choice)
    for i, digit in choice:
        further = list(places)
        write(further, i, digit)
        yield from search(further, draw)


def smallest_choice(places, by_unit):
    """Return the smallest choice: a list of pairs (cell, digit), exactly one of which is right.

    The pairs list all possible digits of one cell. If `by_unit` is true, they can instead list all possible cells of
    one digit in one unit. If every cell can hold only one digit, the list is empty.
    """
    at_least = with_candidates(places)
    for n in range(2, 10):
        exactly = at_least[n] & ~at_least[n + 1]
        if exactly:
            break
    else:
        return []
    cell = next(members(exactly))
    choice = [(cell, digit + 1) for digit in range(9) if places[digit] >> cell & 1]
    for digit in range(9 if by_unit else 0):
        for unit in UNIT_SETS:
            here = places[digit] & unit
            if 1 < here.bit_count() < len(choice):
                choice = [(i, digit + 1) for i in members(here)]
    return choice


def reason(cells, i, digit):
    """Return how a person can find `digit` for blank i: "naked single", "hidden single", or "more" (any other way)."""
    places = places_of(cells)
    here = places[digit - 1] & 1 << i
    if here and sum(cells >> i & 1 for cells in places) == 1:
        return "naked single"
    if here and any(places[digit - 1] & unit == here for unit in UNIT_SETS):
        return "hidden single"
    return "more"


# 3. The generator


def make_puzzle(draw, hints):
    """Return a puzzle with this number of hints, and its only solution. `draw` is a random.Random.

    The generator removes digits from a full grid in a random order. If removing a digit would allow a second
    solution, the digit stays. If not enough digits can be removed, the generator begins again with another full grid.
    """
    while True:
        first_row = draw.sample(range(1, 10), 9)
        solution = next(solutions(first_row + [0] * 72, draw))
        puzzle = list(solution)
        for i in draw.sample(range(CELLS), CELLS):
            puzzle[i] = 0
            places = places_of(puzzle)
            places[solution[i] - 1] &= ~(1 << i)  # is there a solution with another digit in this cell?
            if next(search(places), None):
                puzzle[i] = solution[i]
            elif CELLS - puzzle.count(0) == hints:
                return puzzle, solution


def training_puzzles(number):
    """Return the tokens of `number` puzzles, and of their solutions: two tensors (number, 81).

    Each puzzle has from 24 to 35 hints. The generator needs about 20 milliseconds per puzzle, so the puzzles are kept
    in a file in data/.
    """
    path = files.DATA / f"sudoku-{number}.txt"
    if not path.is_file():
        draw = random.Random(1)
        lines = []
        for _ in tqdm(range(number), "puzzles", dynamic_ncols=True, delay=2):
            pair = make_puzzle(draw, draw.choice(range(24, 36)))
            lines.append(" ".join("".join(map(str, cells)) for cells in pair))
        with files.whole_file(path) as partial:
            partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    cells = torch.tensor([read_cells(line) for line in files.read_text(path).split()])  # puzzle, solution, puzzle, …
    return to_tokens(cells[::2]), to_tokens(cells[1::2])


# 4. The usual format: 81 characters


def read_cells(line):
    """Return the cells of a grid that is written as 81 characters. Raises UserError if `line` is not such a grid."""
    unknown = "".join(sorted(set(line) - set(DIGITS + BLANKS)))
    if unknown:
        raise UserError(f"a puzzle has digits, and {' or '.join(BLANKS)} for blanks, but not {unknown[:10]!r}")
    if len(line) != CELLS:
        raise UserError(f"a puzzle has 81 characters, row by row, but this one has {len(line)}")
    return [0 if character in BLANKS else int(character) for character in line]


def cell_name(i):
    return f"row {ROW[i] + 1}, column {COLUMN[i] + 1}"


def read_puzzle(line):
    """Return the cells of a puzzle. Raises UserError if `line` is not a puzzle, or if the puzzle has no solution."""
    cells = read_cells(line)
    wrong = conflicts(torch.tensor([cells]))[0].nonzero().flatten().tolist()
    if wrong:
        i = wrong[0]
        other = next(j for j in PEERS[i] if cells[j] == cells[i])
        raise UserError(f"the hints contradict each other: {cells[i]} in {cell_name(i)} and in {cell_name(other)}")
    if next(solutions(cells), None) is None:
        raise UserError("this puzzle has no solution")
    return cells


def read_puzzles(source, quiet=False):
    """Return a list of puzzles. `source` is a puzzle, or the path of a file with one puzzle on each line.

    In a file, empty lines and lines that begin with # are skipped. For a file, a progress bar is shown if `quiet` is
    False. Raises UserError, with the number of the line, if a line is not a puzzle, or if its puzzle has no solution.
    """
    is_file = os.path.exists(source)
    lines = files.read_text(source, limit=1 << 20).split("\n") if is_file else [source]
    puzzles = []
    for number, line in enumerate(tqdm(lines, "puzzles checked", disable=quiet or not is_file), 1):
        line = line.strip()
        if is_file and (not line or line.startswith("#")):
            continue
        try:
            puzzles.append(read_puzzle(line))
        except UserError as error:
            where = f"{source}, line {number}" if is_file else f"{source[:90]!r} (no file has this name)"
            raise UserError(f"{where}: {error}") from None
    if not puzzles:
        raise UserError(f"{source} has no puzzle: write one on each line")
    return puzzles


# 5. Pictures: a grid as text, with lines between the boxes


def picture(cells):
    """Return a grid as a text of eleven lines with 21 characters each. A blank is shown as a dot."""
    lines = []
    for row in range(9):
        if row in (3, 6):
            lines.append("------+-------+------")
        signs = [str(digit or ".") for digit in cells[9 * row : 9 * row + 9]]
        lines.append(" | ".join(" ".join(signs[column : column + 3]) for column in (0, 3, 6)))
    return "\n".join(lines)


PAPER = Characters(DIGITS + " |-+\n")  # the tokenizer of pictures
LINES = torch.tensor(PAPER.encode(picture([1] * CELLS)))  # (231,) a picture without its digits
PLACES = torch.tensor([i for i, sign in enumerate(picture([1] * CELLS)) if sign == "1"])  # (81,) where the digits are


def on_paper(canvas):
    """Draw grids as pictures, and return the pictures as tokens (B, 231). `canvas` (B, 81) holds the grids' tokens."""
    tokens = torch.where(canvas == 9, PAPER.mask_id, canvas)
    return LINES.repeat(len(canvas), 1).index_copy(1, PLACES, tokens)


def state_on_paper(state):
    """Draw the grids of a State as pictures, and return the pictures as a State on the CPU.

    The lines and spaces in the pictures are treated as given text.
    """
    B = len(state.canvas)
    confidence = torch.ones(B, len(LINES)).index_copy(1, PLACES, state.confidence.cpu())
    committed = torch.zeros(B, len(LINES), dtype=torch.bool).index_copy(1, PLACES, state.committed.cpu())
    return replace(state, canvas=on_paper(state.canvas.cpu()), confidence=confidence, committed=committed)
