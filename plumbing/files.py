"""The folders of the book, files that are written whole or not at all, and checksums."""

import hashlib
import os
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"


@contextmanager
def whole_file(path):
    """Yield a temporary path to write to. It becomes `path` if the `with` block succeeds, else it is deleted."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")  # the same folder, so that renaming is atomic
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())  # the bytes reach the disk before the name does, even in a power failure
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_text(path):
    """Return the text of a UTF-8 file, the same on every platform: no byte order mark, and lines that end in \\n."""
    return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")


def sha256_of(text):
    """Return the SHA-256 checksum of `text` in UTF-8, as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
