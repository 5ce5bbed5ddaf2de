"""What the exercises for chapter 06 must do. check.py gives each function the learner's function of the same name."""

import math
from importlib import import_module
from itertools import product

import torch

from plumbing import tokenizers

transformer = import_module("03_transformer")
generation = import_module("06_generate")


def small_model(vocab_size, std):
    torch.manual_seed(0)
    config = transformer.TransformerConfig(vocab_size, 16, n_layer=1, n_head=1, n_embd=8)
    model = transformer.Transformer(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return model


def check_predict_windows(f):
    answer, true = f(), generation.plan_windows(torch.full((1, 230), 65), 65, 128, 64)
    assert isinstance(answer, (list, tuple)), "The function must return a list."
    assert len(answer) == len(true), "Chapter 06 plans another number of windows than your list contains."
    triples = all(isinstance(window, (list, tuple)) and len(window) == 3 for window in answer)
    assert triples, "Each window must be a tuple of three numbers: left, right and steps."
    for i, name in enumerate(("left", "right", "steps")):
        for number, (window, wanted) in enumerate(zip(answer, true), 1):
            right = window[i] == wanted[i]
            assert right, f"In window {number}, chapter 06 has another number for `{name}` than your list."


def check_canvas_with_ends(f):
    tokenizer = tokenizers.CharTokenizer(" abcdeno")
    for start, end, length in (("once ", " end", 20), ("", "bad", 8), ("bed", "", 8), ("a", "b", 3), ("", "", 4)):
        case = f"With the ends {start!r} and {end!r} and the length {length},"
        ids = f(start, end, length, tokenizer)
        assert isinstance(ids, list) and all(type(i) is int for i in ids), "The function must return a list of ints."
        known = all(0 <= i <= tokenizer.mask_id for i in ids)
        assert known, "Each number must be the id of a character of the tokenizer, or its mask_id."
        assert len(ids) == length, f"{case} the canvas must have {length} positions."
        masked = [i == tokenizer.mask_id for i in ids]
        assert tokenizer.decode(ids[: len(start)]) == start, f"{case} the canvas must begin with `start`."
        assert tokenizer.decode(ids[length - len(end) :]) == end, f"{case} the canvas must end with `end`."
        middle = masked[len(start) : length - len(end)]
        assert all(middle), f"{case} every position between the ends must be masked."
    try:
        whole = f("bad", "end", 6, tokenizer)
    except ValueError:
        whole = None
    fits = whole is not None and tokenizer.decode(whole) == "badend"
    assert fits, "Two ends that fill the canvas exactly are allowed: the canvas then has no mask."
    try:
        f("bad", "end", 5, tokenizer)
    except ValueError:
        refused = True
    else:
        refused = False
    assert refused, "If the two ends are longer than the canvas, the function must raise ValueError."
    model, ids = small_model(tokenizer.vocab_size, 0.5), f("a bad", "end", 16, tokenizer)
    *_, last = generation.generate(model, torch.tensor([ids]), 8, generator=torch.Generator().manual_seed(0))
    text = tokenizer.decode(last.canvas[0])
    assert text.startswith("a bad") and text.endswith("end"), "The text that chapter 06 writes must keep both ends."


class Stored:
    """A model that returns the same tensor at every call, so that a change of it would be seen."""

    def __init__(self, logits):
        self.logits, self.config = logits, transformer.TransformerConfig(logits.shape[-1], 16, n_embd=12)

    def __call__(self, tokens, t=None):
        return self.logits[: len(tokens)]


def check_without(f):
    torch.manual_seed(1)
    stored, tokens = Stored(torch.randn(3, 5, 6)), torch.full((3, 5), 6)
    before = stored.logits.clone()
    for banned in ([2], [0, 4, 5], []):
        model = f(stored, banned)
        assert callable(model), "The function must return something that can be called like a model."
        assert getattr(model, "config", None) is stored.config, "The result needs the attribute `config` of the model."
        for logits in (model(tokens), model(tokens, torch.ones(3))):
            right = torch.is_tensor(logits) and logits.shape == (3, 5, 6)
            assert right, "A call must return logits of the same shape as those of the model, with and without t."
        p, kept = logits.softmax(-1), [i for i in range(6) if i not in banned]
        assert p.isfinite().all(), "The softmax of the new logits must be probabilities, but it is not finite."
        assert (p[..., banned] == 0).all(), "A banned token still has a probability above 0 at some position."
        wanted = before.softmax(-1)[..., kept]
        same = torch.allclose(p[..., kept], wanted / wanted.sum(-1, keepdim=True), atol=1e-5)
        assert same, "The tokens that are not banned must keep the proportions of their probabilities."
        assert torch.equal(stored.logits, before), "The logits that the given model returns must stay as they are."
    inner, banned = small_model(6, 0.5), [1, 3]
    for temperature in (0.0, 1.0):
        canvas = torch.full((4, 24), inner.config.mask_id)  # longer than the window of the model
        canvas[:, :2] = torch.tensor([1, 5])  # token 1 is banned, but given
        generator = torch.Generator().manual_seed(0)
        *_, last = generation.generate(f(inner, banned), canvas, 8, temperature, generator=generator)
        assert (last.canvas[:, 0] == 1).all(), "A banned token that is given in the prompt must stay."
        written = last.canvas[:, 2:]
        assert not any((written == token).any() for token in banned), "The sampler has written a banned token."


def check_template_perplexity(f):
    even = small_model(4, 0.0)  # all logits are 0
    canvas, filling = torch.tensor([0, 4, 4, 3, 4]), torch.tensor([2, 0, 1])
    value = f(even, canvas.clone(), filling)
    assert isinstance(value, float), "The function must return a float."
    assert abs(value - 4) < 1e-4, "If all V tokens are always equally likely, then the perplexity is V."
    model = small_model(4, 0.8)
    for template in ([4, 1, 4, 4, 2], [4, 4], [3, 4, 0], [4, 0, 1, 4]):
        canvas = torch.tensor(template)
        masks = [i for i, token in enumerate(template) if token == 4]
        values = {}
        for fill in product(range(4), repeat=len(masks)):
            given = canvas.clone()
            values[fill] = f(model, given, torch.tensor(fill))
            assert torch.equal(given, canvas), "The canvas that the function is given must stay as it is."
            assert isinstance(values[fill], float) and values[fill] > 0, "A perplexity must be a float above 0."
        total = sum(value ** -len(masks) for value in values.values())
        assert abs(total - 1) < 1e-3, "The probabilities of all possible fillings of a template must add up to 1."
        for fill, value in values.items():
            wanted = math.exp(sum(surprise(model, canvas, masks, fill, i) for i in range(len(masks))) / len(masks))
            assert abs(value / wanted - 1) < 1e-3, (
                "Fill from left to right: in each pass the model must see the tokens that were filled before, and "
                "masks where others will follow.")


@torch.no_grad()
def surprise(model, canvas, masks, fill, i):
    """-log p of the token fill[i], when those before it are filled."""
    seen = torch.tensor([fill[masks.index(j)] if j in masks[:i] else t for j, t in enumerate(canvas.tolist())])
    return -model(seen[None])[0, masks[i]].log_softmax(-1)[fill[i]].item()
