"""Checks of the exercises for chapter 01. check.py calls check_NAME with the learner's function NAME."""

import math
from collections import Counter
from importlib import import_module

import torch

tensors = import_module("01_tensors")
tools = import_module("exercises.checks.tools")


def check_predict_shapes(f):
    answer = f()
    assert isinstance(answer, (list, tuple)) and len(answer) == 6, "The function must return a list of six entries."
    expressions = ("table[tokens]", "x + torch.ones(4, 1)", "x + torch.ones(2, 4)", "x + torch.ones(5, 1, 1, 1)",
                   "x.mean(1)", "x.transpose(1, 2) @ x")
    names = {"torch": torch, "x": torch.zeros(2, 4, 3), "table": torch.zeros(7, 3)}
    names["tokens"] = torch.zeros(2, 4, dtype=torch.long)
    for expression, shape in zip(expressions, answer):
        try:
            true = tuple(eval(expression, names).shape)
        except RuntimeError:
            true = None
        assert shape is None or isinstance(shape, (list, tuple)), "Each entry must be a tuple of numbers, or None."
        given = None if shape is None else tuple(shape)
        assert given == true, f"For {expression}, PyTorch gives another result than you predict."


def check_stable_softmax(f):
    for shape in ((5,), (2, 3, 4)):
        logits = torch.randn(shape)
        before = logits.clone()
        answer = f(logits)
        assert tools.is_tensor(answer, shape), "The result must be a tensor of the logits' shape."
        sums = answer.sum(-1)
        assert torch.allclose(sums, torch.ones_like(sums)), "The probabilities of each row must sum to 1."
        assert torch.allclose(answer, before.softmax(-1)), "For ordinary logits the probabilities are not right."
        assert torch.equal(logits, before), "The given logits must stay as they are."
    large = torch.tensor([[1000.0, 999.0, 0.0], [-1000.0, -1000.0, -1000.0], [1e30, 0.0, -1e30]])
    assert f(large).isfinite().all(), "For very large or very small logits the result is not a finite number."
    assert torch.allclose(f(large), large.softmax(-1)), "For very large or very small logits the result is not right."


def check_entropy_given(f):
    assert tools.is_number(f("to be or not to be", 1)), "The function must return a finite number."
    sure = tools.close(f("abababab", 1), 0)
    assert sure, "In abababab each character decides the next one, so for n = 1 the result is 0."
    for text in ("aab", tensors.SENTENCE, "tea for two, and two for tea"):
        wanted = tensors.bigram_entropy(text)
        assert tools.close(f(text, 1), wanted), "For n = 1 the result is not that of chapter 01's bigram_entropy."
        shares = [count / len(text) for count in Counter(text).values()]
        wanted = -sum(share * math.log(share) for share in shares)
        assert tools.close(f(text, 0), wanted), "For n = 0 the result is not the entropy of the characters of the text."
    assert tools.close(f(text, 2), one_by_one(text, 2)), "For n = 2 the result is not right."


def one_by_one(text, n):
    """Compute the result of `entropy_given` from one loss for each position.

    For each position, collect all characters of the text that follow the same n characters. The loss is -ln of the
    share that the position's own character has in this collection. The result is the mean loss.
    """
    places = range(n, len(text))
    total = 0.0
    for i in places:
        after = [text[j] for j in places if text[j - n : j] == text[i - n : i]]
        total -= math.log(after.count(text[i]) / len(after))
    return total / len(places)
