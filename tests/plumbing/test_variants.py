"""variants.py: what the ablation compares with the recipe is what its rows say."""

from importlib import import_module

import pytest
import torch
from helpers import make_model

from plumbing.reports import variants

transformer = import_module("03_transformer")
T, MASK = 32, 7


class Recorder(torch.nn.Module):
    """A model without knowledge, all tokens equally likely, that records its inputs."""

    def __init__(self):
        super().__init__()
        self.config, self.seen = transformer.TransformerConfig(MASK, T), []

    def forward(self, tokens, t=None):
        self.seen.append(tokens)
        assert torch.allclose((tokens == MASK).float().mean(1), t)
        return torch.zeros(*tokens.shape, MASK)


def inputs_of(loss, x0, times=1, t_max=1.0):
    """The inputs that a model sees in `times` computations of a loss."""
    model = Recorder()
    for _ in range(times):
        assert loss(model, x0, t_max, weight="equal").item() == pytest.approx(torch.tensor(MASK).log().item())
    return model.seen


@pytest.fixture
def x0():
    torch.manual_seed(0)
    return torch.randint(MASK, (8, T))


def test_complementary_masks_hide_each_token_of_half_the_texts_once(x0):
    (seen,) = inputs_of(variants.complementary, x0)
    hidden = seen == MASK
    assert torch.equal(hidden[:4], ~hidden[4:]) and torch.equal(seen[:4].minimum(seen[4:]), x0[:4])
    assert hidden.any(1).all()


def test_bell_shaped_noise_levels_are_seldom_extreme(x0):
    (seen,) = inputs_of(variants.bell, x0.repeat(500, 1))
    share = (seen == MASK).float().mean(1)
    assert share.mean().item() == pytest.approx(0.5 + 0.5 / T, abs=0.01)  # k is rounded up
    assert (share < 0.1).float().mean() < 0.07 and (share > 0.9).float().mean() < 0.07
    assert share.min() <= 0.1 and share.max() >= 0.9


def test_one_batch_in_a_hundred_is_cropped(x0):
    lengths = [len(tokens[0]) for tokens in inputs_of(variants.cropped, x0, 2000)]
    assert 5 < sum(length < T for length in lengths) < 60 and min(lengths) >= 16


def test_middle_blocks_run_twice_with_the_weights_of_a_plain_model():
    model = make_model(5, 16, std=0.3, n_layer=3, n_head=1, n_embd=8)
    twice = variants.looped(model.config)
    twice.load_state_dict(model.state_dict())
    first, middle, last = model.blocks
    tokens = torch.randint(5, (2, 16))
    plain, looped = model(tokens), twice.eval()(tokens)
    assert not torch.allclose(plain, looped)
    model.blocks = torch.nn.ModuleList((first, middle, middle, last))
    torch.testing.assert_close(model(tokens), looped)
    assert sum(p.numel() for p in twice.parameters()) == sum(p.numel() for p in model.parameters())
