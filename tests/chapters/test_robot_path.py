"""Chapter 15: smooth curves, the map as a constraint, smoothing that cannot make a path worse, and the program."""

import json
import math
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import ROOT, Killed, log_of, make_model, refusal, write_settings
from PIL import Image

from plumbing import checkpoint, robot_maps, robot_paths, runs, smoothers, tokenizers
from plumbing.reports import robot_path as report

chapter = import_module("15_robot_path")
diffusion = import_module("04_diffusion")
V = chapter.SIDE**2


def random_model(std=0.3, seq_len=12):
    """An untrained model of paths with strong opinions."""
    return make_model(V, seq_len, std=std, seed=1)


def problem(number=0):
    """(inflated cells, A* path) of a generated problem."""
    _, blocked, start, goal = robot_maps.random_problem((9, number))
    return blocked, robot_maps.astar(blocked, start, goal)


# 1. Smooth paths as tokens


@pytest.mark.parametrize("knots, order", [(2, 2), (3, 2), (5, 2), (3, 3), (6, 3)])
def test_the_smoothest_curve_passes_its_points_and_bends_least(knots, order):
    torch.manual_seed(0)
    points = torch.randn(knots, 2).double()
    curve = chapter.smoothest(knots, order).double() @ points
    at = np.linspace(0, 95, knots).round().astype(int)
    assert torch.allclose(curve[at], points, atol=1e-4)
    energy = curve.diff(n=order, dim=0).square().sum()
    bump = torch.zeros(96, 2).double()
    for place in set(range(96)) - set(at.tolist()):
        bump.zero_()[place] = 1e-3  # any other curve through the points
        assert (curve + bump).diff(n=order, dim=0).square().sum() > energy - 1e-9
    line = torch.linspace(0, 1, knots)[:, None].double()
    assert torch.allclose(chapter.smoothest(knots, order).double() @ line, torch.linspace(0, 1, 96)[:, None].double(),
                          atol=0.02)  # a straight line stays one, up to the rounding of the times


def test_paths_are_inside_smooth_and_evenly_spaced():
    torch.manual_seed(0)
    paths = chapter.smooth_paths(200, 24)
    assert paths.shape == (200, 24, 2) and paths.min() > 0 and paths.max() < chapter.SIDE
    steps = paths.diff(dim=1).norm(dim=-1)
    assert (steps.amax(1) / steps.amin(1)).median() < 1.02
    turns = np.abs([robot_paths.turns(path) for path in paths.double().numpy()])
    assert np.median(turns.sum(1)) > 0.2 and np.quantile(turns, 0.99) < 0.6  # radians: curves, without sharp corners
    tokens = chapter.to_tokens(paths)
    assert tokens.min() >= 0 and tokens.max() < V
    centres = torch.stack((tokens % chapter.SIDE, tokens // chapter.SIDE), -1) + 0.5
    assert (centres - paths).abs().max() <= 0.5
    assert len(set(map(tuple, tokens.tolist()))) > 190


def test_every_window_is_a_new_path_and_depends_on_the_seed_alone():
    training, data = import_module("05_train"), chapter.EndlessPaths(torch.device("cpu"))
    torch.manual_seed(3)
    first, second = training.get_batch(data, 4, 24), training.get_batch(data, 4, 24)
    torch.manual_seed(3)
    assert torch.equal(first, training.get_batch(data, 4, 24)) and not torch.equal(first, second)
    assert first.shape == (4, 24)


def test_cells_begin_near_their_neighbours():
    config = chapter.transformer.TransformerConfig(V, 24, 1, 2, 32)
    model = chapter.make_model(config)
    vectors = model.token_emb.weight[:V].view(chapter.SIDE, chapter.SIDE, -1)
    middle = vectors[20, 30]
    distance = [(vectors[row, column] - middle).norm() for row, column in ((20, 30), (20, 31), (22, 30), (40, 5))]
    assert distance[0] == 0 < distance[1] < distance[2] < distance[3]
    assert 0.9 < vectors.square().mean() < 1.1
    torch.manual_seed(0)
    loss = diffusion.diffusion_loss(model, chapter.to_tokens(chapter.smooth_paths(16, 24)))
    assert abs(loss.item() - math.log(V)) < 0.5


def test_the_tokenizer_of_cells():
    cells = tokenizers.Cells(4)
    assert (cells.vocab_size, cells.mask_id) == (16, 16)
    assert cells.decode([0, 5, 15, 16]) == "   o\noo"  # two rows per line, row 0 below
    restored = tokenizers.from_description({"kind": cells.kind, "vocabulary": cells.vocabulary})
    assert restored.vocab_size == 16
    for side in (0, 257, "4", True, None):
        refusal(tokenizers.Cells, side)


# 2. The map is a constraint


@pytest.mark.parametrize("temperature, select", [(0, diffusion.by_confidence), (1.0, diffusion.scattered)])
def test_no_state_contains_a_blocked_cell(temperature, select):
    """Whatever the model prefers: at every pass, for every row, with its own map."""
    random, model = np.random.default_rng(0), random_model()
    blocked = torch.from_numpy(random.random((6, V)) < np.linspace(0.1, 0.999, 6)[:, None])
    canvas = torch.full((6, 12), V)
    for state in diffusion.denoise(chapter.Constrained(model, blocked), canvas, 5, temperature, select=select):
        for row, cells in zip(blocked, state.canvas):
            assert not row[cells[cells < V]].any()
    assert (state.canvas < V).all()
    *_, free = diffusion.denoise(model, canvas, 5, temperature, select=select)
    assert any(row[cells].any() for row, cells in zip(blocked, free.canvas))  # without the constraint it would


def test_a_position_is_the_mean_around_the_peak():
    logits = torch.full((1, 4, V), -1e9)
    side = chapter.SIDE
    logits[0, 0, 5 * side + 7] = 0.0  # one cell: its centre
    logits[0, 1, [5 * side + 7, 6 * side + 7]] = 0.0  # two equal neighbours: the edge between them
    logits[0, 2, [5 * side + 7, 40 * side + 40]] = torch.tensor([0.1, 0.0])  # a second peak far away does not count
    logits[0, 3, [0, 1]] = torch.tensor([math.log(3.0), 0.0])
    expected = [(7.5, 5.5), (7.5, 6.0), (7.5, 5.5), (0.75, 0.5)]
    assert torch.allclose(chapter.positions(logits)[0], torch.tensor(expected), atol=1e-5)


def test_refilling_changes_masked_waypoints_only_and_never_collides():
    blocked, raw = problem()
    path, random = robot_paths.waypoints(raw, blocked, 12, 4.0), np.random.default_rng(0)
    windows = np.stack([path[:12], path[-12:], path[:12]])
    masked = np.zeros((3, 12), bool)
    masked[0, 2:9], masked[1, 1:-1] = True, True
    *_, last = states = list(chapter.refill(random_model(), blocked, windows, masked, random, 3))
    assert len(states) == 4 and np.array_equal(states[0], windows)
    for state in states:
        assert np.array_equal(state[~masked], windows[~masked]) and not robot_maps.at(blocked, state).any()
    assert (last[masked] != windows[masked]).all()


def test_a_frame_without_a_free_cell_changes_nothing():
    windows = np.linspace((1.5, 1.5), (8.5, 1.5), 12)[None]
    blocked = np.ones((20, 20), bool)  # the path itself would collide here
    *_, last = chapter.refill(random_model(), blocked, windows, np.ones((1, 12), bool), np.random.default_rng(0), 2)
    assert np.array_equal(last, windows)


# 3. Smoothing


def check(blocked, raw, stages):
    """Assert that no path of `stages` collides, and that none is longer or turns more than the one before."""
    length, turning = robot_paths.length(raw) + 1e-9, robot_paths.total_turning(raw) + 1e-9
    for path in stages:
        assert np.array_equal(path[[0, -1]], raw[[0, -1]])
        assert not robot_maps.collides(blocked, path[:-1], path[1:]).any()
        assert robot_paths.length(path) <= length and robot_paths.total_turning(path) <= turning
        length, turning = robot_paths.length(path) + 1e-9, robot_paths.total_turning(path) + 1e-9


@pytest.mark.parametrize("number", range(3))
def test_smoothing_cannot_make_a_path_worse(number):
    """Not even with a model that has learned nothing."""
    blocked, raw = problem(number)
    stages = list(chapter.smooth(random_model(), blocked, raw, chapter.Smoothing(rounds=4, spans=6), seed=number))
    assert len(stages) == 5
    check(blocked, raw, stages)


def test_paths_with_nothing_to_smooth():
    blocked = np.zeros((30, 30), bool)
    for raw in (np.array([(1.5, 1.5), (20.5, 1.5)]), np.array([(1.5, 1.5), (1.7, 1.6)]), np.array([(3.0, 3.0)] * 2)):
        *_, path = chapter.smooth(random_model(), blocked, raw)
        assert np.array_equal(path[[0, -1]], raw[[0, -1]]) and robot_paths.total_turning(path) < 1e-6


def test_the_shipped_model_beats_the_gradient_smoother():
    model, tokenizer, info = checkpoint.load(checkpoint.SHIPPED_ROBOT_PATH)
    assert (checkpoint.SHIPPED_ROBOT_PATH / "model.safetensors").stat().st_size <= 6_000_000
    assert tokenizer.vocab_size == V and info["kind"] == "robot-path"
    found = []
    for number in range(3):
        blocked, raw = problem(number)
        stages = list(chapter.smooth(model, blocked, raw, chapter.Smoothing(rounds=8)))
        check(blocked, raw, stages)
        found.append([(robot_paths.total_turning(path), robot_paths.length(path))
                      for path in (stages[-1], smoothers.gradient(raw, blocked))])
    mine, gradient = np.sum(found, axis=0)
    assert (mine < gradient).all()


# 4. The program


@pytest.fixture
def small(runs_folder, tmp_path, monkeypatch):
    """The folder of runs, and the flags of a training of a second."""
    monkeypatch.setattr(chapter, "HELD_OUT", 8)
    settings = write_settings(tmp_path / "small.yaml", steps=6, evaluate_every=3, seq_len=8, n_embd=16)
    return SimpleNamespace(runs=runs_folder, flags=["--config", str(settings), "--smoothing.rounds", "1"])


def test_training_resumes_exactly(small, monkeypatch, capsys):
    monkeypatch.setattr(report, "run", lambda folder, problems, how, out: print(f"measured on {problems} problems"))
    chapter.main([*small.flags, "--run", "whole"])
    assert "measured on 300 problems" in capsys.readouterr().out
    save = runs.Run.save

    def killed(run, *arguments):
        save(run, *arguments)
        raise Killed

    with monkeypatch.context() as context, pytest.raises(Killed):
        context.setattr(runs.Run, "save", killed)
        chapter.main([*small.flags, "--run", "parts"])
    chapter.main([*small.flags, "--run", "parts"])
    assert log_of(small.runs / "whole") == log_of(small.runs / "parts") and len(log_of(small.runs / "whole")) == 2
    models = [checkpoint.load(small.runs / name)[0].state_dict() for name in ("whole", "parts")]
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])
    assert checkpoint.find(kind="robot-path").name in ("whole", "parts")
    for kind in ("dllm", "gpt", "tamil"):
        refusal(checkpoint.find, None, kind)  # no other chapter takes this model for its own


def test_measuring_and_its_page(small, capsys, tmp_path):
    checkpoint.save(small.runs / "mine", random_model(), tokenizers.Cells(chapter.SIDE),
                    {"kind": "robot-path", "step": 1, "NELBO": 7.0, "error": 0.1})
    chapter.main(["--evaluate", "2", "--run", "mine", "--rounds", "2", "--spans", "2", "--out", str(tmp_path / "page")])
    page = (tmp_path / "page" / "robot_path.md").read_text(encoding="utf-8")
    results = json.loads((tmp_path / "page" / "robot_path.json").read_text(encoding="utf-8"))
    assert results["problems"] == 2 and report.page(results) == page
    assert results["table"]["model"]["free"][0] == results["table"]["A*"]["free"][0] == 1
    assert results["table"]["model"]["turning"][0] <= results["table"]["A*"]["turning"][0]
    assert results["table"]["straight lines"]["length"][0] == 1
    assert len(results["rounds"]) == 3 and len(results["examples"]) == 2
    mean, error = results["against"]["A*"]["turning"]
    table = results["table"]
    assert math.isclose(mean, table["model"]["turning"][0] - table["A*"]["turning"][0]) and error >= 0
    assert "gradient smoother" in capsys.readouterr().out


def test_one_problem_has_no_error(small):
    checkpoint.save(small.runs / "mine", random_model(), tokenizers.Cells(chapter.SIDE), {"kind": "robot-path"})
    assert "at least 2" in refusal(chapter.main, ["--evaluate", "1", "--run", "mine"])


def test_a_model_that_was_never_evaluated_is_refused_before_the_work(small, monkeypatch):
    checkpoint.save(small.runs / "mine", random_model(), tokenizers.Cells(chapter.SIDE), {"kind": "robot-path"})
    monkeypatch.setattr(report, "measure", lambda *_, **__: pytest.fail("measured"))
    assert "before its first evaluation" in refusal(chapter.main, ["--evaluate", "2", "--run", "mine"])


@pytest.mark.parametrize("flags", [["--fresh"], ["--n-layer", "3"], ["--steps", "7"], ["--device", "cpu"]], ids=str)
def test_flags_of_training_are_refused_where_nothing_is_trained(room, flags):
    for use in (["--evaluate", "2"], ["--map", str(room), "--start=-2,1", "--goal", "2,1"]):
        assert "leave out the flags of training" in refusal(chapter.main, [*use, *flags])


def test_the_page_is_what_the_numbers_say():
    results = json.loads((ROOT / "docs" / "robot_path.json").read_text(encoding="utf-8"))
    assert report.page(results) == (ROOT / "docs" / "robot_path.md").read_text(encoding="utf-8")
    assert results["problems"] >= 300 and results["table"]["model"]["free"][0] == 1
    for rival in ("A*", "gradient smoother"):
        assert results["table"]["model"]["turning"][0] < results["table"][rival]["turning"][0]
        assert results["table"]["model"]["length"][0] <= results["table"][rival]["length"][0]


@pytest.fixture
def room(tmp_path):
    """The path of a map of 6 m × 4 m with a wall, with its lower left corner at (-3, -2)."""
    pixels = np.full((40, 60), 254, np.uint8)
    pixels[:25, 28:32] = 0
    Image.fromarray(pixels).save(tmp_path / "room.pgm")
    (tmp_path / "room.yaml").write_text("image: room.pgm\nresolution: 0.1\norigin: [-3, -2, 0]\noccupied_thresh: 0.65\n"
                                        "free_thresh: 0.25\nnegate: 0\n")
    return tmp_path / "room.yaml"


def test_a_path_on_a_map(room, tmp_path, capsys):
    ends = ["--start", "-2,1.23", "--goal", "2,1.5"]
    chapter.main(["--map", str(room), *ends, "--rounds", "3", "--out", str(tmp_path / "o")])
    rows = np.loadtxt(tmp_path / "o" / "path.csv", delimiter=",", skiprows=1)
    assert np.allclose(rows[[0, -1]], [(-2, 1.23), (2, 1.5)])
    grid = robot_maps.load_map(room)
    blocked = robot_maps.inflate(grid.blocked, 2)
    assert not robot_maps.collides(blocked, grid.to_cells(rows[:-1]), grid.to_cells(rows[1:])).any()
    poses = json.loads((tmp_path / "o" / "path.json").read_text())["poses"]
    assert len(poses) == len(rows) and (tmp_path / "o" / "path.png").is_file()
    out = capsys.readouterr().out
    lengths = [float(line.split()[1]) for line in out.splitlines() if line.startswith(("A*", "model"))]
    assert lengths[1] < lengths[0]


@pytest.mark.parametrize("flags, part", [
    (["--start=-2,1", "--goal", "0,1"], "in an obstacle"), (["--start=-2,1", "--goal", "9,1"], "outside"),
    (["--start=-2,1", "--goal", "2,1", "--radius", "0.9"], "no path"),
    (["--start=-2,1", "--goal", "2,1", "--radius", "1e300"], "larger than the map"), (["--start=-2,1"], "--goal"),
    (["--start=-2;1", "--goal", "2,1"], "two numbers"), (["--start=-2,1", "--goal", "0.3,1"], "too near")])  # fmt: skip
def test_mistakes_on_a_map(room, flags, part):
    assert part in refusal(chapter.main, ["--map", str(room), *flags])


def test_other_mistakes(runs_folder, tmp_path):
    assert "--map" in refusal(chapter.main, ["--start", "1,1", "--goal", "2,2"])
    assert "no map" in refusal(chapter.main, ["--map", str(tmp_path / "no.yaml"), "--start", "1,1", "--goal", "2,2"])
    assert "15_robot_path.py" in refusal(chapter.main, ["--evaluate", "1"])
    assert "--n-embd" in refusal(chapter.main, ["--n-embd", "18", "--n-head", "1"])
    (tmp_path / "file").touch()
    assert "not a folder" in refusal(chapter.main, ["--out", str(tmp_path / "file")])
