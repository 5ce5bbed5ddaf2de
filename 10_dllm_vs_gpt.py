"""Chapter 10: is a diffusion language model (dLLM) better or worse than a GPT?

    python 10_dllm_vs_gpt.py                # your latest dLLM and GPT, or the shipped models; 15 minutes on two cores
    python 10_dllm_vs_gpt.py --size gpu     # more texts and larger models in part 5; the default where there is CUDA
    python -m experiments.dllm_vs_gpt       # three equal pairs and the shipped one, for the page docs/dllm_vs_gpt.md

A comparison says little about the two kinds of model if one model is larger, or has read more. Chapters 05 and 07 train
an equal pair: on a laptop, `python 05_train.py` and `python 07_train_gpt.py` give two models that differ in one
setting, `causal`, and learn from the same text for the same time. Compare such a pair. The shipped models had unequal
training, so the program first prints how large both models are, and how many characters each has read, and warns if
these numbers differ much.

The two models minimise different losses, so this chapter compares them in five other ways: the likelihood of the same
characters, the quality of written texts, the filling of blanks, the speed of writing, and the effect of reading a small
corpus for many epochs. Each part prints its numbers as a table. At the end the program saves all numbers in a JSON
file, and a last table says which model is better at what.

You should see that the GPT predicts text better, writes nearer to real text, and is faster, and that the gap in
likelihood does not come from the dLLM's number being only a bound. The dLLM restores short blanks better than a GPT
that only continues the left side, and about as well as one that tries several fillings.
"""

import functools
import json
import math
import time
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib import import_module
from itertools import pairwise, product
from pathlib import Path
from typing import Literal

from plumbing import checkpoint, cli, devices, files, measures, text
from plumbing.run import Run, origin

import torch
from tqdm import tqdm

tensors = import_module("01_tensors")
transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
gpt_training = import_module("07_train_gpt")

TEMPERATURES = (0.8, 0.95, 1.1)
TURNS = 3  # measurements of each speed
BLANKS = (1, 4, 16, 64)  # lengths of the blanks of part 3, in characters
TRIES = 16  # candidates for a blank, among which a GPT chooses
CASES = 3  # texts that both models complete in part 3
CASE_LENGTH = 100  # characters that each model adds to such a text
FRACTIONS = (0.05, 0.2, 1.0)  # shares of the training text in part 5
LEARNERS = {"dllm": 0.0, "gpt": 0.0, "decayed": 0.3}  # the models of part 5, and the weight decay of each


def progress(work):
    """Go through a list of pieces of work, and show on stderr how many are done."""
    return tqdm(list(work), leave=False)


@dataclass(frozen=True)
class Size:
    """How much to measure. Larger numbers make the standard errors smaller."""

    draws: int = 2  # random masks for each window in the NELBO
    windows: int = 48  # windows for each number of visible characters, and for each length of blank
    exact: int = 4  # windows whose NLL is computed in several orders
    samples: int = 64  # texts for each way of writing
    batch: int = 8  # texts in the batch whose speed is measured
    steps: tuple = (16, 96)  # passes of the dLLM's sampler
    # The models of part 5, and how they are trained.
    shape: dict = field(default_factory=lambda: dict(n_layer=3, n_head=3, n_embd=96, seq_len=128))
    train: dict = field(default_factory=lambda: dict(batch_size=8, steps=1000, evaluations=10, compile="off"))


SIZES = {
    "quick": Size(),
    "gpu": Size(draws=64, windows=400, exact=48, samples=256, batch=256, steps=(16, 96, 256), shape={},
                train=dict(steps=4000, evaluations=40)),
}


# 1. Likelihood
#
# The chain rule splits the likelihood of a text of T characters, the first one given, into T - 1 predictions, with 1 to
# T - 1 characters visible. A GPT sees the characters on the left, and the mean cost of its T - 1 predictions, -log p,
# is the exact NLL. A dLLM sees the same number of characters, but at random places: the mean cost is the NELBO, an
# upper bound on its NLL (chapter 04).


@torch.no_grad()
def loss_with_visible(model, windows, visible, seed=0):
    """Return the dLLM's cost of a masked character when `visible` characters of windows (N, T) are not masked.

    The first character is always visible. The result is (mean, standard error), in nats per masked character.
    """
    N, T = windows.shape
    k = torch.full((N,), T - visible, device=windows.device)  # number of masks
    with diffusion.same_numbers(seed, windows.device):
        xt = diffusion.hide(windows, k, model.config.mask_id, given=1)
    losses = diffusion.hidden_losses(model, windows, xt, k / T)  # (N, T)
    return measures.mean_and_error(losses.sum(1) / k)


def likelihood(dllm, gpt, windows, size, seed):
    """Return NELBO and NLL of windows (N, T) without the first character, also by the number of visible characters."""
    T = windows.shape[1]
    bound, error = diffusion.nelbo(dllm, windows, size.draws, given=1, seed=seed)
    exact, exact_error = gpt_training.nll(gpt, windows)

    powers = [2**i for i in range(T.bit_length()) if 2**i < T]
    levels = []
    for visible in sorted({*powers, *(T - power for power in powers)}):  # more levels near both ends, which are steep
        loss, its_error = loss_with_visible(dllm, windows[: size.windows], visible, seed)
        levels.append({"visible": visible, "t": (T - visible) / T, "loss": loss, "error": its_error})

    by_position = gpt_training.nll_by_position(gpt, windows)  # (N, T - 1)
    positions = []
    for low, high in pairwise([*powers, T]):  # column i has i + 1 visible characters
        loss, its_error = measures.mean_and_error(by_position[:, low - 1 : high - 1].mean(1))
        positions.append({"visible": [low, high - 1], "loss": loss, "error": its_error})

    return {"windows": len(windows), "length": T, "dllm": {"NELBO": bound, "error": error, "levels": levels},
            "gpt": {"NLL": exact, "error": exact_error, "positions": positions}}


def show_likelihood(part):
    dllm, gpt = part["dllm"], part["gpt"]
    tensors.heading(f"1. Likelihood of {part['windows']} windows of {part['length']} characters, the first one given")
    print("Lower is better: the average cost of one character, in nats (natural-logarithm units).")
    print(f"  dLLM  NELBO {dllm['NELBO']:.4f} ± {dllm['error']:.4f}, a bound; its error is mainly that of random masks")
    print(f"  GPT   NLL   {gpt['NLL']:.4f}, exact; on other text it would differ by about {gpt['error']:.4f}")


# How loose is the bound? If a rule fixes the order of writing, the NLL of a dLLM is a product of conditionals, as exact
# as that of a GPT. This NLL differs from order to order, and the NELBO is its mean over all orders. If the order is
# drawn at random, the probability of a text is the mean of its probabilities in all orders, and -log of this mean is
# the true NLL, which the NELBO only bounds. The mean probability over a few orders also gives a bound, and each further
# order makes it tighter (Burda et al. 2015, arXiv:1509.00519).

ORDERS = 8  # random orders


@torch.no_grad()
def exact_nll(model, x, order):
    """Return the NLL of x (N, T) for a dLLM that writes one token per pass: (N,), in nats per token.

    The first token is given. order: a selection rule of chapter 04, which says where to write next. The rule sees only
    what the model sees, so by the chain rule the sum over all passes is exact.
    """
    masked = torch.ones_like(x, dtype=torch.bool)
    masked[:, 0] = False
    one = torch.ones(len(x), device=x.device)
    total = torch.zeros(len(x), device=x.device)
    for _ in range(1, x.shape[1]):
        xt = x.masked_fill(masked, model.config.mask_id)
        log_p = model(xt, masked.float().mean(1)).float().log_softmax(-1)  # (N, T, V)
        confidence = log_p.amax(-1).exp()  # (N, T) the probability of the most likely token
        chosen = order(log_p, confidence, masked, one)  # (N, T) True at one position of each row
        cost = -log_p.gather(-1, x[..., None])[..., 0]  # (N, T) for the true token
        total += (cost * chosen).sum(1)
        masked = masked & ~chosen
    return total / (x.shape[1] - 1)


def fixed(turns):
    """Return the rule that writes in the order of the numbers `turns`, (T,) or (N, T), the lowest first."""
    return lambda logits, confidence, masked, count: diffusion.highest(-turns.expand(masked.shape), masked, count)


def mixture(nlls, T):
    """Return the NLL (…, N) of texts that are written in one of K orders, each with probability 1/K.

    nlls (…, K, N): the NLL in each order, in nats per token, of N texts with T tokens.
    """
    K = nlls.shape[-2]
    return -((-T * nlls).logsumexp(-2) - math.log(K)) / T


def looseness(dllm, windows, seed):
    """Return rows {name, NLL, minus, …} for windows (N, T): the NELBO, the NLLs in several orders, and tighter bounds.

    minus: how far the number is above the mean over random orders, which is an estimate of the NELBO. All rows describe
    the same windows, so the error of `minus` is computed from the differences in each window.
    """
    N, T = windows.shape
    place = torch.arange(T, device=windows.device).float()
    with diffusion.same_numbers(seed, windows.device):
        turns = torch.rand(ORDERS, N, T, device=windows.device)
    by_order = [exact_nll(dllm, windows, fixed(turns[i])) for i in progress(range(ORDERS))]
    random = torch.stack(by_order)  # (ORDERS, N)
    found = {"the mean over random orders": random.mean(0)}
    for K in (2, 4, 8):
        groups = random.view(ORDERS // K, K, N)
        found[f"-log of the mean probability over {K} random orders"] = mixture(groups, T - 1).mean(0)
    found["left to right"] = exact_nll(dllm, windows, fixed(place))
    found["right to left"] = exact_nll(dllm, windows, fixed(-place))
    found["the most certain character first"] = exact_nll(dllm, windows, diffusion.by_confidence)
    bound, error = diffusion.nelbo(dllm, windows, 64, given=1, seed=seed)
    rows = [{"name": "NELBO, from random masks", "NLL": bound, "error": error}]
    for name, values in found.items():
        mean, error = measures.mean_and_error(values)
        minus, minus_error = measures.mean_and_error(values - found["the mean over random orders"])
        rows.append({"name": name, "NLL": mean, "error": error, "minus": minus, "minus_error": minus_error})
    return {"windows": N, "length": T, "orders": ORDERS, "rows": rows}


def show_looseness(part):
    tensors.heading(f"How loose is the bound? {part['windows']} windows of {part['length']} characters")
    print("The dLLM's NLL in nats per character, and its difference from the mean over random orders:")
    for row in part["rows"]:
        line = f"  {row['name']:55} {row['NLL']:.3f} ± {row['error']:.3f}"
        if row.get("minus"):
            line += f"   {row['minus']:+.4f} ± {row['minus_error']:.4f}"
        print(line)


# 2. Samples
#
# How good is a written text? No single number says that, so we measure four things, and compare each with its value for
# real text.
#
# Known words: the share of the words that occur in the training text. A model that cannot spell invents words. But a
#   text that repeats one word has only known words.
# Distinct runs: (different runs of four characters) / (all runs of four characters). The value of "aaaaaaa" is 1/4.
#   Repetition lowers it, and noise raises it.
# Divergence: do the texts use the same runs as real text, equally often? If p and q are the shares of a run in the
#   written and the real texts, and m = (p + q) / 2, the divergence is half of Σ p log(p/m) + Σ q log(q/m). It is 0 if
#   all shares are equal, and log 2 if no run is in both. Repetition and noise both raise it.
# Judge: a model that has counted which characters follow each five characters of the training text. Its NLL is the mean
#   of -log p(character | the five before it). Noise has a high NLL. If the NLL is lower than that of real text, the
#   model writes what is common, and too seldom what is rare.
# Two more numbers follow: one sums up these four, and one says how much of a text is copied.
#
# Distance: (value - value of real text) / (how far apart two sets of real texts of this size usually are). In this unit
#   all four can be compared: 1 is chance, 10 is clearly not. We print the largest of the four, and their mean.
# Copy: the length of the longest run of characters that also occurs in the training text. A model can write well
#   because it has learned its text by heart; real text shows how long such a run may be by chance.
#
# The code is in plumbing/measures.py.


def write(model, prompts, length, steps, temperature, seed=0):
    """Continue prompts (B, P) to (B, length).

    The dLLM needs `steps` passes, and corrects in half of them, at falling temperatures. The GPT needs one pass per
    character.
    """
    torch.manual_seed(seed)
    missing = length - prompts.shape[1]
    if model.config.causal:
        return gpt_training.write(model, prompts, missing, temperature)
    masks = prompts.new_full((len(prompts), missing), model.config.mask_id)
    *_, last = diffusion.denoise(model, torch.cat((prompts, masks), 1), steps, temperature)
    return last.canvas


def ways(dllm, gpt, size, length):
    """Return the ways of writing a text of `length` characters: [(name, model, nfe)]. nfe: the number of passes."""
    by_dllm = [("dllm", dllm, min(steps, length - 1)) for steps in size.steps]
    return [*by_dllm, ("gpt", gpt, length - 1)]


def make_yardstick(rows, windows, tokenizer, train_text):
    """Return the Yardstick for texts that continue rows (N, T), some of the unseen windows (M, T), and its judge."""
    T = windows.shape[1]
    real, held_out = ([tokenizer.decode(row) for row in texts] for texts in (rows, windows))
    learned = [train_text[i : i + T] for i in range(0, len(train_text) - T, T)]
    judge = measures.Judge(train_text, tokenizer.vocab_size)
    vocabulary = set(measures.words_of(train_text))
    return measures.Yardstick(real, held_out, learned, judge, vocabulary), judge


def samples(dllm, gpt, windows, size, seed, tokenizer, train_text):
    """Return the measures of texts that the models write after the first character of a window, and of real text."""
    T = windows.shape[1]
    rows = training.evenly(windows, size.samples)  # (B, T)
    real = [tokenizer.decode(row) for row in rows]
    held_out = [tokenizer.decode(row) for row in windows]
    yardstick, judge = make_yardstick(rows, windows, tokenizer, train_text)
    of_real = yardstick.real | {"copied": measures.longest_copy(real, train_text)}

    table = []
    for (name, model, nfe), temperature in progress(product(ways(dllm, gpt, size, T), TEMPERATURES)):
        tokens = write(model, rows[:, :1], T, nfe, temperature, seed)
        texts = [tokenizer.decode(row) for row in tokens]
        values = yardstick.quality(texts) | {"copied": measures.longest_copy(texts, train_text)}
        table.append({"model": name, "nfe": nfe, "temperature": temperature, **values, "first": texts[0]})
    return {"texts": len(rows), "length": T, "judge_order": judge.order, "judge_held_out": judge.nll(held_out),
            "real": of_real, "spread": yardstick.spread, "table": table}


def show_samples(part):
    tensors.heading(f"2. {part['texts']} texts of {part['length']} characters for each line")
    print("Good texts have the values of real text, which are in the first line.\n"
          "  model passes temperature  words  distinct  divergence  judge's NLL  copy  largest distance  mean distance")
    real = part["real"] | {"model": "real", "nfe": "", "temperature": ""}
    for row in (real, *part["table"]):
        line = (f"  {row['model']:5} {row['nfe']:>6} {row['temperature']:>11} {row['words']:6.1%} "
                f"{row['distinct']:9.1%} {row['divergence']:11.3f} {row['judge']:12.3f} {row['copied']:5}")
        if row is not real:  # real text has no distance from itself
            line += " {:10.1f} ± {:.1f}".format(*row["largest"]) + " {:12.1f} ± {:.1f}".format(*row["mean"])
        print(line)


# 3. Filling blanks
#
# We hide characters in the middle of a window, and measure what share of them a model restores exactly. A dLLM sees
# both sides of the blank. A GPT continues the left side. But it can use the right side, too: it writes several
# candidates, and takes the candidate with which the blank and everything after it are most probable. To judge a
# candidate, it must read the whole window. A table of the most common followers (chapter 01's bigrams) says how much
# can be restored without a model.


def fill(model, rows, start, end):
    """Fill the blank [start, end) of rows (B, T) with likely characters, one per pass. Returns (B, end - start).

    A dLLM commits the character of highest confidence first. A GPT continues the left side.
    """
    if model.config.causal:
        return gpt_training.write(model, rows[:, :start], end - start, temperature=0)[:, start:]
    canvas = rows.clone()
    canvas[:, start:end] = model.config.mask_id
    *_, last = diffusion.denoise(model, canvas, end - start, 0, select=diffusion.by_confidence, correction=0)
    return last.canvas[:, start:end]


def fill_with_tries(model, rows, start, end):
    """Fill the blank [start, end) of rows (B, T) with a GPT's best candidate: (B, end - start).

    One candidate takes the most likely character at each step; the other TRIES - 1 are drawn at random.
    """
    chosen = []
    for row in rows:
        prompts = row[None, :start].repeat(TRIES, 1)
        candidates = row.repeat(TRIES, 1)  # (TRIES, T)
        candidates[:, start:end] = gpt_training.write(model, prompts, end - start, temperature=1.0)[:, start:]
        candidates[0, start:end] = fill(model, row[None], start, end)[0]
        cost = gpt_training.nll_by_position(model, candidates)[:, start - 1 :].sum(1)  # column i is of position i + 1
        chosen.append(candidates[cost.argmin(), start:end])
    return torch.stack(chosen)


def common_followers(tokens, symbols):
    """Return which token most often follows each token in a text (N,): (symbols,)."""
    pairs = torch.bincount(tokens[:-1] * symbols + tokens[1:], minlength=symbols**2)
    return pairs.view(symbols, symbols).argmax(1)


def fill_with_followers(followers, rows, start, end):
    """Fill the blank [start, end) of rows (B, T) from the left with the most common followers: (B, end - start)."""
    guesses = [rows[:, start - 1]]
    for _ in range(start, end):
        guesses.append(followers[guesses[-1]])
    return torch.stack(guesses[1:], dim=1)


def restored(filler, windows, blank):
    """Return the share of characters that `filler` restores exactly: (mean, standard error over the windows (N, T)).

    filler: a function (rows (N, T), start, end) → (N, end - start). blank: the length of the blank, in the middle.
    """
    start = (windows.shape[1] - blank) // 2
    end = start + blank
    right = filler(windows, start, end) == windows[:, start:end]
    return measures.mean_and_error(right.double().mean(1))


def infilling(dllm, gpt, windows, size, seed, tokenizer, train_tokens):
    """Return the share of restored characters for each length of blank, and texts that both models complete."""
    rows = training.evenly(windows, size.windows)  # (N, T)
    followers = common_followers(train_tokens, tokenizer.vocab_size)
    fillers = {"dllm": functools.partial(fill, dllm), "gpt": functools.partial(fill, gpt),
               "gpt_tries": functools.partial(fill_with_tries, gpt),
               "bigram": functools.partial(fill_with_followers, followers)}
    torch.manual_seed(seed)
    table = []
    for blank in progress([n for n in BLANKS if n <= rows.shape[1] // 2]):
        row = {"blank": blank}
        for name, filler in fillers.items():
            share, error = restored(filler, rows, blank)
            row |= {name: share, f"{name}_error": error}
        table.append(row)
    cases = completions({"dllm": dllm, "gpt": gpt}, windows, seed, tokenizer)
    return {"windows": len(rows), "length": windows.shape[1], "tries": TRIES, "table": table, "cases": cases}


def show_infilling(part):
    tensors.heading(f"3. Blanks in the middle of {part['windows']} windows")
    print("Higher is better: the share of the characters of the blank that a model restores exactly.")
    names = {"dllm": "dLLM", "gpt": "GPT", "gpt_tries": f"GPT, the best of {part['tries']} tries", "bigram": "bigram"}
    for row in part["table"]:
        line = f"  {row['blank']:3} characters"
        for key, name in names.items():
            line += f"   {name} {row[key]:6.1%} ± {row[f'{key}_error']:.1%}"
        print(line)


def completions(models, windows, seed, tokenizer):
    """Return the ends of a few windows, as each model writes them and as they really are: [{name: text}]."""
    torch.manual_seed(seed)
    chosen = torch.randperm(len(windows))[:CASES]  # at random, so nobody picks the best windows
    rows = windows[chosen.to(windows.device)]
    length = windows.shape[1]
    known = length - min(CASE_LENGTH, length // 2)
    cases = [{"context": tokenizer.decode(row[:known]), "truth": tokenizer.decode(row[known:])} for row in rows]
    for name, model in models.items():
        tokens = write(model, rows[:, :known], length, length - known, 0.8, seed)
        for case, row in zip(cases, tokens):
            case[name] = tokenizer.decode(row[known:])
    return cases


# 4. Speed
#
# A pass of a GPT computes one new character and reads all others from its buffer (chapter 02), while a pass of a dLLM
# computes all characters. So we count seconds instead of passes. The ways of writing take turns, so that other work on
# the machine slows all of them equally.


def speed(dllm, gpt, windows, size):
    """Return the characters per second of each way of writing, for one text and for a batch (means of TURNS runs)."""
    length = windows.shape[1]
    table = []
    for batch in (1, size.batch):
        prompts = windows[:1, :1].repeat(batch, 1)  # (batch, 1)
        write(dllm, prompts, length, 2, 0.8)  # the first pass of a model is slow, so it is not measured
        write(gpt, prompts, 8, 7, 0.8)
        rates = {}
        for _ in progress(range(TURNS)):
            for name, model, nfe in ways(dllm, gpt, size, length):
                began = time.perf_counter()
                write(model, prompts, length, nfe, 0.8).cpu()  # .cpu() waits for the device
                seconds = time.perf_counter() - began
                rates.setdefault((name, nfe), []).append(batch * (length - 1) / seconds)
        for (name, nfe), values in rates.items():
            rate, error = measures.mean_and_error(torch.tensor(values))
            table.append({"model": name, "nfe": nfe, "batch": batch, "characters_per_second": rate, "error": error})
    return {"length": length, "turns": TURNS, "table": table}


def show_speed(part):
    tensors.heading(f"4. Speed for texts of {part['length']} characters, without the given first one")
    print("Higher is better. A pass is one forward pass of the network for the whole batch.")
    lines = {}
    for row in part["table"]:
        line = lines.setdefault((row["model"], row["nfe"]), "")
        lines[row["model"], row["nfe"]] = line + (
            f"   {row['characters_per_second']:8,.0f} ± {row['error']:5,.0f} characters/s in a batch of {row['batch']}")
    for (model, nfe), line in lines.items():
        print(f"  {model:5} {nfe:4} passes{line}")


# 5. Reading the same text again
#
# An epoch is one reading of the training text. In every epoch, a dLLM sees different characters masked, but a GPT makes
# the same predictions again. Which model gains more from reading a small text often? New models read a part of the text
# again and again. If the loss on unseen text begins to rise, the model overfits: it has begun to learn its text by
# heart. Weight decay works against that, so a second GPT is trained with weight decay.


def learning_curve(kind, parts, size, seed, tokenizer, device):
    """Train a new model, one of LEARNERS, on the text parts[0] and evaluate it on parts[1].

    The result is a list of {step, loss, error, epochs}. The learning rate is constant, so each point of the curve is
    the result of a training that ends there. loss: the NELBO or the NLL.
    """
    config = training.DiffusionTrainConfig(**size.train, seed=seed, cooldown=0.0, weight_decay=LEARNERS[kind])
    shape = transformer.TransformerConfig(**size.shape, vocab_size=tokenizer.vocab_size, causal=kind != "dllm")
    make_task = gpt_training.NextToken if shape.causal else training.MaskedDiffusion
    task = make_task(tokenizer, parts, shape.seq_len, device)
    torch.manual_seed(seed)
    model = transformer.Transformer(shape).to(device)
    run = Run(None, config)
    training.train(model, task, config, run, device)
    if run.stopped:
        raise KeyboardInterrupt  # Ctrl-C ends the whole comparison, not only this training
    curve = []
    for record in run.log[1:]:  # the first record is from before the first step
        read = record["step"] * config.batch_size * shape.seq_len
        curve.append({"step": record["step"], "loss": record[task.measure], "error": record["error"],
                      "epochs": read / len(parts[0])})
    return curve


def reuse(parts, size, seed, tokenizer, device):
    """Return NELBO or NLL of unseen text by epochs, for each of LEARNERS on each of FRACTIONS of the training text."""
    train_text, val_text = parts
    learned = []
    for fraction, kind in progress(product(FRACTIONS, LEARNERS)):
        part = train_text[: int(fraction * len(train_text))]
        curve = learning_curve(kind, (part, val_text), size, seed, tokenizer, device)
        best = min(curve, key=lambda point: point["loss"])
        end = curve[-1]
        learned.append({"model": kind, "fraction": fraction, "characters": len(part), "curve": curve, "best": best,
                        "end": end})
    return {"shape": asdict(transformer.Shape(**size.shape)), "train": size.train, "weight_decay": LEARNERS,
            "runs": learned}


def show_reuse(part):
    tensors.heading(f"5. Reading the same text again: {part['train']['steps']} steps on parts of the text")
    print("The dLLM's NELBO, the GPTs' NLL: lower is better. A model whose number rises again at the end overfits.")
    for run in part["runs"]:
        best, end = run["best"], run["end"]
        line = f"  {run['fraction']:4.0%} {run['model']:7} lowest {best['loss']:.3f} after {best['epochs']:5.1f} epochs"
        print(f"{line}, {end['loss']:.3f} at the end after {end['epochs']:.1f}")


# 6. Who is better?
#
# The answer to each question is the advantage of the dLLM, which may be negative, and its standard error. Even if the
# models do not differ, chance makes one answer in twenty an advantage of two standard errors, for one model or the
# other. With many questions, some would be decided by chance alone. So we ask for more: by Holm's rule (Holm 1979, "A
# simple sequentially rejective multiple test procedure"), the probability that chance decides even one question is
# below 5 %.


def question(name, form, dllm, gpt, advantage, error):
    """Return a row of the last table. form: the format of both numbers. advantage: above 0 if the dLLM is better."""
    return {"question": name, "form": form, "dllm": dllm, "gpt": gpt, "advantage": advantage, "error": error}


def nearer(name, form, dllm, gpt, real, key):
    """Return a row that says which model's value of a measure is nearer to real text. dllm, gpt, real: rows of part 2.

    The advantage is |gpt - real| - |dllm - real|. If both models lie on one side of real text, the value of real text
    cancels, and so does its error. If they lie on opposite sides, that error counts twice.
    """
    x, y = dllm[key] - real[key], gpt[key] - real[key]
    error = math.hypot(dllm[f"{key}_error"], gpt[f"{key}_error"])
    if (x < 0) != (y < 0):
        error = math.hypot(error, 2 * real[f"{key}_error"])
    return question(name, form, dllm[key], gpt[key], abs(y) - abs(x), error)


def best_row(samples, model):
    """Return this model's row of part 2 with the most passes, at the temperature that comes nearest to real text."""
    rows = [row for row in samples["table"] if row["model"] == model]
    most = max(row["nfe"] for row in rows)
    return min((row for row in rows if row["nfe"] == most), key=lambda row: row["mean"][0])


def questions(values):
    """Return the rows of the last table for one pair of models."""
    a, b = values["likelihood"]["dllm"], values["likelihood"]["gpt"]
    rows = [question("Nats per character (the dLLM's number is a bound)", ".3f", a["NELBO"], b["NLL"],
                     b["NLL"] - a["NELBO"], math.hypot(a["error"], b["error"]))]
    real = values["samples"]["real"]
    x, y = (best_row(values["samples"], model) for model in ("dllm", "gpt"))
    rows.append(nearer(f"Known words (real text: {real['words']:.1%})", ".1%", x, y, real, "words"))
    rows.append(question("Mean distance from real text", ".1f", x["mean"][0], y["mean"][0],
                         y["mean"][0] - x["mean"][0], math.hypot(x["mean"][1], y["mean"][1])))
    speeds = {(row["model"], row["batch"], row["nfe"]): row for row in values["speed"]["table"]}
    for (model, batch, nfe), x in speeds.items():
        if model == "dllm":
            y = next(row for key, row in speeds.items() if key[:2] == ("gpt", batch))
            rows.append(question(f"Characters/s, {batch} at a time, the dLLM in {nfe} passes", ",.0f",
                                 x["characters_per_second"], y["characters_per_second"],
                                 x["characters_per_second"] - y["characters_per_second"],
                                 math.hypot(x["error"], y["error"])))
    for row in values["infilling"]["table"]:
        rows.append(question(f"Restored characters of a blank of {row['blank']}", ".1%", row["dllm"], row["gpt_tries"],
                             row["dllm"] - row["gpt_tries"], math.hypot(row["dllm_error"], row["gpt_tries_error"])))
    return rows


def are_clear(probabilities, level=0.05):
    """Return which of several findings are not chance, by Holm's rule: a list of bools.

    probabilities: for each finding, how probable a difference of at least that size would be by chance. With n
    findings, the smallest probability must be below level / n, the next one below level / (n - 1), and so on, up to the
    first that fails.
    """
    clear = [False] * len(probabilities)
    order = sorted(range(len(probabilities)), key=lambda i: probabilities[i])
    for place, i in enumerate(order):
        if probabilities[i] > level / (len(probabilities) - place):
            break
        clear[i] = True
    return clear


def verdicts(rows):
    """Return who is better in each of the rows: "dLLM", "GPT" or "not clear"."""
    probabilities = [math.erfc(abs(row["advantage"]) / max(row["error"], 1e-12) / 2**0.5) for row in rows]
    better = ["dLLM" if row["advantage"] > 0 else "GPT" for row in rows]
    return [name if clear else "not clear" for name, clear in zip(better, are_clear(probabilities))]


def show_verdicts(rows):
    tensors.heading("Who is better? (Texts: with the most passes, at the best temperature of each model)")
    print(f"  {'':55} {'dLLM':>8} {'GPT':>8}   better")
    for row, verdict in zip(rows, verdicts(rows)):
        numbers = " ".join(f"{format(row[key], row['form']):>8}" for key in ("dllm", "gpt"))
        print(f"  {row['question']:55} {numbers}   {verdict}")


# 7. The two models, and the command line


class Pair:
    """A dLLM and a GPT that learned from the same text, and windows of unseen text that both can read.

    dllm, gpt: the models. about: what to know about each of them, {"dllm": {…}, "gpt": {…}}. windows: (N, T).
    """

    def __init__(self, dllm, gpt, corpus, device):
        """Load the runs `dllm` and `gpt` (see `load_pair`)."""
        self.dllm, self.gpt, self.tokenizer, self.about = load_pair(dllm, gpt, corpus, device)
        self.train_text, val_text = text.split(corpus.text)
        # The longest window for both: a GPT reads all characters but the last, which it only predicts. A dLLM reads all
        # characters; with rotary positions it can read one more than in training.
        longest = self.dllm.config.seq_len + (self.dllm.config.positions == "rope")
        T = min(longest, self.gpt.config.seq_len + 1)
        val_tokens = torch.tensor(self.tokenizer.encode(val_text), device=device)
        self.windows = val_tokens[: len(val_tokens) // T * T].view(-1, T)
        self.train_tokens = torch.tensor(self.tokenizer.encode(self.train_text), device=device)


def load_pair(dllm, gpt, corpus, device):
    """Return (dLLM, GPT, tokenizer, about) of two runs that learned from the Corpus `corpus`.

    dllm, gpt: name or folder of a run; "" means your latest run, or the shipped model. Prints what the two models are,
    and warns if they differ much in size, or in how much they have read.
    """
    models = {}
    about = {}
    for kind, name in (("dllm", dllm), ("gpt", gpt)):
        folder = checkpoint.find(name, kind)
        model, tokenizer, info = checkpoint.load(folder, device, kinds=(kind,))
        if info.get("corpus_sha256") != corpus.sha256:
            raise cli.UserError(f"{folder.name} learned from another text than {corpus.name}: name that with --corpus, "
                                f"or another run with --{kind}")
        batch = info.get("train", {}).get("batch_size", 0)
        models[kind] = model
        about[kind] = {"name": folder.resolve().name, "parameters": transformer.count_parameters(model),
                       "characters_read": info.get("step", 0) * batch * model.config.seq_len,
                       "model": asdict(model.config), "info": info}
        print("{name}: {parameters:,} parameters, {characters_read:,} characters read".format(**about[kind]))
    for key, phrase in (("parameters", "has {:.2f} times the parameters of the GPT"),
                        ("characters_read", "has read {:.2f} times as many characters as the GPT")):
        ratio = about["dllm"][key] / max(1, about["gpt"][key])
        if not 1 / 1.2 < ratio < 1.2:
            print(f"Warning: the dLLM {phrase.format(ratio)}, which alone can decide the result. "
                  "Train both with the same --config, or name other runs with --dllm and --gpt.")
    return models["dllm"], models["gpt"], tokenizer, about


@dataclass(frozen=True)
class Command:
    """The flags of this chapter."""

    dllm: str = ""  # name or folder of the dLLM's run; by default your latest run, or the shipped model
    gpt: str = ""  # name or folder of the GPT's run
    corpus: str = "shakespeare"  # the text from which both have learned: shakespeare, or the path of a text file
    size: Literal["auto", "quick", "gpu"] = "auto"  # how much to measure; auto means gpu with CUDA, otherwise quick
    seed: int = 1  # seed of all random numbers
    out: Path | None = None  # folder for the numbers; by default report/ in the folder of the dLLM's run
    device: str = "auto"  # auto, cpu, cuda or mps

    def __post_init__(self):
        if not 0 <= self.seed < 2**31:
            raise ValueError("seed must be from 0 to 2147483647")


def pick_size(name, device):
    """Return (name, Size): how much to measure on this device."""
    if name == "auto":
        name = "gpu" if device.type == "cuda" else "quick"
    return name, SIZES[name]


def measure_texts(pair, size, seed):
    """Measure parts 1 to 3 and print them. Return the numbers."""
    values = {"likelihood": likelihood(pair.dllm, pair.gpt, pair.windows, size, seed)}
    show_likelihood(values["likelihood"])
    values["looseness"] = looseness(pair.dllm, training.evenly(pair.windows, size.exact), seed)
    show_looseness(values["looseness"])
    values["samples"] = samples(pair.dllm, pair.gpt, pair.windows, size, seed, pair.tokenizer, pair.train_text)
    show_samples(values["samples"])
    values["infilling"] = infilling(pair.dllm, pair.gpt, pair.windows, size, seed, pair.tokenizer, pair.train_tokens)
    show_infilling(values["infilling"])
    return values


def compare(settings):
    """Measure all parts and print them. Return the numbers: a dict of plain values."""
    device = devices.pick_device(settings.device)
    torch.set_float32_matmul_precision("high")
    name, size = pick_size(settings.size, device)
    corpus = text.load(settings.corpus)
    parts = text.split(corpus.text)
    pair = Pair(settings.dllm, settings.gpt, corpus, device)
    if len(pair.windows) < 2 or min(FRACTIONS) * len(parts[0]) <= 2 * size.shape.get("seq_len", 256) + 2:
        raise cli.UserError(f"{corpus.name} is too short for a comparison: 5 % of it must fill several windows")
    values = pair.about | {
        "origin": origin(device) | {"date": date.today().isoformat()}, "seed": settings.seed,
        "size": {"name": name} | asdict(size),
        "corpus": {"name": corpus.name, "sha256": corpus.sha256, "training": len(parts[0]), "held_out": len(parts[1])},
    }
    values |= measure_texts(pair, size, settings.seed)
    values["speed"] = speed(pair.dllm, pair.gpt, pair.windows, size)
    show_speed(values["speed"])
    values["reuse"] = reuse(parts, size, settings.seed, pair.tokenizer, device)
    show_reuse(values["reuse"])
    show_verdicts(questions(values))
    return values


def main(argv=None):
    settings = cli.parse(Command, argv)
    out = settings.out or checkpoint.find(settings.dllm, "dllm") / "report"
    out.mkdir(parents=True, exist_ok=True)  # before the work, so that an error comes early
    numbers = compare(settings)
    with files.whole_file(out / "dllm_vs_gpt.json") as path:
        path.write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"\nAll numbers: {out / 'dllm_vs_gpt.json'}")
    print("Next: 11_fast_decoding.py, in which the dLLM writes a text in fewer passes.")


if __name__ == "__main__":
    cli.run(main)
