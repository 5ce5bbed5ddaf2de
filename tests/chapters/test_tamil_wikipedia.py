"""tamil_wikipedia.py: a local server that behaves like MediaWiki, faults included, and the real wikiextractor."""

import bz2
import errno
import html
import json
import os
import random
import re
import signal
import sqlite3
import sys
import time
import tracemalloc
import unicodedata
from collections import Counter
from contextlib import suppress
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest
from fault_server import FaultServer, Reply, fault, part_of, record_pauses, refused
from helpers import COMMANDS

import tamil_dataset
import tamil_wikipedia as program
from plumbing import cli, download, files, web
from plumbing.tamil import wikipedia

SENTENCE = "சென்னை தமிழ்நாட்டின் தலைநகரம் ஆகும். இது வங்காள விரிகுடாவின் கரையில் அமைந்துள்ளது. "
PROSE = SENTENCE * 2


def extract_of(page_id):
    """What the API answers for a page: prose in sections, with things to drop."""
    return f"கட்டுரை {page_id}: {PROSE}\n\n\n== வரலாறு ==\n{PROSE}\n\n== மேற்கோள்கள் ==\nபழைய நூல்\n"


def cleaned(page_id):
    return f"கட்டுரை {page_id}: {PROSE.strip()}\n{PROSE.strip()}"


class MediaWiki:
    """The answers of /w/api.php as far as we use it, and of /dump, which can be had in parts."""

    def __init__(self):
        self.pages = {i: extract_of(i) for i in range(100, 160)}
        self.random, self.delay = random.Random(0), 0
        self.body, self.tag, self.ranges, self.shift, self.cuts = b"", '"one"', True, 0, []

    def answer(self, request):
        if request.path.startswith("/dump"):
            headers = request.headers if self.ranges else {}
            reply = part_of(headers, self.body, self.tag, self.shift)
            if self.cuts and reply.status != 416:
                end = self.cuts.pop(0)
                start = len(self.body) - len(reply.body)
                reply.length, reply.body = len(reply.body), self.body[start:end]
            return reply
        if "tiny-dllm" not in request.headers.get("User-Agent", ""):
            return Reply(403, b"Please set a user-agent")
        return Reply(body=json.dumps(self.query(parse_qs(urlsplit(request.path).query))).encode())

    def query(self, query):
        one = {name: values[0] for name, values in query.items()}
        assert one["action"] == "query" and one["format"] == "json" and one["formatversion"] == "2"
        if one.get("list") == "random":
            assert one["rnnamespace"] == "0"
            ids = self.random.sample(sorted(self.pages), min(len(self.pages), 20))
            ids += ids[:3]  # the same page twice in one draw
            draw = [{"id": i, "ns": 0, "title": f"பக்கம் {i}"} for i in ids[: int(one["rnlimit"])]]
            return {"continue": {"rncontinue": "0.1|0.2|1|0", "continue": "-||"}, "query": {"random": draw}}
        ids = [int(i) for i in one["pageids"].split("|")]
        pages = [{"pageid": i, "ns": 0, "title": f"பக்கம் {i}"} for i in ids]
        assert one["prop"] == "extracts" and one["explaintext"] == "1"
        text = self.pages.get(ids[0])
        if text is None:
            return {"query": {"pages": [{"pageid": ids[0], "missing": True}]}}
        pages[0]["extract"] = text  # a whole extract for the first page only, whatever exlimit says
        time.sleep(self.delay)
        return {"query": {"pages": pages}} | ({"continue": {"excontinue": 1}} if len(ids) > 1 else {})


def fault_of_mediawiki(word):
    """The faults of fault_server, and those that come with status 200: "html", "list", "maxlag 5" and other errors."""
    code, _, after = word.partition(" ")
    if code.isdigit() or code in ("drop", "truncated"):
        return fault(word)
    if code == "html":
        return Reply(body=b"<!DOCTYPE html><p>Log in to this network</p>", headers={"Content-Type": "text/html"})
    error = {"error": {"code": code, "info": "Waiting for db1: 6.1 seconds lagged.", "lag": 6.1}}
    body = [1, 2] if code == "list" else error
    return Reply(body=json.dumps(body).encode(), headers={"Retry-After": after} if after else {})


@pytest.fixture
def server(monkeypatch):
    wiki = MediaWiki()
    with FaultServer(wiki.answer, fault_of_mediawiki) as server:
        server.wiki = wiki
        monkeypatch.setenv("TINY_DLLM_WIKIPEDIA_API_URL", server.url + "/w/api.php")
        monkeypatch.setenv("TINY_DLLM_WIKIPEDIA_DUMP_URL", server.url + "/dump.xml.bz2")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield server


@pytest.fixture
def data(monkeypatch, tmp_path):
    """A data folder for this test alone. Its writes do not wait for the disk."""
    folder, connect = tmp_path / "data", sqlite3.connect

    def quick(*args, **kwargs):
        db = connect(*args, **kwargs)
        with suppress(sqlite3.DatabaseError):  # locked, or damaged
            db.execute("PRAGMA synchronous = OFF")
        return db

    monkeypatch.setattr(sqlite3, "connect", quick)
    monkeypatch.setattr(files, "DATA", folder)
    monkeypatch.setattr(program, "TEXT", folder / "tamil_wikipedia.txt")
    monkeypatch.setattr(program, "STORE", folder / "tamil_wikipedia.db")
    return folder


@pytest.fixture
def pauses(monkeypatch):
    return record_pauses(monkeypatch)


def run(*flags):
    program.main([str(flag) for flag in flags])
    return tamil_dataset.read(program.TEXT)


def api(limit, *flags):
    return run("--api", "--limit", limit, "--contact", "me@example.org", *flags)


def asked_for(server):
    """Page ids in the order of the requests for their text."""
    return [int(match[1]) for request in server.requests if (match := re.search(r"pageids=(\d+)", request.path))]


# 1. Plain text


@pytest.mark.parametrize(
    "dirty, expected",
    [
        ("== வரலாறு ==\nஅ", "அ"),
        ("முன்\n=== மேலும் காண்க ===\nவேறு கட்டுரை\n* பட்டியல்\n\n== அடுத்தது ==\nபின்", "முன்\nபின்"),
        ("முன்\n== வெளி இணைப்புகள் ==\nஅலுவல் தளம்", "முன்"),
        ("மேற்கோள்கள் பற்றி", "மேற்கோள்கள் பற்றி"),
        ("அ>=5 என்றால் ஆ=3 ஆகும்", "அ>=5 என்றால் ஆ=3 ஆகும்"),
        ("அ\n\n\n  \nஆ\u2028இ\r\nஈ", "அ\nஆ\nஇ\nஈ"),
        ("சென்னை ( , ) நகரம் (), ஊர்", "சென்னை நகரம், ஊர்"),
        ("[[ஊர்]] '''பெரிய''' <br>நகரம்[1]</ref> formula_12 {{முடி}} __NOTOC__", "ஊர் பெரிய நகரம் முடி"),
        ("| அ = ஆ\n! தலை\n{| அ\n|}\n* பட்டியல்\n# எண்\n; சொல்\nஉரை", "பட்டியல்\nஎண்\nசொல்\nஉரை"),
        ("Only English.\n1234\n{\\displaystyle x^{2}}\nhttps://x.org\nஉரை", "உரை"),
        ("# wikipedia தமிழ்", "wikipedia தமிழ்"),
        ("\u200b# தலை\n<b># தலை", "தலை\nதலை"),
        ("அ &amp; ஆ&nbsp;&lt;இ&gt; \ud800\x00ஈ", "அ & ஆ <இ> ஈ"),
        ("க\u0bc6\u0bbe க\u0bc6[[\u0bbe ப\u200cக", "கொ கொ பக"),
    ],
)
def test_clean(monkeypatch, dirty, expected):
    monkeypatch.setattr(wikipedia, "SHORTEST", 0)
    text = wikipedia.clean(dirty)
    assert text == expected
    assert wikipedia.clean(text) == text and unicodedata.is_normalized("NFC", text)


def test_too_short_is_no_article():
    assert wikipedia.clean("சென்னை என்பது பின்வருவனவற்றைக் குறிக்கலாம்:\nChennai") == ""
    assert wikipedia.clean("அ" * wikipedia.SHORTEST) and not wikipedia.clean("அ" * (wikipedia.SHORTEST - 1))


# 2. Random articles


def test_exactly_the_number_asked_for(server, data, capsys):
    server.wiki.pages |= {i: "" for i in range(200, 210)} | {i: "குறுகிய." for i in range(210, 215)} | {300: None}
    articles = api(25)["wikipedia"]
    ids = asked_for(server)
    assert len(articles) == 25 == len(set(articles))
    assert articles == [cleaned(i) for i in sorted(ids) if i < 200]
    assert len(ids) == len(set(ids)) and max(ids) >= 200  # other pages replace the empty ones
    assert server.most_at_once == 1  # one request after the other
    for request in server.requests:
        assert "maxlag=5" in request.path and "%7C" not in request.path
        assert "tiny-dllm" in request.headers["User-Agent"] and "me@example.org" in request.headers["User-Agent"]
    assert "25 articles" in capsys.readouterr().out
    assert sorted(path.name for path in data.iterdir()) == ["tamil_wikipedia.db", "tamil_wikipedia.txt"]


def test_again_nothing_happens_and_more_adds(server, data):
    few = api(10)["wikipedia"]
    before, asked = program.TEXT.read_bytes(), len(server.requests)
    assert api(10)["wikipedia"] == few and program.TEXT.read_bytes() == before and len(server.requests) == asked
    assert api(3)["wikipedia"] == few  # fewer than we have: nothing is deleted
    more = api(30)["wikipedia"]
    assert len(more) == 30 == len(set(more)) and set(few) <= set(more)
    assert max(Counter(asked_for(server)).values()) == 1
    program.TEXT.unlink()
    assert api(30)["wikipedia"] == more


@pytest.mark.parametrize(
    "faults, expected",
    [
        (["429"], [0.5]),
        (["429 7"], [7.0]),
        (["503 120"], [120.0]),
        (["503", "500", "502"], [0.5, 1.0, 2.0]),
        (["maxlag 5"], [5.0]),  # with status 200
        (["maxlag", "ratelimited 9"], [0.5, 9.0]),
        (["drop", "503"], [0.5, 1.0]),
        (["html", "list", "truncated"], [0.5, 1.0, 2.0]),
        (["drop", "html", "list"], [0.5, 1.0, 2.0]),
        (["429 soon"], [0.5]),
        (["503"] * 7, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0]),
    ],
)
@pytest.mark.parametrize("good", [0, 3])  # faults at once, or in the middle
def test_passing_faults_are_survived(server, data, pauses, faults, expected, good):
    server.faults = [None] * good + faults
    assert len(api(6)["wikipedia"]) == 6
    assert pauses == expected and not server.faults


@pytest.mark.parametrize(
    "fault, match", [("503", "503"), ("html", "no JSON"), ("maxlag 1", "maxlag"), ("429 9999", "429"), ("404", "404"),
                     ("badvalue", "6.1 seconds"), ("403", "--contact"), ("drop", "closed|reset")]
)  # fmt: skip
def test_lasting_faults_end_in_one_line_and_lose_nothing(server, data, pauses, fault, match):
    few = api(5)["wikipedia"]
    server.always = fault
    with pytest.raises(cli.UserError, match=match) as failure:
        api(9)
    assert "\n" not in str(failure.value) and len(pauses) < web.ATTEMPTS
    assert tamil_dataset.read(program.TEXT)["wikipedia"] == few
    server.always = None
    assert len(api(9)["wikipedia"]) == 9


RANDOM = [{"id": 1}]


@pytest.mark.parametrize("answer", [
    "null", "7", '"text"', "[]", "{}", "[" * 100_000, '{"a":' * 100_000, "9" * 5000, '{"query": []}', '{"query": null}',
    '{"query": {"random": {}, "pages": {}}}', '{"query": {"random": [1], "pages": [1]}}', '{"error": "a\\u001b[2J"}',
    '{"error": [1]}', '{"error": {"code": ["maxlag"], "info": {"a": 1}}}',
    '{"query": {"random": [{"id": null}, {"id": true}, {"id": [1]}, {"id": -1}, {"id": 1e9}, {}]}}',
    json.dumps({"query": {"random": [{"id": 10**30}]}}),
    json.dumps({"query": {"random": RANDOM, "pages": []}}),
    json.dumps({"query": {"random": RANDOM, "pages": [{"extract": 7}]}}),
    json.dumps({"query": {"random": RANDOM, "pages": [{"extract": ["a"]}]}}),
])  # fmt: skip
def test_answers_of_other_shapes_end_in_one_line(server, data, pauses, answer):
    server.always = Reply(body=answer.encode())
    with pytest.raises(cli.UserError) as failure:
        api(3)
    assert not COMMANDS.search(str(failure.value))


def test_an_error_of_the_api_does_not_command_the_terminal(server, data, pauses, capsys):
    info = "a\x1b[2J\x07\b\r\u202e\nerror: run this"
    server.always = Reply(body=json.dumps({"error": {"code": "maxlag", "info": info}}).encode(),
                          headers={"Retry-After": "6"})  # fmt: skip
    with pytest.raises(cli.UserError) as failure:
        api(3)
    said = capsys.readouterr().err
    assert r"\x1b[2J" in str(failure.value) and not COMMANDS.search(str(failure.value))
    assert "waiting 6 s" in said and not COMMANDS.search(said.replace("\n", "")) and "\nerror" not in said


@pytest.mark.parametrize("answer", [Reply(206, b"{}"), "body", "slow body"])
def test_an_answer_of_the_api_has_limits(server, data, pauses, monkeypatch, answer):
    monkeypatch.setattr(program, "LARGEST_ANSWER", 1 << 20)
    for name, value in {"SILENCE": 0.2, "LONG_SILENCE": 0.4, "ATTEMPTS": 2}.items():
        monkeypatch.setattr(web, name, value)
    server.always = fault(answer) if isinstance(answer, str) else answer
    with pytest.raises(cli.UserError, match="status 206|larger than|too slow|timed out"):
        api(3)


def test_what_came_before_the_fault_can_be_read(server, data, pauses):
    server.faults = [None] * 5 + ["404"]
    with pytest.raises(cli.UserError):
        api(50)
    assert len(tamil_dataset.read(program.TEXT)["wikipedia"]) == 4


def test_a_wiki_with_fewer_articles(server, data):
    server.wiki.pages = {i: extract_of(i) for i in range(7)}
    with pytest.raises(cli.UserError, match="only 7"):
        api(10)
    assert len(tamil_dataset.read(program.TEXT)["wikipedia"]) == 7


def test_contact(server, data, capsys):
    run("--api", "--limit", 1)
    assert "--contact" in capsys.readouterr().err
    for wrong in ("me@example.org\nX: y", "தமிழ்"):
        with pytest.raises(cli.UserError, match="ASCII"):
            run("--api", "--contact", wrong)


def test_killed_and_run_again(server, book):
    """After two SIGKILLs the same command continues, and the result is that of an uninterrupted run."""
    server.wiki.delay = 0.02
    command = ["tamil_wikipedia.py", "--api", "--limit", 40, "--contact", "me@example.org"]
    text = book.folder / "data" / "tamil_wikipedia.txt"
    for articles in (8, 16):
        with book.start(*command) as process:
            while len(set(asked_for(server))) < articles and process.poll() is None:
                time.sleep(0.01)
            process.kill()
            process.communicate()
        assert not text.exists()
    (text.parent / f".{text.name}.1.part").write_text("of a run that was killed while it wrote")
    done = book.run(*command)
    assert (done.code, done.err) == (0, "")
    articles = tamil_dataset.read(text)["wikipedia"]
    assert len(articles) == 40 == len(set(articles))
    assert set(articles) <= {cleaned(i) for i in asked_for(server)}
    assert len(asked_for(server)) <= 42  # a kill costs at most the request under way
    assert len(list(text.parent.iterdir())) == 2


def test_ctrl_c_keeps_what_came(server, book):
    server.wiki.delay = 0.02
    for path in (book.folder / "data").glob("tamil_wikipedia*"):
        path.unlink()
    with book.start("tamil_wikipedia.py", "--api", "--limit", 60, "--contact", "me@example.org") as process:
        while len(asked_for(server)) < 5 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in err
    assert 4 <= len(tamil_dataset.read(book.folder / "data" / "tamil_wikipedia.txt")["wikipedia"]) < 60


# 3. The store


def test_one_run_at_a_time(server, data):
    with program.open_store():
        with pytest.raises(cli.UserError, match="other run"):
            api(1)


def test_a_damaged_store_and_a_text_without_one(server, data):
    data.mkdir()
    program.STORE.write_bytes(b"no database at all" * 1000)
    with pytest.raises(cli.UserError, match="delete"):
        api(1)
    program.STORE.unlink()
    program.TEXT.write_text("# wikipedia\nஒரு பெரிய கோப்பு\n", encoding="utf-8")
    with pytest.raises(cli.UserError, match="page ids"):
        api(1)
    assert "பெரிய" in program.TEXT.read_text(encoding="utf-8")


def test_full_disk(server, data, monkeypatch):
    api(1)
    with program.open_store() as db:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
    real = sqlite3.connect

    def small(*args, **kwargs):
        db = real(*args, **kwargs)
        db.execute(f"PRAGMA max_page_count = {pages + 1}")
        return db

    monkeypatch.setattr(sqlite3, "connect", small)
    with pytest.raises(OSError) as failure:
        api(50)
    assert failure.value.errno == errno.ENOSPC  # cli.run turns it into one line
    monkeypatch.setattr(sqlite3, "connect", real)
    assert len(api(50)["wikipedia"]) == 50


# 4. The dump

HEADER = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="ta">
  <siteinfo>
    <sitename>விக்கிப்பீடியா</sitename>
    <base>https://ta.wikipedia.org/wiki/x</base>
    <namespaces>
      <namespace key="0" case="first-letter" />
      <namespace key="1" case="first-letter">பேச்சு</namespace>
      <namespace key="6" case="first-letter">படிமம்</namespace>
      <namespace key="10" case="first-letter">வார்ப்புரு</namespace>
      <namespace key="14" case="first-letter">பகுப்பு</namespace>
    </namespaces>
  </siteinfo>
"""
ARTICLE = f"""{{{{Infobox
| name = சென்னை {{{{nested|{{{{deeper|x}}}}}}}}
}}}}
'''சென்னை''' [[தமிழ்நாடு|தமிழ்நாட்டின்]] ஊர்.<ref>{{{{cite|url=http://x}}}} குறிப்புநூல்</ref> {PROSE}

== வரலாறு ==
{PROSE}<ref name="a" />{{{{#expr: 9^9^9^9^9 }}}}

{{| class="wikitable"
! அட்டவணைத்தலை
|-
| அட்டவணை || 2
|}}
* பட்டியல்
[[படிமம்:a.jpg|thumb|படத்தலைப்பு [[சென்னை]] இங்கே]]

== மேற்கோள்கள் ==
{{{{Reflist}}}}
பழைய நூல்
[[பகுப்பு:நகரங்கள்]]"""


def page(page_id, title, text, namespace=0, redirect=""):
    redirect = f'    <redirect title="{redirect}" />\n' if redirect else ""
    return f"""  <page>
    <title>{html.escape(title)}</title>
    <ns>{namespace}</ns>
    <id>{page_id}</id>
{redirect}    <revision>
      <id>{page_id + 1000}</id>
      <text bytes="{len(text.encode())}" xml:space="preserve">{html.escape(text, quote=False)}</text>
    </revision>
  </page>
"""


PAGES = [
    page(1, "சென்னை", ARTICLE),
    page(2, "மதராஸ்", "#வழிமாற்று [[சென்னை]]" + PROSE, redirect="சென்னை"),
    page(3, "மதுரை (தெளிவு)", "'''மதுரை''' என்பது எதைக் குறிக்கலாம்:\n* [[மதுரை]]\n* [[மாவட்டம்]]\n{{disambig}}"),
    page(4, "வார்ப்புரு:பெட்டி", "பெட்டி " + PROSE, 10),
    page(5, "பேச்சு:சென்னை", "பேச்சு " + PROSE, 1),
    page(6, "வெற்று", ""),
    *(page(100 + i, f"ஊர்: {i}", f"== தலைப்பு ==\nகட்டுரை {100 + i}: {PROSE}\n\nக\u0bc6\u0bbe {PROSE}") for i in range(9)),
]
FIRST = f"சென்னை தமிழ்நாட்டின் ஊர். {PROSE}\n{PROSE}".replace(" \n", "\n").strip()
ARTICLES = [FIRST, *(f"கட்டுரை {100 + i}: {PROSE.strip()}\nகொ {PROSE.strip()}" for i in range(9))]


def dump_of(path, pages, header=HEADER, end="</mediawiki>\n"):
    path.write_bytes(bz2.compress((header + "".join(pages) + end).encode()))
    return path


@pytest.fixture
def dump(tmp_path):
    return dump_of(tmp_path / "tawiki.xml.bz2", PAGES)


def test_dump(data, dump, monkeypatch, capsys):
    assert run("--dump", "--file", dump) == {"wikipedia": ARTICLES}
    text = program.TEXT.read_text(encoding="utf-8")
    assert unicodedata.is_normalized("NFC", text) and "10 articles" in capsys.readouterr().out
    # Small pieces, written over the existing file, give the same result.
    monkeypatch.setattr(wikipedia, "PIECE", 5000)
    assert len(list(wikipedia.cut(dump))) == 4
    run("--dump", "--file", dump)
    assert program.TEXT.read_text(encoding="utf-8") == text
    # So does a dump of several bz2 streams, like Wikimedia's multistream files.
    dump.write_bytes(b"".join(bz2.compress(part.encode()) for part in [HEADER, *PAGES, "</mediawiki>"]))
    run("--dump", "--file", dump)
    assert program.TEXT.read_text(encoding="utf-8") == text


def test_pages_are_cut_whole(data, dump, monkeypatch):
    for size in (1500, 2000, 3001, 10**6):  # the header fits into each
        monkeypatch.setattr(wikipedia, "PIECE", size)
        pieces = [xml for xml, _ in wikipedia.cut(dump)]
        assert all(xml.startswith(HEADER) and xml.endswith("</page>\n</mediawiki>\n") for xml in pieces)
        pages = [page for xml in pieces for page in re.findall("  <page>.*?</page>\n", xml, re.DOTALL)]
        assert pages == PAGES and len(pieces) == (1 if size == 10**6 else len(pieces))


def test_api_and_dump_mixed_hold_no_article_twice(server, data, dump):
    server.wiki.pages = {i: extract_of(i) for i in range(100, 115)}
    assert len(api(12)["wikipedia"]) == 12
    mixed = run("--dump", "--file", dump)["wikipedia"]
    kept = [i for i in asked_for(server) if i >= 109]  # not in the dump: kept
    assert mixed == ARTICLES + [cleaned(i) for i in sorted(kept)]
    asked = len(asked_for(server))
    assert len(api(len(mixed) + 1)["wikipedia"]) == len(mixed) + 1
    assert all(i >= 109 for i in asked_for(server)[asked:])
    # An empty page of the dump does not replace a text.
    empty = dump_of(dump, [page(100, "ஊர்", ""), page(200, "ஊர்", PROSE)])
    assert run("--dump", "--file", empty)["wikipedia"][1] == ARTICLES[1]


def test_wrong_dumps_change_nothing(data, dump, tmp_path, monkeypatch):
    run("--dump", "--file", dump)
    before, store = program.TEXT.read_bytes(), program.STORE.read_bytes()
    whole = dump.read_bytes()
    monkeypatch.setattr(wikipedia, "PIECE", 9000)
    new = bz2.compress((HEADER + "".join(page(900 + i, "புது", PROSE) for i in range(30))).encode())
    wrong = {
        "no bz2": (b"<mediawiki>" * 100, "no bz2"),
        "cut": (whole[: len(whole) // 2], "cut off"),
        "cut between streams": (new, "cut off"),
        "damaged": (whole[:200] + b"\0" * 50 + whole[250:], "no bz2 file, or a damaged"),
        "empty": (b"", "cut off|no pages"),
        "no pages": (bz2.compress(b"a story, " * 2000), "no pages"),
        "no whole page": (bz2.compress((HEADER + "<page></mediawiki>").encode()), "no articles"),
        "only templates": (bz2.compress((HEADER + PAGES[3] + "</mediawiki>").encode()), "no articles"),
    }
    for name, (content, match) in wrong.items():
        (tmp_path / "wrong.bz2").write_bytes(content)
        with pytest.raises(cli.UserError, match=match) as failure:
            run("--dump", "--file", tmp_path / "wrong.bz2")
        assert "\n" not in str(failure.value) and "wrong.bz2" in str(failure.value), name
        assert (program.TEXT.read_bytes(), program.STORE.read_bytes()) == (before, store), name


def test_a_few_bytes_that_expand_to_gigabytes(data, tmp_path, monkeypatch):
    monkeypatch.setattr(wikipedia, "PIECE", 1 << 20)
    monkeypatch.setattr(wikipedia, "LARGEST_PAGE", 3 << 20)
    path = tmp_path / "bomb.bz2"
    path.write_bytes(bz2.compress((HEADER + "<page>" + "x" * (1 << 25)).encode()))
    tracemalloc.start()
    with pytest.raises(cli.UserError, match="has a page of"):
        run("--dump", "--file", path)
    assert path.stat().st_size < 3000 and tracemalloc.get_traced_memory()[1] < 12 << 20
    tracemalloc.stop()
    assert path.exists()  # it is the user's own file


def test_killed_while_extracting_and_run_again(book, tmp_path):
    folder = book.folder / "data"
    for path in folder.glob("tamil_wikipedia*"):
        path.unlink()
    old = dump_of(tmp_path / "old.bz2", PAGES)
    assert book.run("tamil_wikipedia.py", "--dump", "--file", old).code == 0
    before = (folder / "tamil_wikipedia.txt").read_bytes()
    large = dump_of(tmp_path / "large.bz2", [page(i, f"ஊர் {i}", f"ஊர் {i}. {PROSE}") for i in range(1000, 1060)])
    small_pieces = ("import tamil_wikipedia; from plumbing import cli; from plumbing.tamil import wikipedia; "
                    "wikipedia.PIECE = 8000; cli.run(tamil_wikipedia.main)")  # fmt: skip
    with book.start("-c", small_pieces, "--dump", "--file", large) as process:
        journal = folder / "tamil_wikipedia.db-journal"
        while not journal.exists() and process.poll() is None:
            time.sleep(0.005)
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert (folder / "tamil_wikipedia.txt").read_bytes() == before
    done = book.run("tamil_wikipedia.py", "--dump", "--file", large)
    assert (done.code, done.err) == (0, "")
    texts = tamil_dataset.read(folder / "tamil_wikipedia.txt")["wikipedia"]
    assert texts == ARTICLES + [f"ஊர் {i}. {PROSE.strip()}" for i in range(1000, 1060)]
    assert not journal.exists()


STUB = """
import json, os, re, sys, time
from pathlib import Path
xml = Path(sys.argv[1]).read_text(encoding="utf-8")
word = re.search("crash|hang|exit|full", xml)
if word:
    if word[0] == "full":
        print("OSError: [Errno 28] No space left on device", file=sys.stderr, flush=True)
    if word[0] == "crash":
        print("Traceback (most recent call last):", file=sys.stderr, flush=True)
    if word[0] == "exit":
        sys.exit(1)
    if word[0] == "hang":
        open(os.environ["HANGING"], "a").write("!")
    time.sleep(60)
Path("out/AA").mkdir(parents=True)
with open("out/AA/wiki_00", "w") as file:
    for number, text in re.findall("<id>(.*?)</id>.*?<text.*?>(.*?)</text>", xml, re.DOTALL):
        file.write(json.dumps({"id": number, "text": text}) + "\\n")
"""


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """A wikiextractor that fails in the ways that the real one might, on pages that say so."""
    package = tmp_path / "stub" / "wikiextractor"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "WikiExtractor.py").write_text(STUB)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))


@pytest.mark.parametrize("fault", ["crash", "exit", "hang"])
def test_a_page_on_which_wikiextractor_fails_is_left_out(data, tmp_path, stub, fault, capsys, monkeypatch):
    hanging = tmp_path / "hanging"
    hanging.touch()
    monkeypatch.setenv("HANGING", str(hanging))
    # A clock on which hours pass when the extractor hangs.
    clock = SimpleNamespace(sleep=time.sleep, monotonic=lambda: time.monotonic() + 1e5 * hanging.stat().st_size)
    monkeypatch.setattr(wikipedia, "time", clock)
    pages = [page(i, f"ஊர் {i}\x1b[2J\u202e", (fault if i == 3 else "") + PROSE) for i in range(5)]
    articles = run("--dump", "--file", dump_of(tmp_path / "d.bz2", pages))["wikipedia"]
    assert articles == [PROSE.strip()] * 4
    assert "left out" in (err := capsys.readouterr().err) and r"ஊர் 3\x1b[2J\u202e" in err
    assert not COMMANDS.search(err.replace("\n", ""))


def test_a_broken_wikiextractor(data, tmp_path, stub, monkeypatch):
    monkeypatch.setattr(wikipedia.Extraction, "left_out", 0)
    monkeypatch.setattr(wikipedia, "MOST_LEFT_OUT", 2)
    with pytest.raises(cli.UserError, match="Traceback") as failure:
        run("--dump", "--file", dump_of(tmp_path / "d.bz2", [page(i, "ஊர்", "crash" + PROSE) for i in range(4)]))
    assert "\n" not in str(failure.value) and not program.TEXT.exists()


def test_a_full_disk_inside_wikiextractor(data, tmp_path, stub):
    with pytest.raises(OSError) as failure:
        run("--dump", "--file", dump_of(tmp_path / "d.bz2", [page(1, "ஊர்", "full" + PROSE)]))
    assert failure.value.errno == errno.ENOSPC and not program.TEXT.exists()


@pytest.mark.parametrize("version", [None, "3.0.6", "2.75"])
def test_no_wikiextractor_or_an_old_one(data, dump, monkeypatch, version):
    def installed(name):
        if version is None:
            raise wikipedia.importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(wikipedia.importlib.metadata, "version", installed)
    with pytest.raises(cli.UserError, match="pip install"):
        run("--dump", "--file", dump)
    assert not data.exists()


# 5. Downloading the dump


@pytest.fixture
def large(server, tmp_path):
    server.wiki.body = dump_of(tmp_path / "source.bz2", PAGES).read_bytes()
    return server


def ranges(server):
    return [request.headers.get("Range") for request in server.requests]


def test_download_and_extract(large, data, capsys):
    assert run("--dump", "--contact", "me@example.org") == {"wikipedia": ARTICLES}
    assert "me@example.org" in large.requests[0].headers["User-Agent"]
    assert run("--dump", "--contact", "me@example.org") == {"wikipedia": ARTICLES}
    assert len(large.requests) == 1 and "delete it" in capsys.readouterr().err
    assert sorted(path.suffix for path in data.iterdir()) == [".bz2", ".db", ".txt"]


@pytest.mark.parametrize("body", [b"<html>log in</html>" * 100, bz2.compress(b"a story, " * 2000)])
def test_a_wrong_dump_does_not_stay(large, data, body):
    right, large.wiki.body = large.wiki.body, body
    with pytest.raises(cli.UserError, match="It is deleted"):
        run("--dump", "--contact", "me@example.org")
    assert not list(data.glob("*.bz2"))
    large.wiki.body = right
    assert run("--dump", "--contact", "me@example.org") == {"wikipedia": ARTICLES}


@pytest.fixture
def fetch(large, tmp_path):
    """Downloads server.wiki.body into tmp_path/new/file; returns its bytes."""
    path = tmp_path / "new" / "file"
    url = os.environ["TINY_DLLM_WIKIPEDIA_DUMP_URL"]

    def get():
        download.download_with_resume(url, path, "tiny-dllm", 1 << 20)
        assert [p.name for p in path.parent.iterdir()] == ["file"]
        return path.read_bytes()

    return get


def test_download_goes_on_where_it_was_cut(large, fetch, pauses):
    large.wiki.cuts = [300, 500, 400 + len(large.wiki.body)]
    assert fetch() == large.wiki.body
    assert ranges(large) == [None, "bytes=300-", "bytes=500-"] and pauses == [0.5, 1.0]


def stopped(fetch, monkeypatch, server, cut=300):
    """A run that ended in the middle."""
    server.wiki.cuts = [cut]
    monkeypatch.setattr(web, "ATTEMPTS", 1)
    with pytest.raises(cli.UserError, match="truncated"):
        fetch()
    monkeypatch.setattr(web, "ATTEMPTS", 8)
    server.requests.clear()


def test_download_goes_on_in_another_run(large, fetch, monkeypatch, pauses):
    stopped(fetch, monkeypatch, large)
    assert fetch() == large.wiki.body and ranges(large) == ["bytes=300-"]


def test_a_changed_file_is_not_glued_to_an_old_half(large, fetch, monkeypatch, pauses):
    stopped(fetch, monkeypatch, large)
    large.wiki.body, large.wiki.tag = large.wiki.body[::-1] + b"new", '"two"'
    large.wiki.cuts = [200]  # and the new one is cut too
    assert fetch() == large.wiki.body
    assert ranges(large) == ["bytes=300-", "bytes=200-"]
    assert large.requests[1].headers["If-Range"] == '"two"'


@pytest.mark.parametrize("tag", [None, 'W/"weak"'])
def test_without_a_strong_tag_it_starts_again(large, fetch, monkeypatch, pauses, tag):
    large.wiki.tag = tag
    stopped(fetch, monkeypatch, large)
    assert fetch() == large.wiki.body and ranges(large) == [None]


def test_a_server_without_ranges_or_with_wrong_ones(large, fetch, monkeypatch, pauses):
    stopped(fetch, monkeypatch, large)
    large.wiki.shift = 5
    assert fetch() == large.wiki.body and ranges(large) == ["bytes=300-", None]
    stopped(fetch, monkeypatch, large)
    large.wiki.shift, large.wiki.ranges = 0, False
    assert fetch() == large.wiki.body and ranges(large) == ["bytes=300-"]


def test_killed_after_the_last_byte(large, fetch, monkeypatch, pauses, tmp_path):
    stopped(fetch, monkeypatch, large)
    (tmp_path / "new" / "file.part").write_bytes(large.wiki.body)
    assert fetch() == large.wiki.body and len(large.requests) == 1
    # What is there is longer than the file: it cannot be a part of it.
    (tmp_path / "new" / "file").unlink()
    large.requests.clear()
    stopped(fetch, monkeypatch, large)
    (tmp_path / "new" / "file.part").write_bytes(large.wiki.body + b"more")
    assert fetch() == large.wiki.body and ranges(large)[-1] is None


def test_download_that_cannot_be(large, fetch, pauses):
    large.always = "404"
    with pytest.raises(cli.UserError, match="404"):
        fetch()
    large.always = "503 7"
    with pytest.raises(cli.UserError, match="503"):
        fetch()
    assert pauses == [7.0] * 7


# 6. Commands


@pytest.mark.parametrize(
    "flags, match",
    [("", "--api"), ("--api --dump", "either --api"), ("--api --file x", "goes with"),
     ("--dump --limit 3", "goes with"), ("--dump --file nowhere", "no file nowhere"), ("--dump --file .", "no file"),
     ("--api --limit 0", "at least 1"), ("--api --limit x", "limit: .*x"), ("--nonsense", "nonsense")],
)  # fmt: skip
def test_wrong_commands(data, monkeypatch, capsys, flags, match):
    monkeypatch.setattr(sys, "argv", ["tamil_wikipedia.py", *flags.split()])
    with pytest.raises(SystemExit) as stop:
        cli.run(program.main)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and re.search(match, err) and "Traceback" not in err
    if not re.search("--limit [0x]|--nonsense", flags):  # tyro draws a box
        assert err.count("\n") == 1
    assert not list(data.glob("*.txt"))


def test_no_network(data, monkeypatch, pauses):
    monkeypatch.setenv("TINY_DLLM_WIKIPEDIA_API_URL", refused() + "/w/api.php")
    monkeypatch.setenv("TINY_DLLM_WIKIPEDIA_DUMP_URL", "http://nowhere.invalid/dump")
    monkeypatch.setenv("no_proxy", "*")
    for flags in ("--api", "--dump"):
        with pytest.raises(cli.UserError, match="refused|not known|resol|failure"):
            run(flags, "--contact", "me@example.org")
    assert not program.TEXT.exists()
