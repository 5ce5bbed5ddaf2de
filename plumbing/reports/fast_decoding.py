"""The page of chapter 11, made of the numbers alone.

    write(results, folder)    FOLDER/fast_decoding.md and .json, and FOLDER/figures/fast_decoding_*.png
"""

import math

from plumbing import figures
from plumbing.reports import pages

MEASURES = {"words": "known words", "judge": "judge's NLL", "distinct": "distinct runs of 4"}
COLORS = {"plain": figures.COLORS["dllm"], "ancestor": figures.COLORS["other"], "GPT": figures.COLORS["gpt"],
          "rule": "tab:green", "block": "tab:purple", "cache": "tab:brown", "remask": "tab:pink", "fast": "tab:cyan"}
SPELLED_OUT = {"a pass": "per pass", "a window": "per window", "to mend": "of correction", "drawn": "sampled"}


# 1. Reading the results


def no_worse(row, base):
    """Is `row` at least as good as `base`? In each measure, a loss of up to two standard errors is accepted.

    Better means more known words, a lower NLL of the judge, and more distinct runs.
    """
    better = {"words": 1, "judge": -1, "distinct": 1}
    return all(sign * (row[m] - base[m]) >= -2 * math.hypot(row[f"{m}_error"], base[f"{m}_error"])
               for m, sign in better.items())


def best(part, base, rate="rate"):
    """The fastest line of a dLLM in `part` that is no worse than the line `base`, or None."""
    rows = [r for r in part["table"] if r["kind"] != "GPT" and no_worse(r, base)]
    return max(rows, key=lambda r: r[rate], default=None)


def title(row):
    name = row["name"]
    for short, plain in SPELLED_OUT.items():
        name = name.replace(short, plain)
    return name


def named(row):
    return f"{title(row)}, temperature {row['temperature']:g}"


def lines_to_beat(part):
    return [r for r in part["table"] if r["kind"] in ("plain", "ancestor", "GPT")]


# 2. The page


def draw_quality(results, plt):
    """Figure: known words and the judge's NLL against passes and against speed, for texts of the first length."""
    part = results["parts"][0]
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), sharex="col", sharey="row", layout="constrained")
    for axis_row, key, scale in zip(axes, ("words", "judge"), (100, 1)):
        for axis, x in zip(axis_row, ("nfe", "rate")):
            for kind, color in COLORS.items():
                rows = [r for r in part["table"] if r["kind"] == kind]
                if rows:
                    axis.errorbar([r[x] for r in rows], [scale * r[key] for r in rows],
                                  [scale * r[f"{key}_error"] for r in rows], fmt="o", ms=5, color=color, label=kind)
            axis.axhline(scale * part["real"][key], ls=":", color=figures.COLORS["real"], label="real text")
            axis.set(xscale="log")
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter("")
            axis.grid(alpha=0.3, which="both")
    axes[0, 0].set(ylabel="known words, %")
    axes[1, 0].set(ylabel="judge's NLL, nats per character", xlabel="forward passes (NFE)")
    axes[1, 1].set(xlabel="characters/s, one text")
    axes[0, 0].legend(fontsize=8)
    return figure


def page(results):
    """The page as Markdown."""
    by_length = [length_part(part, figure=not i) for i, part in enumerate(results["parts"])]
    sections = INTRODUCTION, *by_length, caches(results), rerun(results)
    return pages.wrap("\n\n".join(part.strip() for part in sections)) + "\n"


INTRODUCTION = """
# Faster decoding, measured

This page compares ways in which the diffusion language model (dLLM) and the GPT of the same size write texts. Each line
of a table is one way. The file 11_fast_decoding.py explains the rules, caches and other methods that the names mention.

- *Passes* are forward passes of the network for one text (NFE, number of function evaluations). They do not include
  passes in which a text of a batch waits for the other texts.
- *Rows* are the positions that the network computes for each written character.
- *Known words* is the share of words that occur in the training text.
- *Judge's NLL* is the negative log-likelihood of the texts, in nats per character, under a model that counts runs of
  characters in the training text.
- *Distinct runs of 4* is the number of different runs of four characters divided by the number of all such runs. It is
  low where texts repeat themselves.
- The number after ± is the standard error over the texts.

Good texts have values near those of real text, which is the first line of each table.

The *lines to beat* are of three kinds. *plain* is the sampler of chapter 04 with one pass per character, with its
default of 64 passes, or with 16. *surest peak, sampled* takes the positions where the largest probability is highest,
and samples a character there, as an earlier small dLLM does. *GPT with KV cache* keeps the keys and values of earlier
characters. A dLLM writes a text that is longer than its window in several windows. Each window starts half a window
after the previous one, and a cache lasts for one window.

Compare numbers only within one table. The share of distinct runs falls with the number and the length of the texts,
because the runs of all texts are counted together. [dllm_vs_gpt.md](dllm_vs_gpt.md) has another number of texts, so its
shares differ, even for real text. Its speeds differ because they come from another run, and other work on the machine
changes speeds. Here all ways take turns to write one text, which gives the speed for one text. The speed for a batch is
measured once.

![The dLLM writes a text in blocks of four characters](figures/fast_decoding.gif)
"""


def length_part(part, figure):
    """The section about texts of one length. figure: whether it shows the figure."""
    def row(x):
        quality = (f"{x['words']:.1%} ± {x['words_error']:.1%}", f"{x['judge']:.3f} ± {x['judge_error']:.3f}",
                   f"{x['distinct']:.1%} ± {x['distinct_error']:.1%}")
        return quality if "name" not in x else (
            title(x), f"{x['temperature']:g}", f"{x['nfe']:.0f}", f"{x['rows']:.1f}", *quality, f"{x['rate']:,.0f}",
            f"{x['batch_rate']:,.0f}")

    head = ["", "temperature", "passes", "rows", *MEASURES.values(), "characters/s, one text",
            f"characters/s, {part['texts']} texts"]
    rows = [("real text", "", "", "", *row(part["real"]), "", "")] + [row(x) for x in part["table"]]
    wins = []
    for base in lines_to_beat(part):
        x = best(part, base)
        found = ("none", "", "") if x is None else ("nothing is faster", "", "") if x is base else (
            named(x), f"{x['nfe']:.0f} ({base['nfe'] / x['nfe']:.1f} × fewer)",
            f"{x['rate']:,.0f} ({x['rate'] / base['rate']:.1f} ×)")
        wins.append((named(base), f"{base['nfe']:.0f}", f"{base['rate']:,.0f}", *found))
    picture = "![Quality against passes and against speed](figures/fast_decoding_quality.png)\n\n"
    return f"""
## {part['length']} characters

{pages.table(head, rows)}

{picture if figure else ""}The next table compares the default of chapter 06 and its flag --fast with one character
per pass. It shows the differences, each with its standard error. Both settings were chosen with the shipped model on
other texts, with other first characters and other seeds.

{presets(part)}

The next table names, for each line to beat, the fastest line of the dLLM that is no worse: its shares are not lower,
and its judge's NLL is not higher, by more than two standard errors of the difference. This choice uses the same
{part['texts']} texts as the measurement, so a small loss of quality may remain unnoticed.

{pages.table(["line to beat", "passes", "characters/s", "fastest that is no worse", "passes", "characters/s"], wins)}

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
    return pages.table(["", "passes", "characters/s", "known words, percentage points", "judge's NLL",
                        "distinct runs, percentage points"], rows)


def sample(part):
    base = part["table"][0]
    x = best(part, base)
    if x is None:
        return ""
    return "\n\n".join(
        f"This is the first text of *{named(row)}*, written in {row['nfe']:.0f} passes and not edited:\n\n"
        + pages.quote(row["first"][:256]) for row in (base, x))


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

A cache pays where the same way of writing is faster with it than without it. The table shows the factors for one text
and for a batch of texts.

{pages.table(["characters", "", "rows per character", "one text", "a batch"], rows)}

A cache saves rows, but the time of a pass does not fall in proportion: below some number of rows, costs that do not
depend on the rows dominate. In a batch, a row must be computed if any of the texts needs it. Blocks of 64 make the rule
`apart` slower, because fewer characters of a block than of the whole text can be far apart.
"""


def rerun(r):
    origin = r["origin"]
    return f"""
## How to repeat this

    {origin['command']}

Size `{r['size']}`, seed {r['seed']}, dLLM `{r['dllm']['name']}`, GPT `{r['gpt']['name']}`, commit `{origin['commit']}`,
{origin['machine']}, PyTorch {origin['torch']}, {origin['date'][:10]}. The speed for one text is the median of three
measurements. The file [fast_decoding.json](fast_decoding.json) holds all numbers and the first text of each line. With
--out docs the program writes these files into docs/, and otherwise into the folder of the dLLM's run.
"""


def write(results, folder):
    pages.publish(results, folder, "fast_decoding", page(results), {"quality": draw_quality})
