"""The smoothers that a robot has today, for comparison with chapter 15. All take and return paths (N, 2) in cells.

    gradient         Nav2's "simple smoother": each point is pulled to its neighbours and to where it was
    savitzky_golay   Nav2's other smoother: a polynomial is fitted to each point's neighbours
    spline           a cubic spline through every eighth point
    shortcuts        straight lines between those points of the path that see each other, with the least length

Nav2 is the navigation system of ROS 2; both algorithms are written here after their sources in nav2_smoother.
"""

import math

import numpy as np

from plumbing import robot_maps

SAVITZKY_GOLAY = np.array([-2, 3, 6, 7, 6, 3, -2]) / 21  # cubic polynomial through seven points, value in the middle


def gradient(path, blocked, data=0.2, smooth=0.3, tolerance=1e-10, iterations=1000, refinements=2):
    """Return Nav2's simple smoother with its default weights.

    Point i moves by data (its place before - place) + smooth (sum of both neighbours - 2 place), one after the other,
    until all moves of an iteration together are below the tolerance, in metres there and in cells here. If a point
    enters a blocked cell, the result is the path before that iteration. Then the smoothed path is smoothed again.
    """
    (H, W), rows = blocked.shape, blocked.tolist()
    before, now = path.tolist(), path.tolist()
    for _ in range(iterations - 1):
        last, change = [point[:] for point in now], 0.0
        for i in range(1, len(now) - 1):
            for axis in (0, 1):
                place = now[i][axis]
                move = data * (before[i][axis] - place) + smooth * (now[i - 1][axis] + now[i + 1][axis] - 2 * place)
                now[i][axis] = place + move
                change += abs(move)
            x, y = (math.floor(place) for place in now[i])
            if not (0 <= x < W and 0 <= y < H) or rows[y][x]:
                return np.array(last)
        if change < tolerance:
            break
    else:
        return np.array(now)
    now = np.array(now)
    return gradient(now, blocked, data, smooth, tolerance, iterations, refinements - 1) if refinements else now


def savitzky_golay(path, passes=3):
    """Return Nav2's Savitzky-Golay smoother: three passes of a filter over seven points. It does not read the map.

    Beyond its ends the path stands still. Nav2 leaves paths of fewer than eleven points as they are. (Savitzky and
    Golay 1964, "Smoothing and Differentiation of Data by Simplified Least Squares Procedures".)
    """
    for _ in range(passes if len(path) > 10 else 0):
        padded = np.concatenate((path[:1].repeat(3, 0), path, path[-1:].repeat(3, 0)))
        filtered = sum(weight * padded[i : i + len(path)] for i, weight in enumerate(SAVITZKY_GOLAY))
        path = np.concatenate((path[:1], filtered[1:-1], path[-1:]))
    return path


def spline(path, every=8):
    """Return a natural cubic spline through every eighth point and both ends, with as many points as the path.

    Its second derivatives m at the knots solve a system with three diagonals (de Boor 1978, "A Practical Guide to
    Splines"). The parameter is the distance between the knots.
    """
    pieces = max(1, round((len(path) - 1) / every))
    knots = path[np.linspace(0, len(path) - 1, pieces + 1).round().astype(int)]
    h = np.hypot(*np.diff(knots, axis=0).T)[:, None]  # (K - 1, 1)
    slope = np.diff(knots, axis=0) / h
    system, right = np.eye(len(knots)), np.zeros((len(knots), 2))
    for i in range(1, len(knots) - 1):
        system[i, i - 1 : i + 2] = h[i - 1, 0], 2 * (h[i - 1, 0] + h[i, 0]), h[i, 0]
        right[i] = 6 * (slope[i] - slope[i - 1])
    m = np.linalg.solve(system, right)
    t = np.concatenate(([0], h[:, 0].cumsum()))
    wanted = np.linspace(0, t[-1], len(path))
    i = np.searchsorted(t, wanted, side="right").clip(1, len(h)) - 1
    u, v = (wanted - t[i])[:, None], (t[i + 1] - wanted)[:, None]  # from the knot before, and to the one after
    curve = (m[i] * v**3 + m[i + 1] * u**3) / (6 * h[i]) + (knots[i] / h[i] - m[i] * h[i] / 6) * v
    curve += (knots[i + 1] / h[i] - m[i + 1] * h[i] / 6) * u
    curve[[0, -1]] = path[[0, -1]]  # exactly, without errors of rounding
    return curve


def shortcuts(path, blocked):
    """Return the shortest path along straight free lines between points of `path`, found by dynamic programming."""
    N = len(path)
    i, j = np.triu_indices(N, 1)
    free = np.zeros((N, N), bool)
    for part in np.array_split(np.arange(len(i)), 1 + len(i) // 2000):  # to save memory
        free[i[part], j[part]] = ~robot_maps.collides(blocked, path[i[part]], path[j[part]])
    distance = np.where(free, np.linalg.norm(path[:, None] - path, axis=-1), np.inf)
    best, before = np.zeros(N), np.zeros(N, int)
    for k in range(1, N):
        before[k] = (best[:k] + distance[:k, k]).argmin()
        best[k] = best[before[k]] + distance[before[k], k]
    kept = [N - 1]
    while kept[-1]:
        kept.append(before[kept[-1]])
    return path[kept[::-1]]
