"""The models that the original tiny-dllm published, and how to read them safely.

Their files have the format .pt, in which PyTorch stores a pickle. A pickle is a list of instructions that rebuild
Python objects, and one of these instructions calls any function. So a pickle can execute code while it is loaded.
`read_pt` therefore loads with weights_only=True, which reads only tensors and plain values and refuses the rest.
`convert` then turns what was read into a model of this book.
"""

import re
import sys
import zipfile
from importlib import import_module
from string import ascii_lowercase, ascii_uppercase

import torch
import torch.nn as nn

from plumbing import cli, foreign

transformer = import_module("03_transformer")

VOCABULARY = "\n !$&',-.3:;?" + ascii_uppercase + ascii_lowercase  # the characters of TinyShakespeare
LARGEST = 1 << 30  # the largest file that we accept, in bytes
SIZES = {"vocab_size": 65, "seq_len": 128, "n_layers": 6, "n_heads": 6, "hidden": 384}  # of the published models


# 1. The published architecture


class PublishedBlock(transformer.Block):
    """x + mlp(norm2(x + attn(norm1(x)))): attention reaches the output only through the MLP."""

    def forward(self, x, positions, table, buffer=None):
        """x: (B, T, C) → (B, T, C)."""
        mixed = x + self.drop(self.attn(self.norm1(x), positions, table, buffer))
        return x + self.drop(self.mlp(self.norm2(mixed)))


class PublishedTransformer(transformer.Transformer):
    """The Transformer of chapter 03 with the blocks above. Its config.json says "wiring": "published"."""

    wiring = "published"

    def __init__(self, config):
        super().__init__(config)
        self.blocks = nn.ModuleList(PublishedBlock(config) for _ in range(config.n_layer))


def architecture(wiring):
    """The class of the models whose config.json has this value of "wiring". ValueError if it is unknown."""
    if wiring != PublishedTransformer.wiring:
        raise ValueError(f"unknown wiring {wiring!r}")
    return PublishedTransformer


# 2. Reading a file that we do not trust


def check_size(name, size, limit=LARGEST):
    """UserError if the file `name` of `size` bytes is larger than `limit` bytes."""
    if size > limit:
        raise cli.UserError(f"{name} has {size:,} bytes; the limit is {limit:,}")


def read_pt(path):
    """The dictionary in the .pt file at `path`, which holds only tensors and plain values. Executes nothing in it.

    UserError if the file is too large, damaged, compressed, or holds anything else.
    """
    if torch.__version__ < (2, 10):  # in older versions, weights_only=True has known security holes
        raise cli.UserError("PyTorch before 2.10 cannot read an untrusted file safely: install a newer version")
    size = path.stat().st_size
    check_size(path.name, size)
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
        # torch.save does not compress. A compressed archive of one megabyte could expand to terabytes.
        if any(r.compress_type != zipfile.ZIP_STORED for r in records) or sum(r.file_size for r in records) > size:
            raise ValueError("it is compressed")
        with torch.sparse.check_sparse_tensor_invariants():
            saved = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(saved, dict) or not isinstance(saved.get("model"), dict):
            raise ValueError("it is not a dictionary that contains a model")
    except Exception as error:  # a parser can raise any exception on hostile bytes
        reason = foreign.reason(error)
        if "weights only" in reason.lower():  # PyTorch's own message explains how to execute the file
            reason = "it holds more than tensors and plain values, and none of that was executed"
        raise cli.UserError(f"{path.name} is not a checkpoint that we can read: {reason}") from None
    check_tensors(saved["model"], path.name, size)
    return saved


def check_tensors(weights, file, size):
    """UserError unless all `weights` are dense tensors of plausible size, for a file of `size` bytes."""
    for name, tensor in weights.items():
        dense = type(tensor) is torch.Tensor and tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not (isinstance(name, str) and dense and (tensor.is_floating_point() or tensor.dtype == torch.bool)):
            raise cli.UserError(f"{file}: '{foreign.printable(name)}' is not a dense tensor of floating-point numbers")
    # A tensor whose strides are zero is huge, but stores one number. Twice the size: tied weights are stored once.
    if sum(tensor.nbytes for tensor in weights.values()) > 2 * size:
        raise cli.UserError(f"{file} claims more numbers than it holds")


# 3. Converting it


def convert(saved, causal, file="the file"):
    """A model of this book with the published weights in `saved`, which `read_pt` returned.

    causal: whether it is the published GPT. UserError if names, shapes or values are not exactly the expected ones.
    """
    theirs = without_prefixes(saved["model"], file)
    model = empty_model(saved, causal, file)
    config = model.config
    if causal:
        remove_masks(theirs, config, file)
        embedding = theirs.get("token_emb.weight")
        if embedding is not None and embedding.shape == (config.vocab_size, config.n_embd):
            # Their GPT has no mask token. Our embedding always has a row for it.
            theirs["token_emb.weight"] = torch.cat((embedding, embedding.new_zeros(1, config.n_embd)))
    expected, weights = model.state_dict(), {}
    renamed = {name: name.replace("mlp.up", "ff.net.0").replace("mlp.down", "ff.net.2") for name in expected}
    if unknown := sorted(theirs.keys() - renamed.values()):
        name = foreign.printable(unknown[0])
        raise cli.UserError(f"{file} does not have the published architecture: weight '{name}'")
    for ours, name in renamed.items():
        tensor = theirs.get(name)
        if tensor is None or tensor.shape != expected[ours].shape or not tensor.is_floating_point():
            raise cli.UserError(f"{file} does not have the published architecture: weight {name!r}")
        weights[ours] = tensor.float().clone()  # in their file, head and embedding can share memory
        if not weights[ours].isfinite().all():
            raise cli.UserError(f"{file}: weight {name!r} is not finite")
    model.load_state_dict(weights, strict=True, assign=True)
    check_heads({name: saved[name] for name in SIZES}, file)
    return model.eval().requires_grad_(False)


def without_prefixes(weights, file):
    """A copy of the dictionary `weights` in which no name begins with module. or _orig_mod.

    PyTorch adds these prefixes when a model is saved out of DistributedDataParallel or torch.compile.
    """
    plain = {re.sub(r"^(?:module\.|_orig_mod\.)+", "", name): tensor for name, tensor in weights.items()}
    if len(plain) < len(weights):
        raise cli.UserError(f"{file} holds a weight twice, with and without the prefix module. or _orig_mod.")
    return plain


def empty_model(saved, causal, file):
    """A PublishedTransformer without memory for its weights, of the sizes in `saved`. UserError if they are wrong."""
    sizes = [saved.get(name) for name in SIZES]
    if any(type(size) is not int for size in sizes) or sizes[0] != len(VOCABULARY) or sizes[2] > len(saved["model"]):
        raise cli.UserError(f"{file}: its sizes are not those of a model of TinyShakespeare")
    try:
        config = transformer.TransformerConfig(
            *sizes, causal=causal, positions="learned", norm="layer", activation="gelu")
        with torch.device("meta"):  # a device whose tensors have a shape but no memory
            return PublishedTransformer(config)
    except Exception as error:  # impossible sizes fail in several ways
        raise cli.UserError(f"{file}: {foreign.reason(error)}") from None


def check_heads(sizes, file):
    """UserError if a model of the published `sizes` has another number of heads. A note if its sizes are others.

    No shape depends on the number of heads, so a wrong one would silently give other logits.
    """
    heads = sizes["n_heads"]
    if sizes | {"n_heads": SIZES["n_heads"]} != SIZES:
        print(f"{file} has not the sizes of the published model, so nothing confirms that it has {heads} heads",
              file=sys.stderr)
    elif heads != SIZES["n_heads"]:
        raise cli.UserError(f"{file} claims {heads} heads; the published model has {SIZES['n_heads']}")


def remove_masks(theirs, config, file):
    """Remove the attention masks of a published GPT from the dictionary `theirs`: our model needs no such table.

    UserError if one of them is not causal.
    """
    for i in range(config.n_layer):
        mask = theirs.pop(f"blocks.{i}.attn.mask", None)
        fits = mask is None or mask.shape == (config.seq_len, config.seq_len)
        if not fits or mask is not None and not torch.equal(mask, torch.ones_like(mask).tril()):
            raise cli.UserError(f"{file}: blocks.{i}.attn.mask is not causal")
