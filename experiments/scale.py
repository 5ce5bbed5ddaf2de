"""How much memory and computation does each model size in configs/scale/ need?

    python -m experiments.scale        # takes a second and writes docs/scale.md

Nothing here is measured: the program computes all numbers from the settings in configs/scale/ and from the assumptions
below. tests/test_scale.py checks the numbers that need no GPU: the parameters, the FLOPs (floating-point operations),
and the activations that a step keeps.
"""

import functools
from dataclasses import asdict, dataclass
from importlib import import_module

from experiments import pages
from plumbing import cli

transformer = import_module("03_transformer")
training = import_module("05_train")
scale = import_module("12_scale")

VOCAB = 50_257
SIZES = ("tiny", "tinystories", "small", "medium")
GPUS = (4, 24, 80)  # GPUs, by the size of their memory in GB
USABLE = 0.85  # share of a GPU's memory; the driver and gaps between tensors take the rest
LOGITS = 10  # bytes per logit: the logit in 16 bits, again in 32 bits, and its log-softmax in 32 bits


@functools.cache
def read(name):
    """Return the settings in configs/scale/NAME.yaml: (TransformerConfig, TrainConfig)."""
    settings = cli.parse(scale.Command, ["--config", name], configs="scale")
    return transformer.TransformerConfig(**asdict(settings.model), vocab_size=VOCAB), settings.train


def parameters(config):
    """Return (number of all parameters, number of parameters in the matrices inside the blocks)."""
    parts = {name: number for name, (_, number) in transformer.parameters_by_part(config).items()}
    return sum(parts.values()), parts["attn"] + parts["mlp"]


def kept_per_token(config, recompute=False):
    """Return the bytes per token that the forward pass keeps for the backward pass, without the logits.

    Each block keeps 17 × C numbers of 16 bits: the inputs of its four matrices (C, C, C, 4 C), the result of attention
    (C), queries, keys and values (3 C), rotated queries and keys (2 C), and the result of ReLU (4 C). It also keeps 4 C
    numbers of 32 bits: the inputs of its two norms (2 C), and the inputs of the norms of queries and keys (2 C).

    With `recompute`, each block keeps only its input. The backward pass computes the other numbers again, for one block
    at a time.
    """
    L, C = config.n_layer, config.n_embd
    block = 17 * 2 * C + 4 * 4 * C + 12 * config.n_head + 8  # last: divisors of norms and softmax
    embedded = (4 + 2) * C
    return (4 * L * C + block if recompute else L * block) + embedded


def memory(config, train, windows=1, recompute=False):
    """Return the memory that a step needs on each GPU: {purpose: bytes}.

    `windows` is the number of windows per pass.
    """
    P, matrices = parameters(config)
    moments = 8 * (P - matrices)  # AdamW keeps two averages
    moments += 4 * matrices if train.optimizer == "muon" else 8 * matrices
    tokens = windows * config.seq_len
    return {"weights, gradients, average": 12 * P, "moments": moments, "16-bit copies": 2 * P,
            "activations": tokens * (kept_per_token(config, recompute) + LOGITS * config.vocab_size)}


def accumulate(config, train, gigabytes):
    """Return the smallest value of --accumulate with which a step fits into `gigabytes` GB of GPU memory.

    If a step does not fit with any value, return None.
    """
    windows = train.batch_size
    while windows >= 1:
        if sum(memory(config, train, windows).values()) <= USABLE * gigabytes * 1e9:
            return train.batch_size // windows
        windows //= 2
    return None


def row(name):
    """Return the table's line for a named size."""
    config, train = read(name)
    P, matrices = parameters(config)
    tokens = train.batch_size * config.seq_len * train.steps
    needs = memory(config, train)
    activations = needs.pop("activations")
    smaller = memory(config, train, recompute=True)["activations"]
    parts = [accumulate(config, train, gigabytes) or "-" for gigabytes in GPUS]
    return [name, f"{P / 1e6:.1f}M", f"{1 - matrices / P:.0%}", f"{tokens / 1e6:,.0f}M",
            f"{transformer.flops_per_token(config) * tokens:.1e}", f"{sum(needs.values()) / 1e9:.1f} GB",
            f"{activations / 1e9:.2f} GB", f"{smaller / 1e9:.2f} GB", *parts]


def compute(settings=None):
    """Return the numbers of the page."""
    config, _ = read("medium")
    gpu = cli.parse(training.Command, ["--config", "gpu"], section="dllm")
    shape = transformer.TransformerConfig(**asdict(gpu.model), vocab_size=65)
    names = ["settings", "parameters", "share of embedding and head", "tokens of a run", "FLOPs of a run",
             "fixed memory", "memory per window", "with `--recompute`",
             *(f"`--accumulate` on {gigabytes} GB" for gigabytes in GPUS)]  # fmt: skip
    return {"vocabulary": VOCAB, "usable": USABLE, "logits": LOGITS,
            "block": kept_per_token(config) // config.n_layer // config.n_embd,
            "chapter_05": sum(memory(shape, gpu.train, gpu.train.batch_size).values()) / 1e9,
            "tables": {"sizes": pages.table([row(name) for name in SIZES], names)}}


@dataclass(frozen=True)
class Command(pages.Settings):
    """The flags of this program."""


if __name__ == "__main__":
    cli.run(lambda: pages.run("scale", Command, compute))
