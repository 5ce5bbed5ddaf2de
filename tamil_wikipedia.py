"""Tamil Wikipedia, a large corpus of the modern language: some of its articles, or all.

    python tamil_wikipedia.py --api --limit 200 --contact you@example.org     # random articles
    python tamil_wikipedia.py --dump                                          # all articles: downloads about 275 MB
    python tamil_wikipedia.py --dump --file tawiki-latest-pages-articles.xml.bz2

Each command writes whole articles as plain text to data/tamil_wikipedia.txt, which tamil_dataset.read reads. You can
stop it at any time; run the same command again to resume. The SQLite database data/tamil_wikipedia.db stores the
articles by page id. No article is therefore there twice, and a run that is killed leaves no half of an article.

Only prose is kept: no headings, lists of references, tables or markup, no line without a Tamil letter, and no article
with fewer than 100 characters. The licence of the text is CC BY-SA 4.0: name Wikipedia where you publish it. The
environment variables TINY_DLLM_WIKIPEDIA_API_URL and TINY_DLLM_WIKIPEDIA_DUMP_URL name other addresses, such as a
mirror.
"""

import errno
import json
import os
import sqlite3
import sys
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime

from tqdm import tqdm

from plumbing import cli, download, files, foreign, settings, web
from plumbing.tamil import wikipedia

TEXT = files.DATA / "tamil_wikipedia.txt"
STORE = files.DATA / "tamil_wikipedia.db"
API_URL = "https://ta.wikipedia.org/w/api.php"
DUMP_URL = "https://dumps.wikimedia.org/tawiki/latest/tawiki-latest-pages-articles.xml.bz2"
BUSY = "maxlag", "ratelimited", "readonly"  # errors with which the API asks to be asked again
RESUME = "; run the same command again later to resume"
LARGEST_ANSWER = 1 << 24  # bytes. MediaWiki refuses articles of more than 2 MB.
LARGEST_DUMP = 1 << 30  # bytes. The dump of 2026 has about 275 MB.


@dataclass(frozen=True)
class Command:
    api: settings.Switch = False  # collect random articles, with one request for each
    dump: settings.Switch = False  # extract all articles from a dump, one file that Wikipedia publishes
    limit: settings.OptionalCount = None  # with --api: the number of articles in the file at the end (usually 200)
    contact: settings.OptionalText = None  # your e-mail address, which Wikimedia asks programs to send
    file: settings.OptionalPath = None  # with --dump: a dump that you have, NAME.xml.bz2 (by default it is downloaded)


# 1. The articles, by page id


@contextmanager
def open_store():
    """The SQLite database of articles. No other process can open it meanwhile. Its errors become UserError."""
    if TEXT.exists() and not STORE.exists():
        raise cli.UserError(f"{TEXT} is here without {STORE.name}, which holds its page ids: move it to another folder")
    STORE.parent.mkdir(exist_ok=True)
    try:
        with closing(sqlite3.connect(STORE, timeout=1, isolation_level=None)) as db:  # undoes an open change
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("BEGIN EXCLUSIVE")
            db.execute("CREATE TABLE IF NOT EXISTS article (id INTEGER PRIMARY KEY, text TEXT NOT NULL)")
            db.execute("COMMIT")
            for part in TEXT.parent.glob(f".{TEXT.name}.*.part"):  # left by a run that was killed
                part.unlink()
            yield db
    except sqlite3.DatabaseError as error:
        if "full" in str(error):
            raise OSError(errno.ENOSPC, "the disk is full") from None
        hint = f"if the file is damaged, delete it and {TEXT.name} and start again"
        hint = "wait for the other run to end" if "locked" in str(error) else hint
        raise cli.UserError(f"{STORE}: {error}; {hint}") from None


def count(db):
    """The number of articles with text."""
    return db.execute("SELECT count(*) FROM article WHERE text <> ''").fetchone()[0]


def write_text(db):
    """Write all articles to data/tamil_wikipedia.txt, in the order of their ids, and print how many there are."""
    articles = characters = 0
    with files.whole_file(TEXT) as partial:
        with open(partial, "w", encoding="utf-8", newline="\n") as file:
            file.write("# wikipedia\n")
            for (text,) in db.execute("SELECT text FROM article WHERE text <> '' ORDER BY id"):
                file.write(("\n" if articles else "") + text + "\n")
                articles, characters = articles + 1, characters + len(text)
    print(f"data/{TEXT.name}: {articles:,} articles, {characters:,} characters of Tamil Wikipedia (CC BY-SA 4.0)")


# 2. Random articles


def user_agent(contact):
    """The User-Agent that Wikimedia's rules ask for: the name of the program, and who runs it."""
    if not contact:
        print("Wikimedia asks programs to say who runs them: add --contact you@example.org", file=sys.stderr)
    elif not (contact.isascii() and contact.isprintable()):
        raise cli.UserError("--contact must be an address in plain ASCII, such as you@example.org")
    return f"tiny-dllm/1.0 ({contact or 'a reader of the book'})"


def ask(session, wanted, **parameters):
    """Ask the MediaWiki API. Returns the list of dicts under ["query"][wanted]. session: a web.Session."""
    url = os.environ.get("TINY_DLLM_WIKIPEDIA_API_URL") or API_URL
    # maxlag=5 lets busy servers refuse us. We then ask again later.
    parameters = {"action": "query", "format": "json", "formatversion": 2, "maxlag": 5} | parameters

    def attempt():
        with session.get(url, params=parameters, stream=True, timeout=web.LONG_SILENCE) as answer:
            if answer.status_code == 403:
                raise cli.UserError(f"{url} refuses us (status 403): name yourself with --contact you@example.org")
            web.check_status(answer, 200)
            body = b"".join(web.pieces(answer, url, LARGEST_ANSWER, web.LONG_SILENCE))
        try:
            found = dict(json.loads(body))
        except (ValueError, TypeError, RecursionError):
            raise web.Fault("the answer is no JSON object; does this network ask you to log in?") from None
        error = found.get("error")
        if isinstance(error, dict) and error.get("code") in BUSY:  # the status of such an answer is 200
            raise web.Fault(f"{error['code']}: {error.get('info')}", response=answer)
        if error is not None or not isinstance(found.get("query"), dict):
            reason = error.get("info") if isinstance(error, dict) else error
            raise cli.UserError(f"{url} is no MediaWiki API, or refused: "
                                f"{foreign.printable(reason or 'it gave no reason', 300)}")
        pages = found["query"].get(wanted)
        if not isinstance(pages, list) or not all(isinstance(page, dict) for page in pages):
            raise web.Fault(f"the answer has no list of {wanted}")
        return pages

    return web.persist(session, url, attempt, RESUME)


def random_ids(session):
    """The page ids of random articles, without repetitions."""
    draw = ask(session, "random", list="random", rnnamespace=0, rnlimit=500)
    ids = [page.get("id") for page in draw]
    return list(dict.fromkeys(i for i in ids if type(i) is int and 0 <= i < 1 << 62))  # SQLite stores no larger number


def article(session, page_id):
    """The clean text of a page, "" if it has no prose."""
    pages = ask(session, "pages", prop="extracts", explaintext=1, pageids=page_id)
    extract = pages[0].get("extract", "") if pages else None
    if not isinstance(extract, str):
        raise cli.UserError(f"the API sent no text for page {page_id}{RESUME}")
    return wikipedia.clean(extract)


def add_random(db, limit, agent):
    """Add random articles to the store, with one request after the other, until it holds `limit` articles."""
    have, barren = count(db), 0
    session = web.Session(agent, web.Policy(total=web.ATTEMPTS - 1))
    with session, tqdm(total=limit, initial=min(have, limit), desc="articles", disable=None) as bar:
        while have < limit:
            ids = random_ids(session)
            ids = [i for i in ids if not db.execute("SELECT 1 FROM article WHERE id = ?", (i,)).fetchone()]
            before = have
            for page_id in ids:
                if have == limit:
                    break
                text = article(session, page_id)
                # A page without prose is stored as "", so that no run asks for it again.
                db.execute("INSERT INTO article VALUES (?, ?)", (page_id, text))
                have += bool(text)
                bar.update(bool(text))
            barren = 0 if have > before else barren + 1
            if barren == 20:
                raise cli.UserError(f"found only {have:,} articles: 20 lists in a row contained no new one")


# 3. A whole dump


def find_dump(file, agent):
    """The path of the dump to read: the given file, or one that an earlier run downloaded, or a new download."""
    path = file or files.DATA / "tawiki-latest-pages-articles.xml.bz2"
    if file and not file.is_file():
        raise cli.UserError(f"no file {file}: leave out --file to download the dump")
    if not path.exists():
        url = os.environ.get("TINY_DLLM_WIKIPEDIA_DUMP_URL") or DUMP_URL
        download.download_with_resume(url, path, agent, LARGEST_DUMP)
    elif not file:
        day = datetime.fromtimestamp(path.stat().st_mtime).date()
        print(f"using data/{path.name} of {day}; delete it to download the newest", file=sys.stderr)
    return path


def add_dump(db, dump, own):
    """Add all articles of a dump to the store. If anything fails, none of them is added.

    own: whether the user gave the file. We delete a damaged file that we downloaded: it would fail again for ever.
    """
    found = 0
    db.execute("BEGIN")
    with tqdm(total=dump.stat().st_size, unit="B", unit_scale=True, desc="extract", disable=None) as bar:
        try:
            for page_id, text in wikipedia.extract(dump, bar):
                found += bool(text)
                bar.set_postfix_str(f"{found:,} articles", refresh=False)
                # A page without prose is stored as "". It does not replace a text that is in the store.
                db.execute("INSERT INTO article VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET text = excluded.text"
                           " WHERE excluded.text NOT IN ('', text)", (page_id, text))  # fmt: skip
            if not found:
                raise wikipedia.DamagedDump("has no articles")
        except wikipedia.DamagedDump as error:
            if own:
                raise cli.UserError(f"{dump} {error}: it must be a whole pages-articles.xml.bz2") from None
            dump.unlink()
            raise cli.UserError(f"{dump} {error}. It is deleted: the same command downloads it again") from None
    db.execute("COMMIT")


def check(command):
    """Raise UserError if flags do not go together."""
    if command.api == command.dump:
        raise cli.UserError("choose either --api, for random articles, or --dump, for all articles")
    if command.file and command.api or command.limit is not None and command.dump:
        raise cli.UserError("--file goes with --dump, and --limit goes with --api")
    if command.dump:
        wikipedia.need_wikiextractor()


def main(argv=None):
    command = settings.parse(Command, argv)
    check(command)
    agent = None if command.file else user_agent(command.contact)
    with open_store() as db:
        try:
            if command.dump:
                add_dump(db, find_dump(command.file, agent), own=command.file is not None)
            else:
                add_random(db, command.limit or 200, agent)
        except (cli.UserError, KeyboardInterrupt):
            if command.api and count(db):
                write_text(db)  # the articles that arrived before the failure are useful
            raise
        write_text(db)


if __name__ == "__main__":
    cli.run(main)
