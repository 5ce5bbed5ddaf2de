"""tour.ipynb: every cell shows what it should, in a new kernel, and the file holds no output but pictures."""

import ast
import base64
import html
import io
import json
import os
import re
import shutil
import sys
from importlib import import_module, metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import ROOT, Book, made_up_text, write_settings
from test_book import commands, flags_of

NOTEBOOK = json.loads((ROOT / "tour.ipynb").read_text(encoding="utf-8"))
SOURCE = {cell["id"]: "".join(cell["source"]) for cell in NOTEBOOK["cells"]}
CODE = [cell["id"] for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
FIGURES = [f"report/figures/dllm_vs_gpt_{part}.png" for part in "likelihood samples speed infilling reuse".split()]
# What each code cell must show: words that it prints, then its pictures, as files of the dLLM's run.
SHOWN = {
    "settings": ([], []),
    "find": ([], []),
    "install": (["nothing was missing"], []),
    "device": (["mps" if torch.backends.mps.is_available() else "cpu"], []),
    "chapter-04": (["NELBO: mean of", "From masks to a sentence", "Next: "], ["../../figures/04_bound.png"]),
    "chapter-05": (["dllm, ", "tiny: ", "step 20: NELBO", "weights of step", "Next: "], ["curve.png"]),
    "chapter-06": (["ROMEO:", "NFE", "wrote", "Next: "], ["writing.gif"]),
    "player": ([], []),
    "blanks": (["sample 4 of 4", "To be, or not to be, ", " is the question"], []),
    "chapter-07": (["gpt, ", "step 20: NLL", "both curves", "Next: "], ["../tour-tiny-5-1-gpt/curves.png"]),
    "chapter-10": (["dLLM: tour-tiny-5-1", "GPT:  tour-tiny-5-1-gpt", "1. Likelihood", "5. Reading", "Next: "], []),
    "figures": ([], FIGURES),
}


# 1. The file


def test_the_file_is_a_valid_notebook():
    pytest.importorskip("nbformat").validate(NOTEBOOK)
    assert NOTEBOOK["metadata"] == {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                                    "language_info": {"name": "python"}}  # fmt: skip
    assert not any(cell["metadata"] for cell in NOTEBOOK["cells"])


def test_the_file_holds_no_outputs_but_small_pictures():
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            kinds = [kind for output in cell["outputs"] for kind in output["data"]]
            wanted = [f"image/{path.rpartition('.')[2]}" for path in SHOWN[cell["id"]][1]]
            assert kinds in ([], wanted) and cell["execution_count"] is None
            assert all(output.keys() == {"output_type", "data", "metadata"} for output in cell["outputs"])
    assert (ROOT / "tour.ipynb").stat().st_size < 600_000


def test_each_cell_is_short_and_explained():
    cells = NOTEBOOK["cells"]
    for before, cell in zip(cells, cells[1:]):
        if cell["cell_type"] == "code":
            assert before["cell_type"] == "markdown" and before["source"], cell["id"]
            assert len([line for line in SOURCE[cell["id"]].splitlines() if line]) <= 12, cell["id"]
    assert CODE == list(SHOWN) and cells[0]["cell_type"] == cells[-1]["cell_type"] == "markdown"


def python_of(name):
    """The source of a cell as plain Python: IPython turns commands into calls of get_ipython()."""
    manager = pytest.importorskip("IPython.core.inputtransformer2").TransformerManager()
    return manager.transform_cell(SOURCE[name])


def test_the_notebook_defines_nothing_that_a_chapter_could_define():
    defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    assert not [name for name in CODE for node in ast.walk(ast.parse(python_of(name))) if isinstance(node, defined)]


def shown_commands(name):
    """(script, its flags) of each command in a cell."""
    return commands(SOURCE[name].replace("\\\n", " ").replace("{python} ", "python "))


def test_the_notebook_runs_five_chapters_in_order():
    scripts = [script for name in CODE for script, _ in shown_commands(name)]
    assert sorted({script[:2] for script in scripts}) == ["04", "05", "06", "07", "10"] and scripts == sorted(scripts)


@pytest.mark.parametrize("name", SOURCE)
def test_the_commands_of_a_cell_exist(name):
    for script, flags in shown_commands(name):
        assert set(flags) <= flags_of(script) | {"--help"}, script
    for flag in re.findall(r"`(--[a-z][\w-]*)", SOURCE[name]):
        assert any(flag in flags_of(script) for script in ("05_train.py", "06_generate.py")), flag
    for chapter in re.findall(r"\b\d\d_\w+\.py", SOURCE[name]):
        assert (ROOT / chapter).is_file()


# 2. A run in a new kernel, in a copy of the book, with a text and a model that take seconds

TINY_04 = "main.__defaults__ = (None, 20)  # steps of its training"
TINY_10 = """SIZES["quick"] = Size(draws=1, windows=4, samples=4, batch=2, steps=(2, 4),
                      shape=dict(n_layer=1, n_head=1, n_embd=8, seq_len=8),
                      train=dict(batch_size=2, steps=6, evaluate_every=2, compile="off"))"""


def shrink(path, statement):
    """Insert a statement before the last one of a chapter, which starts its main()."""
    text = path.read_text(encoding="utf-8")
    assert text.count("\nif __name__ ==") == 1
    path.write_text(text.replace("\nif __name__ ==", f"\n{statement}\n\nif __name__ =="), encoding="utf-8")


def hide_other_packages(folder):
    """Hide from Python the packages of requirements.txt that the notebook does not install: it may not need them."""
    needed = re.search(r'NEEDED = set\("(.*?)"', SOURCE["install"])[1].split()
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    names = {line.split("==")[0].lower().replace("-", "_") for line in lines}
    assert set(needed) <= names
    kernel = {"nbclient", "nbformat", "ipykernel"}
    hidden = names - set(needed) - kernel
    modules = [module for module, packages in metadata.packages_distributions().items()
               if hidden & {package.lower().replace("-", "_") for package in packages}]
    assert {"gradio", "huggingface_hub"} <= set(modules) and "torch" not in modules
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules |= dict.fromkeys({modules})\n")


def environment(folder):
    """Variables with which a kernel sees no settings of the user, no network and no hidden package."""
    own = {name: str(folder / name.lower()) for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR",
                                                         "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR")}  # fmt: skip
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    return own | nowhere | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8", "TOUR_TINY": "1",
                            "PYTHONPATH": str(folder / "hidden"), "CUDA_VISIBLE_DEVICES": ""}  # fmt: skip


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    """The executed notebook: {cell: its outputs}, and the folder of the dLLM's run."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    folder = tmp_path_factory.mktemp("tour")
    book = Book(folder / "book")
    shutil.copy(ROOT / "requirements.txt", book.folder)
    shrink(book.folder / "04_diffusion.py", TINY_04)
    shrink(book.folder / "10_dllm_vs_gpt.py", TINY_10)
    hide_other_packages(folder / "hidden")
    scene = "ROMEO:\nTo be, or not to be, that is the question.\n"
    (book.folder / "tiny.txt").write_text(scene.join(made_up_text().splitlines(keepends=True)), encoding="utf-8")
    write_settings(book.folder / "tiny.yaml", steps=20, seq_len=64)
    notebook = nbformat.read(ROOT / "tour.ipynb", as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=120, startup_timeout=60, kernel_name="python3",
                                     resources={"metadata": {"path": str(book.folder / "configs")}})  # fmt: skip
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in environment(folder).items():
            monkeypatch.setenv(name, value)
        client.execute()
    outputs = {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    return SimpleNamespace(outputs=outputs, run=book.runs / "tour-tiny-5-1")


def printed(outputs):
    return "".join(output.text for output in outputs if output.output_type == "stream")


@pytest.mark.parametrize("name", SHOWN)
def test_each_cell_shows_what_it_should(name, tour):
    words, pictures = SHOWN[name]
    text, outputs = printed(tour.outputs[name]), tour.outputs[name]
    assert all(word in text for word in words), text
    assert "Traceback" not in text and "error:" not in text and "\x1b" not in text
    assert all(output.output_type in ("stream", "display_data", "execute_result") for output in outputs)
    found = [base64.b64decode(data) for output in outputs for kind, data in output.get("data", {}).items()
             if kind.startswith("image/")]  # fmt: skip
    assert found == [(tour.run / path).read_bytes() for path in pictures]


def test_the_animation_moves(tour):
    image = import_module("PIL.Image")
    data = [output.data["image/gif"] for output in tour.outputs["chapter-06"] if "image/gif" in output.get("data", {})]
    assert image.open(io.BytesIO(base64.b64decode(data[0]))).n_frames > 10


def test_the_player_is_in_the_notebook(tour):
    shown = "".join(output.data["text/html"] for output in tour.outputs["player"])
    page = re.search(r'<iframe srcdoc="([^"]*)"', shown)[1]
    assert html.unescape(page) == (tour.run / "writing.html").read_text(encoding="utf-8")


# 3. The first cells, elsewhere than in the book


class Shell:
    """Stands for get_ipython(). It notes the commands, and does what the test says in their place."""

    def __init__(self, act=lambda: None):
        self.act, self.seen = act, []

    def system(self, command):
        self.seen.append(command)
        self.act()

    def run_line_magic(self, *words):
        self.seen.append(" ".join(words))


def execute(name, shell=None, **names):
    """Execute a cell without a kernel, with these names. Returns its names afterwards."""
    names |= {"os": os, "sys": sys, "Path": Path, "get_ipython": lambda: shell}
    exec(python_of(name), names)
    return names


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty folder to start in. What the cells change in this process is undone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    return tmp_path


def test_the_book_is_found_from_within(elsewhere):
    (elsewhere / "book" / "docs").mkdir(parents=True)
    (elsewhere / "book" / "04_diffusion.py").touch()
    os.chdir("book/docs")
    shell = Shell()
    names = execute("find", shell)
    assert names["book"] == Path.cwd() == elsewhere / "book" and not shell.seen


def test_the_book_is_downloaded_once(elsewhere):
    shell = Shell((elsewhere / "tiny-dllm").mkdir)
    for _ in range(2):
        os.chdir(elsewhere)
        assert execute("find", shell)["book"] == Path.cwd() == elsewhere / "tiny-dllm"
    assert len(shell.seen) == 1 and shell.seen[0].startswith("git clone") and os.environ["GIT_TERMINAL_PROMPT"] == "0"


def test_a_failed_download_says_what_to_do(elsewhere):
    with pytest.raises(AssertionError, match="correct REPOSITORY"):
        execute("find", Shell())
    assert Path.cwd() == elsewhere


def test_only_missing_packages_are_installed(elsewhere, monkeypatch, capsys):
    """Colab's PyTorch, say, is older than ours and stays; packages that no cell needs are not installed."""
    shutil.copy(ROOT / "requirements.txt", elsewhere)
    here = [SimpleNamespace(name=name) for name in ("torch", "numpy", "PyYAML", "Pillow", "requests", "tqdm", None)]
    monkeypatch.setattr(metadata, "distributions", lambda: here)
    shell = Shell()
    missing = execute("install", shell)["missing"]
    assert [pin.split("==")[0] for pin in missing] == ["safetensors", "tyro", "matplotlib"]
    assert all(re.fullmatch(r"\w+==[\d.]+", pin) for pin in missing) and missing[0] in capsys.readouterr().out
    assert len(shell.seen) == 1 and shell.seen[0].startswith("pip install")
