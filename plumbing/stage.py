"""The texts of the playground as HTML: a text while it is written, messages, the player, and the style of the page.

All text is escaped, so that no text can become markup. The colours are those of player.html.
"""

import base64
import html
import itertools
import re
import time

import torch

from plumbing import files, tokenizers, views

STYLE = files.ROOT / "plumbing" / "stage.css"
TOKENS_PER_LINE = {"character": 26, "letter": 14, "byte": 20, "token": 7}  # of usual text, to reserve its height
MOST_LINES = 22  # a longer text scrolls inside its sheet

LEGEND = """<div class="legend text" role="group" aria-label="Legend">
  <span><i class="new">&nbsp;&nbsp;</i> just written</span>
  <span class="by-probability">0 % <b class="ramp"></b> 100 %</span>
  <span class="by-pass">first <b class="ramp"></b> newest</span>
  <span><i class="mask">&nbsp;&nbsp;</i> masked</span>
  <span><i class="given">Abc</i> given</span>
</div>"""


# 1. A run, and one of its States as HTML


class Run:
    """The States of a run, the time of each, and the choice of the one to draw.

    labels: what to call each of its B texts. tokenizer: the model's. facts: a text that describes the run. shown: the
    columns of the canvas to draw, a slice. timed: show how fast the model wrote.
    """

    def __init__(self, labels, tokenizer, facts, shown=slice(None), timed=False):
        self.labels, self.tokenizer, self.facts, self.shown, self.timed = labels, tokenizer, facts, shown, timed
        self.letters = views.shown_tokens(tokenizer)
        self.states, self.seconds = [], []  # seconds[i]: of the model's own work until states[i] was there
        self.number, self.verdict = 0, ""  # the State to draw; what to say of the run when it is drawn to its end

    def record(self, states):
        """Append `states`, an iterator, and yield after each of them."""
        spent = 0.0
        while True:
            began = time.perf_counter()  # what happens while this function waits at its yield does not count
            state = next(states, None)
            spent += time.perf_counter() - began
            if state is None:
                return
            self.states.append(state.to("cpu"))
            self.seconds.append(spent)
            yield

    @property
    def given(self):
        """(B, T) True where a token was given and not written by the model."""
        return self.states[0].canvas != len(self.letters) - 1

    @property
    def finished(self):
        """Whether the State to draw is the last one."""
        return self.number == len(self.states) - 1

    def texts(self):
        """Return the last texts, a list of B strings."""
        return ["".join(views.whole_characters(row, self.letters)) for row in self.states[-1].canvas.tolist()]

    def go(self, number):
        """Choose the State to draw. Tokens that differ from the State that was chosen before will be highlighted."""
        if number < self.number or number == 0:
            self.number, self.born = 0, torch.zeros_like(self.states[0].canvas)
        before = self.states[self.number].canvas
        for state in self.states[self.number + 1 : number + 1]:
            self.born = torch.where(state.committed, state.step, self.born)  # (B, T) the pass that wrote each token
        self.number, self.changed = number, self.states[number].canvas != before

    def bodies(self):
        """Return the texts of the chosen State as HTML, a list of B strings."""
        state = self.states[self.number]
        rows = zip(state.canvas, state.confidence, self.born, self.given, self.changed)
        return [self.spans(*(part[self.shown].tolist() for part in row)) for row in rows]

    def spans(self, tokens, confidence, born, given, changed):
        """Return one text as HTML; each argument is a list with an entry for each token."""
        cells, mask, last = [], len(self.letters) - 1, max(1, self.number)
        for token, text, sure, step, kept, new in zip(
                tokens, views.whole_characters(tokens, self.letters), confidence, born, given, changed):
            text = "".join(c if c.isprintable() or c == "\n" else " " for c in text)
            if token == mask:
                cells.append(("mask", text, ""))
            elif kept:
                cells.append(("given", text, ""))
            else:
                cells.append(("new" if new else "old", text, f' style="--sure:{sure:.0%};--step:{step / last:.0%}"'))
        groups = itertools.groupby(cells, lambda cell: (cell[0], cell[2]))
        return "".join(f'<i class="{name}"{style}>{escape("".join(text for _, text, _ in group))}</i>'
                       for (name, style), group in groups)

    def footer(self):
        """Return the facts below the texts of the chosen State."""
        state, rate = self.states[self.number], ""
        if self.timed and self.number:
            written = int((state.canvas != self.states[0].canvas).sum())
            rate = f" · {written / self.seconds[self.number]:,.0f} {self.tokenizer.unit}s/s"
        return f"{state.nfe} {'pass' if state.nfe == 1 else 'passes'}{rate}{self.verdict if self.finished else ''}"


def drawing(runs):
    """Return the chosen States of `runs`, a list of Run, side by side as HTML."""
    parts = [(body, label, run.footer()) for run in runs for body, label in zip(run.bodies(), run.labels)]
    return sheets(*zip(*parts), runs[0].given[0, runs[0].shown].shape[0], runs[0].tokenizer.unit)


def sheets(bodies, labels, footers, length, unit="character"):
    """Return texts side by side as HTML. bodies: HTML; labels, footers: texts; length: tokens of each, for its height.

    The height is reserved, so that nothing below the texts moves while they are written.
    """
    parts = [f'<figure class="sheet {unit}" style="--lines:{lines(length, unit)}">'
             f"<figcaption>{escape(label)}</figcaption>"
             f'<div class="text" role="region" aria-label="{escape(label)}" tabindex="0" translate="no">{body}</div>'
             f'<p class="facts">{escape(footer) or "&nbsp;"}</p></figure>'
             for body, label, footer in zip(bodies, labels, footers)]
    return f'<div class="sheets">{"".join(parts)}</div>'


def masks(labels, length, unit="character"):
    """Return texts of `length` masks as HTML, one for each label: what a page shows before a run."""
    body = f'<i class="mask">{tokenizers.MASK_CHAR * length}</i>'
    return sheets([body] * len(labels), labels, [""] * len(labels), length, unit)


def lines(length, unit):
    """Return the number of lines for which a text of `length` tokens gets room."""
    return min(MOST_LINES, 3 + -(-length // TOKENS_PER_LINE[unit]))


# 2. The other parts of the page


def escape(text):
    """Return `text` as HTML that shows it as it is."""
    return html.escape(str(text))


def message(text, wrong=False):
    """Return a message as HTML. wrong: it reports an error."""
    return f'<p class="wrong" role="alert">{escape(text)}</p>' if wrong else f"<p>{escape(text)}</p>"


def player_page(run):
    """Return the page of views.html_page for a finished Run. It contains the Tamil font if it needs it."""
    written = int((~run.given[0]).sum())
    title = f"{written} {run.tokenizer.unit}s in {len(run.states) - 1} passes"
    page = views.html_page(run.states, run.letters, title, run.facts)
    if not any("\u0b80" <= letter[0] <= "\u0bff" for letter in run.letters if letter):
        return page
    page = page.replace("default-src 'none';", "default-src 'none'; font-src data:;", 1)
    return page.replace("</style>", f"{font_face()}\n#canvas {{ font-family: Tamil, sans-serif; }}\n</style>", 1)


def player(run, page):
    """Return a frame that shows `page`, from `player_page`. It is a sandbox, which cannot read the page around it."""
    return (f'<iframe class="player" sandbox="allow-scripts" title="Player: the text pass by pass" style="--lines:'
            f'{lines(run.given.shape[1], run.tokenizer.unit)}" srcdoc="{html.escape(page)}"></iframe>')


# 3. Style


def font_face():
    """Return the style that defines the font "Tamil", which is part of the page and needs no network."""
    data = base64.b64encode(views.tamil_font_file().read_bytes()).decode()
    # Only Tamil: the other characters of this font would differ from those around it.
    return f"@font-face {{ font-family: Tamil; unicode-range: U+0B80-0BFF; src: url(data:font/ttf;base64,{data}); }}"


def style():
    """Return the style sheet of the page: the colours of player.html, light and dark, then stage.css."""
    light, dark = re.findall(r":root \{(.*?)\}", views.PLAYER.read_text(encoding="utf-8"), re.S)[:2]
    colours = f":root {{ {light} color-scheme: light; }}\n.dark {{ {dark} color-scheme: dark; }}\n"
    return colours + STYLE.read_text(encoding="utf-8")
