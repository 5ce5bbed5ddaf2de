"""The smoothers of today's robots: each against the equation that defines it."""

import itertools

import numpy as np

from plumbing import robot_maps, robot_paths, smoothers

OPEN = np.zeros((40, 40), bool)


def staircase(steps=12):
    """A path along cells that turns at every step."""
    return np.cumsum([(5.5, 5.5), *itertools.islice(itertools.cycle([(1, 0), (0, 1)]), steps)], axis=0)


def test_the_gradient_smoother_ends_where_both_pulls_are_equal():
    path = staircase()
    smooth = smoothers.gradient(path, OPEN, refinements=0)
    pull = 0.2 * (path - smooth)[1:-1] + 0.3 * (smooth[:-2] + smooth[2:] - 2 * smooth[1:-1])
    assert np.abs(pull).max() < 1e-9 and (smooth[[0, -1]] == path[[0, -1]]).all()
    again = smoothers.gradient(smooth, OPEN, refinements=0)
    assert np.allclose(smoothers.gradient(path, OPEN, refinements=1), again)


def test_the_gradient_smoother_returns_the_last_path_without_a_collision():
    path = staircase()
    smooth = smoothers.gradient(path, OPEN)
    blocked = OPEN.copy()
    x, y = path[1]  # the corner outside of which the smooth path leaves the cells of the planner's path
    taken = {tuple(cell) for cell in np.floor(path).astype(int).tolist()}
    for cell in {tuple(cell) for cell in np.floor(smooth).astype(int).tolist()} - taken:
        blocked[cell[1], cell[0]] = True
    narrow = smoothers.gradient(path, blocked)
    assert not robot_maps.at(blocked, narrow).any()
    if blocked.any():
        assert not np.allclose(narrow, smooth)
    edge = OPEN[:6]  # the path leaves this map, so nothing can be smoothed
    assert (smoothers.gradient(path, edge) == path).all()


def test_savitzky_golay_keeps_cubic_curves_and_short_paths():
    t = np.linspace(0, 1, 40)
    cubic = np.stack((t, t**3 - t), 1)
    once = smoothers.savitzky_golay(cubic, passes=1)
    assert np.allclose(once[3:-3], cubic[3:-3])  # nearer to an end the repeated end point takes part
    assert (smoothers.savitzky_golay(cubic)[[0, -1]] == cubic[[0, -1]]).all()
    short = staircase(9)
    assert (smoothers.savitzky_golay(short) == short).all() and len(short) == 10


def test_savitzky_golay_fits_a_cubic_by_least_squares():
    place = np.arange(-3, 4)
    powers = np.vander(place, 4)
    assert np.allclose(np.linalg.pinv(powers)[3], smoothers.SAVITZKY_GOLAY)  # the fitted value at place 0


def test_a_spline_passes_its_knots_and_keeps_lines():
    line = np.linspace((0, 0), (20, 10), 41)
    assert np.allclose(smoothers.spline(line), line)
    path = staircase(16)
    dense = smoothers.spline(path, every=4)
    assert len(dense) == len(path) and (dense[[0, -1]] == path[[0, -1]]).all()
    assert np.allclose(dense[[0, 4, 8, 12, 16]], path[[0, 4, 8, 12, 16]])  # equal knots, so equal parameters


def test_a_spline_bends_least_among_curves_through_its_knots():
    knots = np.array([(0, 0), (4, 3), (8, -1), (12, 2.0)])
    path = np.concatenate([np.linspace(a, b, 50, endpoint=False) for a, b in zip(knots, knots[1:])] + [knots[-1:]])
    curve = smoothers.spline(path, every=50)
    second = np.diff(curve, 2, axis=0)
    assert np.abs(np.diff(second, axis=0)).max() < 0.02 * np.abs(second).max() + 1e-3  # no jumps
    assert np.abs(second[[0, -1]]).max() < 0.05 * np.abs(second).max()  # natural ends


def test_shortcuts_are_the_shortest_choice_of_points():
    random = np.random.default_rng(2)
    blocked = random.random((12, 12)) < 0.15
    blocked[0, 0] = blocked[11, 11] = False
    path = robot_maps.astar(blocked, np.array([0.5, 0.5]), np.array([11.5, 11.5]))
    assert len(path)
    short = smoothers.shortcuts(path, blocked)
    assert not robot_maps.collides(blocked, short[:-1], short[1:]).any()
    lengths = []
    for count in range(len(path) - 1):
        for kept in itertools.combinations(range(1, len(path) - 1), count):
            line = path[[0, *kept, len(path) - 1]]
            if not robot_maps.collides(blocked, line[:-1], line[1:]).any():
                lengths.append(robot_paths.length(line))
        if count == 3:  # more points are not needed here
            break
    assert robot_paths.length(short) <= min(lengths) + 1e-9
