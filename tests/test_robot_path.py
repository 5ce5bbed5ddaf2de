"""Chapter 15, plumbing/robot.py and experiments/robot_path.py: maps, A*, collisions, curves, smoothing, controls."""

import itertools
import json
import math
from functools import partial
from importlib import import_module

from helpers import ROOT, log_of, make_model, refusal, write_settings
from plumbing import checkpoint, robot, text

import numpy as np
import pytest
import torch
from PIL import Image

diffusion = import_module("04_diffusion")
chapter = import_module("15_robot_path")
experiment = import_module("experiments.robot_path")
V = chapter.SIDE**2


def random_model(std=0.3, seq_len=12):
    """Return an untrained model of paths. A large `std` gives it certain predictions."""
    return make_model(V, seq_len, std=std, seed=1)


def problem(number=0):
    """Return (inflated cells, A* path) of a generated problem."""
    _, blocked, start, goal = robot.random_problem((9, number))
    return blocked, robot.astar(blocked, start, goal)


# 1. The files of the map server


def write_map(folder, pixels, **changes):
    """Write pixels (H, W) or (H, W, channels) and a YAML file into `folder`. Returns the path of the YAML file."""
    Image.fromarray(np.asarray(pixels, np.uint8)).save(folder / "map.png")
    fields = {"image": "map.png", "resolution": 0.05, "origin": [0, 0, 0], "occupied_thresh": 0.65,
              "free_thresh": 0.25, "negate": 0} | changes  # fmt: skip
    (folder / "map.yaml").write_text("".join(f"{k}: {v}\n" for k, v in fields.items() if v is not None))
    return folder / "map.yaml"


def test_only_light_pixels_are_free_and_the_last_row_of_the_image_is_the_lowest(tmp_path):
    grid = robot.load_map(write_map(tmp_path, [[0, 255, 200], [128, 255, 190]], origin=[-1, 2, 0]))
    assert grid.blocked.tolist() == [[True, False, True], [True, False, False]]  # (255 - 190) / 255 = 0.255
    assert grid.to_metres([0, 0]).tolist() == [-1, 2] and np.allclose(grid.to_metres([3, 2]), [-0.85, 2.1])
    for negate in ("1", "true"):
        assert robot.load_map(write_map(tmp_path, [[0, 255]], negate=negate)).blocked.tolist() == [[False, True]]
    clear = [[[255, 255, 255, 255], [255, 255, 255, 0], [0, 255, 255, 255]]]  # opacity is averaged in like a colour
    assert robot.load_map(write_map(tmp_path, clear, free_thresh=0.2)).blocked.tolist() == [[False, True, True]]


def test_the_origin_is_a_pose_and_conversions_are_inverse():
    grid = robot.GridMap(np.zeros((4, 6), bool), 0.5, (1.0, -2.0, math.pi / 2))
    assert np.allclose(grid.to_metres([2, 0]), [1.0, -1.0])  # the map's x axis points along y
    points = np.random.default_rng(0).normal(size=(20, 2))
    assert np.allclose(grid.to_metres(grid.to_cells(points)), points)


@pytest.mark.parametrize("changes, part", [
    ({"resolution": None}, "resolution"), ({"resolution": 0}, "resolution"), ({"origin": "[0, 0]"}, "origin"),
    ({"mode": "scale"}, "trinary"), ({"free_thresh": 0.9}, "free_thresh"), ({"negate": "maybe"}, "negate")])
def test_a_map_that_makes_no_sense(tmp_path, changes, part):
    path = write_map(tmp_path, [[255, 0]], **changes)
    assert part in refusal(robot.load_map, path)


def test_an_image_of_16_bits_is_refused(tmp_path):
    path = write_map(tmp_path, [[255, 0]])
    (tmp_path / "map.png").write_bytes(b"P5\n3 3\n65535\n" + bytes(18))
    assert "8 bits" in refusal(robot.load_map, path)


# 2. Inflation, A* and collisions


@pytest.mark.parametrize("radius", [0, 0.5, 1.5, 2.2, 3])
def test_inflation_is_the_distance_from_a_centre_to_a_blocked_square(radius):
    blocked = np.random.default_rng(1).random((14, 17)) < 0.03
    walls = np.pad(blocked, 4, constant_values=True)
    row, column = np.indices(blocked.shape)[..., None]  # (H, W, 1) each
    apart = [(np.abs(at - to) - 0.5).clip(0) for at, to in zip((row, column), (np.argwhere(walls) - 4).T)]
    assert (robot.inflate(blocked, radius) == (blocked | (np.hypot(*apart) <= radius).any(-1))).all()


def distances(blocked, start):
    """Return the length of the shortest path from `start` to every cell. Improves all cells until nothing changes."""
    cost = np.full(blocked.shape, np.inf)
    cost[start] = 0
    cells = [tuple(cell) for cell in np.argwhere(~blocked)]
    changed = True
    while changed:
        changed = False
        for y, x in cells:
            for dy, dx in itertools.product((-1, 0, 1), repeat=2):
                to = (y + dy, x + dx)
                is_open = 0 <= to[0] < len(cost) and 0 <= to[1] < cost.shape[1] and not blocked[to]
                if is_open and not blocked[y, to[1]] and not blocked[to[0], x]:
                    if cost[y, x] + math.hypot(dy, dx) < cost[to] - 1e-9:
                        cost[to] = cost[y, x] + math.hypot(dy, dx)
                        changed = True
    return cost


@pytest.mark.parametrize("seed", range(3))
def test_a_star_finds_the_shortest_path_and_cuts_no_corners(seed):
    blocked = np.random.default_rng(seed).random((9, 11)) < 0.3
    blocked[0, 0] = False
    cost = distances(blocked, (0, 0))
    for y, x in np.ndindex(blocked.shape):
        path = robot.astar(blocked, np.array([0.5, 0.5]), np.array([x + 0.2, y + 0.9]))
        if blocked[y, x] or np.isinf(cost[y, x]):
            assert len(path) == 0
            continue
        assert (path[0] == 0.5).all() and (path[-1] == (x + 0.5, y + 0.5)).all()
        assert math.isclose(robot.length(path), cost[y, x], abs_tol=1e-6)
        assert not robot.collides(blocked, path[:-1], path[1:]).any()


def test_collisions_are_those_of_dense_samples():
    draw = np.random.default_rng(0)
    blocked = draw.random((12, 15)) < 0.2
    starts, ends = draw.uniform((-1, -1), (16, 13), (2, 300, 2))
    starts[:20] = ends[:20] + (0, 1e-3)  # short segments, horizontal ones and vertical ones
    starts[20:40, 0], starts[40:60, 1] = ends[20:40, 0], ends[40:60, 1]
    share = np.linspace(0, 1, 4001)[:, None]
    found = robot.collides(blocked, starts, ends)
    for a, b, collided in zip(starts, ends, found):
        sampled = robot.at(blocked, a + share * (b - a)).any()
        assert collided or not sampled  # samples may miss the corner of a cell, and the check may not
        if collided and not sampled:
            assert robot.at(blocked, a + np.linspace(0, 1, 400_001)[:, None] * (b - a)).any()
    assert found.any() and not found.all()


def test_a_corner_that_samples_miss():
    blocked = np.array([[False, True], [False, False]])
    start = np.zeros((1, 2))
    assert robot.collides(blocked, start, np.array([[1.9, 1.9]])).tolist() == [False]  # only touches the corner
    assert robot.collides(blocked, start, np.array([[1.9, 1.9 - 1e-9]])).tolist() == [True]


def test_generated_problems_have_a_solution_and_are_repeatable():
    grid, blocked, start, goal = robot.random_problem((3, 4))
    again = robot.random_problem((3, 4))
    assert (grid.blocked == again[0].blocked).all() and (start == again[2]).all() and (goal == again[3]).all()
    assert not robot.at(blocked, np.stack((start, goal))).any() and math.dist(start, goal) >= 50
    assert len(robot.astar(blocked, start, goal)) and (blocked >= grid.blocked).all()


# 3. Paths

SQUARE = np.array([(0, 0), (2, 0), (2, 2), (0, 2), (0, 0)], float)


def test_turns_of_a_square_in_both_directions():
    assert np.allclose(robot.turns(SQUARE), math.pi / 2) and np.allclose(robot.turns(SQUARE[::-1]), -math.pi / 2)
    assert math.isclose(robot.total_turning(SQUARE[::-1]), 1.5 * math.pi) and robot.length(SQUARE) == 8
    assert np.allclose(robot.turns(SQUARE.repeat(2, 0)), robot.turns(SQUARE))
    assert len(robot.turns(SQUARE[:1].repeat(4, 0))) == 0


def test_frames_are_inverse_and_contain_their_windows():
    draw = np.random.default_rng(0)
    windows = np.cumsum(draw.normal(size=(5, 24, 2)), axis=1) * np.array([1, 0.01, 10, 3, 1])[:, None, None]
    frames = robot.Frames(windows, 48, draw)
    inside = frames.enter(windows)
    assert np.allclose(frames.leave(inside), windows) and inside.min() > 1 and inside.max() < 47
    steps = [np.linalg.norm(np.diff(points, axis=1), axis=-1) for points in (windows, inside)]
    assert np.allclose(steps[0] / steps[0][:, :1], steps[1] / steps[1][:, :1])  # angles and proportions are kept
    assert np.allclose(frames.enter(frames.centres())[:, 48 * 5 + 7], (7.5, 5.5))


def test_waypoints_are_evenly_spaced_and_dense_enough_not_to_collide():
    even = robot.evenly(SQUARE, 17)
    assert np.allclose(robot.distances(even), 0.5) and (even[[0, -1]] == SQUARE[[0, -1]]).all()
    blocked = np.zeros((40, 40), bool)
    blocked[0:19, 0:19] = True
    path = 0.5 + np.array([(x, 19) for x in range(20)] + [(19, y) for y in range(18, -1, -1)])
    points = robot.waypoints(path, blocked, 4, 9.0)
    assert len(points) > 6 and not robot.collides(blocked, points[:-1], points[1:]).any()
    assert len(robot.waypoints(path, blocked & False, 4, 9.0)) == 6


def test_the_tokenizer_of_cells():
    cells = robot.Cells(4)
    assert (cells.vocab_size, cells.mask_id) == (16, 16)
    assert cells.decode([0, 5, 15, 16]) == "   o\noo"  # two rows per line, row 0 below
    assert text.from_description({"kind": cells.kind, "vocabulary": cells.vocabulary}).vocab_size == 16
    for side in (0, 257, "4", True, None):
        with pytest.raises(ValueError, match="side"):
            robot.Cells(side)


# 4. What the model learns


@pytest.mark.parametrize("knots, order", [(2, 2), (5, 2), (3, 3), (6, 3)])
def test_the_smoothest_curve_passes_its_points_and_bends_least(knots, order):
    torch.manual_seed(0)
    points = torch.randn(knots, 2).double()
    curve = chapter.smoothest(knots, order).double() @ points
    passed = np.linspace(0, 95, knots).round().astype(int)
    assert torch.allclose(curve[passed], points, atol=1e-4)
    energy = curve.diff(n=order, dim=0).square().sum()
    for place in set(range(96)) - set(passed.tolist()):
        other = curve.clone()
        other[place] += 1e-3  # any other curve through the points
        assert other.diff(n=order, dim=0).square().sum() > energy - 1e-9


def test_paths_are_inside_smooth_and_evenly_spaced():
    torch.manual_seed(0)
    paths = chapter.smooth_paths(200, 24)
    assert paths.shape == (200, 24, 2) and paths.min() > -1e-4 and paths.max() < chapter.SIDE + 1e-4
    steps = paths.diff(dim=1).norm(dim=-1)
    assert (steps.amax(1) / steps.amin(1)).median() < 1.02
    turns = np.abs([robot.turns(path) for path in paths.double().numpy()])
    assert np.median(turns.sum(1)) > 0.2 and np.quantile(turns, 0.99) < 0.6  # radians: curves, without sharp corners
    tokens = chapter.to_tokens(paths)
    centres = torch.stack((tokens % chapter.SIDE, tokens // chapter.SIDE), -1) + 0.5
    assert (centres - paths).abs().max() < 0.5001


def test_every_batch_is_new_and_depends_on_the_seed_alone():
    torch.manual_seed(3)
    task = chapter.Paths(24, torch.device("cpu"))
    first, second = task.batch(4), task.batch(4)
    torch.manual_seed(3)
    assert torch.equal(first, task.batch(4)) and not torch.equal(first, second) and first.shape == (4, 24)
    assert torch.equal(task.windows, chapter.Paths(24, torch.device("cpu")).windows)  # held-out paths stay the same


def test_cells_begin_near_their_neighbours():
    model = chapter.with_waves(make_model(V, 24, n_embd=32).config)
    vectors = model.token_emb.weight[:V].view(chapter.SIDE, chapter.SIDE, -1)
    near, far, farther = (vectors[[20, 22, 40], [31, 30, 5]] - vectors[20, 30]).norm(dim=-1)
    assert 0 < near < far < farther and 0.9 < vectors.square().mean() < 1.1
    torch.manual_seed(0)
    task = chapter.Paths(24, torch.device("cpu"))
    assert abs(task.loss(model, task.batch(16)).item() - math.log(V)) < 0.5


# 5. The map is a constraint


@pytest.mark.parametrize("temperature, select", [(0, diffusion.by_confidence), (1.0, diffusion.scattered)])
def test_no_state_contains_a_blocked_cell(temperature, select):
    """This holds for any model, after every pass, for every row of the batch with its own map."""
    model = random_model()
    blocked = torch.from_numpy(np.random.default_rng(0).random((6, V)) < np.linspace(0.1, 0.999, 6)[:, None])
    canvas = torch.full((6, 12), V)
    for state in diffusion.denoise(chapter.Constrained(model, blocked), canvas, 5, temperature, select=select):
        for row, cells in zip(blocked, state.canvas):
            assert not row[cells[cells < V]].any()
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
    path, draw = robot.waypoints(raw, blocked, 12, 4.0), np.random.default_rng(0)
    windows = np.stack([path[:12], path[-12:], path[:12]])
    masked = np.zeros((3, 12), bool)
    masked[0, 2:9], masked[1, 1:-1] = True, True
    filled = chapter.refill(random_model(), blocked, windows, masked, draw)
    assert np.array_equal(filled[~masked], windows[~masked]) and (filled[masked] != windows[masked]).all()
    speckled = draw.random(blocked.shape) < 0.5  # many means lie in a blocked cell
    assert not robot.at(speckled, chapter.refill(random_model(), speckled, windows, masked, draw)[masked]).any()
    everywhere = np.ones_like(blocked)  # a frame without a free cell changes nothing
    assert np.array_equal(chapter.refill(random_model(), everywhere, windows, masked, draw), windows)


# 6. Smoothing


def check(blocked, raw, stages):
    """Assert that no path of `stages` collides, and that none is longer or turns more than the one before."""
    length, turning = robot.length(raw) + 1e-9, robot.total_turning(raw) + 1e-9
    for path in stages:
        assert np.array_equal(path[[0, -1]], raw[[0, -1]])
        assert not robot.collides(blocked, path[:-1], path[1:]).any()
        assert robot.length(path) <= length and robot.total_turning(path) <= turning
        length, turning = robot.length(path) + 1e-9, robot.total_turning(path) + 1e-9


def smoothed(propose, number=0, rounds=4, T=12):
    """Return the inflated map of a problem, the A* path, and the path after each round of hill climbing."""
    blocked, raw = problem(number)
    return blocked, raw, list(chapter.smooth(propose, T, blocked, raw, rounds, seed=number))


@pytest.mark.parametrize("number", range(3))
def test_smoothing_cannot_make_a_path_worse(number):
    """This holds even for an untrained model, and for random proposals."""
    for propose in (partial(chapter.refill, random_model()), experiment.random_points):
        blocked, raw, stages = smoothed(propose, number)
        assert len(stages) == 5
        check(blocked, raw, stages)


def test_proposals_are_made_for_one_span_around_a_sharp_turn():
    """The span never includes the ends of a window, and never exceeds the widest span. Its middle is always a turn."""
    wanted = np.cumsum([(5.5, 5.5)] + [(0, 4)] * 20 + [(4, 0)] * 20, axis=0)
    seen = []

    def propose(blocked, windows, masked, draw):
        seen.extend(zip(windows, masked))
        return windows

    *_, path = chapter.smooth(propose, 12, np.zeros((100, 100), bool), wanted, rounds=3)
    assert np.allclose(path, wanted)  # nobody proposed anything
    assert len(seen) == 3 * chapter.SPANS
    for window, masked in seen:
        hidden = np.flatnonzero(masked)
        assert not masked[[0, -1]].any() and (np.diff(hidden) == 1).all()
        assert (window[masked] == wanted[20]).all(1).any()


def test_paths_with_nothing_to_smooth():
    blocked = np.zeros((30, 30), bool)
    for raw in (np.array([(1.5, 1.5), (20.5, 1.5)]), np.array([(1.5, 1.5), (1.7, 1.6)]), np.array([(3.0, 3.0)] * 2)):
        *_, path = chapter.smooth(chapter.straight, 12, blocked, raw)
        assert np.array_equal(path[[0, -1]], raw[[0, -1]]) and robot.total_turning(path) < 1e-6


@pytest.fixture(scope="module")
def shipped():
    """Return the proposals of the shipped model, and the number of waypoints in a window."""
    model, tokenizer, _ = checkpoint.load(ROOT / "checkpoints" / "robot-path", kinds=("robot-path",))
    assert tokenizer.vocab_size == V
    return partial(chapter.refill, model), model.config.seq_len


def test_the_shipped_model_beats_random_proposals_and_straight_lines_beat_it(shipped):
    """The chapter claims this, with the same rule for all three."""
    model, T = shipped
    paths = []
    for propose in (chapter.straight, model, experiment.random_points):
        blocked, raw, stages = smoothed(propose, rounds=6, T=T)
        check(blocked, raw, stages)
        paths.append(stages[-1])
    for measure in (robot.total_turning, robot.length):
        straight, by_model, at_random = map(measure, paths)
        assert straight < by_model < at_random


def test_the_shipped_model_restores_curves_and_a_cubic_curve_does_it_better(shipped, monkeypatch):
    monkeypatch.setattr(chapter, "HELD_OUT", 32)
    monkeypatch.setattr(experiment, "FRAMES", 1)
    model, T = shipped
    truth, restored = experiment.restore({"model": model, **experiment.CONTROLS}, T)
    misses = experiment.misses(truth, restored | {"truth": truth})
    assert misses["truth"] == (0, 0)
    assert misses["cubic curves"][0] < misses["model"][0] < 1  # less than a step between waypoints


# 7. The program


@pytest.fixture
def small(runs_folder, tmp_path, monkeypatch):
    """The folder of runs, and flags for a training of one second."""
    monkeypatch.setattr(chapter, "HELD_OUT", 8)
    settings = write_settings(tmp_path / "small.yaml", steps=4, evaluations=2, seq_len=8)
    return runs_folder, ["--config", str(settings), "--run", "mine"]


def test_training_and_its_demonstration(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(chapter.tensors, "save_figure", lambda figure, name, show: print(f"drew {name}"))
    monkeypatch.setattr(chapter, "smooth_both", partial(chapter.smooth_both, rounds=1))
    runs, flags = small
    chapter.main(flags)
    out = capsys.readouterr().out
    assert "drew 15_robot_path" in out and out.count("degrees of turning") == 12
    model, tokenizer, info = checkpoint.load(runs / "mine", kinds=("robot-path",))
    assert model.config.seq_len == 8 and tokenizer.vocab_size == V and len(log_of(runs / "mine")) == 3
    assert checkpoint.find("", "robot-path").name == "mine"  # which `smooth` would now use


def test_a_path_on_a_map(tmp_path, capsys):
    folder = tmp_path / "new"
    words = ["--map", str(ROOT / "docs" / "maps" / "room.yaml"), "--start", "1.0,2.03", "--goal", "8.5,3.0"]
    shipped = ROOT / "checkpoints" / "robot-path"
    chapter.main(["smooth", *words, "--rounds", "3", "--out", str(folder), "--checkpoint", str(shipped)])
    rows = np.loadtxt(folder / "path.csv", delimiter=",", skiprows=1)
    assert np.allclose(rows[[0, -1]], [(1, 2.03), (8.5, 3)])
    grid = robot.load_map(words[1])
    blocked = robot.inflate(grid.blocked, 2)
    assert not robot.collides(blocked, grid.to_cells(rows[:-1]), grid.to_cells(rows[1:])).any()
    lengths = {line.split()[0]: float(line.split()[1]) for line in capsys.readouterr().out.splitlines()[:3]}
    assert lengths["straight"] <= lengths["model"] < lengths["A*"] and (folder / "path.png").stat().st_size > 1000
    message = json.loads((folder / "path.json").read_text())
    assert message["header"]["frame_id"] == "map" and len(message["poses"]) == len(rows)
    orientation = message["poses"][0]["pose"]["orientation"]
    yaw = 2 * math.atan2(orientation["z"], orientation["w"])
    step = (rows[1] - rows[0]) / np.linalg.norm(rows[1] - rows[0])
    assert np.allclose((math.cos(yaw), math.sin(yaw)), step, atol=1e-3)


@pytest.mark.parametrize("flags, part", [
    (["--start", "0.05,1"], "in an obstacle"), (["--start", "-1,1"], "outside"), (["--goal", "1,99"], "y from 0 to 6"),
    (["--start", "0.2,1"], "too near"), (["--radius", "0.6"], "no path"), (["--rounds", "-1"], "rounds")])
def test_mistakes_on_a_map(flags, part):
    assert part in refusal(chapter.main, ["smooth", *flags])


# 8. The smoothers of today's robots, each against the equation that defines it

OPEN = np.zeros((40, 40), bool)


def staircase(steps=12):
    """Return a path of cells that turns at every step."""
    return np.cumsum([(5.5, 5.5), *itertools.islice(itertools.cycle([(1, 0), (0, 1)]), steps)], axis=0)


def test_the_gradient_smoother_ends_where_both_pulls_are_equal():
    path = staircase()
    smooth = experiment.gradient(path, OPEN, refinements=0)
    pull = 0.2 * (path - smooth)[1:-1] + 0.3 * (smooth[:-2] + smooth[2:] - 2 * smooth[1:-1])
    assert np.abs(pull).max() < 1e-9 and (smooth[[0, -1]] == path[[0, -1]]).all()
    again = experiment.gradient(smooth, OPEN, refinements=0)
    assert np.allclose(experiment.gradient(path, OPEN, refinements=1), again)
    assert (experiment.gradient(path, OPEN[:6]) == path).all()  # the path leaves this map: nothing can be smoothed


def test_savitzky_golay_fits_a_cubic_by_least_squares():
    assert np.allclose(np.linalg.pinv(np.vander(np.arange(-3, 4), 4))[3], experiment.SAVITZKY_GOLAY)  # value at 0
    t = np.linspace(0, 1, 40)
    cubic = np.stack((t, t**3 - t), 1)
    assert np.allclose(experiment.savitzky_golay(cubic, passes=1)[3:-3], cubic[3:-3])
    assert (experiment.savitzky_golay(cubic)[[0, -1]] == cubic[[0, -1]]).all()
    assert (experiment.savitzky_golay(staircase(9)) == staircase(9)).all()  # a short path stays as it is


def test_straight_lines_are_the_shortest_choice_of_points():
    blocked = np.random.default_rng(2).random((12, 12)) < 0.15
    blocked[0, 0] = blocked[11, 11] = False
    path = robot.astar(blocked, np.array([0.5, 0.5]), np.array([11.5, 11.5]))
    short = experiment.straight_lines(path, blocked)
    assert not robot.collides(blocked, short[:-1], short[1:]).any()
    lengths = []
    for count in range(4):  # more points are not needed here
        for kept in itertools.combinations(range(1, len(path) - 1), count):
            line = path[[0, *kept, len(path) - 1]]
            if not robot.collides(blocked, line[:-1], line[1:]).any():
                lengths.append(robot.length(line))
    assert robot.length(short) <= min(lengths) + 1e-9


# 9. The controls


def one_window(hidden):
    """Return (windows, masked): three copies of a random walk with twelve waypoints, and the hidden waypoints."""
    windows = np.random.default_rng(0).normal(size=(3, 12, 2)).cumsum(1)
    masked = np.zeros((3, 12), bool)
    masked[:, hidden] = True
    return windows, masked


@pytest.mark.parametrize("propose", experiment.CONTROLS.values(), ids=experiment.CONTROLS)
def test_controls_change_masked_waypoints_only_and_use_nothing_that_is_masked(propose):
    windows, masked = one_window(slice(3, 9))
    filled = propose(OPEN, windows + 20, masked, np.random.default_rng(1))
    assert np.allclose(filled[~masked], (windows + 20)[~masked]) and (filled[masked] != (windows + 20)[masked]).all()
    if propose in (chapter.straight, experiment.cubic):
        other = np.where(masked[..., None], 7.0, windows + 20)
        assert np.allclose(propose(OPEN, other, masked, None), filled)


def test_only_the_model_without_the_map_proposes_blocked_waypoints():
    """Half of the map is blocked, and the window crosses it."""
    blocked = np.zeros((60, 60), bool)
    blocked[:, 30:] = True
    windows = np.linspace((10, 30), (50, 30), 12)[None]
    masked = np.zeros((1, 12), bool)
    masked[:, 1:-1] = True
    for propose, allowed in ((partial(chapter.refill, random_model()), False),
                             (experiment.without_map(random_model()), True)):  # fmt: skip
        filled = propose(blocked, windows, masked, np.random.default_rng(0))
        assert robot.at(blocked, filled[masked]).any() == allowed


def test_straight_proposals_are_evenly_spaced_on_a_line():
    windows, masked = one_window(slice(3, 9))
    step = np.diff(chapter.straight(OPEN, windows, masked, None), axis=1)[:, 2:9]
    assert np.allclose(step, step[:, :1])


def test_cubic_proposals_restore_a_cubic_and_continue_both_sides():
    t = np.linspace(-1, 1, 400)
    cubic = np.stack((t, t - t**3), 1)[None]
    masked = np.zeros((1, 400), bool)
    masked[0, 100:300] = True
    assert np.abs(experiment.cubic(OPEN, cubic, masked, None) - cubic).max() < 0.01
    assert np.abs(chapter.straight(OPEN, cubic, masked, None) - cubic).max() > 0.04
    masked[0, 1:-1] = True  # no segment on either side: a straight line
    assert np.allclose(experiment.cubic(OPEN, cubic, masked, None), chapter.straight(OPEN, cubic, masked, None))


def test_midpoints_and_random_points():
    windows, masked = one_window([5])
    middle = experiment.midpoints(OPEN, windows, masked, None)
    assert np.allclose(middle[:, 5], (windows[:, 4] + windows[:, 6]) / 2)
    speckled = np.random.default_rng(2).random((40, 40)) < 0.5
    start = np.full((3, 12, 2), 20.0)
    start = experiment.random_points(speckled, start, np.ones((3, 12), bool), np.random.default_rng(3))
    assert not robot.at(speckled, start[(start != 20).any(-1)]).any() and (start != 20).any()


# 10. The measures of the experiment, and its page


@pytest.mark.parametrize("reach", [0.3, 2.5, 100])
def test_the_largest_turn_is_that_of_the_best_stretch(reach):
    path = np.cumsum(np.random.default_rng(0).normal(size=(30, 2)), axis=0)
    turn, place = np.abs(robot.turns(path)), robot.distances(path).cumsum()[:-1]
    best = max(turn[(place >= first) & (place <= first + reach)].sum() for first in place)
    assert math.isclose(experiment.largest_turn(path, reach), best) and experiment.largest_turn(path[:2], reach) == 0


def test_measuring(small, monkeypatch):
    runs, _ = small
    checkpoint.save(runs / "mine", random_model(), robot.Cells(chapter.SIDE),
                    {"kind": "robot-path", "step": 1, "NELBO": 7.0, "error": 0.1})
    values = experiment.measure(experiment.Command(checkpoint="mine", problems=6, rounds=1))
    ways, minus = values["ways"], values["minus"]
    assert values["failed"] == 0 and ways["model"]["free"][0] == ways["A*"]["free"][0] == 1
    assert len(values["examples"]) == 6
    assert ways["straight lines between corners"]["length"] == (1, 0)
    difference = ways["model"]["turning"][0] - ways["cubic curves"]["turning"][0]
    assert math.isclose(minus["cubic curves"]["turning"][0], difference)
    assert values["misses"].keys() == {"model", "straight lines", "cubic curves"} and values["curves"] == 8


def test_the_page_and_the_chapter_say_what_was_measured():
    values = import_module("experiments.pages").read("robot_path")
    ways, misses = values["ways"], values["misses"]
    assert values["problems"] >= 300 and values["failed"] == 0 and "dirty" not in values["origin"]["commit"]
    for name in ("turning", "length"):
        for better in ("straight lines", "cubic curves", "straight lines between corners"):
            assert ways[better][name][0] < ways["model"][name][0]
        for worse in ("midpoints", "random points", "gradient smoother", "Savitzky-Golay smoother"):
            assert ways["model"][name][0] < ways[worse][name][0]
    difference, error = values["minus"]["model without the map"]["turning"]
    assert 2 * error < difference < 5  # the constraint costs a few degrees
    assert misses["cubic curves"][0] < misses["model"][0] < misses["straight lines"][0]
    turning = {name: f"{row['turning'][0]:.0f}" for name, row in ways.items()}
    said = " ".join(chapter.__doc__.split())
    assert f"A*'s paths turn by {turning['A*']} degrees, the model's by {turning['model']}, and" in said
    assert f"straight lines across the masked waypoints by {turning['straight lines']}." in said
