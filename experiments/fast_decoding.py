"""Makes the page docs/fast_decoding.md: can a dLLM write in fewer passes without writing worse?

    python -m experiments.fast_decoding --dllm shakespeare --gpt shakespeare-gpt --size full    # hours on two cores
    python -m experiments.fast_decoding              # your latest models, few texts: half an hour on two cores
    python -m experiments.fast_decoding --render     # only write the page again, from docs/fast_decoding.json

Chapter 11 explains the best rules, and decoding_rules.py contains all other rules.
"""

import functools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

from experiments import decoding_rules as appendix
from experiments import pages
from experiments.dllm_vs_gpt import with_error
from plumbing import cli, devices, text

import torch
import torch.nn.functional as F

tensors = import_module("01_tensors")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
generation = import_module("06_generate")
gpt_training = import_module("07_train_gpt")
comparison = import_module("10_dllm_vs_gpt")
fast = import_module("11_fast_decoding")

NAME = "fast_decoding"
LENGTHS = (256, 1024)  # lengths of the texts, in characters
SIZES = {"quick": (16, 4), "full": (64, 64)}  # number of texts of each length
REPEATS = 3  # measurements of each speed
MEASURES = {"words": "known words", "judge": "judge's NLL", "distinct": "distinct runs of 4",
            "divergence": "divergence"}
KINDS = {  # kinds of ways of writing: {kind: (colour, name in the figure)}
    "default": (tensors.COLORS["dllm"], "default, in 16, 64 and 96 passes"),
    "fast": ("tab:cyan", "--fast"),
    "GPT": (tensors.COLORS["gpt"], "GPT, at four temperatures"),
    "order": ("tab:green", "other orders, no correction"),
    "correction": ("tab:pink", "other orders, with correction"),
    "block": ("tab:purple", "blocks from left to right"),
    "cache": ("tab:brown", "prefix, dual and delayed cache"),
    "rule": (tensors.COLORS["other"], "apart 12"),
}
# The ways of writing in the page's first table: first for short texts, then for long texts. Their names are those in
# `ways`. The table also has lines for the GPT.
CHOSEN = (("default", "`--fast`", "default with 16 passes", "scattered, 64 passes, no correction",
           "confidence, 64 passes", "threshold 0.9, blocks of 32, dual"), ("default", "`--fast`"))


@dataclass(frozen=True)
class Command(pages.Settings):
    """The flags of this program."""

    dllm: str = ""  # name or folder of the dLLM's run; by default your latest run, or the shipped model
    gpt: str = ""  # name or folder of the GPT's run
    corpus: str = "shakespeare"  # the text from which both models have learned: shakespeare, or the path of a text file
    size: Literal["quick", "full"] = "quick"  # how much to measure
    seed: int = 1  # seed of all random numbers
    device: str = "auto"  # auto, cpu, cuda or mps


# 1. What to measure


@dataclass(frozen=True)
class Way:
    """One way of writing texts: a line of the tables."""

    kind: str  # a key of KINDS
    name: str
    model: torch.nn.Module  # a dLLM, or a GPT, which writes as in chapter 07
    steps: int  # the largest number of passes for a window
    temperature: float
    denoise: Callable  # for a dLLM: the sampler of chapter 04, or another sampler with the same arguments
    same_without: str | None = None  # for a way with a cache: the name of the same way without a cache

    def write(self, prompts, length, seed):
        """Continue prompts (B, P). Returns tokens (B, length) and the number of passes per text.

        If a text is longer than a dLLM's window, it is written window by window, as in chapter 06. While a finished
        text waits for the other texts of its batch, no passes are counted for it.
        """
        torch.manual_seed(seed)
        missing = length - prompts.shape[1]
        if self.model.config.causal:
            return gpt_training.write(self.model, prompts, missing, self.temperature), missing
        canvas = F.pad(prompts, (0, missing), value=self.model.config.mask_id)  # (B, T)
        passes = 0.0
        for state in generation.generate(self.model, canvas, self.steps, self.temperature, None, self.denoise):
            passes += state.committed.any(1).float().mean().item()
        return state.canvas, passes


def ways(dllm, gpt, length):
    """Yield every Way that is measured for texts of this length."""

    def way(kind, name, steps=None, temperature=0.8, same_without=None, model=dllm, **how):
        own = functools.partial(fast.denoise_blocks, **how) if how else diffusion.denoise
        return Way(kind, name, model, steps or length, temperature, own, same_without)

    yield way("default", "default", 96, 1.05)  # these two ways are those of chapter 06
    yield way("fast", "`--fast`", 32, 0.85)
    for temperature in (0.8, 0.9, 0.95, 1.0):
        yield way("GPT", "GPT with KV cache", temperature=temperature, model=gpt)
    yield way("order", "confidence, 64 passes", 64, select=diffusion.by_confidence)
    if length > dllm.config.seq_len:
        return
    for passes in (64, 16):
        yield way("default", f"default with {passes} passes", passes, 1.05)
    yield way("order", "scattered, 64 passes, no correction", 64, select=diffusion.scattered)
    yield from ways_of_the_literature(way)


def ways_of_the_literature(way):
    """Yield ways with rules, blocks, caches and correction from the literature. They are measured on short texts."""
    for name, rule in (("random", appendix.at_random), ("peak", appendix.by_peak), ("margin", appendix.by_margin),
                       ("noisy", appendix.noisy), ("isolated", appendix.isolated),
                       ("ancestral", appendix.Ancestral(64))):
        yield way("order", f"{name}, 64 passes", 64, select=rule)
    for name, rule in (("ancestral", appendix.Ancestral(32)), ("confidence", diffusion.by_confidence),
                       ("isolated", appendix.isolated)):
        yield way("correction", f"{name}, 32 passes and 32 of correction", 32, select=rule, correction=32)
    name = "confidence, blocks of 32, 64 passes"
    for kind, cache, reader in (("block", "", fast.BlockModel), ("cache", ", prefix", appendix.PrefixBlockModel),
                                ("cache", ", dual", fast.CachedBlockModel)):
        yield way(kind, name + cache, 64, same_without=name, select=diffusion.by_confidence, block=32, reader=reader)
    for rule, select in (("threshold 0.9", fast.threshold(0.9)), ("factor 1", fast.factor(1.0)),
                         ("entropy 0.5", fast.entropy_bound(0.5)), ("stable 0.01", appendix.Stable(0.01))):
        yield way("block", f"{rule}, blocks of 32, dual", select=select, block=32, reader=fast.CachedBlockModel)
    apart = appendix.apart(12)
    yield way("rule", "apart 12", select=apart)
    for name, refresh in (("delayed", 0), ("delayed, refreshed", 8)):
        reader = functools.partial(appendix.DelayedBlockModel, refresh=refresh)
        yield way("cache", f"apart 12, {name}", same_without="apart 12", select=apart, reader=reader)
    yield way("correction", "apart 12, and 16 of correction", select=apart, correction=16)


# 2. How to measure


def measure(settings):
    """Measure every Way with the models in the settings. Print a line for each Way, and return all numbers."""
    device = devices.pick_device(settings.device)
    torch.set_float32_matmul_precision("high")
    corpus = text.load(settings.corpus)
    dllm, gpt, tokenizer, about = comparison.load_pair(settings.dllm, settings.gpt, corpus, device)
    learned, unseen = text.split(corpus.text)
    tokens = torch.tensor(tokenizer.encode(unseen), device=device)
    parts = []
    for length, texts in zip(LENGTHS, SIZES[settings.size]):
        windows = tokens[: len(tokens) // length * length].view(-1, length)
        rows = training.evenly(windows, texts)  # (N, T)
        if len(rows) < 2:
            raise cli.UserError(f"{corpus.name} is too short to measure on: its last tenth must fill several texts")
        tensors.heading(f"{len(rows)} texts of {length} characters")
        yardstick, _ = comparison.make_yardstick(rows, windows, tokenizer, learned)
        parts.append(measure_part(list(ways(dllm, gpt, length)), rows, yardstick, tokenizer, settings.seed))
    return {"origin": pages.origin(NAME, device), "seed": settings.seed, **about, "size": settings.size,
            "parts": parts}


def measure_part(ways, rows, yardstick, tokenizer, seed):
    """Measure the quality and the speed of each Way in `ways`, for texts of T characters.

    Each Way first writes a batch of N texts that begin with the first tokens of `rows` (N, T). After that, the ways
    take turns to write single texts, so that other work on the machine slows all ways equally. The speed for one text
    is the median over the single texts.
    """
    N, T = rows.shape
    table = [measure_batch(way, rows, yardstick, tokenizer, seed) for way in ways]
    times = [[] for _ in ways]
    for turn in range(REPEATS):
        for way, seconds in zip(ways, times):
            seconds.append(write_timed(way, rows[turn % N : turn % N + 1, :1], T, seed + turn)[2])
    for row, seconds in zip(table, times):
        row["rate"] = (T - 1) / statistics.median(seconds)
    return {"length": T, "texts": N, "real": yardstick.real, "spread": yardstick.spread, "table": table}


def write_timed(way, prompts, length, seed):
    """Return (tokens, number of passes, seconds) of texts that continue prompts (B, P)."""
    began = time.perf_counter()
    tokens, passes = way.write(prompts, length, seed)
    tokens = tokens.cpu()  # this waits for a GPU
    return tokens, passes, time.perf_counter() - began


def measure_batch(way, rows, yardstick, tokenizer, seed):
    """Return the table's line for one way of writing: the measures and the cost of its texts.

    The texts begin with the first tokens of `rows` (N, T).
    """
    N, T = rows.shape
    computed = []  # number of rows that each forward pass computes
    hook = way.model.register_forward_pre_hook(lambda module, inputs: computed.append(inputs[0].numel()))
    tokens, passes, seconds = write_timed(way, rows[:, :1], T, seed)
    hook.remove()
    texts = [tokenizer.decode(row) for row in tokens]
    row = {"kind": way.kind, "name": way.name, "temperature": way.temperature, "nfe": passes,
           "rows": sum(computed) / N / (T - 1), "batch_rate": N * (T - 1) / seconds,
           "same_without": way.same_without, **yardstick.quality(texts), "first": texts[0]}
    print("  {name:44} {temperature:<4} {nfe:6.0f} passes   known words {words:.1%}   judge {judge:.3f}   "
          "distinct {distinct:.1%}   {batch_rate:,.0f} characters/s".format(**row), flush=True)
    return row


# 3. Reading the numbers


def further(row, base, real):
    """Return the measures in which `row` is further from real text than `base`.

    The difference must be larger than two standard errors.
    """
    found = []
    for key, name in MEASURES.items():
        compared = comparison.nearer(name, "", row, base, real, key)
        if compared["advantage"] < -2 * compared["error"]:
            found.append(name)
    return found


def fastest(part, base):
    """Return the fastest dLLM line that is not further from real text than the line `base` in any measure.

    If there is no such line, return None. See the function `further`.
    """
    rows = [row for row in part["table"] if row["kind"] != "GPT" and not further(row, base, part["real"])]
    return max(rows, key=lambda row: row["rate"], default=None)


def best_gpt(part):
    """Return the GPT's best line: the line whose largest distance from real text is smallest."""
    return min((row for row in part["table"] if row["kind"] == "GPT"), key=lambda row: row["largest"][0])


def find(part, name):
    return next(row for row in part["table"] if row["name"] == name)


def title(row):
    return f"{row['name']}, temperature {row['temperature']:g}"


# 4. Tables


def tables(values):
    """Return the tables and the example text of the page, and the numbers that its sentences quote."""
    short, long = values["parts"]
    fast = find(short, "`--fast`")
    gpt = best_gpt(short)
    lost = [further(find(part, "`--fast`"), find(part, "default"), part["real"]) for part in (short, long)]
    best = [fastest(part, best_gpt(part)) for part in (short, long)]
    return {
        "chosen": chosen_table(values["parts"]), "caches": caches_table(short), "ways": ways_table(short),
        "passes": fast["nfe"], "gpt_passes": gpt["nfe"],
        "single": gpt["rate"] / fast["rate"], "slower": gpt["batch_rate"] / fast["batch_rate"],
        "fast_lost": [" and ".join(names) or "nothing" for names in lost],
        "fastest": [row["name"] if row else "none" for row in best],
        "text": fast["first"],
    }


def chosen_table(parts):
    """Return a table of the ways in CHOSEN and of the GPT, for both text lengths."""
    rows = []
    for part, names in zip(parts, CHOSEN):
        gpt = best_gpt(part)
        shown = [find(part, name) for name in names]
        for row in [*shown, gpt]:
            lost = "" if row is gpt else ", ".join(further(row, gpt, part["real"])) or "nowhere"
            rows.append([title(row), part["length"], f"{row['nfe']:.0f}", "{:.1f} ± {:.1f}".format(*row["largest"]),
                         lost, f"{row['rate']:,.0f}", f"{row['batch_rate']:,.0f}"])
    return pages.table(rows, ["way of writing", "characters", "passes", "largest distance",
                              "further from real text than the GPT", "characters/s, one text",
                              f"characters/s, {parts[0]['texts']} texts"])


def quality_cells(row):
    return [with_error(row, key, ".1%" if key in ("words", "distinct") else ".3f") for key in MEASURES]


def ways_table(part):
    """Return the table of all ways, for texts of one length. The first line is real text."""
    rows = [["real text", "", "", "", *quality_cells(part["real"]), "", "", ""]]
    for row in part["table"]:
        rows.append([row["name"], f"{row['temperature']:g}", f"{row['nfe']:.0f}", f"{row['rows']:.1f}",
                     *quality_cells(row), "{:.1f} ± {:.1f}".format(*row["largest"]), f"{row['rate']:,.0f}",
                     f"{row['batch_rate']:,.0f}"])
    return pages.table(rows, ["way of writing", "temperature", "passes", "rows", *MEASURES.values(), "largest distance",
                              "characters/s, one text", f"characters/s, {part['texts']} texts"])


def caches_table(part):
    """Return a table that says how much faster each way is with its cache than without it."""
    rows = []
    lines = {row["name"]: row for row in part["table"]}
    for row in part["table"]:
        plain = lines.get(row["same_without"], row)
        if plain is not row:
            gains = [f"{row[key] / plain[key]:.2f} ×" for key in ("rate", "batch_rate")]
            lost = ", ".join(further(row, plain, part["real"])) or "nowhere"
            rows.append([row["name"], f"{plain['rows']:.1f} → {row['rows']:.1f}", *gains, lost])
    return pages.table(rows, ["way of writing", "rows per character", "one text", "a batch",
                              "further from real text than without the cache"])


# 5. Figures


def draw(values, folder):
    """Save the figure for short texts: the largest distance from real text, against passes and against speed."""
    from matplotlib.ticker import LogLocator  # imported here because it takes a second

    part = values["parts"][0]
    costs = {"nfe": "forward passes", "rate": "characters/s, one text",
             "batch_rate": f"characters/s, {part['texts']} texts"}  # fmt: skip
    figure, axes = tensors.pyplot(show=False).subplots(1, 3, figsize=(11, 4.6), sharey=True, layout="constrained")
    for axis, (x, label) in zip(axes, costs.items()):
        for kind, (color, name) in KINDS.items():
            rows = [row for row in part["table"] if row["kind"] == kind]
            distances, errors = zip(*(row["largest"] for row in rows)) if rows else ((), ())
            axis.errorbar([row[x] for row in rows], distances, errors, fmt="o", ms=5, color=color, label=name)
        axis.set(xscale="log", yscale="log", xlabel=label)
        for scale in (axis.xaxis, axis.yaxis):
            scale.set_major_locator(LogLocator(subs=(1, 2, 5)))
            scale.set_major_formatter("{x:g}")
            scale.set_minor_formatter("")
        axis.grid(alpha=0.3, which="both")
    axes[0].set(ylabel="largest distance from real text")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    pages.save_figure(figure, folder / f"{NAME}_quality.png")


def main(argv=None):
    pages.run(NAME, Command, measure, draw, tables, argv)


if __name__ == "__main__":
    cli.run(main)
