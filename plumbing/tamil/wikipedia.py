"""Articles of Tamil Wikipedia as plain text: what is removed from a page, and how a whole dump is read.

Only prose is kept. There are no headings, lists of references, tables or markup, no lines without a Tamil letter, and
no articles with fewer than SHORTEST characters.
"""

import bz2
import errno
import html
import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from plumbing import cli, foreign
from plumbing.tamil import letters

# 1. Plain text

# The names of sections without prose: references, notes, sources, external links, see also. _ is an optional space.
NO_PROSE = """மேற்கோள்கள் மேற்கோள் சான்றுகள் சான்று ஆதாரங்கள் ஆதாரம் உசாத்துணை உசாத்துணைகள் குறிப்புகள் அடிக்குறிப்புகள்
    வெளி_இணைப்புகள் வெளியிணைப்புகள் வெளி_இணைப்பு வெளியிணைப்பு புற_இணைப்புகள் மேலும்_காண்க மேலும்_பார்க்க இவற்றையும்_காண்க
    இதையும்_காண்க இவற்றையும்_பார்க்கவும் இதனையும்_காண்க References Notes External_links See_also""".split()
NO_PROSE = "|".join(NO_PROSE).replace("_", " *")
# A heading, == … ==, is a separate line in wikitext and in the API's extracts. The first one may follow an XML tag.
LINE = r'(?:^|(?<="preserve">))'
SECTION = re.compile(rf"{LINE}=+ *(?:{NO_PROSE}) *=.*?(?=\n=|</text>|\Z)", re.MULTILINE | re.DOTALL)
HEADING = re.compile(rf"{LINE}=+[^\n=][^\n]*?=+[^\n<]*", re.MULTILINE)
TEMPLATE = re.compile(r"\{\{[^{}<]*\}\}")  # one without templates inside; in XML, < never is text
MARKUP = re.compile(r"</?[A-Za-z][^<>\n]*>|\{\{|\}\}|\[\[|\]\]|'{2,}|\[\d+\]|\b(?:formula|codice)_\d+|__[A-Z]+__"
                    r"|[\x00-\x08\x0e-\x1b\x7f]")  # fmt: skip
# Brackets whose content was removed, and a space before a comma.
HOLLOW = re.compile(r"\s*\([\s,;:–-]*\)|\s+(?=[,.;:)])")
TAMIL = re.compile("[\u0b80-\u0bff]")
SHORTEST = 100  # characters. A sentence is about as long; a page that only lists namesakes has less prose.


def without_headings(text):
    """Wikitext, or an extract of the API, without headings and without the sections that contain no prose."""
    return HEADING.sub("", SECTION.sub("", text))


def clean(text):
    """The prose of an article in NFC, one paragraph per line, without empty lines; "" if it is shorter than SHORTEST.

    text: an extract of the API, or the text that wikiextractor makes of wikitext.
    """
    text = html.unescape(text).encode("utf-8", "ignore").decode()  # JSON may contain half a surrogate pair
    text = MARKUP.sub("", without_headings(letters.normalise(text)))
    lines = (" ".join(HOLLOW.sub("", line).split()) for line in text.splitlines())
    # A line that begins like a table is the rest of a table. A line without a Tamil letter is a formula, a source or an
    # address. Removing list marks also removes each # that tamil_dataset.read would take for the name of a source.
    lines = (line.lstrip("*#:;•= ") for line in lines if TAMIL.search(line) and line[0] not in "|!{}")
    text = letters.normalise("\n".join(lines))
    return text if len(text) >= SHORTEST else ""


# 2. A dump

LARGEST_PAGE = 64 << 20  # bytes of XML. MediaWiki allows 2 MB of text per page.
PIECE = 16 << 20  # bytes of XML that wikiextractor gets at a time, which limits the memory that we need
MOST_LEFT_OUT = 100  # the number of pages on which wikiextractor may fail; beyond it, wikiextractor must be broken


def need_wikiextractor():
    """Raise UserError unless wikiextractor is installed and new enough for Python 3.11."""
    try:
        version = importlib.metadata.version("wikiextractor")
    except importlib.metadata.PackageNotFoundError:
        version = "none"
    if [int(part) for part in re.findall(r"\d+", version)[:2]] < [3, 1]:
        raise cli.UserError(f"--dump needs wikiextractor 3.1 (here: {version}): pip install -r requirements.txt")


class DamagedDump(cli.UserError):
    """A file is no whole dump. The message continues a sentence that begins with the name of the file."""


def cut(dump):
    """Yield (XML, position) for each piece of a dump.

    XML: a text of about PIECE bytes, which consists of the dump's header and whole pages. position: the number of bytes
    of the file that have been read. DamagedDump if the file is not a whole dump.
    """
    with open(dump, "rb") as raw, bz2.open(raw) as file:
        header, rest, block = b"", b"", b"first"
        while block:
            try:
                block = file.read(PIECE)
            except EOFError:
                raise DamagedDump("is cut off") from None
            except OSError as error:
                if error.errno:  # an error of the disk
                    raise
                raise DamagedDump("is no bz2 file, or a damaged one") from None
            rest += block
            if not header and b"<page>" in rest:
                header, _, rest = rest.partition(b"<page>")
                rest = b"<page>" + rest
            if not header:
                raise DamagedDump("has no pages")
            pages, end, after = rest.rpartition(b"</page>")
            if end:
                yield (header + pages + end + b"\n</mediawiki>\n").decode("utf-8", "replace"), raw.tell()
                rest = after
            if len(rest) > LARGEST_PAGE:  # bz2 can make gigabytes from a few bytes
                raise DamagedDump(f"has a page of {len(rest):,} bytes")
        if b"</mediawiki>" not in rest:
            raise DamagedDump("is cut off")


class Extraction:
    """A run of the program wikiextractor on a piece of XML, in the background.

    wikiextractor has the AGPL licence, so we start it as a program and do not import it. We remove templates before it
    runs because it would compute {{#expr: 9^9^9^9}}, and headings because it would keep them as "வரலாறு.".
    """

    left_out = 0  # the number of pages that were left out, in all runs together

    def __init__(self, xml):
        self.folder = tempfile.TemporaryDirectory(prefix="tamil_wikipedia_")
        self.path = Path(self.folder.name)
        self.deadline = time.monotonic() + 120 + len(xml) / 10_000  # some page might never be finished
        for _ in range(20):  # the innermost templates first; deeper nesting than this is vandalism
            xml = TEMPLATE.sub("", xml)
        (self.path / "piece.xml").write_text(without_headings(xml), encoding="utf-8")
        command = [sys.executable, "-m", "wikiextractor.WikiExtractor", "piece.xml", "--json", "--no-templates",
                   "--html-safe", "", "--processes", str(os.cpu_count() or 1), "-o", "out", "-q"]  # fmt: skip
        with open(self.path / "errors", "wb") as errors:  # in a new session, so that `stop` also ends its workers
            self.process = subprocess.Popen(command, cwd=self.path, stdout=errors, stderr=errors,
                                            start_new_session=True)  # fmt: skip

    def wait(self):
        """Wait for the end of the run. Returns whether it succeeded.

        wikiextractor waits for ever when one of its workers has failed, so we also look for a traceback in its output.
        """
        while True:
            code = self.process.poll()
            self.errors = (self.path / "errors").read_text(encoding="utf-8", errors="replace")
            if "No space left" in self.errors:
                raise OSError(errno.ENOSPC, "the disk is full")
            if code is not None or "Traceback" in self.errors or time.monotonic() > self.deadline:
                return code == 0 and "Traceback" not in self.errors
            time.sleep(0.05)

    def articles(self):
        """Yield (page id, clean text) for each page. If the run fails, each half of the pages gets a run of its own.

        A page on which wikiextractor fails is thus found, and left out.
        """
        try:
            if self.wait():
                for path in sorted(self.path.glob("out/*/*")):
                    with open(path, encoding="utf-8") as file:
                        yield from ((int(page["id"]), clean(page["text"])) for page in map(json.loads, file))
                return
            xml = (self.path / "piece.xml").read_text(encoding="utf-8")
        finally:
            self.stop()
        pages = re.findall("<page>.*?</page>", xml, re.DOTALL)
        if len(pages) <= 1:
            title = " ".join(re.findall("<title>(.*)</title>", xml))
            print(f"left out because wikiextractor fails on it: {foreign.printable(title)}", file=sys.stderr)
            Extraction.left_out += 1
            if Extraction.left_out == MOST_LEFT_OUT:
                raise cli.UserError(f"wikiextractor fails on too many pages: {self.errors.strip()[-200:]!r}")
            return
        for half in (pages[: len(pages) // 2], pages[len(pages) // 2 :]):
            yield from Extraction("\n".join([xml[: xml.index("<page>")], *half, "</mediawiki>\n"])).articles()

    def stop(self):
        """End the run and its workers, whatever they are doing, and remove their files."""
        if hasattr(os, "killpg"):  # not on Windows
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        self.folder.cleanup()


def extract(dump, bar):
    """Yield (page id, clean text) for every page of a dump. bar: a tqdm bar, which counts the bytes of the file.

    While wikiextractor works on one piece, we cut the next piece and clean the articles of the previous one.
    """
    running = None
    try:
        for xml, position in cut(dump):
            if running:
                running.wait()
            done, running = running, Extraction(xml)
            if done:
                yield from done.articles()
            bar.update(position - bar.n)
        if running:
            yield from running.articles()
    finally:
        if running:
            running.stop()
