"""Functions that several checks use."""

import math
from importlib import import_module

import torch

transformer = import_module("03_transformer")


def is_number(value):
    """Return whether `value` is one finite number: an int, a float, or a tensor with one element."""
    if torch.is_tensor(value):
        return value.numel() == 1 and bool(value.isfinite().all())
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def are_numbers(answer, count):
    """Return whether `answer` is a list of `count` finite numbers."""
    return isinstance(answer, (list, tuple)) and len(answer) == count and all(map(is_number, answer))


def close(value, wanted, tolerance=1e-5):
    return abs(torch.as_tensor(value).item() - torch.as_tensor(wanted).item()) <= tolerance


def is_tensor(value, shape, dtype=None):
    return torch.is_tensor(value) and value.shape == shape and dtype in (None, value.dtype)


def small_model(vocab_size, std=0.5, **shape):
    """Return an untrained model with large random weights, so that every part of the model affects the logits."""
    torch.manual_seed(0)
    shape = dict(seq_len=16, n_layer=1, n_head=1, n_embd=8) | shape
    model = transformer.Transformer(transformer.TransformerConfig(vocab_size=vocab_size, **shape)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return model
