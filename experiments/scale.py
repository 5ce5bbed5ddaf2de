"""How much memory and time does each named size of chapter 12 need?

    python -m experiments.scale        # takes a second and writes docs/scale.md

Nothing here is measured. The numbers are computed from the settings in configs/scale/ and the assumptions below. What
can be checked without these machines is checked in tests/test_scale.py: parameters, FLOPs (floating-point operations)
and the activations that a step keeps.
"""

import functools
from dataclasses import asdict, dataclass
from importlib import import_module

from experiments import pages
from plumbing import cli

transformer = import_module("03_transformer")
scale = import_module("12_scale")

VOCAB = 50_257
SIZES = ("tiny", "tinystories", "small", "medium")
MACHINES = {  # number of GPUs; of each: memory in GB, 16-bit TFLOP/s, GB/s that it can send while it receives as much
    "4 GB": (1, 4, 20, 0),
    "24 GB": (1, 24, 165, 0),
    "80 GB": (1, 80, 990, 0),
    "8 × 80 GB": (8, 80, 990, 300),
}
RUNS = (("tiny", "4 GB"), ("tiny", "24 GB"), ("tinystories", "4 GB"), ("tinystories", "24 GB"), ("small", "4 GB"),
        ("small", "24 GB"), ("small", "80 GB"), ("medium", "24 GB"), ("medium", "80 GB"), ("medium", "8 × 80 GB"))
USABLE = 0.85  # share of a GPU's memory; the driver and gaps between tensors take the rest
UTILISATION = 0.35  # share of the peak rate that the matrix products of a step reach
SHORTEST = 0.02  # seconds that it takes to start the kernels of a step, even on the fastest GPU
LOGITS = 10  # bytes per logit: the 16-bit number, the same in 32 bits, and its log-softmax


@functools.cache
def read(name):
    """Return the settings in configs/scale/NAME.yaml: (TransformerConfig, TrainConfig)."""
    settings = cli.parse(scale.Command, ["--config", name], configs="scale")
    return transformer.TransformerConfig(**asdict(settings.model), vocab_size=VOCAB), settings.train


def parameters(config):
    """Return the number of all parameters, and of those in the matrices inside the blocks: (all, matrices)."""
    parts = {name: number for name, (_, number) in transformer.parameters_by_part(config).items()}
    return sum(parts.values()), parts["attn"] + parts["mlp"]


def kept_per_token(config, recompute=False):
    """Return the bytes per token that the forward pass keeps for the backward pass, without the logits.

    A block keeps 17 C 16-bit numbers: the inputs of its four matrices (C, C, C, 4 C), the result of attention (C),
    queries, keys and values (3 C), rotated queries and keys (2 C), and the result of ReLU (4 C). It also keeps 4 C
    32-bit numbers: the inputs of its two norms (2 C), and those of the norms of queries and keys (2 C). recompute: each
    block keeps only its input, and one block at a time keeps all of this.
    """
    L, C = config.n_layer, config.n_embd
    block = 17 * 2 * C + 4 * 4 * C + 12 * config.n_head + 8  # the last two: the divisors of norms and softmax
    embedded = (4 + 2) * C
    return (4 * L * C + block if recompute else L * block) + embedded


def memory(config, train, windows=1, recompute=False):
    """Return the memory that a step needs on each GPU: {purpose: bytes}. windows: number of windows per pass."""
    P, matrices = parameters(config)
    moments = 8 * (P - matrices)  # AdamW keeps two averages
    moments += 4 * matrices if train.optimizer == "muon" else 8 * matrices
    tokens = windows * config.seq_len
    return {"weights, gradients, average": 12 * P, "moments": moments, "16-bit copies": 2 * P,
            "activations": tokens * (kept_per_token(config, recompute) + LOGITS * config.vocab_size)}


def choose(config, train, machine):
    """Return (accumulate, windows per pass, bytes) of the fewest passes per step that fit into memory.

    Returns None if not even a single window fits.
    """
    count, gigabytes, *_ = machine
    windows = train.batch_size // count
    while windows >= 1:
        needed = sum(memory(config, train, windows).values())
        if needed <= USABLE * gigabytes * 1e9:
            return train.batch_size // count // windows, windows, needed
        windows //= 2
    return None


def step_seconds(config, train, machine):
    """Return the seconds of one step: (computing, sending). Both happen at the same time."""
    count, _, tflops, rate = machine
    computing = train.batch_size * config.seq_len * transformer.flops_per_token(config)
    computing /= count * tflops * 1e12 * UTILISATION
    # Each GPU sends its sums of 32-bit gradients around a ring of all GPUs, and then the results.
    sent = 2 * (count - 1) / count * 4 * parameters(config)[0]
    return computing, sent / (rate * 1e9) if rate else 0.0


def duration(seconds):
    """Return a time as text, in the largest unit of which it has at least two."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def size_rows():
    for name in SIZES:
        config, train = read(name)
        P, matrices = parameters(config)
        batch = train.batch_size * config.seq_len
        flops = transformer.flops_per_token(config)
        yield [name, f"{P / 1e6:.1f}M", f"{1 - matrices / P:.0%}", f"{config.n_layer} × {config.n_embd}",
               config.seq_len, f"{batch:,}", f"{train.steps:,}", f"{flops / 1e6:,.0f}M",
               f"{flops * batch * train.steps:.1e}"]


def memory_rows():
    for name in SIZES:
        config, train = read(name)
        needs = memory(config, train)
        needs["activations, recomputed"] = memory(config, train, recompute=True)["activations"]
        yield [name, *(f"{need / 1e9:.2f} GB" for need in needs.values())]


def run_rows():
    for name, machine in RUNS:
        config, train = read(name)
        accumulate, windows, needed = choose(config, train, MACHINES[machine])
        computing, sending = step_seconds(config, train, MACHINES[machine])
        whole = max(computing, sending, SHORTEST) * train.steps
        yield [name, machine, accumulate, windows, f"{needed / 1e9:.1f} GB", f"{computing:.3f} s",
               f"{sending:.3f} s" if sending else "-", duration(whole)]


def machine_rows():
    for name, (_, gigabytes, tflops, rate) in MACHINES.items():
        yield [name, f"{gigabytes} GB", f"{tflops} TFLOP/s", f"{rate} GB/s" if rate else "-"]


def compute(settings=None):
    """Return the numbers of the page."""
    config, _ = read("medium")
    tables = {
        "sizes": pages.table(size_rows(), ["settings", "parameters", "share of embedding and head", "layers × width",
                                           "window", "tokens per step", "steps", "FLOPs per token", "FLOPs in total"]),
        "memory": pages.table(memory_rows(), ["settings", "weights, gradients, average", "moments", "16-bit copies",
                                              "activations of a window", "the same, recomputed"]),
        "runs": pages.table(run_rows(), ["settings", "GPUs", "accumulate", "windows per pass", "memory of each",
                                         "computing per step", "sending per step", "whole run"]),
        "machines": pages.table(machine_rows(), ["GPUs", "memory of each", "16-bit matrix products of each",
                                                 "sending while receiving as much"]),
    }
    return {"vocabulary": VOCAB, "usable": USABLE, "utilisation": UTILISATION, "shortest": SHORTEST, "logits": LOGITS,
            "block": kept_per_token(config) // config.n_layer // config.n_embd, "tables": tables}


@dataclass(frozen=True)
class Command(pages.Settings):
    """The flags of this program."""


if __name__ == "__main__":
    cli.run(lambda: pages.run("scale", Command, compute))
