"""A run's folder: its state, its log, where its numbers come from."""

import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import torch

from plumbing import cli, files


def save_state(folder, state):
    """Write what resuming needs (tensors and plain values) to train_state.pt."""
    with files.whole_file(Path(folder) / "train_state.pt") as path:
        torch.save(state, path)


def load_state(folder, parts=()):
    """train_state.pt as a dict with the dicts `parts`, or None if there is none. Nothing in it is executed;
    UserError if it is damaged."""
    path = Path(folder) / "train_state.pt"
    if not path.is_file():
        return None
    try:
        with torch.sparse.check_sparse_tensor_invariants():
            state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not all(isinstance(state.get(part), dict) for part in parts):
            raise ValueError("not the state of a run")
        return state
    except OSError:
        raise  # not the file's fault
    except Exception as error:  # whatever a parser meets in damaged bytes
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise cli.UserError(f"{path} is damaged ({reason}); delete it to start this run again") from None


def read_log(path):
    """The records of a log.jsonl, oldest first; a last line cut off by a kill is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def truncate_log(path, step):
    """Drop the records that a killed run wrote after the checkpoint it resumes from."""
    kept = [json.dumps(record) + "\n" for record in read_log(path) if record["step"] <= step]
    with files.whole_file(path) as partial:
        partial.write_text("".join(kept), encoding="utf-8")


def provenance():
    """Where and from what a number comes: command, commit, machine. Kept beside every trained model."""
    git = ["git", "-C", str(files.ROOT), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        commit = None
    if torch.cuda.is_available():
        machine = torch.cuda.get_device_name()
    else:
        name = getattr(torch.cpu, "get_capabilities", dict)().get("cpu_name") or platform.processor() or "CPU"
        machine = f"{name}, {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    command = " ".join(["python", Path(sys.argv[0]).name, *map(shlex.quote, sys.argv[1:])])
    return {"command": command, "commit": commit, "machine": machine, "torch": torch.__version__}
