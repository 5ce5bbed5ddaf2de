"""Exercises are red as shipped, green when solved, and refuse mistakes; check.py survives what learners write."""

import os
import shutil
import signal
import subprocess
import sys
import time
from importlib import import_module
from types import SimpleNamespace

import pytest
from helpers import COMMANDS, ESCAPED, HOSTILE, ROOT, refusal, start

check = import_module("exercises.check")

CHAPTERS = check.exercises()
ALL = [(chapter, name) for chapter, names in CHAPTERS.items() for name in names]


def load(chapter):
    """The four files of a chapter: the learner's, the checks, the solutions and the mistakes."""
    return SimpleNamespace(learner=import_module(f"exercises.{chapter}"),
                           checks=import_module(f"exercises.checks.{chapter}"),
                           solutions=import_module(f"exercises.solutions.{chapter}"),
                           wrong=import_module(f"wrong_{chapter[:2]}").WRONG)  # fmt: skip


def functions(module):
    """The names of the functions that a file defines, in order."""
    found = {name: value for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
    return [name for name, value in found.items() if callable(value)]


def is_sentence(text):
    return text[0].isupper() and text.endswith(".") and "\n" not in text and len(text) < 160


# 1. The exercises


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_four_files_of_a_chapter_name_the_same_exercises(chapter):
    files, names = load(chapter), CHAPTERS[chapter]
    assert 2 <= len(names) <= 4
    assert [name for name in functions(files.solutions) if name in names] == names == list(files.wrong)
    assert (ROOT / f"{chapter}.py").is_file() and f"exercises/check.py {chapter[:2]}" in files.learner.__doc__
    if not is_begun(chapter):
        assert functions(files.learner) == names


def is_begun(chapter):
    """Whether a reader has changed the file: then it is no longer as it was shipped."""
    file = f"exercises/{chapter}.py"
    return subprocess.run(["git", "diff", "--quiet", "HEAD", "--", file], cwd=ROOT, capture_output=True).returncode == 1


@pytest.mark.parametrize("chapter, name", ALL)
def test_an_exercise_is_red_as_shipped(chapter, name):
    if is_begun(chapter):
        pytest.skip("this file has been changed")
    files = load(chapter)
    learner = getattr(files.learner, name)
    assert check.examine(getattr(files.checks, f"check_{name}"), learner) == "not written yet"
    assert "minutes)" in learner.__doc__.splitlines()[0] and "Hint: " in learner.__doc__


@pytest.mark.parametrize("chapter, name", ALL)
def test_a_solution_is_green(chapter, name):
    files = load(chapter)
    assert check.examine(getattr(files.checks, f"check_{name}"), getattr(files.solutions, name)) is None


@pytest.mark.parametrize("chapter, name, mistake", [(*exercise, mistake) for exercise in ALL
                                                    for mistake in load(exercise[0]).wrong[exercise[1]]])  # fmt: skip
def test_a_mistake_is_refused_with_a_sentence(chapter, name, mistake):
    with pytest.raises(AssertionError) as refused:
        getattr(load(chapter).checks, f"check_{name}")(mistake)
    assert is_sentence(str(refused.value.args[0])), refused.value
    assert mistake.__doc__


@pytest.mark.parametrize("chapter, name", ALL)
def test_there_are_at_least_two_mistakes(chapter, name):
    assert len(set(load(chapter).wrong[name])) >= 2


@pytest.mark.parametrize("chapter, name", ALL)
def test_a_function_that_returns_nothing_is_refused_with_a_sentence(chapter, name):
    wrong = check.examine(getattr(load(chapter).checks, f"check_{name}"), lambda *arguments, **named: None)
    assert is_sentence(wrong)


# 2. check.py, in a copy of the book with exercises that were made for it

TOY = {
    "01_lines": '''
import os, sys, time

print("at the start of the file")

def right():
    return 1

def number():
    print("hidden\\x1b[2J\\nsecond line")
    return 2

def error():
    return [][5]

def strange():
    raise ValueError("\\x1b[2J\\r")

def exits():
    sys.exit(0)

def interrupts():
    raise KeyboardInterrupt

def dies():
    os._exit(0)

def loops():
    while True:
        pass

def floods():
    while True:
        print("x" * 1000)

def closes():
    os.close(1)
    os.close(2)
    return 1

def begun():
    raise NotImplementedError

def last():
    return 1
''',
    "02_syntax": "def f(:\n",
    "03_loops": "while True:\n    pass\n",
    "04_exits": "raise SystemExit\n",
    "05_missing": None,
    "06_bytes": "\0",
    "07_last": "def f():\n    return 1\n",
}  # fmt: skip

TOY_NAMES = ("right number deleted error strange exits interrupts dies loops floods closes begun last".split(), ["f"])


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A book that consists of plumbing and of TOY. Every check wants the number 1."""
    book = tmp_path_factory.mktemp("toy") / "a book"
    shutil.copytree(ROOT / "plumbing", book / "plumbing", ignore=shutil.ignore_patterns("__pycache__"))
    (book / "exercises" / "checks").mkdir(parents=True)
    shutil.copy(ROOT / "exercises" / "check.py", book / "exercises")
    (book / "torch.py").write_text("set_num_threads = manual_seed = int\n")  # the real one takes seconds to load
    for chapter, text in TOY.items():
        names = TOY_NAMES[chapter != "01_lines"]
        checks = "".join(f'def check_{name}(f):\n    assert f() == 1, "It must be 1."\n\n' for name in names)
        (book / "exercises" / "checks" / f"{chapter}.py").write_text(checks)
        if text is not None:
            (book / "exercises" / f"{chapter}.py").write_text(text)
    return book


def checked(book, *words, **environment):
    """What check.py says: (its exit code, its lines without empty ones, its errors)."""
    with start(book / "exercises" / "check.py", *words, cwd=book.parent, **environment) as process:
        out, err = process.communicate(timeout=300)
    return process.returncode, [line for line in out.splitlines() if line], err


def test_every_exercise_gets_a_line_whatever_the_others_do(toy):
    code, lines, errors = checked(toy, "--limit", "2")
    assert (code, errors) == (1, "")
    assert lines == [
        "01_lines", "--------",
        "  green  right",
        "  red    number: It must be 1.",
        r"         printed: hidden\x1b[2J",
        "         printed: second line",
        "  red    deleted: the file has no such function.",
        "  red    error: line 14 stops with an error (IndexError: list index out of range).",
        r"  red    strange: line 17 stops with an error (ValueError: \x1b[2J).",
        "  red    exits: it ends the program; a function must return instead.",
        "  red    interrupts: line 23 stops with an error (KeyboardInterrupt).",
        "  red    dies: it ended Python itself (a crash, os._exit, or no memory left).",
        "  red    loops: no result after 2 seconds; perhaps a loop never ends.",
        "  red    floods: no result after 2 seconds; perhaps a loop never ends.",
        "  green  closes",
        "  red    begun: not written yet",
        "  green  last",
        "02_syntax", "---------",
        "  red    exercises/02_syntax.py: the file cannot be loaded (SyntaxError: invalid syntax (02_syntax.py, line"
        " 1)).",
        "03_loops", "--------",
        "  red    exercises/03_loops.py: no result after 2 seconds; perhaps a loop never ends.",
        "04_exits", "--------",
        "  red    exercises/04_exits.py: it ends the program; a function must return instead.",
        "05_missing", "----------",
        "  red    exercises/05_missing.py: the file is missing; `git checkout exercises/05_missing.py` brings it back.",
        "06_bytes", "--------",
        "  red    exercises/06_bytes.py: the file cannot be loaded (SyntaxError: source code string cannot contain null"
        " bytes).",
        "07_last", "-------",
        "  green  f",
        "4 of 19 exercises are green.",
    ]  # fmt: skip
    assert not any(COMMANDS.search(line) for line in lines)


def test_one_chapter_alone_and_an_edit_that_keeps_the_size_and_comes_in_the_same_second(toy):
    for word, returns, code, line in (("07", 2, 1, "  red    f: It must be 1."), ("7", 1, 0, "  green  f")):
        (toy / "exercises" / "07_last.py").write_text(f"def f():\n    return {returns}\n")
        last = f"{1 - code} of 1 exercises are green."
        assert checked(toy, word) == (code, ["07_last", "-------", line, last], "")


def test_an_unknown_chapter_ends_with_one_message(toy):
    message = "error: there are no exercises for chapter 99, only for 01, 02, 03, 04, 05, 06, 07\n"
    assert checked(toy, "99") == (2, [], message)


@pytest.mark.parametrize("words, reason", [
    (["99"], "no exercises for chapter 99"), (["0"], "at least 1"), (["four"], "whole number"), (["01", "02"], "02"),
    (["--limit", "0"], "at least 0.1"), (["\x1b[2J"], r"\x1b[2J"),
])  # fmt: skip
def test_a_wrong_command_is_refused(words, reason):
    assert reason in refusal(check.main, words)


def test_a_folder_without_checks_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(check, "FOLDER", tmp_path)
    assert "git checkout exercises/checks" in refusal(check.main, [])


def test_colours_are_for_terminals_only(monkeypatch, capsys):
    monkeypatch.delenv("NO_COLOR", raising=False)
    for terminal, wrong, word in ((False, None, "green"), (True, None, "\33[32mgreen"), (True, "No.", "\33[31mred")):
        monkeypatch.setattr(sys.stdout, "isatty", lambda terminal=terminal: terminal)
        check.show("name", wrong, "")
        assert capsys.readouterr().out.startswith(f"  {word}")
    monkeypatch.setenv("NO_COLOR", "")
    check.show("name", None, "")
    assert capsys.readouterr().out == "  green  name\n"


def test_checks_that_cannot_be_loaded_are_reported():
    wrong = next(check.steps("99_none", []))
    assert wrong.startswith("its checks, or a chapter, cannot be loaded (ModuleNotFoundError: ")


def test_what_is_printed_is_short_and_harmless(capsys):
    check.show("name", HOSTILE + "\nsecond line" + 1000 * "x", HOSTILE + 1000 * "\n" + "end")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(rf"  red    name: {ESCAPED}\nsecond line") and len(lines[0]) < 600
    assert len(lines) < 30 and not any(COMMANDS.search(line) for line in lines)


def test_a_check_without_a_message_is_not_green():
    message = check.explain(raised(ROOT / "exercises" / "checks" / "00.py", "assert False"), "")
    assert message == "the check refuses it."


def raised(file, line):
    """The exception that a line of a file raises."""
    with pytest.raises(BaseException) as error:
        exec(compile(line, str(file), "exec"), {})
    return error.value


@pytest.mark.parametrize("pause", [0, 1])  # seconds: the worker has hardly begun, and it loads torch or the file
def test_ctrl_c_ends_it_with_one_word(toy, pause):
    if sys.platform == "win32":
        pytest.skip("Windows has other signals")
    command = [sys.executable, toy / "exercises" / "check.py", "3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        assert [process.stdout.readline() for _ in range(3)] == [b"\n", b"03_loops\n", b"--------\n"]
        time.sleep(pause)
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the program and to its worker
        assert process.communicate(timeout=60) == (b"", b"interrupted\n") and process.returncode == 130
