"""variants.py: what the ablation compares with the recipe is what its rows say."""

from importlib import import_module

import pytest
import torch
from helpers import make_model, seeded

from plumbing import muon
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


@pytest.mark.parametrize("shape", [{}, {"conv": 3}, {"conv": 3, "conv_in": "every"}], ids=str)
def test_middle_blocks_run_twice_with_the_weights_of_a_plain_model(shape):
    model = make_model(5, 16, std=0.3, n_layer=3, n_head=1, n_embd=8, **shape)
    twice = variants.looped(model.config)
    twice.load_state_dict(model.state_dict())
    first, middle, last = model.blocks
    tokens = torch.randint(5, (2, 16))
    plain, looped = model(tokens), twice.eval()(tokens)
    assert not torch.allclose(plain, looped)
    model.blocks = torch.nn.ModuleList((first, middle, middle, last))
    if len(model.later_convs):
        model.later_convs.insert(1, model.later_convs[0])
    torch.testing.assert_close(model(tokens), looped)
    assert sum(p.numel() for p in twice.parameters()) == sum(p.numel() for p in model.parameters())


def test_five_steps_are_those_of_muons_paper():
    x = torch.randn(1, 8, 12, generator=seeded())
    x = expected = x / x.norm()
    for _ in range(5):
        gram = expected @ expected.mT
        expected = 3.4445 * expected + (-4.7750 * gram + 2.0315 * gram @ gram) @ expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(muon, "POLYNOMIALS", variants.FIVE_STEPS)
        torch.testing.assert_close(muon.orthogonalize(x, torch.float32), expected, rtol=1e-4, atol=1e-5)


def test_the_bound_with_schedules_is_the_entropy_for_the_true_probabilities():
    """Texts of one token x with probability p_x. While it is masked, it is x with a probability ~ p_x t^w_x."""
    p, w = torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.7, 1.0, 2.0])
    t = ((torch.arange(20_000) + 0.5) / 20_000)[:, None]
    logits = (p.log() + w * t.log())[:, None]  # (N, 1, 3)
    costs = [variants.bound(logits, torch.full((len(t), 1), x), torch.ones(len(t), 1, dtype=torch.bool), t, w)
             for x in range(3)]
    total = sum((p[x] * t[:, 0] ** w[x] * costs[x]).mean() for x in range(3))
    assert total.item() == pytest.approx(torch.special.entr(p).sum().item(), abs=2e-3)


class Neighbour(torch.nn.Module):
    """Texts of two equal letters: sure if the other letter is visible, and otherwise wrong about their frequencies."""

    def __init__(self, log_w):
        super().__init__()
        self.config, self.log_w = transformer.TransformerConfig(2, 2), torch.nn.Parameter(log_w)

    def forward(self, tokens, t=None):
        other = tokens.flip(1)
        guess = torch.tensor([2.0, 0.0, 0.0])[None, None].expand(*tokens.shape, 3)
        return torch.where((other == 2)[..., None], guess, 6 * torch.eye(3)[other])[..., :2]


def test_schedules_learn_by_the_gradient_of_the_bound():
    torch.manual_seed(0)
    x0 = torch.tensor([[0, 0], [0, 0], [1, 1], [0, 0]]).repeat(100_000, 1)
    model = Neighbour(torch.tensor([0.2, -0.2]))
    loss = variants.schedules(model, x0.repeat(2, 1), 1.0)
    found = 100 * torch.autograd.grad(loss, model.log_w)[0]
    step = torch.tensor([0.1, -0.1])
    models = [Neighbour(model.log_w.detach() + sign * step) for sign in (1, -1)]
    above, below = (variants.schedules_nelbo(model, x0.repeat(4, 1), 1, 10**6)[0] for model in models)
    assert (found @ step).item() == pytest.approx((above - below) / 2, rel=0.1)
    assert loss.item() > 0 and abs(above - below) > 0.01
