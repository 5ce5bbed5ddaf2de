"""What the exercises for chapter 11 must do. check.py gives each function the learner's function of the same name."""

import math
from importlib import import_module
from unittest import mock

import torch

transformer = import_module("03_transformer")
fast = import_module("11_fast_decoding")


def small_model():
    torch.manual_seed(0)
    model = transformer.Transformer(transformer.TransformerConfig(6, 24, n_layer=1, n_head=1, n_embd=8)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


def proposals(confidence, masked=None):
    """Chapter 11's Proposals with this confidence (B, b)."""
    masked = torch.ones_like(confidence, dtype=torch.bool) if masked is None else masked
    return fast.Proposals(logits=torch.zeros(*confidence.shape, 6), before=None, confidence=confidence, masked=masked,
                          quota=torch.ones(len(confidence), dtype=torch.long), alphas=(0.5, 0.6), generator=None)


def check_predict_passes(f):
    answer, model = f(), small_model()
    assert isinstance(answer, (list, tuple)) and len(answer) == 6, "The function must return a list of six numbers."
    canvas = torch.full((1, 20), model.config.mask_id)
    canvas[:, :4] = torch.tensor([0, 3, 1, 5])
    plans = ((8, {}), (1, {"block": 8}), (8, {"guidance": 1.0}), (None, {"threshold": 0.0}),
             (None, {"threshold": 0.0, "block": 4}), (None, {"threshold": 1.0}))
    for number, ((steps, how), mine) in enumerate(zip(plans, answer), 1):
        generator = torch.Generator().manual_seed(0)
        *_, last = fast.decode(model, canvas, steps, generator=generator, how=fast.Decoding(**how))
        assert mine == last.nfe, f"In case {number}, chapter 11 needs another number of passes than your list says."


def check_factor_count(f):
    torch.manual_seed(0)
    lists = [torch.rand(n).sqrt().tolist() for n in (1, 2, 5, 9) for _ in range(10)]
    lists += [[0.9, 0.1, 0.89], [0.2, 0.95, 0.7, 0.9], [0.99, 0.5, 0.5, 0.99, 0.98, 0.5, 0.5, 0.5]]
    for confidences, factor in ((c, factor) for c in lists for factor in (0.0, 0.5, 1.0, 1.5, 3.0)):
        given = list(confidences)
        n = f(given, factor)
        assert type(n) is int, "The function must return an int."
        assert given == confidences, "The list that the function is given must stay as it is."
        assert n >= 1, "A pass must commit at least one token, also if no confidence is high enough."
        assert n <= len(confidences), "A pass cannot commit more tokens than there are masks."
        ranked = sorted(confidences, reverse=True)
        low = [m for m in range(1, n + 1) if ranked[m - 1] < 1 - factor / (m + 1)]
        assert n == 1 or not low, "The function commits a token that has a lower confidence than the rule demands."
        seen = proposals(torch.tensor([confidences]))
        wanted = int(fast.Decoding(factor=factor).choose(seen).sum())
        assert n == wanted, "The function commits fewer tokens than the rule allows."


def check_unmasking_probability(f):
    def number(*arguments):
        try:
            value = f(*arguments)
        except (ValueError, ZeroDivisionError):
            value = None
        assert value is not None, "For a possible sigma the function must return a number, also if alpha_t is 0."
        assert isinstance(value, (int, float)) and math.isfinite(value), "The function must return a finite float."
        return value

    for alpha_t, alpha_s in ((0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0), (0.2, 0.9)):
        plain = number(alpha_t, alpha_s, 0.0)
        ancestral = (alpha_s - alpha_t) / (1 - alpha_t)
        assert math.isclose(plain, ancestral, abs_tol=1e-9), (
            "With sigma=0 the result must be the probability of the order `ancestral` of chapter 11.")
        limit = 1.0 if alpha_t == 0 else min(1.0, (1 - alpha_s) / alpha_t)
        for sigma in (0.3 * limit, 0.8 * limit):
            q = number(alpha_t, alpha_s, sigma)
            visible = alpha_t * (1 - sigma) + (1 - alpha_t) * q
            right = abs(visible - alpha_s) < 1e-6
            assert right, "After the pass, the expected share of visible tokens must be alpha_s."
            assert -1e-9 <= q <= 1 + 1e-9, "A probability must be between 0 and 1."
    assert math.isclose(number(0.5, 0.75, 0.5), 1), "The largest sigma that is possible needs the probability 1."
    for arguments in ((0.5, 0.75, 0.6), (0.75, 1.0, 0.01), (0.2, 0.95, 0.9)):
        try:
            f(*arguments)
        except ValueError:
            refused = True
        else:
            refused = False
        assert refused, "If sigma is too large for alpha_t and alpha_s, the function must raise ValueError."


def check_threshold_apart(f):
    torch.manual_seed(0)
    few = torch.tensor([[0.90, 0.95, 0.91, 0.20, 0.85, 0.86, 0.87, 0.10]])
    cases = [(few, torch.ones(1, 8) > 0, 0.8), (torch.linspace(0.9, 0.99, 9)[None], torch.ones(1, 9) > 0, 0.5)]
    random = [(share, tau) for share in (0.5, 0.8, 1.0) for tau in (0.0, 0.4, 0.9)]
    cases += [(torch.rand(3, 12), torch.rand(3, 12) < share, tau) for share, tau in random]
    for confidence, masked, tau in cases:
        chosen = f(proposals(confidence.clone(), masked.clone()), tau)
        right = torch.is_tensor(chosen) and chosen.dtype == torch.bool and chosen.shape == masked.shape
        assert right, "The rule must return a tensor (B, b) of the type bool."
        assert not (chosen & ~masked).any(), "The rule commits a position that is not masked."
        assert not (chosen & (confidence < tau)).any(), "The rule commits a position whose confidence is below tau."
        assert not (chosen[:, 1:] & chosen[:, :-1]).any(), "The rule commits two neighbours in the same pass."
        for row, i in (masked & (confidence >= tau) & ~chosen).nonzero().tolist():
            near = slice(max(0, i - 1), i + 2)
            beside = chosen[row, near]
            assert beside.any(), "A confident position is left out, although no neighbour of it is committed."
            surer = beside & (confidence[row, near] > confidence[row, i])
            assert surer.any(), "A position is left out for a neighbour that is less confident."
    model = small_model()
    canvas = torch.full((2, 24), model.config.mask_id)
    canvas[:, 0] = 3
    with mock.patch.dict(fast.RULES, threshold=f):
        states = list(fast.decode(model, canvas, generator=torch.Generator().manual_seed(0),
                                  how=fast.Decoding(threshold=0.3)))
    masks = (states[-1].canvas == model.config.mask_id).sum()
    assert not masks, "With this rule chapter 11's `decode` must fill all masks."
    assert states[-1].nfe < 23, "With this rule chapter 11's `decode` must need fewer passes than there are masks."
