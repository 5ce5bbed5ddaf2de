"""Maps of a robot: the files of ROS's map server, generated maps, inflation, A*, and exact checks of collisions.

A position on a map is (x, y) in cells: x counts columns from the left and y counts rows from below, so the cell in
column 3 of row 5 reaches from (3, 5) to (4, 6). `GridMap` converts positions to metres and back.
"""

import heapq
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from plumbing import cli

OCCUPIED, FREE, UNKNOWN = 100, 0, -1  # the values of a cell, as in the ROS message nav_msgs/OccupancyGrid
FIELDS = {"image": str, "resolution": float, "origin": list, "occupied_thresh": float, "free_thresh": float,
          "negate": bool}  # fmt: skip
MODES = ("trinary", "scale", "raw")
LARGEST = 1 << 24  # cells of a map, 4096 × 4096; more would take minutes


# 1. Maps


@dataclass(frozen=True)
class GridMap:
    """A map of square cells."""

    blocked: np.ndarray  # (H, W) bool: True where the robot must not be; row 0 is the lowest
    resolution: float = 0.1  # metres per cell
    origin: tuple = (0.0, 0.0, 0.0)  # x and y of the lower left corner in metres, and the yaw of the map in radians

    def to_metres(self, points):
        """Return positions (..., 2) in cells as (x, y) in metres, in the frame of the map."""
        x, y, yaw = self.origin
        return np.asarray(points) * self.resolution @ rotation(yaw).T + (x, y)

    def to_cells(self, points):
        """Return positions (..., 2) in metres as positions in cells."""
        x, y, yaw = self.origin
        return (np.asarray(points) - (x, y)) @ rotation(yaw) / self.resolution


def rotation(angle):
    """Return the matrix (2, 2) that turns a column vector counterclockwise by `angle` radians."""
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def inflate(blocked, radius):
    """Return blocked (H, W) grown by `radius` cells: (H, W), True where the centre of a cell is at most that far from a
    blocked cell, or from the outside of the map. A point that moves over the other cells stands for a round robot.
    """
    reach, W = math.ceil(radius), blocked.shape[1]
    padded = np.pad(blocked, reach + 1, constant_values=True)
    row = np.arange(len(padded))[:, None]
    below = row - np.maximum.accumulate(np.where(padded, row, -1))  # rows down to the nearest blocked cell
    above = np.minimum.accumulate(np.where(padded, row, len(padded))[::-1])[::-1] - row
    distance = np.minimum(below, above)[reach + 1 : -reach - 1]  # (H, W + 2 reach + 2)
    grown = blocked.copy()
    for dx in range(-reach, reach + 1):
        across = max(0, abs(dx) - 0.5)  # from the centre of a cell to the edge of the column dx away
        if across <= radius:
            grown |= distance[:, reach + 1 + dx : reach + 1 + dx + W] <= math.sqrt(radius**2 - across**2) + 0.5
    return grown


# 2. The files of ROS's map server


def load_map(path):
    """Return the GridMap in a YAML file and its image, read as ROS's map server reads them. UserError if it cannot be.

    Each pixel becomes occupied, free or unknown (see `cell_values`). The robot may only be in free cells.
    """
    path = Path(path)
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise cli.UserError(f"there is no map {path}") from None
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        raise cli.UserError(f"{path} is not a YAML file: {str(error).splitlines()[0]}") from None
    fields = checked_fields(path, fields)
    values = cell_values(read_image(path.parent / fields["image"]), fields)
    return GridMap(values[::-1] != FREE, fields["resolution"], tuple(fields["origin"]))  # the image's last row is y = 0


def checked_fields(path, fields):
    """Return the fields of a map's YAML file, each with its type. UserError names the first that is wrong."""
    if not isinstance(fields, dict):
        raise cli.UserError(f"{path} must hold lines of the form name: value")
    mode, checked = fields.get("mode", "trinary"), {}
    for name, kind in FIELDS.items():
        try:
            values = fields[name] if name == "origin" else [fields[name]]
            values = [kind(value) if kind is not list else float(value) for value in values]
        except KeyError:
            raise cli.UserError(f"{path} has no line {name}:") from None
        except (TypeError, ValueError):
            raise cli.UserError(f"{path}: {name} cannot be {fields[name]!r}") from None
        if kind is not str and not all(math.isfinite(value) for value in values):
            raise cli.UserError(f"{path}: {name} must be finite")
        checked[name] = values if name == "origin" else values[0]
    if len(checked["origin"]) != 3 or checked["resolution"] <= 0:
        raise cli.UserError(f"{path}: origin needs three numbers (x, y, yaw), and resolution must be above 0")
    if not 0 <= checked["free_thresh"] < checked["occupied_thresh"] <= 1:
        raise cli.UserError(f"{path}: free_thresh must be below occupied_thresh, and both from 0 to 1")
    if mode not in MODES:
        raise cli.UserError(f"{path}: mode is {mode!r}; choose from {', '.join(MODES)}")
    return checked | {"mode": mode}


def read_image(path):
    """Return an image as (H, W, 4) numbers from 0 to 1: red, green, blue and opacity; and whether it has opacity."""
    from PIL import Image  # imported here because it takes a moment

    try:
        with Image.open(path) as image:
            if image.width * image.height > LARGEST:
                raise cli.UserError(f"{path} has {image.width} × {image.height} pixels, which is too large for a map")
            depth = 65535 if image.mode.startswith("I") else 255
            opaque = not (image.has_transparency_data or "A" in image.mode)
            if depth == 65535:
                pixels = np.asarray(image, dtype=float)[..., None].repeat(4, axis=2)
                pixels[..., 3] = depth
            else:
                pixels = np.asarray(image.convert("RGBA"), dtype=float)
    except FileNotFoundError:
        raise cli.UserError(f"there is no map image {path}") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise cli.UserError(f"the map image {path} is damaged: {str(error).splitlines()[0]}") from None
    return pixels / depth, not opaque


def cell_values(picture, fields):
    """Return the value of each pixel (H, W): OCCUPIED, FREE, UNKNOWN, or a probability from 1 to 99 percent.

    picture: from `read_image`. A dark pixel is occupied, with `negate` a light one. In the mode trinary a pixel between
    the two thresholds is unknown; scale spreads such pixels over the percentages, and transparent ones are unknown; raw
    takes the pixel itself (0 to 255) as the value, unless it is above 100. The thresholds themselves are neither free
    nor occupied. (nav2_map_server, map_io.cpp; wiki.ros.org/map_server.)
    """
    pixels, transparent = picture
    mode, low, high = fields["mode"], fields["free_thresh"], fields["occupied_thresh"]
    channels = pixels if mode == "trinary" and transparent else pixels[..., :3]  # in this mode opacity is a colour too
    shade = channels.mean(-1)  # (H, W)
    if mode == "raw":
        value = np.round(shade * 255)
        return np.where(value <= 100, value, UNKNOWN).astype(int)
    occupancy = shade if fields["negate"] else 1 - shade
    between = UNKNOWN if mode == "trinary" else np.rint((occupancy - low) / (high - low) * 100)
    value = np.where(occupancy > high, OCCUPIED, np.where(occupancy < low, FREE, between))
    return (value if mode == "trinary" else np.where(pixels[..., 3] < 1, UNKNOWN, value)).astype(int)


# 3. Generated maps


def random_map(seed, side=100):
    """Return a generated GridMap of side × side cells of 0.1 m: walls with doors, boxes and round pillars."""
    random = np.random.default_rng(seed)
    blocked = np.zeros((side, side), bool)
    y, x = np.mgrid[:side, :side] + 0.5
    for _ in range(random.integers(0, 4)):  # walls from one side to the other, each with one or two doors
        at, thick = random.integers(side // 5, side * 4 // 5), random.integers(1, 4)
        wall = np.zeros((side, side), bool)
        wall[at : at + thick] = True
        for _ in range(random.integers(1, 3)):
            door, wide = random.integers(0, side - 14), random.integers(9, 15)
            wall[:, door : door + wide] = False
        blocked |= wall if random.random() < 0.5 else wall.T
    for _ in range(random.integers(6, 22)):
        cx, cy, size = *random.uniform(0, side, 2), random.uniform(2, 9)
        if random.random() < 0.5:
            blocked |= np.hypot(x - cx, y - cy) < size * 0.7
        else:
            turn, tall = random.uniform(0, np.pi / 2), random.uniform(1, 4)
            along, across = np.stack((x - cx, y - cy), -1).dot(rotation(turn)).transpose(2, 0, 1)
            blocked |= (np.abs(along) < size) & (np.abs(across) < tall)
    return GridMap(blocked)


def random_problem(seed, radius=2.0, apart=50):
    """Return (GridMap, inflated cells, start, goal). The ends are free cells' centres, `apart` cells or more apart."""
    for attempt in range(1000):
        random = np.random.default_rng((seed, attempt))
        grid = random_map(random.integers(1 << 30))
        inflated = inflate(grid.blocked, radius)
        free = np.argwhere(~inflated)
        start, goal = free[random.integers(len(free), size=2)][:, ::-1] + 0.5 if len(free) else np.zeros((2, 2))
        if np.hypot(*(goal - start)) >= apart and len(astar(inflated, start, goal)):
            return grid, inflated, start, goal
    raise AssertionError("no problem found")


# 4. A*


def astar(blocked, start, goal):
    """Return the shortest path over eight neighbours as centres of cells (N, 2), or an empty array if there is none.

    start, goal: positions in cells. A diagonal step needs both cells beside it to be free. (Hart, Nilsson and Raphael
    1968, "A Formal Basis for the Heuristic Determination of Minimum Cost Paths".)
    """
    W, root2 = blocked.shape[1], math.sqrt(2)
    free = (~np.pad(blocked, 1, constant_values=True)).ravel().tolist()
    V = W + 2
    first, last = ((int(p[1]) + 1) * V + int(p[0]) + 1 for p in (start, goal))
    gy, gx = divmod(last, V)
    steps = [(dy * V + dx, math.hypot(dx, dy), dx, dy * V) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dx or dy]
    cost, came, queue, closed = {first: 0.0}, {}, [(0.0, 0.0, first)], set()
    while queue:
        _, _, here = heapq.heappop(queue)
        if here == last:
            break
        if here in closed:
            continue
        closed.add(here)
        for step, length, dx, dy in steps:
            there = here + step
            if not free[there] or (dx and dy and not (free[here + dx] and free[here + dy])):
                continue
            known = cost[here] + length
            if known < cost.get(there, math.inf) - 1e-9:
                cost[there], came[there] = known, here
                y, x = divmod(there, V)
                y, x = abs(y - gy), abs(x - gx)
                ahead = max(x, y) + (root2 - 1) * min(x, y)
                heapq.heappush(queue, (known + ahead, ahead, there))
    if last not in cost or not free[first]:
        return np.zeros((0, 2))
    cells = [last]
    while cells[-1] != first:
        cells.append(came[cells[-1]])
    return np.array([(i % V - 0.5, i // V - 0.5) for i in reversed(cells)])


# 5. Collisions and clearance


def collides(blocked, starts, ends):
    """Return whether each segment from starts (S, 2) to ends (S, 2) enters a blocked cell or leaves the map: (S,) bool.

    The check is exact. Every crossing of a segment with a line between cells cuts it into pieces, and a piece lies in
    the cell of its middle.
    """
    starts, ends = np.reshape(starts, (-1, 2)).astype(float), np.reshape(ends, (-1, 2)).astype(float)
    step = ends - starts  # (S, 2)
    low, high = np.minimum(starts, ends), np.maximum(starts, ends)
    count = int((np.floor(high) - np.floor(low)).max(initial=0))  # K
    lines = np.floor(low)[..., None] + np.arange(1, count + 1)  # (S, 2, K)
    with np.errstate(divide="ignore", invalid="ignore"):
        cuts = np.where(lines < high[..., None], (lines - starts[..., None]) / step[..., None], 1.0)
    cuts = np.sort(cuts.reshape(len(starts), 2 * count), axis=1)
    edges = np.concatenate((np.zeros((len(starts), 1)), cuts, np.ones((len(starts), 1))), axis=1)
    middle = (edges[:, 1:] + edges[:, :-1]) / 2  # (S, 2 K + 1)
    return at(blocked, starts[:, None] + middle[..., None] * step[:, None]).any(1)


def at(blocked, points):
    """Return whether each of points (..., 2) lies in a blocked cell or outside of the map: (...,) bool."""
    cells = np.floor(points).astype(int)
    H, W = blocked.shape
    inside = (cells >= 0).all(-1) & (cells[..., 0] < W) & (cells[..., 1] < H)
    cells = np.where(inside[..., None], cells, 0)
    return ~inside | blocked[cells[..., 1], cells[..., 0]]


def clearance(blocked, points):
    """Return the distance in cells from each of points (N, 2) to the nearest blocked cell's square: (N,)."""
    rows, columns = np.nonzero(blocked)
    points = np.asarray(points)
    best = np.full(len(points), np.inf)  # there may be no blocked cell
    for part in np.array_split(np.arange(len(rows)), 1 + len(rows) * len(points) // 2_000_000):  # to save memory
        dx = np.abs(points[:, :1] - (columns[part] + 0.5)) - 0.5
        dy = np.abs(points[:, 1:] - (rows[part] + 0.5)) - 0.5
        best = np.minimum(best, np.hypot(dx.clip(0), dy.clip(0)).min(1, initial=np.inf))
    return best
