"""Exercises: the checks accept our solutions, refuse mistakes and empty answers, and survive bad code of learners."""

import subprocess
from importlib import import_module

from helpers import ROOT, python, refusal
from mistakes import MISTAKES

import pytest
import torch

check = import_module("exercises.check")

CHAPTERS = check.exercises()
ALL = [(chapter, name) for chapter, names in CHAPTERS.items() for name in names]
each_exercise = pytest.mark.parametrize("chapter, name", ALL)


def checked(chapter, name, function):
    """Return what is wrong with an answer, in a sentence, or None."""
    torch.manual_seed(0)
    checks = import_module(f"exercises.checks.{chapter}")
    return check.examine(getattr(checks, f"check_{name}"), function)


def is_sentence(text):
    return text[0].isupper() and text.endswith(".") and "\n" not in text


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_an_exercise_is_red_as_shipped(chapter):
    file = f"exercises/{chapter}.py"
    if subprocess.run(["git", "diff", "--quiet", "HEAD", "--", file], cwd=ROOT, capture_output=True).returncode == 1:
        pytest.skip("a reader has changed this file")
    learner = import_module(f"exercises.{chapter}")
    for name in CHAPTERS[chapter]:
        function = getattr(learner, name)
        assert checked(chapter, name, function) == "not written yet" and "Hint" in function.__doc__


@each_exercise
def test_a_solution_is_green(chapter, name):
    solutions = import_module(f"exercises.solutions.{chapter}")
    assert checked(chapter, name, getattr(solutions, name)) is None


@each_exercise
def test_mistakes_are_refused_with_a_sentence(chapter, name):
    source = (ROOT / "exercises" / "solutions" / f"{chapter}.py").read_text(encoding="utf-8")
    assert len(MISTAKES[name]) == 2
    for right, wrong in MISTAKES[name]:
        assert source.count(right) == 1
        names = {}
        exec(source.replace(right, wrong), names)
        sentence = checked(chapter, name, names[name])
        assert sentence and is_sentence(sentence), (right, wrong, sentence)


@each_exercise
def test_a_function_that_returns_nothing_is_refused(chapter, name):
    sentence = checked(chapter, name, lambda *arguments: None)
    assert sentence and is_sentence(sentence)


# What a learner may write, line by line. Each check wants the number 1.
TOY = '''
import sys

def right():
    print("x" * 10**6)
    return 1

def wrong():
    print("seen\\x1b[2J")
    return 2

def error():
    return [][5]

def leaves():
    sys.exit(0)

def loops():
    while True:
        print("x" * 1000)

def begun():
    raise NotImplementedError
'''
SAID = {
    "right": None,
    "wrong": "It must be 1.",
    "error": "line 13 stops with an error (IndexError: list index out of range).",
    "leaves": "it ends the program; a function must return instead.",
    "loops": "no result after 1 seconds; perhaps a loop never ends.",
    "begun": "not written yet",
    "deleted": "the file has no such function.",
}


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Make check.py read this folder, which has a chapter of TOY, and a chapter that Python cannot read."""
    (tmp_path / "checks").mkdir()
    for chapter, names, source in (("91_toy", SAID, TOY), ("92_broken", ["f"], "def f(:\n")):
        (tmp_path / f"{chapter}.py").write_text(source)
        checks = [f'def check_{name}(f):\n    assert f() == 1, "It must be 1."\n' for name in names]
        (tmp_path / "checks" / f"{chapter}.py").write_text("\n".join(checks))
    monkeypatch.setattr(check, "FOLDER", tmp_path)
    monkeypatch.setattr(import_module("exercises"), "__path__", [str(tmp_path)])
    monkeypatch.setattr(import_module("exercises.checks"), "__path__", [str(tmp_path / "checks")])


def test_every_exercise_gets_a_line_whatever_the_others_do(toy, capsys):
    with pytest.raises(SystemExit) as end:
        check.main(["--limit", "1"])
    assert end.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    for name, sentence in SAID.items():
        assert (f"  red    {name}: {sentence}" if sentence else f"  green  {name}") in lines
    assert r"         printed: seen\x1b[2J" in lines and len(lines) < 30 and max(map(len, lines)) < 200
    assert any(line.startswith("  red    exercises/92_broken.py: it cannot be used (SyntaxError") for line in lines)
    assert lines[-1] == "1 of 8 exercises are green."


def test_the_program_checks_one_chapter():
    end = python(ROOT / "exercises" / "check.py", "01")
    assert end.code == 1 and end.err == "" and "02_attention" not in end.out
    assert end.out.startswith("\n01_tensors\n----------\n") and end.out.endswith(" of 3 exercises are green.\n")


def test_a_wrong_command_is_refused():
    assert "no exercises for chapter 99" in refusal(check.main, ["99"])
    assert "four" in refusal(check.main, ["four"])
