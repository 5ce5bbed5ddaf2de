"""The measurements of chapter 13: the curve from GPT to dLLM, the ways to write, and their speed.

    measure(folder, size)    all results as plain values; reports/block_diffusion.py makes a page of them
"""

import functools
import statistics
from importlib import import_module

import torch
import torch.nn.functional as F

from plumbing import checkpoint, corpora, devices, measures
from plumbing.reports import pages

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
gpt_training = import_module("07_train_gpt")
fast = import_module("11_fast_decoding")
hybrid = import_module("13_block_diffusion")

SEED, TEMPERATURE = 1, 0.8
COMMAND = "python -m plumbing.reports.block_diffusion --measure"
SIZES = {  # windows of the curve, texts for quality, texts for speed, numbers of drafts
    "quick": (16, 4, 2, (0, 4)),
    "full": (1000, 64, 12, (0, 1, 2, 3, 4, 5, 6, 8))}


def as_gpt(model):
    """The clean stream of a Hybrid alone, as a Transformer of chapter 03 that shares its weights."""
    with torch.device("meta"):
        gpt = transformer.Transformer(model.config)
    weights = model.state_dict()
    gpt.load_state_dict({name: weights[name] for name in gpt.state_dict()}, assign=True)
    return gpt.eval().requires_grad_(False)


def curve(model, windows, draws=1):
    """The NELBO at each block size from 1 to the whole window: [{"size", "nelbo", "error"}]."""
    T, sizes = windows.shape[1] - 1, [1]
    while sizes[-1] < T:
        sizes.append(min(2 * sizes[-1], T))
    return [dict(zip(("size", "nelbo", "error"), (size, *hybrid.block_nelbo(model, windows, size, draws))))
            for size in sizes]


def measure(folder, size="full"):
    """Measure the hybrid in `folder` beside the shipped GPT and dLLM: plain values, ready for JSON."""
    count, quality_texts, speed_texts, drafts = SIZES[size]
    model, tokenizer, info = checkpoint.load(folder, build=hybrid.Hybrid)
    train_text, val_text = corpora.split(corpora.load("shakespeare").text)
    ids = torch.tensor(tokenizer.encode(val_text))
    windows = training.windows_of(ids, model.config.seq_len + 1, count)
    losses = {"gpt": gpt_training.nll, "dllm": functools.partial(diffusion.nelbo, given=1)}
    shipped = {}
    for name, path in (("gpt", checkpoint.SHIPPED_GPT), ("dllm", checkpoint.SHIPPED)):
        other, other_tokenizer, other_info = checkpoint.load(path)
        assert other_tokenizer.vocabulary == tokenizer.vocabulary, "the models have different vocabularies"
        loss, error = losses[name](other, windows)
        shipped[name] = {"loss": loss, "error": error, "tokens": other_info["tokens"],
                         "parameters": transformer.count_parameters(other)}
    print("measuring the curve", flush=True)
    results = {"origin": pages.origin() | {"command": COMMAND}, "seed": SEED, "temperature": TEMPERATURE,
               "windows": len(windows), "parameters": transformer.count_parameters(model), "info": info,
               "shipped": shipped, "nll": hybrid.nll(model, windows), "curve": curve(model, windows)}
    judge = measures.Judge(train_text, tokenizer.vocab_size)
    quality = functools.partial(measures.quality, judge=judge, vocabulary=set(measures.words_of(train_text)))
    results["lengths"] = [
        lengths_part(model, tokenizer, ids, length, max(2, texts), max(2, timed), drafts, quality)
        for length, texts, timed in ((256, quality_texts, speed_texts), (1024, quality_texts // 2, speed_texts // 3))]
    results["blocks"] = blocks_part(model, tokenizer, ids, max(2, quality_texts // 4), quality)
    return results


def drafted(model, first, length, seed, drafts):
    """A text by draft and verify: (tokens, number of passes, [(drafts verified, drafts accepted)] of each pass)."""
    text, accepted = [first], []
    for draft, new in hybrid.draft_and_verify(model, text, length, TEMPERATURE, None, seeded(seed), drafts):
        accepted.append((len(draft), len(new) - 1))
    return text, len(accepted), accepted


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def lengths_part(model, tokenizer, ids, length, texts, timed, drafts, quality):
    """For texts of `length`: characters per pass and per second for each number of drafts, and the quality."""
    print(f"measuring texts of {length} characters", flush=True)
    gpt, rows = as_gpt(model), training.windows_of(ids, length, texts)  # (N, length)
    speed = []
    for number in drafts:
        passes, seconds, base, places = 0, [], [], [[0, 0] for _ in range(number)]
        for turn in range(timed):  # both take turns, so that other work on the machine hits both
            first = int(rows[turn % len(rows), 0])
            began = devices.now(rows.device)
            _, n, verified = drafted(model, first, length, SEED + turn, number)
            seconds.append(devices.now(rows.device) - began)
            passes += n
            for tried, accepted in verified:
                for place in range(min(tried, accepted + 1)):
                    places[place][0] += 1
                    places[place][1] += place < accepted
            began = devices.now(rows.device)
            gpt_training.generate(gpt, torch.tensor([[first]]), length - 1, TEMPERATURE,
                                  generator=seeded(SEED + turn))
            base.append(devices.now(rows.device) - began)
        speed.append({
            "drafts": number, "rows": (number + 1) * (number + 2), "per_pass": timed * (length - 1) / passes,
            "rate": (length - 1) / statistics.median(seconds), "gpt_rate": (length - 1) / statistics.median(base),
            "ratio": statistics.median(b / s for b, s in zip(base, seconds)),
            "accepted": [yes / max(1, tried) for tried, yes in places]})
        print("  {drafts} drafts: {per_pass:.2f} characters per pass, {rate:.0f} per second, {ratio:.2f} × the GPT's"
              .format(**speed[-1]), flush=True)
    written = [drafted(model, int(row[0]), length, SEED + i, hybrid.DRAFTS)[0] for i, row in enumerate(rows)]
    by_gpt = gpt_training.generate(gpt, rows[:, :1], length - 1, TEMPERATURE, generator=seeded(SEED))
    decoded = {name: quality([tokenizer.decode(list(row)) for row in part])
               for name, part in (("real", rows.tolist()), ("gpt", by_gpt.tolist()), ("drafted", written))}
    return {"length": length, "texts": len(rows), "timed": timed, "speed": speed, "quality": decoded,
            "sample": tokenizer.decode(written[0])}


def blocks_part(model, tokenizer, ids, texts, quality, length=256):
    """Writing in blocks: [{"block", "steps", "nfe", quality}] for several sizes of blocks and passes per block."""
    print("measuring blocks", flush=True)
    rows, results = training.windows_of(ids, length, texts), []
    canvas = F.pad(rows[:, :1], (0, length - 1), value=model.config.mask_id)
    for block in (4, 16, 64, 255):
        for share in (4, 2, 1):
            steps, how = max(1, block // share), fast.Decoding(order="isolated", block=block)
            sampler = functools.partial(fast.decode, how=how, network=hybrid.BlockNetwork)
            total = steps * -(-(length - 1) // block)  # rounded up
            state = list(sampler(model, canvas, total, TEMPERATURE, generator=seeded(SEED)))[-1]
            results.append({"block": block, "steps": steps, "nfe": state.nfe}
                           | quality([tokenizer.decode(row) for row in state.canvas]))
    return results
