"""Makes the page docs/board.md: how many seconds does a dLLM need on two cores to learn Shakespeare?

    python -m experiments.board                       # train with the settings `laptop`, and say how long it took
    python -m experiments.board --minutes 4 --conv 7  # with any flags of chapter 05, or with a changed program
    python -m experiments.board --render              # only write the page again, from docs/logs/board.jsonl

If the NELBO of an entry is at most 1.82 nats per character, the entry is added to docs/logs/board.jsonl. The page
explains the rules.
"""

import json
import sys
from importlib import import_module

from experiments import pages
from plumbing import checkpoint, cli, files

import torch

transformer = import_module("03_transformer")
training = import_module("05_train")

NAME = "board"
LOG = pages.DOCS / "logs" / "board.jsonl"
GOAL = 1.82  # nats per character
CORES = 2


def learn(words):
    """Train as chapter 05 does, with the flags in `words`. Return the entry of this training."""
    if cli.parse(training.Command, words, section="dllm").corpus != "shakespeare":
        raise cli.UserError("the board is about Shakespeare: leave out --corpus")
    torch.set_num_threads(min(CORES, torch.get_num_threads()))
    training.main([*words, "--run", NAME, "--fresh", "--device", "cpu"])
    model, _, info = checkpoint.load(files.RUNS / NAME, kinds=("dllm",))
    return {"seconds": info["seconds"], "NELBO": info["NELBO"], "error": info["error"], "step": info["step"],
            "parameters": transformer.count_parameters(model),
            "command": " ".join(["python -m experiments.board", *words]),
            **{key: info[key] for key in ("commit", "machine", "torch")}}


def entries():
    """Return the entries of the log, the fastest first: a list of dicts."""
    lines = [json.loads(line) for line in files.read_text(LOG).splitlines()]
    return sorted(lines, key=lambda entry: entry["seconds"])


def measure(settings):
    return {"entries": entries(), "goal": GOAL, "cores": CORES, "windows": training.FINAL_WINDOWS}


def tables(values):
    rows = []
    for entry in values["entries"]:
        rows.append([f"{entry['seconds']:.0f}", f"{entry['NELBO']:.3f} ± {entry['error']:.3f}",
                     f"{entry['parameters'] / 1e6:.1f}M", f"`{entry['command']}`", f"`{entry['commit']}`",
                     entry["machine"]])
    return {"entries": pages.table(rows, ["seconds", "NELBO", "parameters", "command", "commit", "machine"])}


def main(argv=None):
    words = list(sys.argv[1:] if argv is None else argv)
    if "--render" in words:
        words.remove("--render")  # a page is always rendered from the log
        pages.run(NAME, pages.Settings, measure, tables=tables, argv=words)
        return
    entry = learn(words)
    print(f"{entry['seconds']:.0f} seconds of training, NELBO {entry['NELBO']:.3f}.", end=" ")
    if entry["NELBO"] > GOAL:
        print(f"The board needs at most {GOAL}: train longer, or better.")
        return
    with open(LOG, "a", encoding="utf-8") as log:
        log.write(json.dumps(entry) + "\n")
    print(f"This is an entry; it is in {LOG}. python -m experiments.board --render puts it on the page.")


if __name__ == "__main__":
    cli.run(main)
