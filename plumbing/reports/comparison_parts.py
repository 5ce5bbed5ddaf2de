"""The five parts of chapter 10's page. Each function takes the results and returns Markdown."""

import math

from plumbing.reports import comparison_figures as figures
from plumbing.reports import comparison_verdicts as verdicts
from plumbing.reports import pages


def picture(name, what):
    return f"![{what}](figures/dllm_vs_gpt_{name}.png)"


def with_error(row, key, scale=1, form=".3f", unit=""):
    """Return a number of a row with its standard error, as text."""
    return f"{scale * row[key]:{form}}{unit} ± {scale * row[f'{key}_error']:{form}}{unit}"


def distance(row, key):
    """Return one of the distances of a row from real text, "largest" or "mean", as text; empty for real text."""
    return "{:.1f} ± {:.1f}".format(*row[key]) if key in row else ""


def likelihood(r):
    L = r["likelihood"]
    a, b = L["dllm"], L["gpt"]
    gap = a["NELBO"] - b["NLL"]
    verdict = {verdicts.NO_DIFFERENCE: "The difference is within two standard errors.",
               "GPT": f"The GPT is ahead by {gap:.3f} nats per character. Since the dLLM's number is a bound, an "
                      "unknown part of this gap may come from the bound.",
               "dLLM": f"The dLLM is ahead by at least {-gap:.3f} nats per character, since even its bound is lower "
                       "than the GPT's exact number."}[verdicts.winner(a["NELBO"], b["NLL"], a["error"], lower=True)]
    rows = []
    for level in a["levels"]:
        if level["visible"] in (1, 8, 64, 128) or level is a["levels"][-1]:
            near = next(x for x in b["positions"] if x["visible"][0] <= level["visible"] <= x["visible"][1])
            low, high = near["visible"]
            span = f"{low}" if low == high else f"{low} to {high}"
            rows.append((level["visible"], f"{level['t']:.2f}", f"{level['loss']:.2f} ± {level['error']:.2f}",
                         f"{near['loss']:.2f} ({span} visible)"))
    both = pages.table(["", "nats per character", "bits per character", "what it is"], [
        ("dLLM", f"{a['NELBO']:.4f} ± {a['error']:.4f}", f"{a['NELBO'] / math.log(2):.3f}", "NELBO, an upper bound"),
        ("GPT", f"{b['NLL']:.4f}", f"{b['NLL'] / math.log(2):.3f}", "NLL, exact")])
    return f"""
## 1. Likelihood

{both}

Lower is better. Both numbers count the same characters: all but the first of {L['windows']} windows of {L['length']}
characters. The dLLM's error is the standard error that comes from the random masks. Another choice of text would
change the GPT's number by about {b['error']:.3f}, and the dLLM's number in the same direction. {recorded_loss(r)}

{verdict}

{picture("likelihood", "Loss by noise level, and by the number of visible characters")}

The chain rule writes both losses as a mean over {L['length'] - 1} predictions, with 1 to {L['length'] - 1} visible
characters. On the left, ℓ(t) is the loss of a masked character when a share t of the window is masked. The NELBO is
the area under this curve. On the right is the same curve by the number of visible characters, beside the loss of the
GPT by position. The characters that the GPT sees are always the most useful ones, next to the character to guess. The
dLLM sees characters at random places, because it learns to predict from every subset of the text and not only from
its beginning. The next table shows some points of the right-hand figure.

{pages.table(["characters visible", "t", "dLLM", "GPT"], rows)}

{toy(r)}
"""


def toy(r):
    short, long = r["toy"]
    rows = [(name, *(f"{row[key]:.3f}" for row in r["toy"])) for name, key in (
        ("entropy", "entropy"), ("NELBO of the true probabilities", "NELBO"),
        ("the same sum if the letters of a step depend on each other", "coupled"))]
    return f"""
### Which losses may be compared

A bound may be compared with an exact NLL, but not every sum that looks like the NELBO is a bound. Take two texts,
"00" and "11", with probability 1/2 each. Their *entropy* is ln 2 = {short['entropy']:.3f} nats per text. On such texts
no model can have a lower mean NLL than the entropy, so no upper bound on the NLL can be lower either. A model with the
true probabilities gives 1/2 to each letter while both are masked, and is certain when one is visible.

{pages.table(["nats per text", *(f"{row['length']} letters" for row in r["toy"])], rows)}

Chapter 04 computes the NELBO: the mean over k, the number of masks among T letters, of T/k times the cost of the k
masked letters. Both masks of "00" cost 2 ln 2 with weight 1, one mask costs 0 with weight 2, and the mean is ln 2.
In the last line the letters of a step depend on each other: each knows the ones on its left, even if they are masked.
Then both masks together cost only ln 2. That is the correct cost for writing both letters in one step. But the weight
T/k assumes that only one of the k masked letters is written next, and that it knows visible letters alone. So the sum
is {short['coupled']:.3f} for texts of {short['length']} letters and {long['coupled']:.3f} for texts of
{long['length']}, below the entropy. The likelihoods that were first published for EDLM (arXiv:2410.21357) and
MDM-Prime are such sums, as an erratum of the authors says (2026).

Therefore compare the NELBO of a model only if it predicts each masked token from the visible tokens alone. The dLLM of
this page does so. The NLL of the GPT needs no such condition, since it is the chain rule itself.
"""


def recorded_loss(r):
    """Return a sentence on why the dLLM's training run recorded another NELBO; empty if it recorded none."""
    own, draws = r["dllm"]["info"].get("NELBO"), r["size"].get("draws")
    if own is None:
        return ""
    return (f"The dLLM's training run recorded a NELBO of {own:.3f}, because it was measured differently: on windows "
            f"of {r['dllm']['model']['seq_len']} characters of which none is given, with other random masks (four for "
            f"each window, here {draws}).")


def samples(r):
    S, real = r["samples"], r["samples"]["real"]

    def row(name, values, nfe="", temperature=""):
        return (name, nfe, temperature, with_error(values, "words", 100, ".1f", "%"),
                with_error(values, "distinct", 100, ".1f", "%"), with_error(values, "divergence"),
                with_error(values, "judge"), values["copied"], distance(values, "largest"), distance(values, "mean"))

    rows = [row("real text", real),
            *(row(figures.NAMES[x["model"]], x, x["nfe"], x["temperature"]) for x in S["table"])]
    x, y = (verdicts.sample_row(r, model, 0.8) for model in ("dllm", "gpt"))
    few = verdicts.sample_row(r, "dllm", 0.8, min(z["nfe"] for z in S["table"] if z["model"] == "dllm"))
    longest = max(S["table"], key=lambda x: x["copied"])
    copied = "longer than" if longest["copied"] > real["copied"] else "no longer than"
    head = ["", "passes", "temperature", "known words", "distinct runs of 4", "divergence", "judge's NLL",
            "longest copy", "largest distance", "mean distance"]
    return f"""
## 2. Samples

{pages.table(head, rows)}

Each line describes {S['texts']} texts of {S['length']} characters, which continue the first character of a held-out
window. The first line describes these windows themselves. The errors are standard errors over the texts. No column
alone is a score: a text can have only known words because it repeats one of them, or read well because it is copied.
Good texts are *near the first line in every column*. A pass is one forward pass of the network. Half of
the dLLM's passes write characters, and the other half correct what they wrote (chapter 04).

{columns(S)}

Other pages, such as fast_decoding.md, have other numbers for real text, because they use other windows and another
number of texts: the share of distinct runs falls when more text is counted together.

{picture("samples", "Known words, distinct runs and divergence against the judge's NLL")}

The small numbers beside the points are temperatures. At temperature 0.8 the share of known words is {y['words']:.1%}
for the GPT, {x['words']:.1%} for the dLLM in {x['nfe']} passes and {few['words']:.1%} in {few['nfe']} passes.
The mean distance from real text is {distance(y, 'mean')}, {distance(x, 'mean')} and {distance(few, 'mean')}.
Characters that are written in the same pass cannot see each other, so a small number of passes harms the words first.
The longest copied run of all lines has {longest['copied']} characters ({figures.NAMES[longest['model']]}, temperature
{longest['temperature']}). This is {copied} the {real['copied']} characters that real text shares with the training
text.

Below is the first text of each model at temperature 0.8, unedited. The dLLM in {x['nfe']} passes:

{pages.quote(x['first'])}

The GPT:

{pages.quote(y['first'])}
"""


def columns(S):
    """Return what the columns of the table of samples mean."""
    return f"""\
- *Known words* is the share of words that occur in the training text.
- *Distinct runs* is the number of different runs of four characters divided by the number of all such runs.
- *Divergence* is the Jensen-Shannon divergence, in nats, between the frequencies of runs of four characters in the
  texts and in a reference, which has equal parts of other held-out text and of training text. Repetition and noise
  both raise it.
- *Judge* is a character {S['judge_order']}-gram model of the training text (Witten and Bell 1991). It predicts a
  character from up to {S['judge_order'] - 1} characters before it, and shares no weights with either model. Its NLL
  of all held-out windows is {S['judge_held_out']:.3f}. A text with a lower NLL than real text is more
  predictable than real text: at low temperatures a model writes what is common.
- *Longest copy* is the length of the longest run of characters that also occurs in the training text.

The *distance* of a line in one of the first four measures is its difference from real text, divided by how far two
sets of {S['texts']} real texts usually are apart in this measure. Real text would have distances of about 1, and a
distance of 10 is clearly not chance. The *largest distance* is that of the worst measure, and the *mean distance* is
that of all four. The largest distance shows whether a model is bad in one measure although it is good in the
others."""


def speed(r):
    T, turns = r["speed"]["table"], r["speed"].get("turns", 3)
    batches = sorted({x["batch"] for x in T})

    def shown(model, nfe, batch):
        own, gpt = verdicts.speed_row(r, model, batch, nfe), verdicts.speed_row(r, "gpt", batch)
        rates = [row["characters_per_second"] for row in (own, gpt)]
        return f"{rates[0]:,.0f} ({rates[0] / rates[1]:.2f} ×)"

    rows = [(figures.NAMES[model], nfe, *(shown(model, nfe, batch) for batch in batches),
             f"{verdicts.sample_row(r, model, 0.8, nfe)['judge']:.3f}")
            for model, nfe in dict.fromkeys((x["model"], x["nfe"]) for x in T)]
    return f"""
## 3. Speed

{pages.table(["", "passes", *(f"characters/s, batch {b}" for b in batches), "judge's NLL at temperature 0.8"], rows)}

Higher is better. The texts have {r['speed']['length']} characters. Each speed is the median of {turns} measurements,
in which all ways of writing take turns on one machine. The number in brackets is the speed relative to the GPT. Other
pages, such as fast_decoding.md, have other speeds for the same models, because they come from another run, and the
speed of a machine changes with its other work: compare only speeds of one table.

{picture("speed", "Characters per second against the judge's NLL")}

A pass is not the same amount of work for both models. A pass of the GPT computes one new character and reads the
others from its key-value buffer (chapter 02). A pass of the dLLM computes all {r['speed']['length']} characters. So
with fewer passes the dLLM becomes faster than the GPT only if the machine computes a whole window in little more time
than one character. A large GPU does so for a single text, because most of its units would otherwise be idle. A CPU
gains less, and so does any machine with a large batch, because its units are busy already."""


def infilling(r):
    F = r["infilling"]
    rows = [(x["blank"], *(with_error(x, m, 100, ".1f", "%") for m in figures.FILLERS)) for x in F["table"]]
    cases = "\n\n".join(
        f"Window {i} begins with:\n\n{pages.quote(case['context'])}\n\n"
        f"The play continues:\n\n{pages.quote(case['truth'])}\n\n"
        f"The dLLM:\n\n{pages.quote(case['dllm'])}\n\nThe GPT:\n\n{pages.quote(case['gpt'])}"
        for i, case in enumerate(F["cases"], 1))
    return f"""
## 4. Filling a blank

{pages.table(["characters in the blank", *(figures.NAMES[m] for m in figures.FILLERS)], rows)}

Higher is better: the share of the characters of a blank that a model restores exactly, with the standard error over
{F['windows']} held-out windows of {F['length']} characters. The blank is in the middle of the window. The dLLM sees
both sides and fills one character per pass, the one of highest confidence first. The GPT sees only the left side and
continues it with the most likely character each time. The bigram knows only the character before the blank. A GPT
could use the right side if it wrote many candidates and kept the one after which the right side is most likely, but
the number of possible candidates grows exponentially with the length of the blank.

{picture("infilling", "Characters restored exactly, by the length of the blank")}

A long blank has many good answers, and this measure accepts only one of them. If only a beginning is given, both
models do what a GPT was trained for. Below, both complete the last {len(F['cases'][0]['truth'])} characters of
windows that were drawn with a fixed seed, at temperature 0.8, unedited. The dLLM uses one pass per
character, and half of its passes correct what the others wrote.

{cases}
"""


def course(run):
    """Return how the loss of a run of part 5 developed, as the end of a sentence."""
    best, end = run["best"], run["end"]
    if best["step"] == end["step"]:
        return f"is lowest at the end, after {end['epochs']:.1f} epochs"
    return f"is lowest after {best['epochs']:.1f} epochs and ends {end['loss'] - best['loss']:.3f} higher"


def reuse(r):
    R, rows, sentences = r["reuse"], [], []
    for run in R["runs"]:
        best, end = run["best"], run["end"]
        rows.append((f"{run['fraction']:.0%} ({run['characters']:,})", figures.NAMES[run["model"]],
                     f"{best['loss']:.3f}", f"{best['epochs']:.1f}", f"{end['loss']:.3f}", f"{end['epochs']:.1f}"))
    for fraction in dict.fromkeys(run["fraction"] for run in R["runs"]):
        x, y, z = (course(verdicts.reuse_run(r, model, fraction)) for model in ("dllm", "gpt", "decayed"))
        sentences.append(f"- On {fraction:.0%} of the text, the loss of the dLLM {x}. The loss of the GPT {y}; with "
                         f"weight decay it {z}.")
    lines = "\n".join(sentences)
    return f"""
## 5. Reading the same text again

An epoch is one reading of the training text. In every epoch a dLLM sees the text with different characters masked,
but a GPT makes the same predictions again. Which model gains more from reading a small corpus often? New models of
{R['parameters']:,} parameters, all with the same settings (no dropout, constant learning rate, averaged weights),
train for {R['train']['steps']:,} steps on a part of the training text. Weight decay works against overfitting, so
there is a second GPT with a weight decay of {R['own']['decayed']['weight_decay']:g}.

{pages.table(["part of the text (characters)", "", "lowest loss", "after epochs", "last loss", "after epochs"], rows)}

Lower is better. The loss is measured on held-out text, in nats per character. A model overfits if its last loss is
above its lowest loss: it has begun to learn its text by heart.

{picture("reuse", "Validation loss against epochs")}

In the figure, a star marks the lowest loss of each run.

{lines}

The loss of a dLLM is a bound and the loss of a GPT is exact, as in part 1. But the number of epochs after which a
loss begins to rise can be compared directly.
"""
