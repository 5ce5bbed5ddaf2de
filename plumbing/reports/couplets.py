"""How near are the written couplets to the Kural, and which way of writing comes nearest?

    python -m plumbing.reports.couplets --checkpoint tamil --name shipped   # measures; minutes on one core
    python -m plumbing.reports.couplets --page                              # only writes the page again

The program writes couplets in several ways, with several seeds, and measures them as chapter 09 does. It adds the
numbers to docs/tamil_couplets.json and writes docs/tamil_couplets.md from them.
"""

import functools
import json
import random
import statistics
import time
from dataclasses import dataclass
from importlib import import_module

import torch

from plumbing import checkpoint, cli, files, measures, settings
from plumbing.reports import pages
from plumbing.settings import Count, Natural, OptionalText, Switch

diffusion = import_module("04_diffusion")
generation = import_module("06_generate")
tamil = import_module("08_train_tamil")
verse = import_module("09_generate_tamil")

FOLDER = files.ROOT / "docs"
NAMES = {"rhyme": "rhyme", "um": "words in -உம்", "train": "known from training", "held": "known from held-out poems"}
WAYS = {  # {name: (letters of real couplets that stand before the written one, the sampler)}
    "random order, then correction (default)": (0, diffusion.denoise),
    "the same behind a real couplet": (42, diffusion.denoise),
    "order by confidence": (0, functools.partial(diffusion.denoise, select=diffusion.by_confidence, mend=0)),
}


@dataclass(frozen=True)
class Command:
    """The flags of this program."""

    checkpoint: OptionalText = None  # name or folder of a Tamil run; by default your latest, or the shipped model
    name: str = "shipped"  # what the page calls this model
    seeds: Count = 5  # the number of seeds of each way
    num: Count = 40  # couplets per seed
    examples: Natural = 3  # couplets that the page shows for each way
    page: Switch = False  # write the page from the numbers that exist, and measure nothing


def behind(rows, before, couplets, tokenizer, seed):
    """Yield each of `rows` behind the last `before` letters of random real `couplets`."""
    draw = random.Random(seed)
    for row in rows:
        context = []
        while len(context) < before:
            context += tokenizer.encode("\n\n" + draw.choice(couplets))
        yield context[len(context) - before :] + row


def write(model, tokenizer, couplets, way, number, seed):
    """Return (couplets that the model writes in one of WAYS, number of passes)."""
    before, sampler = WAYS[way]
    forms = verse.couplet_rows(couplets, number, tokenizer, seed)
    rows = list(behind(forms, before, couplets, tokenizer, seed))
    generator = torch.Generator().manual_seed(seed)
    with verse.only_letters(model, tokenizer):
        *_, last = generation.generate(model, torch.tensor(rows), 64, 0.8, None, generator, sampler)
    return [tokenizer.decode(row[before:]).strip("\n") for row in last.canvas], last.nfe


def measure(model, tokenizer, train, val, way, command):
    """Return the row of one way: {measure: [mean over the seeds, standard error]}, passes, seconds and examples."""
    vocabulary, reader = set(measures.words_of(tamil.joined(train))), verse.Reader(val)
    began, found, examples = time.process_time(), [], []
    for seed in range(1, command.seeds + 1):
        written, passes = write(model, tokenizer, train["kural"], way, command.num, seed)
        found.append(verse.verse_measures(written, vocabulary, reader))
        examples = examples or written[: command.examples]
    row = {"way": way, "passes": passes, "seconds": round((time.process_time() - began) / command.seeds, 1)}
    for key in NAMES:
        values = [one[key] for one in found]
        error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0
        row[key] = [round(statistics.fmean(values), 4), round(error, 4)]
    return row | {"examples": examples}


def real(train, val):
    """Return the same measures of all held-out couplets, with the jackknife's standard error over the couplets."""
    vocabulary, reader = set(measures.words_of(tamil.joined(train))), verse.Reader(val)

    def measure(couplets):
        return verse.verse_measures(couplets, vocabulary, reader)

    found, without = measure(val["kural"]), measures.left_out(measure, val["kural"])
    return {"couplets": len(val["kural"])} | {
        key: [round(found[key], 4), round(measures.jackknife_error([values[key] for values in without]), 4)]
        for key in NAMES}


def shown(value):
    return f"{100 * value[0]:.1f} ± {100 * value[1]:.1f}"


def page(results):
    """Return the page as text. results: what docs/tamil_couplets.json holds."""
    words = results["real"]
    parts = ["# How near the written couplets are to the Kural", (
        "`python -m plumbing.reports.couplets` wrote this page. All numbers are shares in percent. Each way of writing "
        "was measured with several seeds, and ± is the standard error of the mean over the seeds; each seed draws "
        "another form of a real couplet for all its couplets. The last row of a table is about the "
        f"{words['couplets']} held-out couplets, with an error over the couplets."), (
        "- **Rhyme** (எதுகை): the second letters of both lines have the same consonant.\n"
        "- **Words in -உம்**: this ending joins words like \"and\". A model that chains them writes no sentence.\n"
        "- **Known from training poems**: words that also occur there. A model learns its words from these poems, so "
        "this measure is in favour of the model. It cannot say that a text is better than a real one.\n"
        "- **Known from held-out poems**: words that a reader of all held-out poems has met. Neither the model nor the "
        "real poet has this advantage. For a real couplet, the reader has not read this couplet itself.")]
    for name, model in results["models"].items():
        head = ["way", "passes", *NAMES.values()]
        rows = [[row["way"], row["passes"], *(shown(row[key]) for key in NAMES)] for row in model["rows"]]
        rows.append(["real, held-out", "", *(shown(words[key]) for key in NAMES)])
        parts += [f"## Model: {name}", (
            f"Its NELBO is {model['NELBO']:.3f} nats per letter of all held-out poems. {model['seeds']} seeds with "
            f"{model['number']} couplets each, on {model['machine']}; commit {model['commit']}; "
            f"`{model['command'].replace('couplets.py', '-m plumbing.reports.couplets')}`."), pages.table(head, rows)]
    for name, model in results["models"].items():
        for row in model["rows"]:
            if row["examples"]:
                parts.append(f"{name}, {row['way']}, the first couplets of seed 1:")
                parts.append(pages.quote("\n\n".join(row["examples"])))
    return pages.wrap("\n\n".join(parts)) + "\n"


def main(argv=None):
    command = settings.parse(Command, argv)
    path = FOLDER / "tamil_couplets.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"models": {}}
    if not command.page:
        folder = checkpoint.find(command.checkpoint, "tamil")
        model, tokenizer, info = generation.open_model(folder, "cpu")
        _, train, val = verse.read_corpus(info, True)
        origin = pages.origin() | {"seeds": command.seeds, "number": command.num, "NELBO": info.get("NELBO", 0)}
        results["real"] = real(train, val)
        rows = []
        for way in WAYS:
            rows.append(measure(model, tokenizer, train, val, way, command))
            print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
            results["models"][command.name] = origin | {"rows": rows}
            pages.publish(results, FOLDER, "tamil_couplets", page(results), {})  # an interrupted run keeps its rows
    pages.publish(results, FOLDER, "tamil_couplets", page(results), {})


if __name__ == "__main__":
    cli.run(main)
