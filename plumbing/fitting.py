"""The settings file of chapter 05 that fits the machine: a slow processor gets a smaller model and shorter windows."""

import json
import sys

from plumbing import corpora, devices, runs, settings, threads

USUAL, SMALL = "laptop", "laptop-small"  # files in configs/
SLOW = 600e9  # FLOP/s (floating-point operations per second), below which a processor gets SMALL
SIZE = 512  # of the square matrices in the measurement; a step of laptop.yaml multiplies 2048 x 192 by 192 x 768


def parse(command, argv):
    """Return the flags of chapter 05, from a settings file that fits the machine, and the corpus that they name.

    command: the class of the flags. A run that exists keeps its settings file. The flags of argv win, also --config.
    """
    flags = settings.parse(command, argv)
    corpus = corpora.load(flags.corpus)
    # With the default of a GPU, or a file that the user has named, or only the plain loop, there is nothing to choose.
    if settings.given(argv, "--config") is None and flags.config == USUAL and not flags.plain:
        argv = list(sys.argv[1:] if argv is None else argv)
        flags = settings.parse(command, [*argv, "--config", saved_choice(flags.run, corpus.name) or measured(flags)])
    return flags, corpus


def saved_choice(name, corpus):
    """Return the settings file of the run `name`, or of the latest run that chose one of the two; None: there is none.

    name: None means that the run is named after the corpus and the settings file.
    """
    choices = {runs.folder_of(name, "dllm", corpus, choice): choice for choice in (SMALL, USUAL)}
    states = [folder / "train_state.pt" for folder in choices if (folder / "train_state.pt").is_file()]
    if not states:
        return None
    folder = max(states, key=lambda path: path.stat().st_mtime).parent
    try:
        saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))["info"]["settings"]
    except Exception:  # it is damaged or missing; whoever loads the run reports this
        saved = choices[folder]
    return saved if saved in (USUAL, SMALL) else USUAL


def measured(flags):
    """Measure how fast this machine multiplies matrices, say so, and return the settings file for that speed."""
    device = devices.pick_device(flags.device)
    if device.type != "cpu":
        return USUAL
    dtype = devices.pick_dtype(flags.train.dtype, device)
    number = threads.Threads(device)
    number.choose()
    speed = devices.best_product(device, dtype, SIZE, seconds=1.0)
    number.restore()
    choice, other = (SMALL, USUAL) if speed < SLOW else (USUAL, SMALL)
    print(f"This processor multiplies matrices ({str(dtype).removeprefix('torch.')}) with {speed / 1e9:,.0f} billion "
          f"operations per second, and the limit is {SLOW / 1e9:,.0f}, so this run uses the settings {choice!r}; "
          f"--config {other} chooses the {'larger' if choice == SMALL else 'smaller'} model.", flush=True)
    return choice
