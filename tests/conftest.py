"""Fixtures that all tests share: a tiny model, a folder of runs, and a copy of the book."""

import signal
from types import SimpleNamespace

from helpers import Book, make_model
from plumbing import checkpoint, files, hub, text

import pytest
import torch

torch.set_num_threads(1)  # the models of the tests are too small to share, and two threads add in another order


@pytest.fixture(autouse=True)
def as_it_was():
    """Check that a test restores the Ctrl-C handler, the precision, the arithmetic and the number of threads."""
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
    tokenizer = text.Characters("\n abcdeé")
    model = make_model(tokenizer.vocab_size)
    return SimpleNamespace(tokenizer=tokenizer, config=model.config, model=model)


@pytest.fixture
def runs_folder(tmp_path, monkeypatch):
    """An empty folder for runs, so that no test finds a trained or a shipped model."""
    runs = tmp_path / "checkpoints"
    for module in (files, checkpoint, hub):
        monkeypatch.setattr(module, "RUNS", runs)
    return runs


@pytest.fixture(scope="session")
def book(tmp_path_factory):
    return Book(tmp_path_factory.mktemp("copy") / "book")
