"""How a program of this book starts and ends.

A mistake that the user can correct ends the program with one clear message and exit code 2, never with a traceback.
"""

import errno
import os
import sys

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

    out_of_memory: the advice to print if the memory of the GPU is full.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that cannot show a character must not end the program
            stream.reconfigure(errors="replace")
    try:
        main()
        sys.stdout.flush()  # if the pipe is closed, the error comes here and not during shutdown
    except UserError as error:
        stop(str(error))
    except KeyboardInterrupt:
        stop("interrupted", code=130, label="")
    except BrokenPipeError:
        # The reader of our output has ended (`... | head`). On exit Python flushes stdout again: let it write nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)  # 128 + SIGPIPE, as other programs report it
    except OSError as error:
        if error.errno == errno.ENOSPC:
            stop("the disk is full: free some space and run the same command again")
        if error.errno in (errno.EACCES, errno.EROFS) and error.filename:
            stop(f"no permission for {error.filename}: change it, or work in a folder of your own")
        raise
    except Exception as error:
        # The class is compared by name, because programs without a model need not wait until torch is imported.
        if type(error).__name__ == "OutOfMemoryError":
            stop(f"out of GPU memory: {out_of_memory}")
        raise


def stop(line, code=2, label="error: "):
    """Print one line to stderr and end the program with this exit code."""
    print(f"{label}{line}", file=sys.stderr)
    sys.exit(code)


def heading(text):
    """Print an empty line, then the text, underlined."""
    print(f"\n{text}\n{'-' * len(text)}")
