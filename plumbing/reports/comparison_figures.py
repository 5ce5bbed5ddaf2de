"""The figures of chapter 10's page. Each function takes the results and pyplot, and returns a figure."""

import math

from plumbing import figures
from plumbing.reports import comparison_verdicts as verdicts

NAMES = {"dllm": "dLLM", "gpt": "GPT", "bigram": "bigram", "decayed": "GPT with weight decay"}
COLORS = figures.COLORS | {"bigram": "#999999", "decayed": figures.COLORS["other"]}
FILLERS = ("dllm", "gpt", "bigram")
MARKS = "osD^v"  # one marker for each number of steps


def label_log_axis(axis, plt):
    """Label a logarithmic x axis with plain numbers: 1, 2, 5, 10, 20, …"""
    axis.xaxis.set_major_locator(plt.LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:,g}")
    axis.xaxis.set_minor_formatter("")


def draw_likelihood(results, plt):
    """The loss by noise level, and by the number of visible characters beside that of the GPT."""
    L = results["likelihood"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
    levels, bins = L["dllm"]["levels"], L["gpt"]["positions"]
    loss, error = [r["loss"] for r in levels], [r["error"] for r in levels]
    left.errorbar([r["t"] for r in levels], loss, error, marker="o", ms=3, color=COLORS["dllm"], label="dLLM, ℓ(t)")
    left.axhline(L["dllm"]["NELBO"], ls="--", color=COLORS["dllm"], label="NELBO, the mean of ℓ(t)")
    left.axhline(L["gpt"]["NLL"], ls="--", color=COLORS["gpt"], label="GPT's NLL")
    left.set(xlabel="t, share of characters masked", ylabel="nats per character", ylim=(0, None))
    right.errorbar([r["visible"] for r in levels], loss, error, marker="o", ms=3, color=COLORS["dllm"],
                   label="dLLM, at random places")
    right.errorbar([math.sqrt(r["visible"][0] * r["visible"][1]) for r in bins], [r["loss"] for r in bins],
                   [r["error"] for r in bins], marker="s", ms=3, color=COLORS["gpt"], label="GPT, all to the left")
    right.set(xlabel="characters visible", xscale="log")
    label_log_axis(right, plt)
    for axis in (left, right):
        axis.legend(fontsize=9)
        axis.grid(alpha=0.3)
    return figure


def draw_samples(results, plt):
    """Known words, distinct runs and divergence against the judge's NLL, with standard errors."""
    S = results["samples"]
    figure, axes = plt.subplots(1, 3, figsize=(12, 4), sharex=True, layout="constrained")
    measures = (("words", 100, "known words, %"), ("distinct", 100, "distinct runs of 4, %"),
                ("divergence", 1, "divergence, nats"))
    for axis, (key, scale, label) in zip(axes, measures, strict=True):
        lines = list(dict.fromkeys((r["model"], r["nfe"]) for r in S["table"]))
        for mark, (model, nfe) in zip(MARKS, lines):
            rows = [r for r in S["table"] if (r["model"], r["nfe"]) == (model, nfe)]
            shade = 1 if model == "gpt" else 0.35 + 0.65 * (lines.index((model, nfe)) + 1) / (len(lines) - 1)
            axis.errorbar([r["judge"] for r in rows], [scale * r[key] for r in rows],
                          [scale * r[f"{key}_error"] for r in rows], [r["judge_error"] for r in rows],
                          marker=mark, color=COLORS[model], alpha=min(1, shade), label=f"{NAMES[model]}, {nfe} passes")
            for r in rows:
                axis.annotate(f"{r['temperature']:g}", (r["judge"], scale * r[key]), fontsize=7, xytext=(4, 3),
                              textcoords="offset points")
        axis.plot(S["real"]["judge"], scale * S["real"][key], "*", ms=12, color=COLORS["real"], label="real text")
        axis.set(xlabel="judge's NLL, nats per character", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    return figure


def draw_speed(results, plt):
    """The judge's NLL against characters per second, one panel for each size of batch."""
    table = results["speed"]["table"]
    batches = sorted({r["batch"] for r in table})
    figure, axes = plt.subplots(1, len(batches), figsize=(9, 3.6), sharey=True, layout="constrained")
    for axis, batch in zip(axes, batches, strict=True):
        for model in ("dllm", "gpt"):
            rows = [r for r in table if (r["model"], r["batch"]) == (model, batch)]
            quality = [verdicts.sample_row(results, model, 0.8, r["nfe"])["judge"] for r in rows]
            axis.plot([r["characters_per_second"] for r in rows], quality, marker="o", color=COLORS[model],
                      label=NAMES[model])
            for r, y in zip(rows, quality):
                axis.annotate(f"{r['nfe']} passes", (r["characters_per_second"], y), fontsize=8, xytext=(5, 4),
                              textcoords="offset points")
        axis.axhline(results["samples"]["real"]["judge"], color=COLORS["real"], ls=":", label="real text")
        axis.set(xlabel=f"characters/s, batch {batch}", xscale="log")
        label_log_axis(axis, plt)
        axis.margins(x=0.25, y=0.12)
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="judge's NLL at temperature 0.8")
    axes[0].legend(fontsize=9)
    return figure


def draw_infilling(results, plt):
    """The share of exactly restored characters against the length of the blank."""
    table = results["infilling"]["table"]
    figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for model, mark in zip(FILLERS, MARKS):
        axis.errorbar([r["blank"] for r in table], [100 * r[model] for r in table],
                      [100 * r[f"{model}_error"] for r in table], marker=mark, capsize=3, color=COLORS[model],
                      label=NAMES[model])
    axis.set(xlabel="characters in the blank", ylabel="restored exactly, %", xscale="log", ylim=(0, None))
    axis.set_xticks([r["blank"] for r in table], [str(r["blank"]) for r in table])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def draw_reuse(results, plt):
    """The validation loss against epochs, one panel for each model. A star marks the lowest point."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 4), sharey=True, layout="constrained")
    for axis, model in zip(axes, ("dllm", "gpt", "decayed"), strict=True):
        measure = "NELBO, a bound" if model == "dllm" else "NLL, exact"
        runs = [r for r in results["reuse"]["runs"] if r["model"] == model]
        for run, alpha in zip(runs, (0.4, 0.7, 1.0)):
            axis.plot([r["epochs"] for r in run["curve"]], [r["loss"] for r in run["curve"]], marker="o", ms=3,
                      color=COLORS[model], alpha=alpha,
                      label=f"{run['fraction']:.0%}, {run['characters']:,} characters")
            axis.plot(run["best"]["epochs"], run["best"]["loss"], "*", ms=9, color=COLORS["real"])
        axis.set(xlabel="epochs", xscale="log", title=f"{NAMES[model]} ({measure})")
        label_log_axis(axis, plt)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    axes[0].set(ylabel="validation loss, nats per character")
    return figure
