"""Plumbing: three ways to watch a sampler's states: the terminal, a GIF, a web page. No torch needed here."""

import codecs
import contextlib
import functools
import importlib.util
import io
import itertools
import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

from plumbing import cli, files, tokenizers

PLAYER = files.ROOT / "plumbing" / "player.html"


# ---- A state as rows of styled cells, for the terminal and the GIF ----


def page(state, given, letters, width, measure=len):
    """Rows of (text, style) cells, at most `width` wide, all samples below one another.

    given: (B, T) bool, the positions that were never masked. letters: what each token id looks like.
    measure: text → its width; a letter of Tamil takes at most a terminal's column for each of its code points.
    """
    rows = []
    cells = zip(state.canvas.tolist(), state.committed.tolist(), given)
    for number, (tokens, committed, fixed) in enumerate(cells, 1):
        if len(state.canvas) > 1:
            rows += [[]] if rows else []
            rows.append([(character, "note") for character in f"sample {number} of {len(state.canvas)}"])
        rows.append([])
        used = 0
        for token, text, new, kept in zip(tokens, whole_characters(tokens, letters), committed, fixed):
            style = "mask" if token == len(letters) - 1 else "given" if kept else "new" if new else "old"
            for i, part in enumerate(text.split("\n")):
                # A control code in somebody's corpus must not reach the screen.
                part = "".join(c if c.isprintable() else " " for c in part)
                if i or part and rows[-1] and used + measure(part) > width:
                    rows.append([])
                    used = 0
                if part:
                    rows[-1].append((part, style))
                    used += measure(part)
    return rows


def whole_characters(tokens, letters):
    """What each of `tokens` shows. A token of words may hold some bytes of a character only, as lone surrogates:
    the character stands where its last byte is, and what never gets whole shows as such."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    shown = [decoder.decode(letters[token].encode("utf-8", "surrogateescape")) for token in tokens]
    shown[-1] += decoder.decode(b"", final=True)
    return shown


def tail(rows, height):
    """The last `height` rows, ending where there is text: masks that wait below are of no interest yet."""
    written = [i for i, row in enumerate(rows) if any(style not in ("mask", "note") for _, style in row)]
    end = min(len(rows), max(height, max(written, default=0) + 1))
    return rows[max(0, end - height) : end]


# ---- View 1: the terminal ----

SGR = {"mask": "2", "note": "2", "given": "36", "new": "30;43", "old": ""}


class Terminal:
    """Redraws the page in place. `with` gives the cursor back however the run ends."""

    def __init__(self, given, letters, out):
        self.given, self.letters, self.out = given, letters, out
        self.colour, self.drawn, self.size = not os.environ.get("NO_COLOR"), 0, None

    def __enter__(self):
        self.out.write("\x1b[?25l")
        return self

    def __exit__(self, *_):
        self.out.write("\x1b[?25h")
        self.out.flush()

    def paint(self, row):
        line = ""
        for style, cells in itertools.groupby(row, key=lambda cell: cell[1]):
            text = "".join(text for text, _ in cells)
            line += f"\x1b[{SGR[style]}m{text}\x1b[0m" if self.colour and SGR[style] else text
        return line

    def draw(self, state, status, whole=False):
        """One state and its status line. `whole`: all of it, for scrolling back, however small the screen."""
        size = shutil.get_terminal_size()
        if size != self.size:
            self.drawn, self.size = 0, size  # old rows were wrapped anew by the resize: start below them
        rows = page(state, self.given, self.letters, max(1, size.columns - 1))
        if not whole:
            rows = tail(rows, max(1, size.lines - 3))
        rows += [[], [(character, "note") for character in status[: size.columns - 1]]]
        up = f"\x1b[{self.drawn}A" if self.drawn else ""
        self.out.write(f"\r{up}\x1b[J" if whole else f"\r{up}")
        self.out.write("".join(self.paint(row) + "\x1b[K\n" for row in rows) + "\x1b[J")
        self.out.flush()
        self.drawn = len(rows)


# ---- View 2: a GIF ----

GIF_COLUMNS, GIF_ROWS, GIF_FRAMES, FONT_SIZE = 64, 40, 200, 16
PAPER, AMBER = (22, 24, 29), (240, 190, 80)
INK = {  # style: (background, foreground); "old" first, so that colour 0 is the paper
    "old": (PAPER, (226, 226, 222)),
    "mask": (PAPER, (92, 99, 114)),
    "given": (PAPER, (111, 211, 197)),
    "new": (AMBER, (30, 24, 8)),
    "note": (PAPER, (128, 134, 148)),
}
SHADES = 6  # from background to foreground: 5 styles × 6 shades fit a palette of 32, 5 bits a pixel
PALETTE = [
    round(back + (front - back) * shade / (SHADES - 1))
    for paper, ink in INK.values() for shade in range(SHADES) for back, front in zip(paper, ink)
]  # r, g, b, r, g, b, …


def gif_bytes(history, given, letters):
    """The states as an animated GIF, the last one held for two seconds."""
    from PIL import Image, ImageDraw

    font, shaped = monospace_font(), tamil_font(letters)
    wide, high, margin = math.ceil(font.getlength("M")), round(1.4 * FONT_SIZE), FONT_SIZE

    @functools.cache
    def tile(text, style):
        if shaped and style != "note":
            glyph = draw_tamil(shaped, text, wide, high)
        else:
            glyph = Image.new("L", (wide * len(text), high))
            for i, character in enumerate(text):
                ImageDraw.Draw(glyph).text(((i + 0.5) * wide, 0.72 * high), character, fill=255, font=font, anchor="ms")
        first = SHADES * list(INK).index(style)
        return glyph.point([first + round(value * (SHADES - 1) / 255) for value in range(256)])

    # A long run is thinned out. "New" is then what changed since the frame before; nothing is in the last.
    shown = [*history[: -1 : math.ceil(len(history) / GIF_FRAMES)], history[-1], history[-1]]
    shown[1:] = [replace(now, committed=now.canvas != before.canvas) for before, now in zip(shown, shown[1:])]
    width = wide * max(24, min(GIF_COLUMNS, len(given[0]) * (2 if shaped else 1)))
    pages = [page(state, given, letters, width, lambda text: tile(text, "old").width) for state in shown]
    height, frames = min(GIF_ROWS, max(map(len, pages))), []
    for rows, state in zip(pages, shown):
        rows = tail(rows, height)
        rows += [[]] * (height + 1 - len(rows))
        rows.append([(character, "note") for character in f"step {state.step}/{history[-1].step}"])
        frame = Image.new("L", (width + 2 * margin, len(rows) * high + 2 * margin))
        for y, row in enumerate(rows):
            x = margin
            for cell in row:
                frame.paste(tile(*cell), (x, margin + y * high))
                x += tile(*cell).width
        frame.putpalette(PALETTE)
        frames.append(frame)
    pace = max(40, min(200, 6000 // len(frames)))  # ms: about six seconds in all
    durations = [600] + [pace] * (len(frames) - 2) + [2000]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return file.getvalue()


def monospace_font():
    """DejaVu Sans Mono as matplotlib brings it, else as the system has it, else Pillow's own font."""
    from PIL import ImageFont

    matplotlib = importlib.util.find_spec("matplotlib")
    bundled = Path(matplotlib.origin).parent / "mpl-data/fonts/ttf" if matplotlib else Path()
    for name in (bundled / "DejaVuSansMono.ttf", "DejaVuSansMono.ttf"):
        with contextlib.suppress(OSError):
            return ImageFont.truetype(str(name), FONT_SIZE)
    return ImageFont.load_default(size=FONT_SIZE)


def tamil_font(letters):
    """The font to draw Tamil with if `letters` has any, else None. UserError if it is not installed.

    It is matplotlib's font object, which shapes: signs come to stand before, around or within their consonant.
    """
    if not any("\u0b80" <= letter[0] <= "\u0bff" for letter in letters if letter):
        return None
    path = tamil_font_file()
    from matplotlib.ft2font import FT2Font

    font = FT2Font(str(path))
    font.set_size(FONT_SIZE, 72)  # at 72 dots an inch a point is a pixel
    return font


def tamil_font_file():
    """The path of Noto Sans Tamil. UserError if it, or matplotlib, which can shape it, is not installed."""
    package = importlib.util.find_spec("fontpkg_noto_sans_tamil")
    files = sorted(Path(package.origin).parent.rglob("*.ttf")) if package and package.origin else []
    if not files or not importlib.util.find_spec("matplotlib"):
        raise cli.UserError("pictures of Tamil need its font: pip install fontpkg-noto-sans-tamil matplotlib")
    return files[0]


def draw_tamil(font, text, wide, high):
    """One letter as a grey picture of its own width, `high` pixels high; a mask as a box, which the font lacks."""
    from PIL import Image

    if text == tokenizers.MASK_CHAR:
        box = Image.new("L", (2 * wide, high))
        box.paste(110, (1, 3, 2 * wide - 1, high - 3))
        return box
    font.set_text(text, 0)
    font.draw_glyphs_to_bitmap()
    ink, below = Image.fromarray(font.get_image()), round(font.get_descent() / 64)
    glyph = Image.new("L", (max(ink.width, wide // 2), high))
    glyph.paste(ink, (0, round(0.72 * high) + below - ink.height))
    return glyph


# ---- View 3: a web page ----


def html_page(history, letters, title, facts):
    """One self-contained page: plumbing/player.html with the run as JSON in it.

    events[step] lists [position, token, probability in %] for what changed; guesses[step] has one base-36
    digit a position, the confidence there, so that the page can show how sure the model is while it waits.
    """
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    samples = []
    for row in range(len(history[0].canvas)):
        events, guesses, before = [], [], history[0].canvas[row].tolist()
        for state in history:
            tokens, sure = state.canvas[row].tolist(), state.confidence[row].tolist()
            changes = [i for i, (old, new) in enumerate(zip(before, tokens)) if old != new]
            events.append([[i, tokens[i], round(100 * sure[i])] for i in changes])
            guesses.append("".join(digits[round(35 * min(max(c, 0.0), 1.0))] for c in sure))
            before = tokens
        samples.append({"start": history[0].canvas[row].tolist(), "events": events, "guesses": guesses})
    run = {
        "title": title, "facts": facts, "letters": letters, "mask": len(letters) - 1,
        "samples": samples,
    }
    # Inside <script>, "</script" and "<!--" would end or bend the element even within a JSON string.
    data = json.dumps(run, separators=(",", ":")).replace("<", "\\u003c").replace(">", "\\u003e")
    return PLAYER.read_text(encoding="utf-8").replace("__RUN__", data)


def save(path, data):
    with files.whole_file(path) as temporary:
        temporary.write_bytes(data)
    return f"{len(data) / 1000:,.0f} kB"
