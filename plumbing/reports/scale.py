"""What do the named sizes of chapter 12 need, in memory and in time, and which engine?

    python -m plumbing.reports.scale        # a second: writes docs/scale.md

Nothing here is measured: it is counted, from the settings in configs/ and the assumptions below. What can be
checked without the machines, tests/test_scale.py checks: parameters, FLOPs and the activations that a step keeps.
"""

import itertools
from importlib import import_module

from plumbing import cli, files, settings, tokenized

transformer, scale = import_module("03_transformer"), import_module("12_scale")

VOCAB = 50257
SIZES = ("tiny", "tinystories", "small", "medium")
MACHINES = {  # GPUs, memory of each in GB, 16-bit TFLOP/s of each, GB/s that each sends while it receives as many
    "4 GB": (1, 4, 20, 0),
    "24 GB": (1, 24, 165, 0),
    "80 GB": (1, 80, 990, 0),
    "8 × 80 GB": (8, 80, 990, 300),
    "64 × 80 GB": (64, 80, 990, 25),
}
USABLE = 0.85  # of a card's memory: the rest is the driver's, and holes between tensors
UTILISATION = 0.35  # of the peak rate: what the products of a step reach
ENOUGH = 4096  # tokens in a pass that keep a GPU busy
SHORTEST = 0.02  # seconds: starting a step's kernels takes about so long, however fast the GPU


def read(name):
    """(TransformerConfig, TrainConfig, DataConfig) of configs/NAME.yaml."""
    groups = {"model": transformer.TransformerConfig, "data": tokenized.DataConfig, "train": scale.TrainConfig}
    _, shape, data, train = settings.parse(["--config", name], "", groups.values(), "tiny", ("vocab_size", "causal"),
                                           sections=tuple(groups))
    return (transformer.TransformerConfig(VOCAB, **shape), scale.TrainConfig(**train), tokenized.DataConfig(**data))


def parameters(config):
    """(all, those in matrices of blocks)."""
    parts = {name: number for name, (_, number) in transformer.parameters_by_part(config).items()}
    return sum(parts.values()), parts["attn"] + parts["mlp"]


def kept_per_token(config, recompute=False, width=2):
    """Bytes that the forward pass keeps for the backward pass, for each token, without the logits.

    width: bytes of what enters a matrix product: 2 in bf16. Of a block it keeps 17 C such numbers: the inputs of its
    four matrices (C, C, C, 4 C) and attention's result (C), queries, keys and values (3 C), the rotated queries and
    keys (2 C), ReLU's result (4 C); and in 32 bits what its two norms and, unless they are 32 bits wide already, those
    of queries and keys read (2 C each). Recomputed blocks keep their input, and one at a time all the rest.
    """
    L, C = config.n_layer, config.n_embd
    block = (17 * width + 4 * 2 + 4 * 2 * (width < 4)) * C + 12 * config.n_head + 8  # what norms and softmax divide by
    return (4 * L * C + block if recompute else L * block) + (4 + width) * C


LOGITS = 10  # bytes for each of V logits: 16-bit, as 32-bit numbers, and their log-softmax, at once


def memory(config, train, processes=1, engine="ddp", recompute=False, windows=1):
    """Bytes on each GPU: {what: bytes}. windows: those of one pass."""
    P, matrices = parameters(config)
    shards = processes if engine == "fsdp" else 1
    moments = 4 * matrices + 8 * (P - matrices) if train.optimizer == "muon" else 8 * P
    if engine == "fsdp":  # embedding and head, and two blocks at a time, gathered in 16 bits, with gradients in 32
        gathered = (2 + 4) * (2 * VOCAB * config.n_embd + 2 * 12 * config.n_embd**2)
    else:
        gathered = 2 * P  # autocast's copies
    tokens = windows * config.seq_len
    activations = tokens * (kept_per_token(config, recompute) + LOGITS * VOCAB)
    # Muon works on all matrices of one shape together; by then the activations are gone.
    update = 14 * 4 * config.n_layer * config.n_embd**2 if train.optimizer == "muon" else 0
    return {"weights, gradients, average": 12 * P / shards, "moments": moments / shards, "gathered": gathered,
            "activations": max(activations, update)}


def choose(config, train, machine):
    """The settings that compute least and fit, in passes of ENOUGH tokens if they can, or None:
    (engine, recompute, accumulate, windows, bytes)."""
    count, gigabytes, *_ = machine
    share = train.batch_size // count
    passes = [2**i for i in range(share.bit_length())]
    full = [n for n in passes if n == 1 or share // n * config.seq_len >= ENOUGH]
    for accumulates, engine, recompute in itertools.product(
            (full, passes), ("ddp", "fsdp") if count > 1 else ("one",), (False, True)):
        for accumulate in accumulates:
            windows = share // accumulate
            need = sum(memory(config, train, count, engine, recompute, windows).values())
            if need <= USABLE * gigabytes * 1e9:
                return engine, recompute, accumulate, windows, need
    return None


def step_seconds(config, train, machine, engine, recompute, accumulate):
    """(computing, sending) of one step. Sending goes on meanwhile, as far as it can."""
    count, _, tflops, rate = machine
    flops = transformer.flops_per_token(config) * (4 / 3 if recompute else 1)
    computing = train.batch_size * config.seq_len * flops / (count * tflops * 1e12 * UTILISATION)
    P, ring = parameters(config)[0], (count - 1) / count
    # DDP: 32-bit gradients, there and back. FSDP2: in each pass 16-bit weights twice, and gradients once.
    sent = accumulate * ring * (2 * 2 + 4) * P if engine == "fsdp" else 2 * ring * 4 * P
    return computing, sent / (rate * 1e9) if rate else 0.0


def duration(seconds):
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def table(heading, rows):
    """Lines of a Markdown table. heading: names, separated by |."""
    names = [name.strip() for name in heading.split("|")]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (names, ["---"] * len(names), *rows))


def size_rows():
    for name in SIZES:
        c, train, _ = read(name)
        (P, matrices), batch = parameters(c), train.batch_size * c.seq_len
        flops = transformer.flops_per_token(c)
        yield (name, f"{P / 1e6:.1f}M", f"{1 - matrices / P:.0%}", f"{c.n_layer} × {c.n_embd}", c.seq_len, f"{batch:,}",
               f"{train.steps:,}", f"{batch * train.steps / 1e9:.2f}G", f"{flops / 1e6:,.0f}M",
               f"{flops * batch * train.steps:.1e}")


def run_rows():
    for name in SIZES:
        c, train, _ = read(name)
        for label, machine in MACHINES.items():
            if machine[0] > train.batch_size:
                yield name, label, "more GPUs than windows", *["-"] * 8
            elif not (chosen := choose(c, train, machine)):
                least = sum(memory(c, train, machine[0], "one" if machine[0] == 1 else "fsdp", True, 1).values())
                yield name, label, "does not fit", *["-"] * 3, f"{least / 1e9:.1f} GB", *["-"] * 4
            else:
                engine, recompute, accumulate, windows, need = chosen
                fixed = need - memory(c, train, machine[0], engine, recompute, windows)["activations"]
                computing, sending = step_seconds(c, train, machine, engine, recompute, accumulate)
                whole = duration(max(computing, sending, SHORTEST) * train.steps)
                yield (name, label, engine, str(recompute).lower(), accumulate, windows, f"{need / 1e9:.1f} GB",
                       f"{fixed / 1e9:.1f} GB", f"{computing:.3f} s", f"{sending:.3f} s" if sending else "-", whole)


def engine_rows():
    c, train, _ = read("medium")
    for count, engine in ((1, "one"), (8, "ddp"), (8, "fsdp"), (64, "fsdp")):
        parts, saving = memory(c, train, count, engine), memory(c, train, count, engine, True)
        yield count, engine, *(f"{part / 1e9:.2f}" for part in (*parts.values(), saving["activations"]))


def page():
    """docs/scale.md, as text."""
    c, train, _ = read("medium")
    machines = ((label, f"{gb} GB", f"{tflops} TFLOP/s", f"{rate} GB/s" if rate else "-")
                for label, (_, gb, tflops, rate) in MACHINES.items())
    return f"""# Chapter 12 on paper

Written by `python -m plumbing.reports.scale` from `configs/` and the assumptions at the end: nothing on this page is a
measurement. What can be checked without these machines is checked in `tests/test_scale.py`.

## The sizes

{table("settings | parameters | of them words and head | layers × width | window | tokens a step | steps | tokens | "
       "FLOPs a token | FLOPs in all", size_rows())}

## Which engine, and how long

The settings that compute least among those that fit, in passes of at least {ENOUGH:,} tokens where that fits: the
memory they take on each GPU, what of it does not depend on the batch, and the time of a step and of the whole run.
`sending` is the time that a step's communication takes; it runs beside the computing, so that only the longer of the
two counts. No step is counted as shorter than {SHORTEST} s. Where nothing fits, the memory is that of one window.

{table("settings | GPUs | engine | recompute | accumulate | windows a pass | memory | without activations | "
       "computing a step | sending a step | whole run", run_rows())}

## What the engines hold

GB on each GPU for medium ({parameters(c)[0] / 1e6:.0f}M), one window a pass:

{table("GPUs | engine | " + " | ".join(memory(c, train)) + " | activations, recomputed", engine_rows())}

- Logits are most of a small model's activations: V = {VOCAB:,} numbers a token, where Shakespeare's characters had
  65. Fewer windows a pass (`--accumulate`) saves more than `--recompute true` does, and costs less time.
- One copy each (`ddp`) is right as long as weights, gradients, moments and average fit beside one pass: it sends
  gradients once a step. `fsdp` divides them by the number of GPUs, and sends in every pass. All named sizes fit a
  card of 24 GB whole; `fsdp` is for what you make larger.
- Muon needs whole matrices: with `fsdp` every process gathers them in each step, which these times leave out.
  `--train.optimizer adamw --train.lr 3e-4` needs none.
- Many GPUs need large batches: where `sending` is longer than `computing`, more windows a step cost no time.

## Assumptions

{table("GPUs | memory of each | 16-bit products of each | sending, while receiving as much", machines)}

- Rates are of the order that makers state for a laptop's, a desk's and a data centre's card. A step's products reach
  {UTILISATION:.0%} of them, and {USABLE:.0%} of a card's memory can be used.
- Weights, gradients and average are 32-bit numbers, 12 bytes a parameter; moments are 4 more where Muon keeps a
  momentum, 8 where AdamW keeps two.
- `gathered`: 16-bit copies of the weights; with `fsdp`, embedding, head and two blocks at a time, with gradients.
- `activations`: what a block keeps for the backward pass, {kept_per_token(c) / c.n_layer / c.n_embd:.0f} C bytes a \
token, or 4 C and one whole block if the
  others are recomputed; {LOGITS} V bytes for the logits; or Muon's work space, if that is more.
- FLOPs: 6 a weight of a matrix and 12 C T a layer, for each token (chapter 03); a third more if blocks are recomputed.
"""


def main():
    with files.whole_file(files.ROOT / "docs" / "scale.md") as path:
        path.write_text(page(), encoding="utf-8")
    print("wrote docs/scale.md")


if __name__ == "__main__":
    cli.run(main)
