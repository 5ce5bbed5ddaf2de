"""Chapter 01: derivatives, a linear layer written by hand, and a bigram whose loss reaches the entropy."""

import math
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from helpers import ROOT, python, seeded

tensors = import_module("01_tensors")


def encode(text):
    characters = sorted(set(text))
    return torch.tensor([characters.index(c) for c in text]), len(characters)


@pytest.mark.parametrize("w, b, x, y", [(1.5, -0.5, 2.0, 4.0), (0.0, 0.0, 1.0, 0.0), (-2.0, 3.0, 0.5, -1.0)])
def test_squared_error_gradient_equals_the_slope(w, b, x, y):
    def loss(w, b):
        return (w * x + b - y) ** 2

    h = 1e-6
    slopes = (loss(w + h, b) - loss(w - h, b)) / (2 * h), (loss(w, b + h) - loss(w, b - h)) / (2 * h)
    assert tensors.squared_error_gradient(w, b, x, y) == pytest.approx(slopes, abs=1e-6)


def test_cross_entropy_gradient_equals_autograd():
    logits = torch.randn(6, 9, dtype=torch.float64, requires_grad=True)
    target = torch.randint(9, (6,))
    F.cross_entropy(logits, target).backward()
    by_hand = tensors.cross_entropy_gradient(logits.detach(), target)
    assert torch.allclose(by_hand, logits.grad)
    assert torch.allclose(by_hand.sum(-1), torch.zeros(6, dtype=torch.float64))  # the probabilities sum to 1


def test_linear_is_linear_and_registers_only_its_parameters():
    layer = tensors.Linear(5, 3)
    x = torch.randn(2, 4, 5)
    assert torch.allclose(layer(x), F.linear(x, layer.weight, layer.bias), atol=1e-6)
    assert {name for name, _ in layer.named_parameters()} == {"weight", "bias"}
    assert set(layer.state_dict()) == {"weight", "bias", "calls"}
    assert layer.calls == 1


@pytest.mark.parametrize(
    "text, entropy",
    [
        ("abababab", 0.0),  # each character determines the next
        ("aabba", math.log(2)),  # a is followed by a or b, and b by b or a, equally often
        ("aaab", 3 * (math.log(3) - 2 / 3 * math.log(2)) / 3),  # a: two thirds a, one third b
    ],
)
def test_bigram_entropy_of_texts_known_by_hand(text, entropy):
    assert tensors.bigram_entropy(text) == pytest.approx(entropy)


def test_bigram_loss_falls_to_the_entropy_and_not_below():
    tokens, V = encode(tensors.SENTENCE)
    assert V == 15  # the chapter's docstring says ln(15)
    model, losses = tensors.train_bigram(tokens, V)
    entropy = tensors.bigram_entropy(tensors.SENTENCE)
    assert losses[0] == pytest.approx(math.log(V))
    assert all(later <= earlier + 1e-6 for earlier, later in zip(losses, losses[1:], strict=False))
    assert entropy < losses[-1] < entropy + 0.01
    counts = torch.zeros(V, V).index_put_((tokens[:-1], tokens[1:]), torch.tensor(1.0), accumulate=True)
    assert torch.allclose(model.table.softmax(-1), counts / counts.sum(-1, keepdim=True), atol=0.02)


def test_no_bigram_has_a_lower_loss_than_the_entropy():
    """Gibbs' inequality: the counted frequencies have the entropy as their loss; any other table has a larger loss."""
    tokens, V = encode(tensors.SENTENCE)
    counts = torch.zeros(V, V).index_put_((tokens[:-1], tokens[1:]), torch.tensor(1.0), accumulate=True)
    best, entropy = (counts / counts.sum(-1, keepdim=True)).log(), tensors.bigram_entropy(tensors.SENTENCE)
    assert F.cross_entropy(best[tokens[:-1]], tokens[1:]).item() == pytest.approx(entropy, abs=1e-6)
    generator = seeded(0)
    for scale in (0.01, 0.1, 1.0):
        other = best.clamp(min=-30) + scale * torch.randn(V, V, generator=generator)
        assert F.cross_entropy(other[tokens[:-1]], tokens[1:]).item() > entropy


def test_a_seed_reproduces_a_sample():
    tokens, V = encode(tensors.SENTENCE)
    model, _ = tensors.train_bigram(tokens, V, steps=20)
    one, two = (tensors.sample(model, 3, 40, seeded(7)) for _ in range(2))
    assert one == two and one[0] == 3 and len(one) == 41
    assert one != tensors.sample(model, 3, 40, seeded(8))


def test_chapter_runs_from_anywhere_and_names_the_next(tmp_path):
    done = python(ROOT / "01_tensors.py", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "02_attention.py" in done.out.splitlines()[-1]
    assert (ROOT / "figures" / "01_tensors.png").stat().st_size > 1000
    assert not list(tmp_path.iterdir())


def test_a_wrong_flag_is_refused(tmp_path):
    done = python(ROOT / "01_tensors.py", "--sho-w", cwd=tmp_path)
    assert done.code == 2 and done.out == "" and "Traceback" not in done.err
    assert "--show" in done.err  # the message names the flag that was perhaps meant
