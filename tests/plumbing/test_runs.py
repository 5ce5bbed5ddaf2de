"""runs.py: names of runs, disks without room, and what a run gives back at its end."""

import errno
import os
import signal
import subprocess
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from helpers import ROOT, Killed, python, refusal, write_settings

from plumbing import checkpoint, cli, devices, runs

CONFIG = SimpleNamespace(steps=9, minutes=0, evaluate_every=3, seed=1)


# Names


@pytest.mark.parametrize("name", ["", " ", ".", "..", ".hidden", "a/b", "../a", "/a", "a\\b", "a:b", "a\nb", "a\x1b[2J",
                                  "a\u202eb", "caf\udce9", "x" * 201, "ல" * 67, "file"])
def test_names_that_no_folder_can_have(runs_folder, name):
    runs_folder.mkdir()
    (runs_folder / "file").touch()
    line = refusal(runs.folder_of, name, "dllm", "corpus", "laptop")
    assert "--run" in line and len(line) < 400
    assert os.listdir(runs_folder) == ["file"]


def test_usual_names(runs_folder):
    assert runs.folder_of(None, "dllm", "verse", "configs/laptop.yaml") == runs_folder / "dllm-verse-laptop"
    assert runs.folder_of(None, "gpt", "verse", "gpt-laptop") == runs_folder / "gpt-verse-laptop"
    for name in ("mine", "my run 2", "குறள்", "x" * 200, "v1.5", "a-b_c"):
        assert runs.folder_of(name, "dllm", "verse", "laptop") == runs_folder / name
    assert "--run" in refusal(runs.folder_of, None, "dllm", "caf\udce9", "laptop")  # from the name of the corpus
    assert not runs_folder.exists()


# What a run holds


def test_a_run_gives_everything_back_also_after_an_error(tmp_path, tiny, capsys):
    trainer = SimpleNamespace(step=0)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(Killed), runs.Run(tmp_path / "a", {}, CONFIG, tiny.tokenizer, {}) as run:
        run.begin(trainer)
        assert signal.getsignal(signal.SIGINT) == run.interrupt
        assert torch.tensor(1e-39).mul(1.0) == 0  # training counts tiny numbers as 0, because CPUs are slow with them
        assert "in use" in refusal(runs.Run, tmp_path / "a", {}, CONFIG, tiny.tokenizer, {}, fresh=True)
        raise Killed
    assert signal.getsignal(signal.SIGINT) == handler and torch.tensor(1e-39).mul(1.0) > 0
    assert capsys.readouterr().err.endswith("\n")  # the next line is not glued to the progress bar
    with runs.Run(tmp_path / "a", {}, CONFIG, tiny.tokenizer, {}):
        pass
    assert sorted(os.listdir(tmp_path)) == ["a"]


def test_a_refused_run_is_not_locked(tmp_path, tiny):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "train_state.pt").write_bytes(b"damaged")
    for _ in range(2):
        assert "damaged" in refusal(runs.Run, tmp_path / "a", {}, CONFIG, tiny.tokenizer, {})
    assert os.listdir(tmp_path) == ["a"]


def test_a_second_run_with_fresh_deletes_nothing(tmp_path, tiny):
    with runs.Run(tmp_path / "a", {}, CONFIG, tiny.tokenizer, {}):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / "log.jsonl").write_text("")
        runs.save_state(tmp_path / "a", {"progress": {"step": 3}})
        assert "in use" in refusal(runs.Run, tmp_path / "a", {}, CONFIG, tiny.tokenizer, {}, fresh=True)
        assert sorted(os.listdir(tmp_path / "a")) == ["log.jsonl", "train_state.pt"]


# Sizes


def test_a_batch_that_fits_into_no_memory_is_refused(monkeypatch, tiny):
    device = torch.device("cpu")
    devices.check_memory(device, 64, tiny.config)
    line = refusal(devices.check_memory, device, 10**12, tiny.config)
    assert "--batch-size" in line and "--accumulate" in line
    monkeypatch.setattr(os, "sysconf", lambda _: (_ for _ in ()).throw(ValueError), raising=False)
    devices.check_memory(device, 10**12, tiny.config)  # on a system that does not tell how much it has


# Disks without room

LIMITED = """
import resource, sys
from importlib import import_module
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from plumbing import checkpoint, cli
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
checkpoint.RUNS = Path(sys.argv[3])
cli.run(lambda: import_module("05_train").main(sys.argv[4:]))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit of this kind")
def test_a_file_that_may_not_become_so_large(runs_folder, tmp_path):
    """The limit is set for real; Python ignores the signal, so that writing fails. train_state.pt is the largest."""
    text = tmp_path / "verse.txt"
    text.write_text("the quick brown fox jumps over the lazy dog.\n" * 100)
    config = write_settings(tmp_path / "tiny.yaml", steps=10, n_embd=64)
    command = ["--corpus", str(text), "--config", str(config), "--device", "cpu", "--run", "mine"]
    train, folder = import_module("05_train"), runs_folder / "mine"
    train.main(command)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    limit = len(before["train_state.pt"]) - 1000
    done = python("-c", LIMITED, ROOT, limit, runs_folder, *command, "--steps", "20")
    assert done.code == 2 and "Traceback" not in done.err
    assert done.err.splitlines()[-1].startswith("error: a file would become larger") and "ulimit -f" in done.err
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after.keys() == before.keys() and os.listdir(runs_folder) == ["mine"]
    assert after["train_state.pt"] == before["train_state.pt"]
    assert checkpoint.load(folder)[2]["step"] == 20  # its smaller file was written before
    train.main([*command, "--steps", "20"])
    assert runs.load_state(folder)["progress"]["step"] == 20
    assert [record["step"] for record in runs.read_log(folder / "log.jsonl")] == [10, 20]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit of this kind")
@pytest.mark.parametrize("save", [
    lambda folder, tiny: runs.save_state(folder, {"progress": {"step": 2}, "x": torch.zeros(9000)}),
    lambda folder, tiny: checkpoint.save(folder, tiny.model, tiny.tokenizer, {"step": 2}),
])  # fmt: skip
def test_every_writer_says_so_and_leaves_the_old_files(tmp_path, tiny, capsys, save):
    import resource

    runs.save_state(tmp_path, {"progress": {"step": 1}})
    checkpoint.save(tmp_path, tiny.model, tiny.tokenizer, {"step": 1})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(SystemExit) as end:
            cli.run(lambda: save(tmp_path, tiny))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert end.value.code == 2 and "ulimit -f" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 200 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("only an administrator may mount a disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_one_line_and_old_files_stay(small_disk, tiny, capsys):
    folder, large = small_disk / "a", {"progress": {"step": 2}, "x": torch.zeros(100_000)}
    checkpoint.save(folder, tiny.model, tiny.tokenizer, {"step": 1})
    runs.save_state(folder, {"progress": {"step": 1}})
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    tiny.model.head.weight.data = torch.zeros(50_000)
    for save in (lambda: runs.save_state(folder, large),
                 lambda: checkpoint.save(folder, tiny.model, tiny.tokenizer, {"step": 2})):
        with pytest.raises(SystemExit) as end:
            cli.run(save)
        assert end.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("error: the disk is full") and error.count("\n") == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_is_seen_behind_another_error(code):
    """PyTorch raises an error of its own while it handles that of the system; Rust quotes the number."""
    try:
        try:
            raise OSError(code, "no room")
        except OSError:
            raise RuntimeError("unexpected pos") from None
    except RuntimeError as error:
        assert "run the same command again" in cli.no_room(error)
    assert cli.no_room(ValueError(f"I/O error: no room (os error {code})"))
    assert cli.no_room(ValueError("os error 28")) is cli.no_room(OSError(errno.EIO, "broken")) is None
