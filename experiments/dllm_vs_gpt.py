"""The page docs/dllm_vs_gpt.md: the numbers of chapter 10 as tables and figures.

    python -m experiments.dllm_vs_gpt --dllm shakespeare --gpt shakespeare-gpt    # 15 minutes on two cores
    python -m experiments.dllm_vs_gpt --render                  # only write the page again, from docs/dllm_vs_gpt.json
    python -m experiments.dllm_vs_gpt --render --out FOLDER     # the page of the numbers that chapter 10 left in FOLDER

The sentences of the page are about the shipped models. For your own models, believe the tables.
"""

import math
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from experiments import pages
from plumbing import cli, devices

tensors = import_module("01_tensors")
comparison = import_module("10_dllm_vs_gpt")

NAME = "dllm_vs_gpt"
LEARNERS = {"dllm": "dLLM", "gpt": "GPT", "decayed": "GPT with weight decay"}  # of part 5, which all read the same text
COLORS = tensors.COLORS | {"decayed": tensors.COLORS["other"]}


@dataclass(frozen=True)
class Command(comparison.Command):
    """The flags of chapter 10, and those of a page."""

    render: bool = False  # only write the page and its figures again, from the numbers of an earlier run
    out: Path = pages.DOCS  # the folder of the page


def measure(settings):
    """Return the numbers of chapter 10."""
    return comparison.compare(settings) | {"origin": pages.origin(NAME, devices.pick_device(settings.device))}


def names_of(values):
    """Return what the tables call the two models. Their budgets belong to their names, since they are not equal."""
    names = {}
    for kind, noun in (("dllm", "dLLM"), ("gpt", "GPT")):
        about = values[kind]
        names[kind] = f"{noun} ({about['characters_read'] / 1e6:.1f}M characters read)"
        if about["info"].get("train", {}).get("teachers"):
            names[kind] = names[kind].replace(" read)", " read, after teachers)")
    return names


def with_error(row, key, form=".3f"):
    """Return a number of a row with its standard error, as text."""
    return f"{row[key]:{form}} ± {row[f'{key}_error']:{form}}"


# 1. Tables


def tables(values):
    """Return the tables and the quoted texts of the page."""
    names = names_of(values)
    a, b = values["likelihood"]["dllm"], values["likelihood"]["gpt"]
    losses = [(names["dllm"], f"{a['NELBO']:.4f} ± {a['error']:.4f}", "NELBO, an upper bound"),
              (names["gpt"], f"{b['NLL']:.4f}", "NLL, exact")]
    blanks = []
    for row in values["infilling"]["table"]:
        blanks.append((row["blank"], *(with_error(row, key, ".1%") for key in ("dllm", "gpt", "bigram"))))
    epochs = []
    for run in values["reuse"]["runs"]:
        best, end = run["best"], run["end"]
        epochs.append((f"{run['fraction']:.0%} ({run['characters']:,})", LEARNERS[run["model"]], f"{best['loss']:.3f}",
                       f"{best['epochs']:.1f}", f"{end['loss']:.3f}", f"{end['epochs']:.1f}"))
    return {
        "models": pages.table(about_models(values), ["", "dLLM", "GPT"]),
        "losses": pages.table(losses, ["model", "nats per character", "what it is"]),
        "samples": samples_table(values, names),
        "speed": speed_table(values, names),
        "blanks": pages.table(blanks, ["characters in the blank", names["dllm"], names["gpt"], "bigram"]),
        "reuse": pages.table(epochs, ["part of the text (characters)", "model", "lowest loss", "after epochs",
                                      "last loss", "after epochs"]),
        "verdicts": pages.table(comparison.verdicts(values), ["", names["dllm"], names["gpt"], "better"]),
        "text_dllm": comparison.sample_row(values, "dllm", 0.8)["first"],
        "text_gpt": comparison.sample_row(values, "gpt", 0.8)["first"],
    }


def about_models(values):
    """Return what the two models are, and the settings in which they differ: (name, of the dLLM, of the GPT)."""
    pair = [values["dllm"], values["gpt"]]
    rows = [("run", *(f"`{about['name']}`" for about in pair))]
    for key, name in (("parameters", "parameters"), ("characters_read", "characters read in training")):
        rows.append((name, *(f"{about[key]:,}" for about in pair)))
    for key, name, form in (("seconds", "seconds of training", "{:,.0f}"), ("step", "steps", "{:,}"),
                            ("command", "command", "`{}`"), ("machine", "machine", "{}"), ("commit", "commit", "`{}`")):
        found = [about["info"].get(key) for about in pair]
        rows.append((name, *("not recorded" if value is None else form.format(value) for value in found)))
    x, y = (about["model"] | about["info"].get("train", {}) for about in pair)
    differing = [key for key in x if key in y and x[key] != y[key] and key not in ("causal", "steps")]
    return rows + [(f"`{key}`", x[key], y[key]) for key in differing]


def samples_table(values, names):
    rows = []
    for row in (values["samples"]["real"], *values["samples"]["table"]):
        distances = ["{:.1f} ± {:.1f}".format(*row[key]) if key in row else "" for key in ("largest", "mean")]
        rows.append((names.get(row.get("model"), "real text"), row.get("nfe", ""), row.get("temperature", ""),
                     with_error(row, "words", ".1%"), with_error(row, "distinct", ".1%"), with_error(row, "divergence"),
                     with_error(row, "judge"), row["copied"], *distances))
    return pages.table(rows, ["", "passes", "temperature", "known words", "distinct runs", "divergence", "judge's NLL",
                              "longest copy", "largest distance", "mean distance"])


def speed_table(values, names):
    """Return the speeds, each with its ratio to that of the GPT."""
    table = values["speed"]["table"]
    of_gpt = {row["batch"]: row["characters_per_second"] for row in table if row["model"] == "gpt"}
    lines = {}
    for row in table:
        rate = row["characters_per_second"]
        line = lines.setdefault((row["model"], row["nfe"]), [])
        line.append(f"{rate:,.0f} ({rate / of_gpt[row['batch']]:.2f} ×)")
    rows = [(names[model], passes, *line) for (model, passes), line in lines.items()]
    return pages.table(rows, ["", "passes", *(f"characters/s, batch {batch}" for batch in of_gpt)])


# 2. Figures


def draw(values, folder):
    """Save the figures of the page."""
    plt = tensors.pyplot(show=False)
    for name, function in (("likelihood", draw_likelihood), ("samples", draw_samples), ("reuse", draw_reuse)):
        pages.save_figure(function(values, plt), folder / f"{NAME}_{name}.png")


def column(rows, key):
    return [row[key] for row in rows]


def label_plainly(axis):
    """Label a logarithmic x axis with plain numbers: 1, 2, 5, 10, 20, …"""
    axis.set_xscale("log", subs=(2, 5))
    axis.xaxis.set_major_formatter("{x:,g}")
    axis.xaxis.set_minor_formatter("{x:,g}")


def draw_likelihood(values, plt):
    """The loss by noise level, and by the number of visible characters beside that of the GPT."""
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


def draw_samples(values, plt):
    """Known words, distinct runs and divergence against the judge's NLL, with standard errors."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 4), sharex=True, layout="constrained")
    table, real = values["samples"]["table"], values["samples"]["real"]
    lines = dict.fromkeys((row["model"], row["nfe"]) for row in table)
    for axis, (key, name) in zip(axes, {"words": "known words", "distinct": "distinct runs",
                                        "divergence": "divergence, nats"}.items()):
        for marker, (model, nfe) in zip("osD^v", lines):
            rows = [row for row in table if (row["model"], row["nfe"]) == (model, nfe)]
            axis.errorbar(column(rows, "judge"), column(rows, key), column(rows, f"{key}_error"),
                          column(rows, "judge_error"), marker=marker, color=COLORS[model],
                          alpha=1 if nfe > 32 else 0.5, label=f"{LEARNERS[model]}, {nfe} passes")
            for row in rows:
                axis.annotate(f"{row['temperature']:g}", (row["judge"], row[key]), fontsize=7, xytext=(4, 3),
                              textcoords="offset points")
        axis.plot(real["judge"], real[key], "*", ms=12, color=COLORS["real"], label="real text")
        axis.set(xlabel="judge's NLL, nats per character", ylabel=name)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    return figure


def draw_reuse(values, plt):
    """The loss on unseen text against epochs, one panel for each model. A star marks the lowest point."""
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
    axes[0].set(ylabel="loss on unseen text, nats per character")
    return figure


def main(argv=None):
    pages.run(NAME, Command, measure, draw, tables, argv)


if __name__ == "__main__":
    cli.run(main)
