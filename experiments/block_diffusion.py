"""Makes the page docs/block_diffusion.md: one model between GPT and dLLM, and the speed of draft and verify.

    python -m experiments.block_diffusion                 # measures the shipped hybrid: half an hour on two cores
    python -m experiments.block_diffusion --only speed    # only the speeds again, on a quiet machine: five minutes
    python -m experiments.block_diffusion --size quick    # few texts, to try the program
    python -m experiments.block_diffusion --render        # only writes the page again, from docs/block_diffusion.json
"""

import functools
import math
import statistics
import time
from dataclasses import dataclass, replace
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
fast = import_module("11_fast_decoding")
hybrid = import_module("13_block_diffusion")

NAME = "block_diffusion"
SEED, TEMPERATURE = 1, 0.8
SIZES = {  # windows of the curve, texts for quality, texts for speed, numbers of drafts, widths of random models
    "quick": (16, 4, 2, (0, 3), (64,)),
    "full": (434, 64, 16, (0, 1, 2, 3, 4, 6), (128, 256, 512, 1024))}  # fmt: skip
LENGTH = 256  # length of each written text, in characters
ROWS = (1, 4, 9, 16, 25, 49)  # numbers of rows of the timed passes, which have 0, 1, 2, 3, 4 and 6 drafts
KEPT = 128  # rows of earlier passes that each timed pass sees
HEAD = 64  # size of an attention head in the models with random weights
STEADY = 1.1  # the fastest measured speed of a GPT must be at most this many times its slowest speed
MEASURES = {"words": "known words", "judge": "judge's NLL", "distinct": "distinct runs of 4"}


@dataclass(frozen=True)
class Command(pages.Settings):
    """The flags of this program."""

    checkpoint: str = "shakespeare-hybrid"  # name or folder of the hybrid's run
    only: Literal["all", "quality", "speed"] = "all"  # what to measure; the page keeps its other numbers
    size: Literal["quick", "full"] = "full"  # how much to measure
    device: str = "auto"  # auto, cpu, cuda or mps


# 1. How to measure


def as_gpt(model):
    """Return a Transformer with the weights of a Hybrid. This Transformer computes the Hybrid's clean stream."""
    with torch.device("meta"):
        gpt = transformer.Transformer(model.config)
    weights = model.state_dict()
    gpt.load_state_dict({name: weights[name] for name in gpt.state_dict()}, assign=True)
    return gpt.eval().requires_grad_(False)


def measure(settings):
    """Measure what the setting `only` names, and return all numbers of the page.

    Numbers that are not measured again stay as they are on the page.
    """
    device = devices.pick_device(settings.device)
    folder = checkpoint.find(settings.checkpoint, "hybrid")
    model, tokenizer, info = checkpoint.load(folder, device, ("hybrid",), hybrid.Hybrid)
    _, unseen = text.split(text.load("shakespeare").text)
    tokens = torch.tensor(tokenizer.encode(unseen), device=device)
    values = pages.earlier(NAME, settings.only, settings.out)
    values |= {"seed": SEED, "temperature": TEMPERATURE, "length": LENGTH, "kept": KEPT,
               "parameters": transformer.count_parameters(model), "info": info}
    origin = pages.origin(NAME, device)
    if settings.only in ("all", "speed"):  # measured first, while the machine is still quiet
        values |= measure_speed(model, tokens, SIZES[settings.size])
        values["origins"]["speed"] = origin
    if settings.only in ("all", "quality"):
        values |= measure_quality(model, tokenizer, tokens, SIZES[settings.size])
        values["origins"]["quality"] = origin
    return values


def measure_quality(model, tokenizer, tokens, size):
    """Return the NELBO by block size, and the measures of the texts that the model writes.

    These numbers do not depend on the speed of the machine.
    """
    count, texts, *_ = size
    learned, _ = text.split(text.load("shakespeare").text)
    windows = cut(tokens, model.config.seq_len + 1, count)
    print("measuring the curve", flush=True)
    values = {"windows": len(windows), "shipped": shipped(windows, tokenizer), "nll": hybrid.clean_nll(model, windows),
              "curve": [dict(zip(("size", "nelbo", "error"), point)) for point in hybrid.curve(model, windows)]}
    print("measuring texts", flush=True)
    quality = functools.partial(quality_of, judge=measures.Judge(learned, tokenizer.vocab_size),
                                vocabulary=set(measures.words_of(learned)), tokenizer=tokenizer)
    rows = cut(tokens, LENGTH, max(2, texts))  # (N, LENGTH)
    written = [drafted(model, int(row[0]), LENGTH, SEED + i, hybrid.DRAFTS)[0] for i, row in enumerate(rows)]
    torch.manual_seed(SEED)
    by_gpt = gpt_training.write(as_gpt(model), rows[:, :1], LENGTH - 1, TEMPERATURE)
    return values | {"texts": len(rows), "sample": tokenizer.decode(written[0]),
                     "quality": {"real": quality(rows), "gpt": quality(by_gpt), "drafted": quality(written)}}


def measure_speed(model, tokens, size):
    """Return the time of a pass for each number of rows, and the writing speed for each number of drafts.

    Raises UserError if the machine is busy.
    """
    _, _, texts, drafts, widths = size
    rows = cut(tokens, LENGTH, texts)
    found = speeds(model, rows, drafts)
    models = []
    for width in widths:
        config = replace(model.config, n_embd=width, n_head=width // HEAD)
        other = hybrid.Hybrid(config).to(model.head.weight.device).eval()
        models.append({"parameters": transformer.count_parameters(as_gpt(other)), "milliseconds": pass_times(other)})
        print(f"  {models[-1]['parameters']:,} parameters: {models[-1]['milliseconds']}", flush=True)
    return found | {"models": models, "timed": len(rows)}


def check_steady(rates):
    """Raise UserError if the largest of `rates` is more than STEADY times the smallest.

    The rates are measurements of the same speed, so a large difference means that the machine was busy.
    """
    if max(rates) > STEADY * min(rates):
        raise cli.UserError(f"the same GPT wrote {min(rates):.0f} and then {max(rates):.0f} characters per second: "
                            "run nothing else at the same time, and measure again")


def pass_times(model):
    """Return the median time of a pass for each number of clean rows: {rows: milliseconds}.

    Each pass sees KEPT rows of earlier passes. The pass over one row is a pass of a GPT.
    """
    ways = {str(count): one_pass(model, count) for count in ROWS[1:]}
    ways["1"] = fast.ways_of_one_row(as_gpt(model))[fast.LEAN]
    return fast.milliseconds(ways, model.head.weight.device)


def one_pass(model, count):
    """Return a function that computes one pass over `count` clean rows. These rows see KEPT rows of earlier passes."""
    device = model.head.weight.device
    kept = hybrid.KeptRows(model, 1, KEPT + count)
    kept.n = KEPT
    positions = torch.arange(count, device=device)
    rows = hybrid.make_rows(positions, torch.full_like(positions, hybrid.CLEAN), model.config.conv)
    tokens = torch.zeros(1, count, dtype=torch.long, device=device)
    return lambda: model(tokens, rows, kept)


def cut(tokens, length, count):
    """Return windows (N, length) that are evenly spaced over the text. N is at most `count`."""
    return training.evenly(tokens[: len(tokens) // length * length].view(-1, length), count)


def shipped(windows, tokenizer):
    """Return the shipped GPT's NLL and the shipped dLLM's NELBO: {kind: {loss, error, tokens, parameters}}."""
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
    """Return the measures of texts, with their standard errors over the texts. `rows` are the tokens of the texts."""

    def values(samples):
        return {"words": measures.known_words(samples, vocabulary), "distinct": measures.distinct(samples),
                "judge": statistics.fmean(judged[sample] for sample in samples)}

    samples = [tokenizer.decode(row) for row in rows]
    judged = {sample: judge.nll([sample]) for sample in samples}
    return measures.with_errors(values, samples)


def drafted(model, first, length, seed, drafts):
    """Write a text with draft and verify. Returns its tokens, and the list of Passes."""
    torch.manual_seed(seed)
    passes = list(hybrid.draft_and_verify(model, [first], length, TEMPERATURE, None, drafts))
    return [first, *(token for step in passes for token in step.new)], passes


def speeds(model, rows, numbers):
    """Return the speed of the GPT, and a line of the table for each number of drafts.

    Each text has T characters, and begins with the first token of a row of `rows` (N, T). For each text, the GPT and
    all numbers of drafts take turns, so that other work on the machine slows all of them equally.
    """
    gpt, T = as_gpt(model), rows.shape[1]
    seconds = {number: [] for number in ("gpt", *numbers)}
    passes = {number: [] for number in numbers}
    for turn, row in enumerate(rows):
        torch.manual_seed(SEED + turn)
        began = time.perf_counter()
        gpt_training.write(gpt, row[None, :1], T - 1, TEMPERATURE).cpu()  # .cpu() waits for the device
        seconds["gpt"].append(time.perf_counter() - began)
        for number in numbers:
            began = time.perf_counter()
            _, new = drafted(model, int(row[0]), T, SEED + turn, number)
            seconds[number].append(time.perf_counter() - began)
            passes[number] += new
    half = len(rows) // 2
    check_steady([(T - 1) / statistics.median(part) for part in (seconds["gpt"][:half], seconds["gpt"][half:])])
    lines = []
    for number in numbers:
        ratio = statistics.median(base / own for base, own in zip(seconds["gpt"], seconds[number]))
        lines.append({"drafts": number, "rows": (number + 1) ** 2, "ratio": ratio,
                      "per_pass": len(rows) * (T - 1) / len(passes[number]),
                      "rate": (T - 1) / statistics.median(seconds[number]),
                      "accepted": accepted(passes[number], number)})
        print("  {drafts} drafts: {per_pass:.2f} characters per pass, {rate:.0f} per second, {ratio:.2f} × the GPT's"
              .format(**lines[-1]), flush=True)
    return {"speed": lines, "gpt_rate": (T - 1) / statistics.median(seconds["gpt"])}


def accepted(passes, drafts):
    """For each place of a draft in a pass, return the share of the verified drafts that were accepted: a list."""
    places = [[0, 0] for _ in range(drafts)]  # [how often verified, how often accepted]
    for step in passes:
        count = len(step.new) - 1
        for place in range(min(len(step.drafts), count + 1)):
            places[place][0] += 1
            places[place][1] += place < count
    return [yes / max(1, tried) for tried, yes in places]


# 2. Tables


def tables(values):
    """Return the tables of the page, and the numbers that its sentences need."""
    gpt, dllm = values["shipped"]["gpt"], values["shipped"]["dllm"]
    likelihoods = [("the hybrid, token by token (exact NLL)", *values["nll"])]
    likelihoods += [(f"blocks of {point['size']}", point["nelbo"], point["error"]) for point in values["curve"]]
    likelihoods += [("shipped GPT (exact NLL)", gpt["loss"], gpt["error"]),
                    ("shipped dLLM", dllm["loss"], dllm["error"])]
    by_size = {point["size"]: point["nelbo"] for point in values["curve"]}
    whole = values["curve"][-1]["nelbo"]
    by_drafts = {line["drafts"]: line for line in values["speed"]}
    best = max((line for line in values["speed"] if line["drafts"]), key=lambda line: line["ratio"])
    return {
        "curve": pages.table([(name, f"{mean:.3f}", f"{error:.3f}") for name, mean, error in likelihoods],
                             ["", "nats per character", "±"]),
        "speed": speed_table(values), "passes": pass_table(values),
        "quality": quality_table(values["quality"]),
        "above_gpt": f"{values['nll'][0] - gpt['loss']:.3f}",
        "whole": f"{whole:.3f}", "four_below_whole": f"{whole - by_size[4]:.3f}",
        "largest_difference": f"{largest_difference(values['quality']):.1f}",
        "best": f"{best['ratio']:.2f}",
        "per_pass": f"{by_drafts[hybrid.DRAFTS]['per_pass']:.2f}", "drafting": drafting(values, by_drafts),
    }


def drafting(values, by_drafts):
    """Return the share of the writing time that is spent outside of passes, if each pass gets one draft."""
    if 1 not in by_drafts or len(values["models"]) < 2:  # a quick trial
        return "?"
    line = by_drafts[1]
    milliseconds = 1000 * line["per_pass"] / line["rate"]  # time from one pass to the next
    return f"{1 - values['models'][1]['milliseconds']['4'] / milliseconds:.0%}"


def speed_table(values):
    rows = [["the GPT", 1, "1.00", f"{values['gpt_rate']:.0f}", "", ""]]
    for line in values["speed"]:
        accepted = " ".join(f"{share:.0%}" for share in line["accepted"])
        name = f"{line['drafts']} draft{'s' if line['drafts'] != 1 else ''}"
        rows.append([name, line["rows"], f"{line['per_pass']:.2f}", f"{line['rate']:.0f}",
                     f"{line['ratio']:.2f} ×", accepted])
    return pages.table(rows, ["", "rows per pass", "characters per pass", "characters/s", "speed relative to the GPT",
                              "accepted"])


def pass_table(values):
    """Return a table of pass times by model size and number of rows.

    The last column is the best gain from drafts if we count only the time of passes. A gain is (characters per pass)
    × (time of a pass over one row) / (time of a pass with drafts).
    """
    per_pass = {line["drafts"]: (str(line["rows"]), line["per_pass"]) for line in values["speed"] if line["drafts"]}
    rows = []
    for model in values["models"]:
        times = model["milliseconds"]
        gains = [characters * times["1"] / times[count] for count, characters in per_pass.values() if count in times]
        cells = [f"{times[str(count)] / times['1']:.1f}" for count in ROWS[1:]]
        rows.append([f"{model['parameters'] / 1e6:.1f}M", f"{times['1']:.2f} ms", *cells, f"{max(gains):.2f} ×"])
    return pages.table(rows, ["parameters", "one row", *(f"{count} rows" for count in ROWS[1:]), "best gain"])


def quality_table(quality):
    rows = []
    for key, name in (("real", "real text"), ("gpt", "GPT"), ("drafted", "draft and verify")):
        cells = [with_error(quality[key], measure, ".3f" if measure == "judge" else ".1%") for measure in MEASURES]
        rows.append([name, *cells])
    return pages.table(rows, ["", *MEASURES.values()])


def largest_difference(quality):
    """Return the largest difference, in standard errors, between texts of the GPT and of draft and verify."""
    found = []
    a, b = quality["gpt"], quality["drafted"]
    for key in MEASURES:
        error = math.hypot(a[f"{key}_error"], b[f"{key}_error"])
        found.append(abs(a[key] - b[key]) / error if error else 0.0)
    return max(found)


# 3. The figure


def draw(values, folder):
    """Save the figure: the NELBO by block size, and horizontal lines for both NLLs and the dLLM's NELBO."""
    figure, axis = tensors.pyplot(show=False).subplots(figsize=(7, 4.4), layout="constrained")
    sizes, nelbo, errors = ([point[key] for point in values["curve"]] for key in ("size", "nelbo", "error"))
    color = tensors.COLORS["other"]
    axis.errorbar(sizes, nelbo, errors, marker="o", ms=4, color=color, label="the hybrid, in blocks: NELBO")
    axis.axhline(values["nll"][0], color=color, label="the hybrid, token by token: NLL, exact")
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
