"""The page docs/ablation.md: what does each ingredient of the training recipe buy, in a fixed time?

    python -m experiments.ablation             # 40 minutes; two trainings at a time, each on one core
    python -m experiments.ablation --render    # only write the page again, from docs/ablation.json

The program trains the settings of configs/laptop.yaml with one thing changed, for a minute each and with two seeds. Run
nothing else on the machine at the same time. A variant is a setting, a flag of chapter 05, or a task with another loss.
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
import torch.nn.functional as F

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")

NAME = "ablation"
SEEDS = 1, 2
WINDOWS = 500  # of unseen text, on which a variant is measured


# 1. Variants that are another loss


def mean_loss(model, x0, masked):
    """Return the loss if the positions `masked` (B, T) of x0 (B, T) are hidden, in nats per hidden token."""
    xt = torch.where(masked, model.config.mask_id, x0)
    logits = model(xt, masked.float().mean(1))
    return F.cross_entropy(logits[masked].float(), x0[masked])


class Weighted(training.MaskedDiffusion):
    """All texts have the same weight, as in the NELBO: each hidden token of a text with k of them counts 1/k."""

    def loss(self, model, x0):
        B, T = x0.shape
        k = diffusion.spread_evenly(B, self.t_max * T, x0.device)
        xt = diffusion.hide(x0, k, model.config.mask_id)
        return (diffusion.hidden_losses(model, x0, xt, k / T).sum(1) / k).mean()


class BellShaped(training.MaskedDiffusion):
    """The noise level has a bell-shaped density: it is the logistic function of a normal number (arXiv:2605.13026)."""

    def loss(self, model, x0):
        B, T = x0.shape
        u = (torch.randperm(B, device=x0.device) + torch.rand(B, device=x0.device)) / B  # spread evenly over (0, 1)
        normal = torch.special.ndtri(u.clamp(1e-4, 1 - 1e-4))
        k = 1 + (torch.sigmoid(1.2 * normal) * T).long().clamp(max=T - 1)
        return diffusion.simple_loss(model, x0, k)


class Complementary(training.MaskedDiffusion):
    """A batch holds half as many texts, each twice: what is hidden in one copy is visible in the other."""

    def loss(self, model, x0):
        x0 = x0[: len(x0) // 2]
        B, T = x0.shape
        k = diffusion.spread_evenly(B, self.t_max * (T - 1), x0.device)
        masked = diffusion.hide(x0, k, model.config.mask_id) == model.config.mask_id
        return mean_loss(model, x0.repeat(2, 1), torch.cat((masked, ~masked)))


class Cropped(training.MaskedDiffusion):
    """One batch in a hundred is cut to a random length."""

    def loss(self, model, x0):
        if torch.rand(()) < 0.01:
            x0 = x0[:, : int(torch.randint(16, x0.shape[1], ()))]
        return super().loss(model, x0)


# 2. The table


@dataclass(frozen=True)
class Variant:
    """What is changed."""

    flags: str = ""  # of chapter 05
    task: type = training.MaskedDiffusion


MODERN = "--positions learned --norm layer --activation gelu"
VARIANTS = {
    "full recipe": Variant(),
    "AdamW at 0.003 for every weight": Variant("--optimizer adamw --lr-matrix 0.003 --lr-other 0.003"),
    "learning rate 0.005, not 0.01, for embeddings and the like": Variant("--lr-other 0.005"),
    "a convolution in the first block only": Variant("--conv-in first"),
    "no convolution": Variant("--conv 0"),
    "learned positions, LayerNorm, GELU": Variant(MODERN),
    "these three, no convolution, noise levels up to 1, AdamW at 0.001": Variant(
        f"{MODERN} --conv 0 --optimizer adamw --lr-matrix 0.001 --lr-other 0.001 --t-max 1"),
    "noise levels up to 1, not 0.8": Variant("--t-max 1"),
    "noise levels with a bell-shaped density": Variant(task=BellShaped),
    "noise levels up to 1, weight 1/t": Variant("--t-max 1", Weighted),
    "complementary masks": Variant(task=Complementary),
    "windows cut to a random length": Variant(task=Cropped),
    "deeper and narrower": Variant("--n-layer 7 --n-embd 96"),
    "wider and shallower": Variant("--n-layer 2 --n-embd 184"),
    "weight decay 0.1": Variant("--weight-decay 0.1"),
    "dropout 0.1": Variant("--dropout 0.1"),
    "momentum 0.95, not 0.9": Variant("--momentum 0.95"),
    "no averaging of weights": Variant("--ema 0"),
    "no cooldown": Variant("--cooldown 0"),
    "batches of 64 windows, not 16": Variant("--batch-size 64"),
    "windows of 256, batches of 8": Variant("--seq-len 256 --batch-size 8"),
    "1.8 million parameters, not 0.8": Variant("--n-embd 192 --n-head 3"),
}


@dataclass(frozen=True)
class Command(pages.Settings):
    """The flags of this program."""

    minutes: float = 1.0  # of each training
    processes: int = 2  # trainings at a time, each on one core


def learn(job):
    """Train one variant, (its name, seed, minutes). Returns {"NELBO", "error", "steps", "characters"}."""
    name, seed, minutes = job
    variant = VARIANTS[name]
    words = f"--config laptop --compile off --evaluations 1 --evaluate-windows {WINDOWS} {variant.flags}"
    words = [*words.split(), "--minutes", str(minutes), "--seed", str(seed)]
    settings = cli.parse(training.Command, words, section="dllm")
    corpus = text.load("shakespeare")
    tokenizer = text.Characters.of(corpus.text)
    config = transformer.TransformerConfig(**asdict(settings.model), vocab_size=tokenizer.vocab_size)
    device = torch.device("cpu")
    task = variant.task(tokenizer, text.split(corpus.text), config.seq_len, device, settings.train.t_max)
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
    for name, variant in VARIANTS.items():
        runs = [run for run, job in zip(found, jobs) if job[0] == name]
        task = "" if variant.task is training.MaskedDiffusion else variant.task.__name__
        rows.append({"name": name, "flags": variant.flags, "task": task, "runs": runs})
    torch.set_num_threads(1)  # the origin shall say how many threads each training has
    values = {"origin": pages.origin(NAME, torch.device("cpu")), "seeds": SEEDS, "minutes": settings.minutes}
    return values | compared(rows) | {"earlier": pages.read(NAME)["earlier"]}


def compared(rows):
    """Return the rows, each with its difference from the first one, and how far apart two seeds are in half of them."""
    full = mean(run["NELBO"] for run in rows[0]["runs"])
    for row in rows:
        row["difference"] = mean(run["NELBO"] for run in row["runs"]) - full
    apart = median(abs(row["runs"][0]["NELBO"] - row["runs"][1]["NELBO"]) for row in rows)
    return {"rows": rows, "apart": apart, "doubt": 2 * apart}


def tables(values):
    """Return the table of today's variants, and that of those which only an earlier program could train."""
    heads = ["changed", "flags or task", "characters seen", *(f"NELBO, seed {seed}" for seed in values["seeds"]),
             "difference"]
    made = {}
    for name, rows in (("today", values["rows"]), ("earlier", values["earlier"]["rows"])):
        lines = []
        for row in rows:
            how = " and ".join(f"`{part}`" for part in (row["flags"], row["task"]) if part)
            seen = mean(run["characters"] for run in row["runs"]) / 1e6
            numbers = [f"{run['NELBO']:.3f} ± {run['error']:.3f}" for run in row["runs"]]
            lines.append([row["name"], how, f"{seen:.2f}M", *numbers, f"{row['difference']:+.3f}"])
        made[name] = pages.table(lines, heads)
    return made


def main(argv=None):
    pages.run(NAME, Command, measure, tables=tables, argv=argv)


if __name__ == "__main__":
    cli.run(main)
