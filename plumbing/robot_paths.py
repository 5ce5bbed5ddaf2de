"""Paths of a robot: measures, frames for chapter 15's model, and files that a robot reads. Paths are arrays (N, 2)."""

import json
import math

import numpy as np

from plumbing import cli, figures, files, robot_maps

# 1. Measures


def length(path):
    """Return the length of a path, in the unit of its points."""
    return np.hypot(*np.diff(path, axis=0).T).sum()


def without_repeats(path):
    """Return a path without points that repeat the point before them. They have no direction."""
    return path[np.r_[True, np.hypot(*np.diff(path, axis=0).T) > 1e-9]]


def turns(path):
    """Return by how many radians a path (N, 2) turns at each inner point, (N - 2,): from -π to π, to the left above 0.

    Points that repeat the point before them are left out.
    """
    step = np.diff(without_repeats(path), axis=0)
    angle = np.diff(np.arctan2(step[:, 1], step[:, 0]))
    return (angle + np.pi) % (2 * np.pi) - np.pi


def total_turning(path):
    """Return the sum of the angles by which a path turns, to the left or to the right, in radians."""
    return np.abs(turns(path)).sum()


def largest_turn(path, reach):
    """Return the largest sum of |turns| in any stretch of a path that is `reach` long, in radians."""
    path = without_repeats(path)
    turn = np.abs(turns(path))
    if not len(turn):
        return 0.0
    place = np.hypot(*np.diff(path, axis=0).T).cumsum()[:-1]  # of each turn, along the path
    total = np.r_[0, turn.cumsum()]
    return (total[np.searchsorted(place, place + reach, side="right")] - total[:-1]).max()


def samples(path, step=0.25):
    """Return points on a path, at most `step` apart, with all points of the path among them: (M, 2)."""
    counts = np.ceil(np.hypot(*np.diff(path, axis=0).T) / step).astype(int).clip(1)
    parts = [a + (b - a) * np.arange(count)[:, None] / count for a, b, count in zip(path, path[1:], counts)]
    return np.concatenate((*parts, path[-1:]))


# 2. Frames


class Frames:
    """Squares of side × side cells, one over each of windows (B, T, 2) of a path.

    Each is scaled so that its window almost fills it, turned by a random angle, and moved by a random part of a cell.
    So its cells are not those of the map, and the error of rounding a point to a cell is different in each frame.
    """

    def __init__(self, windows, side, random):
        self.side = side
        self.middle = (windows.max(1) + windows.min(1))[:, None] / 2  # (B, 1, 2)
        reach = np.linalg.norm(windows - self.middle, axis=-1).max(1)  # (B,) from the middle to the farthest point
        self.scale = (reach / (0.85 * side / 2)).clip(1e-6)[:, None, None]  # cells of the map per cell of the frame
        self.turn = np.stack([robot_maps.rotation(angle) for angle in random.uniform(0, 2 * math.pi, len(windows))])
        self.shift = side / 2 + random.uniform(-0.5, 0.5, (len(windows), 1, 2))

    def enter(self, points):
        """Return positions (B, N, 2) on the map as positions in the frames."""
        return (points - self.middle) / self.scale @ self.turn + self.shift

    def leave(self, points):
        """Return positions (B, N, 2) in the frames as positions on the map."""
        return (points - self.shift) @ self.turn.transpose(0, 2, 1) * self.scale + self.middle

    def centres(self):
        """Return the centres of all cells, row by row, as positions on the map: (B, side × side, 2)."""
        row, column = np.divmod(np.arange(self.side**2), self.side)
        return self.leave(np.stack((column, row), -1)[None] + 0.5)


# 3. The planner's path


def point(flag, text):
    """Return the position (2,) that a text such as "-1.5,2" means, in metres. UserError if it means none."""
    try:
        x, y = map(float, (text or "").split(","))
        if math.isfinite(x) and math.isfinite(y):
            return np.array([x, y])
    except ValueError:
        pass
    raise cli.UserError(f"{flag} must be two numbers in metres such as {flag} -1.5,2, not {text!r}")


def plan(grid, blocked, start, goal):
    """Return the A* path (N, 2) in cells between two points, texts such as "-1.5,2". UserError if there is none.

    grid: the GridMap; blocked: its inflated cells. The path ends exactly at the points, not at centres of cells.
    """
    ends = []
    for flag, text in (("--start", start), ("--goal", goal)):
        ends.append(grid.to_cells(point(flag, text)))
        if not ((ends[-1] >= 0) & (ends[-1] < blocked.shape[::-1])).all():
            raise cli.UserError(f"{flag} {text} is outside of the map: {extent(grid)}")
        if robot_maps.at(blocked, ends[-1]):
            where = "in an obstacle or in unknown space" if robot_maps.at(grid.blocked, ends[-1]) else (
                "too near an obstacle or the edge of the map")
            raise cli.UserError(f"{flag} {text} is {where}: choose another point, or lower --radius")
    cells = robot_maps.astar(blocked, *ends)
    if not len(cells):
        raise cli.UserError("no path leads from --start to --goal: choose other points, or lower --radius")
    return np.concatenate((ends[:1], cells[1:-1], ends[1:]))


def extent(grid):
    """Return which positions in metres a GridMap covers, as a text."""
    H, W = grid.blocked.shape
    corners = grid.to_metres([(0, 0), (W, 0), (0, H), (W, H)])
    (left, low), (right, high) = corners.min(0), corners.max(0)
    return f"x is from {left:g} to {right:g}, y from {low:g} to {high:g}"


def evenly(path, count):
    """Return `count` points at equal distances along a path, with both of its ends: (count, 2)."""
    along = np.r_[0, np.hypot(*np.diff(path, axis=0).T).cumsum()]
    places = np.linspace(0, along[-1], count)
    points = np.stack([np.interp(places, along, axis) for axis in path.T], -1)
    points[[0, -1]] = path[[0, -1]]
    return points


def waypoints(path, blocked, least, spacing):
    """Return points at equal distances of about `spacing` along a path: at least `least`, and more if lines between
    them collide. If no number of points is enough, the path itself is returned."""
    count = max(least, math.ceil(length(path) / spacing) + 1)
    while count < 20 * len(path):
        points = evenly(path, count)
        if not robot_maps.collides(blocked, points[:-1], points[1:]).any():
            return points
        count += 1 + count // 8
    return path


# 4. Files


def write_csv(path, points):
    """Write positions (N, 2) in metres as lines x,y below a line that names the columns."""
    with files.whole_file(path) as partial:
        partial.write_text("x,y\n" + "".join(f"{x:.4f},{y:.4f}\n" for x, y in points), encoding="utf-8")


def write_message(path, points):
    """Write positions (N, 2) in metres as the JSON of a ROS 2 message nav_msgs/Path in the frame "map".

    Each pose looks towards the next one, and the last one as the one before it. The time stamps are zero.
    """
    header = {"stamp": {"sec": 0, "nanosec": 0}, "frame_id": "map"}
    step = np.diff(points, axis=0)
    heading = np.arctan2(step[:, 1], step[:, 0])
    poses = [{"header": header, "pose": {
        "position": {"x": x, "y": y, "z": 0.0},
        "orientation": {"x": 0.0, "y": 0.0, "z": math.sin(yaw / 2), "w": math.cos(yaw / 2)},
    }} for (x, y), yaw in zip(points.tolist(), [*heading.tolist(), *heading[-1:].tolist()])]
    with files.whole_file(path) as partial:
        partial.write_text(json.dumps({"header": header, "poses": poses}, indent=1) + "\n", encoding="utf-8")


def draw(axes, blocked, inflated, paths, colors):
    """Draw a map (H, W), its inflated cells and paths {name: (N, 2)} in cells into `axes`. colors: {name: colour}."""
    H, W = blocked.shape
    shade = np.where(blocked, 0.35, np.where(inflated, 0.8, 1.0))
    axes.imshow(shade, origin="lower", extent=(0, W, 0, H), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    for name, path in paths.items():
        axes.plot(*path.T, "-", lw=1.6, color=colors[name], label=name)
    axes.plot(*next(iter(paths.values()))[[0, -1]].T, "o", ms=4, color="black")
    axes.set(xticks=[], yticks=[], xlim=(0, W), ylim=(0, H))


def write_files(folder, grid, blocked, paths):
    """Write the last of paths {name: (N, 2) in cells} to FOLDER/path.csv and path.json, and all of them to path.png."""
    *_, last = paths.values()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise cli.UserError(f"{folder} is not a folder: name one with --out") from None
    write_csv(folder / "path.csv", grid.to_metres(last))
    write_message(folder / "path.json", grid.to_metres(last))
    figure, axes = figures.pyplot().subplots(figsize=(7, 7), layout="constrained")
    draw(axes, grid.blocked, blocked, paths, dict(zip(paths, (figures.COLORS["other"], figures.COLORS["dllm"]))))
    axes.legend()
    figures.write_figure(figure, folder / "path.png", dpi=130)
    figures.pyplot().close(figure)
    print(f"wrote path.csv, path.json and path.png into {folder}")
