"""The letters (எழுத்து) of the Tamil script."""

import re
import unicodedata

# A consonant with its vowel sign or pulli, a vowel, the aytham; anything else is a letter of one code point.
# Two conjuncts count as one letter. A sign that does not follow a consonant so stands out by itself.
SIGN = "[\u0bcd\u0bbe-\u0bc2\u0bc6-\u0bc8\u0bca-\u0bcc]"
CONSONANT = "[கஙசஜஞடணதநனபமயரறலளழவஶஷஸஹ]"  # not [க-ஹ]: that range has unassigned code points
LETTER = re.compile(f"க்ஷ{SIGN}?|[ஸஶ]்ரீ|{CONSONANT}{SIGN}?|.", re.DOTALL)
INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")


def normalise(text):
    """`text` in Unicode form NFC, without zero-width characters."""
    return unicodedata.normalize("NFC", INVISIBLE.sub("", text))


def split(text):
    """The Tamil letters (எழுத்து) and other characters of `text`, in order; joined, they are `text`."""
    return LETTER.findall(text)


def ill_formed(letter):
    """Whether one of `split(text)` is no letter of any script: a sign alone, or an unassigned code point."""
    return len(letter) == 1 and (unicodedata.category(letter) in "Mn Mc Me Cn Cs Co" or letter == "\ufffd")
