"""A lock on a run's folder, so that two programs cannot train one run at the same time.

The lock is a hold on the file .NAME.lock, which lies beside the folder NAME and therefore in no copy of it. The
operating system ends the hold when the process ends, even if it was killed, so no run stays locked for ever.
"""

import contextlib
import json
import os
import time
from pathlib import Path

from plumbing import cli, foreign

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None
    import msvcrt

FAR = 1 << 30  # Windows lets nobody read a locked byte, so the lock is on a byte behind the text


class Lock:
    """The lock on `folder`, held by this process until `release`. UserError if another program holds it."""

    def __init__(self, folder):
        folder = Path(folder)
        self.path = folder.with_name(f".{folder.name}.lock")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            self.file = open(self.path, "a+", encoding="utf-8", errors="replace")
            held = hold(self.file)
            if not held or names(self.path, self.file):
                break
            self.file.close()  # its last holder has deleted the file since we opened it
        if not held:
            holder = describe(self.file)
            self.file.close()
            raise cli.UserError(f"run {folder.name} is in use by {holder}; wait until that ends, or use --run NEW_NAME")
        self.file.truncate(0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        json.dump({"pid": os.getpid(), "since": since, "command": cli.command_line()[:1000]}, self.file)
        self.file.flush()

    def release(self):
        """End the hold and delete the file. Nothing happens the second time."""
        if not self.file.closed:
            with contextlib.suppress(OSError):  # Windows deletes no open file; an old one does no harm
                self.path.unlink()
            self.file.close()


def hold(file):
    """Lock an open file. Returns False if another process holds it."""
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            file.seek(FAR)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True  # this file system has no locks, as some network drives: then nobody is warned
    return True


def names(path, file):
    """Return whether `path` still is the name of an open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def describe(file):
    """Return who wrote the text of a lock: the process, since when, and its command."""
    try:
        file.seek(0)
        holder = json.loads(file.read(10_000))
        return foreign.printable(f"process {holder['pid']} since {holder['since']}: {holder['command']}", 300)
    except (ValueError, TypeError, KeyError, OSError, RecursionError):
        return "another process"
