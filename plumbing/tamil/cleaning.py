"""Clean lines of classical verse: only Tamil letters and single spaces, with the faults of the pages corrected."""

import re

from plumbing.tamil import letters, slips

# The pages of Project Madurai were converted from an older encoding of Tamil, which left typical faults in them.
# Each entry: (name of the fault, pattern of the wrong letters, right letters).
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
    ("ாண for ரீ", "ாண(?=இ)", "ரீ"),
    ("\u0ba6ஒ for பொ", "\u0ba6ஒ", "பொ"),
    ("இ¨ for இடை", "இ¨", "இடை"),
    ("space after டோ", "(?<=டோ) (?=[க-ஹ]்|ளே)", ""),
]]  # fmt: skip
LACUNA = re.compile(r"(?:…|\.(?:[ \xa0]*\.){2})(?:[ \xa0]*[.…])*|-(?:[ \xa0]+-){3,}")
LINE_NUMBER = re.compile(r"[\s.…]*\b\d+(?:-\d+)?\s*\.?\s*$")
RESTORED = re.compile(r" ?[(\[]([\u0b80-\u0bff]{1,4})[)\]]")  # letters that the editors of the text have restored
# The conversion lost every யொ and ளொ. Nearly all of them stood in the endings யொடு and ளொடு.
LOST_O = re.compile("([யள])டு(?=(?:ம்)?(?![\u0b80-\u0bff]))")


def clean(line, mended):
    """A line of verse with Tamil letters, single spaces, and … where the manuscripts have a gap.

    All punctuation is removed: palm leaves had none, and only some of our sources have that of their editors.
    mended: a Counter {name of a fault: number of corrections}, which is updated.
    """
    line = letters.normalise(line.replace("*", "")).rstrip("\u200c")  # stars mark the words that name a poem
    for name, wrong, right in MENDS:
        line, count = wrong.subn(right, line)
        mended[name] += count
    line, count = slips.mend(line)
    mended["garbled words"] += count
    line = LINE_NUMBER.sub("", line)
    line = RESTORED.sub(lambda match: match[1], line)
    line = re.sub(r"\([^)]*\)|\[[^\]]*\]", " ", line)
    line = LACUNA.sub("…", line)
    kept = []
    for letter in letters.split(line):
        if letters.ill_formed(letter):
            mended["dropped: no letter"] += 1
        elif is_tamil(letter) or letter == "…":
            kept.append(letter)
        elif not (letter.isascii() and letter.isalnum()):
            kept.append(" ")
    return " ".join("".join(kept).split())


def is_tamil(letter):
    """Whether one item of `letters.split(text)` begins with a Tamil vowel, consonant or aytham."""
    return "\u0b83" <= letter[0] <= "\u0bb9"


def count_letters(text):
    """The number of Tamil letters in `text`."""
    return sum(map(is_tamil, letters.split(text)))


def clean_poems(poems, mended, lost_o=False):
    """{number: poem as text} in the order of the numbers, from {number: list of raw lines}.

    Lines and poems that are empty after cleaning are removed. lost_o: whether the page has lost every யொ.
    """
    cleaned = {}
    for number in sorted(poems):
        lines = poems[number]
        if lost_o:
            mended["யடு for யொடு"] += sum(len(LOST_O.findall(line)) for line in lines)
            lines = [LOST_O.sub(r"\1ொடு", line) for line in lines]
        lines = [clean(line, mended) for line in lines]
        if kept := [line for line in lines if line.strip("… ")]:
            cleaned[number] = "\n".join(kept)
    return cleaned
