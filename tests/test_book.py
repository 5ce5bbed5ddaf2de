"""The book as a whole: imports between modules, effects of an import, and commands that the pages show."""

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

from helpers import ROOT, make_model, python
from plumbing import cli

import pytest
import torch

PACKAGES = ("plumbing", "tamil", "playground", "experiments", "exercises")
TOP = sorted(path.stem for path in ROOT.glob("*.py"))
CHAPTERS = [name for name in TOP if name[:2].isdigit()]
INSIDE = sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for package in PACKAGES
                for path in ROOT.glob(f"{package}/**/*.py") if path.name not in ("__init__.py", "__main__.py"))
MODULES = TOP + [name for name in INSIDE if not name.startswith("exercises.")]


def file_of(name):
    path = ROOT / (name.replace(".", "/") + ".py")
    return path if path.is_file() else ROOT / name.replace(".", "/") / "__main__.py"


@cache
def tree(name):
    return ast.parse(file_of(name).read_text(encoding="utf-8"))


def imports(name):
    """All modules of the book that a module imports, also inside functions."""
    found = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "import_module":
            found |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return found & {*TOP, *INSIDE, *PACKAGES}


# Imports between modules


def test_the_first_chapters_and_minimal_need_no_plumbing():
    assert all(imports(name) <= set(CHAPTERS[:4]) for name in CHAPTERS[:4]) and imports("minimal") == set()


def test_a_chapter_builds_on_earlier_chapters_and_plumbing_only():
    for name in CHAPTERS:
        others = {other for other in imports(name) if not other.startswith(("plumbing", "tamil"))}
        assert others <= {other for other in CHAPTERS if other < name}, name


def test_plumbing_needs_no_chapter_but_the_transformer():
    for name in INSIDE:
        if name.startswith(("plumbing.", "tamil.")):
            allowed = {"03_transformer"} if name.split(".")[1] in ("checkpoint", "hub", "published") else set()
            others = {other for other in imports(name) if not other.startswith(("plumbing", "tamil"))}
            assert others <= allowed, name


def test_nothing_needs_the_experiments_the_playground_or_the_exercises():
    for name in MODULES:
        own = name.split(".")[0]
        others = {other.split(".")[0] for other in imports(name)} & {"experiments", "playground", "exercises"}
        assert others <= {own}, name


# What an import does

IMPORT_EACH = """
import json, os, sys, tempfile, traceback
from importlib import import_module
import plumbing, torch, tyro, yaml, tqdm, requests  # what other libraries do is not tested

touched = []

def watch(event, arguments):
    writing = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if writing or event in ("socket.connect", "subprocess.Popen", "os.mkdir", "os.remove", "os.rename"):
        touched.append((event, arguments))

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
                sys.addaudithook(watch)
                import_module(name)
                assert not touched, touched
                slow = {"matplotlib", "datasets", "tiktoken", "huggingface_hub", "onnx", "onnxruntime"}
                slow &= set(sys.modules)
                assert not slow, f"importing {slow} takes long: do it in the function that needs it"
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        output.seek(0)
        complaint = output.read() + f"status {status} " * (status != 0) + " ".join(os.listdir(folder))
        if complaint:
            complaints[name] = complaint
print(json.dumps(complaints))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot fork")
def test_an_import_is_silent_and_touches_nothing():
    names = [name for name in MODULES if not name.startswith(("playground", "experiments"))]
    end = python("-c", IMPORT_EACH, ROOT, *names, PYTHONDONTWRITEBYTECODE="1")
    assert end.code == 0, end.err
    assert json.loads(end.out) == {}


def test_every_program_ends_a_mistake_with_one_message():
    """Modules call their main() with cli.run(), except for the first chapters and minimal.py."""
    for name in MODULES:
        has_main = any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree(name).body)
        if has_main and name not in (*CHAPTERS[:4], "minimal"):
            assert ast.unparse(tree(name).body[-1]).startswith("if __name__ == '__main__':\n    cli.run(main"), name


# Commands

COMMAND = re.compile(r"python3? (?:-u )?([\w/.-]+\.py|-m (?:plumbing|experiments|playground)[\w.]*)\b([^`\n|&;)#]*)")
FLAG = r"(?<!\S)--[a-z][\w-]*"


def commands(text):
    """Return a list of (script, sub-command or "", flags) for all command lines in a text."""
    found = []
    for script, rest in COMMAND.findall(text):
        word = re.match(r" +(train|write|solve|smooth)\b", rest)
        found.append((script, word[1] if word else "", re.findall(FLAG, rest)))
    return found


@cache
def flags_of(script, word):
    """Return the flags that `python script word --help` lists. `script` is "12_scale.py" or "-m plumbing.hub"."""
    module = script.removeprefix("-m ").removesuffix(".py").replace("/", ".")
    if module == "playground":
        module = "playground.__main__"
    output = io.StringIO()
    words = [word, "--help"] if word else ["--help"]
    with contextlib.redirect_stdout(output), mock.patch.object(sys, "argv", [script, *words]):
        with pytest.raises(SystemExit) as end:
            import_module(module).main()
    assert end.value.code == 0 and "usage:" in output.getvalue()
    return set(re.findall(r"--[a-z][\w-]*", re.sub(r"^ +python .*$", "", output.getvalue(), flags=re.M)))


PAGES_BY_HAND = ("paths", "change_one_thing", "glossary", "quiz", "playground")


def pages():
    """Return {file: text}: the README, other Markdown pages, and the docstrings of all modules.

    A page with measured numbers can quote a command of an earlier commit, so we read the template of the page instead.
    """
    paths = [*ROOT.glob("*.md"), *ROOT.glob("docs/templates/*.md"), *ROOT.glob("exercises/*.md"),
             *(ROOT / "docs" / f"{name}.md" for name in PAGES_BY_HAND)]
    shown = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    return shown | {str(file_of(name).relative_to(ROOT)): ast.get_docstring(tree(name)) or "" for name in MODULES}


@pytest.mark.parametrize("page", pages())
def test_commands_that_are_shown_exist(page):
    for script, word, flags in commands(pages()[page]):
        name = script.removeprefix("-m ").removesuffix(".py").replace("/", ".")
        assert file_of(name).is_file(), f"{page} names {script}"
        wanted = set(flags) - {"--help"}
        if wanted and not name.startswith("experiments."):
            unknown = wanted - flags_of(script, word)
            assert not unknown, f"{page} gives {script} {word} flags that it does not have: {unknown}"


@pytest.mark.parametrize("name", CHAPTERS[4:])
def test_every_program_has_help_and_refuses_unknown_flags(name, monkeypatch, capsys):
    assert (f"{name}.py", "") in [(script, "") for script, *_ in commands(ast.get_docstring(tree(name)))]
    assert "--help" in flags_of(f"{name}.py", "")
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--no-such-flag"])
    with pytest.raises(SystemExit) as end:
        cli.run(import_module(name).main)
    assert end.value.code == 2 and "--no-such-flag" in capsys.readouterr().err


def test_the_settings_files_that_ship_are_valid():
    """The files in configs/ are valid for all kinds of models. The subfolders belong to other chapters."""
    training, gpt, hybrid = (import_module(name) for name in ("05_train", "07_train_gpt", "13_block_diffusion"))
    for path in (ROOT / "configs").glob("*.yaml"):
        for kind, section in ((training.Command, "dllm"), (gpt.Train, "gpt"), (hybrid.Train, "hybrid")):
            cli.parse(kind, ["--config", path.stem], section=section)


def test_the_changes_that_the_page_suggests_work():
    """docs/change_one_thing.md shows the code of a selection rule and of a loss."""
    page = (ROOT / "docs" / "change_one_thing.md").read_text(encoding="utf-8")
    rule, loss = re.findall(r"```python\n(.*?)```", page, re.S)
    diffusion, training = import_module("04_diffusion"), import_module("05_train")
    names = dict(vars(diffusion))
    exec(rule, names)
    masked = torch.tensor([[False, True, True, False, True]])
    assert names["leftmost"](None, None, masked, torch.tensor([2])).tolist() == [[False, True, True, False, False]]
    names = dict(vars(training))
    exec(f"def loss(self, model, x0):\n        B, T = x0.shape\n{loss}", names)
    task = mock.Mock(t_max=0.8)
    value = names["loss"](task, make_model(8), torch.randint(8, (6, 16)))
    assert value.shape == () and 1 < value.item() < 3


def test_no_file_names_a_place_on_one_machine():
    elsewhere = re.compile(r"(?<![\w.:/-])/(work|root|home/\w+|Users/\w+|tmp/\w+)/")
    listing = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    for name in listing.stdout.split("\n"):
        path = ROOT / name
        if path.is_file() and path.suffix in (".py", ".md", ".yaml", ".toml", ".txt", ".html", ".ipynb", ".json"):
            assert not elsewhere.search(path.read_text(encoding="utf-8")), name
