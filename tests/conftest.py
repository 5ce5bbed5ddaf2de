"""Fixtures that all tests share: a tiny model, a folder of runs, and a copy of the book."""

import signal
from types import SimpleNamespace

import pytest
import torch
from helpers import Book, make_model
from tamil_verse import SOURCES, poems

import tamil_dataset
from plumbing import checkpoint, tokenizers

torch.set_num_threads(1)  # the models of the tests are too small to share, and two threads add in another order


@pytest.fixture(autouse=True)
def as_it_was():
    """A test may leave behind no Ctrl-C handler, no other precision or arithmetic, and no other number of threads."""
    handler, precision = signal.getsignal(signal.SIGINT), torch.get_float32_matmul_precision()
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, handler)
    torch.set_float32_matmul_precision(precision)
    torch.set_flush_denormal(False)


@pytest.fixture
def tiny():
    """A tokenizer of 8 characters and an untrained model of about 4,000 parameters."""
    tokenizer = tokenizers.CharTokenizer("\n abcdeé")
    model = make_model(tokenizer.vocab_size)
    return SimpleNamespace(tokenizer=tokenizer, config=model.config, model=model)


@pytest.fixture
def runs_folder(tmp_path, monkeypatch):
    """An empty place for runs: no model is found that was trained or shipped."""
    runs = tmp_path / "checkpoints"
    monkeypatch.setattr(checkpoint, "RUNS", runs)
    for name in [name for name in dir(checkpoint) if name.startswith("SHIPPED")]:
        monkeypatch.setattr(checkpoint, name, runs / getattr(checkpoint, name).name)
    return runs


@pytest.fixture
def tamil_data(tmp_path, monkeypatch):
    """A data folder with a small data/tamil.txt and a Wikipedia of three articles."""
    folder = tmp_path / "data"
    folder.mkdir()
    blocks = {"kural": SOURCES["kural"], "natrinai": SOURCES["sangam"][:30], "purananuru": SOURCES["sangam"][30:]}
    text = "\n\n".join(f"# {name}\n" + "\n\n".join(poems) for name, poems in blocks.items())
    (folder / "tamil.txt").write_text(text + "\n", encoding="utf-8")
    articles = [f"{poem} 2026" for poem in poems(60, (5, 5, 5), seed=2)]
    (folder / "tamil_wikipedia.txt").write_text("# wikipedia\n" + "\n\n".join(articles) + "\n", encoding="utf-8")
    monkeypatch.setattr(tamil_dataset, "FILE", folder / "tamil.txt")
    monkeypatch.setattr(tamil_dataset, "WIKIPEDIA", folder / "tamil_wikipedia.txt")
    return folder


@pytest.fixture(scope="session")
def book(tmp_path_factory):
    return Book(tmp_path_factory.mktemp("copy") / "book")
