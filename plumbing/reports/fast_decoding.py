"""Plumbing: measuring ways to write, and the page of chapter 11, made of the numbers alone.

    measure(ways, rows, ...)    quality, passes and speed of each way to write texts
    write(results, folder)      folder/fast_decoding.md, .json, and folder/figures/fast_decoding_*.png
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import torch
import torch.nn.functional as F

import benchmark
from plumbing import measures
from plumbing.reports import pages as report

generation = import_module("06_generate")
gpt_training = import_module("07_train_gpt")
verse = import_module("09_generate_tamil")
comparison = import_module("10_dllm_vs_gpt")

MEASURES = {"words": "known words", "judge": "judge's NLL", "distinct": "distinct runs of 4"}
COLOURS = {"plain": "tab:blue", "ancestor": "tab:red", "GPT": "tab:orange", "rule": "tab:green", "block": "tab:purple",
           "cache": "tab:brown", "remask": "tab:pink", "fast": "black"}  # fmt: skip


@dataclass(frozen=True)
class Way:
    """One way to write: its line in the tables."""

    kind: str  # of COLOURS
    name: str
    model: torch.nn.Module  # a GPT writes as chapter 07 does
    steps: int  # of a window
    temperature: float
    sampler: Callable  # of the dLLM: chapter 04's, or one that is called and yields like it
    adaptive: bool  # does the sampler end when it is done?
    same_without: str | None = None  # a cache's line: the name of the line that differs in the cache alone

    def write(self, prompts, length, seed):
        """Continue prompts (B, P) to (B, length), longer than the window as chapter 06 does it: tokens, and the
        passes that one text needs."""
        generator = torch.Generator(prompts.device).manual_seed(seed)
        missing = length - prompts.shape[1]
        if self.model.config.causal:
            return gpt_training.generate(self.model, prompts, missing, self.temperature, generator=generator), missing
        canvas = F.pad(prompts, (0, missing), value=self.model.config.mask_id)  # (B, T)
        passes = 0
        for state in generation.generate(
                self.model, canvas, self.steps, self.temperature, None, generator, self.sampler):
            passes = passes + state.committed.any(1).float().mean()  # a text that waits for others needs no pass
        return state.canvas, float(passes) if self.adaptive else state.nfe


def quality(texts, judge, vocabulary):
    """Chapter 10's measures of texts of one length, each with its standard error over the texts."""
    columns = {"words": lambda t: measures.known_words(t, vocabulary), "judge": judge.nll,
               "distinct": measures.distinct}
    values = {}
    for name, measure in columns.items():
        each = torch.tensor([measure([text]) for text in texts])
        values |= {name: measure(texts), f"{name}_error": (each.std() / len(texts) ** 0.5).item()}
    return values


def measure(ways, rows, judge, vocabulary, tokenizer, seed, repeats=3):
    """The line of each way: it continues the first token of rows (N, T) in one batch, and of single rows against the
    clock, `repeats` times, all ways taking turns."""
    ways, device, (N, T), table = list(ways), rows.device, rows.shape, []
    real = quality([tokenizer.decode(row) for row in rows], judge, vocabulary)
    line = "  {:44} {:>4} {:>6} {:>8} {:11.1%} ± {:.1%} {:7.3f} ± {:.3f} {:8.1%} {:>9} characters/s"
    print(line.format("real text", "", "", "", *list(real.values())[:5], ""))
    for way in ways:
        computed = []
        hook = way.model.register_forward_pre_hook(lambda _, inputs, log=computed: log.append(inputs[0].numel()))
        start = benchmark.now(device)
        tokens, nfe = way.write(rows[:, :1], T, seed)
        seconds = benchmark.now(device) - start
        hook.remove()
        texts = [tokenizer.decode(row) for row in tokens]
        table.append({"kind": way.kind, "name": way.name, "temperature": way.temperature, "nfe": nfe,
                      "rows": sum(computed) / N / (T - 1), "batch_rate": N * (T - 1) / seconds,
                      "same_without": way.same_without, **quality(texts, judge, vocabulary), "first": texts[0]})
        shown = [table[-1][key] for key in real][:5]
        work = f"{nfe:.0f}", f"{table[-1]['rows']:.1f}"
        print(line.format(way.name, way.temperature, *work, *shown, f"{table[-1]['batch_rate']:,.0f}"), flush=True)
    times = [[] for _ in ways]
    for turn in range(repeats):
        for way, seconds in zip(ways, times):
            start = benchmark.now(device)
            way.write(rows[turn % N : turn % N + 1, :1], T, seed + turn)
            seconds.append(benchmark.now(device) - start)
    for line, seconds in zip(table, times):
        line["rate"] = (T - 1) / statistics.median(seconds)
    return {"length": T, "texts": N, "real": real, "table": table}


# ---- Reading the results ----


def no_worse(row, base):
    """Is no measure of `row` worse than that of `base` by more than two standard errors of the difference?"""
    better = {"words": 1, "judge": -1, "distinct": 1}
    return all(sign * (row[m] - base[m]) >= -2 * math.hypot(row[f"{m}_error"], base[f"{m}_error"])
               for m, sign in better.items())


def best(part, base, rate="rate"):
    """The fastest dLLM line of a part that is no worse than `base`; None if there is none."""
    rows = [r for r in part["table"] if r["kind"] != "GPT" and no_worse(r, base)]
    return max(rows, key=lambda r: r[rate], default=None)


def named(row):
    return f"{row['name']}, temperature {row['temperature']:g}"


def lines_to_beat(part):
    return [r for r in part["table"] if r["kind"] in ("plain", "ancestor", "GPT")]


# ---- The page ----


def draw_quality(results, plt):
    """Words and judge's NLL against passes and against characters a second, at the first length."""
    part = results["parts"][0]
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), sharex="col", sharey="row", layout="constrained")
    for axis_row, key, scale in zip(axes, ("words", "judge"), (100, 1)):
        for axis, x in zip(axis_row, ("nfe", "rate")):
            for kind, colour in COLOURS.items():
                rows = [r for r in part["table"] if r["kind"] == kind]
                if rows:
                    axis.errorbar([r[x] for r in rows], [scale * r[key] for r in rows],
                                  [scale * r[f"{key}_error"] for r in rows], fmt="o", ms=5, color=colour, label=kind)
            axis.axhline(scale * part["real"][key], ls=":", color="black", label="real text")
            axis.set(xscale="log")
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter("")
            axis.grid(alpha=0.3, which="both")
    axes[0, 0].set(ylabel="known words, %")
    axes[1, 0].set(ylabel="judge's NLL, nats per character", xlabel="passes of the network (NFE)")
    axes[1, 1].set(xlabel="characters/s, one text")
    axes[0, 0].legend(fontsize=8)
    return figure


def page(results):
    parts = (intro, *(lambda r, p=p: length_part(r, p) for p in results["parts"]), caches, rerun)
    return "\n\n".join(part(results).strip() for part in parts) + "\n"


def intro(r):
    return """
# Faster decoding, measured

Every line is a way in which a model writes; chapter 11 has the rules, a few lines each. *Passes* are forward passes of
the network that one text needs (a text of a batch that waits for the others is not charged for it); *rows* are the
positions that went through the network for each character. Known words, judge and distinct runs are chapter 10's; real
text is what to be near to. The error is the standard error over the texts.

The lines to beat: *plain* is chapter 04's sampler, with as many passes as characters, with 64, its default, or fewer;
*surest peak, drawn* commits a fixed number a pass where the largest probability is highest, and draws there, as an
earlier small dLLM does; and the GPT of the same size with its KV buffer. A longer text than the model's window is
written in windows, each half a window further, by every dLLM line alike; a cache lives within a window.

![A text written in blocks of four](figures/fast_decoding.gif)
"""


def length_part(r, part):
    def row(x):
        quality = (f"{x['words']:.1%} ± {x['words_error']:.1%}", f"{x['judge']:.3f} ± {x['judge_error']:.3f}",
                   f"{x['distinct']:.1%} ± {x['distinct_error']:.1%}")
        return quality if "name" not in x else (
            x["name"], f"{x['temperature']:g}", f"{x['nfe']:.0f}", f"{x['rows']:.1f}", *quality, f"{x['rate']:,.0f}",
            f"{x['batch_rate']:,.0f}")

    head = ["", "temperature", "passes", "rows", *MEASURES.values(), "characters/s, one text", f"{part['texts']} texts"]
    rows = [("real text", "", "", "", *row(part["real"]), "", "")] + [row(x) for x in part["table"]]
    wins = []
    for base in lines_to_beat(part):
        x = best(part, base)
        wins.append((named(base), f"{base['nfe']:.0f}", f"{base['rate']:,.0f}", *(
            ("none", "", "") if x is None else ("nothing is faster", "", "") if x is base else
            (named(x), f"{x['nfe']:.0f} ({base['nfe'] / x['nfe']:.1f} × fewer)",
             f"{x['rate']:,.0f} ({x['rate'] / base['rate']:.1f} ×)"))))
    figure = ("![Quality against passes and against speed](figures/fast_decoding_quality.png)\n\n"
              if part is r["parts"][0] else "")
    return f"""
## {part['length']} characters

{report.table(head, rows)}

{figure}What chapter 06 does by default and with `--fast`, against one character a pass: the differences, each with its
standard error. Both were chosen with the shipped model on other texts, with other first characters and seeds:

{presets(part)}

The fastest dLLM line that is no worse than a line to beat (in none of the three measures by more than two
standard errors of the difference). It is picked by the
{part['texts']} texts it is measured on, so a small loss may go unseen:

{report.table(["as good as", "passes", "characters/s", "the fastest", "passes", "characters/s"], wins)}

{sample(part)}
"""


def presets(part):
    base = part["table"][0]
    rows = []
    for x in part["table"]:
        if x["name"].endswith(("(default)", "(--fast)")):
            differences = [f"{scale * (x[m] - base[m]):+.{digits}f} ± "
                           f"{scale * math.hypot(x[f'{m}_error'], base[f'{m}_error']):.{digits}f}"
                           for m, scale, digits in (("words", 100, 1), ("judge", 1, 3), ("distinct", 100, 1))]
            rows.append((named(x), f"{base['nfe'] / x['nfe']:.1f} × fewer", f"{x['rate'] / base['rate']:.1f} ×",
                         *differences))
    return report.table(["", "passes", "characters/s", "known words, points", "judge's NLL", "distinct, points"], rows)


def sample(part):
    base = part["table"][0]
    x = best(part, base)
    if x is None:
        return ""
    return "\n\n".join((
        f"The first text of {named(base)}, in {base['nfe']:.0f} passes, unedited:", report.quote(base["first"][:256]),
        f"and of {named(x)}, in {x['nfe']:.0f}:", report.quote(x["first"][:256])))


def caches(r):
    rows = []
    for part in r["parts"]:
        lines = {(x["name"], x["temperature"]): x for x in part["table"]}
        for x in part["table"]:
            plain = lines.get((x["same_without"], x["temperature"]))
            if plain and plain is not x:
                gains = [x[key] / plain[key] for key in ("rate", "batch_rate")]
                pays = ["pays" if gain > 1 else "does not pay" for gain in gains]
                lost = "" if no_worse(x, plain) else "; the texts are worse"
                rows.append((part["length"], named(x), f"{plain['rows']:.1f} → {x['rows']:.1f}",
                             f"{gains[0]:.2f} ×, {pays[0]}", f"{gains[1]:.2f} ×, {pays[1]}{lost}"))
    return f"""
## Where a cache pays

Each line against the same without its cache: the speed of one text, and of a batch.

{report.table(["characters", "", "rows a character", "one text", "a batch"], rows)}

A cache saves rows, and small matrices do not become faster in proportion: below some number of rows a pass costs what
its smallest parts cost. In a batch, a row must be computed if any of the texts needs it.
"""


def rerun(r):
    origin = r["origin"]
    return f"""
## How to repeat this

    {origin['command']}

Size `{r['size']}`, seed {r['seed']}, dLLM `{r['dllm']['name']}`, GPT `{r['gpt']['name']}`, commit `{origin['commit']}`,
{origin['machine']}, PyTorch {origin['torch']}, {origin['date'][:10]}. All numbers, and the first text of each line, are
in [fast_decoding.json](fast_decoding.json). One text at a time: medians of three runs, all ways taking turns.
"""


def write(results, folder):
    report.publish(results, folder, "fast_decoding", page(results), {"quality": draw_quality})
