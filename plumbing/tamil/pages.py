"""The lines of a web page, as a browser shows them, and the tags around each of them."""

import re
from collections import Counter
from dataclasses import dataclass
from html.parser import HTMLParser


@dataclass
class Line:
    text: str  # empty where the page has a gap
    tags: set = frozenset()  # the tags of Page.MARKS that contain the whole line
    first_in_row: bool = False  # whether it is the first text in a row of a table

    @property
    def marked(self):
        """Whether the line is a heading or a note, and not verse."""
        return bool(self.tags)


class Page(HTMLParser):
    """`lines` holds the Lines of a page of HTML. An empty line stands for a gap, "-----" for a horizontal line."""

    MARKS = {"h1", "h2", "h3", "h4", "h5", "h6", "b", "strong", "i", "em", "u", "small", "center", "th"}
    BREAKS = {"br", "dd", "dt", "li", "div", "td", "th", "center", "tr", "table", "ul", "dl"}
    GAPS = {"p", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "pre", "table", "blockquote"}
    HIDDEN = {"script", "style", "title"}

    def __init__(self, html):
        super().__init__()
        self.lines = []
        self.pieces = []  # (text, tags around it) of the line that is not finished yet
        self.open = Counter()  # how many of each tag of MARKS are open
        self.hidden = 0  # how many tags of HIDDEN are open
        self.pre = 0  # how many <pre> are open: inside them, \n ends a line
        self.row = False  # whether a row of a table has begun and has no text yet
        self.feed(only_tags(html))
        self.close()
        self.end_line()
        remove_unclosed_marks(self.lines)

    def end_line(self, gap=False):
        """Append the unfinished line, and an empty one behind it if there is a gap."""
        text = " ".join("".join(piece for piece, _ in self.pieces).split())
        if text:
            tags = set.intersection(*(tags for piece, tags in self.pieces if piece.strip()))
            self.lines.append(Line(text, tags, self.row))
            self.row = False
        else:
            self.lines.append(Line(""))
        if gap:
            self.lines.append(Line(""))
        self.pieces = []

    def handle_starttag(self, tag, attributes):
        if tag in self.HIDDEN:
            self.hidden += 1
        if tag in self.BREAKS or tag in self.GAPS:
            self.end_line(tag in self.GAPS)
        if tag == "hr":
            self.lines.append(Line("-----"))
        if tag in self.MARKS:
            self.open[tag] += 1
        if tag in ("table", "tr"):
            self.row = True
        if tag == "pre":
            self.pre += 1

    def handle_endtag(self, tag):
        if tag in self.HIDDEN:
            self.hidden = max(0, self.hidden - 1)
        if tag in self.GAPS or tag in ("center", "tr"):
            self.end_line(tag in self.GAPS)
        if tag in ("table", "tr"):
            self.row = False
        if tag in self.MARKS:
            self.open[tag] = max(0, self.open[tag] - 1)
        if tag == "pre":
            self.pre = max(0, self.pre - 1)

    def handle_data(self, data):
        if self.hidden:
            return
        tags = {tag for tag, count in self.open.items() if count}
        first, *rest = data.split("\n") if self.pre else [data]
        self.pieces.append((first, tags))
        for piece in rest:
            self.end_line()
            self.pieces.append((piece, tags))


def only_tags(html):
    """`html` without comments and declarations. Every tag is closed, and any other < is &lt;.

    HTMLParser cannot read some marks of word processors. It takes the text behind an unclosed <br for a part of that
    tag. And for each < that is never closed it searches the rest of the page, so a page of 3 MB could take hours.
    """
    text, *declarations = re.split("<[!?]", html)
    kept = [part.partition("-->" if part.startswith("--") else ">")[2] for part in declarations]
    closed = re.sub(r"<(/?[A-Za-z][A-Za-z0-9]{0,9})(?![^<>]{0,2000}>)", r"<\1>", "".join([text, *kept]))
    return re.sub("<(?!/?[A-Za-z])", "&lt;", closed)


def remove_unclosed_marks(lines, longest=12):
    """Remove a tag from every run of more than `longest` lines that have it: no heading and no note is so long.

    Such a run shows that the page opens the tag and does not close it.
    """
    for tag in Page.MARKS:
        run = []
        for line in [*lines, Line("end")]:
            if tag in line.tags:
                run.append(line)
            elif line.text:
                if len(run) > longest:
                    for marked in run:
                        marked.tags.discard(tag)
                run = []
