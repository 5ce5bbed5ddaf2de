"""Sangam poetry from the pages of Project Madurai, and புறநானூறு from a spreadsheet."""

import io
import re
import zipfile
from collections import Counter
from enum import Enum

from plumbing.tamil import cleaning, letters, pages

SPREADSHEET_URL = (
    "https://raw.githubusercontent.com/opentamilproject/Puranaanuru-Dataset/main/purananuru_dataset_v1.1.xlsx"
)
UNPACKED = 20_000_000  # bytes; a small zip file can contain terabytes
RULE = re.compile(r"[-_~*=\s]{5,}")  # a horizontal line made of characters
LABEL = re.compile(
    r"(?:பாடிய\S*|பாடியோர்|பாடினோர்|பாடினார்|பாடப்பட்ட\S*|பாடப்பெற்ற\S*|ஆசிரியர்|திணை|துறை|துறையும்|கூற்று|சிறப்பு|குறிப்பு|"
    r"வண்ணம்|தூக்கு|பெயர்|பண்|இசை\S*|பாவகை|மொத்த\s\S+|தொகுத்த\S*|தொகுப்பித்த\S*)\s*[:;\-–=]+"
)  # "poet:", "theme:", "melody:", …
COLOPHON = re.compile(r"முற்றிற்று|முற்றுப் ?பெற்றது|^\S+ முற்றும்\W*$")  # "here ends …"
ABSENT = re.compile(r"கிடைக்காத|கிடைத்தில|கிடைக்கவில்லை|மறைந்து போன|காணப்படவில்லை")  # "not available", "lost"
NUMBER = re.compile(r"(?:(?:பாட்டு|பாடல்|செய்யுள்)\s*[-:.–]?\s*)?\(?(\d{1,3})(?!\d)\s*([.)\-–]?)\s*(.*)")
HEADING = re.compile(
    r"^\S+(?: \S+){0,3} ?பத்து\W*$|பாடிய பெருந்தேவனார்|^நூல்$|^(?:\S+ ){0,4}\S*பதிகம்[\W\d]*$"
)  # "the third ten", "sung by …", "text", "preface in verse"
AROUND = " ()[]{}<>*=~_'\"“”‘’"  # what may stand around a heading
UNKNOWN = re.compile(r"(?:தெரிந்தில|தெரியவில்லை|அறியப்படவில்லை|விளங்கவில்லை|சிதைந்துளது)\S*$")  # "is not known"
INVOCATION = "கடவுள் வாழ்த்து"  # the title of the poem before the first
SUPPLEMENT = re.compile(r"\S+ ?- ?திரட்டு|பத்தாம் பத்து")  # the title of a collection of fragments
POET = re.compile(r"[-–—]\s*[^\s\-]")  # the beginning of a line such as "- கபிலர்."
POET_BEHIND_VERSE = re.compile(r"(?<=\.)\s*-\s*(?=[^-]*\.$)")
ABOUT = re.compile(r"^\(?இப் ?(?:பகுதி|பாடல்)|(?:சொல்லியது|சொல்லியதூஉம் ஆம்|கூறியது|கூறிற்று|கடாயது|வற்புறுத்தியது)\W*$")
# What may stand inside a song and is not verse: numbers of lines, notes in brackets, labels such as "முனிவர்:".
IN_SONG = re.compile(r"[\d\s.]+|\(.*\)|\.?\S+(?: \S+){0,2} ?:")
LONGEST = 300  # characters of a line of verse, with its notes; no pattern has to search a longer line
FRONT = 2  # lines that may stand between the number of a poem and its labels: a title, or the rest of a value
# The title of a song, or of the poems that later poets have added to it.
TITLE = re.compile(r"\S+(?:பாட்டு|படை|காஞ்சி|வாடை|பாலை|கடாம்)|(?:தனி|பழைய)?\s*(?:வெண்பா|(?:ப்)?பாடல்)(?:(?:க்)?கள்)?[\s.:]*")

# Lines of பரிபாடல் whose tags are wrong on the page, since its italics begin or end one line too early or too late.
VERSE_IN_ITALICS = {
    "கண்ணும் கழியச் சிவந்தன; அன்ன வகை", "பாய் தேரான் வையை அகம்.", "வாய்த்தன்றால்--வையை வரவு.",
    "ஏறுமாறு ஏற்கும் இக் குன்று.",
}  # fmt: skip
PLAIN_HEADINGS = {
    "இளவேனிற் காலத்து ஆடல்", "வையை வானக் கங்கையை ஒத்து விளங்குதல்", "தலைமகன் ஊடல் உணர்ப்பிக்கும் திறம்",
}  # fmt: skip


def verse_like(text, longest=40):
    """Whether a line could be verse: it has at most `longest` Tamil letters, at least one, and no English word."""
    if len(text) > LONGEST or re.search("[A-Za-z]{3}", text):
        return False
    return 0 < cleaning.count_letters(text) <= longest


def lost_o(html):
    """Whether the letter யொ is nowhere on a page: then its conversion has lost it."""
    return "யொ" not in letters.normalise(html)


# 1. A page of many poems


def anthology(html, numbers, verse_after_number=False, mended=None):
    """{number: poem} of a page of many poems, in order; number 0 is an invocation before the first.

    numbers: the range that the numbers of the poems should have.
    verse_after_number: whether the first line of a poem may stand behind its number.
    mended: a Counter {name of a fault: number of corrections}, which is updated.
    """
    poems = Anthology(pages.Page(html).lines, numbers, verse_after_number).read()
    return cleaning.clean_poems(poems, Counter() if mended is None else mended, lost_o(html))


class Expect(Enum):
    """What the next line of a page may be, apart from the number of the next poem."""

    VERSE = 1
    LABEL = 2  # the rest of a label's value, or verse
    NUMBER = 3  # nothing else: the poem is finished


class Anthology:
    """Reads the lines of a page of many poems.

    A poem begins at its number. It ends at the name of its poet, a note, a heading or the next number.
    """

    def __init__(self, lines, numbers, verse_after_number):
        self.lines, self.numbers, self.verse_after_number = lines, numbers, verse_after_number
        self.poems = {}  # {number: list of lines}
        self.poem = None  # the lines of the poem that is being read
        self.last = numbers[0] - 1  # the number of the last poem
        self.offset = 0  # added to the numbers of a supplement, which begin at 1 again
        self.expect = Expect.VERSE
        self.resume = 0  # the index of the first line behind a note in brackets
        # On some pages each poem is a row of a table whose first cell holds its number.
        numbered_rows = sum(line.first_in_row and bool(re.fullmatch(r"\d+ ?[.)]?", line.text)) for line in lines)
        self.in_table = numbered_rows >= 10

    def read(self):
        """{number: lines of the poem}, not cleaned."""
        for i, line in enumerate(self.lines):
            if i < self.resume:
                continue
            text = letters.normalise(line.text)
            if not text:
                self.read_gap(i)
            elif not self.read_beginning(line, text) and self.inside():
                self.read_inside(i, line, text)
        return self.poems

    def read_gap(self, i):
        """A gap ends the value of a label. It also ends the poem, if a block of prose follows."""
        if self.expect is Expect.LABEL:
            self.expect = Expect.VERSE
        elif self.inside() and self.poem:
            block = [letters.normalise(line.text) for line in self.block(i + 1)]
            prose = [text for text in block if not verse_like(text) and not cleaning.LACUNA.search(text)]
            if len(block) > 1 and 2 * len(prose) > len(block):
                self.end_poem()

    def block(self, start, longest=12):
        """The lines from index `start` to the next gap, at most `longest`."""
        lines = self.lines[start : start + longest]
        return lines[: next((n for n, line in enumerate(lines) if not line.text), len(lines))]

    def inside(self):
        """Whether the next line may belong to a poem."""
        return self.poem is not None and self.expect is not Expect.NUMBER

    def read_beginning(self, line, text):
        """Begin a supplement, a poem or the invocation, if `text` does so. Returns whether it does."""
        if SUPPLEMENT.fullmatch(text) and self.last > 20:
            self.offset, self.last, self.poem = self.last, 0, None
        elif found := self.poem_number(line, text):
            self.begin_poem(*found)
        elif not self.poems and text.strip(" .:-") == INVOCATION:
            self.poem = self.poems.setdefault(0, [])
            self.last = self.numbers[0] - 1
        else:
            return False
        return True

    def poem_number(self, line, text):
        """(number, text behind it) if a line begins a poem, else None."""
        found = self.number_in_table(line, text) if self.in_table else self.number_in_text(text)
        if found is None and line.marked and text.endswith("பாடல்") and self.last > 0:
            return self.last + 1, ""  # a heading such as "மூன்றாம் பாடல்", the third poem
        return found

    def number_in_table(self, line, text):
        """The same for a page whose poems are rows of a table: the first text in a row is a number and nothing else."""
        match = NUMBER.match(text)
        if not match or not line.first_in_row or match[3].strip():
            return None
        number = int(match[1])
        plausible = self.last < number <= self.last + 3 or number == 0 and not self.seen()
        return (number if plausible else self.last + 1), ""

    def number_in_text(self, text):
        """The same for all other pages."""
        match = NUMBER.match(text)
        if not match:
            return None
        number, dot, rest = int(match[1]), match[2], match[3].strip()
        if text.isdigit() and self.poem and number == len(self.poem) and number % 5 == 0:
            return None  # the number of a line
        expected = range(1 if self.offset else self.numbers[0], self.numbers[-1] - self.offset + 1)
        # Up to three poems in a row may be lost, and a poem may stand up to eight places too late.
        if number in expected and number not in self.seen() and self.last - 8 <= number <= self.last + 3:
            return number, rest
        return (self.last + 1, "") if dot and not rest and self.poem and self.last + 1 in expected else None

    def seen(self):
        """The numbers that have been read, as this part of the page counts."""
        return {number - self.offset for number in self.poems}

    def begin_poem(self, number, rest):
        """Begin the poem `number`. rest: the text behind the number: a title, or the first line of verse."""
        self.last = max(self.last, number)
        self.poem = self.poems.setdefault(self.offset + number, [])
        self.expect = Expect.NUMBER if ABSENT.search(rest) else Expect.VERSE
        if self.verse_after_number and self.expect is Expect.VERSE and verse_like(rest) and not rest.endswith("பத்து"):
            self.poem.append(rest)

    def read_inside(self, i, line, text):
        """Read the line with index i between the number of a poem and its end."""
        note = text.startswith(("(", "[")) and (text.endswith((")", "]")) or not re.search(r"[)\]]", text))
        if note:
            self.skip_note(i, text)
        bare = text.strip(AROUND) if note or line.marked else text  # a heading may be marked, or stand in brackets
        if text in VERSE_IN_ITALICS:
            self.poem.append(text)
        elif len(text) > LONGEST or HEADING.search(bare) or COLOPHON.search(bare):
            self.end_poem()
        elif LABEL.match(bare):
            self.read_label(line)
        elif note or line.marked or text in PLAIN_HEADINGS:
            return
        elif ABSENT.search(text):
            self.poem.clear()
            self.expect = Expect.NUMBER
        elif self.expect is Expect.LABEL and self.continues_label(i, text) or not self.poem and UNKNOWN.search(bare):
            return
        elif re.fullmatch(r"[\d\s.]+", text):  # the number of a line
            return
        elif self.ends_poem(text):
            self.end_poem()
        else:
            verse, *poet = POET_BEHIND_VERSE.split(text)
            self.poem.append(verse)
            self.expect = Expect.NUMBER if poet else Expect.VERSE

    def read_label(self, line):
        """Labels stand before a poem or behind it. A line or two before a label are its title, or an earlier value."""
        if len(self.poem) <= FRONT:
            self.poem.clear()
            self.expect = Expect.VERSE if line.marked else Expect.LABEL
        else:
            self.end_poem()

    def skip_note(self, i, text):
        """Skip a note in brackets. If the bracket is not closed within twelve lines, skip only this line."""
        if ")" not in text:
            closing = (j for j in range(i, min(i + 12, len(self.lines))) if ")" in self.lines[j].text)
            self.resume = next(closing, i) + 1

    def continues_label(self, i, text):
        """Whether a line behind a label belongs to its value: it looks so, or the value ends soon, at a gap.

        A value may have several lines, of which the last one ends with a full stop. Verse follows, and no number.
        """
        if re.search(r"^\S+ ?[:;]|ஆம்\.$", text):
            return True
        rest = self.block(i)
        behind = next((line.text for line in self.lines[i + len(rest) : i + len(rest) + 4] if line.text), "")
        return len(rest) <= 2 or len(rest) <= 6 and rest[-1].text.endswith(".") and verse_like(behind)

    @staticmethod
    def ends_poem(text):
        """Whether a line is a rule, the name of a poet, a note, prose or a heading."""
        lacuna = cleaning.LACUNA.search(text)
        if RULE.fullmatch(text) and not cleaning.LACUNA.fullmatch(text) or POET.match(text):
            return True
        if ABOUT.search(text) or re.match(r"\d+ *\.", text):
            return True
        return not verse_like(text) and not lacuna

    def end_poem(self):
        """Wait for the next number, unless the poem has no line yet."""
        if self.poem:
            self.expect = Expect.NUMBER


# 2. A page of one song


def song(html, mended=None):
    """{1: poem} of a page with one long poem: the longest run of lines that could be verse. {} if it is too short.

    Headings, labels and gaps inside the poem do not end the run. Prose, numbered notes, a rule and a colophon do.
    """
    runs = [[]]
    for line in pages.Page(html).lines:
        text = letters.normalise(line.text)[: LONGEST + 1]
        if COLOPHON.search(text) or LABEL.match(text) or RULE.fullmatch(text) or TITLE.fullmatch(text):
            runs.append([])
        elif not text or line.marked or IN_SONG.fullmatch(text):
            continue
        elif verse_like(text, 30) and not re.match(r"\d+ ?[.)]", text):  # lines of this metre have up to 25 letters
            runs[-1].append(text)
        else:
            runs.append([])
    longest = max(runs, key=len)
    poems = {1: longest} if len(longest) >= 50 else {}
    return cleaning.clean_poems(poems, Counter() if mended is None else mended, lost_o(html))


# 3. The spreadsheet


def spreadsheet(content, mended=None):
    """{number: poem} of the data set of புறநானூறு, from the bytes of an .xlsx file; ValueError if it has no poem.

    Column A holds the number, column B the poem.
    """
    import openpyxl

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(file.file_size for file in archive.infolist()) > UNPACKED:
            raise ValueError("too large to be the spreadsheet")
    rows = openpyxl.load_workbook(io.BytesIO(content), read_only=True).worksheets[0].iter_rows(values_only=True)
    poems = {int(row[0]): str(row[1]) for row in rows if row[1] and str(row[0]).strip().isdigit()}
    there = {number: poem.split("\n") for number, poem in poems.items() if not ABSENT.search(poem.replace("\n", " "))}
    found = cleaning.clean_poems(there, Counter() if mended is None else mended)
    if not found:
        raise ValueError("no poem in the spreadsheet")
    return found
