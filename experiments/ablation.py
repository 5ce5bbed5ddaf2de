"""Makes the page docs/ablation.md: how much does each ingredient of the training recipe help?

    python -m experiments.ablation             # 43 trainings of a minute each, two at a time, each on one core
    python -m experiments.ablation --render    # only write the page again, from docs/ablation.json

Each variant changes something in the settings of configs/laptop.yaml. The program trains every variant with four seeds,
and all models read the same number of characters. Each finished training adds a line to docs/logs/ablation.jsonl, so
you can interrupt the program and start it again.
"""

import json
import math
import multiprocessing
import shlex
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib import import_module
from statistics import mean

from experiments import pages
from plumbing import cli, files, measures, text
from plumbing.run import Run, origin

import torch

tensors = import_module("01_tensors")
transformer = import_module("03_transformer")
training = import_module("05_train")

NAME = "ablation"
LOG = pages.DOCS / "logs" / "ablation.jsonl"
SEEDS = 1, 2, 3, 4
WINDOWS = 300  # number of windows of unseen text on which each variant is measured

FULL = "the full recipe"
MODERN = "--positions learned --norm layer --activation gelu"
VARIANTS = {  # {name: flags of chapter 05}
    FULL: "",
    "AdamW at 0.003 for every weight, no Muon": "--optimizer adamw --lr-matrix 0.003 --lr-other 0.003",
    "no convolution": "--conv 0",
    "a convolution in the first block only": "--conv-in first",
    "learned positions, LayerNorm, GELU": MODERN,
    "noise levels up to 1, not 0.8": "--t-max 1",
    "batches of 64 windows, not 16": "--batch-size 64",
    "no averaging of weights": "--ema 0",
    "no cooldown of the learning rate": "--cooldown 0",
}
# The classic recipe makes several of these changes at once. Its learning rate is chosen with seed 1.
CLASSIC = "the classic recipe, AdamW at {}"
RATES = "0.0005", "0.001", "0.003"


def classic_flags(rate):
    return f"{MODERN} --conv 0 --t-max 1 --optimizer adamw --lr-matrix {rate} --lr-other {rate}"


@dataclass(frozen=True)
class Command(pages.Settings):
    """The flags of this program."""

    characters: int = 983_040  # characters that each training reads: 480 steps with 16 windows of 128
    processes: int = 2  # number of trainings at a time, each on one core


def learn(job):
    """Train one variant, and return the line that its training adds to the log.

    `job` is (flags, seed, characters).
    """
    flags, seed, characters = job
    words = f"--config laptop --compile off --evaluations 1 --evaluate-windows {WINDOWS} --minutes 0 {flags}".split()
    settings = cli.parse(training.Command, words, section="dllm")
    steps = characters // (settings.train.batch_size * settings.model.seq_len)
    words += ["--steps", str(steps), "--seed", str(seed)]
    settings = cli.parse(training.Command, words, section="dllm")
    corpus = text.load("shakespeare")
    tokenizer = text.Characters.of(corpus.text)
    config = transformer.TransformerConfig(**asdict(settings.model), vocab_size=tokenizer.vocab_size)
    device = torch.device("cpu")
    task = training.MaskedDiffusion(tokenizer, text.split(corpus.text), config.seq_len, device, settings.train.t_max)
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    run = Run(None, settings.train)
    began = time.process_time()
    training.train(transformer.Transformer(config), task, settings.train, run, device)
    where = origin(device) | {"command": shlex.join(["python", "05_train.py", *words])}
    return {"flags": flags, "seed": seed, "characters": characters, "steps": steps, "NELBO": run.log[-1]["NELBO"],
            "error": run.log[-1]["error"], "core_seconds": round(time.process_time() - began, 1)} | where


def read_log():
    """Return the finished trainings: {(flags, seed, characters): line of the log}."""
    if not LOG.is_file():
        return {}
    lines = [json.loads(line) for line in files.read_text(LOG).splitlines()]
    return {(line["flags"], line["seed"], line["characters"]): line for line in lines}


def learn_all(jobs, processes):
    """Run the jobs that are not in the log yet. Return the log lines of all jobs, in the order of the jobs."""
    missing = [job for job in jobs if job not in read_log()]
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        for found in pool.map(learn, missing):
            print(f"{found['flags'] or FULL}, seed {found['seed']}: {found['NELBO']:.3f}", flush=True)
            with open(LOG, "a", encoding="utf-8") as log:
                log.write(json.dumps(found) + "\n")
    done = read_log()
    return [done[job] for job in jobs]


def measure(settings):
    search = learn_all([(classic_flags(rate), SEEDS[0], settings.characters) for rate in RATES], settings.processes)
    values = [run["NELBO"] for run in search]
    best = RATES[values.index(min(values))]
    variants = VARIANTS | {CLASSIC.format(best): classic_flags(best)}
    jobs = [(flags, seed, settings.characters) for flags in variants.values() for seed in SEEDS]
    found = learn_all(jobs, settings.processes)
    rows = []
    for name, flags in variants.items():
        rows.append({"name": name, "flags": flags, "runs": [run for run in found if run["flags"] == flags]})
    return {"origin": pages.origin(NAME, torch.device("cpu")), "characters": settings.characters, "seeds": len(SEEDS),
            "windows": WINDOWS, "rows": compared(rows), "search": dict(zip(RATES, values))}


def compared(rows):
    """Add two numbers to each row: the mean over its seeds, and the difference of this mean from the first row's mean.

    Return the rows.
    """
    for row in rows:
        numbers = torch.tensor([run["NELBO"] for run in row["runs"]])
        row["NELBO"], row["error"] = measures.mean_and_error(numbers)
        row["core_seconds"] = mean(run["core_seconds"] for run in row["runs"])
        row["difference"] = row["NELBO"] - rows[0]["NELBO"]
        row["difference_error"] = math.hypot(row["error"], rows[0]["error"])
        row["work"] = row["core_seconds"] / rows[0]["core_seconds"]
    return rows


def tables(values):
    lines = []
    for row in values["rows"]:
        difference = "" if row is values["rows"][0] else f"{row['difference']:+z.3f} ± {row['difference_error']:.3f}"
        lines.append([row["name"], f"{row['NELBO']:.3f} ± {row['error']:.3f}", difference, f"{row['work']:.2f}"])
    differences = {row["name"]: f"{row['difference']:+z.3f} ± {row['difference_error']:.3f}" for row in values["rows"]}
    costs = {row["name"]: f"{row['difference']:.2f}" for row in values["rows"]}
    return {"rows": pages.table(lines, ["what is changed", "NELBO", "difference", "time on one core"]),
            "averaging": differences["no averaging of weights"],
            "cooldown": differences["no cooldown of the learning rate"], "classic": lines[-1][1],
            "full": lines[0][1], "classic_difference": lines[-1][2],
            "muon": costs["AdamW at 0.003 for every weight, no Muon"], "convolutions": costs["no convolution"],
            "batches": costs["batches of 64 windows, not 16"]}


def draw(values, folder):
    """Save the figure: the NELBO of each variant, with error bars of two standard errors."""
    rows = values["rows"][::-1]
    figure, axes = tensors.pyplot(show=False).subplots(figsize=(8, 4), layout="constrained")
    axes.errorbar([row["NELBO"] for row in rows], range(len(rows)), xerr=[2 * row["error"] for row in rows], fmt="o",
                  color=tensors.COLORS["dllm"], capsize=3)
    axes.axvline(rows[-1]["NELBO"], ls="--", lw=1, color="gray")
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.set(xlabel="NELBO, nats per character")
    axes.grid(alpha=0.3, axis="x")
    pages.save_figure(figure, folder / f"{NAME}.png")


def main(argv=None):
    pages.run(NAME, Command, measure, draw, tables, argv)


if __name__ == "__main__":
    cli.run(main)
