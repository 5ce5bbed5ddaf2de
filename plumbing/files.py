"""Where the files of the book are, and how a file is written whole or not at all."""

import hashlib
import os
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"


@contextmanager
def whole_file(path):
    """A temporary path to write to; it becomes `path` if the block ends well, and goes away if not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")  # same folder, so that the rename is atomic
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())  # on the disk before it takes the name, even if the power goes
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_text(path):
    """A file as text, the same on every platform: UTF-8, no byte order mark, lines that end in \\n."""
    return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")


def sha256_of(text):
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
