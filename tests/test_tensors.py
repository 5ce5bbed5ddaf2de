"""Chapter 01: derivatives, a layer, and a bigram whose loss reaches the entropy. Chapters 01 to 04 run alone."""

import math
import re
import runpy
import shutil
import sys
from importlib import import_module

from helpers import ROOT, python

import pytest
import torch
import torch.nn.functional as F

tensors = import_module("01_tensors")

CHAPTERS = ("01_tensors", "02_attention", "03_transformer", "04_diffusion")


def sentence():
    """The tokens of the chapter's sentence, the number of different tokens, and the frequency (V, V) of each pair."""
    characters = sorted(set(tensors.SENTENCE))
    tokens = torch.tensor([characters.index(c) for c in tensors.SENTENCE])
    counts = torch.zeros(len(characters), len(characters))
    for first, second in zip(tokens, tokens[1:]):
        counts[first, second] += 1
    return tokens, len(characters), counts / counts.sum(1, keepdim=True)


def test_the_gradients_by_hand_are_those_of_autograd():
    w, b, x, y = torch.randn(4, dtype=torch.float64, requires_grad=True)
    expected = torch.autograd.grad((w * x + b - y) ** 2, (w, b))
    assert torch.allclose(torch.stack(tensors.squared_error_gradient(w, b, x, y)), torch.stack(expected))
    logits, target = torch.randn(6, 9, dtype=torch.float64, requires_grad=True), torch.randint(9, (6,))
    (expected,) = torch.autograd.grad(F.cross_entropy(logits, target), logits)
    assert torch.allclose(tensors.cross_entropy_gradient(logits, target), expected)


def test_the_linear_layer_is_that_of_pytorch_and_only_parameters_are_trained():
    layer = tensors.Linear(5, 3)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 4, 5)
    assert torch.allclose(layer(x), F.linear(x, layer.weight, layer.bias), atol=1e-6)
    assert {name for name, _ in layer.named_parameters()} == {"weight", "bias"}
    assert set(layer.state_dict()) == {"weight", "bias", "calls"} and layer.calls == 1


@pytest.mark.parametrize("text, entropy", [
    ("abababab", 0.0),  # each character determines the next
    ("aabba", math.log(2)),  # a or b follows a, and b or a follows b, equally often
    ("aaab", math.log(3) - 2 / 3 * math.log(2)),  # two thirds a, one third b
])  # fmt: skip
def test_the_entropy_of_texts_known_by_hand(text, entropy):
    assert tensors.bigram_entropy(text) == pytest.approx(entropy)


def test_the_loss_of_a_bigram_falls_to_the_entropy_and_its_table_to_the_frequencies():
    tokens, V, frequencies = sentence()
    assert V == 15  # the chapter's docstring says ln(15)
    model, losses = tensors.train_bigram(tokens, V)
    entropy = tensors.bigram_entropy(tensors.SENTENCE)
    assert losses[0] == pytest.approx(math.log(V))
    assert all(later <= earlier + 1e-6 for earlier, later in zip(losses, losses[1:]))
    assert entropy < losses[-1] < entropy + 0.01
    assert torch.allclose(model.table.softmax(-1), frequencies, atol=0.02)
    model.table.data = frequencies.log()  # Gibbs' inequality: no table has a lower loss than this one
    assert F.cross_entropy(model(tokens[:-1]), tokens[1:]).item() == pytest.approx(entropy, abs=1e-6)


def test_a_sample_contains_each_next_character_as_often_as_the_table_says():
    _, V, frequencies = sentence()
    model = tensors.Bigram(V)
    model.table.data = frequencies.log()
    tokens = torch.tensor(tensors.sample(model, 3, 4000, torch.Generator().manual_seed(0)))
    assert tokens[0] == 3 and len(tokens) == 4001
    after = tokens[1:][tokens[:-1] == 0]  # what follows a space
    shares = torch.bincount(after, minlength=V) / len(after)
    assert torch.allclose(shares, frequencies[0], atol=0.05)


# What the first four chapters have in common

# Python imports this module when it starts. After that, all libraries except PyTorch seem not to be installed.
ONLY_PYTORCH = """
import sys
from importlib.machinery import PathFinder

class WithoutOthers:
    def find_spec(name, path=None, target=None):
        if name not in {"safetensors", "tqdm", "filelock", "requests", "tyro", "yaml", "huggingface_hub"}:
            return PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutOthers
"""


@pytest.fixture
def alone(tmp_path):
    """Return a function that copies a chapter and all chapters before it to a new folder, and runs the chapter."""
    for name in ("library", "chapters", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "library" / "sitecustomize.py").write_text(ONLY_PYTORCH)

    def run(chapter, *flags):
        for name in CHAPTERS[: CHAPTERS.index(chapter) + 1]:
            shutil.copy(ROOT / f"{name}.py", tmp_path / "chapters")
        program = tmp_path / "chapters" / f"{chapter}.py"
        done = python(program, *flags, cwd=tmp_path / "elsewhere", PYTHONPATH=str(tmp_path / "library"))
        assert done.code == 0, done.err
        assert not list((tmp_path / "elsewhere").iterdir())
        figures = sorted((tmp_path / "chapters").glob("figures/*.png"))
        assert all(figure.stat().st_size > 1000 for figure in figures)
        return done.out, [figure.stem for figure in figures]

    return run


@pytest.mark.parametrize("chapter, flags, figures, following", [
    ("01_tensors", (), ["01_tensors"], "02_attention.py"),
    ("02_attention", (), ["02_attention"], "03_transformer.py"),
    ("03_transformer", ("--n-layer", 2, "--n-head", 2, "--n-embd", 32), [], "04_diffusion.py"),
    ("04_diffusion", (), ["04_bound", "04_writing"], "05_train.py"),
])  # fmt: skip
def test_a_chapter_needs_only_pytorch_and_the_lower_chapters(alone, chapter, flags, figures, following):
    out, drawn = alone(chapter, *flags)
    assert drawn == figures
    assert following in out.splitlines()[-1]
    if chapter == "04_diffusion":
        plain, corrected = (int(whole) for whole in re.findall(r"scattered +\d+% +(\d+)", out))
        assert plain < 50 < 90 < corrected  # of 100 sentences: "It makes more mistakes, but correction removes them"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_importing_a_chapter_prints_nothing(chapter, capsys):
    runpy.run_path(str(ROOT / f"{chapter}.py"))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("chapter, flags, word", [
    ("01_tensors", ["--sho-w"], "--sho-w"),
    ("02_attention", ["--n-layer", "2"], "--n-layer"),
    ("03_transformer", ["--n-layer", "two"], "--n-layer"),
    ("03_transformer", ["--n-embd", "33"], "n_embd"),
    ("04_diffusion", ["--steps"], "--steps"),
])  # fmt: skip
def test_a_wrong_flag_ends_a_chapter_with_one_message(chapter, flags, word, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{chapter}.py", *flags])
    with pytest.raises(SystemExit) as end:
        import_module(chapter).main()
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out == ""
    assert word in err.splitlines()[-1]
