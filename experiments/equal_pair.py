"""Equal pairs for docs/dllm_vs_gpt.md: a dLLM and a GPT of the same size, tuned with the same effort.

    python -m experiments.equal_pair           # two hours on two cores; you can interrupt it and start it again
    python 05_train.py --steps 1000            # or train a pair of your own, without tuning: 6 minutes each,
    python 07_train_gpt.py --steps 1000        # on two cores; chapter 10 then compares the two

All models have the settings of configs/laptop.yaml and read the same number of characters. Five runs with the dLLM and
five runs with the GPT search for the best learning rate, and then for the best weight decay. Then the dLLM and the GPT
are trained with their best settings, with three seeds each, in the folders checkpoints/equal-…. The file
docs/logs/equal_pair.json lists all runs, their commands and their curves.
"""

import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from plumbing import checkpoint, cli, files
from plumbing.run import read_log

SIDES = {"dllm": ("05_train.py", "NELBO"), "gpt": ("07_train_gpt.py", "NLL")}
FACTORS = 0.5, 1.0, 2.0  # multiply both learning rates of configs/laptop.yaml
DECAYS = 0.0, 0.1, 0.3
SEEDS = 1, 2, 3
LOG = files.ROOT / "docs" / "logs" / "equal_pair.json"


@dataclass(frozen=True)
class Command:
    """The flags of this program."""

    steps: int = 1000  # steps of each training: 2 million characters, 5.5 minutes on two cores
    processes: int = 2  # number of trainings at a time, each on one core


@dataclass(frozen=True)
class Training:
    """One training. Its name is the name of its folder."""

    side: str
    factor: float
    decay: float
    seed: int
    steps: int

    @property
    def name(self):
        return f"equal-{self.side}-{self.factor:g}-{self.decay:g}-{self.seed}"

    def words(self):
        """Return the command of this training, as a list of words."""
        return ["python", SIDES[self.side][0], "--run", self.name, "--config", "laptop", "--steps", str(self.steps),
                "--minutes", "0", "--lr-matrix", f"{0.02 * self.factor:g}", "--lr-other", f"{0.01 * self.factor:g}",
                "--weight-decay", f"{self.decay:g}", "--seed", str(self.seed), "--evaluations", "10"]

    def info(self):
        """Return what was saved with the model, or None if the training has not ended."""
        folder = files.RUNS / self.name
        try:
            last = read_log(folder)[-1]
            return checkpoint.read_config(folder)["info"] if last["step"] == self.steps else None
        except cli.UserError:
            return None

    def run(self):
        """Train if this training is not done yet. Returns its final NELBO or NLL."""
        if self.info() is None:
            words = [sys.executable, *self.words()[1:]]
            subprocess.run(words, cwd=files.ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        value = self.info()[SIDES[self.side][1]]
        print(f"{self.name}: {value:.4f}", flush=True)
        return value


def read():
    """Return the contents of docs/logs/equal_pair.json. Raises UserError if this file does not exist."""
    if not LOG.is_file():
        raise cli.UserError("there are no equal pairs: python -m experiments.equal_pair trains them")
    return json.loads(files.read_text(LOG))


def record(training):
    """Return the log entry of a finished training."""
    info = training.info()
    measure = SIDES[training.side][1]
    return {"run": training.name, "command": shlex.join(training.words()), "factor": training.factor,
            "weight_decay": training.decay, "seed": training.seed, "measure": measure, "value": info[measure],
            "error": info["error"], "best_step": info["step"], "commit": info["commit"], "machine": info["machine"],
            "torch": info["torch"], "curve": read_log(files.RUNS / training.name)}


def run_all(trainings, processes):
    """Run the trainings. Return the best training of a dLLM and of a GPT: {"dllm": Training, "gpt": Training}."""
    with ThreadPoolExecutor(processes) as pool:
        values = list(pool.map(Training.run, trainings))
    best = {}
    for training, _ in sorted(zip(trainings, values), key=lambda pair: pair[1], reverse=True):
        best[training.side] = training  # the last assignment for each side is the best training
    return best


def main(argv=None):
    settings = cli.parse(Command, argv)
    steps = settings.steps
    first = [Training(side, factor, DECAYS[1], SEEDS[0], steps) for factor in FACTORS for side in SIDES]
    best = run_all(first, settings.processes)
    second = [Training(side, best[side].factor, decay, SEEDS[0], steps) for decay in DECAYS for side in SIDES]
    best = run_all(second, settings.processes)
    chosen = [Training(side, best[side].factor, best[side].decay, seed, steps) for seed in SEEDS for side in SIDES]
    run_all(chosen, settings.processes)
    everything = {
        "search": [record(training) for training in dict.fromkeys(first + second)],
        "chosen": {side: [record(training) for training in chosen if training.side == side] for side in SIDES},
    }
    with files.whole_file(LOG) as path:
        path.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {LOG}")


if __name__ == "__main__":
    cli.run(main)
