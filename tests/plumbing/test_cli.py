"""cli.py: how whole programs end. Exit codes, one line on stderr, closed pipes, poor terminals, silent imports."""

import os
import re
import subprocess
import sys

import pytest
from helpers import ROOT, python


def program(body):
    return python("-c", f"from plumbing import cli\ndef main():\n    {body}\ncli.run(main)")


@pytest.mark.parametrize(
    "body, code, stderr",
    [
        ("print('fine')", 0, r""),
        ("raise cli.UserError('no such thing')", 2, r"error: no such thing\n"),
        ("raise KeyboardInterrupt", 130, r"interrupted\n"),
        ("raise OSError(28, 'No space left on device')", 2, r"error: [^\n]*disk is full[^\n]*\n"),
        ("raise PermissionError(13, 'Permission denied', 'a.txt')", 2, r"error: [^\n]*a\.txt[^\n]*\n"),
        ("raise type('OutOfMemoryError', (RuntimeError,), {})('CUDA')", 2, r"error: .*--batch-size.*--accumulate.*\n"),
        ("raise SystemExit(5)", 5, r""),
        ("raise ValueError('a bug')", 1, r"(?s)Traceback.*ValueError: a bug\n"),
        ("raise FileNotFoundError(2, 'a bug too')", 1, r"(?s)Traceback.*a bug too\n"),
    ],
)
def test_exit_codes(body, code, stderr):
    done = program(body)
    assert done.code == code
    assert re.fullmatch(stderr, done.err)


@pytest.mark.parametrize("lines", [1, 100_000])
def test_closed_pipe_is_quiet(lines):
    code = f"from plumbing import cli; cli.run(lambda: [print('line') for _ in range({lines})])"
    reader, writer = os.pipe()
    os.close(reader)  # before the program starts, so that the pipe is closed whatever its speed
    env = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}  # one line waits in the buffer
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, stdout=writer, stderr=subprocess.PIPE, timeout=60
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_terminal_without_the_mask_character_does_not_end_the_program():
    code = "from plumbing import cli, tokenizers; cli.run(lambda: print('a' + tokenizers.MASK_CHAR))"
    done = python("-c", code, PYTHONIOENCODING="ascii")
    assert (done.code, done.out.strip()) == (0, "a?")


def test_import_is_silent_and_without_torch():
    code = "import sys; from plumbing import corpora, download; sys.exit('torch' in sys.modules)"
    done = python("-c", code)
    assert (done.code, done.out, done.err) == (0, "", "")
