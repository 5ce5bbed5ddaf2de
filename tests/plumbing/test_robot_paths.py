"""Paths of a robot: turning, frames, the planner's path and the files."""

import json
import math

import numpy as np
import pytest
from helpers import refusal

from plumbing import robot_maps, robot_paths

SQUARE = np.array([(0, 0), (2, 0), (2, 2), (0, 2), (0, 0)], float)


def test_turns_of_a_square_in_both_directions():
    assert np.allclose(robot_paths.turns(SQUARE), math.pi / 2)
    assert np.allclose(robot_paths.turns(SQUARE[::-1]), -math.pi / 2)
    assert math.isclose(robot_paths.total_turning(SQUARE[::-1]), 1.5 * math.pi)
    assert robot_paths.length(SQUARE) == 8
    doubled = SQUARE.repeat(2, 0)
    assert np.allclose(robot_paths.turns(doubled), robot_paths.turns(SQUARE))
    assert len(robot_paths.turns(SQUARE[:1].repeat(4, 0))) == 0 and robot_paths.largest_turn(SQUARE[:2], 1) == 0


def test_a_polygon_inside_a_circle_turns_by_less_than_a_full_circle():
    angle = np.linspace(0, 2 * math.pi, 200)
    circle = np.stack((np.cos(angle), np.sin(angle)), 1)
    assert math.isclose(robot_paths.turns(circle).sum(), 2 * math.pi * 198 / 199, rel_tol=1e-6)


@pytest.mark.parametrize("reach", [0.3, 2.0, 2.5, 4.5, 100])
def test_the_largest_turn_is_that_of_the_best_stretch(reach):
    random = np.random.default_rng(0)
    path = np.cumsum(random.normal(size=(30, 2)), axis=0)
    turn, place = np.abs(robot_paths.turns(path)), np.linalg.norm(np.diff(path, axis=0), axis=1).cumsum()[:-1]
    best = max(turn[(place >= first) & (place <= first + reach)].sum() for first in place)
    assert math.isclose(robot_paths.largest_turn(path, reach), best)


def test_samples_and_even_points_lie_on_the_path():
    dense = robot_paths.samples(SQUARE, 0.3)
    assert np.linalg.norm(np.diff(dense, axis=0), axis=1).max() <= 0.3
    assert {tuple(point) for point in SQUARE} <= {tuple(point) for point in dense}
    even = robot_paths.evenly(SQUARE, 17)
    assert np.allclose(np.linalg.norm(np.diff(even, axis=0), axis=1), 0.5)
    assert (even[[0, -1]] == SQUARE[[0, -1]]).all()


def test_frames_are_inverse_and_contain_their_windows():
    random = np.random.default_rng(0)
    windows = np.cumsum(random.normal(size=(5, 24, 2)), axis=1) * np.array([1, 0.01, 10, 3, 1])[:, None, None]
    frames = robot_paths.Frames(windows, 48, random)
    inside = frames.enter(windows)
    assert np.allclose(frames.leave(inside), windows) and inside.min() > 1 and inside.max() < 47
    steps = [np.linalg.norm(np.diff(points, axis=1), axis=-1) for points in (windows, inside)]
    assert np.allclose(steps[0] / steps[0][:, :1], steps[1] / steps[1][:, :1])  # angles and proportions are kept
    centres = frames.enter(frames.centres())
    assert np.allclose(centres[:, 48 * 5 + 7], (7.5, 5.5))


def test_waypoints_are_dense_enough_not_to_collide():
    blocked = np.zeros((40, 40), bool)
    blocked[0:19, 0:19] = True
    path = 0.5 + np.array([(x, 19) for x in range(20)] + [(19, y) for y in range(18, -1, -1)])
    points = robot_paths.waypoints(path, blocked, 4, 9.0)
    assert len(points) > 5 and not robot_maps.collides(blocked, points[:-1], points[1:]).any()
    assert (points[[0, -1]] == path[[0, -1]]).all()
    assert len(robot_paths.waypoints(path, blocked & False, 4, 9.0)) == 6


# The planner's path on a user's map


def grid():
    blocked = np.zeros((20, 30), bool)
    blocked[5:, 15] = True
    blocked[:, 25] = True
    return robot_maps.GridMap(blocked, 0.5, (-5.0, -2.0, 0.0))


def plan(start, goal, radius=1.0):
    return robot_paths.plan(grid(), robot_maps.inflate(grid().blocked, radius), start, goal)


def test_a_plan_ends_exactly_at_the_points():
    path = plan("-3.7,2.3", "5,5.1")
    assert np.allclose(grid().to_metres(path[[0, -1]]), [(-3.7, 2.3), (5, 5.1)])
    blocked = robot_maps.inflate(grid().blocked, 1.0)
    assert not robot_maps.collides(blocked, path[:-1], path[1:]).any()
    assert len(plan("-3.7,2.3", "-3.71,2.31")) == 2


@pytest.mark.parametrize("start, goal, part", [
    ("0", "1,1", "--start"), ("1,1", None, "--goal"), ("1,nan", "1,1", "--start"), ("a,b", "1,1", "two numbers"),
    ("1,1,1", "1,1", "two numbers"), ("-6,0", "1,1", "outside"), ("1,1", "1,99", "y from -2 to 8"),
    ("2.7,4", "1,1", "in an obstacle"), ("2.2,4", "1,1", "too near"), ("0,0", "9,0", "no path")])  # fmt: skip
def test_points_that_cannot_be_used(start, goal, part):
    assert part in refusal(plan, start, goal)


def test_files_of_a_path(tmp_path, capsys):
    path, world = plan("-3.7,2.3", "5,5.1"), grid()
    robot_paths.write_files(tmp_path / "new", world, world.blocked, {"A*": path, "model": path[::2]})
    rows = np.loadtxt(tmp_path / "new" / "path.csv", delimiter=",", skiprows=1)
    assert np.allclose(rows, world.to_metres(path[::2]), atol=1e-4)
    message = json.loads((tmp_path / "new" / "path.json").read_text())
    assert message["header"]["frame_id"] == "map" and len(message["poses"]) == len(rows)
    pose = message["poses"][0]["pose"]
    yaw = 2 * math.atan2(pose["orientation"]["z"], pose["orientation"]["w"])
    step = (rows[1] - rows[0]) / np.linalg.norm(rows[1] - rows[0])
    assert np.allclose((math.cos(yaw), math.sin(yaw)), step, atol=1e-3)
    assert set(pose["position"]) == {"x", "y", "z"} and set(pose["orientation"]) == {"x", "y", "z", "w"}
    assert (tmp_path / "new" / "path.png").stat().st_size > 1000 and "path.csv" in capsys.readouterr().out
    refusal(robot_paths.write_files, tmp_path / "new" / "path.csv", world, world.blocked, {"A*": path})
