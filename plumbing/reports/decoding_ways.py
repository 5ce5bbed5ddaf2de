"""The experiments of chapter 11: which ways of writing it measures, on how many texts, and how.

    run(command)    measure all ways with the models that the command names, and write the page
"""

import functools
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module

import torch
import torch.nn.functional as F

from plumbing import cli, corpora, devices, files, measures, nearness, tokenizers, views
from plumbing.reports import fast_decoding as report

diffusion = import_module("04_diffusion")
training = import_module("05_train")
generation = import_module("06_generate")
gpt_training = import_module("07_train_gpt")
comparison = import_module("10_dllm_vs_gpt")
fast = import_module("11_fast_decoding")

LENGTHS = (256, 1024)  # of the texts, in characters
SIZES = {"quick": (16, 4), "full": (64, 64), "gpu": (200, 64)}  # number of texts of each length
LINE = "  {:44} {:>4} {:>6} {:>8} {:11.1%} {:7.3f} {:8.1%} {:9.3f} {:>9} {:>9} {:>9} characters/s"  # printed per way


def run(command):
    """Measure every way of writing, print a line for each, and write the page into the folder of the command."""
    command = replace(command, seed=1 if command.seed is None else command.seed)
    command, text, dllm, gpt, tokenizer, about = comparison.prepare(command, SIZES)
    train_text, val_text = corpora.split(text.text)
    val_ids = torch.tensor(tokenizer.encode(val_text), device=command.device)
    judge, vocabulary, parts = measures.Judge(train_text, tokenizer.vocab_size), set(measures.words_of(train_text)), []
    for length, texts in zip(LENGTHS, SIZES[command.size]):
        rows = training.windows_of(val_ids, length, texts)  # (N, T)
        if len(rows) < 2:
            raise cli.UserError(f"{text.name} is too short to measure on: its last tenth must fill several texts")
        cli.heading(f"{len(rows)} texts of {length} characters")
        held_out = training.windows_of(val_ids, length)
        real, held_out = ([tokenizer.decode(row) for row in part] for part in (rows, held_out))
        cut = [train_text[i : i + length] for i in range(0, len(train_text) - length, length)]
        yardstick = nearness.Yardstick(real, held_out, cut, judge, vocabulary)
        parts.append(measure(list(ways(dllm, gpt, length)), rows, yardstick, tokenizer, command.seed))
    with files.whole_file(command.out / "figures" / "fast_decoding.gif") as path:
        path.write_bytes(animate(dllm, tokenizer, command.seed))
    report.write(about | {"size": command.size, "parts": parts}, command.out)


# 1. What to measure


def ways(dllm, gpt, length):
    """Every `Way` to write texts of this length that is measured, the default of chapter 06 first."""
    def way(kind, name, steps=None, temperature=0.8, how=None, model=dllm, same_without=None, **flags):
        sampler = functools.partial(fast.decode, how=how) if how else functools.partial(diffusion.denoise, **flags)
        adaptive = how is not None and bool(how.rules)
        return Way(kind, name, model, steps or length, temperature, sampler, adaptive, same_without)

    yield way("default", "default", *generation.DEFAULT)
    yield way("fast", "--fast", *generation.FAST)
    for temperature in (0.8, 0.9, 0.95, 1.0):
        yield way("GPT", "GPT with KV cache", model=gpt, temperature=temperature)
    yield way("order", "confidence, 64 passes", 64, select=diffusion.by_confidence, mend=0)
    if length <= dllm.config.seq_len:
        for passes in (64, 16):
            yield way("default", f"default with {passes} passes", passes, generation.DEFAULT[1])
        yield way("order", "scattered, 64 passes, no correction", 64, mend=0)
        yield from ways_of_the_literature(way)


def ways_of_the_literature(way):
    """Orders, blocks with caches, adaptive rules and correction, as other work uses them: measured within a window."""
    for order in ("random", "peak", "margin", "noisy", "isolated", "ancestral"):
        yield way("order", f"{order}, 64 passes", 64, how=fast.Decoding(order=order))
    for order in ("ancestral", "confidence", "isolated"):
        how = fast.Decoding(order=order, remask=32)
        yield way("correction", f"{order}, 32 passes and 32 of correction", 32, how=how)
    name = "confidence, blocks of 32, 64 passes"
    yield way("block", name, 64, how=fast.Decoding(order="confidence", block=32), same_without=name)
    for cache in ("prefix", "dual"):
        how = fast.Decoding(order="confidence", block=32, cache=cache)
        yield way("cache", f"{name}, {cache}", 64, how=how, same_without=name)
    for rule, number in (("threshold", 0.9), ("factor", 1.0), ("entropy", 0.5), ("stable", 0.01)):
        how = fast.Decoding(**{rule: number}, block=32, cache="dual")
        yield way("block", f"{rule} {number:g}, blocks of 32, dual", how=how)
    yield way("rule", "apart 12", how=fast.Decoding(apart=12))
    for name, how in (("delayed", fast.Decoding(apart=12, cache="delayed")),
                      ("delayed, refreshed", fast.Decoding(apart=12, cache="delayed", refresh=8))):
        yield way("cache", f"apart 12, {name}", how=how, same_without="apart 12")
    yield way("correction", "apart 12, and 16 of correction", how=fast.Decoding(apart=12, remask=16))


def animate(model, tokenizer, seed, length=160):
    """The bytes of a GIF: the model writes a text in blocks of four characters."""
    canvas = torch.full((1, length), model.config.mask_id, device=model.head.weight.device)
    generator = torch.Generator(canvas.device).manual_seed(seed)
    how = fast.Decoding(threshold=0.9, block=4, cache="dual")
    states = [state.to("cpu") for state in fast.decode(model, canvas, generator=generator, how=how)]
    letters = [tokenizer.decode([i]) for i in range(tokenizer.vocab_size)] + [tokenizers.MASK_CHAR]
    return views.gif_bytes(states, [[False] * length], letters)


# 2. How to measure


@dataclass(frozen=True)
class Way:
    """One way to write texts: a line of the tables."""

    kind: str  # its color in the figure, a key of `report.COLORS`
    name: str
    model: torch.nn.Module  # a dLLM, or a GPT, which writes as in chapter 07
    steps: int  # maximum number of passes per window
    temperature: float
    sampler: Callable  # of a dLLM: a function that is called and yields like `diffusion.denoise`
    adaptive: bool  # may the sampler stop before `steps`?
    same_without: str | None = None  # for a cache: the name of the way that differs only in having no cache

    def write(self, prompts, length, seed):
        """Continue prompts (B, P): (tokens (B, length), number of passes per text).

        A text longer than the window of a dLLM is written in windows, as in chapter 06.
        """
        generator = torch.Generator(prompts.device).manual_seed(seed)
        missing = length - prompts.shape[1]
        if self.model.config.causal:
            return gpt_training.generate(self.model, prompts, missing, self.temperature, generator=generator), missing
        canvas = F.pad(prompts, (0, missing), value=self.model.config.mask_id)  # (B, T)
        passes = 0
        for state in generation.generate(
                self.model, canvas, self.steps, self.temperature, None, generator, self.sampler):
            passes = passes + state.committed.any(1).float().mean()  # a text that waits for others needs no pass
        return state.canvas, float(passes) if self.adaptive else state.nfe


def measure(ways, rows, yardstick, tokenizer, seed, repeats=3):
    """Quality and speed of each of `ways` for texts of the length of rows (N, T): one part of the results.

    Each way continues the first token of all rows in one batch. Then all ways take turns to continue a single row,
    `repeats` times, and the median is the speed for one text.
    """
    N, T = rows.shape
    print(f"  {'':44} temp passes rows/ch. known words  judge distinct diverges   largest      mean distance")
    print(LINE.format("real text", "", "", "", *(yardstick.real[key] for key in nearness.MEASURES), "", "", ""))
    table = [measure_batch(way, rows, yardstick, tokenizer, seed) for way in ways]
    times = [[] for _ in ways]
    for turn in range(repeats):
        for way, seconds in zip(ways, times):
            start = devices.now(rows.device)
            way.write(rows[turn % N : turn % N + 1, :1], T, seed + turn)
            seconds.append(devices.now(rows.device) - start)
    for line, seconds in zip(table, times):
        line["rate"] = (T - 1) / statistics.median(seconds)
    return {"length": T, "texts": N, "real": yardstick.real, "spread": yardstick.spread, "table": table}


def measure_batch(way, rows, yardstick, tokenizer, seed):
    """The line of one way in the table: what it writes after the first token of rows (N, T), and at what cost."""
    computed, (N, T) = [], rows.shape
    hook = way.model.register_forward_pre_hook(lambda _, inputs: computed.append(inputs[0].numel()))
    start = devices.now(rows.device)
    tokens, nfe = way.write(rows[:, :1], T, seed)
    seconds = devices.now(rows.device) - start
    hook.remove()
    texts = [tokenizer.decode(row) for row in tokens]
    line = {"kind": way.kind, "name": way.name, "temperature": way.temperature, "nfe": nfe,
            "rows": sum(computed) / N / (T - 1), "batch_rate": N * (T - 1) / seconds,
            "same_without": way.same_without, **yardstick.quality(texts), "first": texts[0]}
    work = f"{nfe:.0f}", f"{line['rows']:.1f}"
    distances = ("{:.1f} ± {:.1f}".format(*line[key]) for key in ("largest", "mean"))
    print(LINE.format(way.name, way.temperature, *work, *(line[key] for key in nearness.MEASURES), *distances,
                      f"{line['batch_rate']:,.0f}"), flush=True)
    return line
