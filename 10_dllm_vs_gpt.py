"""Chapter 10: is a diffusion language model (dLLM) better or worse than a GPT?

    python 10_dllm_vs_gpt.py                # your latest dLLM and GPT, or the shipped models; 15 minutes on two cores
    python 10_dllm_vs_gpt.py --size gpu     # more texts and larger models in part 5; the default where there is CUDA
    python 10_dllm_vs_gpt.py --dllm shakespeare --gpt shakespeare-gpt --out docs    # the page that is in docs/

The training losses of the two models measure different things, so this chapter compares them in five ways: the
likelihood of the same characters, the quality of written texts, the speed of writing, the filling of blanks, and the
effect of reading a small corpus for many epochs. Each part prints its numbers. At the end the program writes the page
dllm_vs_gpt.md with figures and a JSON file, by default into the folder report/ of the dLLM's run.
"""

import dataclasses
import itertools
import math
import statistics
from dataclasses import dataclass, field
from importlib import import_module
from types import SimpleNamespace
from typing import Literal

import torch
import torch.nn.functional as F

from plumbing import cli, corpora, devices, measures, nearness, pair, settings
from plumbing.reports import data_reuse, pages
from plumbing.reports import dllm_vs_gpt as report

diffusion = import_module("04_diffusion")
training = import_module("05_train")
gpt_training = import_module("07_train_gpt")

TEMPERATURES = (0.8, 0.9, 1.0)
TURNS = 5  # number of measurements of each speed
BLANKS = (1, 4, 16, 64)  # lengths of the blanks of part 4, in characters
FRACTIONS = (0.05, 0.2, 1.0)  # shares of the training text in part 5
LEARNERS = {"dllm": 0.0, "gpt": 0.0, "decayed": 0.3}  # the models of part 5, and the weight decay of each
CASES, CASE_LENGTH = 3, 100  # number of texts that both models complete, and of the characters to complete


@dataclass(frozen=True)
class Command:
    """The flags of this chapter."""

    dllm: settings.OptionalText = None  # name or folder of the dLLM's run; by default your latest, or the shipped one
    gpt: settings.OptionalText = None  # the same for the GPT
    corpus: str = "shakespeare"  # the text on which both models were trained: a name or a file
    size: Literal["auto", "quick", "gpu"] = "auto"  # how much to measure; auto: gpu with CUDA, otherwise quick
    seed: settings.Seed = 1  # seed of all random numbers
    out: settings.OptionalPath = None  # folder for the page; by default report/ in the folder of the dLLM's run
    device: str = "auto"  # auto, cpu, cuda or mps


@dataclass(frozen=True)
class Size:
    """How much to measure. Larger numbers make the standard errors smaller."""

    draws: int = 2  # random masks for each window in the NELBO
    windows: int = 48  # windows for each number of visible characters, and for each blank
    samples: int = 64  # texts for each way of writing
    batch: int = 8  # texts in a batch, where the speed of a batch is measured
    steps: tuple = (16, 96)  # steps of the dLLM's sampler
    # The settings of the models of part 5, and of their training.
    shape: dict = field(default_factory=lambda: dict(n_layer=3, n_head=3, n_embd=96, seq_len=128))
    train: dict = field(default_factory=lambda: dict(batch_size=8, steps=1000, evaluate_every=100, compile="off"))


SIZES = {"quick": Size(), "gpu": Size(64, 400, 256, 256, (16, 96, 256), {}, dict(steps=4000, evaluate_every=100))}


# 1. Likelihood


class EqualLetters(torch.nn.Module):
    """Knows that a text is "00…" or "11…", with probability 1/2 each: a visible letter decides all others.

    If a text coupled_to (T,) is given, each letter also knows its letters to the left, even if they are masked.
    """

    config = SimpleNamespace(mask_id=2)

    def __init__(self, coupled_to=None):
        super().__init__()
        self.coupled_to = coupled_to

    def forward(self, tokens, t=None):
        letters = F.one_hot(tokens, 3)[..., :2]  # (B, T, 2); a mask is neither a 0 nor a 1
        known = letters.sum(1, keepdim=True).expand_as(letters)
        if self.coupled_to is not None:
            own = F.one_hot(self.coupled_to, 2)  # (T, 2)
            known = known + own.cumsum(0) - own
        return 1000.0 * known  # logits: equal if no letter is known, otherwise certain


def false_bound():
    """Compute the NELBO of such texts for both kinds of model: [{"length", "entropy", "NELBO", "coupled"}], in nats."""
    table = []
    for length in (2, 4):
        text = torch.zeros(1, length, dtype=torch.long)  # "11…" gives the same numbers
        alone, coupled = (length * diffusion.nelbo(EqualLetters(known), text, draws=12)[0] for known in (None, text[0]))
        table.append({"length": length, "entropy": math.log(2), "NELBO": alone, "coupled": coupled})
    cli.heading("What is a bound? Texts of 2 or 4 equal letters, in nats per text")
    for name, key in (("entropy, the lowest mean NLL that a model can have", "entropy"),
                      ("NELBO of a model that knows the true probabilities", "NELBO"),
                      ("the same formula if letters of one pass see each other", "coupled")):
        print(f"  {name:54}", *(f"{row['length']} letters: {row[key]:.3f}  " for row in table))
    return table


@torch.no_grad()
def loss_with_visible(model, windows, visible, seed=0, batch_size=64):
    """Return the dLLM's cross-entropy of a masked character when `visible` characters of windows (N, T) are unmasked,
    always including the first: (mean, standard error), in nats per masked character."""
    generator, losses = torch.Generator(windows.device).manual_seed(seed), []
    for rows in windows.split(batch_size):
        k = torch.full((len(rows),), rows.shape[1] - visible, device=rows.device)  # (B,) number of masks
        xt = diffusion.mask_exactly(rows, k, model.config.mask_id, generator, given=1)
        losses.append(diffusion.masked_cross_entropy(model, rows, xt, k / rows.shape[1]).sum(1) / k)  # (B,)
    return measures.mean_and_error(torch.cat(losses))


def likelihood(dllm, gpt, windows, size, seed):
    """Return both losses on all but the first character of windows (N, T), also by the number of visible characters.

    The chain rule splits the likelihood of a window into T - 1 predictions, with 1 to T - 1 characters visible. The GPT
    sees those on the left, the dLLM as many at random places. The mean of each curve is the loss: for the GPT the
    negative log-likelihood (NLL), for the dLLM an upper bound on its NLL, the NELBO (chapter 04).
    """
    T = windows.shape[1]
    bound, error = diffusion.nelbo(dllm, windows, size.draws, seed=seed, given=1)
    exact, spread = gpt_training.nll(gpt, windows)
    powers, curve = [2**i for i in range(T.bit_length()) if 2**i < T], []
    # The curve of the dLLM has more points near both ends, where it is steep.
    for visible in sorted({*powers, *(T - p for p in powers), *(T * i // 10 for i in range(1, 10))} - {0}):
        loss, loss_error = loss_with_visible(dllm, windows[: size.windows], visible, seed)
        curve.append({"visible": visible, "t": (T - visible) / T, "loss": loss, "error": loss_error})
    by_position, bins = gpt_training.nll_by_position(gpt, windows), []  # (N, T - 1)
    for low, high in itertools.pairwise([*powers, T]):
        loss, loss_error = measures.mean_and_error(by_position[:, low - 1 : high - 1].mean(1))
        bins.append({"visible": [low, high - 1], "loss": loss, "error": loss_error})
    cli.heading(f"1. Likelihood of {len(windows)} windows of {T} characters, the first character given")
    print("Lower is better: the average cost of one character, in nats (natural-logarithm units).")
    print(f"  dLLM  NELBO {bound:.4f} ± {error:.4f}, an upper bound on its NLL; the error comes from the random masks\n"
          f"  GPT   NLL   {exact:.4f}, exact; another choice of text would change it by about {spread:.4f}")
    return {"windows": len(windows), "length": T, "dllm": {"NELBO": bound, "error": error, "levels": curve},
            "gpt": {"NLL": exact, "error": spread, "positions": bins}}


# 2. Samples


def print_score(name, passes, temperature, values):
    shares = (f"{100 * values[key]:6.1f} ± {100 * values[key + '_error']:.1f}" for key in ("words", "distinct"))
    nats = (f"{values[key]:7.3f} ± {values[key + '_error']:.3f}" for key in ("divergence", "judge"))
    distances = ("{:5.1f} ± {:.1f}".format(*values[key]) for key in ("largest", "mean") if key in values)
    print(f"  {name:5} {passes:>6} {temperature:>11}", *shares, *nats, f"{values['copied']:6}", *distances, flush=True)


def write(model, prompts, length, steps, temperature, seed=0):
    """Continue prompts (B, P) to (B, length). The dLLM does so in `steps` passes, the GPT in one per character."""
    generator = torch.Generator(prompts.device).manual_seed(seed)
    if model.config.causal:
        missing = length - prompts.shape[1]
        return gpt_training.generate(model, prompts, missing, temperature, generator=generator)
    canvas = torch.full((len(prompts), length), model.config.mask_id, device=prompts.device)
    canvas[:, : prompts.shape[1]] = prompts
    *_, last = diffusion.denoise(model, canvas, steps, temperature, generator=generator)
    return last.canvas


def ways(dllm, gpt, size, length):
    """Return the ways of writing a text of `length` characters: [(name, model, nfe)]. nfe: the number of passes."""
    return [*(("dllm", dllm, min(steps, length - 1)) for steps in size.steps), ("gpt", gpt, length - 1)]


def samples(dllm, gpt, windows, size, seed, tokenizer, text):
    """Return the measures of texts that the models write after the first character of a window, and of the windows."""
    T = windows.shape[1]
    rows = training.windows_of(windows.flatten(), T, size.samples)  # (B, T)
    real, held_out = ([tokenizer.decode(row) for row in part] for part in (rows, windows))
    judge, vocabulary = measures.Judge(text, tokenizer.vocab_size), set(measures.words_of(text))
    learned, table = [text[i : i + T] for i in range(0, len(text) - T, T)], []
    yardstick = nearness.Yardstick(real, held_out, learned, judge, vocabulary)
    first = yardstick.real | {"copied": measures.longest_copy(real, text)}
    cli.heading(f"2. {len(rows)} texts of {T} characters for each line")
    print("Good texts are near real text, the first line. A distance is the difference from it, divided by how far\n"
          "two sets of real texts usually are apart. ± gives the standard error over the texts.\n"
          "  model passes temperature     words, %  distinct, %      divergence     judge's NLL   copy"
          "     largest        mean distance")
    print_score("real", "", "", first)
    for (name, model, nfe), temperature in itertools.product(ways(dllm, gpt, size, T), TEMPERATURES):
        tokens = write(model, rows[:, :1], T, nfe, temperature, seed)
        texts = [tokenizer.decode(row) for row in tokens]
        values = yardstick.quality(texts) | {"copied": measures.longest_copy(texts, text)}
        table.append({"model": name, "nfe": nfe, "temperature": temperature, **values, "first": texts[0]})
        print_score(name, nfe, temperature, values)
    return {"texts": len(rows), "length": T, "judge_order": judge.order, "judge_held_out": judge.nll(held_out),
            "real": first, "spread": yardstick.spread, "table": table}


# 3. Speed


def speed(dllm, gpt, windows, size):
    """Return the characters per second of each way of writing, for one text and for a batch: the median of TURNS turns.
    All ways take turns, so that other work on the machine slows all of them equally."""
    device, length, table = windows.device, windows.shape[1], []
    cli.heading(f"3. Speed for texts of {length} characters, without the given first one")
    print("Higher is better. A pass is one forward pass of the network for the whole batch.")
    for batch in (1, size.batch):
        prompts, rates = windows[:1, :1].repeat(batch, 1), {}
        write(dllm, prompts, length, 2, 0.8)  # The first pass of a model is slow, so it is not measured.
        write(gpt, prompts, 8, 7, 0.8)
        for _ in range(TURNS):
            for name, model, nfe in ways(dllm, gpt, size, length):
                start = devices.now(device)
                write(model, prompts, length, nfe, 0.8)
                rates.setdefault((name, nfe), []).append(batch * (length - 1) / (devices.now(device) - start))
        for (name, nfe), values in rates.items():
            rate, (_, error) = statistics.median(values), measures.mean_and_error(torch.tensor(values))
            table.append({"model": name, "nfe": nfe, "batch": batch, "characters_per_second": rate, "error": error})
            print(f"  {name:5} {nfe:4} passes, batch {batch:3}: {rate:8,.0f} ± {error:,.0f} characters/s", flush=True)
    return {"length": length, "turns": TURNS, "table": table}


# 4. Filling blanks


def fill(model, rows, start, end):
    """Fill the blank [start, end) of rows (B, T) with likely characters, one per pass. Returns (B, end - start).

    A dLLM sees both sides and commits the character of highest confidence first. A GPT sees only the left side.
    """
    if model.config.causal:
        return gpt_training.generate(model, rows[:, :start], end - start, temperature=0)[:, start:]
    canvas = rows.clone()
    canvas[:, start:end] = model.config.mask_id
    *_, last = diffusion.denoise(model, canvas, end - start, 0, select=diffusion.by_confidence, mend=0)
    return last.canvas[:, start:end]


def infilling(dllm, gpt, windows, size, seed, tokenizer, train_ids):
    """Return the share of exactly restored characters for each length of blank, and texts that both models complete."""
    rows = training.windows_of(windows.flatten(), windows.shape[1], size.windows)  # (N, T)
    fillers = {"dllm": lambda *blank: fill(dllm, *blank), "gpt": lambda *blank: fill(gpt, *blank),
               "bigram": measures.Bigram(train_ids, tokenizer.vocab_size).fill}
    cli.heading(f"4. Blanks in the middle of {len(rows)} windows")
    print("Higher is better: the share of the characters of the blank that a model restores exactly.")
    table = []
    for blank in (n for n in BLANKS if n <= rows.shape[1] // 2):
        row = {"blank": blank}
        for name, filler in fillers.items():
            row[name], row[f"{name}_error"] = measures.exact_characters(filler, rows, blank)
        table.append(row)
        print(f"  {blank:3} characters", *(f"{n} {row[n]:6.1%} ± {row[n + '_error']:.1%}  " for n in fillers))
    return {"windows": size.windows, "length": windows.shape[1], "table": table,
            "cases": completions({"dllm": dllm, "gpt": gpt}, windows, seed, tokenizer)}


def completions(models, windows, seed, tokenizer):
    """Return the ends of a few windows, as each model writes them and as they really are: [{name: text}]."""
    chosen = torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))[:CASES]  # not chosen by hand
    rows, length = windows[chosen.to(windows.device)], windows.shape[1]
    known = length - min(CASE_LENGTH, length // 2)
    written = {name: write(model, rows[:, :known], length, length - known, 0.8, seed)
               for name, model in models.items()} | {"truth": rows}
    return [{"context": tokenizer.decode(row[:known])}
            | {name: tokenizer.decode(tokens[i, known:]) for name, tokens in written.items()}
            for i, row in enumerate(rows)]


# 5. Reading the same text again: plumbing/reports/data_reuse.py trains LEARNERS on FRACTIONS of the text
# 6. The command


def prepare(command, sizes):
    """Do what chapters 10 and 11 need before they measure: choose the device, load both models, make the folder.

    command: has the fields of `Command`. sizes: the names of the sizes. Returns (command with its size, its device and
    its folder decided, the Corpus, dLLM, GPT, tokenizer, a dict about the origin of the numbers).
    """
    device, text, size = devices.pick_device(command.device), corpora.load(command.corpus), command.size
    torch.set_float32_matmul_precision("high")
    if size in (None, "auto"):
        size = "gpu" if device.type == "cuda" else "quick"
    if size not in sizes:
        raise cli.UserError(f"no size {size!r}; choose from {', '.join(sizes)}")
    dllm, tokenizer, folder, about_dllm = pair.load(command.dllm, "dllm", text, device)
    gpt, _, _, about_gpt = pair.load(command.gpt, "gpt", text, device)
    pair.announce(about_dllm, about_gpt, command.corpus)
    out = pages.make_folder(command.out or folder / "report")  # before the work, so that an error comes early
    about = {"origin": pages.origin(), "seed": command.seed, "dllm": about_dllm, "gpt": about_gpt}
    return dataclasses.replace(command, size=size, device=device, out=out), text, dllm, gpt, tokenizer, about


def main(argv=None):
    command, text, dllm, gpt, tokenizer, about = prepare(settings.parse(Command, argv), SIZES)
    size, seed = SIZES[command.size], command.seed
    parts = train_text, val_text = corpora.split(text.text)
    train_ids, val_ids = (torch.tensor(tokenizer.encode(part), device=command.device) for part in parts)
    # Both models must fit. Rotary positions let the dLLM read one character more; a GPT predicts one after its input.
    room = dllm.config.seq_len + (dllm.config.positions == "rope")
    windows = training.windows_of(val_ids, min(room, gpt.config.seq_len + 1))  # (N, T)
    if len(windows) < 2 or min(FRACTIONS) * len(train_ids) <= size.shape.get("seq_len", 256) + 1:
        raise cli.UserError(f"{text.name} is too short for a comparison: 5 % of it must fill several windows")
    report.write(about | {
        "size": {"name": command.size} | dataclasses.asdict(size),
        "corpus": {"name": text.name, "sha256": text.sha256, "training": len(train_text), "held_out": len(val_text)},
        "toy": false_bound(),
        "likelihood": likelihood(dllm, gpt, windows, size, seed),
        "samples": samples(dllm, gpt, windows, size, seed, tokenizer, train_text),
        "speed": speed(dllm, gpt, windows, size),
        "infilling": infilling(dllm, gpt, windows, size, seed, tokenizer, train_ids),
        "reuse": data_reuse.measure(train_ids, val_ids, FRACTIONS, LEARNERS, size, seed, tokenizer),
    }, command.out)
    print("\nNext: 11_fast_decoding.py, in which the dLLM writes a text in fewer passes.")


if __name__ == "__main__":
    cli.run(main)
