"""What all tests share: the repository on sys.path, a tiny model, and copies of the book to run elsewhere."""

import os
import shutil
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
torch.set_num_threads(1)  # the models of the tests are too small to share, and two threads add in another order


@pytest.fixture(autouse=True)
def as_it_was():
    """A test may leave behind neither a Ctrl-C handler nor another precision."""
    handler, precision = signal.getsignal(signal.SIGINT), torch.get_float32_matmul_precision()
    yield
    signal.signal(signal.SIGINT, handler)
    torch.set_float32_matmul_precision(precision)


@pytest.fixture
def tiny():
    """A tokenizer of 8 characters and an untrained model of about 4,000 parameters."""
    from plumbing import tokenizers

    transformer = import_module("03_transformer")
    tokenizer = tokenizers.CharTokenizer("\n abcdeé")
    config = transformer.TransformerConfig(tokenizer.vocab_size, 16, n_layer=1, n_head=2, n_embd=16)
    torch.manual_seed(0)
    return SimpleNamespace(tokenizer=tokenizer, config=config, model=transformer.Transformer(config).eval())


class Unigram(torch.nn.Module):
    """A model that knows the frequencies of the tokens and nothing else. Its exact likelihood is known."""

    def __init__(self, config, frequencies):
        super().__init__()
        self.config, self.logits = config, frequencies.log()

    def forward(self, tokens, t=None):
        return self.logits.expand(*tokens.shape, -1)  # (B, T, V)


class Book:
    """A copy of the book: its programs look for data/, configs/ and checkpoints/ beside themselves."""

    def __init__(self, folder):
        self.folder, self.runs = folder, folder / "checkpoints"
        folder.mkdir()
        for path in ROOT.glob("*.py"):
            shutil.copy(path, folder)
        for name in ("configs", "plumbing"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))

    def start(self, *command):
        """`python command` in the copy, with pipes for its output."""
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8", "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.Popen([sys.executable, *map(str, command)], cwd=self.folder, env=environment, text=True,
                                encoding="utf-8", stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip

    def run(self, *command):
        """`python command` to its end: exit code, output, errors."""
        with self.start(*command) as process:
            out, err = process.communicate(timeout=600)
        return SimpleNamespace(code=process.returncode, out=out, err=err)


@pytest.fixture(scope="session")
def book(tmp_path_factory):
    return Book(tmp_path_factory.mktemp("copy") / "book")
