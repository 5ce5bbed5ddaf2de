"""Maps of a robot: the map server's thresholds, inflation, A* against a plain search, exact checks of collisions."""

import itertools
import math

import numpy as np
import pytest
from helpers import refusal
from PIL import Image

from plumbing import robot_maps


def write_map(folder, pixels, **changes):
    """Write pixels (H, W) or (H, W, channels) and a YAML file into `folder`. Returns the path of the YAML file."""
    Image.fromarray(np.asarray(pixels, np.uint8)).save(folder / ("map.png" if np.ndim(pixels) == 3 else "map.pgm"))
    fields = {"image": "map.png" if np.ndim(pixels) == 3 else "map.pgm", "resolution": 0.05, "origin": [0, 0, 0],
              "occupied_thresh": 0.65, "free_thresh": 0.25, "negate": 0} | changes  # fmt: skip
    (folder / "map.yaml").write_text("".join(f"{k}: {v}\n" for k, v in fields.items() if v is not None))
    return folder / "map.yaml"


def values(pixels, **fields):
    shades = np.asarray(pixels, float)[..., None].repeat(3, -1) / 255
    opaque = np.concatenate((shades, np.ones_like(shades[..., :1])), -1)
    return robot_maps.cell_values((opaque, False), {"occupied_thresh": 0.65, "free_thresh": 0.2, "negate": False,
                                                    "mode": "trinary"} | fields).tolist()  # fmt: skip


# 1. Files of the map server


def test_dark_is_occupied_light_is_free_and_between_is_unknown():
    assert values([0, 89, 90, 203, 205, 255]) == [100, 100, -1, -1, 0, 0]  # (255 - 89) / 255 = 0.651, 50 / 255 = 0.196


def test_a_threshold_itself_is_neither_occupied_nor_free():
    assert values([255 * 0.25, 255 * 0.75], occupied_thresh=0.75, free_thresh=0.25) == [-1, -1]


def test_negate_reverses_the_shades_and_not_the_thresholds():
    assert values([0, 50, 51, 165, 166, 255], negate=True) == [0, 0, -1, -1, 100, 100]


def test_scale_spreads_the_middle_and_raw_takes_the_pixel():
    middle = 255 * (1 - (0.2 + 0.65) / 2)
    assert values([0, middle, 255], mode="scale") == [100, 50, 0]
    assert values([0, 7, 100, 101, 255], mode="raw") == [0, 7, 100, -1, -1]


def test_transparent_pixels():
    """They are unknown in the mode scale. In trinary, opacity is averaged in as if it were a colour."""
    pixels = np.array([[1, 1, 1, 0.0], [1, 1, 1, 1.0], [0, 0, 0, 1.0]])
    fields = {"occupied_thresh": 0.7, "free_thresh": 0.2, "negate": False}
    assert robot_maps.cell_values((pixels, True), fields | {"mode": "scale"}).tolist() == [-1, 0, 100]
    assert robot_maps.cell_values((pixels, True), fields | {"mode": "trinary"}).tolist() == [-1, 0, 100]
    assert robot_maps.cell_values((pixels, False), fields | {"mode": "trinary"}).tolist() == [0, 0, 100]


def test_a_map_from_files(tmp_path):
    """The last row of the image is the lowest row of the map, and only free cells are open."""
    grid = robot_maps.load_map(write_map(tmp_path, [[0, 255, 255], [128, 255, 255]], origin=[-1, 2, 0]))
    assert grid.blocked.tolist() == [[True, False, False], [True, False, False]]
    assert grid.to_metres([0, 0]).tolist() == [-1, 2] and np.allclose(grid.to_metres([3, 2]), [-0.85, 2.1])
    upper = robot_maps.load_map(write_map(tmp_path, [[0, 255], [255, 255]]))
    assert upper.blocked.tolist() == [[False, False], [True, False]]
    alpha = [[[255, 255, 255, 255], [255, 255, 255, 0]]]
    assert robot_maps.load_map(write_map(tmp_path, alpha, mode="scale")).blocked.tolist() == [[False, True]]


def test_the_origin_is_a_pose_and_conversions_are_inverse():
    grid = robot_maps.GridMap(np.zeros((4, 6), bool), 0.5, (1.0, -2.0, math.pi / 2))
    assert np.allclose(grid.to_metres([2, 0]), [1.0, -1.0])  # the map's x axis points along y
    points = np.random.default_rng(0).normal(size=(20, 2))
    assert np.allclose(grid.to_metres(grid.to_cells(points)), points)


@pytest.mark.parametrize("changes, part", [
    ({"resolution": None}, "resolution"), ({"resolution": 0}, "resolution"), ({"resolution": "fine"}, "resolution"),
    ({"resolution": ".nan"}, "finite"), ({"origin": "[0, 0]"}, "origin"), ({"origin": 3}, "origin"),
    ({"mode": "colour"}, "mode"), ({"free_thresh": 0.9}, "free_thresh"), ({"image": "other.pgm"}, "other.pgm"),
    ({"negate": None}, "negate"), ({"image": "map.yaml"}, "damaged"), ({"image": "."}, "damaged")])  # fmt: skip
def test_a_damaged_description_ends_with_one_message(tmp_path, changes, part):
    assert part in refusal(robot_maps.load_map, write_map(tmp_path, [[255, 0]], **changes))


def test_a_damaged_map_ends_with_one_message(tmp_path):
    assert "no map" in refusal(robot_maps.load_map, tmp_path / "none.yaml")
    path = write_map(tmp_path, np.full((30, 30), 255))
    image = (tmp_path / "map.pgm").read_bytes()
    for damaged in (image[:200], image[:4], b"", b"P5\n99999 99999\n255\n", b"not a picture"):
        (tmp_path / "map.pgm").write_bytes(damaged)
        refusal(robot_maps.load_map, path)
    for text in ("- 1\n- 2\n", "{", "\x00", ""):
        path.write_text(text)
        refusal(robot_maps.load_map, path)
    path.write_bytes(b"\xff\xfe\x00")
    refusal(robot_maps.load_map, path)


# 2. Inflation, A* and collisions


@pytest.mark.parametrize("radius", [0, 0.5, 1.5, 2.2, 3])
def test_inflation_is_the_distance_from_a_centre_to_a_blocked_square(radius):
    blocked = np.random.default_rng(1).random((14, 17)) < 0.03
    walls = np.pad(blocked, 4, constant_values=True)
    row, column = np.indices(blocked.shape)[..., None]  # (H, W, 1) each
    apart = [(np.abs(at - to) - 0.5).clip(0) for at, to in zip((row, column), (np.argwhere(walls) - 4).T)]
    assert (robot_maps.inflate(blocked, radius) == (blocked | (np.hypot(*apart) <= radius).any(-1))).all()


def distances(blocked, start):
    """The length of the shortest path from `start` to every cell, by improving all cells until none gets better."""
    cost = np.full(blocked.shape, np.inf)
    cost[start] = 0
    cells = [tuple(cell) for cell in np.argwhere(~blocked)]
    changed = True
    while changed:
        changed = False
        for y, x in cells:
            for dy, dx in itertools.product((-1, 0, 1), repeat=2):
                to = (y + dy, x + dx)
                open_ = 0 <= to[0] < len(cost) and 0 <= to[1] < cost.shape[1] and not blocked[to]
                if open_ and not blocked[y, to[1]] and not blocked[to[0], x]:
                    if cost[y, x] + math.hypot(dy, dx) < cost[to] - 1e-9:
                        cost[to], changed = cost[y, x] + math.hypot(dy, dx), True
    return cost


@pytest.mark.parametrize("seed", range(4))
def test_a_star_finds_the_shortest_path_and_cuts_no_corners(seed):
    blocked = np.random.default_rng(seed).random((9, 11)) < 0.3
    blocked[0, 0] = False
    cost = distances(blocked, (0, 0))
    for y, x in np.ndindex(blocked.shape):
        path = robot_maps.astar(blocked, np.array([0.5, 0.5]), np.array([x + 0.2, y + 0.9]))
        if blocked[y, x] or np.isinf(cost[y, x]):
            assert len(path) == 0
            continue
        assert (path[0] == 0.5).all() and (path[-1] == (x + 0.5, y + 0.5)).all()
        assert math.isclose(np.linalg.norm(np.diff(path, axis=0), axis=1).sum(), cost[y, x], abs_tol=1e-6)
        assert not robot_maps.collides(blocked, path[:-1], path[1:]).any()


def test_collisions_are_those_of_dense_samples():
    random = np.random.default_rng(0)
    blocked = random.random((12, 15)) < 0.2
    starts, ends = random.uniform((-1, -1), (16, 13), (2, 400, 2))
    starts[:20] = ends[:20] + (0, 1e-3)  # short segments, horizontal ones and vertical ones
    starts[20:40, 0], starts[40:60, 1] = ends[20:40, 0], ends[40:60, 1]
    share = np.linspace(0, 1, 4001)[:, None]
    found = robot_maps.collides(blocked, starts, ends)
    for a, b, collided in zip(starts, ends, found):
        sampled = robot_maps.at(blocked, a + share * (b - a)).any()
        assert collided or not sampled  # samples may miss the corner of a cell, and the check may not
        if collided and not sampled:
            assert robot_maps.at(blocked, a + np.linspace(0, 1, 400_001)[:, None] * (b - a)).any()
    assert found.any() and not found.all()


def test_a_corner_that_samples_miss():
    blocked = np.zeros((2, 2), bool)
    blocked[0, 1] = True
    assert robot_maps.collides(blocked, [[0.0, 0.0]], [[1.9, 1.9]]).tolist() == [False]  # only touches the corner
    assert robot_maps.collides(blocked, [[0.0, 0.0]], [[1.9, 1.9 - 1e-9]]).tolist() == [True]
    assert robot_maps.collides(blocked, [], []).tolist() == []


def test_clearance_is_the_distance_to_the_nearest_square():
    blocked = np.zeros((5, 5), bool)
    blocked[2, 3] = True
    assert np.allclose(robot_maps.clearance(blocked, [(1.0, 2.5), (3.5, 2.5), (2.0, 4.0)]), [2, 0, math.sqrt(2)])
    assert np.isinf(robot_maps.clearance(blocked & False, [(1, 1)])).all()


def test_generated_problems_have_a_solution_and_are_repeatable():
    grid, blocked, start, goal = robot_maps.random_problem((3, 4))
    again = robot_maps.random_problem((3, 4))
    assert (grid.blocked == again[0].blocked).all() and (start == again[2]).all() and (goal == again[3]).all()
    assert not robot_maps.at(blocked, np.stack((start, goal))).any() and math.dist(start, goal) >= 50
    assert len(robot_maps.astar(blocked, start, goal)) and (blocked >= grid.blocked).all()
