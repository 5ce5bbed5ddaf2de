"""Show texts as HTML: while a model writes them, and afterwards in a player.

All text is escaped, so that none of it becomes HTML code. This module cannot use `views.page`, because a browser breaks
lines itself, and because the colours need the probability and the pass of each token.
"""

import base64
import html
import itertools
import re
from pathlib import Path

from plumbing import files, views

FOLDER = Path(__file__).parent
LEGEND = """<div class="legend text" role="group" aria-label="Legend">
  <span><i class="new">&nbsp;&nbsp;</i> just written</span>
  <span class="by-probability">0 % <b class="ramp"></b> 100 %</span>
  <span class="by-pass">first <b class="ramp"></b> newest</span>
  <span><i class="mask">&nbsp;&nbsp;</i> masked</span>
  <span><i class="given">Abc</i> given</span>
</div>"""


# 1. While a text is written


def message(words, wrong=False):
    """Return a message as HTML. If `wrong` is true, the message reports an error."""
    return f'<p class="wrong" role="alert">{html.escape(words)}</p>' if wrong else f"<p>{html.escape(words)}</p>"


def spans(recording, row, drawn):
    """Return one text of a Recording as HTML: the text in row number `row`.

    The tokens that were written after pass number `drawn` are highlighted. The HTML also holds the probability and the
    pass of each written token. So the page can colour tokens by probability or by pass.
    """
    state = recording.states[-1]
    parts = (state.canvas, state.confidence, recording.written_in, recording.given)
    cells = []
    for token, sure, written_in, given in zip(*(part[row].tolist() for part in parts)):
        shade = ""
        if token == recording.tokenizer.mask_id:
            style = "mask"
        elif given:
            style = "given"
        else:
            style = "new" if written_in > drawn else "old"
            shade = f' style="--sure:{sure:.0%};--pass:{written_in / recording.passes:.0%}"'
        cells.append((style, shade, recording.shown[token]))
    markup = ""
    for (style, shade), group in itertools.groupby(cells, key=lambda cell: cell[:2]):
        letters = "".join(letters for _, _, letters in group)
        markup += f'<i class="{style}"{shade}>{html.escape(letters)}</i>'
    return markup


def texts(recordings, drawn):
    """Return the texts of several Recordings side by side, as HTML.

    For each Recording, `drawn` holds the last pass that the page already shows. Tokens of later passes are highlighted.
    """
    figures = []
    for recording, last in zip(recordings, drawn):
        facts = f"{recording.passes} {'pass' if recording.passes == 1 else 'passes'}{recording.remark}"
        length, unit = recording.canvas.shape[1], recording.tokenizer.unit
        for row, label in enumerate(recording.labels):
            figures.append(figure(label, spans(recording, row, last), facts, length, unit))
    return side_by_side(figures)


def figure(label, body, facts, length, unit):
    """Return the HTML of a text, with a label above the text and facts below it.

    `body` is the HTML of the tokens. `length` is their number, and `unit` is the word for one token ("character"). The
    height of the text is reserved, so that nothing below the text moves while the model writes.
    """
    label = html.escape(label)
    return (f'<figure class="sheet {unit}" style="--lines:{lines(length)}"><figcaption>{label}</figcaption>'
            f'<div class="text" role="region" aria-label="{label}" tabindex="0" translate="no">{body}</div>'
            f'<p class="facts">{html.escape(facts) or "&nbsp;"}</p></figure>')


def lines(length):
    """Return how many lines to reserve for a text of `length` tokens. A text with more lines scrolls."""
    return min(22, 3 + length // 20)


def side_by_side(figures):
    return f'<div class="sheets">{"".join(figures)}</div>'


def masks(labels, length, unit):
    """Return the HTML that the page shows at first: one text of `length` masks for each label."""
    body = f'<i class="mask">{"░" * length}</i>'
    return side_by_side(figure(label, body, "", length, unit) for label in labels)


# 2. When it is finished


def save(recording, path):
    """Write a page with a player for a Recording to the file `path`. A page with Tamil text includes a Tamil font."""
    viewer = views.Page(path, recording.canvas, recording.tokenizer.shown, recording.facts)
    for state in recording.states[1:]:
        viewer.show(state)
    viewer.close()
    if recording.tokenizer.kind == "tamil":
        page = path.read_text(encoding="utf-8")
        page = page.replace("default-src 'none';", "default-src 'none'; font-src data:;", 1)
        page = page.replace("</style>", f"{font_face()}\n#canvas {{ font-family: Tamil, sans-serif; }}\n</style>", 1)
        path.write_text(page, encoding="utf-8")
    return path


def player(page, length):
    """Return the HTML of a sandboxed frame that shows the file `page`, a player for a text of `length` tokens."""
    return (f'<iframe class="player" sandbox="allow-scripts" title="Player: the text pass by pass" '
            f'style="--lines:{lines(length)}" srcdoc="{html.escape(page.read_text(encoding="utf-8"))}"></iframe>')


# 3. Style


def font_face():
    """Return the CSS rule that defines the font "Tamil". The rule contains the font, so no network is needed."""
    data = base64.b64encode(Path(views.open_font(True, 16).fname).read_bytes()).decode()
    # Only Tamil characters use this font, because other characters would look different from the rest of the page.
    return f"@font-face {{ font-family: Tamil; unicode-range: U+0B80-0BFF; src: url(data:font/ttf;base64,{data}); }}"


def style():
    """Return the style sheet of the page: the light and the dark colours of the player, then style.css."""
    player = files.read_text(files.ROOT / "plumbing" / "player.html")
    light, dark = re.findall(r":root \{(.*?)\}", player, re.S)[:2]
    colours = f":root {{ {light} color-scheme: light; }}\n.dark {{ {dark} color-scheme: dark; }}\n"
    return colours + files.read_text(FOLDER / "style.css")


def head():
    """Return the contents of the page's <head> element: the script and the font.

    The font is not part of `style`, because Gradio copies the style sheet into the page twice.
    """
    return f"<style>{font_face()}</style><script>{files.read_text(FOLDER / 'page.js')}</script>"
