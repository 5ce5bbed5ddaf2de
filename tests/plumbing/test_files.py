"""files.py: files and folders that are whole or absent, their permissions, and what killed programs leave behind."""

import os
import signal
import subprocess
import sys
import time

import pytest
import safetensors.torch
import torch
from helpers import Killed, start

from plumbing import files

WRITER = """
import sys, time
from pathlib import Path
from plumbing import files
with files.whole_file(Path(sys.argv[1]) / "a.txt") as one, files.whole_folder(Path(sys.argv[1]) / "b") as two:
    one.write_text("half")
    (two / "c.txt").write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def ended():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_file_has_the_permissions_of_a_new_file(tmp_path, umask):
    """safetensors itself lets nobody but the owner read its files."""
    before = os.umask(umask)
    try:
        with files.whole_file(tmp_path / "a") as path:
            safetensors.torch.save_file({"x": torch.zeros(2)}, path)
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot tell whether a process runs")
def test_the_remains_of_a_killed_program_are_removed_and_those_of_a_living_one_stay(tmp_path):
    def parts():
        return sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".part")

    with start("-c", WRITER, tmp_path) as process:
        assert process.stdout.readline() == "ready\n"
        assert len(parts()) == 2
        with files.whole_file(tmp_path / "d.txt"):
            assert len(parts()) == 3
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(parts()) == 2
    with files.whole_file(tmp_path / "d.txt"):
        pass
    assert parts() == [] and [path.name for path in tmp_path.iterdir()] == ["d.txt"]


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot tell whether a process runs")
def test_only_our_own_remains_are_removed(tmp_path, ended):
    ours = f".a.{files.this_machine()}-{ended}.part"
    other_machine = f".a.{int(files.this_machine(), 16) ^ 1:08x}-{ended}.part"
    foreign = [other_machine, "a.part", f"a.{files.this_machine()}-{ended}.part", ".a.part", f".a.{ended}.part",
               f".b.{files.this_machine()}-1.part"]
    for name in (ours, *foreign):
        (tmp_path / name).touch()
    files.remove_orphans(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(foreign)
    assert files.is_running(os.getpid()) and not files.is_running(ended) and not files.is_running(10**30)


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(Killed), files.whole_folder(tmp_path / "deep" / "a") as folder:
        (folder / "x").touch()
        raise Killed
    assert list((tmp_path / "deep").iterdir()) == []
    with files.whole_folder(tmp_path / "deep" / "a") as folder:
        (folder / "x").touch()
        assert not (tmp_path / "deep" / "a").exists()
    assert [path.name for path in (tmp_path / "deep").rglob("*")] == ["a", "x"]


def test_a_file_of_an_hour_ago_is_replaced(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    os.utime(path, (time.time() - 3600,) * 2)
    with pytest.raises(Killed), files.whole_file(path) as partial:
        partial.write_text("new")
        raise Killed
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a"]
    with files.whole_file(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["a"]
