"""Chapter 14 and plumbing/sudoku.py: the rules, the exact solver, both tasks, solving, and the command line."""

import itertools
import json
import math
import random
import re
from importlib import import_module
from types import SimpleNamespace

from helpers import ROOT, log_of, make_model, refusal, write_settings
from plumbing import checkpoint, files, sudoku, text

import pytest
import torch

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
chapter = import_module("14_sudoku")

SOLUTION = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"
PUZZLE = chapter.EXAMPLE
IMPOSSIBLE = ".....5.8....6.1.43..........1.5........1.6...3.......553.....61........4........."
T, BLANK = chapter.CELLS, chapter.BLANK


def cells(line):
    return [int(character) for character in line.replace(".", "0")]


def tokens(line):
    return sudoku.to_tokens([cells(line)])  # (1, 81)


@pytest.fixture(scope="module")
def pairs():
    """Eight puzzles and their solutions as tokens: (8, 81) each."""
    draw = random.Random(0)
    return sudoku.to_tokens([sudoku.make_puzzle(draw, 30) for _ in range(8)]).unbind(1)


# 1. The rules and the exact solver


def obeys(grid):
    """A second implementation of the rules: every row, column and box contains all nine digits."""
    rows = [grid[9 * r : 9 * r + 9] for r in range(9)]
    boxes = [[rows[3 * b + i][3 * s + j] for i in range(3) for j in range(3)] for b in range(3) for s in range(3)]
    return all(sorted(unit) == list(range(1, 10)) for unit in [*rows, *zip(*rows), *boxes])


def test_conflicts_are_all_cells_of_a_contradiction():
    grid = torch.tensor([cells(SOLUTION), [0] * 81])
    grid[1, [0, 8, 72, 20]] = torch.tensor([5, 5, 5, 5])  # in the first row, the first column and the first box
    assert sudoku.conflicts(grid).nonzero().tolist() == [[1, 0], [1, 8], [1, 20], [1, 72]]
    assert all(len(peers) == 20 for peers in sudoku.PEERS)


def test_a_solution_is_complete_and_valid_and_keeps_the_hints():
    puzzle, right = torch.tensor(cells(PUZZLE)), torch.tensor(cells(SOLUTION))
    incomplete, wrong = right.clone(), right.clone()
    incomplete[2], wrong[2] = 0, 1
    another = right % 9 + 1  # obeys the rules, but has other digits than the hints
    filled = torch.stack((right, incomplete, wrong, another))
    assert sudoku.is_solution(filled, puzzle.expand_as(filled)).tolist() == [True, False, False, False]


@pytest.mark.parametrize("seed", range(3))
def test_the_solver_finds_what_brute_force_finds(seed):
    """Ten blanks hide only two different digits, which can often be exchanged. Brute force tries all combinations."""
    draw = random.Random(seed)
    _, full = sudoku.make_puzzle(draw, 40)
    one, other = draw.sample(range(1, 10), 2)
    blanks = [i for i in range(81) if full[i] in (one, other)][:10]
    puzzle = [0 if i in blanks else digit for i, digit in enumerate(full)]
    brute = set()
    for digits in itertools.product((one, other), repeat=len(blanks)):
        filled = list(puzzle)
        for i, digit in zip(blanks, digits):
            filled[i] = digit
        if obeys(filled):
            brute.add(tuple(filled))
    found = [tuple(solution) for solution in sudoku.solutions(puzzle)]
    assert len(found) == len(set(found)) and set(found) == brute and tuple(full) in brute


@pytest.mark.parametrize("line, number", [
    (PUZZLE, 1),
    ("8..........36......7..9.2...5...7.......457.....1...3...1....68..85...1..9....4..", 1),
    ("..............3.85..1.2.......5.7.....4...1...9.......5......73..2.1........4...9", 1),  # 17 hints
    (".....6....59.....82....8....45........3........6..3.54...325..6..................", 2),  # more: a long search
    ("." * 81, 2),
    (IMPOSSIBLE, 0),
    ("12345678.........9" + "." * 63, 0),  # nothing is left for the last cell of the first row
    ("55" + "." * 79, 0)])  # fmt: skip
def test_the_solver_counts_solutions_without_a_long_search(line, number):
    found = list(itertools.islice(sudoku.solutions(cells(line)), 2))
    assert len(found) == number and all(obeys(grid) for grid in found)
    if line == PUZZLE:
        assert found == [cells(SOLUTION)]


def test_reasons():
    puzzle = [*range(1, 9)] + [0] * 73
    assert sudoku.reason(puzzle, 8, 9) == "naked single"
    puzzle[17] = 9  # now no cell of the first row can hold it
    assert sudoku.reason(puzzle, 8, 9) == "more"
    only = [0] * 81
    for i in (9 * 1 + 3, 9 * 2 + 6, 9 * 3 + 1, 9 * 6 + 2):  # the 7 of the first box can only be in its first column
        only[i] = 7
    assert sudoku.reason(only, 0, 7) == "hidden single" and sudoku.reason(only, 0, 8) == "more"
    assert sudoku.reason(only, 1, 7) == "more"


def test_a_seed_always_has_the_same_puzzles(tmp_path, monkeypatch):
    """The shipped model and docs/sudoku.json use these puzzles. A second call reads the puzzles from the file."""
    monkeypatch.setattr(files, "DATA", tmp_path)
    puzzles, solutions = sudoku.training_puzzles(2)
    assert "".join(map(str, sudoku.to_cells(puzzles[0]).tolist())).startswith("00106030007400025060000000004000503000")
    for puzzle, solution in zip(sudoku.to_cells(puzzles).tolist(), sudoku.to_cells(solutions).tolist()):
        assert list(sudoku.solutions(puzzle)) == [solution]
    monkeypatch.setattr(sudoku, "make_puzzle", lambda *_: pytest.fail("it was not read from the file"))
    again = sudoku.training_puzzles(2)
    assert torch.equal(again[0], puzzles) and torch.equal(again[1], solutions)


# 2. The usual format, and the picture


def test_puzzles_from_a_line_and_from_a_file(tmp_path):
    path = tmp_path / "puzzles.txt"
    path.write_bytes(f"\ufeff# two puzzles\r\n{PUZZLE.replace('.', '0')}\r\n\r\n  {SOLUTION}\r\n".encode())
    assert sudoku.read_puzzles(str(path)) == [cells(PUZZLE), cells(SOLUTION)]
    assert sudoku.read_puzzles(PUZZLE.replace(".", "_")) == [cells(PUZZLE)]


@pytest.mark.parametrize("line, message", [
    (PUZZLE[:80], "80"), (PUZZLE.replace("5", "a"), "'a'"), (IMPOSSIBLE, "no solution"),
    (PUZZLE.replace(".", "5", 1), "5 in row 1, column 1 and in row 1, column 3")])  # fmt: skip
def test_a_bad_puzzle_ends_with_the_number_of_its_line(line, message, tmp_path):
    path = tmp_path / "puzzles.txt"
    path.write_text(f"{PUZZLE}\n{line}\n")
    told = refusal(sudoku.read_puzzles, str(path))
    assert message in told and f"{path}, line 2: " in told


def test_the_picture_shows_every_cell_in_order():
    picture = sudoku.picture(cells(PUZZLE))
    assert "".join(sign for sign in picture if sign in "." + sudoku.DIGITS) == PUZZLE
    assert [len(line) for line in picture.split("\n")] == [21] * 11
    state = diffusion.State(tokens(PUZZLE), torch.full((1, T), 0.5), torch.arange(T)[None] == 3)
    shown = sudoku.state_on_paper(state)
    assert sudoku.PAPER.decode(shown.canvas[0]).replace(text.MASK, ".") == picture
    assert torch.equal(shown.canvas[:, sudoku.PLACES] == sudoku.PAPER.mask_id, state.canvas == BLANK)
    assert shown.committed.nonzero().tolist() == [[0, sudoku.PLACES[3]]]
    assert (shown.confidence == 0.5).sum() == T and (shown.confidence == 1).sum() == len(picture) - T


# 3. The tasks


def test_a_varied_puzzle_is_a_puzzle_with_its_solution(pairs):
    torch.manual_seed(0)
    many = [part.repeat(20, 1) for part in pairs]
    puzzles, solutions = map(sudoku.to_cells, chapter.vary(*many))
    assert sudoku.is_solution(solutions, puzzles).all()
    assert torch.equal((puzzles == 0).sum(1), (many[0] == BLANK).sum(1))
    assert len({tuple(row) for row in solutions.tolist()}) == len(solutions)
    for puzzle, solution in zip(puzzles[:4].tolist(), solutions[:4].tolist()):
        assert list(sudoku.solutions(puzzle)) == [solution]


def test_variation_moves_any_cell_to_any_other():
    torch.manual_seed(0)
    marked = torch.zeros(4000, T, dtype=torch.long)
    marked[:, 0] = BLANK  # the only token that is not renamed
    arrived = (chapter.vary(marked, marked)[0] == BLANK).double().mean(0)  # (81,)
    assert (arrived - 1 / T).abs().max() < 5 * (1 / T / 4000) ** 0.5


def test_position_vectors_are_sums_for_row_column_and_box():
    """The vectors at opposite corners of a rectangle have equal sums if all four corners are in one box."""
    model = chapter.with_cell_positions(make_model(9, T, positions="learned").config)
    vectors = model.pos_emb.weight.view(9, 9, -1)
    assert torch.allclose(vectors[0, 0] + vectors[1, 2], vectors[0, 2] + vectors[1, 0], atol=1e-5)
    assert not torch.allclose(vectors[0, 0] + vectors[5, 5], vectors[0, 5] + vectors[5, 0], atol=1e-2)
    model = chapter.with_cell_positions(make_model(10, 2 * T - 1, positions="learned", causal=True).config)
    vectors = model.pos_emb.weight  # position 81 + i holds cell i of the solution, and predicts cell i + 1
    coming = vectors[T:] - vectors[: T - 1]  # (80, C)
    assert torch.allclose(coming[0] + coming[10], coming[1] + coming[9], atol=1e-5) and coming[0].norm() > 1


def test_the_dllm_sees_all_hints_and_is_judged_on_masks_only(pairs, monkeypatch):
    seen = []

    def spy(model, x0, xt, t):
        seen.append((x0, xt, t))
        return (xt == BLANK).float()  # each mask has the loss 1

    monkeypatch.setattr(diffusion, "hidden_losses", spy)
    puzzles, solutions = (part.repeat(50, 1) for part in pairs)
    torch.manual_seed(0)
    assert chapter.AnyOrder(*pairs, None).loss(None, (puzzles, solutions)).item() == 1  # each mask counts once
    ((x0, xt, t),) = seen
    blank, masks = puzzles == BLANK, xt == BLANK
    assert torch.equal(x0, solutions) and torch.equal(xt[~masks], x0[~masks])
    assert not (masks & ~blank).any() and torch.allclose(t * T, masks.sum(1).float())
    share = masks.sum(1) / blank.sum(1)  # evenly from one mask to all blanks
    assert masks.sum(1).min() == 1 and share.max() == 1 and abs(share.mean() - 0.51) < 0.02
    # Over all grids, each number of masks is drawn, and each blank is hidden in half of them.
    assert set(masks.sum(1).tolist()) == set(range(1, int(blank.sum(1).max()) + 1))
    assert abs(masks[blank].double().mean() - 0.51) < 0.02


def test_the_nelbo_of_a_model_that_guesses_is_ln_9(pairs):
    model = make_model(9, T, positions="learned")
    torch.nn.init.zeros_(model.head.weight)
    task = chapter.AnyOrder(*pairs, None)
    mean, error = task.evaluate(model, torch.arange(8))
    assert mean == pytest.approx(math.log(9), abs=1e-5) and error < 1e-6
    model = make_model(9, T, std=0.3, positions="learned")
    assert task.evaluate(model, torch.arange(8)) == task.evaluate(model, torch.arange(8))  # the same masks


def test_the_gpt_is_judged_on_the_solution_after_the_whole_puzzle(pairs, monkeypatch):
    monkeypatch.setattr(chapter, "vary", lambda *pair: pair)
    model = make_model(10, 2 * T - 1, std=0.3, positions="learned", causal=True)
    logits = model(torch.cat(pairs, 1)[:, :-1]).log_softmax(-1)[:, T - 1 :]  # (8, 81, 10)
    by_hand = -logits.gather(2, pairs[1][..., None]).mean()
    task = chapter.LeftToRight(*pairs, text.Characters(sudoku.DIGITS + "."))
    assert task.loss(model, pairs).item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert task.evaluate(model, torch.arange(8))[0] == pytest.approx(by_hand.item(), rel=1e-5)
    assert len(task.sample(model).split("\n")) == 11


def test_batches_leave_out_the_held_out_puzzles(pairs, monkeypatch):
    monkeypatch.setattr(chapter, "HELD_OUT", 6)
    monkeypatch.setattr(chapter, "vary", lambda *pair: pair)
    task = chapter.AnyOrder(*pairs, None)
    assert {tuple(row) for row in task.batch(50)[0].tolist()} == {tuple(row) for row in pairs[0][6:].tolist()}
    assert task.windows.tolist() == [*range(6)]


# 4. Solving


class Oracle(torch.nn.Module):
    """A model that knows one solution. In `wrong`, {cell: digit}, it prefers the given digit and is not certain."""

    def __init__(self, wrong=()):
        super().__init__()
        self.config = SimpleNamespace(mask_id=BLANK, vocab_size=9, causal=False)
        self.logits = 20.0 * torch.nn.functional.one_hot(tokens(SOLUTION)[0], 9)  # (81, 9)
        for cell, digit in dict(wrong).items():
            self.logits[cell, digit - 1] = 20.5

    def forward(self, canvas, t=None):
        return self.logits.expand(len(canvas), T, 9)


@pytest.mark.parametrize("select", [diffusion.by_confidence, diffusion.scattered])
def test_hints_stay_and_a_pass_writes_one_digit(pairs, select):
    model, before = make_model(9, T, std=0.3, positions="learned"), pairs[0]
    blanks = (before == BLANK).sum(1)
    for number, state in enumerate(chapter.solve(model, before, select), 1):
        assert (state.committed.sum(1) == (blanks >= number)).all()
        assert torch.equal(state.canvas[~state.committed], before[~state.committed])
        assert (before[state.committed] == BLANK).all()
        if select is diffusion.by_confidence:
            was_masked = before == BLANK
            assert torch.equal((state.confidence * was_masked).amax(1), (state.confidence * state.committed).amax(1))
        before = state.canvas
    assert (before != BLANK).all() and number == blanks.max()


def test_nothing_is_taken_back_without_a_conflict():
    states = list(chapter.solve_and_correct(Oracle(), tokens(PUZZLE)))
    assert sudoku.to_cells(states[-1].canvas)[0].tolist() == cells(SOLUTION) and len(states) == PUZZLE.count(".")
    (only,) = chapter.solve_and_correct(Oracle(), tokens(SOLUTION))  # nothing to do
    assert torch.equal(only.canvas, tokens(SOLUTION))


def test_a_wrong_digit_is_taken_back():
    model, puzzle = Oracle({2: 1}), tokens(PUZZLE)  # the third cell is blank; a 1 contradicts the solution
    *_, plain = chapter.solve(model, puzzle)
    states = list(chapter.solve_and_correct(model, puzzle))
    assert len(states) == 51 + 1  # it was written last, as the least certain one: only it is masked and written again
    assert sudoku.conflicts(sudoku.to_cells(plain.canvas)).any()
    assert sudoku.to_cells(states[-1].canvas)[0].tolist() == cells(SOLUTION)
    given = puzzle != BLANK
    for state in states:
        assert torch.equal(state.canvas[given], puzzle[given]) and not (state.committed & given).any()
        assert (state.confidence[given] == 1).all()


def test_the_digits_after_a_wrong_one_are_taken_back_too():
    class Hasty(Oracle):
        """Until the wrong digit is written, this model is less certain of all other digits than of the wrong digit."""

        def forward(self, canvas, t=None):
            logits = super().forward(canvas).clone()
            logits[canvas[:, 2] == BLANK, 3:] *= 0.05
            return logits

    states = list(chapter.solve_and_correct(Hasty({2: 1}), tokens(PUZZLE)))
    assert states[0].committed[0, 2] and len(states) == 2 * PUZZLE.count(".")
    assert sudoku.to_cells(states[-1].canvas)[0].tolist() == cells(SOLUTION)


def test_take_back_stops_at_its_budget_and_leaves_solved_grids_alone():
    impossible = Oracle()
    impossible.logits[:] = 0
    impossible.logits[:, 0] = 20.0  # it writes a 1 everywhere
    both = torch.cat((tokens(PUZZLE), tokens(SOLUTION)))
    states = list(chapter.solve_and_correct(impossible, both, budget=100))
    assert 100 <= len(states) <= 100 + T and (states[-1].canvas != BLANK).all()
    assert sudoku.to_cells(states[-1].canvas)[1].tolist() == cells(SOLUTION)


def test_the_shipped_model_solves_a_puzzle():
    folder = ROOT / "checkpoints" / "sudoku"
    model, tokenizer, info = checkpoint.load(folder, kinds=("sudoku",))
    assert (folder / "model.safetensors").stat().st_size <= 6_000_000 and tokenizer.vocabulary == sudoku.DIGITS
    *_, state = chapter.solve(model, tokens(PUZZLE[:45] + SOLUTION[45:]))
    assert sudoku.to_cells(state.canvas)[0].tolist() == cells(SOLUTION)


# 5. The command line


@pytest.fixture
def place(runs_folder, tmp_path, monkeypatch):
    """Empty folders, and the settings for a training of one second on puzzles with few blanks."""
    make = sudoku.make_puzzle
    monkeypatch.setattr(sudoku, "make_puzzle", lambda draw, hints: make(draw, hints + 44))
    monkeypatch.setattr(files, "DATA", tmp_path / "data")
    monkeypatch.setattr(chapter, "HELD_OUT", 6)
    config = write_settings(tmp_path / "tiny.yaml", seq_len=T, positions="learned", steps=6, evaluations=2, puzzles=16)
    return SimpleNamespace(runs=runs_folder, folder=tmp_path, config=str(config))


def solve_line(argv, capsys):
    """Return the exit code and the output of `14_sudoku.py argv`."""
    with pytest.raises(SystemExit) as end:
        chapter.main(argv)
    return end.value.code, capsys.readouterr().out


def test_the_command_trains_both_models_and_compares_them(place, capsys):
    chapter.main(["--config", place.config, "--run", "mine"])
    out = capsys.readouterr().out
    for name, causal in (("mine", False), ("mine-gpt", True)):
        model, tokenizer, info = checkpoint.load(place.runs / name)
        assert model.config.causal == causal and info["step"] <= 6 and len(log_of(place.runs / name)) == 3
        assert tokenizer.vocabulary == sudoku.DIGITS + "." * causal
    for line in ("the most certain digit first", "from left to right  ", "from left to right, by the GPT",
                 "all blanks in one pass", "a person sees it as"):
        assert line in out


@pytest.fixture
def trained(place):
    """The folder of a run with an untrained model."""
    model = make_model(9, T, std=0.3, positions="learned")
    checkpoint.save(place.runs / "sudoku", model, text.Characters(sudoku.DIGITS), {"kind": "sudoku"})
    return place


def test_solve_prints_the_solution_and_whether_it_is_valid(trained, monkeypatch, capsys):
    few = "......" + SOLUTION[6:]
    code, out = solve_line(["solve", few], capsys)
    assert code == 1 and "not valid: " in out and "0 of 1 solved by sudoku" in out  # the model is not trained
    (line,) = re.findall(r"^\d{81}", out, re.M)
    assert line[6:] == SOLUTION[6:]
    monkeypatch.setattr(chapter, "solve", lambda model, *more, solve=chapter.solve: solve(Oracle(), *more))
    code, out = solve_line(["solve", PUZZLE], capsys)
    assert code == 0 and f"{SOLUTION}  valid\n" in out and sudoku.picture(cells(SOLUTION)) in out
    html = trained.folder / "out.html"
    solve_line(["solve", PUZZLE, "--html", str(html)], capsys)
    run = json.loads(re.search(r'<script type="application/json" id="run">(.*?)</script>', html.read_text(), re.S)[1])
    shown = "".join(run["letters"][i] for i in run["samples"][0]["start"])
    assert shown.replace(text.MASK, ".") == sudoku.picture(cells(PUZZLE))
    file = trained.folder / "puzzles.txt"
    file.write_text(f"{PUZZLE}\n{SOLUTION}\n{'.' + SOLUTION[1:]}\n")
    puzzles = sudoku.read_puzzles(str(file))
    assert len(puzzles) == 3 and "puzzles checked: 100%" in capsys.readouterr().err
    assert sudoku.read_puzzles(str(file), quiet=True) == puzzles and not capsys.readouterr().err
    assert solve_line(["solve", str(file), "--quiet"], capsys) == (0, f"{SOLUTION}\n" * 3)
    assert "one puzzle" in refusal(chapter.main, ["solve", str(file), "--gif", str(trained.folder / "x.gif")])
    assert solve_line(["solve", "--quiet"], capsys) == (0, f"{SOLUTION}\n")  # the puzzle above


def test_solving_stops_after_some_time_with_a_partial_grid(trained, capsys):
    with pytest.raises(SystemExit) as end:
        chapter.main(["solve", PUZZLE, "--seconds", "0", "--quiet"])
    out, err = capsys.readouterr()
    assert end.value.code == 1 and "larger --seconds" in err
    assert out.count("0") == PUZZLE.count(".") - 1 and len(out.strip()) == 81  # one pass, one digit


def test_a_model_that_is_too_large_is_refused_before_puzzles_are_made(monkeypatch):
    monkeypatch.setattr(sudoku, "training_puzzles", lambda number: pytest.fail("it has made puzzles"))
    assert "memory" in refusal(chapter.main, ["--n-layer", "1000000", "--device", "cpu"])


@pytest.mark.parametrize("flags", [["--seq-len", "80"], ["--positions", "rope"], ["--time-conditioned"]])
def test_a_shape_that_cannot_solve_puzzles_is_refused(flags):
    assert "needs seq_len 81, positions learned" in refusal(chapter.main, flags)


def test_the_experiment_measures_what_the_page_shows():
    """One model knows the solution. Another model makes one mistake, which it can take back."""
    experiment = import_module("experiments.sudoku")
    puzzles, solutions = tokens(PUZZLE).repeat(3, 1), tokens(SOLUTION).repeat(3, 1)
    assert experiment.solved_by(Oracle(), "certain", puzzles, solutions).all()
    wrong = Oracle({2: 1})
    before = experiment.solved_by(wrong, "certain", puzzles, solutions)
    assert not before.any() and experiment.solved_by(wrong, "corrected", puzzles, solutions, before).all()
    seen = experiment.reasons(Oracle(), puzzles, solutions)
    assert seen.pop("digits") == 3 * PUZZLE.count(".") and sum(seen.values()) == pytest.approx(1)
    assert [mean for mean, _ in experiment.first_pass(wrong, puzzles, solutions).values()] == [1, 0, 50 / 51]
    assert experiment.needs_singles_only(cells(PUZZLE)) and not experiment.needs_singles_only([0] * 81)
    values = import_module("experiments.pages").read("sudoku")
    assert values["summary"] == experiment.summary(values)


class Writer(torch.nn.Module):
    """A GPT that knows one solution, but prefers a wrong digit in one cell. Its buffers remember this mistake."""

    config = transformer.TransformerConfig(seq_len=2 * T - 1, vocab_size=10, causal=True)
    cell = 2  # the first blank of PUZZLE that has several candidates

    def make_cache(self, batch, rows):
        layer = SimpleNamespace(k=torch.zeros(batch, 1), v=torch.zeros(batch, 1))
        return SimpleNamespace(layers=[layer])

    def forward(self, seen, positions=None, cache=None):
        cell = 0 if positions is None else int(positions[0]) - T + 1
        (layer,) = cache.layers
        logits = torch.full((len(seen), 1, 10), -20.0)
        logits[:, 0, int(SOLUTION[cell]) - 1] = 1.0
        if cell == self.cell:
            logits[:, 0, int(SOLUTION[cell]) % 9] = 1.5  # a wrong digit
        if positions is not None and cell == self.cell + 1:
            layer.k = (seen[:, :1] != int(SOLUTION[self.cell]) - 1).float()  # it remembers a mistake
        if cell == self.cell + 2:
            logits = torch.where(layer.k[:, :, None] > 0, 0.0, logits)  # after which it knows nothing
        return logits


def test_a_gpt_may_try_again_or_search_beams():
    experiment = import_module("experiments.sudoku")
    puzzles, solutions = tokens(PUZZLE).repeat(3, 1), tokens(SOLUTION).repeat(3, 1)
    for way, solved in (("left", False), ("retries", True), ("beam", True)):
        assert experiment.solved_by(Writer(), way, puzzles, solutions).tolist() == [solved] * 3, way


def test_a_gpt_keeps_the_hints():
    experiment = import_module("experiments.sudoku")
    hints = "7" + "." * 80  # another digit than that of the solution
    for grids in (experiment.write_grids(Writer(), tokens(hints)), experiment.search_beams(Writer(), tokens(hints), 3)):
        assert grids[0, 0] == 6 and torch.equal(grids[0, 5:], tokens(SOLUTION)[0, 5:])


def test_puzzles_with_17_hints_have_one_solution_that_is_found_at_once():
    experiment = import_module("experiments.sudoku")
    for puzzle in map(sudoku.read_cells, experiment.SEVENTEEN):
        assert T - puzzle.count(0) == 17 and len(list(sudoku.solutions(puzzle))) == 1
