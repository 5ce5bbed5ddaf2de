"""Show a text while a sampler writes it: in a terminal, as a line on stderr, as a GIF, or as a web page.

Every view has the methods `show` and `close`. `show(state)` is called after each pass, with a State of chapter 04.
`close()` ends the view. If the view is a file, `close()` returns its path. `leaves_text` says whether the text stays on
the screen when the view is closed.

`canvas` (B, T) is the canvas with which the sampler begins, and its unmasked tokens are the given text. `shown` is a
list with the text that stands for each token. The mask comes last.
"""

import functools
import importlib.util
import json
import math
import os
import shutil
import sys
import time
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from plumbing.cli import UserError, printable
from plumbing.files import ROOT, whole_file

from tqdm import tqdm


def page(state, given, shown, width, measure=len):
    """Return all samples of a State, one below the other, as a list of rows. A row is a list of (text, style) cells.

    Each row is at most `width` wide, and `measure(text)` returns the width of a cell. `given` (B, T) is True where a
    token was given.
    """
    rows = []
    mask = len(shown) - 1
    nothing = state.canvas.new_full(state.canvas.shape, -1)
    drafts = getattr(state, "drafts", nothing)  # chapter 13: the drafts of this pass, and -1 elsewhere
    parts = zip(state.canvas.tolist(), drafts.tolist(), given.tolist(), state.committed.tolist())
    for number, cells in enumerate(parts, 1):
        if len(given) > 1:
            rows.append([(f"sample {number} of {len(given)}", "note")])
        rows.append([])
        for token, draft, is_given, is_new in zip(*cells):
            style = "given" if is_given else "new" if is_new else "old"
            if token == mask:
                token, style = (draft, "refused") if draft >= 0 else (mask, "mask")
            for i, part in enumerate(shown[token].split("\n")):
                part = printable(part)
                used = sum(measure(text) for text, _ in rows[-1])
                if i or used and used + measure(part) > width:
                    rows.append([])
                if part:
                    rows[-1].append((part, style))
    return rows


def tail(rows, height):
    """Return the first `height` rows. If text is written below them, return `height` rows that end with this text."""
    written = [i for i, row in enumerate(rows) if any(style not in ("mask", "note") for _, style in row)]
    end = min(len(rows), max(height, max(written, default=0) + 1))
    return rows[max(0, end - height) : end]


# While the text is written


def live(canvas, shown, title):
    """Return a Terminal view if stdout is a terminal, otherwise a Line view."""
    usable = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    return (Terminal if usable else Line)(canvas, shown, title)


class Line:
    """Shows the number of passes and the speed on one line of stderr. This view is used if stdout is not a terminal."""

    leaves_text = False

    def __init__(self, canvas, shown, title):
        self.given, self.shown, self.title = canvas != len(shown) - 1, shown, title
        self.passes = 0
        self.began = time.perf_counter()
        self.bar = tqdm(bar_format="{desc}", mininterval=1, disable=isinstance(self, Terminal))

    def text(self, state):
        written = int((state.canvas != len(self.shown) - 1).sum() - self.given.sum())
        speed = written / (time.perf_counter() - self.began)
        return f"pass {self.passes} · {speed:,.0f} letters/s · {self.title}"

    def show(self, state):
        self.passes += 1
        self.bar.set_description_str(self.text(state), refresh=False)
        self.bar.update()

    def close(self):
        self.bar.close()


class Terminal(Line):
    """Draws each State over the previous State. Below the State is the status line that the class Line shows."""

    leaves_text = True
    COLORS = {"mask": "2", "note": "2", "given": "36", "new": "30;43", "refused": "31;9", "old": "0"}
    drawn = 0  # rows of the last drawing

    def show(self, state, whole=False):
        size = shutil.get_terminal_size()
        self.passes += not whole
        self.state = state
        rows = page(state, self.given, self.shown, max(1, size.columns - 1))
        if not whole:
            rows = tail(rows, max(1, size.lines - 3))
        up = f"\x1b[{self.drawn}A" if self.drawn else ""  # the cursor goes up, to the first row
        lines = [self.paint(row) for row in rows] + ["", self.text(state)[: size.columns - 1]]
        print("\r" + up + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J", end="", flush=True)
        self.drawn = len(lines)

    def paint(self, row):
        """Return a row of cells as a string, with the terminal's codes for colours."""
        line = ""
        for style, cells in groupby(row, key=lambda cell: cell[1]):
            text = "".join(text for text, _ in cells)
            line += text if os.environ.get("NO_COLOR") else f"\x1b[{self.COLORS[style]}m{text}\x1b[0m"
        return line

    def close(self):
        nothing = self.state.committed & False
        self.show(replace(self.state, committed=nothing), whole=True)


# Files


class Gif:
    """Writes an animated GIF with at most 200 frames, and at most 40 rows of text in each frame."""

    leaves_text = False
    SIZE, HIGH, WIDE = 16, 22, 640  # in pixels: size of a letter, height of a row, width of the text
    PAPER = (22, 24, 29)
    INK = {"old": (226, 226, 222), "mask": (92, 99, 114), "given": (111, 211, 197), "new": (240, 190, 80),
           "note": (128, 134, 148), "refused": (224, 92, 92)}

    def __init__(self, path, canvas, shown):
        check_path(path, ".gif")
        self.path, self.given, self.shown, self.states = path, canvas != len(shown) - 1, shown, []
        self.tamil = any("\u0b80" <= text[:1] <= "\u0bff" for text in shown)
        self.font = open_font(self.tamil, self.SIZE)
        self.cell = functools.cache(self.draw_cell)

    def show(self, state):
        self.states.append(state)

    def close(self):
        from PIL import Image

        chosen = [*self.states[: -1 : math.ceil(len(self.states) / 200)], self.states[-1]]
        pages = [tail(page(state, self.given, self.shown, self.WIDE, lambda text: self.cell(text, "old").width), 40)
                 for state in chosen]
        size = (self.WIDE + 2 * self.SIZE, max(map(len, pages)) * self.HIGH + 2 * self.SIZE)
        frames = []
        for rows in pages:
            frame = Image.new("RGB", size, self.PAPER)
            for y, row in enumerate(rows):
                x = self.SIZE
                for text, style in row:
                    frame.paste(self.cell(text, style), (x, self.SIZE + y * self.HIGH))
                    x += self.cell(text, style).width
            frames.append(frame.quantize(32))
        times = [max(40, min(200, 6000 // len(frames)))] * (len(frames) - 1) + [2000]  # milliseconds
        with whole_file(self.path) as path:
            frames[0].save(path, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0)
        return self.path

    def draw_cell(self, text, style):
        """Return a picture of the letter `text`. If `text` is the mask, the picture shows a box."""
        from PIL import Image

        wide = 20 if self.tamil else 10
        if text == self.shown[-1]:
            picture = Image.new("RGB", (wide, self.HIGH), self.PAPER)
            picture.paste(self.INK[style], (1, 3, wide - 1, self.HIGH - 3))
            return picture
        self.font.set_text(text, 0)
        self.font.draw_glyphs_to_bitmap()
        ink = Image.fromarray(self.font.get_image())
        top = self.HIGH - 6 + round(self.font.get_descent() / 64) - ink.height
        picture = Image.new("RGB", (max(ink.width, 10), self.HIGH), self.PAPER)
        picture.paste(self.INK[style], (0, top), ink)
        return picture


def open_font(tamil, size):
    """Return a matplotlib font. Unlike Pillow, matplotlib places Tamil vowel signs correctly around their consonant."""
    from matplotlib.ft2font import FT2Font

    package, name = ("fontpkg_noto_sans_tamil", "*.ttf") if tamil else ("matplotlib", "DejaVuSansMono.ttf")
    found = importlib.util.find_spec(package)
    if found is None:
        raise UserError("pictures of Tamil need its font: pip install -r requirements-dev.txt")
    font = FT2Font(str(next(Path(found.origin).parent.rglob(name))))
    font.set_size(size, 72)  # at 72 dots per inch, a point is a pixel
    return font


class Page:
    """Writes a web page that plays the passes. The page is plumbing/player.html with the passes copied into it as JSON.

    `events[pass]` lists [position, token, confidence in %] for each token that the pass wrote or changed.
    `guesses[pass]` is a string with one base-36 digit for each position, masked or not. The digit is the confidence
    times 35, rounded.
    """

    leaves_text = False

    def __init__(self, path, canvas, shown, title):
        check_path(path, ".html")
        self.path, self.shown, self.title, self.before = path, shown, title, canvas.tolist()
        self.samples = [{"start": row, "events": [[]], "guesses": ["0" * len(row)]} for row in self.before]

    def show(self, state):
        canvas = state.canvas.tolist()
        parts = zip(self.samples, self.before, canvas, state.confidence.tolist(), state.committed.tolist())
        for sample, before, tokens, sure, new in parts:
            changed = [i for i, token in enumerate(tokens) if new[i] or token != before[i]]
            sample["events"].append([[i, tokens[i], round(100 * sure[i])] for i in changed])
            digits = "0123456789abcdefghijklmnopqrstuvwxyz"
            sample["guesses"].append("".join(digits[round(35 * min(max(share, 0), 1))] for share in sure))
        self.before = canvas

    def close(self):
        passes = len(self.samples[0]["events"]) - 1
        run = {"title": f"{passes} passes", "facts": self.title, "letters": self.shown, "mask": len(self.shown) - 1,
               "samples": self.samples}
        # In a <script> element, "</script" and "<!--" have a meaning even inside a JSON string.
        data = json.dumps(run, separators=(",", ":")).replace("<", "\\u003c").replace(">", "\\u003e")
        player = (ROOT / "plumbing" / "player.html").read_text(encoding="utf-8")
        with whole_file(self.path) as path:
            path.write_text(player.replace("__RUN__", data), encoding="utf-8")
        return self.path


def check_path(path, suffix):
    """Raise UserError if `path` has another suffix or cannot be written. Call this before the sampling starts."""
    if path.suffix.lower() != suffix:
        raise UserError(f"the path {str(path)!r} must end in {suffix}")
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise UserError(f"cannot write {str(path)!r}: it is a folder or write-protected, or its folder is not there")
