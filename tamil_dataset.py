"""Classical Tamil: the letters of the script, and what every corpus of it shares.

A file of Tamil text, data/tamil.txt or data/tamil_wikipedia.txt, is UTF-8 in Unicode form NFC. A line "# name"
begins a source, and stands for nothing to learn. Poems, or articles, are separated by one empty line and have
none inside.
"""

import re
import unicodedata

import corpus

FILE = corpus.DATA / "tamil.txt"

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
