"""How near are the written couplets to the Kural, and which way of writing comes nearest?

    python -m experiments.couplets             # measures the shipped model: minutes on one core
    python -m experiments.couplets --render    # only writes the page again

The program writes couplets in several ways, with several seeds, and measures them as chapter 09 does. The numbers are
in docs/tamil_couplets.json, and the page is docs/tamil_couplets.md.
"""

import functools
import random
import statistics
import time
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
WAYS = {  # {name: (letters of real couplets that stand before the written one, the sampler)}
    "random order, then correction (default)": (0, diffusion.denoise),
    "the same behind a real couplet": (42, diffusion.denoise),
    "order by confidence": (0, functools.partial(diffusion.denoise, select=diffusion.by_confidence, correction=0)),
}


@dataclass(frozen=True)
class Command(pages.Settings):
    """The flags of this program."""

    checkpoint: str = "tamil"  # name or folder of a Tamil run
    seeds: int = 5  # the number of seeds of each way
    num: int = 40  # couplets per seed
    examples: int = 3  # couplets that the page shows for each way


def behind(rows, before, couplets, tokenizer, seed):
    """Return each of `rows`, lists of tokens, behind the last `before` letters of random real `couplets`."""
    draw = random.Random(seed)
    longer = []
    for row in rows:
        context = []
        while len(context) < before:
            context += tokenizer.encode("\n\n" + draw.choice(couplets))
        longer.append(context[len(context) - before :] + row)
    return longer


def write(model, tokenizer, couplets, way, number, seed):
    """Return (couplets that the model writes in one of WAYS, the number of passes)."""
    before, sampler = WAYS[way]
    forms = verse.couplet_rows(couplets, number, tokenizer, seed)
    canvas = torch.tensor(behind(forms, before, couplets, tokenizer, seed))
    torch.manual_seed(seed)
    with verse.only_letters(model, tokenizer):
        states = list(generation.generate(model, canvas, steps=64, temperature=0.8, denoise=sampler))
    written = [tokenizer.decode(row[before:]).strip("\n") for row in states[-1].canvas]
    return written, len(states)


def measure_way(model, tokenizer, train, val, way, settings):
    """Return the numbers of one way: each measure as [mean over the seeds, its standard error], and some couplets."""
    vocabulary, reader = set(measures.words_of(tamil.joined(train))), verse.Reader(val)
    began = time.process_time()
    found, examples = [], []
    for seed in range(1, settings.seeds + 1):
        written, passes = write(model, tokenizer, train["kural"], way, settings.num, seed)
        found.append(verse.verse_measures(written, vocabulary, reader))
        examples = examples or written[: settings.examples]
    row = {"way": way, "passes": passes, "seconds": round((time.process_time() - began) / settings.seeds, 1)}
    for name in COLUMNS:
        values = [one[name] for one in found]
        error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0
        row[name] = [round(statistics.fmean(values), 4), round(error, 4)]
    return row | {"examples": examples}


def measure_real(train, val):
    """Return the same measures of all held-out couplets, with errors over the couplets."""
    vocabulary, reader = set(measures.words_of(tamil.joined(train))), verse.Reader(val)
    found = measures.with_errors(lambda couplets: verse.verse_measures(couplets, vocabulary, reader), val["kural"])
    shares = {name: [round(found[name], 4), round(found[f"{name}_error"], 4)] for name in COLUMNS}
    return {"couplets": len(val["kural"])} | shares


def measure(settings):
    """Return the numbers of the page."""
    model, tokenizer, info = checkpoint.load(checkpoint.find(settings.checkpoint, "tamil"), kinds=("tamil",))
    _, train, val = verse.read_corpus(info, needed=True)
    rows = []
    for way in WAYS:
        print(way, flush=True)
        rows.append(measure_way(model, tokenizer, train, val, way, settings))
    return {"origin": pages.origin("couplets", torch.device("cpu")), "NELBO": info["NELBO"], "seeds": settings.seeds,
            "number": settings.num, "rows": rows, "real": measure_real(train, val)}


def tables(values):
    """Return the table of the page, and the couplets that it shows for each way."""
    rows = [*values["rows"], {"way": "real, held-out", "passes": ""} | values["real"]]
    cells = []
    for row in rows:
        shares = [f"{100 * mean:.1f} ± {100 * error:.1f}" for mean, error in (row[name] for name in COLUMNS)]
        cells.append([row["way"], row["passes"], *shares])
    examples = [f"{row['way'].capitalize()}:\n\n```text\n" + "\n\n".join(row["examples"]) + "\n```"
                for row in values["rows"]]
    return {"ways": pages.table(cells, ["way", "passes", *COLUMNS.values()]), "examples": "\n\n".join(examples)}


if __name__ == "__main__":
    cli.run(lambda: pages.run("tamil_couplets", Command, measure, tables=tables))
