"""The book as a whole: who imports whom, what an import does, how long things are, and whether shown commands exist."""

import ast
import contextlib
import io
import json
import re
import subprocess
import sys
from functools import cache
from importlib import import_module
from unittest import mock

import pytest
from helpers import ROOT, python

from plumbing import cli

TOP = sorted(path.stem for path in ROOT.glob("*.py"))
CHAPTERS = [name for name in TOP if name[:2].isdigit()]
PLUMBING = sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ROOT.glob("plumbing/**/*.py")
                  if path.name != "__init__.py")
MODULES = TOP + PLUMBING
EXERCISES = sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ROOT.glob("exercises/**/*.py"))


def file_of(name):
    return ROOT / (name.replace(".", "/") + ".py")


@cache
def tree(name):
    return ast.parse(file_of(name).read_text(encoding="utf-8"))


# 1. What an import does

IMPORT_EACH = """
import json, os, sys, tempfile, traceback
from importlib import import_module
import torch.distributed.checkpoint, torch.distributed.fsdp, tyro, yaml  # what other libraries do is not tested

touched = []

def watch(event, arguments):
    writing = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if writing or event in ("socket.connect", "subprocess.Popen", "os.mkdir", "os.remove", "os.rename"):
        touched.append((event, arguments))

def check(name):
    sys.addaudithook(watch)
    import_module(name)
    assert not touched, touched
    slow = {"matplotlib", "requests", "datasets", "tiktoken", "huggingface_hub", "gradio", "onnx"} & set(sys.modules)
    slow -= {"requests"} if name in ("plumbing.web", "tamil_wikipedia") else set()
    assert not slow, f"importing {slow} takes long: do it in the function that needs it"

sys.path.insert(0, sys.argv[1])
complaints = {}
for name in sys.argv[2:]:
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as output:
        child = os.fork()  # each module is imported by a new process, in which torch is already loaded
        if not child:
            os.chdir(folder)
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            try:
                check(name)
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        output.seek(0)
        complaints[name] = output.read() + f"status {status} " * (status != 0) + " ".join(os.listdir(folder))
print(json.dumps(complaints))
"""


@pytest.fixture(scope="module")
def import_each():
    """{module: what its import prints, or does that no import should do}. Each import starts in a new process."""
    command = ("-W", "error::SyntaxWarning", "-c", IMPORT_EACH, ROOT, *MODULES)
    end = python(*command, PYTHONDONTWRITEBYTECODE="1")
    assert end.code == 0, end.err
    return json.loads(end.out)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot fork")
@pytest.mark.parametrize("name", MODULES)
def test_an_import_is_silent_and_touches_nothing(name, import_each):
    assert import_each[name] == ""


# 2. Who imports whom


def imports(name, nodes=None):
    """The book's own modules that a module imports, anywhere in it or in the given `nodes`."""
    found = set()
    for node in nodes or ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "import_module":
            assert isinstance(node.args[0], ast.Constant), f"{name} imports a module whose name is computed"
            found.add(node.args[0].value)
    return found & set(MODULES)


def at_top(name):
    """The modules that a module imports when it is imported, and not later inside a function."""
    top = [node for node in tree(name).body if not isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.If))]
    return imports(name, [node for part in top for node in ast.walk(part)])


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_builds_on_earlier_chapters_only(name):
    assert not {other for other in imports(name) if other in CHAPTERS and other >= name}


@pytest.mark.parametrize("name", EXERCISES)
def test_an_exercise_needs_its_chapter_and_earlier_ones_only(name):
    assert not {other for other in imports(name) if other in CHAPTERS and other > name.rpartition(".")[2]}


@pytest.mark.parametrize("name", PLUMBING)
def test_plumbing_needs_no_chapter(name):
    """Reports may import chapters. Checkpoints and the Hub need chapter 03's Transformer; nothing else does."""
    if name.startswith("plumbing.reports."):
        return
    allowed = {"03_transformer"} if name in ("plumbing.checkpoint", "plumbing.hub", "plumbing.published") else set()
    chapters = imports(name) & set(TOP)
    assert chapters <= allowed, f"{name} imports {chapters - allowed}"
    reports = {other for other in at_top(name) if other.startswith("plumbing.reports.")}
    assert not reports, f"{name} imports {reports}"


def test_no_module_needs_itself_to_be_imported():
    def needed(name, path):
        assert name not in path, " needs ".join([*path, name])
        for other in at_top(name):
            needed(other, (*path, name))

    for name in MODULES:
        needed(name, ())


def test_the_origin_of_a_name_stays_visible():
    """Modules are imported whole. Only the types of settings, which annotations use, are imported by name."""
    for name in MODULES:
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("plumbing."):
                modules = {f"{node.module}.{alias.name}" for alias in node.names} <= set(PLUMBING)
                assert modules or node.module == "plumbing.settings", f"{name}.py, line {node.lineno}"
            assert not (isinstance(node, ast.ImportFrom) and node.names[0].name == "*"), name


# 3. The floor plan

PROGRAMS = {"benchmark", "minimal", "playground", "tamil_dataset", "tamil_wikipedia"}


def test_the_top_level_is_the_table_of_contents():
    assert set(TOP) <= set(CHAPTERS) | PROGRAMS
    assert not list(ROOT.glob("docs/**/*.py")) and not list(ROOT.glob("docs/**/*.html"))
    assert (ROOT / "LICENSE").is_file()


def test_no_two_chapters_have_one_number_and_there_are_no_gaps():
    numbers = [int(name[:2]) for name in CHAPTERS]
    assert numbers == list(range(1, len(numbers) + 1))


def test_the_tests_mirror_the_layout():
    """A file of tests is named after the chapter, program or module of plumbing that it tests."""
    programs = {re.sub(r"^\d\d_", "", name) for name in TOP}
    modules = {name.removeprefix("plumbing.").replace("reports.", "").replace(".", "_") for name in PLUMBING}
    for folder, names in (("chapters", programs), ("plumbing", modules)):
        tests = {path.stem.removeprefix("test_") for path in (ROOT / "tests" / folder).glob("test_*.py")}
        assert tests <= names | {"memory"}, f"tests/{folder}: {tests - names}"


def test_exercises_are_named_after_chapters():
    folders = {"exercises", "exercises.checks", "exercises.solutions"}
    assert {name.rpartition(".")[0] for name in EXERCISES} == folders
    names = {folder: {name.rpartition(".")[2] for name in EXERCISES if name.rpartition(".")[0] == folder}
             for folder in folders}  # fmt: skip
    assert names["exercises"] - {"check"} == names["exercises.checks"] == names["exercises.solutions"] <= set(CHAPTERS)


def test_plumbing_lists_its_modules():
    listed = (ROOT / "plumbing" / "__init__.py").read_text(encoding="utf-8")
    for name in PLUMBING:
        assert re.search(rf"^ +{re.escape(name.removeprefix('plumbing.'))} ", listed, re.M), f"{name} is not listed"


@pytest.mark.parametrize("name", MODULES + EXERCISES)
def test_a_module_and_its_functions_are_short(name):
    most = 300 if name in PLUMBING else 350 if name == "13_block_diffusion" else 320  # two samplers, two losses
    most = 200 if name in EXERCISES else most
    assert len(file_of(name).read_text(encoding="utf-8").splitlines()) <= most
    for node in ast.walk(tree(name)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno < 60, f"{node.name} in {name}.py is longer than 60 lines"


@pytest.mark.parametrize("name", MODULES)
def test_libraries_do_what_is_not_the_subject(name):
    text = file_of(name).read_text(encoding="utf-8")
    assert "urllib.request" not in text and "argparse" not in text


def test_the_readme_is_a_path_and_not_a_report():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("name", MODULES + EXERCISES)
def test_a_module_only_defines(name):
    """The module level holds imports, constants and definitions; the demonstration is in main()."""
    for node in tree(name).body:
        call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        call = call and not (name == "exercises.check" and ast.unparse(node).startswith("sys.path.insert("))
        assert not call and not isinstance(node, (ast.For, ast.While, ast.With)), f"{name}.py, line {node.lineno}"
    assert ast.get_docstring(tree(name))


# 4. Commands

COMMAND = re.compile(r"python3? (?:-u )?([\w/.-]+\.py|-m plumbing[\w.]+)\b([^`\n|&;)#]*)")


def commands(text):
    """(script, its flags) of each command line in a text."""
    return [(script, re.findall(r"(?<!\S)--[a-z][\w-]*(?:\.\w+)?", rest)) for script, rest in COMMAND.findall(text)]


@cache
def flags_of(script):
    """The flags that `python script --help` lists. script: "12_scale.py" or "-m plumbing.hub"."""
    output, module = io.StringIO(), script.removeprefix("-m ").removesuffix(".py").replace("/", ".")
    with contextlib.redirect_stdout(output), mock.patch.object(sys, "argv", [script, "--help"]):
        with pytest.raises(SystemExit) as end:
            import_module(module).main()
    assert end.value.code == 0 and "usage:" in output.getvalue()
    return set(re.findall(r"--[a-z][\w-]*(?:\.\w+)?", re.sub(r"^ +python .*$", "", output.getvalue(), flags=re.M)))


def pages():
    """{file: text that shows commands}: the README, the docs, and the docstrings of all modules and exercises."""
    shown = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
             for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("exercises/*.md"))}  # fmt: skip
    return shown | {str(file_of(name).relative_to(ROOT)): ast.get_docstring(tree(name)) or ""
                    for name in MODULES + EXERCISES}  # fmt: skip


@pytest.mark.parametrize("page", pages())
def test_commands_that_are_shown_exist(page):
    for script, flags in commands(pages()[page]):
        assert file_of(script.removeprefix("-m ")).is_file() or (ROOT / script).is_file(), f"{page} names {script}"
        if set(flags) - {"--help"}:
            unknown = set(flags) - flags_of(script)
            assert not unknown, f"{page} gives {script} flags that it does not have: {unknown}"


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_opens_with_its_command(name):
    assert (f"{name}.py", []) in [(script, []) for script, _ in commands(ast.get_docstring(tree(name)))]


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_chapter_has_help_and_refuses_unknown_flags(name, monkeypatch, capsys):
    assert "--help" in flags_of(f"{name}.py")
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--no-such-flag"])
    with pytest.raises(SystemExit) as end:
        cli.run(import_module(name).main)
    assert end.value.code == 2 and "--no-such-flag" in capsys.readouterr().err


# minimal.py may import nothing from this repository; tests/test_minimal.py asserts the same of it.
@pytest.mark.parametrize("name", sorted({*MODULES, *EXERCISES} - {"minimal"}))
def test_a_program_ends_a_mistake_with_one_message(name):
    """Every module with a main() starts it through cli.run(), as its last statement."""
    if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree(name).body):
        assert ast.unparse(tree(name).body[-1]).startswith("if __name__ == '__main__':\n    cli.run(main")


# 5. Every file

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
