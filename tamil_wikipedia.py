"""Tamil Wikipedia, a large corpus of modern Tamil: collect some or all of its articles.

    python tamil_wikipedia.py --api --limit 200 --contact you@example.org     # random articles
    python tamil_wikipedia.py --dump --contact you@example.org                # all articles: downloads about 275 MB
    python tamil_wikipedia.py --dump --file tawiki-latest-pages-articles.xml.bz2

Each command writes whole articles as plain text to data/tamil_wikipedia.txt, in the format that tamil_dataset.py
describes. You can stop a command at any time, and run it again to resume. With --api, the command adds articles until
the file has as many as --limit says. With --dump, the command downloads and extracts the dump, and then replaces the
file. The extraction takes a quarter of an hour on two cores and needs 3 GB of disk space.

Only prose is kept. Headings, lists of references, tables, markup, lines without a Tamil letter, and articles with fewer
than 100 characters are left out. The text has the licence CC BY-SA 4.0, so name Wikipedia if you publish the text. To
download from other addresses, such as a mirror, set the environment variables TINY_DLLM_WIKIPEDIA_API_URL and
TINY_DLLM_WIKIPEDIA_DUMP_URL.
"""

import html
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tamil_dataset
from plumbing import cli, files
from tamil.letters import normalise

import requests
from requests.adapters import HTTPAdapter, Retry
from tqdm import tqdm

TEXT = tamil_dataset.WIKIPEDIA
DUMP = files.DATA / "tawiki-latest-pages-articles.xml.bz2"
API_URL = os.environ.get("TINY_DLLM_WIKIPEDIA_API_URL") or "https://ta.wikipedia.org/w/api.php"
DUMP_URL = os.environ.get("TINY_DLLM_WIKIPEDIA_DUMP_URL") or f"https://dumps.wikimedia.org/tawiki/latest/{DUMP.name}"
LARGEST_ANSWER = 1 << 24  # bytes. MediaWiki refuses articles of more than 2 MB.
SILENCE = (10, 60)  # seconds that we wait for a connection, and for the next bytes


# 1. Plain text

# The titles of sections without prose: references, notes, sources, external links, see also. _ is an optional space.
NO_PROSE = """மேற்கோள்கள் மேற்கோள் சான்றுகள் சான்று ஆதாரங்கள் ஆதாரம் உசாத்துணை உசாத்துணைகள் குறிப்புகள் அடிக்குறிப்புகள்
    வெளி_இணைப்புகள் வெளியிணைப்புகள் வெளி_இணைப்பு வெளியிணைப்பு புற_இணைப்புகள் மேலும்_காண்க மேலும்_பார்க்க இவற்றையும்_காண்க
    இதையும்_காண்க இவற்றையும்_பார்க்கவும் இதனையும்_காண்க References Notes External_links See_also""".split()
NO_PROSE = "|".join(NO_PROSE).replace("_", " *")
SECTION = re.compile(rf"^=+ *(?:{NO_PROSE}) *=.*?(?=\n=|\Z)", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^=+[^\n=].*?=+[^\n]*", re.MULTILINE)
MARKUP = re.compile(r"</?[A-Za-z][^<>\n]*>|\{\{|\}\}|\[\[|\]\]|'{2,}|\[\d+\]|\b(?:formula|codice)_\d+|__[A-Z]+__"
                    r"|[\x00-\x08\x0e-\x1b\x7f]")  # fmt: skip
# Brackets that have become empty, and a space before a punctuation mark.
HOLLOW = re.compile(r"\s*\([\s,;:–-]*\)|\s+(?=[,.;:)])")
TAMIL = re.compile("[\u0b80-\u0bff]")
SHORTEST = 100  # characters, about one sentence; a page that only lists namesakes has less prose


def clean(text):
    """Return the prose of an article in NFC, one paragraph per line. Return "" if the prose is shorter than SHORTEST.

    `text` is the article as plain text. Only its headings are marked, as in wikitext: == Heading ==.
    """
    text = html.unescape(text).encode("utf-8", "ignore").decode()  # JSON may contain half a surrogate pair
    text = HEADING.sub("", SECTION.sub("", normalise(text)))
    lines = []
    for line in MARKUP.sub("", text).splitlines():
        line = " ".join(HOLLOW.sub("", line).split())
        # A line that begins like a table is the rest of a table. A line without a Tamil letter is a formula or an
        # address.
        if TAMIL.search(line) and line[0] not in "|!{}":
            lines.append(line.lstrip("*#:;•= "))  # a line of the corpus that begins with # would name a source
    text = normalise("\n".join(lines))
    return text if len(text) >= SHORTEST else ""


def write(articles):
    """Write the articles to data/tamil_wikipedia.txt. Raises UserError if there are none."""
    count = characters = 0
    with files.whole_file(TEXT) as partial:
        with open(partial, "w", encoding="utf-8", newline="\n") as file:
            file.write("# wikipedia\n")
            for text in articles:
                file.write(f"\n{text}\n" if count else f"{text}\n")
                count += 1
                characters += len(text)
        if not count:
            raise cli.UserError("no articles were found")
    print(f"data/{TEXT.name}: {count:,} articles, {characters:,} characters of Tamil Wikipedia (CC BY-SA 4.0)")


# 2. Random articles


def connect(contact):
    """Return a Session that waits if the server is busy, and sends the user's address, as Wikimedia's rules ask."""
    if not contact:
        print("Wikimedia asks programs to say who runs them: add --contact you@example.org", file=sys.stderr)
    retry = Retry(6, status_forcelist=(429, 500, 502, 503, 504), backoff_factor=1, retry_after_max=600,
                  raise_on_status=False)  # fmt: skip
    session = requests.Session()
    session.headers["User-Agent"] = f"tiny-dllm/1.0 ({contact or 'a reader of the book'})"
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    return session


def random_article(session):
    """Return the clean text of a random article from the MediaWiki API, or "" if the article has no prose."""
    # With maxlag=5, a busy server can refuse the request. Its answer then has the status 200, but contains an error.
    question = {"action": "query", "format": "json", "formatversion": 2, "maxlag": 5, "generator": "random",
                "grnnamespace": 0, "prop": "extracts", "explaintext": 1}
    for pause in (5, 10, 20, 40, 80):
        with session.get(API_URL, params=question, stream=True, timeout=SILENCE) as answer:
            answer.raise_for_status()
            body = b""
            try:
                body = answer.raw.read(LARGEST_ANSWER, decode_content=True)
                found = json.loads(body)
                if "error" not in found:
                    return clean(found["query"]["pages"][0].get("extract", ""))
                is_busy = found["error"]["code"] in ("maxlag", "ratelimited", "readonly")
            except Exception:  # an incomplete or unexpected answer can raise many kinds of errors
                is_busy = False
        if not is_busy:
            break
        time.sleep(pause)
    raise cli.UserError(f"{API_URL} sent no article: {cli.printable(body.decode(errors='replace'), limit=300)}")


def add_random(limit, session):
    """Add random articles to the file until the file has `limit` articles. Each article needs one request."""
    articles = dict.fromkeys(tamil_dataset.read(TEXT)["wikipedia"] if TEXT.exists() else [])
    try:
        with tqdm(total=limit, initial=min(len(articles), limit), desc="articles", disable=None) as bar:
            while len(articles) < limit:
                text = random_article(session)
                if text and text not in articles:
                    articles[text] = None
                    bar.update()
    finally:
        if articles:
            write(articles)  # the articles that arrived before a failure are useful


# 3. A whole dump


def download(session):
    """Download the dump. If an earlier download was interrupted, continue where it ended."""
    DUMP.parent.mkdir(parents=True, exist_ok=True)
    part = DUMP.with_suffix(".part")
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"}
    with session.get(DUMP_URL, headers=headers, stream=True, timeout=SILENCE) as answer:
        if answer.status_code != 416:  # status 416: an earlier download was already complete
            answer.raise_for_status()
            is_rest = answer.status_code == 206  # some servers send the whole file again
            size = int(answer.headers.get("Content-Length", 0))
            bar = tqdm(total=size, unit="B", unit_scale=True, desc="download", disable=None)
            with open(part, "ab" if is_rest else "wb") as file, bar:
                for piece in answer.iter_content(1 << 16):
                    file.write(piece)
                    bar.update(len(piece))
    part.replace(DUMP)


def extract(dump):
    """Yield the clean text of each article of a dump. Raises UserError if wikiextractor fails.

    wikiextractor has the AGPL licence, so we start it as a program and do not import it.
    """
    with tempfile.TemporaryDirectory(dir=TEXT.parent) as folder:
        command = [sys.executable, "-m", "wikiextractor.WikiExtractor", str(dump), "--json", "--html", "--no-templates",
                   "--quiet", "--output", folder]  # fmt: skip
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
            try:
                watch(process)
            finally:
                stop(process)
        for path in sorted(Path(folder).glob("*/*")):
            with open(path, encoding="utf-8") as file:
                for line in file:
                    text = clean(with_headings(json.loads(line)["text"]))
                    if text:
                        yield text


def watch(process):
    """Wait until wikiextractor ends. If it prints a traceback, it will never end, so raise UserError."""
    failed = False
    for line in process.stderr:
        failed = failed or line.startswith("Traceback")
        if failed and not line.startswith((" ", "Traceback")):  # the last line, which names the error
            raise cli.UserError(f"wikiextractor failed; is the dump damaged? {cli.printable(line.strip())}")
    if process.wait() != 0:
        raise cli.UserError(f"wikiextractor ended with exit code {process.returncode}")


def stop(process):
    """End wikiextractor and its workers if they are still running."""
    if process.poll() is None:
        if hasattr(os, "killpg"):  # not on Windows
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()


def with_headings(text):
    """Return the text of an article from wikiextractor, with headings marked as in wikitext.

    For a heading, wikiextractor writes <h2>Title</h2>, and often also a line "Title.", which is removed here.
    """
    again = {f"{title}." for title in re.findall(r"<h\d>(.*?)</h\d>", text)}
    text = re.sub(r"<h\d>(.*?)</h\d>", r"== \1 ==", text)
    return "\n".join(line for line in text.split("\n") if line not in again)


# 4. The command line


@dataclass(frozen=True)
class Command:
    """The flags of this program."""

    api: bool = False  # collect random articles, with one request per article
    dump: bool = False  # extract all articles from a dump, one file that Wikipedia publishes
    limit: int = 200  # with --api: the number of articles in the file at the end
    contact: str = ""  # your e-mail address, which Wikimedia asks programs to send
    file: Path | None = None  # with --dump: a dump that you already have, NAME.xml.bz2; by default it is downloaded

    def __post_init__(self):
        if self.limit < 1:
            raise ValueError("limit must be at least 1")
        if not (self.contact.isascii() and self.contact.isprintable()):
            raise ValueError("contact must be an address in plain ASCII, such as you@example.org")


def main(argv=None):
    command = cli.parse(Command, argv)
    if command.api == command.dump:
        raise cli.UserError("choose either --api, for random articles, or --dump, for all articles")
    if command.api:
        add_random(command.limit, connect(command.contact))
        return
    if importlib.util.find_spec("wikiextractor") is None:
        raise cli.UserError("--dump needs wikiextractor: pip install -r requirements-dev.txt")
    if command.file is None and not DUMP.exists():
        download(connect(command.contact))
    dump = command.file or DUMP
    if not dump.is_file():
        raise cli.UserError(f"no file {dump}: leave out --file to download the dump")
    print(f"extracting {dump}", file=sys.stderr)
    write(extract(dump))


if __name__ == "__main__":
    cli.run(main)
