"""Check the exercises: which functions do what their docstrings ask for?

    python exercises/check.py        # all chapters
    python exercises/check.py 04     # one chapter

You write the functions in exercises/01_tensors.py, exercises/02_attention.py and so on (see exercises/README.md).
This program prints a line for each exercise: `green`, or `red` with the first mistake. What your function prints
appears below this line. If all exercises are green, the exit code is 0, and otherwise it is 1.
"""

import _thread
import contextlib
import io
import os
import re
import signal
import sys
import threading
import traceback
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

# The book's folder comes first on the path, so that import_module("04_diffusion") finds the chapter, not the exercise.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plumbing import cli

import torch
import tyro

FOLDER = Path(__file__).resolve().parent
MOST_PRINTED = 1000  # of what a function prints, we show at most this many characters


# 1. One exercise


def examine(check, argument, limit=60.0):
    """Call check(argument). Return a sentence about the learner's first mistake, or None if there is no mistake.

    The call is stopped after `limit` seconds.
    """
    late = threading.Event()

    def stop():
        late.set()
        _thread.interrupt_main()  # raises KeyboardInterrupt in the main thread

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell can make background programs ignore Ctrl-C
    timer = threading.Timer(limit, stop)
    timer.daemon = True
    timer.start()
    try:
        check(argument)
    except KeyboardInterrupt:
        if not late.is_set():  # not the time limit, so it was Ctrl-C
            raise
        return f"no result after {limit:g} seconds; perhaps a loop never ends."
    except (Exception, SystemExit) as error:
        return explain(error)
    finally:
        timer.cancel()
    return None


def explain(error):
    """Turn an exception into one sentence for the learner."""
    frames = [(Path(frame.f_code.co_filename), line) for frame, line in traceback.walk_tb(error.__traceback__)]
    lines = [line for file, line in frames if file.parent == FOLDER and file != Path(__file__)]
    if isinstance(error, AssertionError) and frames[-1][0].parent == FOLDER / "checks":
        return str(error) or "the check refuses it."
    if isinstance(error, NotImplementedError) and not str(error):
        return "not written yet"
    if isinstance(error, SystemExit):
        return "it ends the program; a function must return instead."
    where = f"line {lines[-1]} stops with an error" if lines else "it cannot be used"
    return f"{where} ({type(error).__name__}: {cli.reason(error)})."


class Printed(io.StringIO):
    """Keep only the beginning of what a function prints, so that endless printing cannot fill the memory."""

    def write(self, text):
        super().write(text[: max(0, MOST_PRINTED - self.tell())])
        return len(text)


# 2. All exercises


def exercises():
    """Return {chapter: names of its exercises, in the order in which to solve them}."""
    found = {}
    for path in sorted(FOLDER.glob("checks/[0-9]*.py")):
        found[path.stem] = re.findall(r"^def check_(\w+)", path.read_text("utf-8"), re.M)
    return found


def check_chapter(chapter, names, limit):
    """Check the exercises in `names`, and print a line for each. Return the number of green exercises."""
    printed = Printed()
    with contextlib.redirect_stdout(printed):
        wrong = examine(import_module, f"exercises.{chapter}", limit)
    if wrong:
        show(f"exercises/{chapter}.py", wrong, printed.getvalue())
        return 0
    learner = import_module(f"exercises.{chapter}")
    checks = import_module(f"exercises.checks.{chapter}")
    green = 0
    for name in names:
        torch.manual_seed(0)
        printed = Printed()
        wrong = "the file has no such function."
        if hasattr(learner, name):
            with contextlib.redirect_stdout(printed):
                wrong = examine(getattr(checks, f"check_{name}"), getattr(learner, name), limit)
        show(name, wrong, printed.getvalue())
        green += wrong is None
    return green


def show(name, wrong, printed):
    """Print one line about an exercise, and below it what the learner's function printed."""
    word, color = ("red  ", 31) if wrong else ("green", 32)
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        word = f"\033[{color}m{word}\033[0m"
    print(f"  {word}  {name}{': ' + cli.printable(wrong, limit=500) if wrong else ''}", flush=True)
    for line in printed.splitlines()[:20]:
        print(f"         printed: {cli.printable(line, limit=120)}", flush=True)


# 3. The command line


@dataclass(frozen=True)
class Command:
    """The flags of this program."""

    chapter: tyro.conf.Positional[int | None] = None  # the number of a chapter; without it, all chapters
    limit: float = 60.0  # seconds that one exercise may take

    def __post_init__(self):
        if not 0 < self.limit < 1e6:
            raise ValueError("limit must be above 0, and below a million")


def main(argv=None):
    command = cli.parse(Command, argv)
    known = exercises()
    chapters = [chapter for chapter in known if command.chapter in (None, int(chapter[:2]))]
    if not chapters:
        there = ", ".join(chapter[:2] for chapter in known)
        raise cli.UserError(f"there are no exercises for chapter {command.chapter}, only for {there}")
    sys.dont_write_bytecode = True  # old bytecode could hide a change made in the same second
    torch.set_num_threads(1)  # for such small tensors, one thread is the fastest
    green = total = 0
    for chapter in chapters:
        print(f"\n{chapter}\n{'-' * len(chapter)}", flush=True)
        green += check_chapter(chapter, known[chapter], command.limit)
        total += len(known[chapter])
    print(f"\n{green} of {total} exercises are green.")
    if green < total:
        cli.leave("", 1)


if __name__ == "__main__":
    cli.run(main)
