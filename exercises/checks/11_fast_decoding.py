"""Checks of the exercises for chapter 11. check.py calls check_NAME with the learner's function NAME."""

import math
from importlib import import_module

import torch

fast = import_module("11_fast_decoding")
tools = import_module("exercises.checks.tools")


def check_predict_passes(f):
    answer = f()
    model = tools.small_model(6, seq_len=24)
    assert tools.are_numbers(answer, 6), "The function must return a list of six numbers."
    canvas = torch.full((1, 20), model.config.mask_id)
    canvas[:, :4] = torch.tensor([0, 3, 1, 5])
    cases = (dict(steps=8), dict(steps=1, block=8), dict(steps=8, correction=6),
             dict(steps=16, select=fast.threshold(0.0), block=4), dict(steps=16, select=fast.threshold(1.0)),
             dict(steps=8, select=fast.threshold(1.0)))
    for number, (how, mine) in enumerate(zip(cases, answer), 1):
        states = list(fast.denoise_blocks(model, canvas, **how))
        assert mine == len(states), f"In case {number}, chapter 11 needs another number of passes than your list says."


def check_mutual_information(f):
    alone = torch.outer(torch.tensor([0.2, 0.8]), torch.tensor([0.5, 0.5]))
    assert tools.is_number(f(alone)), "The function must return a finite number."
    assert tools.close(f(alone), 0), "If the two tokens are independent, nothing is lost."
    for n in (2, 5):
        value = f(torch.eye(n) / n)
        assert tools.is_number(value), "Some pairs have the probability 0, and the result must still be finite."
        assert tools.close(value, math.log(n)), "If one token decides the other, all of its entropy is lost."
    for V in (2, 4):
        joint = torch.rand(V, V).square()
        joint = joint / joint.sum()
        before = joint.clone()
        one, two, both = (torch.special.entr(p).sum() for p in (joint.sum(0), joint.sum(1), joint))
        assert not tools.close(f(joint), both), "This is the entropy of the pair, and not what the two have in common."
        assert tools.close(f(joint), one + two - both), "The result must be H(first) + H(second) - H(both), in nats."
        assert torch.equal(joint, before), "The given probabilities must stay as they are."


def check_threshold_apart(f):
    few = torch.tensor([[0.90, 0.95, 0.91, 0.20, 0.85, 0.86, 0.87, 0.10]])
    cases = [(few, torch.ones_like(few).bool(), 0.8)]
    cases += [(torch.rand(3, 12), torch.rand(3, 12) < share, tau) for share in (0.5, 1.0) for tau in (0.0, 0.4)]
    assert callable(f(0.5)), "The result must be a function, the rule."
    for confidence, masked, tau in cases:
        chosen = f(tau)(None, confidence.clone(), masked.clone(), torch.ones(len(masked), dtype=torch.long))
        right = tools.is_tensor(chosen, masked.shape, torch.bool)
        assert right, "The rule must return a tensor (B, T) of the type bool."
        assert not (chosen & ~masked).any(), "The rule chooses a position that is not masked."
        low = (chosen & (confidence < tau)).sum(1)
        assert (low <= 1).all(), "The rule chooses positions whose confidence is below tau."
        assert not (chosen[:, 1:] & chosen[:, :-1]).any(), "The rule chooses two neighbours in the same pass."
        for row, i in (masked & (confidence >= tau) & ~chosen).nonzero().tolist():
            near = slice(max(0, i - 1), i + 2)
            beside = chosen[row, near]
            assert beside.any(), "A confident position is left out, although no neighbour of it is chosen."
            surer = beside & (confidence[row, near] > confidence[row, i])
            assert surer.any(), "A position is left out for a neighbour that is less confident."
    chosen = f(0.99)(None, few, few < 0.9, torch.tensor([3]))
    assert chosen.sum() == 3, "If too few are confident, top_up must add proposals until there are `count`."
