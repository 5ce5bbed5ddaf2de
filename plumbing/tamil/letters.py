"""The letters (எழுத்து) of the Tamil script."""

import re
import unicodedata

# A letter is a consonant with its vowel sign or its pulli (the dot that removes the vowel), a vowel, or the aytham.
# Two conjuncts count as one letter. Everything else is an item of one code point: also a sign without a consonant.
SIGN = "[\u0bcd\u0bbe-\u0bc2\u0bc6-\u0bc8\u0bca-\u0bcc]"
CONSONANT = "[கஙசஜஞடணதநனபமயரறலளழவஶஷஸஹ]"  # not [க-ஹ]: that range has unassigned code points
LETTER = re.compile(f"க்ஷ{SIGN}?|[ஸஶ]்ரீ|{CONSONANT}{SIGN}?|.", re.DOTALL)
INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")


def normalise(text):
    """`text` in Unicode form NFC (composed characters), without zero-width characters."""
    return unicodedata.normalize("NFC", INVISIBLE.sub("", text))


def split(text):
    """The list of the Tamil letters (எழுத்து) and the other characters of `text`, in order. Joined, they give `text`."""
    return LETTER.findall(text)


def ill_formed(letter):
    """Whether one item of `split(text)` is invalid: a sign without its consonant, or an unassigned code point."""
    return len(letter) == 1 and (unicodedata.category(letter) in "Mn Mc Me Cn Cs Co" or letter == "\ufffd")
