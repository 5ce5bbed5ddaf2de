"""What the tests of chapter 12 share: a tiny model, its settings, and gradients without an optimizer."""

import socket
from importlib import import_module

import numpy as np
import torch

from plumbing import parallel, tokenized

transformer = import_module("03_transformer")
scale = import_module("12_scale")

ALONE = parallel.Team(0, 1, torch.device("cpu"))


def make_config(**changes):
    return scale.TrainConfig(**{"batch_size": 8, "dtype": "float32", "compile": "off", "short": 0.0} | changes)


def make_model(recompute=False, **changes):
    torch.manual_seed(0)
    shape = transformer.TransformerConfig(50, 16, **{"n_layer": 2, "n_head": 2, "n_embd": 16} | changes)
    model = scale.make_model(shape, make_config(recompute=recompute))
    torch.manual_seed(0)  # the recomputed blocks were drawn twice
    for block in model.blocks:  # as after some training: a new block is the identity
        torch.nn.init.normal_(block.attn.out.weight, std=0.1)
        torch.nn.init.normal_(block.mlp.down.weight, std=0.1)
    return model


def make_windows():
    return tokenized.Windows(np.random.default_rng(0).integers(0, 50, 4000).astype(np.uint16), 16)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def backward(network, x0, xt, masked, team, parts=1, dtype=torch.float32):
    """Add up the gradients as Trainer.update does, without a step. Returns this process's share of the loss."""
    total = 0.0
    for part in scale.parts_of(x0, xt, parts):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = scale.share_of_loss(network, part, masked, team)
        loss.backward()
        total += loss.item() / team.world
    return total


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
