"""How much memory and time does each named size of chapter 12 need, and which engine suits it?

    python -m plumbing.reports.scale        # takes a second and writes docs/scale.md

Nothing here is measured. The numbers are computed from the settings in configs/ and the assumptions below. What can be
checked without these machines is checked in tests/chapters/test_scale.py: parameters, FLOPs (floating-point operations)
and the activations that a step keeps.
"""

import dataclasses
import itertools
from dataclasses import dataclass
from importlib import import_module

from plumbing import cli, files, settings

transformer, scale = import_module("03_transformer"), import_module("12_scale")

VOCAB = 50257
SIZES = ("tiny", "tinystories", "small", "medium")
MACHINES = {  # number of GPUs; of each: memory in GB, 16-bit TFLOP/s, GB/s that it can send while it receives as much
    "4 GB": (1, 4, 20, 0),
    "24 GB": (1, 24, 165, 0),
    "80 GB": (1, 80, 990, 0),
    "8 × 80 GB": (8, 80, 990, 300),
    "64 × 80 GB": (64, 80, 990, 25),
}
USABLE = 0.85  # share of a GPU's memory; the driver and gaps between tensors take the rest
UTILISATION = 0.35  # share of the peak rate that the matrix products of a step reach
ENOUGH = 4096  # tokens per pass that keep a GPU busy
SHORTEST = 0.02  # seconds that it takes to start the kernels of a step, even on the fastest GPU


def read(name):
    """Return the settings in configs/NAME.yaml: (TransformerConfig, TrainConfig)."""
    command = settings.parse(scale.Command, ["--config", name])
    return dataclasses.replace(command.model, vocab_size=VOCAB), command.train


def parameters(config):
    """Return the number of all parameters, and of those in the matrices inside the blocks: (all, matrices)."""
    parts = {name: number for name, (_, number) in transformer.parameters_by_part(config).items()}
    return sum(parts.values()), parts["attn"] + parts["mlp"]


def kept_per_token(config, recompute=False, width=2):
    """Return the bytes per token that the forward pass keeps for the backward pass, without the logits.

    width: bytes per number at the input of a matrix product, 2 in bfloat16. A block keeps 17 C such numbers: the inputs
    of its four matrices (C, C, C, 4 C), the result of attention (C), queries, keys and values (3 C), rotated queries
    and keys (2 C), and the result of ReLU (4 C). It also keeps 32-bit numbers: the inputs of its two norms (2 C) and,
    unless these are 32-bit numbers already, those of the norms of queries and keys (2 C). recompute: each block keeps
    only its input, and one block at a time keeps all of this.
    """
    L, C = config.n_layer, config.n_embd
    block = (17 * width + 4 * 2 + 4 * 2 * (width < 4)) * C + 12 * config.n_head + 8  # the divisors of norms and softmax
    return (4 * L * C + block if recompute else L * block) + (4 + width) * C


LOGITS = 10  # bytes per logit: the 16-bit number, the same in 32 bits, and its log-softmax


def memory(config, train, processes=1, engine="ddp", recompute=False, windows=1):
    """Return the memory that a step needs on each GPU: {purpose: bytes}. windows: number of windows per pass."""
    P, matrices = parameters(config)
    shards = processes if engine == "fsdp" else 1
    moments = 4 * matrices + 8 * (P - matrices) if train.optimizer == "muon" else 8 * P
    if engine == "fsdp":  # embedding, head and two blocks: gathered weights in 16 bits, gradients in 32 bits
        gathered = (2 + 4) * (2 * VOCAB * config.n_embd + 2 * 12 * config.n_embd**2)
    else:
        gathered = 2 * P  # the 16-bit copies that autocast makes
    tokens = windows * config.seq_len
    activations = tokens * (kept_per_token(config, recompute) + LOGITS * VOCAB)
    # Muon processes all matrices of one shape together, after the activations were freed.
    update = 14 * 4 * config.n_layer * config.n_embd**2 if train.optimizer == "muon" else 0
    return {"weights, gradients, average": 12 * P / shards, "moments": moments / shards, "gathered": gathered,
            "activations": max(activations, update)}


def choose(config, train, machine):
    """Return the settings of least computing that fit into memory: (engine, recompute, accumulate, windows, bytes).

    Passes have at least ENOUGH tokens if that fits. None if nothing fits.
    """
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
    """Return the seconds of one step: (computing, sending). Both happen at the same time."""
    count, _, tflops, rate = machine
    flops = transformer.flops_per_token(config) * (4 / 3 if recompute else 1)
    computing = train.batch_size * config.seq_len * flops / (count * tflops * 1e12 * UTILISATION)
    P, ring = parameters(config)[0], (count - 1) / count
    # DDP sends and receives 32-bit gradients. FSDP gathers 16-bit weights twice per pass, and sends gradients once.
    sent = accumulate * ring * (2 * 2 + 4) * P if engine == "fsdp" else 2 * ring * 4 * P
    return computing, sent / (rate * 1e9) if rate else 0.0


def duration(seconds):
    """Return a time as text, in the largest unit of which it has at least two."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def table(heading, rows):
    """Return a Markdown table. heading: the names of the columns, separated by |."""
    names = [name.strip() for name in heading.split("|")]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (names, ["---"] * len(names), *rows))


def size_rows():
    for name in SIZES:
        c, train = read(name)
        (P, matrices), batch = parameters(c), train.batch_size * c.seq_len
        flops = transformer.flops_per_token(c)
        yield (name, f"{P / 1e6:.1f}M", f"{1 - matrices / P:.0%}", f"{c.n_layer} × {c.n_embd}", c.seq_len, f"{batch:,}",
               f"{train.steps:,}", f"{batch * train.steps / 1e9:.2f}G", f"{flops / 1e6:,.0f}M",
               f"{flops * batch * train.steps:.1e}")


def run_rows():
    for name in SIZES:
        c, train = read(name)
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
    c, train = read("medium")
    for count, engine in ((1, "one"), (8, "ddp"), (8, "fsdp"), (64, "fsdp")):
        parts, saving = memory(c, train, count, engine), memory(c, train, count, engine, True)
        yield count, engine, *(f"{part / 1e9:.2f}" for part in (*parts.values(), saving["activations"]))


def assumptions(config):
    """Return the last part of the page, a text. config: the TransformerConfig that gives the size of a block."""
    machines = ((label, f"{gb} GB", f"{tflops} TFLOP/s", f"{rate} GB/s" if rate else "-")
                for label, (_, gb, tflops, rate) in MACHINES.items())
    return f"""## Assumptions

{table("GPUs | memory of each | 16-bit matrix products of each | sending while receiving as much", machines)}

- The rates are typical of what manufacturers state for the GPU of a laptop, of a desktop and of a data centre. We
  assume that the products of a step reach {UTILISATION:.0%} of them, and that {USABLE:.0%} of the memory is usable.
- Weights, gradients and average are 32-bit numbers, together 12 bytes per parameter. The moments are 4 more where Muon
  keeps one average of gradients, and 8 more where AdamW keeps two averages.
- `gathered` are 16-bit copies of the weights. With `fsdp` they are those of embedding, head and two blocks, with their
  gradients.
- `activations` are the numbers that the forward pass keeps for the backward pass: \
{kept_per_token(config) / config.n_layer / config.n_embd:.0f} C bytes per token and block, and
  {LOGITS} V bytes for the logits. With `recompute` they are 4 C bytes per block, and those of one whole block. If
  Muon's temporary matrices need more memory than the activations, they count instead.
- FLOPs per token: 6 per weight of a matrix and 12 C T per layer (chapter 03). Recomputing blocks adds a third.
"""


def page():
    """Return docs/scale.md, as text."""
    c, train = read("medium")
    return f"""# Chapter 12: memory and time of the named sizes

`python -m plumbing.reports.scale` writes this page from `configs/` and from the assumptions at the end. Nothing on
this page is measured. What can be checked without these machines is checked in `tests/chapters/test_scale.py`.

FLOPs are floating-point operations, and TFLOP/s are 10¹² of them per second. C is the width of the model, T the length
of the window, and V the number of tokens in the vocabulary. M means million and G billion.

## The sizes

{table("settings | parameters | share of embedding and head | layers × width | window | tokens per step | steps | "
       "tokens | FLOPs per token | FLOPs in total", size_rows())}

## Which engine, and how long

The engine `one` is a single process. `ddp` (DistributedDataParallel) keeps a copy of the model on every GPU. `fsdp`
(FullyShardedDataParallel) divides one model among all GPUs.

Each row shows the settings with the least computing among those that fit into memory, in passes of at least
{ENOUGH:,} tokens if that fits. With `recompute`, a block keeps only its input for the backward pass and computes the
rest again. `accumulate` is the number of passes per step. `memory` is what one GPU needs, and `without activations` is
the part that does not depend on the batch. `sending` is the time of the communication. It happens during the computing,
so only the longer of the two times counts. A step counts at least {SHORTEST} s. If nothing fits, `memory` is what one
window per pass would need.

{table("settings | GPUs | engine | recompute | accumulate | windows per pass | memory | without activations | "
       "computing per step | sending per step | whole run", run_rows())}

## What each engine keeps in memory

The table shows the GB on each GPU for medium ({parameters(c)[0] / 1e6:.0f}M parameters), with one window per pass.
`average` is the averaged copy of the weights, and `moments` are the running averages that the optimizers keep.

{table("GPUs | engine | " + " | ".join(memory(c, train)) + " | activations, recomputed", engine_rows())}

- Most activations of a small model are logits: V = {VOCAB:,} numbers per token, where the characters of Shakespeare
  need 65. Fewer windows per pass (`--accumulate`) save more memory than `--recompute`, and cost less time.
- `ddp` is the right choice if weights, gradients, moments and average fit into memory together with the activations of
  one pass. It sends the gradients once per step. `fsdp` divides all four by the number of GPUs, and sends in every
  pass. All named sizes fit a GPU of 24 GB without it, so `fsdp` is for larger models of your own.
- Muon needs whole matrices. With `fsdp`, every process gathers them in each step; the times above leave this out.
  `--optimizer adamw --lr 3e-4` does not need it.
- Many GPUs need large batches. If `sending` takes longer than `computing`, more windows per step cost no time.

{assumptions(c)}"""


@dataclass(frozen=True)
class Command:
    """This program has no flags."""


def main(argv=None):
    settings.parse(Command, argv)
    with files.whole_file(files.ROOT / "docs" / "scale.md") as path:
        path.write_text(page(), encoding="utf-8")
    print("wrote docs/scale.md")


if __name__ == "__main__":
    cli.run(main)
