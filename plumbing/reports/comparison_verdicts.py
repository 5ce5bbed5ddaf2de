"""Who is better at what: the last table of chapter 10's page, from the numbers and their standard errors."""

import math

NO_DIFFERENCE = "no difference"


def sample_row(results, model, temperature, nfe=None):
    """The row of part 2 for a model at a temperature. Of several rows: the one with `nfe` passes, or most passes."""
    rows = [r for r in results["samples"]["table"] if r["model"] == model and r["temperature"] == temperature]
    return max(rows, key=lambda r: (r["nfe"] == nfe, r["nfe"]))


def speed_row(results, model, batch, nfe=None):
    """The row of part 3 for a model and a number of texts in a batch, chosen like `sample_row`."""
    rows = [r for r in results["speed"]["table"] if (r["model"], r["batch"]) == (model, batch)]
    return max(rows, key=lambda r: (r["nfe"] == nfe, r["nfe"]))


def reuse_run(results, model, fraction):
    """The run of part 5 of a model on a share of the text."""
    return next(r for r in results["reuse"]["runs"] if (r["model"], r["fraction"]) == (model, fraction))


def winner(dllm, gpt, error=0.0, lower=False):
    """The name of the model with the better number: the higher one, or the lower one if `lower`.

    A model wins only if the numbers differ by more than two standard errors of their difference (`error`).
    """
    if abs(dllm - gpt) <= 2 * error:
        return NO_DIFFERENCE
    return "dLLM" if (dllm < gpt) == lower else "GPT"


def nearer(dllm, gpt, real, key):
    """The model whose value of a measure is nearer to that of real text. Each argument is a row with its errors.

    The difference of the distances is |dllm - real| - |gpt - real|. If both models lie on one side of real text, the
    value of real text cancels, and so does its error. If they lie on opposite sides, it counts twice.
    """
    x, y = dllm[key] - real[key], gpt[key] - real[key]
    error = math.hypot(dllm[f"{key}_error"], gpt[f"{key}_error"])
    if (x < 0) != (y < 0):
        error = math.hypot(error, 2 * real[f"{key}_error"])
    return winner(abs(x), abs(y), error, lower=True)


def decisions(results):
    """The rows of the last table: (question, the dLLM's number, the GPT's number, verdict)."""
    losses = results["likelihood"]
    a, b = losses["dllm"], losses["gpt"]
    rows = [("Likelihood: loss in nats per character (the dLLM's is a bound)", f"≤ {a['NELBO']:.3f}", f"{b['NLL']:.3f}",
             winner(a["NELBO"], b["NLL"], a["error"], lower=True))]
    for temperature in (0.8, 1.0):
        rows += sample_decisions(results, temperature)
    rows += speed_decisions(results)
    for r in results["infilling"]["table"]:
        rows.append((f"Filling a blank of {r['blank']}", f"{r['dllm']:.1%}", f"{r['gpt']:.1%}",
                     winner(r["dllm"], r["gpt"], math.hypot(r["dllm_error"], r["gpt_error"]))))
    for fraction in dict.fromkeys(r["fraction"] for r in results["reuse"]["runs"]):
        x, *gpts = (reuse_run(results, model, fraction)["best"] for model in ("dllm", "gpt", "decayed"))
        y = min(gpts, key=lambda best: best["loss"])
        rows.append((f"Lowest loss on {fraction:.0%} of the text (the better one of the two GPTs)",
                     f"≤ {x['loss']:.3f}", f"{y['loss']:.3f}", winner(x["loss"], y["loss"], x["error"], lower=True)))
    return rows


def sample_decisions(results, temperature):
    """One row for each measure of written texts, and one for the mean distance: who is nearer to real text?"""
    real = results["samples"]["real"]
    x, y = (sample_row(results, model, temperature) for model in ("dllm", "gpt"))
    rows = [(f"{name} at temperature {temperature:g}, near real text ({real[key]:{form}})", f"{x[key]:{form}}",
             f"{y[key]:{form}}", nearer(x, y, real, key))
            for key, name, form in (("words", "Known words", ".1%"), ("distinct", "Distinct runs", ".1%"),
                                    ("divergence", "Divergence", ".3f"), ("judge", "Judge's NLL", ".3f"))]
    (a, a_error), (b, b_error) = x["mean"], y["mean"]
    return [*rows, (f"Mean distance from real text at temperature {temperature:g}", f"{a:.1f} ± {a_error:.1f}",
                    f"{b:.1f} ± {b_error:.1f}", winner(a, b, math.hypot(a_error, b_error), lower=True))]


def speed_decisions(results):
    """One row for each size of batch, and for the fewest and the most passes of the dLLM: who is faster?"""
    table, rows = results["speed"]["table"], []
    passes = sorted({r["nfe"] for r in table if r["model"] == "dllm"})
    for batch in sorted({r["batch"] for r in table}):
        for nfe in dict.fromkeys((passes[0], passes[-1])):
            x, y = speed_row(results, "dllm", batch, nfe), speed_row(results, "gpt", batch)
            rates = [r["characters_per_second"] for r in (x, y)]
            rows.append((f"Characters/s, batch {batch}, dLLM in {nfe} passes", *(f"{rate:,.0f}" for rate in rates),
                         winner(*rates, math.hypot(x["error"], y["error"]))))
    return rows
