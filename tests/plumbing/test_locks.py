"""locks.py: one process per run, and no run that stays locked."""

import json
import os
import re
import shutil

import pytest
from helpers import refusal, start

from plumbing import cli, locks

HOLDER = """
import sys, time
from plumbing import locks
lock = locks.Lock(sys.argv[1])
print("ready", flush=True)
time.sleep(60)
"""


def test_the_second_process_is_told_who_holds_the_run(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    with start("-c", HOLDER, folder) as process:
        assert process.stdout.readline() == "ready\n"
        line = refusal(locks.Lock, folder)
        assert re.search(rf"mine is in use by process {process.pid} since \d{{4}}-\d\d-\d\d [\d:]+: python -c ", line)
        assert "--run NEW_NAME" in line and "--fresh" not in line
        locks.Lock(tmp_path / "other").release()
        assert list(folder.iterdir()) == []  # so that no copy of the folder holds the lock
        process.kill()
    lock = locks.Lock(folder)  # the killed process left its file, but not its hold
    assert json.loads(lock.path.read_text())["pid"] == os.getpid()
    lock.release()
    lock.release()
    assert os.listdir(tmp_path) == ["mine"]


def test_a_hold_ends_with_its_object_and_a_copy_is_free(tmp_path):
    (tmp_path / "a").mkdir()
    lock = locks.Lock(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    locks.Lock(tmp_path / "b").release()
    with pytest.raises(cli.UserError, match=f"process {os.getpid()} "):
        locks.Lock(tmp_path / "a")
    del lock
    locks.Lock(tmp_path / "a").release()


@pytest.mark.parametrize("text", [b"", b"null", b"[]", b"\xff", b'{"pid": "\\u001b[2J\\n"}', b"[" * 9000,
                                  b'{"pid": 1, "since": "\\u001b[2J", "command": "\\r\\u202e"}'])
def test_a_forged_description_is_harmless(tmp_path, text):
    lock = locks.Lock(tmp_path / "a")
    lock.path.write_bytes(text)
    line = refusal(locks.Lock, tmp_path / "a")
    assert "in use by" in line and line.isprintable()


@pytest.mark.skipif(os.name == "nt", reason="Windows deletes no open file")
def test_a_file_that_was_deleted_meanwhile_is_no_lock(tmp_path, monkeypatch):
    """Process B opens the file, then A releases and deletes it, and C makes a new one: B must not hold the old one."""
    first, real = locks.Lock(tmp_path / "a"), locks.hold
    others = []

    def hold(file):
        if not others:
            first.release()
            others.append(None)
            others.append(locks.Lock(tmp_path / "a"))
        return real(file)

    monkeypatch.setattr(locks, "hold", hold)
    assert "in use" in refusal(locks.Lock, tmp_path / "a")
    others[1].release()


def test_without_locks_a_run_still_starts(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    if locks.fcntl is None:
        pytest.skip("not with the locks of Windows")
    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    locks.Lock(tmp_path / "a").release()
