"""The book as a whole: imports are silent, chapters build on earlier ones only, and the commands shown exist."""

import ast
import os
import re
import subprocess
import sys
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(path.stem for path in ROOT.glob("*.py"))
CHAPTERS = [name for name in MODULES if name[:2].isdigit()]

SILENT_IMPORT = """
import sys
import torch, yaml  # what others do on import is not our concern
touched = []
def watch(event, arguments):
    writing = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if writing or event in ("socket.connect", "subprocess.Popen", "os.mkdir", "os.remove", "os.rename"):
        touched.append((event, arguments))
sys.addaudithook(watch)
sys.path.insert(0, sys.argv[1])
from importlib import import_module
import_module(sys.argv[2])
assert not touched, touched
assert sys.argv[2] != "06_generate" or "11_fast_decoding" not in sys.modules
assert "matplotlib" not in sys.modules, "importing matplotlib takes seconds: do it where it draws"
"""


def test_no_two_chapters_have_one_number_and_part_one_has_no_gaps():
    numbers = [int(name[:2]) for name in CHAPTERS]
    assert len(set(numbers)) == len(numbers)
    assert numbers[:10] == list(range(1, 11))


@pytest.mark.parametrize("name", MODULES)
def test_an_import_is_silent_and_touches_nothing(name, tmp_path):
    end = subprocess.run(
        [sys.executable, "-W", "error::SyntaxWarning", "-c", SILENT_IMPORT, ROOT, name], cwd=tmp_path, timeout=300,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert (end.returncode, end.stdout, end.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())


@cache
def tree(name):
    return ast.parse((ROOT / f"{name}.py").read_text(encoding="utf-8"))


def imports(name, nodes=None):
    """Names of the book's own modules that a module imports, wherever in it, or in some `nodes` of it."""
    found = set()
    for node in nodes or ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "import_module":
            assert isinstance(node.args[0], ast.Constant), f"{name} imports a module whose name is computed"
            found.add(node.args[0].value)
    found &= set(MODULES)
    if name == "06_generate":
        found.discard("11_fast_decoding")  # the one look ahead, inside a function, for the flags of a later chapter
    return found


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_builds_on_earlier_chapters_only(name):
    later = {other for other in imports(name) if other in CHAPTERS and other >= name}
    assert not later


def test_no_module_needs_itself_to_be_imported():
    """In a function, or when a file is run, an import may look ahead: to what a later chapter saved."""
    def needed(name, path):
        assert name not in path, " needs ".join([*path, name])
        top = [node for node in tree(name).body if not isinstance(node, (ast.FunctionDef, ast.If))]
        for other in imports(name, [node for part in top for node in ast.walk(part)]):
            needed(other, (*path, name))

    for name in MODULES:
        needed(name, ())


@pytest.mark.parametrize("name", MODULES)
def test_a_module_only_defines(name):
    """At module level stand imports, constants and definitions; the demonstration is in main()."""
    for node in tree(name).body:
        call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        assert not call and not isinstance(node, (ast.For, ast.While, ast.With)), f"{name}.py, line {node.lineno}"
    assert ast.get_docstring(tree(name))


# Commands

COMMAND = re.compile(r"python3? (?:-u )?([\w/.-]+\.py)\b([^`\n|&;)#]*)")


def commands(text):
    """(script, its flags) of each command line in a text."""
    return [(script, re.findall(r"(?<!\S)--[a-z][\w-]*(?:\.\w+)?", rest)) for script, rest in COMMAND.findall(text)]


@cache
def flags_of(script):
    """The flags that `python script --help` lists."""
    end = subprocess.run([sys.executable, ROOT / script, "--help"], capture_output=True, text=True, encoding="utf-8",
                         timeout=300, env=os.environ | {"PYTHONIOENCODING": "utf-8"})  # fmt: skip
    assert end.returncode == 0 and not end.stderr, end.stderr
    return set(re.findall(r"--[a-z][\w-]*(?:\.\w+)?", re.sub(r"^ +python .*$", "", end.stdout, flags=re.M)))


def pages():
    """The files that show commands: the README, the docs and the chapters' own docstrings."""
    shown = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
             for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))}  # fmt: skip
    return shown | {f"{name}.py": ast.get_docstring(tree(name)) or "" for name in MODULES}


@pytest.mark.parametrize("page", pages())
def test_commands_that_are_shown_exist(page):
    for script, flags in commands(pages()[page]):
        assert (ROOT / script).is_file(), f"{page} names {script}"
        if set(flags) - {"--help"}:
            unknown = set(flags) - flags_of(script)
            assert not unknown, f"{page} gives {script} flags that it does not have: {unknown}"


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_opens_with_its_command(name):
    assert (f"{name}.py", []) in [(script, []) for script, _ in commands(ast.get_docstring(tree(name)))]


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_chapter_has_help_and_refuses_unknown_flags(name, monkeypatch, capsys):
    from plumbing import cli

    main = import_module(name).main
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0 and "usage:" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--no-such-flag"])
    with pytest.raises(SystemExit) as end:
        cli.run(main)
    assert end.value.code == 2 and "--no-such-flag" in capsys.readouterr().err


# Every file

ELSEWHERE = re.compile(r"(?<![\w.:/-])/(work|root|home/\w+|Users/\w+|tmp/\w+)/")
EMOJI = re.compile("[\U0001f000-\U0001faff\ufe0f\u2705\u2728\u274c\u2753-\u2757\u26a1\u2b50\u2b55]")


def tracked_texts():
    listing = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listing.stdout.decode().split("\0")):
        path = ROOT / name
        try:
            yield name, path.read_bytes().decode("utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue  # a picture or weights; or deleted and not yet committed


def test_no_file_names_a_place_on_one_machine():
    found = [(name, match[0]) for name, text in tracked_texts() if (match := ELSEWHERE.search(text))]
    assert not found


def test_no_emoji():
    found = [(name, match[0]) for name, text in tracked_texts() if (match := EMOJI.search(text))]
    assert not found
