"""The page docs/block_diffusion.md: one model between GPT and dLLM, and the speed of draft and verify.

    python -m experiments.block_diffusion                # measures the shipped hybrid: an hour on two quiet cores
    python -m experiments.block_diffusion --size quick   # few texts, to try the program
    python -m experiments.block_diffusion --render       # only writes the page again, from docs/block_diffusion.json
"""

import functools
import math
import statistics
import time
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

from experiments import pages
from experiments.dllm_vs_gpt import with_error
from plumbing import checkpoint, cli, devices, measures, text

import torch

tensors = import_module("01_tensors")
transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
gpt_training = import_module("07_train_gpt")
hybrid = import_module("13_block_diffusion")

NAME = "block_diffusion"
SEED, TEMPERATURE = 1, 0.8
SIZES = {  # windows of the curve, texts for quality, texts for speed, numbers of drafts
    "quick": (16, 4, 2, (0, 4)),
    "full": (1000, 64, 12, (0, 1, 2, 3, 4, 5, 6, 8))}  # fmt: skip
LENGTHS = (256, 1024)  # of the texts by draft and verify, in characters
MEASURES = {"words": "known words", "judge": "judge's NLL", "distinct": "distinct runs of 4"}


@dataclass(frozen=True)
class Command(pages.Settings):
    """The flags of this program."""

    checkpoint: str = "shakespeare-hybrid"  # name or folder of the hybrid's run
    size: Literal["quick", "full"] = "full"  # how much to measure
    device: str = "auto"  # auto, cpu, cuda or mps


# 1. How to measure


def as_gpt(model):
    """Return the clean stream of a Hybrid alone, as a Transformer of chapter 03 that shares its weights."""
    with torch.device("meta"):
        gpt = transformer.Transformer(model.config)
    weights = model.state_dict()
    gpt.load_state_dict({name: weights[name] for name in gpt.state_dict()}, assign=True)
    return gpt.eval().requires_grad_(False)


def measure(settings):
    """Measure the hybrid beside the shipped GPT and dLLM. Returns plain values."""
    count, quality_texts, speed_texts, drafts = SIZES[settings.size]
    device = devices.pick_device(settings.device)
    folder = checkpoint.find(settings.checkpoint, "hybrid")
    model, tokenizer, info = checkpoint.load(folder, device, ("hybrid",), hybrid.Hybrid)
    learned, unseen = text.split(text.load("shakespeare").text)
    tokens = torch.tensor(tokenizer.encode(unseen), device=device)
    windows = cut(tokens, model.config.seq_len + 1, count)
    print("measuring the curve", flush=True)
    values = {"origin": pages.origin(NAME, device), "seed": SEED, "temperature": TEMPERATURE, "windows": len(windows),
              "parameters": transformer.count_parameters(model), "info": info, "shipped": shipped(windows, tokenizer),
              "nll": hybrid.clean_nll(model, windows),
              "curve": [dict(zip(("size", "nelbo", "error"), point)) for point in hybrid.curve(model, windows)]}
    quality = functools.partial(quality_of, judge=measures.Judge(learned, tokenizer.vocab_size),
                                vocabulary=set(measures.words_of(learned)), tokenizer=tokenizer)
    values["lengths"] = []
    for length, texts, timed in zip(LENGTHS, (quality_texts, quality_texts // 2), (speed_texts, speed_texts // 3)):
        print(f"measuring texts of {length} characters", flush=True)
        rows = cut(tokens, length, max(2, texts))  # (N, length)
        written = [drafted(model, int(row[0]), length, SEED + i, hybrid.DRAFTS)[0] for i, row in enumerate(rows)]
        torch.manual_seed(SEED)
        by_gpt = gpt_training.write(as_gpt(model), rows[:, :1], length - 1, TEMPERATURE)
        values["lengths"].append({
            "length": length, "texts": len(rows), "timed": max(2, timed),
            "speed": [speed(model, rows, number, max(2, timed)) for number in drafts],
            "quality": {"real": quality(rows), "gpt": quality(by_gpt), "drafted": quality(written)},
            "sample": tokenizer.decode(written[0])})
    return values


def cut(tokens, length, count):
    """Return at most `count` windows of `length` tokens, from evenly spaced places of the text (count, length)."""
    return training.evenly(tokens[: len(tokens) // length * length].view(-1, length), count)


def shipped(windows, tokenizer):
    """Return the losses of the shipped GPT and dLLM on the windows, {kind: {loss, error, tokens, parameters}}."""
    found = {}
    nelbo = functools.partial(diffusion.nelbo, given=1)
    for kind, loss in (("gpt", gpt_training.nll), ("dllm", nelbo)):
        folder = checkpoint.RUNS / checkpoint.KINDS[kind][1]
        model, its_tokenizer, info = checkpoint.load(folder, windows.device, (kind,))
        assert its_tokenizer.vocabulary == tokenizer.vocabulary, "the models have different vocabularies"
        mean, error = loss(model, windows)
        read = info["step"] * info["train"]["batch_size"] * model.config.seq_len
        found[kind] = {"loss": mean, "error": error, "tokens": info.get("tokens", read),
                       "parameters": transformer.count_parameters(model)}
    return found


def quality_of(rows, judge, vocabulary, tokenizer):
    """Return the measures of texts, given as rows of tokens, with their standard errors over the texts."""

    def values(samples):
        return {"words": measures.known_words(samples, vocabulary), "distinct": measures.distinct(samples),
                "judge": statistics.fmean(judged[sample] for sample in samples)}

    samples = [tokenizer.decode(row) for row in rows]
    judged = {sample: judge.nll([sample]) for sample in samples}
    return measures.with_errors(values, samples)


def drafted(model, first, length, seed, drafts):
    """Write a text by draft and verify. Returns its tokens, and the list of Passes."""
    torch.manual_seed(seed)
    passes = list(hybrid.draft_and_verify(model, [first], length, TEMPERATURE, None, drafts))
    return [first, *(token for step in passes for token in step.new)], passes


def speed(model, rows, drafts, timed):
    """Return the speed with this number of drafts, beside that of the GPT, for texts of the length of rows (N, T)."""
    T = rows.shape[1]
    gpt = as_gpt(model)
    seconds, base, count = [], [], 0
    places = [[0, 0] for _ in range(drafts)]  # of each draft in its pass: how often verified, how often accepted
    for turn in range(timed):  # both take turns, so that other work on the machine hits both
        first = int(rows[turn % len(rows), 0])
        began = time.perf_counter()
        _, passes = drafted(model, first, T, SEED + turn, drafts)
        seconds.append(time.perf_counter() - began)
        count += len(passes)
        for step in passes:
            accepted = len(step.new) - 1
            for place in range(min(len(step.drafts), accepted + 1)):
                places[place][0] += 1
                places[place][1] += place < accepted
        torch.manual_seed(SEED + turn)
        began = time.perf_counter()
        gpt_training.write(gpt, rows[turn % len(rows), :1][None], T - 1, TEMPERATURE).cpu()
        base.append(time.perf_counter() - began)
    row = {"drafts": drafts, "rows": (drafts + 1) * (drafts + 2), "per_pass": timed * (T - 1) / count,
           "rate": (T - 1) / statistics.median(seconds), "gpt_rate": (T - 1) / statistics.median(base),
           "ratio": statistics.median(b / s for b, s in zip(base, seconds)),
           "accepted": [yes / max(1, tried) for tried, yes in places]}
    print("  {drafts} drafts: {per_pass:.2f} characters per pass, {rate:.0f} per second, {ratio:.2f} × the GPT's"
          .format(**row), flush=True)
    return row


# 2. Tables


def tables(values):
    """Return the tables of the page, and numbers that its sentences need."""
    short, long = values["lengths"]
    gpt, dllm = values["shipped"]["gpt"], values["shipped"]["dllm"]
    losses = [("the same model, next token (exact)", *values["nll"])]
    losses += [(f"blocks of {point['size']}", point["nelbo"], point["error"]) for point in values["curve"]]
    losses += [("shipped GPT (exact)", gpt["loss"], gpt["error"]), ("shipped dLLM", dllm["loss"], dllm["error"])]
    by_size = {point["size"]: point["nelbo"] for point in values["curve"]}
    whole = values["curve"][-1]["nelbo"]
    return {
        "curve": pages.table([(name, f"{mean:.3f}", f"{error:.3f}") for name, mean, error in losses],
                             ["", "nats per character", "±"]),
        "short": speed_table(short), "long": speed_table(long),
        "quality": quality_table(values["lengths"]),
        "above_gpt": f"{values['nll'][0] - gpt['loss']:.3f}",
        "whole": f"{whole:.3f}", "four_below_whole": f"{whole - by_size[4]:.3f}",
        "largest_difference": f"{largest_difference(values['lengths']):.1f}",
    }


def speed_table(part):
    rows = []
    for row in part["speed"]:
        accepted = " ".join(f"{share:.0%}" for share in row["accepted"])
        rows.append([row["drafts"], row["rows"], f"{row['per_pass']:.2f}", f"{row['ratio']:.2f} ×", accepted])
    return pages.table(rows, ["drafts", "rows per pass", "characters per pass", "times as fast as the GPT", "accepted"])


def quality_table(parts):
    rows = []
    for part in parts:
        for key, name in (("real", "real text"), ("gpt", "GPT"), ("drafted", "draft and verify")):
            row = part["quality"][key]
            cells = [with_error(row, measure, ".3f" if measure == "judge" else ".1%") for measure in MEASURES]
            rows.append([f"{name}, {part['length']} characters", *cells])
    return pages.table(rows, ["", *MEASURES.values()])


def largest_difference(parts):
    """Return the largest difference between GPT and draft and verify, in standard errors."""
    found = []
    for part in parts:
        a, b = part["quality"]["gpt"], part["quality"]["drafted"]
        for key in MEASURES:
            error = math.hypot(a[f"{key}_error"], b[f"{key}_error"])
            found.append(abs(a[key] - b[key]) / error if error else 0.0)
    return max(found)


# 3. The figure


def draw(values, folder):
    """Save the figure of the NELBO against the size of a block, between the losses of a GPT and of a dLLM."""
    figure, axis = tensors.pyplot(show=False).subplots(figsize=(7, 4.4), layout="constrained")
    sizes, nelbo, errors = ([point[key] for point in values["curve"]] for key in ("size", "nelbo", "error"))
    color = tensors.COLORS["other"]
    axis.errorbar(sizes, nelbo, errors, marker="o", ms=4, color=color, label="one model, in blocks: NELBO")
    axis.axhline(values["nll"][0], color=color, label="the same model, next token: NLL, exact")
    for kind, label in (("gpt", "shipped GPT: NLL, exact"), ("dllm", "shipped dLLM: NELBO")):
        axis.axhline(values["shipped"][kind]["loss"], ls="--", color=tensors.COLORS[kind], label=label)
    axis.set(xscale="log", xlabel="size of a block, tokens", ylabel="nats per character")
    axis.set_xticks(sizes, sizes)
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    pages.save_figure(figure, folder / f"{NAME}_curve.png")


def main(argv=None):
    pages.run(NAME, Command, measure, draw, tables, argv)


if __name__ == "__main__":
    cli.run(main)
