"""What the exercises for chapter 01 must do. check.py gives each function the learner's function of the same name."""

import math
from collections import Counter
from importlib import import_module

import torch

tensors = import_module("01_tensors")


def is_number(value):
    """Whether `value` is one finite number: an int, a float, or a tensor with one element."""
    if torch.is_tensor(value):
        return value.numel() == 1 and bool(value.isfinite().all())
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def close(value, wanted, tolerance=1e-5):
    return abs(float(value) - float(wanted)) <= tolerance


def check_predict_shapes(f):
    x, table, tokens = torch.zeros(2, 4, 3), torch.zeros(7, 3), torch.zeros(2, 4, dtype=torch.long)
    expressions = {
        "table[tokens]": lambda: table[tokens],
        "x + torch.ones(4, 1)": lambda: x + torch.ones(4, 1),
        "x + torch.ones(2, 4)": lambda: x + torch.ones(2, 4),
        "x + torch.ones(5, 1, 1, 1)": lambda: x + torch.ones(5, 1, 1, 1),
        "x.mean(1)": lambda: x.mean(1),
        "x.transpose(1, 2) @ x": lambda: x.transpose(1, 2) @ x,
    }
    answer = f()
    assert isinstance(answer, (list, tuple)) and len(answer) == 6, "The function must return a list of six entries."
    right = all(shape is None or isinstance(shape, (list, tuple)) for shape in answer)
    assert right, "Each entry must be a tuple of numbers, or None."
    for (expression, calculate), shape in zip(expressions.items(), answer):
        try:
            true = tuple(calculate().shape)
        except RuntimeError:
            true = None
        given = None if shape is None else tuple(shape)
        assert given == true, f"For {expression}, PyTorch gives another result than you predict."


def check_stable_softmax(f):
    torch.manual_seed(0)
    for shape in ((5,), (3, 4), (2, 3, 4)):
        logits = torch.randn(shape)
        before = logits.clone()
        answer = f(logits)
        assert torch.is_tensor(answer) and answer.shape == shape, "The result must be a tensor of the logits' shape."
        sums = answer.sum(-1)
        assert torch.allclose(sums, torch.ones_like(sums)), "The probabilities of each row must sum to 1."
        assert torch.allclose(answer, logits.softmax(-1)), "For ordinary logits the probabilities are not right."
        assert torch.equal(logits, before), "The given logits must stay as they are."
    large = torch.tensor([[1000.0, 999.0, 0.0], [-1000.0, -1000.0, -1000.0], [1e30, 0.0, -1e30]])
    assert f(large).isfinite().all(), "For very large or very small logits the result is not a finite number."
    assert torch.allclose(f(large), large.softmax(-1)), "For very large or very small logits the result is not right."


def check_sgd_step(f):
    torch.manual_seed(0)
    for points, lr in ((1, 0.1), (2, 0.1), (7, 0.02), (7, 0.0)):
        x, y = torch.randn(2, points)
        answer = f(1.5, -0.5, x, y, lr)
        pair = isinstance(answer, (list, tuple)) and len(answer) == 2 and all(map(is_number, answer))
        assert pair, "The function must return two finite numbers, the new w and the new b."
        if lr == 0:
            right = close(answer[0], 1.5) and close(answer[1], -0.5)
            assert right, "With a learning rate of 0 nothing may change."
            continue
        w, b = torch.tensor(1.5, requires_grad=True), torch.tensor(-0.5, requires_grad=True)
        loss = (w * x + b - y).square().mean()
        loss.backward()
        after = (float(answer[0]) * x + float(answer[1]) - y).square().mean()
        assert after < loss, "The step makes the loss larger: it must go against the gradient."
        amount = "one point" if points == 1 else f"{points} points"
        assert close(answer[0], 1.5 - lr * w.grad), f"The new w is not right for {amount}."
        assert close(answer[1], -0.5 - lr * b.grad), f"The new b is not right for {amount}."


def check_entropy_given(f):
    assert is_number(f("to be or not to be", 1)), "The function must return a finite number."
    assert close(f("abababab", 1), 0), "In abababab each character decides the next one, so for n = 1 the result is 0."
    for text in ("aab", tensors.SENTENCE, "tea for two, and two for tea"):
        wanted = tensors.bigram_entropy(text)
        assert close(f(text, 1), wanted), "For n = 1 the result is not that of chapter 01's bigram_entropy."
        shares = [count / len(text) for count in Counter(text).values()]
        wanted = -sum(share * math.log(share) for share in shares)
        assert close(f(text, 0), wanted), "For n = 0 the result is not the entropy of the characters of the text."
        for n in (2, 3):
            if n < len(text):
                assert close(f(text, n), enumerated(text, n)), f"For n = {n} the result is not right."


def enumerated(text, n):
    """The entropy from one term for each position: the mean of -ln(share of this character after its context)."""
    places = range(n, len(text))
    total = 0.0
    for i in places:
        after = [text[j] for j in places if text[j - n : j] == text[i - n : i]]
        total -= math.log(after.count(text[i]) / len(after))
    return total / len(places)
