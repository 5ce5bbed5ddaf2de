"""download.py and web.py under the faults of a real local server: whole files, retries, deadlines, redirects."""

import errno
import hashlib
import time
from email.utils import formatdate
from functools import partial

import pytest
from fault_server import ENDLESS, FaultServer, Reply, fault, record_pauses, refused
from helpers import COMMANDS, python
from urllib3 import HTTPResponse

from plumbing import cli, download, web

BODY = b"It was a quiet night on the river.\n" * 3000
BODY_SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def server():
    with FaultServer(lambda request: Reply(body=BODY), partial(fault, body=BODY)) as server:
        server.file = server.url + "/file"
        yield server


@pytest.fixture
def pauses(monkeypatch):
    return record_pauses(monkeypatch)


def fails(url, path, match, **options):
    """fetch() raises one clear line, keeps what was there, and leaves nothing half-written. Returns the error."""
    path.write_bytes(b"old")
    with pytest.raises(cli.UserError, match=match) as failure:
        download.fetch(url, path, BODY_SHA256, **options)
    assert "\n" not in str(failure.value) and url in str(failure.value)
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    return failure.value


def test_download(server, tmp_path, pauses):
    path = tmp_path / "new folder" / "file.txt"
    download.fetch(server.file, path, BODY_SHA256)
    assert path.read_bytes() == BODY
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]
    assert pauses == [] and server.requests[0].headers["Accept-Encoding"] == "identity"


def test_download_without_a_known_sha256(server, tmp_path):
    server.always = "wrong"
    download.fetch(server.file, tmp_path / "file", None)
    assert (tmp_path / "file").stat().st_size == len(BODY)


def test_refused_connection(tmp_path, pauses):
    error = fails(refused() + "/file", tmp_path / "file", "refused")
    assert len(pauses) == 2 and sum(pauses) < 3 and isinstance(error, cli.Unreachable)


def test_unknown_host_is_not_retried(tmp_path, pauses):
    error = fails("http://nowhere.invalid/file", tmp_path / "file", "could not download")
    assert pauses == [] and isinstance(error, cli.Unreachable)


def test_silence_while_connecting_is_not_retried(server, tmp_path, pauses, monkeypatch):
    def silence(address, timeout, *args, **kwargs):
        assert timeout <= web.SILENCE
        raise TimeoutError("timed out")

    monkeypatch.setattr("urllib3.util.connection.create_connection", silence)
    assert isinstance(fails(server.file, tmp_path / "file", "timed out"), cli.Unreachable)
    assert pauses == []


def test_not_an_address(tmp_path, pauses):
    fails("nonsense", tmp_path / "file", "Invalid URL")
    assert pauses == []


def test_404_is_not_retried(server, tmp_path, pauses):
    server.always = "404 5"
    error = fails(server.file, tmp_path / "file", "404")
    assert pauses == [] and len(server.requests) == 1 and not isinstance(error, cli.Unreachable)


@pytest.mark.parametrize("faults, expected", [
    (["429 3"], [3.0]),  # the seconds that Retry-After asks for
    (["429"], [0.5]),
    (["500", "500"], [0.5, 1.0]),
    (["truncated"], [0.5]),
    (["truncated", "truncated"], [0.5, 1.0]),
    (["drop", "503"], [0.5, 1.0]),
])  # fmt: skip
def test_passing_faults_are_survived(server, tmp_path, pauses, faults, expected):
    server.faults = list(faults)
    download.fetch(server.file, tmp_path / "file", BODY_SHA256)
    assert (tmp_path / "file").read_bytes() == BODY
    assert pauses == expected and len(server.requests) == len(faults) + 1
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("word, match", [("500", "500"), ("truncated", "truncated"), ("drop", "closed|reset")])
def test_lasting_faults_fail_cleanly(server, tmp_path, pauses, word, match):
    server.always = word
    fails(server.file, tmp_path / "file", match)
    assert len(server.requests) == 3


def test_no_longer_pause_than_the_deadline(server, tmp_path, pauses):
    for asked in ("86400", "25", formatdate(time.time() + 60, usegmt=True)):
        server.always = f"429 {asked}"
        fails(server.file, tmp_path / "file", "429")
    assert pauses == [] and len(server.requests) == 3
    server.always = "503"
    fails(server.file, tmp_path / "file", "503", timeout=0.9)  # the first pause fits, the second does not
    assert pauses == [0.5]


def test_pauses_are_capped_and_dates_understood():
    def asked(value):
        return HTTPResponse(headers={"Retry-After": value}, status=503)

    policy = web.Policy(total=100)
    assert 80 < policy.get_retry_after(asked(formatdate(time.time() + 90, usegmt=True))) <= 90
    assert policy.get_retry_after(asked("Wed, 21 Oct 2015 07:28:00 GMT")) == 0
    assert policy.get_retry_after(asked("soon")) is None
    for _ in range(20):
        policy = policy.increment(error=ConnectionError())
    assert policy.get_backoff_time() == web.LONGEST_PAUSE
    with pytest.raises(web.exceptions.MaxRetryError):  # the server asks for a pause of a day
        policy.increment(response=asked("86400"))


def test_wrong_bytes(server, tmp_path, pauses):
    server.always = "wrong"
    fails(server.file, tmp_path / "file", "other bytes")
    assert len(server.requests) == 1


def test_too_many_bytes(server, tmp_path, pauses):
    fails(server.file, tmp_path / "file", "larger than 1,000 bytes", limit=1000)
    download.fetch(server.file, tmp_path / "file", BODY_SHA256, limit=len(BODY))
    assert len(server.requests) == 2


def test_slow_server_meets_the_deadline(server, tmp_path):
    server.always = "slow"
    start = time.monotonic()
    error = fails(server.file, tmp_path / "file", "too slow", timeout=0.6)
    assert time.monotonic() - start < 3 and isinstance(error, cli.Unreachable)


@pytest.mark.parametrize("reply", ["silent", Reply(body=BODY, length=len(BODY) + 1, wait=1.5)])
def test_silent_server_meets_the_deadline(server, tmp_path, reply):
    server.always = reply
    start = time.monotonic()
    error = fails(server.file, tmp_path / "file", "timed out", timeout=0.5)
    assert time.monotonic() - start < 1.4 and isinstance(error, cli.Unreachable)


def test_the_last_attempt_has_only_the_time_that_is_left(server, tmp_path):
    """Two silent attempts with a pause: each could take 0.7 s, but all of it must end after 1.4 s."""
    server.always = Reply(wait=5, drop=True)
    start = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web, "SILENCE", 0.7)
        fails(server.file, tmp_path / "file", "timed out", timeout=1.4)
    assert 1.3 < time.monotonic() - start < 1.9 and len(server.requests) == 2


@pytest.mark.parametrize("word", sorted(ENDLESS))
def test_an_endless_answer_comes_to_an_end(server, tmp_path, word, monkeypatch):
    """Whatever is repeated for ever, and however slowly: the time and the bytes of an answer have a limit."""
    server.always = word
    monkeypatch.setattr(web, "SILENCE", 0.3)
    start = time.monotonic()
    fails(server.file, tmp_path / "file", "timed out|too slow|larger|redirects|503|404|headers", timeout=0.8)
    assert time.monotonic() - start < 2.5


@pytest.mark.parametrize("word", [word for word in ENDLESS if word.startswith("slow")])
def test_a_download_that_can_resume_also_comes_to_an_end(server, tmp_path, word, monkeypatch, pauses):
    """It has no deadline, so the server must keep up a certain speed."""
    server.always = word
    for name, value in {"SILENCE": 0.2, "LONG_SILENCE": 0.4}.items():
        monkeypatch.setattr(web, name, value)
    with pytest.raises(cli.Unreachable, match="timed out|too slow"):
        download.download_with_resume(server.file, tmp_path / "file", "tiny-dllm", 1 << 20)
    assert len(server.requests) == 2


@pytest.mark.parametrize("reply, match", [
    (Reply(body=BODY, length=10**18), "larger than 16,777,216 bytes"),
    (Reply(206, BODY, {"Content-Range": f"bytes 0-{len(BODY) - 1}/{2 * len(BODY)}"}), "status 206"),
    (Reply(204), "status 204"),
    ("302 file:///etc/passwd", "does not begin with http"),
    ("302 ftp://127.0.0.1/file", "does not begin with http"),
    ("302 http://[::1", "could not download"),
    ("302 http://a..b/", "could not download"),
    ("302 http://127.0.0.1:99999/", "could not download"),
    ("302 /again", "redirects"),
])  # fmt: skip
def test_odd_answers_are_refused(server, tmp_path, pauses, reply, match):
    server.always = reply
    fails(server.file, tmp_path / "file", match)


@pytest.mark.parametrize("after", ["²", "٣", "9" * 5000, "-1", "1e400", "Fri, 31 Dec 99999999999 00:00:00", "\x1b"])
def test_an_odd_retry_after_is_ignored_or_obeyed(server, tmp_path, pauses, after):
    server.faults = [Reply(503, headers={"Retry-After": after.encode().decode("latin-1")})]
    try:
        download.fetch(server.file, tmp_path / "file", BODY_SHA256)
    except cli.UserError as error:
        assert "503" in str(error)


def test_what_a_server_says_does_not_command_the_terminal(server, tmp_path, pauses, capsys):
    said = b"HTTP/1.1 503 a\x1b[2J\x07\x08\x9b\xe2\x80\xae\r\nRetry-After: 6\r\nContent-Length: 0\r\n\r\n"
    server.always = Reply(stream=[said])
    error = fails(server.file, tmp_path / "file", "503")
    assert not COMMANDS.search(str(error)) and r"\x1b[2J\x07\x08" in str(error)
    shown = capsys.readouterr().err
    assert "waiting 6 s" in shown and not COMMANDS.search(shown.replace("\n", ""))


@pytest.mark.parametrize("reply", [
    Reply(206, BODY[:100], {"Content-Range": "bytes 0-99/1000"}),  # a part, and we asked for everything
    Reply(206, BODY, {"Content-Range": f"bytes 0-{len(BODY) - 1}/{len(BODY)}"}),
    Reply(416, headers={"Content-Range": "bytes */0"}), Reply(204),
])  # fmt: skip
def test_a_part_that_nobody_asked_for_is_no_file(server, tmp_path, pauses, reply):
    server.always = reply
    with pytest.raises(cli.UserError, match="does not"):
        download.download_with_resume(server.file, tmp_path / "file", "tiny-dllm", 1 << 20)
    assert not (tmp_path / "file").exists()


def test_a_body_that_is_not_compressed_as_it_says(server, tmp_path, pauses):
    server.always = Reply(body=b"plain", headers={"Content-Encoding": "gzip"})
    fails(server.file, tmp_path / "file", "decod|header")
    assert len(server.requests) == 1


def test_a_download_that_can_resume_has_a_limit(server, tmp_path, pauses):
    with pytest.raises(cli.UserError, match="larger than 1,000 bytes"):
        download.download_with_resume(server.file, tmp_path / "file", "tiny-dllm", 1000)


def test_full_disk_while_downloading(server, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(download, "open", full, raising=False)
    with pytest.raises(OSError, match="No space"):
        download.fetch(server.file, tmp_path / "file", BODY_SHA256)
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_redirect_is_followed_and_another_host_sees_no_private_header(server, tmp_path):
    secret = {"Authorization": "Bearer hf_secret", "X-Key": "also secret"}

    def seen():
        return [(request.headers["Authorization"], request.headers["X-Key"]) for request in server.requests]

    server.faults = [f"302 {server.url}/moved"]
    download.fetch(server.file, tmp_path / "file", BODY_SHA256, headers=secret)
    assert seen() == [("Bearer hf_secret", "also secret")] * 2
    with FaultServer(lambda request: fault(f"302 {server.file}")) as other:
        server.requests.clear()
        server.faults = [f"302 {other.url}/elsewhere"]
        download.fetch(server.file, tmp_path / "file", BODY_SHA256, headers=secret)
        assert [other.requests[0].headers[name] for name in secret] == [None, None]
        assert seen() == [("Bearer hf_secret", "also secret"), (None, None)]  # not even when it points back to us
        assert other.requests[0].headers["User-Agent"] == "tiny-dllm"


def test_passwords_of_the_user_are_not_sent(server, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    download.fetch(server.file, tmp_path / "file", BODY_SHA256)
    assert server.requests[0].headers["Authorization"] is None


def test_requests_is_loaded_only_for_a_download():
    code = "import sys; from plumbing import corpora, tokenizers; sys.exit('requests' in sys.modules)"
    assert python("-c", code).code == 0
