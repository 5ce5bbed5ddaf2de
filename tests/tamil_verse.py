"""What the tests of chapters 08 and 09 share: the letters of Tamil, and poems of known words."""

import random

VOWELS = "அஆஇஈஉஊஎஏஐஒஓஔ"
SIGNS = ["", *"ாிீுூெேைொோௌ"]
CONSONANTS = "கஙசஞடணதநபமயரலவழளறன"
GRANTHA = [*"ஜஶஷஸஹ", "க்ஷ"]
LETTERS = [*VOWELS, "ஃ", *(c + s for c in CONSONANTS for s in [*SIGNS, "்"])]
ALL = [*LETTERS, *(c + s for c in GRANTHA for s in [*SIGNS, "்"]), "ஸ்ரீ", "ஶ்ரீ"]
WORDS = "அகர முதல எழுத்தெல்லாம் ஆதி பகவன் முதற்றே உலகு கற்றதனால் ஆய பயனென்கொல் வாலறிவன் நற்றாள் யாதும் ஊரே".split()


def poems(number, form, seed=0):
    """Poems of known words, each line as many words as `form` says."""
    draw = random.Random(seed)
    return ["\n".join(" ".join(draw.choices(WORDS, k=words)) for words in form) for _ in range(number)]


SOURCES = {"kural": poems(100, (4, 3)), "sangam": poems(60, (4, 4, 5, 3), seed=1)}
