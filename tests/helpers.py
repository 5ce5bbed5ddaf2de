"""Helpers for several test files: processes, small models, random numbers, logs, error messages, bad files."""

import contextlib
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

from plumbing import cli

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]

transformer = import_module("03_transformer")


# 1. Programs in processes of their own


def start(*command, cwd=ROOT, stdin=None, stderr=subprocess.PIPE, **environment):
    """Start `python command` as a process with one thread, and with pipes for its output. Small models need no more."""
    usual = {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8", "MPLBACKEND": "Agg"}
    return subprocess.Popen([sys.executable, *map(str, command)], cwd=cwd, env=os.environ | usual | environment,
                            encoding="utf-8", stdin=stdin, stdout=subprocess.PIPE, stderr=stderr)  # fmt: skip


def python(*command, cwd=ROOT, timeout=600, **environment):
    """Run `python command`, and return its exit code, output and errors. `environment` has more variables."""
    with start(*command, cwd=cwd, **environment) as process:
        out, err = process.communicate(timeout=timeout)
    return SimpleNamespace(code=process.returncode, out=out, err=err)


class Book:
    """A copy of the book. Its programs look for data/, configs/ and checkpoints/ in the copy."""

    def __init__(self, folder):
        self.folder, self.runs = folder, folder / "checkpoints"
        folder.mkdir()
        for path in ROOT.glob("*.py"):
            shutil.copy(path, folder)
        for name in ("configs", "plumbing", "tamil", "experiments"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))

    def start(self, *command):
        return start(*command, cwd=self.folder)

    def run(self, *command):
        return python(*command, cwd=self.folder)


# 2. Models, random numbers and texts


def make_model(vocab_size, seq_len=16, std=0.0, seed=0, **shape):
    """Return an untrained Transformer with one small layer, in evaluation mode.

    `std` is the standard deviation of all weights. The default 0 keeps the usual weights of an untrained model. Then
    each block is the identity, and the prediction is almost uniform, which can hide mistakes.
    """
    torch.manual_seed(seed)
    shape = {"vocab_size": vocab_size, "seq_len": seq_len, "n_layer": 1, "n_head": 2, "n_embd": 16} | shape
    config = transformer.TransformerConfig(**shape)
    model = transformer.Transformer(config).eval()
    for parameter in model.parameters() if std else ():
        torch.nn.init.normal_(parameter, std=std)
    return model


LETTERS = "\n abcdefgh."  # all characters of made_up_text()


def made_up_text():
    """Return a text of 4,000 characters with 60 invented words. Every call returns the same text."""
    draw = random.Random(0)
    words = ["".join(draw.choices(LETTERS[2:10], k=draw.randint(1, 6))) for _ in range(60)]
    return "".join(draw.choice(words) + draw.choice((" ", " ", " ", ".\n")) for _ in range(1200))[:4000]


class Unigram(torch.nn.Module):
    """A model that knows only the frequencies of the tokens. Its exact likelihood is known."""

    def __init__(self, config, frequencies):
        super().__init__()
        self.config, self.logits = config, frequencies.log()

    def forward(self, tokens, t=None):
        return self.logits.expand(*tokens.shape, -1)  # (B, T, V)


# 3. Runs


def write_settings(path, **changes):
    """Write a settings file for a training of about a second."""
    values = {"n_layer": 1, "n_head": 2, "n_embd": 16, "seq_len": 16, "batch_size": 4, "steps": 60, "minutes": 0,
              "evaluations": 6, "evaluate_windows": 8, "warmup": 5, "dtype": "float32", "compile": "off"}
    path.write_text("".join(f"{name}: {json.dumps(value)}\n" for name, value in (values | changes).items()))
    return path


def log_of(folder):
    """Return the records of a run's log, without their times."""
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


class Killed(Exception):
    """An exception with which a test ends a run."""


# 4. Mistakes and hostile files


def refusal(call, *arguments, **named):
    """Return the message that a program prints about a user's mistake before it ends with exit code 2.

    The message is the line of a UserError, or the box that tyro prints.
    """
    error = io.StringIO()
    with contextlib.redirect_stderr(error), pytest.raises((SystemExit, cli.UserError)) as end:
        call(*arguments, **named)
    if end.type is SystemExit:
        assert end.value.code == 2 and error.getvalue().strip() and "Traceback" not in error.getvalue()
        return error.getvalue()
    line = str(end.value)
    assert line and "\n" not in line
    return error.getvalue() + line


HOSTILE = "a\x1b[2J\x07\b\r\u202eb"  # characters that a terminal obeys, between two letters
ESCAPED = r"a\x1b[2J\x07\x08\r\u202eb"  # how the program should show HOSTILE
# Characters that a terminal obeys: line breaks, ESC and other control characters, and marks that reorder a line.
COMMANDS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class Trap:
    """A harmful object: loading it with pickle makes a folder. It could run any other command instead."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)
