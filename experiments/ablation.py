"""The page docs/ablation.md: what does each ingredient of the training recipe buy, in a fixed time?

    python -m experiments.ablation             # 40 minutes; two trainings at a time, each on one core
    python -m experiments.ablation --render    # only write the page again, from docs/ablation.json

The program trains the settings of configs/laptop.yaml with one thing changed, for a minute each and with two seeds. Run
nothing else on the machine at the same time.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib import import_module
from statistics import mean, median

from experiments import pages
from plumbing import cli, text
from plumbing.run import Run

import torch

transformer = import_module("03_transformer")
training = import_module("05_train")

NAME = "ablation"
SEEDS = 1, 2
WINDOWS = 500  # of unseen text, on which a variant is measured

MODERN = "--positions learned --norm layer --activation gelu"
VARIANTS = {  # {name: flags of chapter 05}
    "full recipe": "",
    "AdamW at 0.003 for every weight": "--optimizer adamw --lr-matrix 0.003 --lr-other 0.003",
    "learning rate 0.005, not 0.01, for embeddings and the like": "--lr-other 0.005",
    "a convolution in the first block only": "--conv-in first",
    "no convolution": "--conv 0",
    "learned positions, LayerNorm, GELU": MODERN,
    "these three, no convolution, noise levels up to 1, AdamW at 0.001":
        f"{MODERN} --conv 0 --optimizer adamw --lr-matrix 0.001 --lr-other 0.001 --t-max 1",
    "noise levels up to 1, not 0.8": "--t-max 1",
    "deeper and narrower": "--n-layer 7 --n-embd 96",
    "wider and shallower": "--n-layer 2 --n-embd 184",
    "weight decay 0.1": "--weight-decay 0.1",
    "dropout 0.1": "--dropout 0.1",
    "momentum 0.95, not 0.9": "--momentum 0.95",
    "no averaging of weights": "--ema 0",
    "no cooldown": "--cooldown 0",
    "batches of 64 windows, not 16": "--batch-size 64",
    "windows of 256, batches of 8": "--seq-len 256 --batch-size 8",
    "1.8 million parameters, not 0.8": "--n-embd 192 --n-head 3",
}


@dataclass(frozen=True)
class Command(pages.Settings):
    """The flags of this program."""

    minutes: float = 1.0  # of each training
    processes: int = 2  # trainings at a time, each on one core


def learn(job):
    """Train one variant, (its name, seed, minutes). Returns {"NELBO", "error", "steps", "characters"}."""
    name, seed, minutes = job
    words = f"--config laptop --compile off --evaluations 1 --evaluate-windows {WINDOWS} {VARIANTS[name]}"
    words = [*words.split(), "--minutes", str(minutes), "--seed", str(seed)]
    settings = cli.parse(training.Command, words, section="dllm")
    corpus = text.load("shakespeare")
    tokenizer = text.Characters.of(corpus.text)
    config = transformer.TransformerConfig(**asdict(settings.model), vocab_size=tokenizer.vocab_size)
    device = torch.device("cpu")
    task = training.MaskedDiffusion(tokenizer, text.split(corpus.text), config.seq_len, device, settings.train.t_max)
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    run = Run(None, settings.train)
    training.train(transformer.Transformer(config), task, settings.train, run, device)
    found = {"NELBO": run.log[-1]["NELBO"], "error": run.log[-1]["error"], "steps": run.step,
             "characters": run.step * settings.train.batch_size * config.seq_len}
    print(f"{name}, seed {seed}: {found['NELBO']:.3f}", flush=True)
    return found


def measure(settings):
    jobs = [(name, seed, settings.minutes) for name in VARIANTS for seed in SEEDS]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(settings.processes, spawn) as pool:
        found = list(pool.map(learn, jobs))
    rows = []
    for name, flags in VARIANTS.items():
        runs = [run for run, job in zip(found, jobs) if job[0] == name]
        rows.append({"name": name, "flags": flags, "runs": runs})
    torch.set_num_threads(1)  # the origin shall say how many threads each training has
    values = {"origin": pages.origin(NAME, torch.device("cpu")), "seeds": SEEDS, "minutes": settings.minutes}
    earlier = pages.read(NAME)["earlier"]
    return values | compared(rows, earlier["rows"]) | {"earlier": earlier}


def compared(rows, earlier):
    """Return the rows, each with its difference from the first one, and how far apart two seeds are in half of all."""
    full = mean(run["NELBO"] for run in rows[0]["runs"])
    for row in rows:
        row["difference"] = mean(run["NELBO"] for run in row["runs"]) - full
    apart = median(abs(row["runs"][0]["NELBO"] - row["runs"][1]["NELBO"]) for row in rows + earlier)
    return {"rows": rows, "apart": apart, "doubt": 2 * apart}


def tables(values):
    """Return the table of today's variants, and that of those which only an earlier program could train."""
    heads = ["changed", "flags", "characters seen", *(f"NELBO, seed {seed}" for seed in values["seeds"]),
             "difference"]
    made = {}
    for name, rows in (("today", values["rows"]), ("earlier", values["earlier"]["rows"])):
        lines = []
        for row in rows:
            flags = f"`{row['flags']}`" if row["flags"] else ""
            seen = mean(run["characters"] for run in row["runs"]) / 1e6
            numbers = [f"{run['NELBO']:.3f} ± {run['error']:.3f}" for run in row["runs"]]
            lines.append([row["name"], flags, f"{seen:.2f}M", *numbers, f"{row['difference']:+.3f}"])
        made[name] = pages.table(lines, heads)
    return made


def main(argv=None):
    pages.run(NAME, Command, measure, tables=tables, argv=argv)


if __name__ == "__main__":
    cli.run(main)
