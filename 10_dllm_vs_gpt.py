"""Chapter 10: is a diffusion language model (dLLM) better or worse than a GPT?

    python 10_dllm_vs_gpt.py                # your latest dLLM and GPT, or the shipped models; 15 minutes on two cores
    python 10_dllm_vs_gpt.py --size gpu     # measure more texts; this is the default on a GPU with CUDA
    python -m experiments.dllm_vs_gpt       # compare four pairs of models, for the page docs/dllm_vs_gpt.md

A fair comparison needs an equal pair: two models of the same size that have read the same amount of text. On a laptop,
`python 05_train.py` and `python 07_train_gpt.py` train a nearly equal pair: the models differ only in `causal`, and
train for the same time. The shipped models had unequal training. So the program first prints how large each model is
and how many characters it has read, and warns if the two models differ much.

The losses of a dLLM and a GPT cannot be compared. So this chapter compares five other things: the likelihood of unseen
text, the quality of written texts, the filling of blanks, the speed of writing, and the effect of reading a small text
for many epochs. The program prints a table for each comparison. A last table says which model is better at what, and a
JSON file keeps all numbers.

You should see that the GPT predicts text better, that its texts are nearer to real text, and that it writes faster. The
dLLM's NELBO is only an upper bound on its NLL, but this does not explain why the GPT predicts better. The dLLM restores
short blanks better than a GPT that reads only the text on the left, and about as well as a GPT that picks the best of
several candidates.
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
TRIES = 16  # a GPT writes this many candidates for a blank and chooses the best one
CASES = 3  # texts that both models complete in part 3
CASE_LENGTH = 100  # characters that a model adds to each of these texts
FRACTIONS = (0.05, 0.2, 1.0)  # in part 5, models learn from these shares of the training text
LEARNERS = {"dllm": 0.0, "gpt": 0.0, "decayed": 0.3}  # the models of part 5, and the weight decay of each


def progress(work):
    """Go through the items of `work`, and show on stderr how many are done."""
    return tqdm(list(work), leave=False)


@dataclass(frozen=True)
class Size:
    """How much to measure. Larger numbers make the standard errors smaller."""

    draws: int = 2  # how often each window is masked at random to estimate the NELBO
    windows: int = 48  # windows for each number of visible characters, and for each length of blank
    exact: int = 4  # windows whose NLL is computed in several orders
    samples: int = 64  # texts for each way of writing
    batch: int = 8  # texts in the batch whose speed is measured
    steps: tuple = (16, 96)  # numbers of passes of the dLLM's sampler
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
# The first of the T characters of a text is given. The chain rule splits the likelihood of the other characters into
# T - 1 predictions. In the first prediction 1 character is visible, and in the last prediction T - 1 characters are
# visible. Each prediction costs -log p, where p is the probability of the right character. A GPT sees the characters on
# the left, and its mean cost is the exact NLL. A dLLM sees the same number of characters, but at random places. Its
# mean cost is the NELBO, an upper bound on the NLL of the dLLM (chapter 04).


@torch.no_grad()
def loss_with_visible(model, windows, visible, seed=0):
    """Return (mean, standard error) of the dLLM's loss per masked character, in nats.

    The masks leave `visible` characters of each window (N, T). The first character is always one of them.
    """
    N, T = windows.shape
    k = torch.full((N,), T - visible, device=windows.device)  # number of masks
    with diffusion.same_numbers(seed, windows.device):
        xt = diffusion.hide(windows, k, model.config.mask_id, given=1)
    losses = diffusion.hidden_losses(model, windows, xt, k / T)  # (N, T)
    return measures.mean_and_error(losses.sum(1) / k)


def likelihood(dllm, gpt, windows, size, seed):
    """Return the dLLM's NELBO and the GPT's NLL of windows (N, T).

    For both models, also return the loss per character for different numbers of visible characters. The first
    character of each window is given.
    """
    T = windows.shape[1]
    bound, error = diffusion.nelbo(dllm, windows, size.draws, given=1, seed=seed)
    exact, exact_error = gpt_training.nll(gpt, windows)

    powers = [2**i for i in range(T.bit_length()) if 2**i < T]
    levels = []
    for visible in sorted({*powers, *(T - power for power in powers)}):  # more levels near 1 and near T
        loss, its_error = loss_with_visible(dllm, windows[: size.windows], visible, seed)
        levels.append({"visible": visible, "t": (T - visible) / T, "loss": loss, "error": its_error})

    by_position = gpt_training.nll_by_position(gpt, windows)  # (N, T - 1)
    positions = []
    for low, high in pairwise([*powers, T]):  # in column i, i + 1 characters are visible
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


# How loose is the bound? If a rule fixes the order of writing, the likelihood of a dLLM is a product of conditional
# probabilities, so its NLL can be computed exactly, like that of a GPT. This NLL differs from order to order, and the
# NELBO is its mean over all orders. If the order is drawn at random, the probability of a text is the mean of its
# probabilities in all orders, and -log of this mean is the true NLL. There are too many orders to compute this mean.
# But -log of the mean over a few random orders is also a bound, and each further order makes this bound tighter (Burda
# et al. 2015, arXiv:1509.00519).

ORDERS = 8  # random orders


@torch.no_grad()
def exact_nll(model, x, order):
    """Return the NLL (N,) in nats per token of each text in x (N, T), for a dLLM that writes one token per pass.

    The first token is given. `order` is a selection rule (chapter 04), which chooses where to write next. The rule sees
    only what the model sees, so the chain rule holds, and the NLL is exact.
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
        cost = -log_p.gather(-1, x[..., None])[..., 0]  # (N, T) what the true token costs
        total += (cost * chosen).sum(1)
        masked = masked & ~chosen
    return total / (x.shape[1] - 1)


def fixed(turns):
    """Return a rule that writes in the order of `turns`, the smallest number first. `turns` is (T,) or (N, T)."""
    return lambda logits, confidence, masked, count: diffusion.highest(-turns.expand(masked.shape), masked, count)


def mixture(nlls, T):
    """Return the NLL (…, N) of N texts if the order of writing is one of K equally probable orders.

    `nlls` (…, K, N) has the NLL of each text in each order, in nats per token. T is the number of predicted tokens.
    """
    K = nlls.shape[-2]
    return -((-T * nlls).logsumexp(-2) - math.log(K)) / T


def looseness(dllm, windows, seed):
    """Measure windows (N, T): the NELBO, tighter upper bounds on the NLL, and the exact NLL in several orders.

    The result contains a list of rows {name, NLL, minus, …}. "minus" is the difference between the row's NLL and the
    mean NLL over random orders. (This mean is another estimate of the NELBO.) All rows use the same windows, so the
    standard error of the difference is computed from the differences per window.
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
# How good is a written text? No single number can say that. So we measure four things, and compare each measure with
# its value for real text.
#
# Known words: the share of the written words that also occur in the training text. A model that cannot spell invents
#   words. But a text that repeats one known word has a share of 100 %.
# Distinct runs: the number of different runs of four characters, divided by the number of all such runs. The share for
#   "aaaaaaa" is 1/4. Repetition lowers this share, and noise raises it.
# Divergence: how much the shares of the runs of four characters differ between written and real texts. Let p be the
#   share of a run in the written texts, q its share in the real texts, and m = (p + q) / 2. The divergence is half of
#   the sum of p log(p/m) + q log(q/m) over all runs. It is 0 if p = q for every run, and log 2 if no run occurs in both
#   written and real texts. Both repetition and noise raise it.
# Judge: a table that says how often each character follows each run of five characters in the training text. The
#   judge's NLL is the mean of -log p(character | the five characters before it). Noise has a high NLL. A text with a
#   lower NLL than real text is too simple: it contains too little of what is rare in real text.
# Distance: how far written texts are from real text in one of these measures, divided by the usual difference between
#   two sets of real texts. A distance of about 1 is chance, and a distance of 10 is not. We print the largest and the
#   mean of the four distances.
# Copy: the length of the longest run of characters that also occurs in the training text. If a model has learned its
#   training text by heart, it writes well, but copies long runs. The value for real text says how long such a run is by
#   chance.
#
# The code is in plumbing/measures.py.


def write(model, prompts, length, steps, temperature, seed=0):
    """Continue prompts (B, P) to texts (B, length).

    The dLLM makes `steps` passes: the first half writes, and the second half corrects at a falling temperature. The GPT
    makes one pass for each character.
    """
    torch.manual_seed(seed)
    missing = length - prompts.shape[1]
    if model.config.causal:
        return gpt_training.write(model, prompts, missing, temperature)
    masks = prompts.new_full((len(prompts), missing), model.config.mask_id)
    *_, last = diffusion.denoise(model, torch.cat((prompts, masks), 1), steps, temperature)
    return last.canvas


def ways(dllm, gpt, size, length):
    """Return the ways of writing a text of `length` characters, as a list of (name, model, number of passes)."""
    by_dllm = [("dllm", dllm, min(steps, length - 1)) for steps in size.steps]
    return [*by_dllm, ("gpt", gpt, length - 1)]


def make_yardstick(rows, windows, tokenizer, train_text):
    """Return the Yardstick that measures texts of T characters, and its judge.

    `windows` (M, T) are all unseen windows, and `rows` (N, T) are the windows with which written texts are compared.
    """
    T = windows.shape[1]
    real, held_out = ([tokenizer.decode(row) for row in texts] for texts in (rows, windows))
    learned = [train_text[i : i + T] for i in range(0, len(train_text) - T, T)]
    judge = measures.Judge(train_text, tokenizer.vocab_size)
    vocabulary = set(measures.words_of(train_text))
    return measures.Yardstick(real, held_out, learned, judge, vocabulary), judge


def samples(dllm, gpt, windows, size, seed, tokenizer, train_text):
    """Return the measures of real text, and of texts that the models write after one given character."""
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
# A blank is a run of hidden characters in the middle of a window. We measure what share of the hidden characters a
# model restores exactly. A dLLM sees the text on both sides of the blank. While a GPT writes, it sees only the text on
# the left. But it can use the text on the right to choose: it writes several candidates, computes the joint probability
# of each candidate and the text after it, and takes the candidate with the highest probability. For comparison, a table
# of the most common follower of each character (chapter 01's bigrams) shows how much can be restored without a neural
# network.


def fill(model, rows, start, end):
    """Let a model fill the blank [start, end) of rows (B, T), one character per pass. Returns (B, end - start).

    Both kinds of model take the most likely character. A dLLM first writes where it is most confident. A GPT writes
    from left to right.
    """
    if model.config.causal:
        return gpt_training.write(model, rows[:, :start], end - start, temperature=0)[:, start:]
    canvas = rows.clone()
    canvas[:, start:end] = model.config.mask_id
    *_, last = diffusion.denoise(model, canvas, end - start, 0, select=diffusion.by_confidence, correction=0)
    return last.canvas[:, start:end]


def fill_with_tries(model, rows, start, end):
    """Fill the blank [start, end) of rows (B, T) with a GPT. Returns (B, end - start).

    For each row, the GPT writes TRIES candidates, and the best one is taken. One candidate has the most likely
    character at each position. All other candidates are drawn at random.
    """
    chosen = []
    for row in rows:
        prompts = row[None, :start].repeat(TRIES, 1)
        candidates = row.repeat(TRIES, 1)  # (TRIES, T)
        candidates[:, start:end] = gpt_training.write(model, prompts, end - start, temperature=1.0)[:, start:]
        candidates[0, start:end] = fill(model, row[None], start, end)[0]
        cost = gpt_training.nll_by_position(model, candidates)[:, start - 1 :].sum(1)  # column i: position i + 1
        chosen.append(candidates[cost.argmin(), start:end])
    return torch.stack(chosen)


def common_followers(tokens, symbols):
    """Return the most common follower of each token in the vocabulary, as a tensor (symbols,).

    `tokens` (N,) is the text, and `symbols` is the size of the vocabulary.
    """
    pairs = torch.bincount(tokens[:-1] * symbols + tokens[1:], minlength=symbols**2)
    return pairs.view(symbols, symbols).argmax(1)


def fill_with_followers(followers, rows, start, end):
    """Fill the blank [start, end) of rows (B, T) with the most common followers. Returns (B, end - start)."""
    guesses = [rows[:, start - 1]]
    for _ in range(start, end):
        guesses.append(followers[guesses[-1]])
    return torch.stack(guesses[1:], dim=1)


def restored(filler, windows, blank):
    """Return (mean, standard error) of the share of a blank's characters that `filler` restores exactly.

    `filler` is a function (rows (N, T), start, end) → (N, end - start). The blank lies in the middle of the windows
    (N, T), and `blank` is its length.
    """
    start = (windows.shape[1] - blank) // 2
    end = start + blank
    right = filler(windows, start, end) == windows[:, start:end]
    return measures.mean_and_error(right.double().mean(1))


def infilling(dllm, gpt, windows, size, seed, tokenizer, train_tokens):
    """Return the share of restored characters for each length of blank, and a few texts that both models completed."""
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
    """Return a few texts, each with its true ending and the ending that each model writes: [{name: text}]."""
    torch.manual_seed(seed)
    chosen = torch.randperm(len(windows))[:CASES]  # at random, so that nobody picks the best windows
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
# A pass of a GPT computes one new position, and reads the keys and values of all earlier positions from its key-value
# buffer (chapter 02). A pass of a dLLM computes all positions. So we compare seconds and not passes. The ways of
# writing take turns, so that other work on the machine slows all of them equally.


def speed(dllm, gpt, windows, size):
    """Return the characters per second of each way of writing, for one text and for a batch.

    Each number is the mean of TURNS measurements.
    """
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
# An epoch is one reading of the training text. In each epoch, a dLLM meets other masks, but a GPT makes the same
# predictions again. Does a dLLM therefore gain more from reading a small text often? To find out, we train new models
# on parts of the training text. If the NELBO or NLL of unseen text begins to rise, the model overfits: it learns its
# training text by heart. Weight decay reduces overfitting, so a second GPT is trained with weight decay.


def learning_curve(kind, parts, size, seed, tokenizer, device):
    """Train a new model, one of LEARNERS, on parts[0], and evaluate it several times on parts[1].

    Returns a list of {step, loss, error, epochs}, one for each evaluation; `loss` is the NELBO or the NLL. The learning
    rate is constant, so each evaluation shows what a training run of that length can reach.
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
    """Train each of LEARNERS on each of FRACTIONS of the training text, and return their learning curves."""
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
# Each line of the last table answers a question with a number: the advantage of the dLLM, which is negative if the GPT
# is better. If the models were equally good, chance alone would still make them differ by more than two standard errors
# in one question out of twenty. So the more questions there are, the larger an advantage must be to count. With Holm's
# rule (Holm 1979, "A simple sequentially rejective multiple test procedure"), the probability that chance decides even
# one question is below 5 %.


def question(name, form, dllm, gpt, advantage, error):
    """Return a row of the last table.

    `form` is the format string for the numbers `dllm` and `gpt`. `advantage` is above 0 if the dLLM is better, and
    `error` is the standard error of `advantage`.
    """
    return {"question": name, "form": form, "dllm": dllm, "gpt": gpt, "advantage": advantage, "error": error}


def nearer(name, form, dllm, gpt, real, key):
    """Return the row of the last table that says which model is nearer to real text in the measure `key`.

    `dllm`, `gpt` and `real` are rows of part 2. The advantage of the dLLM is |gpt - real| - |dllm - real|. If both
    models are on the same side of real text, the value of real text cancels out, and its error does not count. If they
    are on different sides, the error of real text's value counts twice.
    """
    x, y = dllm[key] - real[key], gpt[key] - real[key]
    error = math.hypot(dllm[f"{key}_error"], gpt[f"{key}_error"])
    if (x < 0) != (y < 0):
        error = math.hypot(error, 2 * real[f"{key}_error"])
    return question(name, form, dllm[key], gpt[key], abs(y) - abs(x), error)


def best_row(samples, model):
    """Of the model's rows in part 2 that have the most passes, return the row with the smallest mean distance."""
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
            rows.append(question(f"Characters/s, batches of {batch}, the dLLM in {nfe} passes", ",.0f",
                                 x["characters_per_second"], y["characters_per_second"],
                                 x["characters_per_second"] - y["characters_per_second"],
                                 math.hypot(x["error"], y["error"])))
    for row in values["infilling"]["table"]:
        rows.append(question(f"Characters restored in blanks of length {row['blank']}", ".1%",
                             row["dllm"], row["gpt_tries"], row["dllm"] - row["gpt_tries"],
                             math.hypot(row["dllm_error"], row["gpt_tries_error"])))
    return rows


def are_clear(probabilities, level=0.05):
    """Return a list of bools: True for each finding that is clear by Holm's rule, and so is probably not due to chance.

    `probabilities` has one number for each finding: the probability that chance alone produces a difference at least as
    large as this one. Holm's rule sorts these n probabilities. The smallest must be at most level / n, the next one at
    most level / (n - 1), and so on. If a probability is above its limit, its finding and all later findings are not
    clear.
    """
    clear = [False] * len(probabilities)
    order = sorted(range(len(probabilities)), key=lambda i: probabilities[i])
    for place, i in enumerate(order):
        if probabilities[i] > level / (len(probabilities) - place):
            break
        clear[i] = True
    return clear


def verdicts(rows):
    """Return for each row who is better: "dLLM", "GPT" or "not clear"."""
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
    """A dLLM and a GPT that learned from the same text, and windows (N, T) of unseen text that both models can read.

    `about` holds facts about each model: {"dllm": {…}, "gpt": {…}}.
    """

    def __init__(self, dllm, gpt, corpus, device):
        """Load the runs `dllm` and `gpt` (see `load_pair`)."""
        self.dllm, self.gpt, self.tokenizer, self.about = load_pair(dllm, gpt, corpus, device)
        self.train_text, val_text = text.split(corpus.text)
        # T is the length of the longest window that both models can use. A GPT predicts the last character of a window
        # but does not read it, so its window can have one character more than in training. A dLLM reads all characters.
        # With rotary positions, it can also read one character more than in training.
        longest = self.dllm.config.seq_len + (self.dllm.config.positions == "rope")
        T = min(longest, self.gpt.config.seq_len + 1)
        val_tokens = torch.tensor(self.tokenizer.encode(val_text), device=device)
        self.windows = val_tokens[: len(val_tokens) // T * T].view(-1, T)
        self.train_tokens = torch.tensor(self.tokenizer.encode(self.train_text), device=device)


def load_pair(dllm, gpt, corpus, device):
    """Return (dLLM, GPT, tokenizer, about) of two runs that learned from the Corpus `corpus`.

    `dllm` and `gpt` are names or folders of runs; "" means your latest run, or the shipped model. Prints what the two
    models are, and warns if they differ much in size or in how much text they have read.
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
    corpus: str = "shakespeare"  # the text from which both models have learned: shakespeare, or the path of a text file
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
    """Measure parts 1 to 3, print the results, and return the numbers."""
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
    """Measure all parts, print the results, and return the numbers: a dict of plain values."""
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
