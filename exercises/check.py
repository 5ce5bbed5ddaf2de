"""Checks the exercises: which functions do what their docstrings ask for?

    python exercises/check.py        # all chapters
    python exercises/check.py 04     # one chapter

You write the functions in exercises/01_tensors.py, exercises/02_attention.py and so on; exercises/README.md says how.
Each line is `green`, or `red` with the first thing that is wrong. What a function prints stands below its line. The
exit code is 0 if everything is green, and 1 if something is red.
"""

import contextlib
import io
import multiprocessing
import os
import re
import sys
import traceback
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import tyro

# The book's folder comes first on the path, so that import_module("04_diffusion") finds the chapter, not the exercise.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plumbing import cli, foreign, settings

FOLDER = Path(__file__).resolve().parent
MOST_PRINTED = 1000  # characters that are shown of what a function prints


# 1. One exercise


def examine(check, function, unusable="the check cannot use what the function returns"):
    """Call check(function). Return what is wrong with the function, in a sentence, or None if the check accepts it."""
    try:
        check(function)
    except BaseException as error:  # sys.exit() raises an exception too, and must not end the other checks
        return explain(error, unusable)
    return None


def explain(error, unusable):
    """Return one sentence about an exception. unusable: how it begins if no line of the learner's file was running."""
    frames = [(Path(frame.f_code.co_filename).parent, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    lines = [line for folder, line in frames[1:] if folder == FOLDER]  # the first one is a line of `examine`
    if isinstance(error, AssertionError) and frames[-1][0] == FOLDER / "checks":
        return str(error) or "the check refuses it."
    if isinstance(error, NotImplementedError) and not str(error):
        return "not written yet"
    if isinstance(error, SystemExit):
        return "it ends the program; a function must return instead."
    start = f"line {lines[-1]} stops with an error" if lines else unusable
    return f"{start} ({type(error).__name__}{f': {foreign.reason(error)}' if str(error) else ''})."


class Printed(io.StringIO):
    """Keeps the beginning of what a function prints: a function that never stops printing must not fill the memory."""

    def write(self, text):
        super().write(text[: max(0, MOST_PRINTED - self.tell())])
        return len(text)


# 2. One chapter, in a process of its own


def work(pipe, chapter, names):
    """Send a pair after each of the `steps`: what is wrong (a sentence, or None), and what was printed."""
    cli.end_with_parent()
    with contextlib.redirect_stdout(Printed()) as printed:
        for wrong in steps(chapter, names):
            pipe.send((wrong, printed.getvalue()))
            printed.seek(0)
            printed.truncate()


def steps(chapter, names):
    """Load the checks, load the learner's file, and examine its functions. Yields each time what is wrong, or None."""
    checks, learner = f"exercises.checks.{chapter}", f"exercises.{chapter}"
    yield examine(import_module, checks, "its checks, or a chapter, cannot be loaded")
    sys.dont_write_bytecode = True  # Python could take the file for an older one that was written in the same second
    yield examine(import_module, learner, "the file cannot be loaded")
    checks, learner, torch = map(import_module, (checks, learner, "torch"))
    torch.set_num_threads(1)  # for such small tensors, one thread is the fastest
    for name in names:
        torch.manual_seed(0)
        function = getattr(learner, name, None)
        yield examine(getattr(checks, f"check_{name}"), function) if function else "the file has no such function."


@contextlib.contextmanager
def worker(chapter, names):
    """A process that runs `work`, and ends with the block. Gives the end of the pipe that receives its pairs."""
    context = multiprocessing.get_context("spawn")  # the same on every system
    answers, pipe = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(pipe, chapter, names), daemon=True)
    kept = {stream: os.dup(stream) for stream in (1, 2)}
    with open(os.devnull, "w") as nowhere:
        try:  # the worker inherits a stdout and a stderr that lead nowhere: its warnings would stand between our lines
            for stream in kept:
                os.dup2(nowhere.fileno(), stream)
            process.start()
        finally:
            for stream, before in kept.items():
                os.dup2(before, stream)
                os.close(before)
    pipe.close()  # now only the worker holds this end, so if it dies, the pipe ends
    try:
        yield answers
    finally:
        process.kill()
        process.join()


def answer(answers, limit):
    """Return the worker's next pair, and whether the worker can go on. limit: seconds, or None."""
    try:
        if answers.poll(limit):
            return *answers.recv(), True
        return f"no result after {limit:g} seconds; perhaps a loop never ends.", "", False
    except (EOFError, OSError):
        return "it ended Python itself (a crash, os._exit, or no memory left).", "", False


def check_chapter(chapter, names, limit):
    """Yield (name, what is wrong or None, what was printed) for each exercise of a chapter.

    If the whole file cannot be used, it yields only this, under the name of the file.
    """
    file = f"exercises/{chapter}.py"
    if not (FOLDER / f"{chapter}.py").is_file():
        yield file, f"the file is missing; `git checkout {file}` brings it back.", ""
        names = ()
    while names:  # a second time if the worker had to be ended
        with worker(chapter, names) as answers:
            for seconds in (None, limit):  # our checks and torch, then the learner's file
                wrong, printed, alive = answer(answers, seconds)
                if wrong:
                    yield file, wrong, printed
                    return
            while names and alive:
                wrong, printed, alive = answer(answers, limit)
                yield names[0], wrong, printed
                names = names[1:]


# 3. The program


def exercises():
    """Return {chapter: names of its exercises}, in the order in which they are to be solved."""
    files = sorted(FOLDER.glob("checks/[0-9]*.py"))
    if not files:
        raise cli.UserError("exercises/checks is empty; `git checkout exercises/checks` brings the checks back")
    return {path.stem: re.findall(r"^def check_(\w+)", path.read_text("utf-8", "replace"), re.M) for path in files}


def show(name, wrong, printed):
    """Print one line about an exercise, and what it printed."""
    line = f"{name}: {foreign.printable(wrong, 500)}" if wrong else name
    word, color = ("red  ", 31) if wrong else ("green", 32)
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        word = f"\033[{color}m{word}\033[0m"
    print(f"  {word}  {line}", flush=True)
    for line in printed.splitlines()[:20]:
        print(f"         printed: {foreign.printable(line, 120)}", flush=True)


@dataclass(frozen=True)
class Command:
    """The flags of this program."""

    chapter: tyro.conf.Positional[settings.OptionalCount] = None  # the number of a chapter; without it, all chapters
    limit: settings.number(float, 0.1) = 60.0  # seconds that one exercise may take


def main(argv=None):
    command, known = settings.parse(Command, argv), exercises()
    chapters = {chapter: known[chapter] for chapter in known if command.chapter in (None, int(chapter[:2]))}
    if not chapters:
        there = ", ".join(chapter[:2] for chapter in known)
        raise cli.UserError(f"there are no exercises for chapter {command.chapter}, only for {there}")
    green, total = 0, sum(map(len, chapters.values()))
    for chapter, names in chapters.items():
        cli.heading(chapter)
        sys.stdout.flush()
        for name, wrong, printed in check_chapter(chapter, names, command.limit):
            show(name, wrong, printed)
            green += wrong is None
    print(f"\n{green} of {total} exercises are green.")
    if green < total:
        cli.leave(1)


if __name__ == "__main__":
    cli.run(main)
