"""The models that the original tiny-dllm published, and how to read their files safely."""

import io
import re
import string
from importlib import import_module

from plumbing import checkpoint, text
from plumbing.cli import UserError, reason

import torch

transformer = import_module("03_transformer")

VOCABULARY = "\n !$&',-.3:;?" + string.ascii_uppercase + string.ascii_lowercase


class PublishedBlock(transformer.Block):
    """A block that computes x + mlp(norm2(x + attn(norm1(x)))). Attention changes the result only through the MLP."""

    def forward(self, x, positions, table, buffer=None):
        mixed = x + self.drop(self.attn(self.norm1(x), positions, table, buffer))
        return x + self.drop(self.mlp(self.norm2(mixed)))


class PublishedTransformer(transformer.Transformer):
    """Chapter 03's Transformer with PublishedBlocks."""

    wiring = "published"

    def __init__(self, config):
        super().__init__(config)
        self.blocks = torch.nn.ModuleList(PublishedBlock(config) for _ in self.blocks)


def fetch(kind, download):
    """Return (model, tokenizer, info) of the published model "dllm" or "gpt". `download` is hub.download."""
    name = f"{kind}_step50000.pt"
    addresses = [(repo, file) for repo in ("sutharsan-311/tiny-dllm", "sutharsan311/tiny-dllm")
                 for file in (f"checkpoints/{name}", name)]  # the file has moved more than once
    for repo, file in addresses:
        try:
            data, commit = download(repo, file)
            break
        except UserError as error:
            failure = error
    else:
        raise UserError(f"{failure}. Train your own model with python {checkpoint.KINDS[kind].trainer}")
    info = {"kind": kind, "corpus": "shakespeare", "source": f"{repo}/{file} at commit {commit[:12]}"}
    return read_published(data, causal=kind == "gpt"), text.Characters(VOCABULARY), info


def read_published(data, causal):
    """Return the model from the bytes of a published .pt file. No code in the file is executed.

    A .pt file is a zip file with tensors and a pickle, which is a list of instructions for making Python objects. With
    weights_only=True, PyTorch accepts only tensors and plain values.
    """
    try:
        saved = dict(checkpoint.read_tensors(io.BytesIO(data)))
        if sum(tensor.nbytes for tensor in saved["model"].values()) > 2 * len(data):  # tensors can share memory
            raise ValueError("its tensors claim more numbers than it holds")
        layers = min(saved["n_layers"], len(saved["model"]))
        config = transformer.TransformerConfig(
            saved["seq_len"], layers, saved["n_heads"], saved["hidden"], positions="learned", norm="layer",
            activation="gelu", vocab_size=len(VOCABULARY), causal=causal)
        with torch.device("meta"):
            model = PublishedTransformer(config)
        weights = {}
        for name, tensor in saved["model"].items():
            name = re.sub(r"^(module\.|_orig_mod\.)+", "", name)  # PyTorch's wrappers add these prefixes
            name = name.replace("ff.net.0", "mlp.up").replace("ff.net.2", "mlp.down")
            if not (causal and name.endswith("attn.mask")):  # our causal attention needs no table
                weights[name] = torch.empty(tensor.shape).copy_(tensor.detach())
        if causal and len(weights["token_emb.weight"]) == len(VOCABULARY):  # our embedding also has a row for the mask
            weights["token_emb.weight"] = torch.nn.functional.pad(weights["token_emb.weight"], (0, 0, 0, 1))
        model.load_state_dict(weights, assign=True)
        return model
    except Exception as error:  # damaged bytes raise many kinds of errors
        why = reason(error)
        if "weights only" in why.lower():  # don't quote PyTorch's message, which explains how to execute the file
            why = "it holds more than tensors and plain values, and none of that was executed"
        raise UserError(f"the published file is not a checkpoint that we can read: {why}") from None
