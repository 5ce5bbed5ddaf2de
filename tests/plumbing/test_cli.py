"""cli.py: how whole programs end. Exit codes, one line on stderr, closed pipes, poor terminals, silent imports."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT, python

from plumbing import files


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
        ("raise OSError(27, 'File too large')", 2, r"error: [^\n]*ulimit -f[^\n]*\n"),
        ("raise MemoryError", 2, r"error: out of memory: lower --batch-size[^\n]*\n"),
        ("raise RuntimeError('[enforce fail] DefaultCPUAllocator: no memory')", 2, r"error: out of memory: [^\n]*\n"),
        ("raise RuntimeError('MPS backend out of memory (9 GB)')", 2, r"error: out of GPU memory: [^\n]*\n"),
        ("raise type('E', (Exception,), {'__module__': 'torch._inductor.exc'})('no C++')", 2,
         r"error: [^\n]*\(no C\+\+\): use --compile off\n"),
        ("open('x' * 300)", 2, r"error: cannot use x+…: File name too long\n"),
        ("open('README.md/x')", 2, r"error: cannot use README.md/x: Not a directory\n"),
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


SHELL = """import os, sys
os.execv('/bin/sh', ['sh', '-c', 'exec "$0" "$@" ' + sys.argv[1], sys.executable, '-c', sys.argv[2]])
"""


@pytest.mark.skipif(os.name == "nt", reason="needs a shell of Unix")
@pytest.mark.parametrize("closing, body, code", [
    (">&-", "print('x')", 0), ("2>&-", "print('x'); print('y', file=sys.stderr)", 0),
    (">&- 2>&-", "print('x'); print('y', file=sys.stderr)", 0), (">&-", "raise cli.UserError('wrong')", 2),
    (">&- 2>&-", "raise cli.UserError('wrong')", 2), (">/dev/full", "print('x')", 2), ("2>/dev/full", "print('x')", 0),
    (">/dev/full", "raise cli.UserError('wrong')", 2), (">/dev/full 2>&1", "raise cli.UserError('wrong')", 2),
])  # fmt: skip
def test_closed_and_full_streams(closing, body, code):
    if "/dev/full" in closing and not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    text = f"import sys\nfrom plumbing import cli\ndef main():\n    {body}\ncli.run(main)"
    done = python("-c", SHELL, closing, text)
    assert done.code == code and "Traceback" not in done.err and "Exception ignored" not in done.err
    if code and "2>" not in closing:
        assert done.err.startswith("error: ") and done.err.count("\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has words of Unicode")
def test_a_word_that_is_not_utf8_is_refused_at_the_start():
    code = "from plumbing import cli; cli.run(lambda: print('started'))"
    done = subprocess.run([sys.executable, "-c", code, b"--run", b"caf\xe9"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(r"error: caf\udce9 is not UTF-8") and done.stderr.count("\n") == 1


def test_a_terminal_without_the_mask_character_does_not_end_the_program():
    code = "from plumbing import cli, tokenizers; cli.run(lambda: print('a' + tokenizers.MASK_CHAR))"
    done = python("-c", code, PYTHONIOENCODING="ascii")
    assert (done.code, done.out.strip()) == (0, "a?")


def test_import_is_silent_and_without_torch():
    code = "import sys; from plumbing import corpora, download; sys.exit('torch' in sys.modules)"
    done = python("-c", code)
    assert (done.code, done.out, done.err) == (0, "", "")


# A launcher that was killed

LAUNCHER = """
import subprocess, sys, time
process = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
process.stdout.readline()
print(process.pid, flush=True)
time.sleep(60)
"""
CHILD = """
import signal, time
from plumbing import cli
{handler}
cli.end_with_parent(pause=0.05, patience=0.3)
print("ready", flush=True)
{work}
open({file!r}, "w").write("stopped")
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows does not tell that the parent is gone")
@pytest.mark.parametrize("handler, work, stopped", [
    ("", "time.sleep(60)", False),  # before training, SIGTERM ends it
    ("end = []; signal.signal(signal.SIGTERM, lambda *_: end.append(1))",
     "while not end: time.sleep(0.01)", True),  # while it trains, it notes the request and saves
    ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", "time.sleep(60)", False),  # stuck
])  # fmt: skip
def test_a_process_ends_after_its_parent(tmp_path, handler, work, stopped):
    file = tmp_path / "stopped"
    child = CHILD.format(handler=handler, work=work, file=str(file))
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, child], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    process = int(launcher.stdout.readline())
    assert files.is_running(process)
    launcher.kill()
    launcher.communicate()
    end = time.monotonic() + 30
    while is_alive(process):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert file.exists() == stopped


def is_alive(process):
    """Whether a process runs, and is not only remembered because nobody has asked for its exit code."""
    try:
        status = (Path("/proc") / str(process) / "stat").read_text()
        return status.rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return Path("/proc").is_dir() is False and files.is_running(process)
