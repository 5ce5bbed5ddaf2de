"""tour.ipynb: every cell runs in a new kernel and shows the right output."""

import base64
import io
import json

from helpers import ROOT

import pytest

NOTEBOOK = json.loads((ROOT / "tour.ipynb").read_text(encoding="utf-8"))
SHOWN = {  # words of each code cell that prints
    "chapters": ["device: "], "hide": ["k = 40"], "four": ["loss 3."], "write": ["pass 24"],
    "train": ["parameters", "NELBO"], "blanks": ["To be, or not to be, "], "texts": ["dLLM:", "GPT:"],
    "compare": ["GPT    blank of 4"],
}
PICTURES = {"animation": "image/gif", "gpt": "image/png"}


@pytest.fixture(scope="module")
def outputs():
    """Run a smaller version of the notebook. Return {name of a code cell: outputs}."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    source = json.dumps(NOTEBOOK)
    for usual, small in (("STEPS = 250", "STEPS = 8"), ("evaluations=8", "evaluations=2"), ("steps=150", "steps=20"),
                         ("steps=48", "steps=4"), ("steps=8)", "steps=2)")):
        assert source.count(usual) == 1
        source = source.replace(usual, small)
    notebook = nbformat.reads(source, as_version=4)
    nbformat.validate(notebook)
    client = nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3",
                                     resources={"metadata": {"path": str(ROOT / "docs")}})  # the book is found above
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        client.execute()
    return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


def test_each_cell_shows_what_it_should(outputs):
    for name, parts in outputs.items():
        printed = "".join(output.text for output in parts if output.output_type == "stream" and output.name == "stdout")
        assert all(word in printed for word in SHOWN.get(name, ())), printed
        kinds = [kind for output in parts for kind in output.get("data", {}) if kind.startswith("image/")]
        assert kinds == ([PICTURES[name]] if name in PICTURES else [])
        assert all(output.output_type != "error" for output in parts)


def test_the_animation_moves(outputs):
    image = pytest.importorskip("PIL.Image")
    data = next(output.data["image/gif"] for output in outputs["animation"] if "data" in output)
    assert image.open(io.BytesIO(base64.b64decode(data))).n_frames == 4


def test_the_slider_has_every_pass(outputs):
    shown = next(output.data["text/html"] for output in outputs["slider"] if "data" in output)
    assert "4 passes" in shown and "<script>" not in shown  # it is escaped, inside srcdoc


def test_the_first_cell_asks_where_the_book_is():
    cell = next(cell for cell in NOTEBOOK["cells"] if cell["id"] == "find")
    source = "".join(cell["source"]).replace('"04_diffusion.py"', '"no such file"')
    with pytest.raises(AssertionError, match="ADDRESS is empty"):
        exec(source, {})


def test_what_the_shipped_notebook_shows_is_what_its_cells_print():
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            shown = json.dumps(cell["outputs"], ensure_ascii=False)
            assert all(word in shown for word in [*SHOWN.get(cell["id"], ()), PICTURES.get(cell["id"], "")])
