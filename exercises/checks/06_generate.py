"""Checks of the exercises for chapter 06. check.py calls check_NAME with the learner's function NAME."""

from importlib import import_module

import torch

transformer = import_module("03_transformer")
generation = import_module("06_generate")
tools = import_module("exercises.checks.tools")


def check_predict_windows(f):
    answer = f()
    true = generation.plan_windows(torch.ones(1, 230, dtype=torch.bool), 128, 64)
    assert isinstance(answer, (list, tuple)), "The function must return a list."
    assert len(answer) == len(true), "Chapter 06 plans another number of windows than your list contains."
    triples = all(isinstance(window, (list, tuple)) and len(window) == 3 for window in answer)
    assert triples, "Each window must be a tuple of three numbers: left, right and passes."
    for number, (window, wanted) in enumerate(zip(answer, true), 1):
        for name, mine, yours in zip(("left", "right", "passes"), wanted, window):
            assert mine == yours, f"In window {number}, chapter 06 has another number for `{name}` than your list."


class Stored:
    """A model that returns the same tensor at every call, so that a check can see whether the tensor was changed."""

    def __init__(self, logits):
        self.logits = logits
        self.config = transformer.TransformerConfig(16, vocab_size=logits.shape[-1])

    def __call__(self, tokens, t=None):
        return self.logits[: len(tokens)]


def check_without(f):
    stored = Stored(torch.randn(3, 5, 6))
    tokens = torch.full((3, 5), 6)
    before = stored.logits.clone()
    for banned in ([2], [0, 4, 5], []):
        model = f(stored, banned)
        assert callable(model), "The function must return something that can be called like a model."
        assert getattr(model, "config", None) is stored.config, "The result needs the attribute `config` of the model."
        model(tokens)  # without t, too
        logits = model(tokens, torch.ones(3))
        assert tools.is_tensor(logits, (3, 5, 6)), "A call must return logits of the same shape as those of the model."
        p = logits.softmax(-1)
        kept = [i for i in range(6) if i not in banned]
        assert p.isfinite().all(), "The softmax of the new logits must be probabilities, but it is not finite."
        assert (p[..., banned] == 0).all(), "A banned token still has a probability above 0 at some position."
        wanted = before.softmax(-1)[..., kept]
        same = torch.allclose(p[..., kept], wanted / wanted.sum(-1, keepdim=True), atol=1e-5)
        assert same, "The tokens that are not banned must keep the proportions of their probabilities."
        assert torch.equal(stored.logits, before), "The logits that the given model returns must stay as they are."
    inner = tools.small_model(6)
    canvas = torch.full((4, 24), inner.config.mask_id)  # longer than the window of the model
    canvas[:, :2] = torch.tensor([1, 5])  # token 1 is banned, but given
    *_, last = generation.generate(f(inner, [1, 3]), canvas, 8)
    assert (last.canvas[:, 0] == 1).all(), "A banned token that is given in the prompt must stay."
    assert not torch.isin(last.canvas[:, 2:], torch.tensor([1, 3])).any(), "The sampler has written a banned token."


def check_template_perplexity(f):
    canvas, filling = torch.tensor([0, 4, 4, 3, 4]), torch.tensor([2, 0, 1])
    value = f(tools.small_model(4, std=0.0), canvas.clone(), filling)
    assert isinstance(value, float), "The function must return a float."
    assert tools.close(value, 4, 1e-3), "If all V tokens are always equally likely, then the perplexity is V."
    model = tools.small_model(4, std=0.8)
    for template, fill in (([4, 1, 4, 4, 2], [0, 3, 1]), ([3, 4, 0, 4], [2, 2])):
        canvas, filling = torch.tensor(template), torch.tensor(fill)
        given = canvas.clone()
        value = f(model, given, filling)
        assert torch.equal(given, canvas), "The canvas that the function is given must stay as it is."
        masks = (canvas == 4).nonzero()[:, 0]
        right = tools.close(value, from_left_to_right(model, canvas, masks, filling), 1e-2)
        assert right, "In each pass the model must see the tokens filled before, and masks where others follow."


@torch.no_grad()
def from_left_to_right(model, canvas, masks, fill):
    surprises = []
    for number, place in enumerate(masks):
        seen = canvas.clone()
        seen[masks[:number]] = fill[:number]
        surprises.append(-model(seen[None])[0, place].log_softmax(-1)[fill[number]])
    return torch.stack(surprises).mean().exp()
