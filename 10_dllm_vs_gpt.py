"""Chapter 10: is a diffusion language model better or worse than a GPT?

    python 10_dllm_vs_gpt.py                # your latest dLLM and GPT, else the shipped pair
    python 10_dllm_vs_gpt.py --size gpu     # smaller errors, larger models in part 5; the default where there is CUDA

Without a GPU about ten minutes on two cores. Their losses do not measure the same thing, so five parts compare
what can be compared: the likelihood of the same characters, the texts they write, their speed, filling blanks, and
what is left of a small corpus after many epochs. Each part prints what it found; at the end `report.py` makes
docs/dllm_vs_gpt.md of it, an article in which no number is typed by hand, with its figures and a JSON file.
"""

import argparse
import contextlib
import dataclasses
import io
import itertools
import signal
import statistics
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import torch

import benchmark
from plumbing import checkpoint, cli, corpora, devices, files, measures, runs
from plumbing.reports import dllm_vs_gpt as report

tensors = import_module("01_tensors")
transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
generation = import_module("06_generate")
gpt_training = import_module("07_train_gpt")
verse = import_module("09_generate_tamil")

TEMPERATURES = (0.5, 0.8, 1.0)
BLANKS = (1, 4, 16, 64)  # characters
FRACTIONS = (0.05, 0.2, 1.0)  # of the training text
REUSERS = {"dllm": {}, "gpt": {}, "decayed": {"weight_decay": 0.3}}  # who reads them: settings of its own
CASES, CASE_LENGTH = 3, 100  # texts that both models complete, and how many characters of them


@dataclass(frozen=True)
class Size:
    """How much to measure. More makes the errors smaller; only `reuse` trains anything."""

    draws: int = 2  # masks for each window of the NELBO
    windows: int = 48  # of held-out text, for each noise level and each blank
    samples: int = 16  # texts for each setting
    batch: int = 8  # texts at once, where speed is measured for more than one
    steps: tuple = (16, 64)  # of the dLLM's sampler
    reuse: dict = field(default_factory=lambda: dict(  # model and training of part 5
        n_layer=3, n_head=3, n_embd=96, seq_len=128, batch_size=8, steps=1000, evaluate_every=100, compile="off"))


SIZES = {
    "quick": Size(),
    "gpu": Size(64, 400, 256, 256, (16, 64, 256), dict(steps=4000, evaluate_every=100)),  # of 10.7M parameters
}


# 1. Likelihood


@torch.no_grad()
def loss_with_visible(model, windows, visible, seed=0, batch_size=64):
    """Cross-entropy of a masked character when `visible` characters of each window (N, T) are not, the first
    always among them: (mean, standard error) in nats."""
    generator, losses = torch.Generator(windows.device).manual_seed(seed), []
    for rows in windows.split(batch_size):
        k = torch.full((len(rows),), rows.shape[1] - visible, device=rows.device)  # (B,)
        xt = diffusion.mask_exactly(rows, k, model.config.mask_id, generator, given=1)
        losses.append(diffusion.masked_cross_entropy(model, rows, xt, k / rows.shape[1]).sum(1) / k)  # (B,)
    return measures.mean_and_error(torch.cat(losses))


def likelihood(dllm, gpt, windows, size, seed):
    """Both models' loss of all but the first character of windows (N, T), and how it falls as more is visible.

    The chain rule cuts both losses into T - 1 predictions, with 1 … T-1 characters visible: to the GPT those on
    the left, to the dLLM as many at random places. So both curves have the model's loss as their mean.
    """
    T = windows.shape[1]
    bound, error = diffusion.nelbo(dllm, windows, size.draws, seed=seed, given=1)
    exact, spread = gpt_training.nll(gpt, windows)
    powers = [2**i for i in range(T.bit_length()) if 2**i < T]
    levels = sorted({*powers, *(T - p for p in powers), *(T * i // 10 for i in range(1, 10))} - {0})
    curve = []
    for visible in levels:
        loss, e = loss_with_visible(dllm, windows[: size.windows], visible, seed)
        curve.append({"visible": visible, "t": (T - visible) / T, "loss": loss, "error": e})
    by_position, bins = gpt_training.nll_by_position(gpt, windows), []  # (N, T - 1)
    for low, high in itertools.pairwise([*powers, T]):
        loss, e = measures.mean_and_error(by_position[:, low - 1 : high - 1].mean(1))
        bins.append({"visible": [low, high - 1], "loss": loss, "error": e})
    cli.heading(f"1. Likelihood of {len(windows)} windows of {T} characters, the first given")
    print(f"  dLLM  NELBO {bound:.4f} ± {error:.4f} nats per character, an upper bound\n"
          f"  GPT   NLL   {exact:.4f}, exact (± {spread:.4f} for the choice of text)")
    return {"windows": len(windows), "length": T, "dllm": {"NELBO": bound, "error": error, "levels": curve},
            "gpt": {"NLL": exact, "error": spread, "positions": bins}}


# 2. Samples


def score(samples, judge, vocabulary, text):
    """Every measure of a list of texts of one length; `text` is what the models were trained on."""
    return {"words": measures.known_words(samples, vocabulary), "distinct": measures.distinct(samples),
            "copied": measures.longest_copy(samples, text), "judge": judge.nll(samples)}


def write(model, prompts, length, steps, temperature, seed=0):
    """Continue prompts (B, P) to (B, length): the dLLM in `steps` passes, the GPT in one a character."""
    generator = torch.Generator(prompts.device).manual_seed(seed)
    if model.config.causal:
        missing = length - prompts.shape[1]
        return gpt_training.generate(model, prompts, missing, temperature, generator=generator)
    canvas = torch.full((len(prompts), length), model.config.mask_id, device=prompts.device)
    canvas[:, : prompts.shape[1]] = prompts
    *_, last = diffusion.denoise(model, canvas, steps, temperature, generator=generator)
    return last.canvas


def ways(dllm, gpt, size, length):
    """(name, model, passes of the network for `length` characters) of each way to write."""
    return [*(("dllm", dllm, min(steps, length - 1)) for steps in size.steps), ("gpt", gpt, length - 1)]


def samples(dllm, gpt, windows, size, seed, tokenizer, text):
    """The measures of what both write after the first character of each window, and of the windows themselves."""
    rows = training.windows_of(windows.flatten(), windows.shape[1], size.samples)  # (B, T)
    judge, vocabulary = measures.Judge(text, tokenizer.vocab_size), set(measures.words_of(text))
    real = score([tokenizer.decode(row) for row in rows], judge, vocabulary, text)
    table = []
    cli.heading(f"2. {len(rows)} texts of {rows.shape[1]} characters a setting")
    line = "  {:5} {:>6} {:>11} {:11.1%} {:13.1%} {:12} {:9.3f}"
    print("  model passes temperature known words distinct runs longest copy judge NLL")
    print(line.format("real", "-", "-", *real.values()))
    for (name, model, nfe), temperature in itertools.product(ways(dllm, gpt, size, rows.shape[1]), TEMPERATURES):
        tokens = write(model, rows[:, :1], rows.shape[1], nfe, temperature, seed)
        texts = [tokenizer.decode(row) for row in tokens]
        result = score(texts, judge, vocabulary, text)
        table.append({"model": name, "nfe": nfe, "temperature": temperature, **result, "first": texts[0]})
        print(line.format(name, nfe, temperature, *result.values()), flush=True)
    held_out = judge.nll([tokenizer.decode(row) for row in windows])
    return {"texts": len(rows), "length": rows.shape[1], "judge_order": judge.order, "judge_held_out": held_out,
            "real": real, "table": table}


# 3. Speed


def speed(dllm, gpt, windows, size):
    """Characters a second of each way to write, for one text and for many: medians of 3 after a warm-up.

    All ways take turns, so that whatever else the machine does meets each of them alike.
    """
    device, length, table = windows.device, windows.shape[1], []
    cli.heading(f"3. Speed, texts of {length} characters")
    for batch in (1, size.batch):
        prompts, times = windows[:1, :1].repeat(batch, 1), {}
        for turn, (name, model, nfe) in itertools.product(range(4), ways(dllm, gpt, size, length)):
            start = benchmark.now(device)
            write(model, prompts, length if turn or name == "dllm" else 8, nfe if turn else 2, 0.8)  # turn 0: warm-up
            times.setdefault((name, nfe), []).append(benchmark.now(device) - start)
        for (name, nfe), seconds in times.items():
            rate = batch * (length - 1) / statistics.median(seconds[1:])
            table.append({"model": name, "nfe": nfe, "batch": batch, "characters_per_second": rate})
            print(f"  {name:5} {nfe:4} passes, batch {batch:3}: {rate:10,.0f} characters/s", flush=True)
    return {"length": length, "table": table}


# 4. Infilling


class Bigram:
    """After each character the one that follows it most often in ids (N,): the least that a filler must beat."""

    def __init__(self, ids, symbols):
        pairs = torch.bincount(ids[:-1] * symbols + ids[1:], minlength=symbols**2).view(symbols, symbols)
        self.next = pairs.argmax(1)  # (V,)

    def fill(self, rows, start, end):
        guesses = [rows[:, start - 1]]
        for _ in range(start, end):
            guesses.append(self.next[guesses[-1]])
        return torch.stack(guesses[1:], dim=1)


def fill(model, rows, start, end):
    """The likeliest characters for the blank [start, end) of rows (B, T): (B, end - start), one a pass.

    A dLLM sees both sides and begins where it is surest; a GPT sees the left side only.
    """
    if model.config.causal:
        return gpt_training.generate(model, rows[:, :start], end - start, temperature=0)[:, start:]
    canvas = rows.clone()
    canvas[:, start:end] = model.config.mask_id
    *_, last = diffusion.denoise(model, canvas, end - start, temperature=0, select=diffusion.by_confidence)
    return last.canvas[:, start:end]


def exact_characters(filler, windows, blank, batch_size=64):
    """Share of the characters of a blank in the middle of windows (N, T) that come back as they were.

    filler: (rows (B, T), start, end) → (B, end - start). Returns (mean, standard error over windows).
    """
    start = (windows.shape[1] - blank) // 2
    end = start + blank
    right = [filler(rows, start, end) == rows[:, start:end] for rows in windows.split(batch_size)]
    return measures.mean_and_error(torch.cat(right).double().mean(1))


def infilling(dllm, gpt, windows, size, seed, tokenizer, train_ids):
    rows = training.windows_of(windows.flatten(), windows.shape[1], size.windows)  # (N, T)
    bigram, table = Bigram(train_ids, tokenizer.vocab_size), []
    fillers = {"dllm": lambda *blank: fill(dllm, *blank), "gpt": lambda *blank: fill(gpt, *blank),
               "bigram": bigram.fill}
    cli.heading(f"4. Blanks in the middle of {len(rows)} windows: characters filled in exactly")
    for blank in (n for n in BLANKS if n <= rows.shape[1] // 2):
        row = {"blank": blank}
        for name, filler in fillers.items():
            row[name], row[f"{name}_error"] = exact_characters(filler, rows, blank)
        table.append(row)
        print(f"  {blank:3} characters", *(f"{n} {row[n]:6.1%} ± {row[n + '_error']:.1%}  " for n in fillers))
    chosen = torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))[:CASES]
    rows, length = windows[chosen.to(windows.device)], windows.shape[1]  # not chosen by looking at them
    known = length - min(CASE_LENGTH, length // 2)
    written = {name: write(model, rows[:, :known], length, length - known, 0.8, seed)
               for name, model in (("dllm", dllm), ("gpt", gpt))} | {"truth": rows}
    cases = [{"context": tokenizer.decode(row[:known])}
             | {name: tokenizer.decode(tokens[i, known:]) for name, tokens in written.items()}
             for i, row in enumerate(rows)]
    return {"windows": size.windows, "length": length, "table": table, "cases": cases}


# 5. Data reuse


def epochs(kind, part, val_ids, shape, config, tokenizer):
    """Train a fresh model of `kind` on part (N,): its evaluations, with epochs and the loss under "loss"."""
    torch.manual_seed(config.seed)
    model = transformer.Transformer(dataclasses.replace(shape, causal=kind != "dllm")).to(part.device)
    objective = training.masked_diffusion(config) if kind == "dllm" else gpt_training.next_token(0)
    objective = dataclasses.replace(objective, sample=lambda model: torch.tensor([]))  # the numbers are enough
    handler = signal.getsignal(signal.SIGINT)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        training.train(model, part, val_ids, config, objective, Path(folder), tokenizer, {}, {})
        records = runs.read_log(Path(folder) / "log.jsonl")
    signal.signal(signal.SIGINT, handler)  # `train` has its own
    if not records or records[-1]["step"] < config.steps:
        raise KeyboardInterrupt
    return [r | {"epochs": r["tokens"] / len(part), "loss": r[objective.measure]} for r in records]


def data_reuse(train_ids, val_ids, size, seed, tokenizer):
    """Validation loss against epochs, on the first 5 %, 20 % and 100 % of the training text, for each of REUSERS.

    The learning rate is constant, so that a point of a curve is what stopping there would give.
    """
    plain = {f.name for f in dataclasses.fields(training.TrainConfig)}
    values = size.reuse | dict(seed=seed, cooldown=0.0, t_max=1.0)
    config = training.TrainConfig(**{key: value for key, value in values.items() if key in plain})
    shape = transformer.TransformerConfig(
        tokenizer.vocab_size, **{key: value for key, value in values.items() if key not in plain})
    runs = []
    cli.heading(f"5. The same {config.steps} steps on less and less text")
    for fraction, (kind, own) in itertools.product(FRACTIONS, REUSERS.items()):
        part = train_ids[: int(fraction * len(train_ids))]
        *curve, last = epochs(kind, part, val_ids, shape, dataclasses.replace(config, **own), tokenizer)
        best = min(curve, key=lambda r: r["loss"])
        runs.append({"model": kind, "fraction": fraction, "characters": len(part), "curve": curve, "best": best,
                     "end": curve[-1], "all_windows": last})
        print(f"  {fraction:4.0%} {kind:7} best {best['loss']:.3f} after {best['epochs']:5.1f} epochs, "
              f"{curve[-1]['loss']:.3f} after {curve[-1]['epochs']:.1f}", flush=True)
    size = transformer.count_parameters(transformer.Transformer(shape))
    return {"model": dataclasses.asdict(shape), "train": dataclasses.asdict(config), "own": REUSERS, "parameters": size,
            "runs": runs}


# The command


def load(kind, name, device, text):
    """(model, tokenizer, what the report says of it) of a run of `kind` on the Corpus `text`."""
    folder = checkpoint.find(name, kind)
    model, tokenizer, info = checkpoint.load(folder, device)
    if model.config.causal != (kind == "gpt"):
        raise cli.UserError(f"{folder.name} is not a {kind}: name one with --{kind}")
    if info.get("corpus_sha256") != text.sha256:
        raise cli.UserError(f"{folder.name} was trained on another text than {text.name}: name it with --corpus")
    about = {"name": folder.resolve().name, "parameters": transformer.count_parameters(model),
             "model": dataclasses.asdict(model.config), "info": info}
    return model, tokenizer, about


def prepare(argv, doc, sizes):
    """What chapter 11 needs too: (args, with a size of `sizes` and the device, the Corpus, dLLM, GPT, tokenizer, what
    a report says of both models, and their origin). The folder for the report is there when this returns."""
    parser = cli.Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dllm", metavar="RUN", help="a run's name or folder (your latest, else the shipped one)")
    parser.add_argument("--gpt", metavar="RUN", help="the same for the GPT")
    parser.add_argument("--corpus", default="shakespeare", help="what both were trained on")
    parser.add_argument("--size", choices=sizes, help="how much to measure (gpu with CUDA, else quick)")
    parser.add_argument("--seed", type=generation.number(int, 0, 10**9), default=1, metavar="N",
                        help="of everything that is drawn (1)")
    parser.add_argument("--out", type=Path, default=files.ROOT / "docs", metavar="FOLDER", help="of the report (docs)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    args = parser.parse_args(argv)
    args.device, text = devices.pick_device(args.device), corpora.load(args.corpus)
    torch.set_float32_matmul_precision("high")
    args.size = args.size or ("gpu" if args.device.type == "cuda" else "quick")
    dllm, tokenizer, about_dllm = load("dllm", args.dllm, args.device, text)
    gpt, _, about_gpt = load("gpt", args.gpt, args.device, text)
    try:  # now, not after the work
        (args.out / "figures").mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise cli.UserError(f"{args.out} is not a folder: name one with --out") from None
    about = {"origin": runs.provenance() | {"date": datetime.now(UTC).isoformat(timespec="seconds")},
             "seed": args.seed, "dllm": about_dllm, "gpt": about_gpt}
    return args, text, dllm, gpt, tokenizer, about


def main(argv=None):
    args, text, dllm, gpt, tokenizer, about = prepare(argv, __doc__, SIZES)
    device, size = args.device, SIZES[args.size]
    train_text, val_text = corpora.split(text.text)
    train_ids, val_ids = (torch.tensor(tokenizer.encode(part), device=device) for part in (train_text, val_text))
    # As long as both models can read: a GPT predicts the character after its window, too.
    room = dllm.config.seq_len + (dllm.config.positions == "rope")
    windows = training.windows_of(val_ids, min(room, gpt.config.seq_len + 1))  # (N, T)
    if len(windows) < 2 or min(FRACTIONS) * len(train_ids) <= size.reuse.get("seq_len", 256) + 1:
        raise cli.UserError(f"{text.name} is too short to compare on: 5 % of it must fill several windows")
    results = about | {
        "size": {"name": args.size} | dataclasses.asdict(size),
        "corpus": {"name": text.name, "sha256": text.sha256, "training": len(train_text), "held_out": len(val_text)},
        "likelihood": likelihood(dllm, gpt, windows, size, args.seed),
        "samples": samples(dllm, gpt, windows, size, args.seed, tokenizer, train_text),
        "speed": speed(dllm, gpt, windows, size),
        "infilling": infilling(dllm, gpt, windows, size, args.seed, tokenizer, train_ids),
        "reuse": data_reuse(train_ids, val_ids, size, args.seed, tokenizer),
    }
    report.write(results, args.out)
    print("\nNext: 11_fast_decoding.py, where the dLLM needs fewer passes.")


if __name__ == "__main__":
    cli.run(main)
