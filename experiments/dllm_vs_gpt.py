"""Makes the page docs/dllm_vs_gpt.md: chapter 10 for three equal pairs of models, and for the shipped pair.

    python -m experiments.equal_pair                    # first: train the equal pairs, two hours on two cores
    python -m experiments.dllm_vs_gpt                   # an hour on two cores
    python -m experiments.dllm_vs_gpt --only speed      # only the speeds again, on a quiet machine: five minutes
    python -m experiments.dllm_vs_gpt --render          # only write the page again, from docs/dllm_vs_gpt.json
"""

import math
import statistics
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Literal

from experiments import equal_pair, pages
from plumbing import cli, devices, measures, text

import torch

tensors = import_module("01_tensors")
comparison = import_module("10_dllm_vs_gpt")

NAME = "dllm_vs_gpt"
SHIPPED = {"dllm": "shakespeare", "gpt": "shakespeare-gpt"}
LEARNERS = {"dllm": "dLLM", "gpt": "GPT", "decayed": "GPT with weight decay"}  # the models of part 5
COLORS = tensors.COLORS | {"decayed": tensors.COLORS["other"]}


@dataclass(frozen=True)
class Command(pages.Settings):
    """The flags of this program."""

    # what to measure; the page keeps its other numbers
    only: Literal["all", "equal", "shipped", "reuse", "speed"] = "all"
    size: Literal["auto", "quick", "gpu"] = "auto"  # how much to measure, as in chapter 10
    seed: int = 1  # seed of all random numbers
    device: str = "auto"  # auto, cpu, cuda or mps


# 1. Measuring


def measure(settings):
    """Measure what the setting `only` names, and return all numbers of the page.

    Numbers that are not measured again stay as they are on the page.
    """
    device = devices.pick_device(settings.device)
    torch.set_float32_matmul_precision("high")
    _, size = comparison.pick_size(settings.size, device)
    corpus = text.load("shakespeare")
    runs = equal_pair.read()
    names = [(dllm["run"], gpt["run"]) for dllm, gpt in zip(*runs["chosen"].values())]
    pairs = [comparison.Pair(*pair, corpus, device) for pair in (*names, SHIPPED.values())]
    values = pages.earlier(NAME, settings.only, settings.out)
    if settings.only in ("all", "speed"):  # measured first, while the machine is still quiet
        speeds = [comparison.speed(pair.dllm, pair.gpt, pair.windows, size) for pair in (pairs[0], pairs[-1])]
        values["speed"] = dict(zip(("equal", "shipped"), speeds))
    if settings.only in ("all", "equal"):
        more = replace(size, exact=max(size.exact, 12))  # windows for the exact NLL; the equal models are small
        values["equal"] = [pair.about | comparison.measure_texts(pair, more, settings.seed) for pair in pairs[:-1]]
        values |= {"seed": settings.seed, "search": summary(runs)}
        values["corpus"] = {"training": len(pairs[0].train_text), "held_out": pairs[0].windows.numel()}
    if settings.only in ("all", "shipped"):
        less = replace(size, samples=size.samples // 2, exact=size.exact // 2)  # the shipped models are large
        values["shipped"] = pairs[-1].about | comparison.measure_texts(pairs[-1], less, settings.seed)
    if settings.only in ("all", "reuse"):
        parts = text.split(corpus.text)
        values["reuse"] = comparison.reuse(parts, size, settings.seed, pairs[0].tokenizer, device)
    origin = pages.origin(NAME, device)
    for part in ("equal", "shipped", "reuse", "speed") if settings.only == "all" else (settings.only,):
        values["origins"][part] = origin
    return values


def summary(runs):
    """Return what the page says about the training of the equal pairs."""
    found = {}
    for side, chosen in runs["chosen"].items():
        searched = [run for run in runs["search"] if run["run"].startswith(f"equal-{side}-")]
        every = {run["run"]: run for run in searched + chosen}
        seconds = [run["curve"][-1]["seconds"] for run in every.values()]
        found[side] = {"runs": chosen, "values": [run["value"] for run in chosen], "seconds": seconds,
                       "steps": chosen[0]["curve"][-1]["step"], "factor": chosen[0]["factor"],
                       "weight_decay": chosen[0]["weight_decay"], "searched": searched}
    return found


def mean_of(objects):
    """Return the mean of several numbers. For dicts or lists of the same form, return the mean of each entry.

    For other types, return the first object.
    """
    first = objects[0]
    if isinstance(first, dict):
        return {key: mean_of([other[key] for other in objects]) for key in first}
    if isinstance(first, (list, tuple)):
        return [mean_of(same) for same in zip(*objects)]
    if isinstance(first, (int, float)) and not isinstance(first, bool):
        return statistics.fmean(objects) if len(set(objects)) > 1 else first
    return first


def over_pairs(pairs):
    """Return the rows of chapter 10's last table, averaged over several pairs of models.

    The standard errors include how much the results of the pairs differ.
    """
    rows = []
    for same in zip(*pairs):
        row = mean_of(same)
        advantages = torch.tensor([other["advantage"] for other in same])
        _, error_of_seeds = measures.mean_and_error(advantages)
        rows.append(row | {"error": math.hypot(row["error"], error_of_seeds)})
    return rows


# 2. Tables


def with_error(row, key, form=".3f"):
    """Return a string: the number `row[key]` and the standard error of this number."""
    return f"{row[key]:{form}} ± {row[f'{key}_error']:{form}}"


def tables(values):
    """Return the tables and the quoted texts of the page."""
    equal = mean_of(values["equal"])
    shipped = values["shipped"]
    questions = [comparison.questions(pair | {"speed": values["speed"]["equal"]}) for pair in values["equal"]]
    values["equal_rows"] = over_pairs(questions)
    blanks = []
    for row in equal["infilling"]["table"]:
        shares = [with_error(row, key, ".1%") for key in ("dllm", "gpt", "gpt_tries", "bigram")]
        blanks.append((row["blank"], *shares))
    epochs = []
    for run in values["reuse"]["runs"]:
        best, end = run["best"], run["end"]
        epochs.append((f"{run['fraction']:.0%} ({run['characters']:,})", LEARNERS[run["model"]], f"{best['loss']:.3f}",
                       f"{best['epochs']:.1f}", f"{end['loss']:.3f}", f"{end['epochs']:.1f}"))
    names = [f"{noun}, {shipped[kind]['parameters'] / 1e6:.1f}M parameters, "
             f"{shipped[kind]['characters_read'] / 1e6:.0f}M characters read"
             for kind, noun in (("dllm", "dLLM"), ("gpt", "GPT, after two teachers"))]
    seconds = values["search"]["dllm"]["seconds"], values["search"]["gpt"]["seconds"]
    return {
        "equal": verdict_table(values["equal_rows"], ["dLLM", "GPT"]),
        "seconds_ratio": f"{sum(seconds[0]) / sum(seconds[1]):.2f}",
        "loose_equal": loose(equal["looseness"]),
        "loose_shipped": loose(shipped["looseness"]),
        "shipped": verdict_table(comparison.questions(shipped | {"speed": values["speed"]["shipped"]}), names),
        "search": search_table(values["search"]),
        "looseness": looseness_table(equal["looseness"], shipped["looseness"]),
        "samples": samples_table(equal["samples"]),
        "blanks": pages.table(blanks, ["characters in the blank", "dLLM", "GPT, left side only",
                                       f"GPT, the best of {equal['infilling']['tries']} tries", "bigram"]),
        "speed": speed_table(values["speed"]["equal"]),
        "reuse": pages.table(epochs, ["part of the text (characters)", "model", "lowest", "epochs until then",
                                      "at the end", "epochs in all"]),
        "text_dllm": comparison.best_row(values["equal"][0]["samples"], "dllm")["first"],
        "text_gpt": comparison.best_row(values["equal"][0]["samples"], "gpt")["first"],
    }


def verdict_table(rows, names):
    lines = []
    for row, verdict in zip(rows, comparison.verdicts(rows)):
        numbers = [format(row[key], row["form"]) for key in ("dllm", "gpt")]
        lines.append((row["question"], *numbers, verdict))
    return pages.table(lines, ["", *names, "better"])


def search_table(search):
    """Return a table of the learning rates and weight decays that were tried: a line for each combination."""
    lines = {}
    for side in search.values():
        for run in side["searched"]:
            line = lines.setdefault((run["factor"], run["weight_decay"]), {})
            line[run["measure"]] = f"{run['value']:.3f}"
    rows = [(f"{factor:g} ×", f"{decay:g}", line.get("NELBO", ""), line.get("NLL", ""))
            for (factor, decay), line in sorted(lines.items())]
    return pages.table(rows, ["learning rates", "weight decay", "dLLM, NELBO", "GPT, NLL"])


def loose(part):
    """Return how far the tightest bound is below the mean NLL over random orders, as a share of this mean."""
    rows = {row["name"]: row for row in part["rows"]}
    mean = rows["the mean over random orders"]["NLL"]
    lowest = min(row["NLL"] for name, row in rows.items() if name.startswith("-log"))
    return f"{1 - lowest / mean:.1%}"


def looseness_table(*parts):
    """Return the table of the NLL in several orders, for the equal dLLMs and for the shipped dLLM.

    Each NLL is followed by its difference from the mean over random orders.
    """
    rows = []
    for same in zip(*(part["rows"] for part in parts)):
        cells = []
        for row in same:
            cells.append(with_error({"NLL": row["NLL"], "NLL_error": row["error"]}, "NLL"))
            cells.append(f"{row['minus']:+.3f} ± {row['minus_error']:.3f}" if row.get("minus") else "")
        rows.append((same[0]["name"], *cells))
    return pages.table(rows, ["", "equal dLLMs", "difference", "shipped dLLM", "difference"])


def samples_table(samples):
    rows = []
    for row in (samples["real"], *samples["table"]):
        distance = "{:.1f} ± {:.1f}".format(*row["mean"]) if "mean" in row else ""
        rows.append((LEARNERS.get(row.get("model"), "real text"), row.get("nfe", ""), row.get("temperature", ""),
                     with_error(row, "words", ".1%"), with_error(row, "distinct", ".1%"), with_error(row, "divergence"),
                     with_error(row, "judge"), f"{row['copied']:.0f}", distance))
    return pages.table(rows, ["", "passes", "temperature", "known words", "distinct runs", "divergence", "judge's NLL",
                              "longest copy", "mean distance"])


def speed_table(speed):
    """Return the table of speeds. The number in brackets is the speed relative to the GPT."""
    table = speed["table"]
    of_gpt = {row["batch"]: row["characters_per_second"] for row in table if row["model"] == "gpt"}
    lines = {}
    for row in table:
        rate = row["characters_per_second"]
        line = lines.setdefault((row["model"], row["nfe"]), [])
        line.append(f"{rate:,.0f} ± {row['error']:,.0f} ({rate / of_gpt[row['batch']]:.2f} ×)")
    rows = [(LEARNERS[model], passes, *line) for (model, passes), line in lines.items()]
    return pages.table(rows, ["", "passes", *(f"characters/s, batches of {batch}" for batch in of_gpt)])


# 3. Figures


def draw(values, folder):
    """Save the figures of the page."""
    plt = tensors.pyplot(show=False)
    pages.save_figure(draw_likelihood(mean_of(values["equal"]), plt), folder / f"{NAME}_likelihood.png")
    pages.save_figure(draw_reuse(values, plt), folder / f"{NAME}_reuse.png")


def column(rows, key):
    return [row[key] for row in rows]


def label_plainly(axis):
    """Label a logarithmic x axis with plain numbers: 1, 2, 5, 10, 20, …"""
    axis.set_xscale("log", subs=(2, 5))
    axis.xaxis.set_major_formatter("{x:,g}")
    axis.xaxis.set_minor_formatter("{x:,g}")


def draw_likelihood(values, plt):
    """Draw two panels: the dLLM's loss by noise level, and both models' losses by number of visible characters."""
    both = values["likelihood"]
    levels, positions = both["dllm"]["levels"], both["gpt"]["positions"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
    dots = dict(marker="o", ms=3, color=COLORS["dllm"])
    left.errorbar(column(levels, "t"), column(levels, "loss"), column(levels, "error"), label="dLLM, ℓ(t)", **dots)
    left.axhline(both["dllm"]["NELBO"], ls="--", color=COLORS["dllm"], label="NELBO, the mean of ℓ(t)")
    left.axhline(both["gpt"]["NLL"], ls="--", color=COLORS["gpt"], label="GPT's NLL")
    left.set(xlabel="t, share of characters masked", ylabel="nats per character", ylim=(0, None))
    right.errorbar(column(levels, "visible"), column(levels, "loss"), column(levels, "error"),
                   label="dLLM, at random places", **dots)
    middles = [math.sqrt(low * high) for low, high in column(positions, "visible")]
    right.errorbar(middles, column(positions, "loss"), column(positions, "error"), marker="s", ms=3,
                   color=COLORS["gpt"], label="GPT, all to the left")
    right.set(xlabel="characters visible")
    label_plainly(right)
    for axis in (left, right):
        axis.legend(fontsize=9)
        axis.grid(alpha=0.3)
    return figure


def draw_reuse(values, plt):
    """Draw the NELBO or NLL of unseen text by epoch, one panel per model. A star marks each curve's lowest point."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 4), sharey=True, layout="constrained")
    for axis, (model, name) in zip(axes, LEARNERS.items()):
        runs = [run for run in values["reuse"]["runs"] if run["model"] == model]
        for run, alpha in zip(runs, (0.4, 0.7, 1.0)):
            axis.plot(column(run["curve"], "epochs"), column(run["curve"], "loss"), marker="o", ms=3, alpha=alpha,
                      color=COLORS[model], label=f"{run['fraction']:.0%}, {run['characters']:,} characters")
            axis.plot(run["best"]["epochs"], run["best"]["loss"], "*", ms=9, color=COLORS["real"])
        axis.set(xlabel="epochs", title=f"{name} ({'NELBO, a bound' if model == 'dllm' else 'NLL, exact'})")
        label_plainly(axis)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    axes[0].set(ylabel="NELBO or NLL of unseen text, nats per character")
    return figure


def main(argv=None):
    pages.run(NAME, Command, measure, draw, tables, argv)


if __name__ == "__main__":
    cli.run(main)
