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
import statistics
import tempfile
from dataclasses import dataclass, field
from importlib import import_module
from typing import Literal

import torch

from plumbing import cli, corpora, devices, measures, pair, runs, settings
from plumbing.reports import dllm_vs_gpt as report
from plumbing.reports import pages

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
gpt_training = import_module("07_train_gpt")

TEMPERATURES = (0.5, 0.8, 1.0)
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
    samples: int = 16  # texts for each way of writing
    batch: int = 8  # texts in a batch, where the speed of a batch is measured
    steps: tuple = (16, 64)  # steps of the dLLM's sampler
    # The settings of the models of part 5, and of their training.
    shape: dict = field(default_factory=lambda: dict(n_layer=3, n_head=3, n_embd=96, seq_len=128))
    train: dict = field(default_factory=lambda: dict(batch_size=8, steps=1000, evaluate_every=100, compile="off"))


SIZES = {"quick": Size(), "gpu": Size(64, 400, 256, 256, (16, 64, 256), {}, dict(steps=4000, evaluate_every=100))}


# 1. Likelihood


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


def score(samples, judge, vocabulary, text):
    """Return all measures of a list of texts of one length, with standard errors. text: the training text."""
    return measures.quality(samples, judge, vocabulary) | {"copied": measures.longest_copy(samples, text)}


def print_score(name, passes, temperature, values):
    numbers = (f"{100 * values[key]:6.1f} ± {100 * values[key + '_error']:4.1f} %" for key in ("words", "distinct"))
    print(f"  {name:5} {passes:>6} {temperature:>11}", *numbers,
          f"{values['copied']:12} {values['judge']:9.3f} ± {values['judge_error']:.3f}", flush=True)


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
    rows = training.windows_of(windows.flatten(), windows.shape[1], size.samples)  # (B, T)
    judge, vocabulary = measures.Judge(text, tokenizer.vocab_size), set(measures.words_of(text))
    real = score([tokenizer.decode(row) for row in rows], judge, vocabulary, text)
    cli.heading(f"2. {len(rows)} texts of {rows.shape[1]} characters for each line")
    print("Good texts have values near those of real text (first line). ± gives the standard error over the texts.")
    print("  model passes temperature   known words   distinct runs longest copy       judge's NLL")
    print_score("real", "-", "-", real)
    table = []
    for (name, model, nfe), temperature in itertools.product(ways(dllm, gpt, size, rows.shape[1]), TEMPERATURES):
        tokens = write(model, rows[:, :1], rows.shape[1], nfe, temperature, seed)
        texts = [tokenizer.decode(row) for row in tokens]
        values = score(texts, judge, vocabulary, text)
        table.append({"model": name, "nfe": nfe, "temperature": temperature, **values, "first": texts[0]})
        print_score(name, nfe, temperature, values)
    return {"texts": len(rows), "length": rows.shape[1], "judge_order": judge.order, "real": real, "table": table,
            "judge_held_out": judge.nll([tokenizer.decode(row) for row in windows])}


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


# 5. Reading the same text again


def learning_curve(kind, part, val_ids, shape, config, tokenizer):
    """Train a new model of one kind of LEARNERS on part (N,). Returns its evaluations, with "epochs" and "loss"."""
    torch.manual_seed(config.seed)
    model = transformer.Transformer(dataclasses.replace(shape, causal=kind != "dllm")).to(part.device)
    objective = training.masked_diffusion(config) if kind == "dllm" else gpt_training.next_token(0)
    with tempfile.TemporaryDirectory() as scratch, runs.Run(
            f"{scratch}/run", {}, config, tokenizer, {}, quiet=True) as run:
        training.train(training.Trainer(model, config, part.device), part, val_ids, objective, run)
        records = runs.read_log(run.folder / "log.jsonl")
    if run.stopped:
        raise KeyboardInterrupt  # Ctrl-C ends the whole comparison, not only this run.
    return [r | {"epochs": r["tokens"] / len(part), "loss": r[objective.measure]} for r in records]


def data_reuse(train_ids, val_ids, size, seed, tokenizer):
    """Return the validation loss by epochs for each of LEARNERS on each of FRACTIONS of the training text. The learning
    rate is constant, so each point of a curve is the loss of a run that ends there."""
    config = training.DiffusionTrainConfig(**size.train, seed=seed, cooldown=0.0)
    shape = transformer.TransformerConfig(tokenizer.vocab_size, **size.shape)
    learned = []
    cli.heading(f"5. Reading the same text again: {config.steps} steps on 5 %, 20 % and 100 % of the text")
    print("Lower is better. If the loss at the end is above the lowest loss, the model overfits.")
    for fraction, (kind, weight_decay) in itertools.product(FRACTIONS, LEARNERS.items()):
        part = train_ids[: int(fraction * len(train_ids))]
        own = dataclasses.replace(config, weight_decay=weight_decay)
        # The last record is not a point of the curve: it measures the best weights on all windows.
        *curve, last = learning_curve(kind, part, val_ids, shape, own, tokenizer)
        best, end = min(curve, key=lambda r: r["loss"]), curve[-1]
        learned.append({"model": kind, "fraction": fraction, "characters": len(part), "curve": curve, "best": best,
                        "end": end, "all_windows": last})
        print(f"  {fraction:4.0%} {kind:7} lowest {best['loss']:.3f} after {best['epochs']:5.1f} epochs, "
              f"{end['loss']:.3f} at the end after {end['epochs']:.1f}", flush=True)
    return {"model": dataclasses.asdict(shape), "train": dataclasses.asdict(config),
            "parameters": transformer.count_parameters(transformer.Transformer(shape)),
            "own": {kind: {"weight_decay": decay} for kind, decay in LEARNERS.items()}, "runs": learned}


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
        "likelihood": likelihood(dllm, gpt, windows, size, seed),
        "samples": samples(dllm, gpt, windows, size, seed, tokenizer, train_text),
        "speed": speed(dllm, gpt, windows, size),
        "infilling": infilling(dllm, gpt, windows, size, seed, tokenizer, train_ids),
        "reuse": data_reuse(train_ids, val_ids, size, seed, tokenizer),
    }, command.out)
    print("\nNext: 11_fast_decoding.py, in which the dLLM writes a text in fewer passes.")


if __name__ == "__main__":
    cli.run(main)
