"""The letters (எழுத்து) of the Tamil script."""

import re
import unicodedata

from plumbing.cli import printable
from plumbing.text import Characters

# A letter is a vowel, the aytham (ஃ), or a consonant. A consonant can have a vowel sign, or a pulli (the dot that
# removes the vowel). The conjuncts க்ஷ, ஸ்ரீ and ஶ்ரீ count as one letter each. Everything else is an item of one code
# point, even a sign without its consonant.
SIGN = "[\u0bcd\u0bbe-\u0bc2\u0bc6-\u0bc8\u0bca-\u0bcc]"
CONSONANT = "[கஙசஜஞடணதநனபமயரறலளழவஶஷஸஹ]"  # not [க-ஹ], because that range has unassigned code points
# A zero-width non-joiner (U+200C) keeps the letters of a conjunct apart: the text க், U+200C, ஷ has two letters. The
# non-joiner belongs to the first letter.
LETTER = re.compile(f"க்ஷ{SIGN}?|[ஸஶ]்ரீ|[கஸஶ]்\u200c|{CONSONANT}{SIGN}?|.", re.DOTALL)
NON_JOINERS = re.compile(r"((?<=க்)\u200c+(?=ஷ|\Z)|(?<=[ஸஶ]்)\u200c+(?=ரீ|\Z))|\u200c+")
INVISIBLE = re.compile("[\u00ad\u200b\u200d-\u200f\u2060\ufeff]")


def normalise(text):
    """Return `text` in the Unicode form NFC (composed characters), without zero-width characters.

    The only exception is the non-joiner that keeps the two letters of க்ஷ, ஸ்ரீ or ஶ்ரீ apart. This non-joiner also
    stays at the end of `text`, because `text` can be a piece that ends between the two letters.
    """
    text = NON_JOINERS.sub(lambda match: "\u200c" if match[1] else "", INVISIBLE.sub("", text))
    return unicodedata.normalize("NFC", text)


def split(text):
    """Cut `text` into a list of Tamil letters (எழுத்து) and other characters."""
    return LETTER.findall(text)


def ill_formed(letter):
    """Return whether an item of `split(text)` is invalid: a sign without its consonant, or an unassigned code point."""
    return len(letter) == 1 and (unicodedata.category(letter) in "Mn Mc Me Cn Cs Co" or letter == "\ufffd")


class TamilLetters(Characters):
    """A tokenizer with one token for each Tamil letter or other character. `vocabulary` is a list of tokens.

    Every token is a whole letter, and whole letters in any order make well-formed text. So a model with this tokenizer
    can write only well-formed text.
    """

    kind, unit = "tamil", "letter"

    def __init__(self, vocabulary):
        if not isinstance(vocabulary, list):
            raise ValueError("its vocabulary is not a list of letters")
        for letter in vocabulary:
            if split(letter) != [letter] or ill_formed(letter):
                raise ValueError(f"the vocabulary contains {printable(letter, limit=80)!r}, which is not a letter")
        super().__init__(vocabulary)

    @classmethod
    def of(cls, text):
        """Return a tokenizer with all letters of `text` as its vocabulary."""
        return cls(sorted(set(split(normalise(text)))))

    def split(self, text):
        """Normalise `text`, and return the list of its letters."""
        return split(normalise(text))
