"""The works of the corpus: their titles, their pages at Project Madurai, and how much each of them should hold."""

import re
from collections import Counter
from dataclasses import dataclass

from plumbing import cli
from plumbing.tamil import cleaning, kural, letters, pages

LEAST = 0.9  # a page with a smaller share of a work's poems, or of a song's lines, was probably cut off
HEAD = 100  # lines at the beginning of a page that may name the work
TOLERANCE = 0.25  # how far the mean number of lines in a poem may be from the usual one, as a share of it


@dataclass(frozen=True)
class Source:
    title: str
    pages: dict  # {Project Madurai's name of a page: our name}
    numbers: range  # of its poems
    lines: float = 0  # the mean number of lines in a poem
    lost: tuple = ()  # the numbers of poems that no manuscript contains
    unit: str = "poems"
    note: str = ""  # a remark for the report


@dataclass(frozen=True)
class Song:
    name: str  # our name
    title: str
    lines: int


KURAL = Source("திருக்குறள்", {}, kural.NUMBERS, 2, unit="couplets")
SONGS = {  # {Project Madurai's name of a page: the song}. The numbers of lines are as the tradition counts them.
    "pmuni0067": Song("tirumurukarruppatai", "திருமுருகாற்றுப்படை", 317),
    "pmuni0063": Song("porunararruppatai", "பொருநராற்றுப்படை", 248),
    "pmuni0064": Song("cirupanarruppatai", "சிறுபாணாற்றுப்படை", 269),
    "pmuni0069": Song("perumpanarruppatai", "பெரும்பாணாற்றுப்படை", 500),
    "pmuni0488": Song("mullaippattu", "முல்லைப்பாட்டு", 103),
    "pmuni0071": Song("maturaikkanci", "மதுரைக்காஞ்சி", 782),
    "pmuni0070": Song("netunalvatai", "நெடுநல்வாடை", 188),
    "pmuni0073": Song("kurincippattu", "குறிஞ்சிப்பாட்டு", 261),
    "pmuni0077": Song("pattinappalai", "பட்டினப்பாலை", 301),
    "pmuni0078": Song("malaipatukatam", "மலைபடுகடாம்", 583),
}
# The mean numbers of lines are those of our corpus. For அகநானூறு and பதிற்றுப்பத்து, which were not at hand, they are
# estimates from the lengths that their tradition names: 13 to 31 and 5 to 57 lines.
SANGAM = {
    "natrinai": Source("நற்றிணை", {"pmuni0296": "natrinai"}, range(1, 401), 10.4, (234,),
                       note="the end of 385 is lost"),
    "kuruntokai": Source("குறுந்தொகை", {"pmuni0110": "kuruntokai"}, range(1, 402), 6.2),
    "aingurunuru": Source("ஐங்குறுநூறு", {"pmuni0028": "aingurunuru"}, range(1, 501), 4.3, (129, 130)),
    "patirruppattu": Source("பதிற்றுப்பத்து", {"pmuni0038": "patirruppattu"}, range(11, 95), 21,
                            unit="poems and fragments", note="80 of 100 poems are left"),
    "paripatal": Source("பரிபாடல்", {"pmuni0087": "paripatal"}, range(1, 36), 59, unit="poems and fragments",
                        note="22 of about 70 poems are left"),
    "kalittokai": Source("கலித்தொகை", {"pmuni0221": "kalittokai"}, range(1, 151), 28.7),
    "akananuru": Source("அகநானூறு", {"pmuni0229": "akananuru"}, range(1, 401), 18),
    "purananuru": Source("புறநானூறு", {"pmuni0057": "purananuru"}, range(1, 401), 13.7, (267, 268),
                         note="many have gaps"),
    "pattuppattu": Source("பத்துப்பாட்டு", {page: song.name for page, song in SONGS.items()}, range(1, 11),
                          unit="songs"),
}  # fmt: skip
SOURCES = {"kural": KURAL} | SANGAM


def chosen(names):
    """The list of the sources that a string such as "kural,sangam" names, in the order of SOURCES.

    UserError if a name is unknown.
    """
    wanted = {name.strip() for name in names.split(",")}
    if unknown := wanted - SOURCES.keys() - {"sangam"}:
        known = ", ".join(SOURCES)
        raise cli.UserError(f"there is no source {min(unknown)!r}; choose from {known}, or sangam: all but kural")
    return [name for name in SOURCES if name in wanted or "sangam" in wanted and name in SANGAM]


# 1. Is a page the right one, and is it whole?


def check_anthology(html, source, poems, fewer=False):
    """UserError if a page does not hold `source`, whose `poems` {number: poem} were read from it, or not all of it.

    fewer: whether a part of the work is enough.
    """
    (name,) = source.pages.values()
    check_title(html, source.title, name)
    if not poems:
        raise cli.UserError("there is no poem on it")
    count = sum(number in poems for number in source.numbers)
    mean = sum(poem.count("\n") + 1 for poem in poems.values()) / len(poems)
    if abs(mean / source.lines - 1) > TOLERANCE:
        raise cli.UserError(f"its poems have {mean:.1f} lines on average, and those of {source.title} {source.lines:g}")
    expected = len(source.numbers) - len(source.lost)
    if count < LEAST * expected and not fewer:
        raise cli.UserError(f"it has only {count} of {expected} {source.unit}, so it is probably cut off: get the "
                            "whole page, or add --fewer")


def check_song(html, song, poems, fewer=False):
    """The same for a page of one song. poems: {1: the song}, or {} if none was found."""
    check_title(html, song.title, song.name)
    if not poems:
        raise cli.UserError("there is no song on it")
    lines = poems[1].count("\n") + 1
    if lines < LEAST * song.lines and not fewer:
        raise cli.UserError(f"it has only {lines} of {song.lines} lines, so it is probably cut off: get the whole "
                            "page, or add --fewer")
    if lines > song.lines / LEAST:
        raise cli.UserError(f"it has {lines} lines of verse, and {song.title} has {song.lines}")


def check_title(html, title, name):
    """UserError if neither the head of a page nor a line such as "here ends …" names a work.

    title: in Tamil. name: our name, which is the title in Latin letters, as the head of most pages has it too.
    """
    lines = [line.text for line in pages.Page(html).lines if line.text]
    named = "".join(lines[:HEAD] + [line for line in lines[HEAD:] if "முற்று" in line or "முற்றிற்று" in line])
    latin = re.sub("[^a-z]", "", named.lower())
    if skeleton(title) not in skeleton(named) and name not in latin:
        raise cli.UserError(f"it does not name {title}, so it is probably the page of another work")


def skeleton(text):
    """The consonants and initial vowels of a text, without ஆ, and with ன for ந.

    It is the same for all spellings of a title, with spaces or without, with sandhi or without: பொருநர் ஆற்றுப்படை and
    பொருநராற்றுப்படை.
    """
    return "".join(letter[0] for letter in letters.split(letters.normalise(text).replace("ாஅ", "ா"))
                   if cleaning.is_tamil(letter) and letter != "ஆ").replace("ந", "ன")


def check_less(poems, old):
    """UserError if a list of `poems` is clearly less than the list `old` of the same source."""
    if len(poems) < len(old):
        raise cli.UserError(f"{len(poems)} poems were found, and the file has {len(old)}; --fewer replaces them")
    few, many = sum(map(cleaning.count_letters, poems)), sum(map(cleaning.count_letters, old))
    if few < LEAST * many:
        raise cli.UserError(f"{few:,} letters were found, and the file has {many:,}; --fewer replaces them")


# 2. Reports


def describe(name, poems):
    """A line of text: how many poems of a source were found, and why others are missing."""
    source = SOURCES[name]
    count = sum(number in poems for number in source.numbers)
    text = f"{source.title}, {count} of {len(source.numbers)} {source.unit}"
    text += " and the invocation" if 0 in poems else ""
    missing = [number for number in source.numbers if number not in poems]
    if lost := [number for number in missing if number in source.lost]:
        text += f"; {spans(lost)} lost in every manuscript"
    if rest := [number for number in missing if number not in source.lost]:
        text += f"; {spans(rest)} not found"
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


def statistics(poems):
    """The counts of a list of poems: {column of the table: number}."""
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


def table(works, corrections):
    """The statistics of {source: [poems]} as text, one row per source. corrections: {source: Counter of the mends}."""
    rows = works | {"all": [poem for poems in works.values() for poem in poems]}
    total = sum(corrections.values(), Counter())
    corrections = corrections | {"all": total}
    columns = ["mended", *statistics(["அ"])]
    lines = [f"{'source':<14}" + "".join(f"{column:>{len(column) + 3}}" for column in columns)]
    for name, poems in rows.items():
        counts = {"mended": corrections.get(name, Counter()).total()} | statistics(poems)
        lines.append(f"{name:<14}" + "".join(f"{counts[column]:>{len(column) + 3},}" for column in columns))
    return "\n".join([*lines, "", "mended: " + ", ".join(f"{name} {count}" for name, count in total.most_common())])
