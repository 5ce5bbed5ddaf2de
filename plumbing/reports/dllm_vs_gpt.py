"""The page of chapter 10. Every number in its text, tables and figures comes from one dict of results.

    python -m plumbing.reports.dllm_vs_gpt                        # writes docs/dllm_vs_gpt.md again from its JSON file
    python -m plumbing.reports.dllm_vs_gpt --folder FOLDER        # the same for the page in another folder
"""

import json
import math
from dataclasses import dataclass

from plumbing import cli, files, settings
from plumbing.reports import comparison_figures, comparison_parts, pages
from plumbing.reports import comparison_verdicts as verdicts

PARTS = ("likelihood", "samples", "speed", "infilling", "reuse")


def write(results, folder):
    """Write folder/dllm_vs_gpt.md, the same with .json, and folder/figures/dllm_vs_gpt_*.png."""
    draws = {name: getattr(comparison_figures, f"draw_{name}") for name in PARTS}
    pages.publish(results, folder, "dllm_vs_gpt", article(results), draws)


def article(results):
    """Return the whole page as Markdown."""
    five = (getattr(comparison_parts, name) for name in PARTS)
    parts = (intro, *five, wins, rerun)
    return pages.wrap("\n\n".join(part(results).strip() for part in parts)) + "\n"


# 1. The two models


def intro(r):
    size, length = r["corpus"], r["likelihood"]["length"]
    return f"""
# A diffusion language model and a GPT, side by side

Is a diffusion language model (dLLM) better or worse than a GPT? Their training losses cannot answer this question,
because they measure different things. The *likelihood* of a text is the probability that a model gives to it. The
loss of a GPT is the negative log-likelihood (NLL) of the text, divided by the number of characters, and it is exact.
The loss of a dLLM is the mean cost of guessing masked characters while others are visible on both sides. From it
follows the NELBO (negative evidence lower bound, chapter 04), which is an *upper bound* on the dLLM's NLL: the true
NLL is lower, and nobody knows how much lower. So this page compares the models in five ways, and the likelihood is
only one of them. Losses are in nats per character, the unit of the natural logarithm. One nat is
{1 / math.log(2):.2f} bits.

Both models are the Transformer of chapter 03. Both were trained by the loop of chapter 05 on the same
{size['training']:,} characters of the corpus {size['name']}. Everything here is measured on the other
{size['held_out']:,} characters, which neither model has seen, in windows of {length} characters. The table shows what
the two models are, and the settings in which they differ.

{pages.table(["", "dLLM", "GPT"], about(r))}

{fairness(r)}
"""


def about(r):
    """Return the rows of the first table: (name, value of the dLLM, value of the GPT)."""
    rows = [("run", *(f"`{r[m]['name']}`" for m in ("dllm", "gpt"))),
            ("parameters", *(f"{r[m]['parameters']:,}" for m in ("dllm", "gpt")))]
    for key, label, form in (("tokens", "characters seen in training", "{:,}"), ("step", "steps", "{:,}"),
                             ("seconds", "seconds of training", "{:,.0f}"), ("command", "command", "`{}`"),
                             ("machine", "machine", "{}"), ("commit", "commit", "`{}`")):
        values = [r[m]["info"].get(key) for m in ("dllm", "gpt")]
        rows.append((label, *("not recorded" if value is None else form.format(value) for value in values)))
    chosen = [r[m]["model"] | r[m]["info"].get("train", {}) for m in ("dllm", "gpt")]
    shared = [key for key in chosen[0] if key in chosen[1] and key not in ("causal", "steps")]
    rows += [(f"`{key}`", *(s[key] for s in chosen)) for key in shared if chosen[0][key] != chosen[1][key]]
    return rows


def fairness(r):
    """Return a sentence about what is not equal between the two models."""
    found = []
    for label, get in (("parameters", lambda m: m["parameters"]),
                       ("characters in training", lambda m: m["info"].get("tokens")),
                       ("seconds of training", lambda m: m["info"].get("seconds"))):
        x, y = get(r["dllm"]), get(r["gpt"])
        if x and y and max(x, y) > 1.1 * min(x, y):
            found.append(f"the {'dLLM' if x > y else 'GPT'} has {max(x, y) / min(x, y):.1f} times the {label}")
    if r["gpt"]["info"].get("train", {}).get("teachers"):
        found.append("the GPT learned from the predictions of other GPTs (`--teachers` of chapter 07), whose training "
                     "does not count here")
    same = "The parameters, characters in training and seconds of training differ by less than a tenth."
    return f"The comparison is not equal in everything: {'; '.join(found)}." if found else same


# 2. The summary


def wins(r):
    rows = verdicts.decisions(r)
    found = [row[-1] for row in rows]
    dllm, gpt, neither = (found.count(name) for name in ("dLLM", "GPT", verdicts.NO_DIFFERENCE))
    return f"""
## What wins where

{pages.table(["", "dLLM", "GPT", "better"], rows)}

A model counts as better only if the difference exceeds two standard errors. For written texts the better model is the
one *nearer to real text*, so the difference is that of the distances from real text. A mean distance counts all four
measures (part 2). The dLLM writes with its largest number of passes unless the row says otherwise. Each model of the
last rows was trained once, and its error does not include how much another seed would change the result.

Of {len(rows)} rows the dLLM wins {dllm} and the GPT {gpt}; {neither} show no difference. The rows are not
equally important. Which one counts depends on what the model is for.
"""


def rerun(r):
    origin, size = r["origin"], r["size"]
    return f"""
## How to repeat this

    {origin['command']}

Size `{size['name']}`, seed {r['seed']}, commit `{origin['commit']}`, {origin['machine']}, PyTorch {origin['torch']},
{origin['date'][:10]}. The sha256 of the corpus begins with `{r['corpus']['sha256'][:12]}`. All numbers, the settings
of both models and the records of part 5 are in [dllm_vs_gpt.json](dllm_vs_gpt.json), from which `python -m
plumbing.reports.dllm_vs_gpt` writes this page."""


# 3. The command


@dataclass(frozen=True)
class Command:
    """The flag of this program."""

    folder: settings.OptionalPath = None  # folder that holds dllm_vs_gpt.json; by default docs


def main(argv=None):
    folder = settings.parse(Command, argv).folder or files.ROOT / "docs"
    path = folder / "dllm_vs_gpt.json"
    if not path.is_file():
        raise cli.UserError(f"there is no {path}: python 10_dllm_vs_gpt.py --out {folder} writes it")
    write(json.loads(path.read_text(encoding="utf-8")), folder)


if __name__ == "__main__":
    cli.run(main)
