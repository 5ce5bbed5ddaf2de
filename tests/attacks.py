"""A table of attacks on the programs. tests/test_attacks.py tries every row.

An attacker can choose the contents of a file, the answers of a server, and the words of a command line. The program
must end soon, with exit code 2 and one printable line. It must not execute code of the attacker, show another file,
fill the memory or change a file. Other tests call single functions; these attacks run whole programs.
"""

import bz2
import json
import os
import pickle
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from fault_server import Reply
from helpers import HOSTILE, Trap
from plumbing import checkpoint

import numpy as np
import torch


@dataclass(frozen=True)
class Attack:
    name: str
    command: str  # the program and its words
    path: str = ""  # the file that the program reads
    make: object = None  # the contents of the file: bytes, text, or a function of the path
    address: str = ""  # the variable that holds the address of the server, such as "module.NAME"
    answer: object = None  # the server's answer to every request
    said: str = ""  # a part of the program's message; None: the attack is harmless, and the program does its work


# 1. Files

TINY = "--config tiny.yaml --device cpu"
RESUME = f"05_train --corpus text.txt {TINY} --steps 4 --run run"
READERS = {  # {what is attacked: (the file, the program that reads it)}
    "settings": ("a.yaml", "05_train --corpus text.txt --config a.yaml"),
    "corpus": ("a.txt", f"05_train --corpus a.txt {TINY}"),
    "state": ("checkpoints/run/state.pt", RESUME),
    "run": ("checkpoints/run", RESUME),
    "lock": ("checkpoints/run/.lock", RESUME),
    "runs": ("checkpoints", RESUME),
    "model": ("checkpoints/run/model.safetensors", "06_generate --checkpoint run --len 9 --steps 2 --device cpu"),
    "neighbour": ("checkpoints/run/model.safetensors", "06_generate"),
    "log": ("checkpoints/run/log.jsonl", f"07_train_gpt --corpus text.txt {TINY} --run new"),
    "partial": ("checkpoints/run/.state.pt.part", RESUME),
    "map": ("map.yaml", "15_robot_path smooth --map map.yaml"),
    "image": ("map.pgm", "15_robot_path smooth --map room.yaml"),
    "walls": ("map.pgm", "15_robot_path smooth --map room.yaml --radius 0 --goal 100.5,104.3"),
    "strip": ("map.pgm", "15_robot_path smooth --map room.yaml --radius 100"),
    "puzzles": ("puzzles.txt", "14_sudoku solve puzzles.txt --quiet"),
    "poems": ("data/tamil.txt", f"08_train_tamil --corpus kural {TINY}"),
    "page": ("pages/kuruntokai.html", "tamil_dataset --pages pages --only kuruntokai"),
    "sheet": ("pages/purananuru.xlsx", "tamil_dataset --pages pages --only purananuru"),
    "dump": ("a.xml.bz2", "tamil_wikipedia --dump --file a.xml.bz2"),
}


def sparse(path):
    """Make a file that has a size of 3 GB but takes no space on the disk."""
    with open(path, "wb") as file:
        file.truncate(3 << 30)


OBSTACLES = {  # what can stand in the place of any file
    "a pipe": os.mkfifo,
    "a device without an end": lambda path: path.symlink_to("/dev/zero"),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to a secret": lambda path: path.symlink_to(Path.cwd().parent / "secret.txt"),
    "a folder": Path.mkdir,
    "nothing": b"",
    "any bytes": bytes(range(256)) * 9,
    "3 GB": sparse,
}
# Left out are obstacles that the program is allowed to find there or to replace. "walls" and "strip" are more images.
LEFT_OUT = {"settings": ["nothing"], "run": ["a folder", "nothing", "any bytes"], "runs": ["a folder", "nothing"],
            "lock": ["a pipe", "nothing", "any bytes", "3 GB"], "partial": ["a folder"], "walls": OBSTACLES,
            "strip": OBSTACLES, "poems": ["a link to nowhere", "a link to itself"]}
HARMLESS = "log", "partial"  # with any contents, the program does its work


def change(read, write, kept, edit):
    """Return a function that makes an edited copy of the file `kept` in the same folder."""

    def make(path):
        saved = read(path.with_name(kept))
        write(edit(saved) or saved, path)

    return make


def state(edit):
    """Return a function that makes a state. `edit` changes the dict of a good state, or returns another object."""
    return change(lambda path: torch.load(path, weights_only=True), torch.save, "kept.pt", edit)


def weight(part, value):
    """Return a function that makes a state in which value(w) replaces the first weight w of a part."""

    def edit(saved):
        name, old = next(iter(saved[part].items()))
        saved[part][name] = value(old)

    return state(edit)


def entry(name, value):
    return state(lambda saved: saved.update({name: value}))


def momentum(value):
    """Return a function that makes a state with this value as the momentum of the first matrix."""
    return state(lambda saved: saved["matrices"]["state"][0].update(momentum=value))


def compressed(path):
    """Make a state with compressed parts. Such a file could grow to a thousand times its size in memory."""
    with zipfile.ZipFile(path.with_name("kept.pt")) as kept, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in kept.namelist():
            new.writestr(name, kept.read(name))


def read_header(path):
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    return [data[8 : 8 + length], data[8 + length :]]


def write_header(parts, path):
    path.write_bytes(struct.pack("<Q", len(parts[0])) + parts[0] + parts[1])


def model(section, **values):
    """Return a function that makes a model file and puts these values into one section of its config."""

    def edit(parts):
        header = json.loads(parts[0])
        config = json.loads(header["__metadata__"]["config"])
        config[section] |= values
        header["__metadata__"]["config"] = json.dumps(config)
        parts[0] = json.dumps(header).encode()

    return change(read_header, write_header, "kept.safetensors", edit)


def heavy(path):
    """Make a model with an additional weight of 3 GB, which takes no space on the disk."""
    header, data = read_header(path.with_name("kept.safetensors"))
    weights = json.loads(header)
    weights["more"] = {"dtype": "F32", "shape": [3 << 28], "data_offsets": [len(data), len(data) + (3 << 30)]}
    write_header([json.dumps(weights).encode(), data], path)
    os.truncate(path, path.stat().st_size + (3 << 30))


def trap(save):
    """Return a function that saves a trap. If a program executes the trap, a folder appears."""
    return lambda path: save(Trap(path.with_name("EXECUTED")), path)


def as_pickle(value, path):
    path.write_bytes(pickle.dumps(value))


def bomb(levels=9):
    """Return lines of YAML in which the alias a8 stands for 9 ** 8 values."""
    lines = ["a0: &a0 [x, x]\n"]
    for i in range(1, levels):
        lines.append(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n")
    return "".join(lines)


def map_file(**changes):
    values = {"image": "room.pgm", "resolution": 0.1, "origin": "[0, 0, 0]", "negate": 0, "occupied_thresh": 0.65}
    values |= {"free_thresh": 0.25} | changes
    return "".join(f"{name}: {value}\n" for name, value in values.items())


def png(kind, start=b""):
    """Return a function that makes a PNG file of 9 × 9 pixels. Its chunk of this kind unpacks to 512 MB."""

    def make(path):
        data = b"\x89PNG\r\n\x1a\n"
        head = struct.pack(">IIBBBBB", 9, 9, 8, 0, 0, 0, 0)
        zeros = zlib.compress(bytes(1 << 29), 1)
        for name, body in ((b"IHDR", head), (kind, start + zeros), (b"IEND", b"")):
            data += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        path.write_bytes(data)

    return make


def walls(path):
    """Make a map of 2048 × 2048 cells with a closed room in it."""
    pixels = np.full((2048, 2048), 254, np.uint8)
    pixels[1000:1010, 1000:1010] = 0
    pixels[1004:1006, 1004:1006] = 254
    path.write_bytes(b"P5\n2048 2048\n255\n" + pixels.tobytes())


def spreadsheet(path):
    """Make a spreadsheet that unpacks to 512 MB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("xl/workbook.xml", bytes(1 << 29))


LETTER, OBJECT = "அ", "!!python/object/apply:os.mkdir [EXECUTED]"
BRACKETS, DIGITS = "[" * 900, "9" * 400
UNSOLVABLE = ".....5.8....6.1.43..........1.5........1.6...3.......553.....61........4........."
TAGS = "<![", "<", "&#", "<a ", "<!--", "<table>", "1", " "
CONTENTS = {  # {what is attacked: rows (the attack, what stands there, what the program says)}
    "settings": [
        ("a bomb", bomb(), "alias"), ("an object", f"steps: {OBJECT}", "one value"),
        ("brackets", f"steps: {BRACKETS}", "YAML"), ("digits", f"lr_other: {DIGITS}", "not valid"),
        ("a name that commands", '"a\\e[2J\\r": 1', "not valid"), ("a huge batch", "batch_size: 100000000", "memory"),
        ("many layers", "n_layer: 100000000", "memory"), ("many digits", f"n_layer: {DIGITS}", "memory"),
        ("a base that is a device", "base: /dev/zero", "no settings"), ("a chain", "base: a.yaml", "fewer bases"),
    ],
    "corpus": [("half a letter", LETTER.encode() * 999 + b"\xe0", "UTF-8"), ("a short text", "x" * 999, "999")],
    "state": [
        ("a trap", trap(torch.save), "damaged"), ("a pickle", trap(as_pickle), "damaged"),
        ("a list", state(lambda saved: [saved]), "damaged"), ("no settings", entry("settings", None), "damaged"),
        ("an optimizer", entry("matrices", 3), "damaged"), ("a step", entry("step", HOSTILE), "damaged"),
        ("a number", entry("best", HOSTILE), "damaged"), ("a log", entry("log", 3), "damaged"),
        ("a huge tensor", weight("model", lambda old: torch.zeros(1).expand(10**6, 10**6)), "damaged"),
        ("one number for all", weight("model", lambda old: torch.zeros(1).expand(old.shape)), None),
        ("no memory", weight("averaged", lambda old: old.to("meta")), "damaged"),
        ("a sparse tensor", weight("averaged", lambda old: old.to_sparse()), "damaged"),
        ("another shape", momentum(torch.zeros(3, 3)), "damaged"), ("a word", momentum("x"), "damaged"),
        ("a huge average", momentum(torch.zeros(1, dtype=torch.float64).expand(10**5, 10**5)), "damaged"),
        ("another form", state(lambda saved: saved["others"].update(param_groups=[HOSTILE])), None),
        ("a record", entry("log", [3]), "damaged"), ("no time", entry("seconds", float("nan")), "damaged"),
        ("words in the log", entry("log", [{"step": HOSTILE, "seconds": 1.0, "NELBO": 1.0}]), "damaged"),
        ("an odd setting", state(lambda saved: saved["settings"].update(n_layer=torch.zeros(3))), "damaged"),
        ("compressed", compressed, "damaged"),
        ("no number", weight("averaged", lambda old: old * torch.nan), "not finite"),
    ],
    "model": [
        ("a trap", trap(torch.save), "damaged"), ("a pickle", trap(as_pickle), "damaged"),
        ("brackets", lambda path: write_header([b"[" * 100_000, b""], path), "damaged"),
        ("layers", model("model", n_layer=10**9), "damaged"), ("positions", model("model", seq_len=10**9), "damaged"),
        ("its tokens", model("tokenizer", kind="../../x"), "damaged"), ("its kind", model("info", kind=[]), "damaged"),
        ("its batch", model("info", train={"batch_size": HOSTILE}), "damaged"), ("3 GB more", heavy, "damaged"),
        ("letters that command", model("tokenizer", vocabulary=HOSTILE + "c"), None),
    ],
    "map": [
        ("a bomb", bomb() + map_file(resolution="*a8"), "alias"), ("a date", map_file(resolution="2020-13-45"), ""),
        ("digits", map_file(resolution=DIGITS), "resolution"), ("no number", map_file(resolution="!!int x"), "'x'"),
        ("brackets", map_file(origin=BRACKETS), "YAML"), ("an object", map_file(origin=OBJECT), "three numbers"),
        ("an infinite cell", map_file(resolution=".inf"), "inf"), ("a device", map_file(image="/dev/zero"), "regular"),
        ("a secret", map_file(image="../secret.txt"), "cannot be"), ("commands", map_file(image='"\\e[2J"'), "read"),
    ],
    "image": [
        ("a claim", b"P5\n100000 100000\n255\n", "image"), ("a part", b"P5\n40 40\n255\n" + bytes(99), "truncated"),
        ("many pixels", b"P5\n4096 4096\n255\n" + bytes(1 << 24), "too many"),
        ("a large text", png(b"zTXt", b"a\0\0"), "too large"), ("more pixels than it says", png(b"IDAT"), "outside"),
    ],
    "walls": [("around the goal", walls, "no path")],
    "strip": [("of one row", b"P5\n4000000 1\n255\n" + bytes(4_000_000), "outside")],
    "log": [
        ("no record", b"[1]", None), ("brackets", b"[" * 100_000, None), ("commands", json.dumps({HOSTILE: 1}), None),
        ("digits", f'{{"NLL": {"9" * 5000}}}', None), ("words", '{"NELBO": "x", "step": 1, "seconds": 1}', None),
    ],
    "puzzles": [
        ("no solution", UNSOLVABLE, "no solution"), ("other digits", "١" * 81, "puzzle"),
        ("commands", "\x1b[2J" * 20, "line 1"), ("contradictions", "1" * 81, "contradict"),
    ],
    "poems": [("no source", f"{LETTER}\n\n{LETTER}", "# source"), ("one poem", f"# kural\n{LETTER}\n", "too few")],
    "page": [
        ("a login page", "<html><title>Log in", "no source"), ("100 MB", b"<br>x" * (20 << 20), "no source"),
        ("commands", f"<br>1.<br>{LETTER}\x9b{HOSTILE}<br>" * 500, "no source"),
        *((f"many {tag}", tag * 100_000, "no source") for tag in TAGS),
    ],
    "sheet": [("a bomb", spreadsheet, "no source")],
    "dump": [("no article", bz2.compress(HOSTILE.encode() * 999), "no articles")],
}


def files():
    for target, (path, command) in READERS.items():
        said = None if target in HARMLESS else ""
        rows = [(name, make, said) for name, make in OBSTACLES.items() if name not in LEFT_OUT.get(target, ())]
        for name, make, said in rows + CONTENTS.get(target, []):
            yield Attack(f"{target}: {name}", command, path, make, said=said)


# 2. Servers

SERVERS = {  # {variable with an address: the program that asks there}
    "tamil_dataset.MADURAI_URL": "tamil_dataset --only kuruntokai",
    "tamil_dataset.KURAL_URL": "tamil_dataset --only kural",
    "tamil_dataset.SPREADSHEET_URL": "tamil_dataset --only purananuru",
}
ANSWERS = {
    "404": "404", "no answer": "drop", "a file": "302 file:///etc/passwd", "no end": "body", "a bomb": "compressed",
    "a login page": Reply(body=b"<html><title>Log in"), "brackets": Reply(body=b"[" * 100_000),
    "digits": Reply(body=b"9" * 5000), "other JSON": Reply(body=json.dumps({"query": [HOSTILE], "kural": 3}).encode()),
    "commands": Reply(302, headers={"Location": "http://127.0.0.1:1/\x1b[2J"}), "zeros": Reply(body=bytes(100_000)),
}


def servers():
    for address, command in SERVERS.items():
        for name, answer in ANSWERS.items():
            yield Attack(f"{command}: {name}", command, address=address, answer=answer)


# 3. Command lines with guessed flags, or with too many zeros

COMMANDS = {  # {program and words that work: words to add, with | between}
    f"05_train --corpus text.txt {TINY}": "--batch-size 100000000|--seq-len 1000000000|--n-embd 1000000|--n-head 0|"
    "--n-layer 1000000000|--steps 1e3|--lr 3|--lr-other inf|--run ../x|--run 'a\x1b[2J'|--device cuda:99|--device meta|"
    "--fresh yes|extra",
    "06_generate --checkpoint run --len 9": "--num 100000000|--len 100000000|--steps 100000000|--temp nan|--temp inf|"
    "--temperature 1|--topk 0|--top-k 5|--seed -1|--infill {99999999}|--gif /proc/x.gif|--html a/b.html|--prompt|"
    "--checkpoint /dev/zero|--hub|--hub ../x|hello",
    f"07_train_gpt --corpus text.txt {TINY}": "--batch-size 100000000|--teachers /dev/zero|--t-max 1|--write",
    "07_train_gpt write": "--num 100000000|--len 100000000|--temp nan|--infill _|--prompt €|--hub ../x",
    f"08_train_tamil {TINY}": "--corpus english|--corpus ''|--corpus ../../x|--compare -1",
    "09_generate_tamil": "--num 100000000|--temp nan|--kural --len 3|--fast|--checkpoint ..",
    "10_dllm_vs_gpt --corpus text.txt": "--size huge|--seed -1|--dllm nobody|--out text.txt|--out /proc/x",
    "11_fast_decoding": "--texts 100000000|--order x|--corpus nowhere.txt",
    "11_fast_decoding write --checkpoint run": "--num 100000000|--threshold 2|--factor nan|--entropy inf|--cached|"
    "--block 100000000|--correction 100000000|--threshold 1 --factor 1",
    f"12_scale --dataset text.txt --tokenizer bytes {TINY}": "--batch-size 100000000|--dataset nowhere.txt|--limit 1|"
    "--run-name ../x|--validation 0|--tokenizer chars",
    f"13_block_diffusion --corpus text.txt {TINY}": "--batch-size 100000000|--positions learned|--write",
    "13_block_diffusion write": "--num 100000000|--drafts 100000000|--block 100000000|--block 4 --drafts 2|--temp nan",
    "14_sudoku": "--puzzles 1|--puzzles 99999999|--seq-len 80|--evaluate",
    "14_sudoku solve": "x|/dev/zero|checkpoints|''|--steps 3|--checkpoint run",
    "15_robot_path": "--n-embd 18|--batch-size 100000000|--seq-len 1000000000|--run ../x|--evaluate 3",
    "15_robot_path smooth": f"--start 1|--start nan,nan|--start {DIGITS},1|--radius nan|--radius 1e300|--map ''|"
    "--out text.txt|--out /proc/x|--rounds 100000000|--spans 0|--spacing nan|--seed -1",
    "benchmark": "--only x|--device gpu|--out checkpoints",
    "tamil_dataset": "--only english|--only ,|--pages nowhere|--pages text.txt",
    "tamil_wikipedia": "--limit 3|--api --dump|--api --limit 0|--dump --file nowhere",
    "plumbing.hub run": "--quiet|--export checkpoints|--export text.txt/x|--export /proc/x|--onnx x.pt|--push x",
}
USERS = {  # {program that is given a model: the kinds that it can use}
    "06_generate --checkpoint": ("dllm", "tamil"),
    "07_train_gpt write --checkpoint": ("gpt",),
    f"07_train_gpt --corpus text.txt {TINY} --teachers": ("gpt",),
    "09_generate_tamil --checkpoint": ("tamil",),
    "10_dllm_vs_gpt --corpus text.txt --dllm": ("dllm",),
    "11_fast_decoding --corpus text.txt --checkpoint": ("dllm",),
    "11_fast_decoding write --checkpoint": ("dllm", "tamil"),
    "13_block_diffusion write --checkpoint": ("hybrid",),
    "14_sudoku solve --checkpoint": ("sudoku",),
    "15_robot_path smooth --checkpoint": ("robot-path",),
    "experiments.block_diffusion --checkpoint": ("hybrid",),
    "experiments.fast_decoding --corpus text.txt --dllm": ("dllm",),
    "experiments.fast_decoding --corpus text.txt --gpt": ("gpt",),
    "plumbing.hub --export out": ("dllm", "tamil", "gpt"),
}


def commands():
    for command, added in COMMANDS.items():
        for words in added.split("|"):
            yield Attack(f"{command} {words}"[:150], f"{command} {words}")
    for command, kinds in USERS.items():
        for kind in sorted(checkpoint.KINDS.keys() - set(kinds)):
            yield Attack(f"{command} {kind}", f"{command} {kind}")


ALL = [*files(), *servers(), *commands()]
