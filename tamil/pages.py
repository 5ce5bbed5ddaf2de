"""Read the pages of Project Madurai: find the lines that a browser shows, and the poems among these lines."""

import re
from collections import Counter
from dataclasses import dataclass
from html import unescape

from tamil.letters import normalise
from tamil.repairs import LACUNA, count_letters

# 1. Lines

REMOVED = re.compile(r"<!--.*?(?:-->|\Z)|<[!?][^<>]*>?|<(script|style|title)\b.*?</\1>", re.DOTALL | re.IGNORECASE)
PREFORMATTED = re.compile(r"<pre\b.*?</pre>", re.DOTALL | re.IGNORECASE)  # in <pre>, a line break of the file counts
PIECE = re.compile(r"(.*?)(?:<(/?)([A-Za-z][A-Za-z0-9]*)(?:[^<>]*>)?|\Z)", re.DOTALL)  # a text, and the tag after it
NOTES = {"b", "strong", "i", "em", "small", "u", "th", "h1", "h2", "h3", "h4", "h5", "h6"}
IN_A_LINE = {"b", "strong", "i", "em", "small", "u", "a", "font", "span", "sub", "sup", "img"}  # they do not end a line


@dataclass
class Line:
    text: str
    is_marked: bool = False  # whether tags mark the whole line as a heading or a note
    begins_row: bool = False  # whether the line is the first text in a row of a table


def lines_of(html):
    """Return a list of Line: the lines of a page as a browser shows them. A horizontal rule becomes the text "-----".

    Empty lines are left out.
    """
    html = REMOVED.sub("", html)
    html = PREFORMATTED.sub(lambda block: block[0].replace("\n", "<br>"), html)
    lines = []
    pieces = []  # (text, whether a tag marks it): the pieces of the current line
    row = False  # whether a row has begun and has no text yet
    marks = Counter()  # for each tag of NOTES, how many are open
    for text, closing, tag in PIECE.findall(html):
        tag = tag.lower()
        pieces.append((unescape(text), any(marks.values())))
        if tag not in IN_A_LINE:
            text = " ".join("".join(text for text, _ in pieces).split())
            if text:
                is_marked = all(marked for text, marked in pieces if text.strip())
                lines.append(Line(normalise(text), is_marked, row))
                row = False
            pieces = []
        if tag == "hr":
            lines.append(Line("-----"))
        if tag in ("table", "tr"):
            row = not closing
        if tag in NOTES:
            marks[tag] = max(0, marks[tag] + (-1 if closing else 1))
    return lines


# 2. Kinds of lines

NUMBER = re.compile(r"(?:(?:பாட்டு|பாடல்|செய்யுள்)\s*[-:.–]?\s*)?\(?(\d{1,3})(?!\d)\s*([.)\-–]?)\s*(.*)")
INVOCATION = "கடவுள் வாழ்த்து"  # the title of the poem before the first poem, "praise of God"
SUPPLEMENT = re.compile(r"\S+ ?- ?திரட்டு|பத்தாம் பத்து")  # the title of a collection of fragments
ABSENT = re.compile(r"கிடைக்காத|கிடைத்தில|கிடைக்கவில்லை|மறைந்து போன|காணப்படவில்லை")  # "not available", "lost"
HEADING = re.compile(r"^\S+(?: \S+){0,3} ?பத்து\W*$|பாடிய பெருந்தேவனார்|^நூல்$|^(?:\S+ ){0,4}\S*பதிகம்[\W\d]*$|"
                     r"^\d+ *\.")  # "the third ten", "sung by …", "text", "preface in verse"
LABEL = re.compile(r"(?:பாடிய\S*|பாடப்பட்ட\S*|பாடப்பெற்ற\S*|ஆசிரியர்|திணை|துறை|வண்ணம்|தூக்கு|பெயர்|பண்|இசை\S*|பாவகை|"
                   r"மொத்த\s\S+)\s*[:;\-–=]+")  # "poet:", "theme:", "melody:", …
COLOPHON = re.compile(r"முற்றிற்று|^\S+ முற்றும்\W*$")  # "here ends …"
POET = re.compile(r"[-–—]\s*[^\s\-]")  # the beginning of a line such as "- கபிலர்."
POET_BEHIND_VERSE = re.compile(r"(?<=\.)\s*-\s*(?=[^-]*\.$)")
ABOUT = re.compile(r"^இப் ?(?:பகுதி|பாடல்)|(?:சொல்லியது|கூறியது|கூறிற்று)\W*$")  # "this poem …", "… said this"
# The title of a song, or of poems that later poets have added to a song.
TITLE = re.compile(r"\S+(?:பாட்டு|படை|காஞ்சி|வாடை|பாலை|கடாம்)|(?:தனி|பழைய)?\s*(?:வெண்பா|(?:ப்)?பாடல்)(?:(?:க்)?கள்)?[\s.:]*")
SPEAKER = re.compile(r"\.?\S+(?: \S+){0,2} ?:")  # a label inside a song, such as "முனிவர்:"

# On the page of பரிபாடல், the italics of some headings begin or end a line too early or too late. So these four verses
# are in italics, and three headings (PLAIN_HEADINGS) are not.
VERSE_IN_ITALICS = {"கண்ணும் கழியச் சிவந்தன; அன்ன வகை", "பாய் தேரான் வையை அகம்.", "வாய்த்தன்றால்--வையை வரவு.",
                    "ஏறுமாறு ஏற்கும் இக் குன்று."}  # fmt: skip
PLAIN_HEADINGS = {"இளவேனிற் காலத்து ஆடல்", "வையை வானக் கங்கையை ஒத்து விளங்குதல்", "தலைமகன் ஊடல் உணர்ப்பிக்கும் திறம்"}


def is_verse(text, longest=40):
    """Return whether a line could be verse.

    A line of verse has no English word. It has 1 to `longest` Tamil letters, or a lacuna (a gap in the manuscripts).
    """
    if len(text) > 300 or re.search("[A-Za-z]{3}", text):
        return False
    return 0 < count_letters(text) <= longest or bool(LACUNA.search(text))


def interrupts(line):
    """Return whether a line interrupts a poem without ending it: a heading, a note, or the number of a line."""
    text = line.text
    opens, closes = text.startswith(("(", "[")), text.endswith((")", "]"))
    is_whole = opens and closes
    begins = opens and not re.search(r"[)\]]", text)  # the first line of a note of several lines
    ends = closes and not re.search(r"[(\[]", text)
    is_number = re.fullmatch(r"[\d\s.]+", text)
    is_marked = line.is_marked and text not in VERSE_IN_ITALICS
    return bool(is_marked or is_whole or begins or ends or is_number or text in PLAIN_HEADINGS)


# 3. A page of many poems


class Anthology:
    """Reads a page of many poems.

    A poem begins at its number. It ends at the name of its poet, a label, a heading, a sentence about the poem, or the
    next number. `numbers` are the numbers that the poems should have. `verse_beside` says whether the text beside a
    number is the first line of the poem. If `verse_beside` is false, this text is a title.
    """

    def __init__(self, lines, numbers, verse_beside=False):
        self.lines, self.numbers, self.verse_beside = lines, numbers, verse_beside
        self.poems = {}  # {number: lines of verse}
        self.poem = None  # the lines of the poem that is being read
        self.last = numbers[0] - 1  # the number of the latest poem, as counted in this part of the page
        self.base = 0  # what to add to the numbers of a supplement, which begin at 1 again
        # On some pages each poem is a row of a table. The first cell of the row holds the number of the poem.
        self.in_table = sum(line.begins_row and line.text.strip(".) ").isdigit() for line in lines) >= 10

    def read(self):
        """Return {number: lines of verse}. Number 0 is an invocation before the first poem."""
        for line in self.lines:
            beginning = self.beginning(line)
            if beginning:
                self.begin(*beginning)
            elif SUPPLEMENT.fullmatch(line.text) and self.last > 20:
                self.base, self.last, self.poem = self.last, 0, None
            elif self.poem is not None:
                self.go_on(line)
        return self.poems

    def beginning(self, line):
        """If a line begins a poem, return (number of the poem, text after the number). Otherwise return None."""
        if not self.poems and line.text.strip(" .:-") == INVOCATION:
            return 0, ""
        if line.is_marked and line.text.endswith("பாடல்") and self.last > 0:
            return self.last + 1, ""  # a heading such as "மூன்றாம் பாடல்", the third poem
        match = NUMBER.match(line.text)
        if not match:
            return None
        number = int(match[1])
        dot = match[2]
        rest = match[3].strip()
        if self.in_table and (rest or not line.begins_row):
            return None
        # Poems can be lost, so a number can be up to 3 above the latest number. Poems can come too late on the page, so
        # a number can be up to 8 below the latest number.
        first = 1 if self.base else self.numbers[0]
        is_new = self.base + number not in self.poems
        if is_new and first <= number <= self.numbers[-1] and self.last - 8 <= number <= self.last + 3:
            return number, rest
        if self.in_table and number == 0 and not self.poems:
            return 0, ""
        is_alone = self.in_table or dot and not rest and self.poem
        return (self.last + 1, "") if is_alone else None  # the page has a wrong number here

    def begin(self, number, rest):
        """Begin a poem. `number` is its number, and `rest` is the text after the number."""
        self.last = max(self.last, number)
        self.poem = self.poems.setdefault(self.base + number, [])
        if ABSENT.search(rest):
            self.poem = None
        elif self.verse_beside and is_verse(rest) and not HEADING.search(rest):
            self.poem.append(rest)

    def go_on(self, line):
        """Read a line that belongs to the current poem or ends it."""
        text = line.text
        bare = text.strip(" ()[]{}<>*=~_'\"“”‘’")  # a heading can stand in brackets
        if HEADING.search(bare) or COLOPHON.search(bare) or LABEL.match(bare):
            self.end()
        elif interrupts(line):
            pass
        elif ABSENT.search(text):
            self.poem.clear()
            self.poem = None
        elif POET.match(text) or ABOUT.search(text) or not is_verse(text):
            self.end()
        else:
            verse, *poet = POET_BEHIND_VERSE.split(text)
            self.poem.append(verse)
            if poet:
                self.end()

    def end(self):
        """End the current poem if it already has a line."""
        if self.poem:
            self.poem = None


# 4. A page of one song


def song(lines):
    """Return the lines of the one long poem on a page: the longest run of lines that could be verse.

    Prose, labels and a colophon ("here ends …") end this run, but headings inside the poem do not.
    """
    runs = [[]]
    for line in lines:
        text = line.text
        if COLOPHON.search(text) or LABEL.match(text) or TITLE.fullmatch(text):
            runs.append([])
        elif interrupts(line) or SPEAKER.fullmatch(text):
            continue
        elif is_verse(text, 30) and not re.match(r"\d+ ?[.)]", text):  # lines of this metre have up to 25 letters
            runs[-1].append(text)
        else:
            runs.append([])
    return max(runs, key=len)
