"""Chapter 14's rules, exact solver, rating, generator and format."""

import io
import itertools
import random
import zipfile

import pytest
import torch
from helpers import refusal

from plumbing import download, files, grids

PUZZLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
SOLUTION = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"


def cells(text):
    return [int(character) for character in text]


def obeys(grid):
    """The rules, written down a second time: every unit holds all nine digits."""
    rows = [grid[9 * r : 9 * r + 9] for r in range(9)]
    boxes = [[rows[3 * b + i][3 * s + j] for i in range(3) for j in range(3)] for b in range(3) for s in range(3)]
    return all(sorted(unit) == list(range(1, 10)) for unit in [*rows, *zip(*rows), *boxes])


def test_every_cell_has_twenty_peers():
    assert len(grids.UNITS) == 27 and all(len(unit) == 9 for unit in grids.UNITS)
    assert all(len(peers) == 20 for peers in grids.PEERS)
    assert all(i in grids.PEERS[j] for i in range(81) for j in grids.PEERS[i])


def test_conflicts_are_all_cells_of_a_contradiction():
    grid = torch.tensor([cells(SOLUTION), [0] * 81])
    grid[1, [0, 8, 72]] = 5  # the first row has two fives, and so has the first column
    assert grids.conflicts(grid).nonzero().tolist() == [[1, 0], [1, 8], [1, 72]]


def test_a_solution_is_complete_and_valid_and_keeps_the_hints():
    puzzle, right = torch.tensor(grids.read_cells(PUZZLE)), torch.tensor(cells(SOLUTION))
    incomplete, wrong = right.clone(), right.clone()
    incomplete[2], wrong[2] = 0, 1
    another = right % 9 + 1  # obeys the rules, but has other digits than the hints
    filled = torch.stack((right, incomplete, wrong, another))
    assert grids.is_solution(filled, puzzle.expand_as(filled)).tolist() == [True, False, False, False]
    assert obeys(another.tolist())


@pytest.mark.parametrize("seed", range(3))
def test_the_solver_finds_what_brute_force_finds(seed):
    """With eight blanks, all 9**8 fillings are too many; the digits that are missing can only be permuted."""
    draw = random.Random(seed)
    full = grids.full_grid(draw)
    first, second = draw.sample(range(1, 10), 2)
    blanks = [i for i in range(81) if full[i] in (first, second)][:10]  # two digits: they often can be exchanged
    puzzle = [0 if i in blanks else digit for i, digit in enumerate(full)]
    missing, brute = [full[i] for i in blanks], set()
    for order in set(itertools.permutations(missing)) if len(set(missing)) < 2 else words(missing):
        filled = list(puzzle)
        for i, digit in zip(blanks, order):
            filled[i] = digit
        if obeys(filled):
            brute.add(tuple(filled))
    found = [tuple(solution) for solution in grids.solutions(puzzle)]
    assert len(found) == len(set(found)) and set(found) == brute and tuple(full) in brute


def words(missing):
    """All different orders of a list with two different digits."""
    one, other = set(missing)
    for places in itertools.combinations(range(len(missing)), missing.count(one)):
        yield [one if i in places else other for i in range(len(missing))]


def test_the_solver_knows_published_puzzles():
    assert list(grids.solutions(grids.read_cells(PUZZLE))) == [cells(SOLUTION)]
    hard = "8..........36......7..9.2...5...7.......457.....1...3...1....68..85...1..9....4.."
    found = list(grids.solutions(grids.read_cells(hard)))
    assert len(found) == 1 and obeys(found[0])
    assert grids.needs_singles_only(grids.read_cells(PUZZLE))
    assert not grids.needs_singles_only(grids.read_cells(hard))


def test_the_solver_counts_no_solution_and_stops_at_the_limit():
    assert grids.count_solutions([0] * 81) == 2 and grids.count_solutions([0] * 81, limit=5) == 5
    none = [0] * 81  # 1 … 8 in the first row, and a 9 below the last blank of it: nothing is left for this blank
    none[:8], none[17] = range(1, 9), 9
    assert not grids.conflicts(torch.tensor(none)).any() and grids.count_solutions(none) == 0


def test_reasons():
    puzzle = [0] * 81
    puzzle[:8] = range(1, 9)
    assert grids.reason(puzzle, 8, 9) == "naked single"
    only = [0] * 81
    for i in (9 * 1 + 3, 9 * 2 + 6, 9 * 3 + 1, 9 * 6 + 2):  # the 7 of the first box can only be in its first column
        only[i] = 7
    assert grids.reason(only, 0, 7) == "hidden single" and grids.reason(only, 0, 8) == "more"
    assert grids.reason(only, 1, 7) == "more"


@pytest.mark.parametrize("hints", [25, 30, 35])
def test_a_generated_puzzle_has_one_solution(hints):
    puzzle, solution = grids.make_puzzle(random.Random(hints), hints)
    assert sum(digit > 0 for digit in puzzle) == hints and obeys(solution)
    assert list(grids.solutions(puzzle)) == [solution]
    assert grids.make_puzzle(random.Random(hints), hints) == (puzzle, solution)


def test_the_file_of_puzzles_is_read_again_and_made_again_if_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "DATA", tmp_path)
    pairs = grids.puzzle_file(3, 1, range(34, 36))
    (path,) = tmp_path.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(grids, "make_puzzle", lambda *_: pytest.fail("it was not read from the file"))
        assert grids.puzzle_file(3, 1, range(34, 36)) == pairs
    whole = path.read_text()
    for damage in (whole[:-30], whole.replace("1", "x", 1), ""):
        path.write_text(damage)
        assert grids.puzzle_file(3, 1, range(34, 36)) == pairs and path.read_text() == whole


def test_the_usual_formats_of_a_blank():
    for blank in "0_":
        assert grids.read_cells(PUZZLE.replace(".", blank)) == grids.read_cells(PUZZLE)
    assert "".join(str(digit or ".") for digit in grids.read_cells(PUZZLE)) == PUZZLE


def test_a_file_of_puzzles(tmp_path):
    path = tmp_path / "puzzles.txt"
    path.write_bytes(f"\ufeff# two puzzles\r\n{PUZZLE}\r\n\r\n  {SOLUTION}\r\n".encode())
    assert [puzzle for puzzle, unique in grids.read_puzzles(str(path)) if unique] == [
        grids.read_cells(PUZZLE), cells(SOLUTION)]
    assert grids.read_puzzles(PUZZLE) == [(grids.read_cells(PUZZLE), True)]
    assert grids.read_puzzles("." * 81) == [([0] * 81, False)]


NONE = "12345678.........9" + "." * 63


@pytest.mark.parametrize("line, message", [
    (PUZZLE[:80], "80"), (PUZZLE + ".", "82"), ("", "0"), (PUZZLE.replace("5", "a"), "'a'"),
    (PUZZLE.replace(".", "5", 1), "5 in row 1, column 1 and in row 1, column 3"), (NONE, "no solution")])
def test_bad_puzzles_end_with_one_message(line, message, tmp_path):
    assert message in refusal(grids.read_puzzles, line)
    path = tmp_path / "puzzles.txt"
    path.write_text(f"{PUZZLE}\n{line}\n")
    if line:
        told = refusal(grids.read_puzzles, str(path))
        assert message in told and f"{path}, line 2: " in told


def test_bad_files_end_with_one_message(tmp_path):
    assert "not a file" in refusal(grids.read_puzzles, "no-such-file.txt")
    (tmp_path / "empty").write_text("# nothing\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x81")
    assert "no puzzle" in refusal(grids.read_puzzles, str(tmp_path / "empty"))
    assert "text file" in refusal(grids.read_puzzles, str(tmp_path / "binary"))
    refusal(grids.read_puzzles, str(tmp_path))


def test_the_picture_shows_every_cell_in_order():
    picture = grids.picture(grids.read_cells(PUZZLE))
    assert "".join(character for character in picture if character in "." + grids.DIGITS) == PUZZLE
    assert [len(line) for line in picture.split("\n")] == [21] * 11


def test_published_puzzles_come_from_the_package_by_level(monkeypatch):
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("kaidoku/data/sudoku.txt", "".join(f"{n} {PUZZLE}\n" for n in (6, 6, 6, 7, 9, 5)))
    monkeypatch.setattr(download, "fetch_wheel", lambda *pin: wheel.getvalue() if pin == grids.PUBLISHED else None)
    puzzle = grids.read_cells(PUZZLE)
    assert grids.published(each=2) == {6: [puzzle] * 2, 9: [puzzle]}
