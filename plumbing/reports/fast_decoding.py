"""The page of chapter 11, made of the numbers alone.

    write(results, folder)    FOLDER/fast_decoding.md and .json, and FOLDER/figures/fast_decoding_*.png
"""

from plumbing import figures
from plumbing.reports import comparison_verdicts as verdicts
from plumbing.reports import pages

MEASURES = {"words": "known words", "judge": "judge's NLL", "distinct": "distinct runs of 4",
            "divergence": "divergence"}
COLORS = {"default": figures.COLORS["dllm"], "fast": "tab:cyan", "GPT": figures.COLORS["gpt"], "order": "tab:green",
          "correction": "tab:pink", "block": "tab:purple", "cache": "tab:brown", "rule": figures.COLORS["other"]}
SPELLED_OUT = {"--fast": "`--fast`"}


# 1. Reading the results


def no_further(row, base, real):
    """Is `row` as near to real text as `base`? Up to two standard errors of difference are accepted in each measure."""
    return all(verdicts.nearer(row, base, real, key) != "GPT" for key in MEASURES)  # "GPT" stands for the second one


def best(part, base, rate="rate"):
    """The fastest line of a dLLM in `part` that is as near to real text as the line `base`, or None."""
    rows = [r for r in part["table"] if r["kind"] != "GPT" and no_further(r, base, part["real"])]
    return max(rows, key=lambda r: r[rate], default=None)


def gpt_line(part):
    """The line of the GPT at the temperature with the smallest largest distance."""
    return min((r for r in part["table"] if r["kind"] == "GPT"), key=lambda r: r["largest"][0])


def line(part, name):
    return next((r for r in part["table"] if r["name"] == name), None)


def title(row):
    name = row["name"]
    for short, plain in SPELLED_OUT.items():
        name = name.replace(short, plain)
    return name


def named(row):
    return f"{title(row)}, temperature {row['temperature']:g}"


# 2. The page


def draw_quality(results, plt):
    """Figure: distances from real text against passes and against speed, for texts of the first length."""
    from matplotlib.ticker import LogLocator  # imported here because it takes a second

    part = results["parts"][0]
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), sharex="col", sharey="row", layout="constrained")
    for axis_row, key in zip(axes, ("largest", "mean")):
        for axis, x in zip(axis_row, ("nfe", "rate")):
            for kind, color in COLORS.items():
                rows = [r for r in part["table"] if r["kind"] == kind]
                if rows:
                    axis.errorbar([r[x] for r in rows], [r[key][0] for r in rows], [r[key][1] for r in rows], fmt="o",
                                  ms=5, color=color, label=kind)
            axis.set(xscale="log", yscale="log")
            for scale in (axis.xaxis, axis.yaxis):
                scale.set_major_locator(LogLocator(subs=(1, 2, 5)))
                scale.set_major_formatter("{x:g}")
                scale.set_minor_formatter("")
            axis.grid(alpha=0.3, which="both")
    axes[0, 0].set(ylabel="largest distance from real text")
    axes[1, 0].set(ylabel="mean distance", xlabel="forward passes (NFE)")
    axes[1, 1].set(xlabel="characters/s, one text")
    axes[0, 0].legend(fontsize=8)
    return figure


def page(results):
    """The page as Markdown."""
    by_length = [length_part(part, figure=not i) for i, part in enumerate(results["parts"])]
    sections = INTRODUCTION, *by_length, repetition(results), caches(results), rerun(results)
    return pages.wrap("\n\n".join(part.strip() for part in sections)) + "\n"


INTRODUCTION = """
# Ways to write, measured

This page compares ways in which the diffusion language model (dLLM) and the GPT of the same size write texts. Each line
of a table is one way. The file 11_fast_decoding.py explains the orders, rules and caches that the names mention.

- *Passes* are forward passes of the network for one text (NFE, number of function evaluations). They do not include
  passes in which a text of a batch waits for the other texts.
- *Rows* are the positions that the network computes for each written character.
- *Known words* is the share of words that occur in the training text.
- *Judge's NLL* is the negative log-likelihood of the texts, in nats per character, under a model that counts runs of
  characters in the training text.
- *Distinct runs of 4* is the number of different runs of four characters divided by the number of all such runs. It is
  low where texts repeat themselves.
- *Divergence* is the Jensen-Shannon divergence, in nats, between the frequencies of runs of four characters in the
  texts and in a reference of equally much held-out text and training text. Repetition and noise both raise it.
- The number after ± is the standard error over the texts.

No value is good or bad in itself: good texts are near real text in every measure, and real text is the first line of
each table. The *distance* in a measure is the difference from real text, divided by how far two sets of equally many
real texts usually are apart. So real text has distances of about 1, and a way whose *largest* distance is small cannot
have bought one measure with another. The last column is the mean of the four distances.

*Default* is chapter 06 as it is: half of the passes write characters in a random order, far from each other, and half
of them correct. *GPT with KV cache* keeps the keys and values of earlier characters. A dLLM writes a text that is
longer than its window in several windows. Each window starts a quarter of a window before the text that it adds, and a
cache lasts for one window.

Compare numbers only within one table. The shares of distinct runs fall with the number and the length of the texts,
because the runs of all texts are counted together. All ways take turns to write one text, which gives the speed for one
text, because other work on the machine changes speeds. The speed for a batch is measured once.

![The dLLM writes a text in blocks of four characters](figures/fast_decoding.gif)
"""


def length_part(part, figure):
    """The section about texts of one length. figure: whether it shows the figure."""
    def row(x):
        values = (f"{x['words']:.1%} ± {x['words_error']:.1%}", f"{x['judge']:.3f} ± {x['judge_error']:.3f}",
                  f"{x['distinct']:.1%} ± {x['distinct_error']:.1%}",
                  f"{x['divergence']:.3f} ± {x['divergence_error']:.3f}")
        return values if "name" not in x else (
            title(x), f"{x['temperature']:g}", f"{x['nfe']:.0f}", f"{x['rows']:.1f}", *values, shown(x["largest"]),
            shown(x["mean"]), f"{x['rate']:,.0f}", f"{x['batch_rate']:,.0f}")

    head = ["", "temperature", "passes", "rows", *MEASURES.values(), "largest distance", "mean distance",
            "characters/s, one text", f"characters/s, {part['texts']} texts"]
    rows = [("real text", "", "", "", *row(part["real"]), "", "", "", "")] + [row(x) for x in part["table"]]
    gpt = gpt_line(part)
    fastest = best(part, gpt)
    found = "No way of the dLLM is as near to real text as the GPT in all four measures." if fastest is None else (
        "The fastest way of the dLLM that is as near to real text as the GPT in all four measures is "
        f"*{named(fastest)}*, in {fastest['nfe']:.0f} passes, with {fastest['rate'] / gpt['rate']:.1f} times the GPT's "
        "characters/s for one text.")
    picture = "![Distance from real text against passes and against speed](figures/fast_decoding_quality.png)\n\n"
    return f"""
## {part['length']} characters

{pages.table(head, rows)}

{picture if figure else ""}The next table shows each distance with its sign and its standard error, for the default of
chapter 06, its flag --fast, and the GPT at the temperature at which its largest distance is smallest. The settings of
the first two were chosen with the shipped model on other texts ([logs/sampler-search-2.txt](logs/sampler-search-2.txt),
[logs/sampler-search-3.txt](logs/sampler-search-3.txt)). But earlier measurements of this page decided that some
settings had to be changed: in 64 passes, the default wrote fewer known words than the GPT that is shipped now, and with
the temperature 0.8, the texts of `--fast` were less varied than the default's. While the default corrects, its
temperature falls to 0, so that it may begin above 1. A verdict compares a way with the GPT: it is further
from real text if the distances differ by more than two standard errors. `--fast` is also compared with the default.

{distances(part, gpt)}

{found}

{sample(part)}
"""


def shown(distance):
    return f"{distance[0]:.1f} ± {distance[1]:.1f}"


def distances(part, gpt):
    rows = []
    for x in (line(part, "default"), line(part, "--fast"), gpt):
        bases = {"the GPT": gpt, "the default": line(part, "default")}
        verdict = "; ".join(compare(x, base, name, part["real"]) for name, base in bases.items()
                            if gpt is not x is not base and (name == "the GPT" or x["kind"] == "fast"))
        gaps = (f"{gap:+.1f} ± {error:.1f}" for gap, error in (x["gaps"][key] for key in MEASURES))
        rows.append((named(x), f"{x['nfe']:.0f}", *gaps, verdict))
    return pages.table(["", "passes", *MEASURES.values(), "verdict"], rows)


def compare(row, base, name, real):
    """Say whether `row` is further from real text than `base`, and in which measures."""
    further = [title for key, title in MEASURES.items() if verdicts.nearer(row, base, real, key) == "GPT"]
    return f"further than {name} in {', '.join(further)}" if further else f"as near as {name}"


def sample(part):
    return "\n\n".join(
        f"This is the first text of *{named(row)}*, written in {row['nfe']:.0f} passes and not edited:\n\n"
        + pages.quote(row["first"][:256]) for row in (line(part, "default"), gpt_line(part)))


def repetition(r):
    """Why the order by confidence repeats itself, with the numbers of the first length."""
    part = r["parts"][0]
    chosen = ("ancestral, 32", "scattered", "confidence, 64", "noisy", "isolated, 64")
    rows = [x for x in part["table"] if x["kind"] in ("order", "correction") and x["name"].startswith(chosen)]
    table = [(title(x), f"{x['words']:.1%}", f"{x['judge']:.3f}", f"{x['distinct']:.1%}")
             for x in (part["real"] | {"name": "real text"}, *rows)]
    return f"""
## Why an order by confidence repeats itself

A model is certain about what is common: spaces, the letters of "the", the names that it has just written. An order by
confidence writes such characters first, wherever they may stand, and the rest must fit between them. In the chain rule
of chapter 04 every order is equally likely. But the order by confidence looks at the proposals, so its texts have not
the distribution of the model: what is common becomes still more common. Noise on the confidence (*noisy*), or a
distance between the positions (*isolated*), which was once the default of this book, makes whole words of the common
characters, and not the texts less alike. All lines of this table but the first are at temperature 0.8:

{pages.table(["", *list(MEASURES.values())[:3]], table)}

A random order cannot prefer anything. It makes more errors, because it also writes what the model is not certain about;
so passes of correction follow, which see the text on both sides.

Two other ways to correct were tried on texts that this page does not report
([logs/sampler-search-2.txt](logs/sampler-search-2.txt)). Masking written characters again before all are written, as in
ReMDM (arXiv:2503.00307), helped the model that was shipped before. With the better model of today it makes the texts
less varied, and not nearer to real text. A part of the network that learns which characters are wrong (a quality head,
as in PRISM, arXiv:2510.01384) was not better than the confidence with which a character was written.
"""


def caches(r):
    rows = []
    for part in r["parts"]:
        lines = {(x["name"], x["temperature"]): x for x in part["table"]}
        for x in part["table"]:
            plain = lines.get((x["same_without"], x["temperature"]))
            if plain and plain is not x:
                gains = [x[key] / plain[key] for key in ("rate", "batch_rate")]
                pays = ["pays" if gain > 1 else "does not pay" for gain in gains]
                lost = "" if no_further(x, plain, part["real"]) else "; the texts are further from real text"
                rows.append((part["length"], named(x), f"{plain['rows']:.1f} → {x['rows']:.1f}",
                             f"{gains[0]:.2f} ×, {pays[0]}", f"{gains[1]:.2f} ×, {pays[1]}{lost}"))
    return f"""
## Where a cache pays

A cache pays where the same way of writing is faster with it than without it. The table shows the factors for one text
and for a batch of texts.

{pages.table(["characters", "", "rows per character", "one text", "a batch"], rows)}

A cache saves rows, but the time of a pass does not fall in proportion: below some number of rows, costs that do not
depend on the rows dominate. In a batch, a row must be computed if any of the texts needs it.
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
