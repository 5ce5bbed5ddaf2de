"""How close do the model's couplets come to the Kural, and which way of writing comes closest?

    python -m experiments.couplets             # measures the shipped model: a few minutes on one core
    python -m experiments.couplets --render    # only writes the page again

The program writes couplets in several ways, with several seeds, and measures them as chapter 09 does. The numbers are
in docs/tamil_couplets.json, and the page is docs/tamil_couplets.md.
"""

import functools
from dataclasses import dataclass
from importlib import import_module

from experiments import pages
from plumbing import checkpoint, cli, measures

import torch

diffusion = import_module("04_diffusion")
generation = import_module("06_generate")
tamil = import_module("08_train_tamil")
verse = import_module("09_generate_tamil")

COLUMNS = {"rhyme": "rhyme", "um": "words in -உம்", "train": "known from training",
           "held": "known from held-out poems"}  # fmt: skip
WAYS = {  # {name: sampler}
    "random order, then correction (default)": diffusion.denoise,
    "order by confidence": functools.partial(diffusion.denoise, select=diffusion.by_confidence, correction=0),
}


@dataclass(frozen=True)
class Command(pages.Settings):
    """The flags of this program."""

    checkpoint: str = "tamil"  # name or folder of a Tamil run
    seeds: int = 5  # number of seeds for each way of writing
    num: int = 40  # number of couplets per seed
    examples: int = 3  # number of couplets that the page shows for each way


def measure_way(model, tokenizer, couplets, way, shares_of, settings):
    """Return the numbers of one way of writing, and some couplets that were written in this way.

    Each measure is (mean over the seeds, standard error of this mean).
    """
    found, examples = [], []
    for seed in range(1, settings.seeds + 1):
        canvas = torch.tensor(verse.couplet_rows(couplets, settings.num, tokenizer, seed))
        torch.manual_seed(seed)
        with verse.only_letters(model, tokenizer):
            states = list(generation.generate(model, canvas, steps=64, temperature=0.8, denoise=WAYS[way]))
        written = [tokenizer.decode(row).strip("\n") for row in states[-1].canvas]
        found.append(shares_of(written))
        examples = examples or written[: settings.examples]
    row = {"way": way, "passes": len(states), "examples": examples}
    for name in COLUMNS:
        row[name] = measures.mean_and_error(torch.tensor([one[name] for one in found]))
    return row


def measure_real(couplets, shares_of):
    """Return the measures of all real held-out couplets, with standard errors over the couplets."""
    found = measures.with_errors(shares_of, couplets)
    return {"couplets": len(couplets)} | {name: (found[name], found[f"{name}_error"]) for name in COLUMNS}


def measure(settings):
    """Return the numbers of the page."""
    model, tokenizer, info = checkpoint.load(checkpoint.find(settings.checkpoint, "tamil"), kinds=("tamil",))
    _, train, val = verse.read_corpus(info, needed=True)
    shares_of = functools.partial(verse.verse_measures, vocabulary=set(measures.words_of(tamil.joined(train))),
                                  reader=verse.Reader(val))
    rows = []
    for way in WAYS:
        print(way, flush=True)
        rows.append(measure_way(model, tokenizer, train["kural"], way, shares_of, settings))
    return {"origin": pages.origin("couplets", torch.device("cpu")), "NELBO": info["NELBO"], "seeds": settings.seeds,
            "number": settings.num, "rows": rows, "real": measure_real(val["kural"], shares_of)}


def tables(values):
    """Return the page's table, and the couplets that the page shows for each way of writing."""
    rows = [*values["rows"], {"way": "real, held-out", "passes": ""} | values["real"]]
    cells = []
    for row in rows:
        shares = [f"{100 * mean:.1f} ± {100 * error:.1f}" for mean, error in (row[name] for name in COLUMNS)]
        cells.append([row["way"], row["passes"], *shares])
    examples = [f"{row['way'].capitalize()}:\n\n```text\n" + "\n\n".join(row["examples"]) + "\n```"
                for row in values["rows"]]
    table = pages.table(cells, ["way of writing", "passes", *COLUMNS.values()])
    return {"ways": table, "examples": "\n\n".join(examples)}


if __name__ == "__main__":
    cli.run(lambda: pages.run("tamil_couplets", Command, measure, tables=tables))
