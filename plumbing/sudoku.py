"""Sudoku without a model: grids and puzzles, an exact solver, a rating, and the usual format of 81 characters.

Cells are a list of 81 numbers, row by row: 1 to 9, and 0 for a blank. In a row, a column or a box of three by three
cells, no digit may occur twice. These are the units; cells that share a unit are peers.
"""



ROW, COLUMN = [i // 9 for i in range(81)], [i % 9 for i in range(81)]
BOX = [i // 27 * 3 + i % 9 // 3 for i in range(81)]
UNITS = [[i for i in range(81) if kind[i] == n] for kind in (ROW, COLUMN, BOX) for n in range(9)]
UNITS_OF = [[unit for unit in UNITS if i in unit] for i in range(81)]
PEERS = [sorted({j for unit in UNITS_OF[i] for j in unit} - {i}) for i in range(81)]
ALL = 0b111111111  # a set of digits is a number: bit d - 1 stands for the digit d
BLANKS, DIGITS = ".0_", "123456789"


# 1. The rules


def conflicts(cells):
    """Return the numbers of all cells whose digit occurs again in their row, column or box, a set."""
    return {i for i in range(81) if cells[i] and any(cells[j] == cells[i] for j in PEERS[i])}


def is_solution(cells, puzzle):
    """Return whether `cells` is a complete grid that obeys the rules and keeps the digits of `puzzle`."""
    return all(cells) and not conflicts(cells) and all(p in (0, c) for p, c in zip(puzzle, cells))


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


def needs_singles_only(cells):
    """Return whether two rules, without any guess, solve a puzzle with one solution.

    The rules are the first ones that people learn: a blank with one candidate (a naked single), and a digit with one
    place in a unit (a hidden single).
    """
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
            if count_solutions(puzzle) > 1:
                puzzle[i] = solution[i]
            elif (left := left - 1) == hints:
                return puzzle, solution
