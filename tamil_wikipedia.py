"""Tamil Wikipedia, a large corpus of the modern language: some articles of it, or all.

    python tamil_wikipedia.py --api --limit 200 --contact you@example.org     # random articles
    python tamil_wikipedia.py --dump                                          # all: fetches a file of about 275 MB
    python tamil_wikipedia.py --dump --file tawiki-latest-pages-articles.xml.bz2

Either way data/tamil_wikipedia.txt holds whole articles as plain text, which tamil_dataset.read reads. Stop at any
time: the same command goes on. SQLite keeps the articles by page id in data/tamil_wikipedia.db, so that none is
there twice, whatever is run after what, and a kill leaves no half of one.

Only prose is kept: no headings, lists of references, tables or markup, no line without a Tamil letter, and no
article with under 100 characters left. The text is under CC BY-SA 4.0: name Wikipedia where you publish it.
TINY_DLLM_WIKIPEDIA_API_URL and TINY_DLLM_WIKIPEDIA_DUMP_URL name other addresses (a mirror, a test server).
"""

import argparse
import bz2
import errno
import html
import importlib.metadata
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode

from tqdm import tqdm

from plumbing import cli, download, files
from plumbing.tamil import letters

TEXT = files.DATA / "tamil_wikipedia.txt"
STORE = files.DATA / "tamil_wikipedia.db"
API_URL = "https://ta.wikipedia.org/w/api.php"
DUMP_URL = "https://dumps.wikimedia.org/tawiki/latest/tawiki-latest-pages-articles.xml.bz2"
PIECE = 16 << 20  # bytes of XML that go through wikiextractor at a time: what bounds the memory
MOST_LEFT_OUT = 100  # pages on which wikiextractor may fail before we take it for broken

# ---- Plain text ----

# Sections without prose: references, notes, sources, external links, see also (_: a space or none).
NO_PROSE = """மேற்கோள்கள் மேற்கோள் சான்றுகள் சான்று ஆதாரங்கள் ஆதாரம் உசாத்துணை உசாத்துணைகள் குறிப்புகள் அடிக்குறிப்புகள்
    வெளி_இணைப்புகள் வெளியிணைப்புகள் வெளி_இணைப்பு வெளியிணைப்பு புற_இணைப்புகள் மேலும்_காண்க மேலும்_பார்க்க இவற்றையும்_காண்க
    இதையும்_காண்க இவற்றையும்_பார்க்கவும் இதனையும்_காண்க References Notes External_links See_also""".split()
NO_PROSE = "|".join(NO_PROSE).replace("_", " *")
# A heading, == … ==, is a line of its own in wikitext as in the API's extracts; the first one may follow an XML tag.
LINE = r'(?:^|(?<="preserve">))'
SECTION = re.compile(rf"{LINE}=+ *(?:{NO_PROSE}) *=.*?(?=\n=|</text>|\Z)", re.MULTILINE | re.DOTALL)
HEADING = re.compile(rf"{LINE}=+[^\n=][^\n]*?=+[^\n<]*", re.MULTILINE)
TEMPLATE = re.compile(r"\{\{[^{}<]*\}\}")  # that has none inside; in XML no < is text
MARKUP = re.compile(r"</?[A-Za-z][^<>\n]*>|\{\{|\}\}|\[\[|\]\]|'{2,}|\[\d+\]|\b(?:formula|codice)_\d+|__[A-Z]+__"
                    r"|[\x00-\x08\x0e-\x1b\x7f]")  # fmt: skip
HOLLOW = re.compile(r"\s*\([\s,;:–-]*\)|\s+(?=[,.;:)])")  # brackets around what was dropped, a space before a comma
TAMIL = re.compile("[\u0b80-\u0bff]")
SHORTEST = 100  # characters: one sentence is an article, "this name may stand for:" is none


def without_headings(text):
    """Wikitext or an extract without its headings, and without the sections that hold no prose."""
    return HEADING.sub("", SECTION.sub("", text))


def clean(text):
    """What stays of an article: prose in NFC, one paragraph a line, no empty line; "" if it is too short."""
    text = html.unescape(text).encode("utf-8", "ignore").decode()  # JSON can hold half a surrogate pair
    text = MARKUP.sub("", without_headings(letters.normalise(text)))
    lines = (" ".join(HOLLOW.sub("", line).split()) for line in text.splitlines())
    # A line that begins like a table is the rest of one; a line without a Tamil letter is a formula, a source, an
    # address. The mark of a list goes, and with it what could be taken for a "# name" of our files.
    lines = (line.lstrip("*#:;•= ") for line in lines if TAMIL.search(line) and line[0] not in "|!{}")
    text = letters.normalise("\n".join(lines))
    return text if len(text) >= SHORTEST else ""


# ---- The articles, by page id ----


@contextmanager
def open_store():
    """The SQLite database of articles, for this process alone. What goes wrong with it is one line."""
    if TEXT.exists() and not STORE.exists():
        raise cli.UserError(f"{TEXT} has lost {STORE.name}, which knows its page ids: move it elsewhere first")
    STORE.parent.mkdir(exist_ok=True)
    try:
        with closing(sqlite3.connect(STORE, timeout=1, isolation_level=None)) as db:  # undoes what is not committed
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("BEGIN EXCLUSIVE")
            db.execute("CREATE TABLE IF NOT EXISTS article (id INTEGER PRIMARY KEY, text TEXT NOT NULL)")
            db.execute("COMMIT")
            for part in TEXT.parent.glob(f".{TEXT.name}.*.part"):  # of a run that was killed
                part.unlink()
            yield db
    except sqlite3.DatabaseError as error:
        if "full" in str(error):
            raise OSError(errno.ENOSPC, "the disk is full") from None
        hint = f"if it is damaged, delete it and {TEXT.name} to start again"
        hint = "wait for the other run" if "locked" in str(error) else hint
        raise cli.UserError(f"{STORE}: {error}; {hint}") from None


def count(db):
    return db.execute("SELECT count(*) FROM article WHERE text <> ''").fetchone()[0]


def write_text(db):
    """All articles into data/tamil_wikipedia.txt, in the order of their ids: the old file, or the whole new one."""
    articles = characters = 0
    with files.whole_file(TEXT) as partial:
        with open(partial, "w", encoding="utf-8", newline="\n") as file:
            file.write("# wikipedia\n")
            for (text,) in db.execute("SELECT text FROM article WHERE text <> '' ORDER BY id"):
                file.write(("\n" if articles else "") + text + "\n")
                articles, characters = articles + 1, characters + len(text)
    print(f"data/{TEXT.name}: {articles:,} articles, {characters:,} characters of Tamil Wikipedia (CC BY-SA 4.0)")


# ---- Random articles ----


def user_agent(contact):
    """What Wikimedia asks for: the tool, and who runs it."""
    if not contact:
        print("--contact you@example.org tells Wikimedia who is asking, as its rules wish", file=sys.stderr)
    elif not (contact.isascii() and contact.isprintable()):
        raise cli.UserError("--contact must be an address in plain ASCII, such as you@example.org")
    return f"tiny-dllm/1.0 ({contact or 'a reader of the book'})"


def ask(agent, **parameters):
    """One answer of the MediaWiki API: the dict under "query"."""
    url = os.environ.get("TINY_DLLM_WIKIPEDIA_API_URL") or API_URL
    # maxlag: servers that are busy refuse, and we come back later.
    query = urlencode({"action": "query", "format": "json", "formatversion": 2, "maxlag": 5} | parameters)
    request = urllib.request.Request(f"{url}?{query}", headers={"User-Agent": agent})

    def once():
        with urllib.request.urlopen(request, timeout=30) as response:
            answer = response.read()
        try:
            answer = dict(json.loads(answer))
        except (ValueError, TypeError):
            raise ConnectionError("the answer is no JSON object (is a login page in the way?)") from None
        error = answer.get("error", {})
        if error.get("code") in ("maxlag", "ratelimited", "readonly"):  # comes with status 200
            raise HTTPError(url, 503, f"{error['code']}: {error.get('info')}", response.headers, None)
        if "query" not in answer:
            raise cli.UserError(f"{url} is no MediaWiki API, or refused: {error.get('info', 'no reason given')}")
        return answer["query"]

    return download.patiently(once, url)


def add_random(db, limit, agent):
    """Random articles from the API into the store, one request after the other, until it holds `limit`."""
    have, barren = count(db), 0
    with tqdm(total=limit, initial=min(have, limit), desc="articles", disable=None) as bar:
        while have < limit:
            draw = ask(agent, list="random", rnnamespace=0, rnlimit=500)["random"]
            ids = dict.fromkeys(page["id"] for page in draw)
            ids = [i for i in ids if not db.execute("SELECT 1 FROM article WHERE id = ?", (i,)).fetchone()]
            barren = 0 if ids else barren + 1
            if barren == 20:
                raise cli.UserError(f"found only {have:,} articles: 20 draws in a row held no new one")
            for page_id in ids:
                if have == limit:
                    break
                page = ask(agent, prop="extracts", explaintext=1, pageids=page_id)["pages"][0]
                text = clean(page.get("extract") or "")
                # A page with no prose is kept as "", so that nobody asks for it again.
                db.execute("INSERT INTO article VALUES (?, ?)", (page_id, text))
                have += bool(text)
                bar.update(bool(text))


# ---- The whole dump ----


def find_dump(file, agent):
    """The dump to read: the file named, or one downloaded earlier, or now."""
    path = file or files.DATA / "tawiki-latest-pages-articles.xml.bz2"
    if file and not file.is_file():
        raise cli.UserError(f"no file {file}: leave --file out to download the dump")
    if not path.exists():
        download.download_with_resume(os.environ.get("TINY_DLLM_WIKIPEDIA_DUMP_URL") or DUMP_URL, path, agent)
    elif not file:
        day = datetime.fromtimestamp(path.stat().st_mtime).date()
        print(f"using data/{path.name} of {day}; delete it to fetch the newest", file=sys.stderr)
    return path


def cut(dump):
    """A dump as (XML of about PIECE bytes, bytes of the file read so far): whole pages under the dump's header."""
    with open(dump, "rb") as raw, bz2.open(raw) as file:
        header, rest, block = b"", b"", b"first"
        while block:
            try:
                block = file.read(PIECE)
            except EOFError:
                raise cli.UserError(f"{dump} is cut off: delete it and fetch it again") from None
            except OSError as error:
                if error.errno:  # the disk's own
                    raise
                raise cli.UserError(f"{dump} is no bz2 file, or a damaged one: fetch it again") from None
            rest += block
            if not header and b"<page>" in rest:
                header, _, rest = rest.partition(b"<page>")
                rest = b"<page>" + rest
            if not header:
                raise cli.UserError(f"{dump} has no pages: it must be a pages-articles.xml.bz2")
            pages, end, after = rest.rpartition(b"</page>")
            if end:
                yield (header + pages + end + b"\n</mediawiki>\n").decode("utf-8", "replace"), raw.tell()
                rest = after
        if b"</mediawiki>" not in rest:
            raise cli.UserError(f"{dump} is cut off: delete it and fetch it again")


class Extraction:
    """A run of wikiextractor on some XML, in the background. It is AGPL: a program we start, no module we import.

    Templates go before, since it would compute {{#expr: 9^9^9^9}}, and headings, of which it would make "வரலாறு.".
    """

    left_out = 0  # pages, in all

    def __init__(self, xml):
        self.folder = tempfile.TemporaryDirectory(prefix="tamil_wikipedia_")
        self.path = Path(self.folder.name)
        self.deadline = time.monotonic() + 120 + len(xml) / 10_000  # a page it never finishes must not stop us
        for _ in range(20):  # the innermost first; what is nested deeper is vandalism
            xml = TEMPLATE.sub("", xml)
        (self.path / "piece.xml").write_text(without_headings(xml), encoding="utf-8")
        command = [sys.executable, "-m", "wikiextractor.WikiExtractor", "piece.xml", "--json", "--no-templates",
                   "--html-safe", "", "--processes", str(os.cpu_count() or 1), "-o", "out", "-q"]  # fmt: skip
        with open(self.path / "errors", "wb") as errors:  # a session of its own: `stop` reaches its workers too
            self.process = subprocess.Popen(command, cwd=self.path, stdout=errors, stderr=errors,
                                            start_new_session=True)  # fmt: skip

    def wait(self):
        """Whether it ended well. It waits for ever for a worker that failed: so we read what it says meanwhile."""
        while True:
            code = self.process.poll()
            self.errors = (self.path / "errors").read_text(encoding="utf-8", errors="replace")
            if "No space left" in self.errors:
                raise OSError(errno.ENOSPC, "the disk is full")
            if code is not None or "Traceback" in self.errors or time.monotonic() > self.deadline:
                return code == 0 and "Traceback" not in self.errors
            time.sleep(0.05)

    def articles(self):
        """(page id, clean text), ... A page on which wikiextractor fails is found by halving, and left out."""
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
            print("left out, for wikiextractor fails on it:", *re.findall("<title>(.*)</title>", xml), file=sys.stderr)
            Extraction.left_out += 1
            if Extraction.left_out == MOST_LEFT_OUT:
                raise cli.UserError(f"wikiextractor fails on too many pages: {self.errors.strip()[-200:]!r}")
            return
        for half in (pages[: len(pages) // 2], pages[len(pages) // 2 :]):
            yield from Extraction("\n".join([xml[: xml.index("<page>")], *half, "</mediawiki>\n"])).articles()

    def stop(self):
        """End it, with its workers, whatever it is doing, and remove its files."""
        if hasattr(os, "killpg"):  # not on Windows
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        self.folder.cleanup()


def extract(dump, bar):
    """(page id, clean text) of every page of a dump; `bar` shows how much of the file is done.

    While wikiextractor works on one piece, the next is cut and the articles of the last are cleaned.
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


def add_dump(db, dump):
    """All articles of a dump into the store; all or, if anything goes wrong, none."""
    found = 0
    db.execute("BEGIN")
    with tqdm(total=dump.stat().st_size, unit="B", unit_scale=True, desc="extract", disable=None) as bar:
        for page_id, text in extract(dump, bar):
            found += bool(text)
            bar.set_postfix_str(f"{found:,} articles", refresh=False)
            # A page without prose is known as "", but takes the place of no text that we have.
            db.execute("INSERT INTO article VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET text = excluded.text"
                       " WHERE excluded.text NOT IN ('', text)", (page_id, text))  # fmt: skip
    if not found:
        raise cli.UserError(f"{dump} has no articles: it must be a pages-articles.xml.bz2")
    db.execute("COMMIT")


def need_wikiextractor():
    """UserError unless wikiextractor is there, and new enough for Python 3.11."""
    try:
        version = importlib.metadata.version("wikiextractor")
    except importlib.metadata.PackageNotFoundError:
        version = "none"
    if [int(part) for part in re.findall(r"\d+", version)[:2]] < [3, 1]:
        raise cli.UserError(f"--dump needs wikiextractor 3.1 (here: {version}): pip install -r requirements.txt")


def main(argv=None):
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--api", action="store_true", help="random articles, one request each")
    way.add_argument("--dump", action="store_true", help="all articles")
    parser.add_argument("--limit", type=int, metavar="N", help="with --api: articles in the file in the end (200)")
    parser.add_argument("--contact", metavar="YOU", help="your e-mail address, which Wikimedia asks to be told")
    parser.add_argument("--file", type=Path, help="with --dump: a dump that you have, NAME.xml.bz2")
    args = parser.parse_args(argv)
    if args.file and not args.dump or args.limit is not None and not args.api:
        parser.error("--file goes with --dump, --limit with --api")
    if args.limit is not None and args.limit < 1:
        parser.error("--limit must be at least 1")
    if args.dump:
        need_wikiextractor()
    agent = None if args.file else user_agent(args.contact)
    with open_store() as db:
        try:
            if args.dump:
                add_dump(db, find_dump(args.file, agent))
            else:
                add_random(db, args.limit or 200, agent)
        except (cli.UserError, KeyboardInterrupt):
            if args.api and count(db):
                write_text(db)  # what came before a Ctrl-C or a lost network is worth having
            raise
        write_text(db)


if __name__ == "__main__":
    cli.run(main)
