"""tamil_wikipedia.py, with a local server that has the faults of Wikimedia's servers, and the real wikiextractor."""

import bz2
import html
import json
import random
import time
import unicodedata

import tamil_dataset
import tamil_wikipedia as program
from fault_server import FaultServer, Reply
from helpers import COMMANDS
from plumbing import cli

import pytest

PROSE = "சென்னை தமிழ்நாட்டின் தலைநகரம் ஆகும். இது வங்காள விரிகுடாவின் கரையில் அமைந்துள்ளது. " * 2


def answer(server, request):
    """Answer like Wikimedia's servers: with an article, or with the rest of the dump."""
    if not request.path.startswith("/dump"):
        page = {"pageid": 1, "ns": 0, "title": "a", "extract": server.pages[len(server.requests) % len(server.pages)]}
        return Reply(body=json.dumps({"query": {"pages": [page]}}).encode())
    if not server.ranges:
        return Reply(body=server.dump)
    start = int(request.headers["Range"].removeprefix("bytes=").removesuffix("-"))
    return Reply(206, server.dump[start:]) if start < len(server.dump) else Reply(416)


@pytest.fixture
def server(monkeypatch):
    with FaultServer(lambda request: answer(server, request)) as server:
        article = f"{PROSE}\n\n\n== வரலாறு ==\n{PROSE}\n\n== மேற்கோள்கள் ==\nபழைய நூல்\n"
        server.pages = [f"கட்டுரை {i}: {article}" for i in range(9)]
        server.dump, server.ranges = b"", True
        monkeypatch.setattr(program, "API_URL", f"{server.url}/w/api.php")
        monkeypatch.setattr(program, "DUMP_URL", f"{server.url}/dump.xml.bz2")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield server


@pytest.fixture
def data(monkeypatch, tmp_path):
    """A data folder for one test."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setattr(program, "TEXT", folder / "tamil_wikipedia.txt")
    monkeypatch.setattr(program, "DUMP", folder / "dump.xml.bz2")
    return folder


@pytest.fixture
def pauses(monkeypatch):
    """The pauses between requests, which take no time."""
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    return pauses


def run(*flags):
    program.main([str(flag) for flag in flags])
    return tamil_dataset.read(program.TEXT)["wikipedia"]


def api(limit):
    return run("--api", "--limit", limit, "--contact", "me@example.org")


# 1. Plain text


@pytest.mark.parametrize("dirty, expected", [
    ("== வரலாறு ==\nஅ", "அ"),
    ("முன்\n=== மேலும் காண்க ===\nவேறு கட்டுரை\n* பட்டியல்\n\n== அடுத்தது ==\nபின்", "முன்\nபின்"),
    ("முன்\n== வெளி இணைப்புகள் ==\nஅலுவல் தளம்", "முன்"),
    ("அ>=5 என்றால் ஆ=3 ஆகும்", "அ>=5 என்றால் ஆ=3 ஆகும்"),
    ("அ\n\n\n  \nஆ\u2028இ\r\nஈ", "அ\nஆ\nஇ\nஈ"),
    ("சென்னை ( , ) நகரம் (), ஊர்", "சென்னை நகரம், ஊர்"),
    ("[[ஊர்]] '''பெரிய''' <br>நகரம்[1]</ref> formula_12 {{முடி}} __NOTOC__", "ஊர் பெரிய நகரம் முடி"),
    ("| அ = ஆ\n! தலை\n{| அ\n|}\n* பட்டியல்\n; சொல்\nஉரை", "பட்டியல்\nசொல்\nஉரை"),
    ("Only English.\n1234\n{\\displaystyle x^{2}}\nhttps://x.org\nஉரை", "உரை"),
    ("\u200b# wikipedia தமிழ்\n<b># தலை", "wikipedia தமிழ்\nதலை"),  # such a line would begin a source
    ("அ &amp; ஆ&nbsp;&lt;இ&gt; \ud800\x00ஈ", "அ & ஆ <இ> ஈ"),
    ("க\u0bc6\u0bbe க\u0bc6[[\u0bbe ப\u200cக", "கொ கொ பக"),
])  # fmt: skip
def test_clean(monkeypatch, dirty, expected):
    monkeypatch.setattr(program, "SHORTEST", 0)
    text = program.clean(dirty)
    assert text == expected == program.clean(text) and unicodedata.is_normalized("NFC", text)


def test_too_short_is_no_article():
    assert program.clean("அ" * 100) and not program.clean("அ" * 99)


# 2. Random articles


def test_articles_are_added_until_there_are_enough(server, data):
    few = api(3)
    assert few[0] == f"கட்டுரை 1: {PROSE.strip()}\n{PROSE.strip()}" and len(few) == 3
    assert "maxlag=5" in server.requests[0].path and "me@example.org" in server.requests[0].headers["User-Agent"]
    server.pages[4] = "குறுகிய."
    more = api(6)  # page 5 is too short, so page 6, 7 and 8 come
    assert more[:3] == few and len(set(more)) == 6
    asked = len(server.requests)
    assert api(2) == more and len(server.requests) == asked


LAGGED = json.dumps({"error": {"code": "maxlag", "info": "Waiting for db1: 6.1 seconds lagged."}}).encode()


@pytest.mark.parametrize("faults, expected", [
    (["429 7"], [7]), (["503", "500"], [2]), ([Reply(body=LAGGED)] * 2, [5, 10])])
def test_a_busy_server_is_asked_again_later(server, data, pauses, faults, expected):
    server.faults = [None, *faults]
    assert len(api(3)) == 3 and [pause for pause in pauses if pause] == expected


@pytest.mark.parametrize("fault", [
    "404", Reply(body=b"<p>Log in to this network"), Reply(body=b"[" * 100_000), Reply(body=b"{}", length=9),
    Reply(body=b'{"error": {"code": "bad", "info": "a\x1b[2J"}}')])
def test_a_lasting_fault_is_one_line_and_loses_nothing(server, data, pauses, fault):
    server.faults = [None] * 2 + [fault] * 9
    with pytest.raises((cli.UserError, OSError)) as failure:
        api(5)
    assert not COMMANDS.search(str(failure.value))
    assert len(tamil_dataset.read(program.TEXT)["wikipedia"]) == 2
    server.faults = []
    assert len(api(5)) == 5


# 3. The dump

HEADER = """<mediawiki version="0.11" xml:lang="ta">
  <siteinfo>
    <base>https://ta.wikipedia.org/wiki/x</base>
    <namespaces>
      <namespace key="0" case="first-letter" />
      <namespace key="10" case="first-letter">வார்ப்புரு</namespace>
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
| அட்டவணை || 2
|}}
[[படிமம்:a.jpg|thumb|படத்தலைப்பு [[சென்னை]] இங்கே]]

== மேற்கோள்கள் ==
பழைய நூல்"""


def page(number, text, namespace=0, redirect=""):
    return f"""  <page>
    <title>பக்கம் {number}</title>
    <ns>{namespace}</ns>
    <id>{number}</id>
{redirect}    <revision>
      <id>{number + 1000}</id>
      <text xml:space="preserve">{html.escape(text, quote=False)}</text>
    </revision>
  </page>
"""


DUMP = bz2.compress((HEADER + page(1, ARTICLE) + page(2, PROSE, redirect='    <redirect title="a" />\n')
                     + page(3, "வார்ப்புரு " + PROSE, 10) + page(4, "") + page(5, f"== தலை ==\nகெ\u0bbe {PROSE}")
                     + "</mediawiki>\n").encode())  # fmt: skip
ARTICLES = [f"சென்னை தமிழ்நாட்டின் ஊர். {PROSE.strip()}\n{PROSE.strip()}", f"கொ {PROSE.strip()}"]


def test_a_dump_becomes_articles_and_a_damaged_one_changes_nothing(data, tmp_path):
    dump = tmp_path / "d.xml.bz2"
    dump.write_bytes(DUMP)
    assert run("--dump", "--file", dump) == ARTICLES
    before = program.TEXT.read_bytes()
    for content, match in ((DUMP[:300], "EOFError"), (b"<mediawiki>", "OSError"), (bz2.compress(b"a"), "no articles")):
        dump.write_bytes(content)
        with pytest.raises(cli.UserError, match=match):
            run("--dump", "--file", dump)
        assert program.TEXT.read_bytes() == before and [path.name for path in data.iterdir()] == ["tamil_wikipedia.txt"]


CRASH = "print('Traceback (most recent call last):\\n  x\\nKeyError: 7', file=sys.stderr, flush=True); time.sleep(60)"


@pytest.mark.parametrize("code, match", [(CRASH, "KeyError: 7"), ("sys.exit(3)", "exit code 3")])
def test_wikiextractor_fails(data, tmp_path, monkeypatch, code, match):
    """After an error in one of its workers, wikiextractor would wait for ever."""
    package = tmp_path / "stub" / "wikiextractor"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "WikiExtractor.py").write_text(f"import sys, time\n{code}\n")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    (tmp_path / "d.xml.bz2").write_bytes(DUMP)
    with pytest.raises(cli.UserError, match=match):
        run("--dump", "--file", tmp_path / "d.xml.bz2")


def test_a_download_goes_on_where_it_was_cut(server, data):
    server.dump = random.Random(0).randbytes(400_000)
    part = program.DUMP.with_suffix(".part")
    for end in (150_000, 350_000):
        start = part.stat().st_size if part.exists() else 0
        server.faults = [Reply(206, server.dump[start:end], length=len(server.dump) - start)]
        with pytest.raises(OSError):
            program.download(program.connect(""))
        assert start < part.stat().st_size and server.dump.startswith(part.read_bytes())
    program.download(program.connect(""))
    assert program.DUMP.read_bytes() == server.dump
    starts = [int(request.headers["Range"][6:-1]) for request in server.requests]
    assert starts[0] == 0 < starts[1] < starts[2]


def test_a_download_is_kept(server, data):
    server.dump = DUMP
    for _ in range(2):
        assert run("--dump", "--contact", "me@example.org") == ARTICLES
    assert len(server.requests) == 1 and "me@example.org" in server.requests[0].headers["User-Agent"]


@pytest.mark.parametrize("ranges, part", [(False, DUMP[:300]), (True, DUMP)])
def test_other_ends_of_a_download(server, data, ranges, part):
    """One server always sends the whole file. In the other case, the program was killed after the last byte."""
    server.dump, server.ranges = DUMP, ranges
    program.DUMP.with_suffix(".part").write_bytes(part)
    program.download(program.connect("me@example.org"))
    assert program.DUMP.read_bytes() == DUMP and len(list(data.iterdir())) == 1
