"""Attack 3: a run whose saved state, log or config is damaged or forged, and that somebody resumes."""

import json
import pickle
import shutil

import torch
from fixtures import command
from forging import DEEP, DIGITS, TEXTS, VALUES, Trap, damage, forge, to_json
from outcomes import result

# A pickle cannot hold the markers of JSON, and its names and values may be of any kind.
PLAIN = [value for value in VALUES if value not in (DEEP, DIGITS)] + [10**5000, b"bytes", (1, 2), {1: 2}, 1j]


def attack(arena, draw):
    """Change one file of a run, and resume the run."""
    way = draw.choice(
        (
            state_bytes,
            state_bytes,
            state_bytes,
            state_value,
            state_value,
            state_value,
            state_tensor,
            state_trap,
            log,
            log,
            config,
            shards,
            shards,
        )
    )
    return way(arena, draw)


def resume(arena, name, label):
    program, *argv = command(name, "--steps", 8)
    return result(f"{program}: {label}", arena.run(program, *argv))


def victim(draw):
    return draw.choice(("dllm", "dllm", "dllm", "dllm", "gpt", "gpt", "gpt", "scale"))


def state_bytes(arena, draw):
    name = victim(draw)
    path = arena.runs / name / "train_state.pt"
    label, data = damage(path.read_bytes(), draw)
    path.write_bytes(data)
    return resume(arena, name, f"train_state.pt: {label}")


def load(path):
    return torch.load(path, weights_only=True)


def state_value(arena, draw):
    name = victim(draw)
    path = arena.runs / name / "train_state.pt"
    state = load(path)
    part = draw.choice(("progress", "progress", "settings", *state))
    if draw.random() < 0.1:
        label, state = forge(state, draw, PLAIN)
    else:
        label, state[part] = forge(state[part], draw, PLAIN)
    torch.save(state, path)
    return resume(arena, name, f"state: {part}: {label}")


def state_tensor(arena, draw):
    """One tensor of another shape, kind or layout."""
    name = draw.choice(("dllm", "gpt"))
    path = arena.runs / name / "train_state.pt"
    state = load(path)
    tensors = draw.choice(
        (
            state["model"],
            state["averaged"],
            *(values for optimizer in state["optimizers"] for values in optimizer["state"].values()),
        )
    )
    key = draw.choice(list(tensors))
    old = torch.as_tensor(tensors[key])
    tensors[key] = draw.choice(
        (
            lambda: torch.zeros(1).expand(10**6, 10**6),
            lambda: old.to_sparse(),
            lambda: old.to(torch.complex64),
            lambda: old.double(),
            lambda: old.flatten()[:1],
            lambda: torch.zeros(0),
            lambda: old * float("nan"),
            lambda: old * 1e38,
            lambda: None,
            lambda: 3,
            lambda: [1.0],
            lambda: old[None],
        )
    )()
    torch.save(state, path)
    return resume(arena, name, f"state: tensor {key}: {str(type(tensors[key]))[8:-2]}")


def state_trap(arena, draw):
    name = victim(draw)
    path = arena.runs / name / "train_state.pt"
    way = draw.choice(("alone", "inside", "raw", "old"))
    if way == "raw":
        path.write_bytes(pickle.dumps(Trap(draw)))
    else:
        state = {} if way == "alone" else load(path)
        state["settings"] = Trap(draw)
        torch.save(state, path, _use_new_zipfile_serialization=way != "old")
    return resume(arena, name, f"state: trap {way}")


def log(arena, draw):
    """A log with foreign lines."""
    name = victim(draw)
    path = arena.runs / name / "log.jsonl"
    lines = path.read_text().splitlines()
    if draw.random() < 0.3:
        label, data = damage(path.read_bytes(), draw)
    else:
        place = draw.randrange(len(lines))
        label, record = forge(json.loads(lines[place]), draw)
        lines[place] = draw.choice(("null", "[]", "3", '"text"', "{}", "{", "\ud800", *[to_json(record)] * 5))
        label, data = f"line {place}: {label}", "\n".join(lines + [""]).encode("utf-8", "surrogatepass")
    path.write_bytes(data)
    return resume(arena, name, f"log.jsonl: {label}")


def config(arena, draw):
    """Another config.json beside the state, or none of one of the files."""
    name = victim(draw)
    folder = arena.runs / name
    if draw.random() < 0.2:
        gone = draw.choice(("config.json", "model.safetensors", "log.jsonl"))
        (folder / gone).unlink()
        return resume(arena, name, f"without {gone}")
    label, values = forge(json.loads((folder / "config.json").read_text()), draw)
    (folder / "config.json").write_text(to_json(values), errors="surrogatepass")
    return resume(arena, name, f"config.json: {label}")


def shards(arena, draw):
    """The folder of tensors of chapter 12, one file of which is damaged, missing, or a pickle that executes code."""
    (folder,) = (arena.runs / "scale").glob("state-*")
    path = draw.choice(sorted(path for path in folder.iterdir() if path.is_file()))
    way = draw.choice(("damage", "damage", "trap", "missing", "moved", "link"))
    label = way
    if way == "damage":
        label, data = damage(path.read_bytes(), draw)
        path.write_bytes(data)
    elif way == "trap":
        path.write_bytes(pickle.dumps(Trap(draw)))
    elif way == "missing":
        path.unlink()
    elif way == "link":
        path.unlink()
        path.symlink_to("/dev/zero")
    else:  # the state names a folder of the stranger's choice
        state = load(arena.runs / "scale" / "train_state.pt")
        state["progress"]["tensors"] = draw.choice(("../dllm", "/", "attack", "", *TEXTS[:7]))
        shutil.copytree(folder, arena.folder / "attack")
        (arena.folder / "attack" / ".metadata").write_bytes(pickle.dumps(Trap(draw)))
        torch.save(state, arena.runs / "scale" / "train_state.pt")
    return resume(arena, "scale", f"{path.name}: {label}")
