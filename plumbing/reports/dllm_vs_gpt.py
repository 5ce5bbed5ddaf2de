"""Plumbing: the article of chapter 10. Every number in its text, tables and figures comes from one dict of results.

    write(results, folder)    folder/dllm_vs_gpt.md, .json, and folder/figures/dllm_vs_gpt_*.png

Chapter 11's page (decoding_report.py) is made with the same parts.
"""

import json
import math
from importlib import import_module

from plumbing import figures, files

tensors = import_module("01_tensors")

NAMES = {"dllm": "dLLM", "gpt": "GPT", "bigram": "bigram", "decayed": "GPT with weight decay"}
COLOURS = {"dllm": "tab:blue", "gpt": "tab:orange", "bigram": "tab:gray", "decayed": "tab:red"}
FILLERS = ("dllm", "gpt", "bigram")
MARKS = "osD^v"  # one for each number of steps


def write(results, folder):
    draws = {draw.__name__.removeprefix("draw_"): draw for draw in
             (draw_likelihood, draw_samples, draw_speed, draw_infilling, draw_reuse)}
    publish(results, folder, "dllm_vs_gpt", article(results), draws)


def publish(results, folder, name, text, draws):
    """`text` and `results` (plain values) as NAME.md and NAME.json, and a figure for each of draws {word: function}."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for word, draw in draws.items():
        figure = draw(results, figures.pyplot(False))
        figures.save_figure(figure, folder / "figures" / f"{name}_{word}.png", False)
        figures.pyplot(False).close(figure)
    numbers = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
    for suffix, content in ((".json", numbers), (".md", text)):
        with files.whole_file(folder / f"{name}{suffix}") as path:
            path.write_text(content, encoding="utf-8")
    print(f"Article: {folder.name}/{name}.md, numbers: {folder.name}/{name}.json")


# ---- Reading the results ----


def sample_row(results, model, temperature, nfe=None):
    """The line of part 2 for a model at a temperature; of the dLLM with most passes unless `nfe` is given."""
    rows = [r for r in results["samples"]["table"] if r["model"] == model and r["temperature"] == temperature]
    return max(rows, key=lambda r: (r["nfe"] == nfe, r["nfe"]))


def rate(results, model, batch, nfe=None):
    """Characters a second, chosen like `sample_row`."""
    rows = [r for r in results["speed"]["table"] if (r["model"], r["batch"]) == (model, batch)]
    return max(rows, key=lambda r: (r["nfe"] == nfe, r["nfe"]))["characters_per_second"]


def reuse_run(results, model, fraction):
    return next(r for r in results["reuse"]["runs"] if (r["model"], r["fraction"]) == (model, fraction))


def winner(dllm, gpt, error=0.0, lower=False):
    """Who has the better number; nobody if they lie within two standard errors of their difference."""
    if abs(dllm - gpt) <= 2 * error:
        return "neither"
    return "dLLM" if (dllm < gpt) == lower else "GPT"


def decisions(results):
    """The rows of the last table: (question, the dLLM's number, the GPT's, who wins)."""
    L, reuse = results["likelihood"], results["reuse"]
    a, b = L["dllm"], L["gpt"]
    rows = [("Likelihood, nats per character (the dLLM's is a bound)", f"≤ {a['NELBO']:.3f}", f"{b['NLL']:.3f}",
             winner(a["NELBO"], b["NLL"], a["error"], lower=True))]
    real = results["samples"]["real"]
    x, y = (sample_row(results, model, 0.8) for model in ("dllm", "gpt"))
    rows.append((f"Known words at temperature 0.8 (real text: {real['words']:.1%})",
                 f"{x['words']:.1%}", f"{y['words']:.1%}", winner(x["words"], y["words"])))
    x, y = (sample_row(results, model, 1.0) for model in ("dllm", "gpt"))
    far = [abs(r["judge"] - real["judge"]) for r in (x, y)]
    rows.append((f"Judge's NLL at temperature 1, nearest to real text ({real['judge']:.3f})",
                 f"{x['judge']:.3f}", f"{y['judge']:.3f}", winner(*far, lower=True)))
    steps = sorted({r["nfe"] for r in results["speed"]["table"] if r["model"] == "dllm"})
    for batch in sorted({r["batch"] for r in results["speed"]["table"]}):
        for nfe in dict.fromkeys((steps[0], steps[-1])):
            x, y = rate(results, "dllm", batch, nfe), rate(results, "gpt", batch)
            rows.append((f"Characters/s, batch {batch}, dLLM in {nfe} passes", f"{x:,.0f}", f"{y:,.0f}", winner(x, y)))
    for r in results["infilling"]["table"]:
        error = math.hypot(r["dllm_error"], r["gpt_error"])
        rows.append((f"Filling a blank of {r['blank']}", f"{r['dllm']:.1%}", f"{r['gpt']:.1%}",
                     winner(r["dllm"], r["gpt"], error)))
    for fraction in dict.fromkeys(r["fraction"] for r in reuse["runs"]):
        x, *gpts = (reuse_run(results, model, fraction)["best"] for model in ("dllm", "gpt", "decayed"))
        y = min(gpts, key=lambda best: best["loss"])
        rows.append((f"Lowest loss on {fraction:.0%} of the text, the GPT's with or without weight decay",
                     f"≤ {x['loss']:.3f}", f"{y['loss']:.3f}",
                     winner(x["loss"], y["loss"], x["error"], lower=True)))
    return rows


# ---- Figures ----


def draw_likelihood(results, plt):
    L = results["likelihood"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
    levels, bins = L["dllm"]["levels"], L["gpt"]["positions"]
    loss, error = [r["loss"] for r in levels], [r["error"] for r in levels]
    left.errorbar([r["t"] for r in levels], loss, error, marker="o", ms=3, color=COLOURS["dllm"], label="dLLM, ℓ(t)")
    left.axhline(L["dllm"]["NELBO"], ls="--", color=COLOURS["dllm"], label="its mean: the NELBO")
    left.axhline(L["gpt"]["NLL"], ls="--", color=COLOURS["gpt"], label="GPT's NLL")
    left.set(xlabel="t, share of characters masked", ylabel="nats per character", ylim=(0, None))
    right.errorbar([r["visible"] for r in levels], loss, error, marker="o", ms=3, color=COLOURS["dllm"],
                   label="dLLM, at random places")
    right.errorbar([math.sqrt(r["visible"][0] * r["visible"][1]) for r in bins], [r["loss"] for r in bins],
                   [r["error"] for r in bins], marker="s", ms=3, color=COLOURS["gpt"], label="GPT, to the left")
    right.set(xlabel="characters visible", xscale="log")
    for axis in (left, right):
        axis.legend(fontsize=9)
        axis.grid(alpha=0.3)
    return figure


def draw_samples(results, plt):
    S = results["samples"]
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharex=True, layout="constrained")
    for axis, (key, label) in zip(axes, (("words", "words that the training text has, %"),
                                         ("distinct", "runs of 4 that are different, %")), strict=True):
        lines = list(dict.fromkeys((r["model"], r["nfe"]) for r in S["table"]))
        for mark, (model, nfe) in zip(MARKS, lines):
            rows = [r for r in S["table"] if (r["model"], r["nfe"]) == (model, nfe)]
            shade = 1 if model == "gpt" else 0.35 + 0.65 * (lines.index((model, nfe)) + 1) / (len(lines) - 1)
            axis.plot([r["judge"] for r in rows], [100 * r[key] for r in rows], marker=mark, color=COLOURS[model],
                      alpha=min(1, shade), label=f"{NAMES[model]}, {nfe} passes")
            for r in rows:
                axis.annotate(f"{r['temperature']:g}", (r["judge"], 100 * r[key]), fontsize=7, xytext=(4, 3),
                              textcoords="offset points")
        axis.plot(S["real"]["judge"], 100 * S["real"][key], "k*", ms=12, label="real held-out text")
        axis.set(xlabel="judge's NLL, nats per character", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    return figure


def draw_speed(results, plt):
    table = results["speed"]["table"]
    batches = sorted({r["batch"] for r in table})
    figure, axes = plt.subplots(1, len(batches), figsize=(9, 3.6), sharey=True, layout="constrained")
    for axis, batch in zip(axes, batches, strict=True):
        for model in ("dllm", "gpt"):
            rows = [r for r in table if (r["model"], r["batch"]) == (model, batch)]
            quality = [sample_row(results, model, 0.8, r["nfe"])["judge"] for r in rows]
            axis.plot([r["characters_per_second"] for r in rows], quality, marker="o", color=COLOURS[model],
                      label=NAMES[model])
            for r, y in zip(rows, quality):
                axis.annotate(f"{r['nfe']} NFE", (r["characters_per_second"], y), fontsize=8, xytext=(5, 4),
                              textcoords="offset points")
        axis.axhline(results["samples"]["real"]["judge"], color="black", ls=":", label="real text")
        axis.set(xlabel=f"characters/s, batch {batch}", xscale="log")
        axis.margins(x=0.25, y=0.12)
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="judge's NLL at temperature 0.8")
    axes[0].legend(fontsize=9)
    return figure


def draw_infilling(results, plt):
    table = results["infilling"]["table"]
    figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for model, mark in zip(FILLERS, MARKS):
        axis.errorbar([r["blank"] for r in table], [100 * r[model] for r in table],
                      [100 * r[f"{model}_error"] for r in table], marker=mark, capsize=3, color=COLOURS[model],
                      label=NAMES[model])
    axis.set(xlabel="characters in the blank", ylabel="filled in exactly, %", xscale="log", ylim=(0, None))
    axis.set_xticks([r["blank"] for r in table], [str(r["blank"]) for r in table])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def draw_reuse(results, plt):
    figure, axes = plt.subplots(1, 3, figsize=(12, 4), sharey=True, layout="constrained")
    for axis, model in zip(axes, ("dllm", "gpt", "decayed"), strict=True):
        measure = "NELBO, a bound" if model == "dllm" else "NLL, exact"
        runs = [r for r in results["reuse"]["runs"] if r["model"] == model]
        for run, alpha in zip(runs, (0.4, 0.7, 1.0)):
            axis.plot([r["epochs"] for r in run["curve"]], [r["loss"] for r in run["curve"]], marker="o", ms=3,
                      color=COLOURS[model], alpha=alpha,
                      label=f"{run['fraction']:.0%}, {run['characters']:,} characters")
            axis.plot(run["best"]["epochs"], run["best"]["loss"], "k*", ms=9)
        axis.set(xlabel="epochs", xscale="log", title=f"{NAMES[model]} ({measure})")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    axes[0].set(ylabel="validation loss, nats per character")
    return figure


# ---- The article ----


def table(head, rows):
    """A Markdown table; numbers to the right, names to the left."""
    line = "|" + "|".join("---" if i == 0 else "---:" for i in range(len(head))) + "|"
    head, *body = ("| " + " | ".join(map(str, row)) + " |" for row in (head, *rows))
    return "\n".join((head, line, *body))


def quote(text):
    """Text as it is, as a block of code."""
    return "\n".join("    " + line for line in text.split("\n"))


def picture(name, what):
    return f"![{what}](figures/dllm_vs_gpt_{name}.png)"


def article(results):
    """All of it, as Markdown."""
    parts = (intro, likelihood, samples, speed, infilling, reuse, wins, rerun)
    return "\n\n".join(part(results).strip() for part in parts) + "\n"


def intro(r):
    size, length = r["corpus"], r["likelihood"]["length"]
    return f"""
# A diffusion language model and a GPT, side by side

Is a diffusion language model (dLLM) better or worse than a GPT? Their training losses cannot say, for they do not
measure the same thing. A GPT's loss is the exact negative log-likelihood (NLL) of a text. A dLLM's loss is a mean
over hidden characters, with others visible on both sides; what can be compared is its NELBO, which is an *upper
bound* of its NLL: the true number is somewhere below, and nobody knows how far. So this page compares in five ways,
one likelihood among them.

Both models are the Transformer of chapter 03, trained on the same {size['training']:,} characters of
the corpus {size['name']} by the loop of chapter 05, and everything here is measured on the {size['held_out']:,}
characters that neither has seen, in windows of {length}.

{table(["", "dLLM", "GPT"], about(r))}

{fairness(r)}
"""


def about(r):
    """Rows of what the two models are: (what, dLLM, GPT). Of settings, those that differ."""
    rows = [("run", *(f"`{r[m]['name']}`" for m in ("dllm", "gpt"))),
            ("parameters", *(f"{r[m]['parameters']:,}" for m in ("dllm", "gpt")))]
    for key, label, form in (("tokens", "characters seen in training", "{:,}"), ("step", "steps", "{:,}"),
                             ("seconds", "seconds of training", "{:,.0f}"), ("command", "command", "`{}`"),
                             ("machine", "machine", "{}"), ("commit", "commit", "`{}`")):
        values = [r[m]["info"].get(key) for m in ("dllm", "gpt")]
        rows.append((label, *("not recorded" if value is None else form.format(value) for value in values)))
    settings = [r[m]["model"] | r[m]["info"].get("train", {}) for m in ("dllm", "gpt")]
    for key in settings[0]:
        values = [s.get(key) for s in settings]
        if values[0] != values[1] and key not in ("causal", "steps"):
            rows.append((f"`{key}`", *values))
    return rows


def fairness(r):
    """What is not equal between the two, from their configs."""
    found = []
    for label, get in (("parameters", lambda m: m["parameters"]),
                       ("characters seen in training", lambda m: m["info"].get("tokens")),
                       ("seconds of training", lambda m: m["info"].get("seconds"))):
        x, y = get(r["dllm"]), get(r["gpt"])
        if x and y and max(x, y) > 1.1 * min(x, y):
            found.append(f"the {'dLLM' if x > y else 'GPT'} has {max(x, y) / min(x, y):.1f} times the {label}")
    same = "Parameters, characters seen and seconds of training differ by less than a tenth."
    return f"Not equal, and to be kept in mind: {'; '.join(found)}." if found else same


def likelihood(r):
    L = r["likelihood"]
    a, b = L["dllm"], L["gpt"]
    bits = [x / math.log(2) for x in (a["NELBO"], b["NLL"])]
    gap = a["NELBO"] - b["NLL"]
    verdict = {"neither": "The two are equal within the error.",
               "GPT": f"The GPT is ahead by {gap:.3f} nats per character, of which some, nobody knows how much, "
                      "may be the slack of the bound.",
               "dLLM": f"The dLLM is ahead by at least {-gap:.3f} nats per character: a bound that is lower than an "
                       "exact number settles it."}[winner(a["NELBO"], b["NLL"], a["error"], lower=True)]
    rows = []
    for level in a["levels"]:
        near = next((x for x in b["positions"] if x["visible"][0] <= level["visible"] <= x["visible"][1]), None)
        if level["visible"] in (1, 8, 64, 128) or level is a["levels"][-1]:
            low, high = near["visible"]
            span = f"{low}" if low == high else f"{low} to {high}"
            rows.append((level["visible"], f"{level['t']:.2f}", f"{level['loss']:.2f} ± {level['error']:.2f}",
                         f"{near['loss']:.2f} ({span} visible)"))
    return f"""
## 1. Likelihood

{table(["", "nats per character", "bits per character", "what it is"], [
    ("dLLM", f"{a['NELBO']:.4f} ± {a['error']:.4f}", f"{bits[0]:.3f}", "NELBO, a bound; error of the masks"),
    ("GPT", f"{b['NLL']:.4f}", f"{bits[1]:.3f}", "NLL, exact")])}

Both count the same characters: {L['windows']} windows of {L['length']}, of which the first is given. {verdict}
(Another sample of held-out text would move the GPT's number by about {b['error']:.3f}, and the dLLM's with it.)

{picture("likelihood", "Loss by noise level, and by the number of visible characters")}

The chain rule makes both losses a mean over {L['length'] - 1} predictions, with 1 to {L['length'] - 1} characters
visible. On the left, ℓ(t) is the loss of a hidden character when a share t of the window is hidden; the NELBO is the
area under that curve. On the right is the same curve by the number of visible characters, beside the GPT's loss by
position. The GPT always has its characters where they help most, next to the one to guess; the dLLM has them at
random places, and is asked about every subset of the text instead of only its beginnings.

{table(["characters visible", "t", "dLLM", "GPT"], rows)}
"""


def samples(r):
    S, real = r["samples"], r["samples"]["real"]

    def row(name, values, nfe="", temperature=""):
        return (name, nfe, temperature, f"{values['words']:.1%}", f"{values['distinct']:.1%}", values["copied"],
                f"{values['judge']:.3f}")

    rows = [row("real text", real)] + [row(NAMES[x["model"]], x, x["nfe"], x["temperature"]) for x in S["table"]]
    x, y = (sample_row(r, model, 0.8) for model in ("dllm", "gpt"))
    longest = max(S["table"], key=lambda x: x["copied"])
    copied = ("longer than what real text shares with it" if longest["copied"] > real["copied"] else
              "no longer than what real text shares with it")
    few = sample_row(r, "dllm", 0.8, min(z["nfe"] for z in S["table"] if z["model"] == "dllm"))
    return f"""
## 2. Samples

{S['texts']} texts of {S['length']} characters for each line, each after the first character of a held-out window; the
first line is those windows themselves. No column is a score of its own. A text can have only known words and repeat
one of them, or be fluent because it is copied: good samples are near the *first line in every column*.

{table(["", "passes", "temperature", "known words", "distinct runs of 4", "longest copy", "judge's NLL"], rows)}

*Known words*: share of words that occur in the training text. *Distinct runs*: share of all runs of four characters
that are different from each other. *Longest copy*: characters in the longest run that stands in the training text,
too. *Judge*: an interpolated character {S['judge_order']}-gram of the training text (Witten-Bell), which shares no
weights with either model; on all held-out windows its own NLL is {S['judge_held_out']:.3f}. A number below that of
real text means likelier than real text: low temperatures prefer what is common.

{picture("samples", "Known words and distinct runs against the judge's NLL")}

Small numbers beside the points are temperatures. At 0.8 the GPT writes {y['words']:.1%} known words; the dLLM
{x['words']:.1%} in {x['nfe']} passes and {few['words']:.1%} in {few['nfe']}. Characters that are committed in one pass
do not see each other, so words are where few passes hurt first. The longest copied run of all is {longest['copied']}
characters ({NAMES[longest['model']]}, temperature {longest['temperature']}; real text: {real['copied']}), {copied}.

The first text of each at temperature 0.8, unedited. dLLM, {x['nfe']} passes:

{quote(x['first'])}

GPT:

{quote(y['first'])}
"""


def speed(r):
    T, batches = r["speed"]["table"], sorted({x["batch"] for x in r["speed"]["table"]})
    ways = list(dict.fromkeys((x["model"], x["nfe"]) for x in T))

    def shown(model, nfe, batch):
        own = rate(r, model, batch, nfe)
        return f"{own:,.0f} ({own / rate(r, 'gpt', batch):.2f} ×)"

    rows = [(NAMES[model], nfe, *(shown(model, nfe, batch) for batch in batches),
             f"{sample_row(r, model, 0.8, nfe)['judge']:.3f}") for model, nfe in ways]
    return f"""
## 3. Speed

{table(["", "NFE", *(f"characters/s, batch {b}" for b in batches), "judge's NLL at 0.8"], rows)}

Texts of {r['speed']['length']} characters; medians of three runs after a warm-up, all ways taking turns on one
machine. In brackets: against the GPT. NFE is the number of passes through the network.

{picture("speed", "Characters per second against the judge's NLL")}

A pass is not the same work for both: the GPT's goes through one new character and reads the others from its KV
buffer, the dLLM's goes through all {r['speed']['length']}. So fewer passes help the dLLM only as far as the machine
does a whole window in little more time than one character: where it waits more than it computes, as a large GPU does
with a single text, and less where it is busy, as a CPU is, or any machine with a large batch.
"""


def infilling(r):
    F = r["infilling"]
    rows = [(x["blank"], *(f"{x[m]:.1%} ± {x[m + '_error']:.1%}" for m in FILLERS)) for x in F["table"]]
    cases = "\n\n".join(
        f"Window {i}, which begins with:\n\n{quote(case['context'])}\n\nIn the play:\n\n{quote(case['truth'])}\n\n"
        f"dLLM:\n\n{quote(case['dllm'])}\n\nGPT:\n\n{quote(case['gpt'])}" for i, case in enumerate(F["cases"], 1))
    return f"""
## 4. Filling a blank

{table(["blank, characters", *(NAMES[m] for m in FILLERS)], rows)}

A blank in the middle of a held-out window of {F['length']} characters: the share of its characters that come back
exactly as they were, with the standard error over {F['windows']} windows. The dLLM sees both sides and takes one pass
a character, the surest first. The GPT sees the left side and continues it greedily, as does the bigram, which knows
the character before only. A GPT can be made to look right, by writing many candidates and keeping the one after which
the right side is likeliest; for a blank of n characters there are as many candidates as texts of that length.

{picture("infilling", "Characters filled in exactly, by the length of the blank")}

In long blanks there are many good answers, and exact characters count one of them. And where only a beginning is
given, both are on the GPT's ground. Below both complete the last {len(F['cases'][0]['truth'])} characters of windows
drawn with a fixed seed, the first ones, unedited (temperature 0.8; the dLLM with one pass a character).

{cases}
"""


def course(run):
    """How a run of part 5 went, in words."""
    best, end = run["best"], run["end"]
    if best["step"] == end["step"]:
        return f"is at its lowest at the end, after {end['epochs']:.1f} epochs"
    return f"is lowest after {best['epochs']:.1f} epochs and ends {end['loss'] - best['loss']:.3f} higher"


def reuse(r):
    R, sentences = r["reuse"], []
    rows = []
    for run in R["runs"]:
        best, end = run["best"], run["end"]
        rows.append((f"{run['fraction']:.0%} ({run['characters']:,})", NAMES[run["model"]], f"{best['loss']:.3f}",
                     f"{best['epochs']:.1f}", f"{end['loss']:.3f}", f"{end['epochs']:.1f}"))
    for fraction in dict.fromkeys(run["fraction"] for run in R["runs"]):
        x, y, z = (course(reuse_run(r, model, fraction)) for model in ("dllm", "gpt", "decayed"))
        sentences.append(f"On {fraction:.0%}, the dLLM {x}; the GPT {y}; with weight decay it {z}.")
    return f"""
## 5. Reading the same text again

A dLLM sees a text with other characters hidden each time, a GPT the same predictions in every epoch. So who gains
more from reading a small corpus often? Fresh models of {R['parameters']:,} parameters, both kinds with the same
settings (no dropout, constant learning rate, averaged weights), make {R['train']['steps']:,} steps on a part of the
training text. As it is the GPT that overfits, it has a second try, with a weight decay of
{R['own']['decayed']['weight_decay']:g}.

{table(["part of the text", "", "best loss", "after epochs", "last loss", "after epochs"], rows)}

{picture("reuse", "Validation loss against epochs")}

Stars mark the lowest point. A curve that turns up has begun to learn its text by heart. {' '.join(sentences)} The
levels of a dLLM and of a GPT are a bound and an exact number, as in part 1; where the curves turn can be compared as
it is.
"""


def wins(r):
    rows = decisions(r)
    count = {name: sum(row[-1] == name for row in rows) for name in ("dLLM", "GPT", "neither")}
    return f"""
## What wins where

{table(["", "dLLM", "GPT", "better"], rows)}

Of {len(rows)} lines the dLLM wins {count['dLLM']}, the GPT {count['GPT']}, and {count['neither']} are too close to call
(within two standard errors, where there are any). The lines are not of equal weight: which one counts depends on what
a model is for.
"""


def rerun(r):
    origin, size = r["origin"], r["size"]
    return f"""
## How to repeat this

    {origin['command']}

Size `{size['name']}`, seed {r['seed']}, commit `{origin['commit']}`, {origin['machine']}, PyTorch {origin['torch']},
{origin['date'][:10]}. The corpus has sha256 `{r['corpus']['sha256'][:12]}…`. All numbers, the settings of both models
and the records of part 5 are in [dllm_vs_gpt.json](dllm_vs_gpt.json); this page was written by
`10_dllm_vs_gpt.py` from them.
"""
