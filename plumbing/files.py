"""The folders of the book and its commit, files and folders that are written whole or not at all, and checksums."""

import contextlib
import hashlib
import os
import platform
import re
import shutil
import stat
import subprocess
import zlib
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"


@contextmanager
def whole_file(path):
    """Yield a temporary path to write to. It becomes `path` if the `with` block succeeds, else it is deleted.

    The file gets the permissions of an ordinary new file. Temporary files of programs that were killed are removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_orphans(path.parent)
    partial = partial_of(path)
    try:
        partial.touch()
        mode = partial.stat().st_mode  # it depends on the umask
        yield partial
        if partial.stat().st_mode != mode:  # safetensors puts a file there that only its owner may read
            partial.chmod(stat.S_IMODE(mode))
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())  # the bytes reach the disk before the name does, even in a power failure
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path):
    """Yield a new temporary folder. It becomes `path`, which must not exist, if the `with` block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_orphans(path.parent)
    partial = partial_of(path)
    try:
        partial.mkdir()
        yield partial
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def this_machine():
    """Return 8 hexadecimal digits that differ between machines, since several of them may share a folder."""
    return f"{zlib.crc32(platform.node().encode()):08x}"


def partial_of(path):
    """Return the temporary path for `path`, in the same folder, so that renaming is atomic. It names this process."""
    return path.with_name(f".{path.name}.{this_machine()}-{os.getpid()}.part")


def remove_orphans(folder):
    """Delete the temporary files and folders in `folder` whose process, on this machine, no longer runs."""
    for partial in folder.iterdir():
        name = re.fullmatch(r"\..+\.([0-9a-f]{8})-([0-9]+)\.part", partial.name)
        if name and name[1] == this_machine() and not is_running(int(name[2])):
            with contextlib.suppress(OSError):  # another process may have deleted it at the same time
                shutil.rmtree(partial) if partial.is_dir() else partial.unlink()


def is_running(process):
    """Return whether a process with this number runs. Windows always says no, but there no open file can be deleted."""
    if os.name == "nt":
        return False
    try:
        os.kill(process, 0)  # signal 0 only asks
        return True
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # it belongs to another user


def read_text(path):
    """Return the text of a UTF-8 file, the same on every platform: no byte order mark, and lines that end in \\n."""
    return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")


def sha256_of(text):
    """Return the SHA-256 checksum of `text` in UTF-8, as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def commit():
    """Return the commit of this copy of the book, with "-dirty" if files have changed since, or None if unknown."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
    try:
        return subprocess.run(git, capture_output=True, text=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        return None
