"""Three ways to watch the States of a sampler: the terminal, a GIF and a web page.

`given` is always a list of B lists of T bools: True where a token was given and not written by the model. `letters` is
always the list of what each token id looks like, from `shown_tokens`; its last entry is the mask.
"""

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
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from plumbing import cli, files, foreign, tokenizers

PLAYER = files.ROOT / "plumbing" / "player.html"


# 1. A State as rows of styled cells, for the terminal and the GIF


def shown_tokens(tokenizer):
    """Return what each token id looks like: a list of vocab_size + 1 strings, the last one for the mask."""
    letters = getattr(tokenizer, "letters", None)  # only tokenizers whose tokens may be parts of a character have it
    return letters or [tokenizer.decode([i]) for i in range(tokenizer.vocab_size)] + [tokenizers.MASK_CHAR]


def page(state, given, letters, width, measure=len):
    """Return all samples of a State, one below the other: a list of rows of (text, style) cells, at most `width` wide.

    measure: a function that returns the width of a text. In a terminal it is at most one column per code point.
    """
    rows, mask = [], len(letters) - 1
    drafts = getattr(state, "drafts", None)  # chapter 13: where a draft was refused, the canvas still has a mask
    seen = state.canvas if drafts is None else drafts.where((state.canvas == mask) & (drafts >= 0), state.canvas)
    cells = zip(state.canvas.tolist(), seen.tolist(), state.committed.tolist(), given)
    for number, (canvas, tokens, committed, fixed) in enumerate(cells, 1):
        if len(state.canvas) > 1:
            rows += [[]] if rows else []
            rows.append([(character, "note") for character in f"sample {number} of {len(state.canvas)}"])
        rows, used = rows + [[]], 0
        for final, token, text, new, kept in zip(canvas, tokens, whole_characters(tokens, letters), committed, fixed):
            written = "given" if kept else "new" if new else "old"
            style = "refused" if token != final else "mask" if token == mask else written
            for i, part in enumerate(text.split("\n")):
                part = foreign.printable(part.replace("\t", " "), limit=None)
                if i or part and rows[-1] and used + measure(part) > width:
                    rows, used = rows + [[]], 0
                if part:
                    rows[-1].append((part, style))
                    used += measure(part)
    return rows


def whole_characters(tokens, letters):
    """Return the text that each of `tokens` shows: a list of strings.

    A token of a word model may hold only some bytes of a character, as lone surrogates. The token that holds the last
    byte then shows the character. Bytes that form no character show as the replacement character.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    shown = [decoder.decode(letters[token].encode("utf-8", "surrogateescape")) for token in tokens]
    shown[-1] += decoder.decode(b"", final=True)
    return shown


def tail(rows, height):
    """Return the last `height` rows that contain text, without rows of masks below them if there is no room."""
    written = [i for i, row in enumerate(rows) if any(style not in ("mask", "note") for _, style in row)]
    end = min(len(rows), max(height, max(written, default=0) + 1))
    return rows[max(0, end - height) : end]


# 2. The terminal

SGR = {"mask": "2", "note": "2", "given": "36", "new": "30;43", "old": "", "refused": "31;9"}  # colours


class Terminal:
    """Redraws the page in place. As a `with` statement, it hides the cursor and shows it again at the end."""

    def __init__(self, given, letters, out):
        self.given, self.letters, self.out = given, letters, out
        self.colour, self.drawn, self.size = not os.environ.get("NO_COLOR"), 0, None

    def __enter__(self):
        # If the system asks the program to end, __exit__ must still run.
        self.handler = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        self.out.write("\x1b[?25l")
        return self

    def __exit__(self, *_):
        self.out.write("\x1b[?25h")
        self.out.flush()
        signal.signal(signal.SIGTERM, self.handler)

    def paint(self, row):
        """Return a row of cells as one string with colour codes."""
        line = ""
        for style, cells in itertools.groupby(row, key=lambda cell: cell[1]):
            text = "".join(text for text, _ in cells)
            line += f"\x1b[{SGR[style]}m{text}\x1b[0m" if self.colour and SGR[style] else text
        return line

    def draw(self, state, status, whole=False):
        """Draw one State and its status line. whole: draw all rows, even if they do not fit on the screen."""
        size = shutil.get_terminal_size()
        if size != self.size:
            self.drawn, self.size = 0, size  # the terminal wraps the old rows differently now: start below them
        rows = page(state, self.given, self.letters, max(1, size.columns - 1))
        if not whole:
            rows = tail(rows, max(1, size.lines - 3))
        rows += [[], [(character, "note") for character in status[: size.columns - 1]]]
        up = f"\x1b[{self.drawn}A" if self.drawn else ""
        self.out.write(f"\r{up}\x1b[J" if whole else f"\r{up}")
        self.out.write("".join(self.paint(row) + "\x1b[K\n" for row in rows) + "\x1b[J")
        self.out.flush()
        self.drawn = len(rows)


# 3. A GIF

GIF_COLUMNS, GIF_ROWS, GIF_FRAMES, FONT_SIZE = 64, 40, 200, 16
PAPER, AMBER = (22, 24, 29), (240, 190, 80)
INK = {  # style: (background, foreground); "old" is first, so that colour 0 is the background of the page
    "old": (PAPER, (226, 226, 222)), "mask": (PAPER, (92, 99, 114)), "given": (PAPER, (111, 211, 197)),
    "new": (AMBER, (30, 24, 8)), "note": (PAPER, (128, 134, 148)), "refused": (PAPER, (224, 92, 92)),
}
SHADES = 5  # from background to foreground: 6 styles × 5 shades fit into a palette of 32 colours, 5 bits per pixel
PALETTE = [round(back + (front - back) * shade / (SHADES - 1))  # r, g, b, r, g, b, …
           for paper, ink in INK.values() for shade in range(SHADES) for back, front in zip(paper, ink)]


def gif_bytes(history, given, letters):
    """Return the States in the list `history` as an animated GIF, in bytes. It shows the last frame for two seconds."""
    tile, wide, high = tile_painter(letters)
    # Of a long run, only some States are shown. A frame highlights what changed since the frame before it. The last
    # State is shown twice, so that its second frame highlights nothing.
    shown = [*history[: -1 : math.ceil(len(history) / GIF_FRAMES)], history[-1], history[-1]]
    shown[1:] = [replace(now, committed=now.canvas != before.canvas) for before, now in zip(shown, shown[1:])]
    width = wide * max(24, min(GIF_COLUMNS, len(given[0]) * (2 if tamil_font(letters) else 1)))
    pages = [page(state, given, letters, width, lambda text: tile(text, "old").width) for state in shown]
    width = max(24 * wide, *(sum(tile(*cell).width for cell in row) for rows in pages for row in rows))  # as needed
    height, frames = min(GIF_ROWS, max(map(len, pages))), []
    for rows, state in zip(pages, shown):
        rows = tail(rows, height)
        rows += [[]] * (height + 1 - len(rows)) + [[(c, "note") for c in f"step {state.step}/{history[-1].step}"]]
        frames.append(draw_frame(rows, tile, width, high))
    pace = max(40, min(200, 6000 // len(frames)))  # milliseconds for each frame: about six seconds in all
    durations = [600] + [pace] * (len(frames) - 2) + [2000]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return file.getvalue()


def draw_frame(rows, tile, width, high):
    """Return rows of cells as one picture. tile: from `tile_painter`; width of the text, height of a row in pixels."""
    from PIL import Image

    margin = FONT_SIZE
    frame = Image.new("L", (width + 2 * margin, len(rows) * high + 2 * margin))
    for y, row in enumerate(rows):
        x = margin
        for cell in row:
            frame.paste(tile(*cell), (x, margin + y * high))
            x += tile(*cell).width
    frame.putpalette(PALETTE)
    return frame


def tile_painter(letters):
    """Return (function (text, style) → picture of a cell, width of a Latin letter, height of a row), both in pixels."""
    from PIL import Image, ImageDraw

    font, shaped = monospace_font(), tamil_font(letters)
    wide, high = math.ceil(font.getlength("M")), round(1.4 * FONT_SIZE)

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

    return tile, wide, high


def monospace_font():
    """Return the font DejaVu Sans Mono from matplotlib or the system; otherwise the font that comes with Pillow."""
    from PIL import ImageFont

    matplotlib = importlib.util.find_spec("matplotlib")
    bundled = Path(matplotlib.origin).parent / "mpl-data/fonts/ttf" if matplotlib else Path()
    for name in (bundled / "DejaVuSansMono.ttf", "DejaVuSansMono.ttf"):
        with contextlib.suppress(OSError):
            return ImageFont.truetype(str(name), FONT_SIZE)
    return ImageFont.load_default(size=FONT_SIZE)


def tamil_font(letters):
    """Return matplotlib's font object for Tamil if `letters` contains Tamil, else None. UserError if there is none.

    matplotlib places the vowel signs before, around or within their consonant. Pillow alone does not.
    """
    if not any("\u0b80" <= letter[0] <= "\u0bff" for letter in letters if letter):
        return None
    path = tamil_font_file()
    from matplotlib.ft2font import FT2Font

    font = FT2Font(str(path))
    font.set_size(FONT_SIZE, 72)  # at 72 dots per inch, a point is a pixel
    return font


def tamil_font_file():
    """Return the path of the font Noto Sans Tamil. UserError if the font or matplotlib is not installed."""
    package = importlib.util.find_spec("fontpkg_noto_sans_tamil")
    fonts = sorted(Path(package.origin).parent.rglob("*.ttf")) if package and package.origin else []
    if not fonts or not importlib.util.find_spec("matplotlib"):
        raise cli.UserError("pictures of Tamil need its font: pip install fontpkg-noto-sans-tamil matplotlib")
    return fonts[0]


def draw_tamil(font, text, wide, high):
    """Return a letter as a grey picture of its own width, `high` pixels high. A mask is a box: the font has none."""
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


# 4. A web page


def html_page(history, letters, title, facts):
    """Return a page that needs no other file, a text: plumbing/player.html with the run in it as JSON.

    events[step] lists [position, token, confidence in %] for each token that was written or changed. guesses[step] is a
    string with one base-36 digit for each position: its confidence in 35ths, also where the position is still masked.
    """
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    samples = []
    for row in range(len(history[0].canvas)):
        events, guesses, before = [], [], history[0].canvas[row].tolist()
        for state in history:
            tokens, sure = state.canvas[row].tolist(), state.confidence[row].tolist()
            changes = [i for i, new in enumerate(state.committed[row].tolist()) if new or before[i] != tokens[i]]
            events.append([[i, tokens[i], round(100 * sure[i])] for i in changes])
            guesses.append("".join(digits[round(35 * min(max(c, 0.0), 1.0))] for c in sure))
            before = tokens
        samples.append({"start": history[0].canvas[row].tolist(), "events": events, "guesses": guesses})
    run = {"title": title, "facts": facts, "letters": letters, "mask": len(letters) - 1, "samples": samples}
    # Within a <script> element, the words "</script" and "<!--" have a meaning even inside a JSON string.
    data = json.dumps(run, separators=(",", ":")).replace("<", "\\u003c").replace(">", "\\u003e")
    return PLAYER.read_text(encoding="utf-8").replace("__RUN__", data)


# 5. Files


def check_path(path, suffix):
    """Raise UserError if no file with this suffix can be written at `path`. Call it before minutes of sampling."""
    if path.suffix.lower() != suffix:
        raise cli.UserError(f"the path {str(path)!r} must end in {suffix}")
    if suffix == ".gif" and not importlib.util.find_spec("PIL"):
        raise cli.UserError("--gif needs the package Pillow: pip install pillow")
    try:
        if path.is_dir() or path.exists() and not os.access(path, os.W_OK):
            raise cli.UserError(f"cannot write {str(path)!r}: it is a folder, or it is write-protected")
        tempfile.NamedTemporaryFile(prefix=f".{path.name}.", dir=path.parent).close()
    except OSError as error:
        raise cli.UserError(f"cannot write {str(path)!r}: {error.strerror}") from None


def save(path, data):
    """Write bytes to a file. Returns its size as text."""
    with files.whole_file(path) as temporary:
        temporary.write_bytes(data)
    return f"{len(data) / 1000:,.0f} kB"
