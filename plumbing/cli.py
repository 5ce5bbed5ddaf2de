"""How a program of this book starts and ends.

A mistake that the user can correct ends the program with one clear message and exit code 2, never with a traceback.
"""

import contextlib
import errno
import os
import re
import shlex
import signal
import sys
import threading
import time
from pathlib import Path

from plumbing import foreign


class UserError(Exception):
    """A mistake that the user can correct. The message is one line: what is wrong, and what to do.

    The message often quotes a file or a server, so everything in it that a terminal would obey is escaped here.
    """

    def __init__(self, message):
        super().__init__(foreign.printable(message, foreign.LONGEST_MESSAGE))


class Unreachable(UserError):
    """A server does not answer, so there is no sense in asking it for another file."""


def run(main, out_of_memory="lower --batch-size, and raise --accumulate by the same factor"):
    """Call `main()`. An error that the user can correct ends the program with one line on stderr and exit code 2.

    out_of_memory: the advice to print if the memory is full.
    """
    prepare_streams()
    try:
        check_words(sys.argv[1:])
        main()
        sys.stdout.flush()  # if the pipe is closed, the error comes here and not during shutdown
    except UserError as error:
        stop(str(error))
    except KeyboardInterrupt:
        stop("interrupted", code=130, label="")
    except BrokenPipeError:  # the reader of our output has ended (`... | head`)
        leave(141)  # 128 + SIGPIPE, as other programs report it
    except Exception as error:
        line = explain(error, out_of_memory)
        if line is None:
            raise
        stop(str(UserError(line)))


def prepare_streams():
    """Make stdout and stderr usable: both may be closed, and a terminal may not know a character."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed (`>&-`): nobody reads it
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        if hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="replace")


def check_words(words):
    """Raise UserError if a word of the command line is not UTF-8. It could be printed and saved nowhere."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise UserError(f"{foreign.printable(word)} is not UTF-8: rename the file, or name it otherwise") from None


def explain(error, out_of_memory):
    """Return what the user can do about an error that is not a mistake of the program; None if it may be one."""
    # The class is compared by name, because programs without a model need not wait until torch is imported.
    full = isinstance(error, RuntimeError) and re.search("out of memory|ALLOC_FAILED", str(error))  # of MPS, of cuBLAS
    if type(error).__name__ == "OutOfMemoryError" or full:
        return f"out of GPU memory: {out_of_memory}"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
        return f"out of memory: {out_of_memory}"
    if line := no_room(error):
        return line
    if type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
        return f"PyTorch cannot compile the model ({foreign.reason(error)}): use --compile off"
    if isinstance(error, OSError) and error.filename:
        if error.errno in (errno.EACCES, errno.EROFS):
            return f"no permission for {error.filename}: change it, or work in a folder of your own"
        if error.errno in (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR):
            return f"cannot use {foreign.printable(error.filename)}: {error.strerror}"
    return None


# What the system says if there is no room for a file.
NO_ROOM = {errno.ENOSPC: "the disk is full: free some space",
           errno.EDQUOT: "your share of the disk is full: free some space",
           errno.EFBIG: "a file would become larger than this system allows: raise the limit (ulimit -f)"}


def no_room(error):
    """Return one line if `error`, or an error before it that led to it, says that there is no room for a file."""
    while error is not None:
        number = re.search(r"\(os error ([0-9]+)\)", str(error))  # libraries in Rust quote the system's own number
        code = error.errno if isinstance(error, OSError) else int(number[1]) if number else None
        if code == 112 and os.name == "nt":
            code = errno.ENOSPC
        if code in NO_ROOM:
            return f"{NO_ROOM[code]}, and run the same command again"
        error = error.__cause__ or error.__context__
    return None


def stop(line, code=2, label="error: "):
    """Print one line to stderr and end the program with this exit code."""
    with contextlib.suppress(OSError):  # nobody may be left who reads stderr
        print(f"{label}{line}", file=sys.stderr)
    leave(code)


def leave(code):
    """End the program with this exit code, even if stdout cannot take what is still to be written there."""
    try:
        sys.stdout.flush()
    except OSError:
        # On exit Python flushes stdout again: let it write nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def end_with_parent(pause=1, patience=300):
    """Watch the process that started this one. When it is gone, ask this process to save and stop, as SIGTERM does.

    Otherwise the processes of a killed torchrun would go on for ever. A process whose parent is gone gets another
    parent (on Windows that cannot be seen). pause: seconds between two looks. patience: seconds after which a process
    that still runs is ended, since it may wait for another one that is gone.
    """
    parent = os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(pause)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(patience)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def command_line():
    """Return the command that started this program, ready for a shell."""
    return shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])


def heading(text):
    """Print an empty line, then the text, underlined."""
    print(f"\n{text}\n{'-' * len(text)}")
