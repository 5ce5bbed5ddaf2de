"""The promise that the 10.7M default trains in under 3 GB: counted tensor by tensor, and measured on CUDA."""

import dataclasses
from importlib import import_module

import pytest
import torch

from plumbing import settings

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")

COMMAND = settings.parse(training.Command, ["--config", "gpu"])
BATCH, LIMIT = COMMAND.train.batch_size, 3e9


def saved_for_backward(model, x0):
    """Bytes that the graph of one loss keeps, each storage once, without the weights."""
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16):
            diffusion.diffusion_loss(model, x0)
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        return sum(storage.nbytes() for pointer, storage in storages.items() if pointer not in weights)


def test_default_model_fits_a_small_card_on_paper():
    config = dataclasses.replace(COMMAND.model, vocab_size=65)
    model = transformer.Transformer(config)
    two, four = (saved_for_backward(model, torch.zeros(n, config.seq_len, dtype=torch.long)) for n in (2, 4))
    activations = two + (BATCH - 2) * (four - two) / 2  # linear in the batch; the constant part is the 16-bit weights
    weights = 4 * transformer.count_parameters(model)
    states = 6 * weights  # weights, gradients, momentum (AdamW's second moments are few), average, best, update
    assert 1e9 < activations + states < LIMIT, (activations, states)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA; the count above holds everywhere")
def test_default_model_fits_a_small_card_measured():
    config = dataclasses.replace(COMMAND.model, vocab_size=65)
    model = transformer.Transformer(config).cuda()
    optimizers = training.make_optimizers(model, COMMAND.train, torch.bfloat16)
    torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        x0 = torch.randint(65, (BATCH, config.seq_len), device="cuda")
        with torch.autocast("cuda", torch.bfloat16):
            loss = diffusion.diffusion_loss(model, x0)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert torch.cuda.max_memory_allocated() < LIMIT
