"""Maps and paths of a robot: map files, A*, an exact check for collisions, measures of a path, and path files.

A position on a map is (x, y), measured in cells from the lower left corner of the map. Columns and rows are counted
from 0, so the cell in column 3 of row 5 reaches from (3, 5) to (4, 6). `GridMap` converts between cells and metres. A
path is an array of positions (N, 2).
"""

import heapq
import io
import itertools
import json
import math
import warnings
from array import array
from dataclasses import dataclass
from pathlib import Path

from plumbing import files
from plumbing.cli import UserError, reason
from plumbing.text import Tokenizer

import numpy as np

# 1. Maps


@dataclass(frozen=True)
class GridMap:
    """A map of square cells."""

    blocked: np.ndarray  # (H, W) bool: True where the robot must not be; row 0 is the lowest
    resolution: float = 0.1  # metres per cell
    origin: tuple = (0.0, 0.0, 0.0)  # x and y of the lower left corner in metres, and the yaw of the map in radians

    def to_metres(self, points):
        """Convert positions (..., 2) from cells to metres."""
        x, y, yaw = self.origin
        return np.asarray(points) * self.resolution @ rotation(yaw).T + (x, y)

    def to_cells(self, points):
        """Convert positions (..., 2) from metres to cells."""
        x, y, yaw = self.origin
        return (np.asarray(points) - (x, y)) @ rotation(yaw) / self.resolution


def rotation(angle):
    """Return the matrix (2, 2) that turns a column vector counterclockwise by `angle` radians."""
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def inflate(blocked, radius):
    """Enlarge the obstacles of the map `blocked` (H, W) by `radius` cells, and return the new map.

    The new map is True where the robot's centre can't be. A cell becomes blocked if its centre is at most `radius` away
    from a blocked cell or from the edge of the map.
    """
    if 2 * radius >= min(blocked.shape):
        return np.ones_like(blocked)  # every cell is too close to the edge
    reach = math.ceil(radius)
    padded = np.pad(blocked, reach + 1, constant_values=True)
    row = np.arange(len(padded), dtype=np.int32)[:, None]
    below = row - np.maximum.accumulate(np.where(padded, row, -1))  # rows down to the nearest blocked cell
    above = np.minimum.accumulate(np.where(padded, row, len(padded))[::-1])[::-1] - row
    distance = np.minimum(below, above)[reach + 1 : -reach - 1]  # (H, W + 2 reach + 2)
    grown = blocked.copy()
    for dx in range(-reach, reach + 1):
        across = max(0, abs(dx) - 0.5)  # from the centre of a cell to the edge of the column dx away
        if across <= radius:
            column = distance[:, reach + 1 + dx :][:, : blocked.shape[1]]
            grown |= column <= math.sqrt(radius**2 - across**2) + 0.5
    return grown


# 2. The files of ROS's map server: a YAML file, and an image whose dark pixels are obstacles

LARGEST = 1 << 22  # a map has at most 2048 × 2048 cells; in a larger map, A* in Python could take minutes
FIELDS = "image", "resolution", "origin", "occupied_thresh", "free_thresh", "negate"


def load_map(path):
    """Return the GridMap that a YAML file and its image describe. Raises UserError if a file cannot be used.

    In the map server's mode "trinary", the darkness of a pixel decides whether the pixel is occupied, free or unknown.
    We block all pixels that are not free.
    """
    fields = files.read_yaml(path)
    for name in FIELDS:
        if name not in fields:
            raise UserError(f"{path} has no line {name}:")
    names = "resolution", "occupied_thresh", "free_thresh"
    resolution, occupied, free = (number(path, name, fields[name]) for name in names)
    if not isinstance(fields["origin"], list) or len(fields["origin"]) != 3:
        raise UserError(f"{path}: origin needs three numbers, [x, y, yaw]")
    origin = tuple(number(path, "origin", value) for value in fields["origin"])
    if not 1e-4 <= resolution <= 1e4:
        raise UserError(f"{path}: resolution must be from 0.0001 to 10000 metres")
    if not 0 <= free < occupied <= 1:
        raise UserError(f"{path}: free_thresh must be below occupied_thresh, and both from 0 to 1")
    if fields["negate"] not in ("0", "1", "false", "true") or fields.get("mode", "trinary") != "trinary":
        raise UserError(f"{path}: negate must be 0 or 1, and the mode trinary")
    darkness = 1 - read_image(Path(path).parent / str(fields["image"]))
    if fields["negate"] in ("1", "true"):
        darkness = 1 - darkness
    return GridMap(darkness[::-1] >= free, resolution, origin)  # the image's last row becomes row 0


def number(path, name, value):
    """Convert `value`, which comes from a map's YAML file, to a number.

    Raises UserError if that is impossible or the number is too large.
    """
    try:
        if abs(float(value)) < 1e9:  # also false for "nan"
            return float(value)
    except (TypeError, ValueError):
        pass
    raise UserError(f"{path}: {name} cannot be {value!r}")


def read_image(path):
    """Return the lightness of each pixel of a PGM, PNG or BMP file: (H, W), from 0 (black) to 1 (white).

    Raises UserError if the file cannot be used.
    """
    from PIL import Image  # imported here because it takes a moment

    data = files.read_bytes(path, limit=1 << 26)
    try:
        with warnings.catch_warnings(action="error"):  # Pillow warns of images that are too large
            image = Image.open(io.BytesIO(data), formats=("PPM", "PNG", "BMP"))
            if image.width * image.height > LARGEST:
                raise ValueError(f"{image.width} × {image.height} pixels are too many")
            if image.mode.startswith(("I", "F")):
                raise ValueError("it needs 8 bits per colour")
            if image.mode not in ("L", "LA", "RGB", "RGBA"):
                image = image.convert("RGBA" if image.has_transparency_data else "RGB")
            pixels = np.asarray(image).reshape(image.height, image.width, -1)
    except Exception as error:  # damaged bytes raise many kinds of errors
        raise UserError(f"{path} cannot be used as the image of a map: {reason(error)}") from None
    return pixels.mean(-1) / 255  # like the map server, this counts opacity as a colour


# 3. A*


def connected(free, first, last):
    """Return whether horizontal and vertical steps over free cells lead from the cell `first` to the cell `last`.

    `free` is (H, W) bool, and its cells are numbered row by row. If there is no path, this check is much faster than
    A*, which looks at every cell that it can reach. At first each cell is its own region, and each round joins all
    neighbouring regions at the same time. A few rounds are enough.
    """
    cells = np.arange(free.size, dtype=np.int32).reshape(free.shape)
    beside, above = free[:, :-1] & free[:, 1:], free[:-1] & free[1:]
    left = np.r_[cells[:, :-1][beside], cells[:-1][above]]
    right = np.r_[cells[:, 1:][beside], cells[1:][above]]
    region = cells.ravel().copy()  # for each cell, the smallest cell number known to be in its region
    while len(left):
        np.minimum.at(region, np.maximum(left, right), np.minimum(left, right))
        while (region != region[region]).any():
            region = region[region]
        left, right = region[left], region[right]
        differ = left != right
        left, right = left[differ], right[differ]
    return region[first] == region[last]


def astar(blocked, start, goal):
    """Return the shortest path (N, 2) from `start` to `goal` over the centres of free cells.

    If there is no path, the array is empty. `start` and `goal` are positions in cells. A step goes from a cell to one
    of its eight neighbours. A diagonal step is allowed only if both cells beside the step are free. (Hart, Nilsson and
    Raphael 1968, "A Formal Basis for the Heuristic Determination of Minimum Cost Paths".)
    """
    root2 = math.sqrt(2)
    free = ~np.pad(blocked, 1, constant_values=True)  # with this border, no step leaves the map
    width = free.shape[1]
    first, last = ((int(y) + 1) * width + int(x) + 1 for x, y in (start, goal))
    if not connected(free, first, last):
        return np.zeros((0, 2))
    free = free.tobytes()  # the cells are now numbered row by row
    last_y, last_x = divmod(last, width)
    steps = [(dx, dy * width, math.hypot(dx, dy)) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dx or dy]
    cost = array("d", [math.inf]) * len(free)
    before = array("q", [0]) * len(free)
    closed = bytearray(len(free))
    cost[first] = 0.0
    queue = [(0.0, 0.0, first)]
    while not closed[last]:
        here = heapq.heappop(queue)[2]
        if closed[here]:
            continue
        closed[here] = True
        for dx, dy, distance in steps:
            there = here + dx + dy
            if not free[there] or dx and dy and not (free[here + dx] and free[here + dy]):
                continue
            known = cost[here] + distance
            if known < cost[there] - 1e-9:
                cost[there] = known
                before[there] = here
                y, x = divmod(there, width)
                down, across = abs(y - last_y), abs(x - last_x)
                ahead = max(down, across) + (root2 - 1) * min(down, across)  # the distance if nothing is in the way
                heapq.heappush(queue, (known + ahead, ahead, there))
    cells = [last]
    while cells[-1] != first:
        cells.append(before[cells[-1]])
    y, x = np.divmod(cells[::-1], width)
    return np.stack((x, y), -1) - 0.5


# 4. Collisions


def collides(blocked, starts, ends):
    """Return a boolean array (S,): True for each segment that enters a blocked cell or leaves the map.

    The segments go from `starts` (S, 2) to `ends` (S, 2). The check is exact: the borders of the cells cut a segment
    into pieces, and each piece lies in a single cell. The middle of a piece shows which cell that is.
    """
    step = ends - starts  # (S, 2)
    low, high = np.minimum(starts, ends), np.maximum(starts, ends)
    count = int((np.floor(high) - np.floor(low)).max(initial=0))  # K
    lines = np.floor(low)[..., None] + np.arange(1, count + 1)  # (S, 2, K)
    with np.errstate(divide="ignore", invalid="ignore"):
        cuts = np.where(lines < high[..., None], (lines - starts[..., None]) / step[..., None], 1.0)
    cuts = np.sort(cuts.reshape(len(starts), 2 * count), axis=1)
    edges = np.concatenate((np.zeros((len(starts), 1)), cuts, np.ones((len(starts), 1))), axis=1)  # (S, 2 K + 2)
    middle = (edges[:, 1:] + edges[:, :-1]) / 2  # (S, 2 K + 1)
    return at(blocked, starts[:, None] + middle[..., None] * step[:, None]).any(1)


def at(blocked, points):
    """Return a boolean array (...,): True for each point (..., 2) that lies in a blocked cell or outside the map."""
    cells = np.floor(points).astype(int)
    H, W = blocked.shape
    inside = (cells >= 0).all(-1) & (cells[..., 0] < W) & (cells[..., 1] < H)
    cells = np.where(inside[..., None], cells, 0)
    return ~inside | blocked[cells[..., 1], cells[..., 0]]


# 5. Measures of a path


def distances(path):
    """Return the N - 1 distances between neighbouring points of a path (N, 2)."""
    return np.hypot(*np.diff(path, axis=0).T)


def length(path):
    """Return the length of a path, in the unit of its points."""
    return distances(path).sum()


def without_repeats(path):
    """If several neighbouring points in a path are equal, keep only one. (A step of length 0 has no direction.)"""
    return path[np.r_[True, distances(path) > 1e-9]]


def turns(path):
    """Return an array (N - 2,) with the angle, in radians, by which a path (N, 2) turns at each inner point.

    The angles are from -π to π, and left turns are positive. Equal neighbouring points count as one point, so there can
    be fewer than N - 2 angles.
    """
    step = np.diff(without_repeats(path), axis=0)
    angle = np.diff(np.arctan2(step[:, 1], step[:, 0]))
    return (angle + np.pi) % (2 * np.pi) - np.pi


def total_turning(path):
    """Return how much a path turns in total: the sum of all |turns|, in radians."""
    return np.abs(turns(path)).sum()


# 6. Frames


class Frames:
    """Frames are squares of side × side cells. Each of the windows (B, T, 2) of a path has its own frame.

    Each frame is scaled so that its window almost fills the frame. Then the frame is turned by a random angle, and
    shifted by a random part of a cell. So when a point is rounded to a cell, the error differs between frames.
    """

    def __init__(self, windows, side, draw):
        self.side = side
        self.middle = (windows.max(1) + windows.min(1))[:, None] / 2  # (B, 1, 2)
        reach = np.linalg.norm(windows - self.middle, axis=-1).max(1)  # (B,) from the middle to the farthest point
        self.scale = (reach / (0.85 * side / 2)).clip(1e-6)[:, None, None]  # cells of the map per cell of the frame
        self.turn = np.stack([rotation(angle) for angle in draw.uniform(0, 2 * math.pi, len(windows))])
        self.shift = side / 2 + draw.uniform(-0.5, 0.5, (len(windows), 1, 2))

    def enter(self, points):
        """Convert positions (B, N, 2) on the map to positions in the frames."""
        return (points - self.middle) / self.scale @ self.turn + self.shift

    def leave(self, points):
        """Convert positions (B, N, 2) in the frames to positions on the map."""
        return (points - self.shift) @ self.turn.transpose(0, 2, 1) * self.scale + self.middle

    def centres(self):
        """Return the centres of all cells of each frame, row by row: positions (B, side × side, 2) on the map."""
        row, column = np.divmod(np.arange(self.side**2), self.side)
        return self.leave(np.stack((column, row), -1)[None] + 0.5)


# 7. The planner's path


def point(flag, text):
    """Convert a text such as "-1.5,2" to a position (2,) in metres. Raises UserError if that is impossible."""
    try:
        x, y = map(float, text.split(","))
        if abs(x) < 1e9 and abs(y) < 1e9:  # also false for "nan"
            return np.array([x, y])
    except ValueError:
        pass
    raise UserError(f"{flag} must be two numbers in metres such as {flag} -1.5,2, not {text!r}")


def plan(grid, blocked, start, goal):
    """Return the A* path (N, 2) from `start` to `goal`, in cells. Raises UserError if there is no path.

    `grid` is the GridMap, and `blocked` is the inflated map. `start` and `goal` are texts such as "-1.5,2", in
    metres. The path begins exactly at `start` and ends exactly at `goal`, not at the centres of cells.
    """
    ends = []
    for flag, text in (("--start", start), ("--goal", goal)):
        end = grid.to_cells(point(flag, text))
        if not ((end >= 0) & (end < blocked.shape[::-1])).all():
            raise UserError(f"{flag} {text} is outside of the map: {extent(grid)}")
        if at(blocked, end):
            is_obstacle = at(grid.blocked, end)
            where = "in an obstacle or in unknown space" if is_obstacle else "too near an obstacle or the map's edge"
            raise UserError(f"{flag} {text} is {where}: choose another point, or lower --radius")
        ends.append(end)
    cells = astar(blocked, *ends)
    if not len(cells):
        raise UserError("no path leads from --start to --goal: choose other points, or lower --radius")
    return np.concatenate((ends[:1], cells[1:-1], ends[1:]))


def extent(grid):
    """Return the extent of a GridMap in metres, as a string."""
    H, W = grid.blocked.shape
    corners = grid.to_metres([(0, 0), (W, 0), (0, H), (W, H)])
    (left, low), (right, high) = corners.min(0), corners.max(0)
    return f"x is from {left:g} to {right:g}, y from {low:g} to {high:g}"


def evenly(path, count):
    """Return `count` equally spaced points of a path. The first and the last point are the ends of the path."""
    along = np.r_[0, distances(path).cumsum()]
    places = np.linspace(0, along[-1], count)
    points = np.stack([np.interp(places, along, axis) for axis in path.T], -1)
    points[[0, -1]] = path[[0, -1]]
    return points


def waypoints(path, blocked, least, spacing):
    """Return at least `least` equally spaced points of a path. Neighbouring points are about `spacing` apart.

    If the line between two neighbouring points collides with an obstacle, the function tries again with more points. If
    it finds no free path, it returns `path` itself.
    """
    count = max(least, math.ceil(length(path) / spacing) + 1)
    while count < 20 * len(path):
        points = evenly(path, count)
        if not collides(blocked, points[:-1], points[1:]).any():
            return points
        count += 1 + count // 8
    return path


# 8. Generated maps

RADIUS = 2.0  # number of cells by which the obstacles of generated maps are inflated


def random_map(seed):
    """Return a generated GridMap with boxes, round pillars, and walls with doors.

    The map has 100 × 100 cells, and each cell is 0.1 m wide.
    """
    draw = np.random.default_rng(seed)
    side = 100
    blocked = np.zeros((side, side), bool)
    y, x = np.mgrid[:side, :side] + 0.5
    for _ in range(draw.integers(0, 4)):  # walls from one side to the other, each with one or two doors
        lowest = draw.integers(side // 5, side * 4 // 5)
        thickness = draw.integers(1, 4)
        wall = np.zeros((side, side), bool)
        wall[lowest : lowest + thickness] = True
        for _ in range(draw.integers(1, 3)):
            door = draw.integers(0, side - 14)
            wall[:, door : door + draw.integers(9, 15)] = False
        blocked |= wall if draw.random() < 0.5 else wall.T
    for _ in range(draw.integers(6, 22)):
        centre_x, centre_y = draw.uniform(0, side, 2)
        size = draw.uniform(2, 9)
        if draw.random() < 0.5:
            blocked |= np.hypot(x - centre_x, y - centre_y) < size * 0.7
        else:
            turn = draw.uniform(0, np.pi / 2)
            height = draw.uniform(1, 4)
            along, across = np.stack((x - centre_x, y - centre_y), -1).dot(rotation(turn)).transpose(2, 0, 1)
            blocked |= (np.abs(along) < size) & (np.abs(across) < height)
    return GridMap(blocked)


def random_problem(seed):
    """Return a generated GridMap, its inflated cells, a start, and a goal. A path from the start to the goal exists.

    The start and the goal are centres of free cells, and at least 50 cells apart.
    """
    for attempt in itertools.count():
        draw = np.random.default_rng((seed, attempt))
        grid = random_map(draw.integers(1 << 30))
        inflated = inflate(grid.blocked, RADIUS)
        free = np.argwhere(~inflated)[:, ::-1] + 0.5  # (N, 2)
        start, goal = free[draw.integers(len(free), size=2)]
        if math.dist(start, goal) >= 50 and len(astar(inflated, start, goal)):
            return grid, inflated, start, goal


# 9. Files of a path, and its picture


def write_csv(path, points):
    """Write positions (N, 2) in metres as a CSV file with the columns x and y."""
    with files.whole_file(path) as partial:
        partial.write_text("x,y\n" + "".join(f"{x:.4f},{y:.4f}\n" for x, y in points), encoding="utf-8")


def write_message(path, points):
    """Write positions (N, 2) in metres as the JSON of a ROS 2 message nav_msgs/Path in the frame "map".

    Each pose looks towards the next pose. The last pose keeps the direction of the pose before it. All time stamps are
    zero.
    """
    header = {"stamp": {"sec": 0, "nanosec": 0}, "frame_id": "map"}
    step = np.diff(points, axis=0)
    heading = np.arctan2(step[:, 1], step[:, 0]).tolist()
    poses = []
    for (x, y), yaw in zip(points.tolist(), [*heading, heading[-1]]):
        orientation = {"x": 0.0, "y": 0.0, "z": math.sin(yaw / 2), "w": math.cos(yaw / 2)}
        pose = {"position": {"x": x, "y": y, "z": 0.0}, "orientation": orientation}
        poses.append({"header": header, "pose": pose})
    with files.whole_file(path) as partial:
        partial.write_text(json.dumps({"header": header, "poses": poses}, indent=1) + "\n", encoding="utf-8")


COLORS = "#BB5566", "#004488", "#DDAA33"  # colours of the first, second and third path of a picture


def draw_map(axes, blocked, inflated, paths):
    """Draw a map (H, W), its inflated cells, and its paths {name: (N, 2)} in cells. `axes` come from matplotlib."""
    H, W = blocked.shape
    shade = np.where(blocked, 0.35, np.where(inflated, 0.8, 1.0))
    axes.imshow(shade, origin="lower", extent=(0, W, 0, H), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    for (name, path), color in zip(paths.items(), COLORS):
        axes.plot(*path.T, "-", lw=1.6, color=color, label=name)
    axes.plot(*path[[0, -1]].T, "o", ms=4, color="black")
    axes.set(xticks=[], yticks=[], xlim=(0, W), ylim=(0, H))


# 10. The tokenizer


class Cells(Tokenizer):
    """The tokenizer of a square of side × side cells. A cell's token is row × side + column."""

    kind, unit = "cells", "waypoint"

    def __init__(self, side):
        if type(side) is not int or not 1 <= side <= 256:
            raise ValueError(f"the side of a square of cells must be from 1 to 256, not {side!r}")
        self.vocabulary = side
        self.vocab_size = side * side

    def decode(self, tokens):
        """Draw `tokens`, a list or a 1-D tensor: return a string that shows the cell of each token as an o.

        Each line of the string stands for two rows of cells. Row 0 is in the last line. Masks are not drawn.
        """
        side = self.vocabulary
        lines = [[" "] * side for _ in range((side + 1) // 2)]
        for token in self.checked(tokens):
            if token != self.mask_id:
                lines[token // side // 2][token % side] = "o"
        return "\n".join("".join(line).rstrip() for line in reversed(lines))
