"""Checks of the exercises for chapter 04. check.py calls check_NAME with the learner's function NAME."""

from importlib import import_module
from itertools import permutations

import torch

diffusion = import_module("04_diffusion")
tools = import_module("exercises.checks.tools")


def check_predict_masks(f):
    answer = f()
    assert tools.are_numbers(answer, 4), "The function must return a list of four numbers."
    rates = (torch.arange(10000) + 0.5) / 10000
    true = (sum((1, 2, 3)) / 3, sum((1, 2, 3)) / 3 / 3, (1 - 0.25) ** 3, ((1 - rates) ** 3).mean())
    for number, (mine, yours) in enumerate(zip(true, answer), 1):
        assert tools.close(yours, mine, 1e-4), f"Your number {number} is not right."


def check_nelbo_by_hand(f):
    for T, given in ((1, 0), (2, 0), (4, 0), (4, 1), (4, 3)):
        model = tools.small_model(4, std=1.0)  # with such large weights, the order of writing matters
        x0 = torch.randint(4, (T,))
        nlls = nll_of_each_order(model, x0, given)
        bound, nll = nlls.mean(), -(-nlls).exp().mean().log()
        answer = f(model, x0.clone(), given)
        assert tools.is_number(answer), "The function must return one finite number."
        assert answer > 0, "The NELBO of these models is a positive number."
        average = T - given > 1 and tools.close(answer * (T - given), bound, 1e-3)
        assert not average, "The result is in nats per character, and not in nats for all of them."
        exact = bound - nll > 1e-3 and tools.close(answer, nll, 1e-4)
        assert not exact, "This is the NLL, the logarithm of a mean. The NELBO is a mean of logarithms."
        case = f"a text of {T} with {given} given"
        assert tools.close(answer, bound, 1e-3), f"For {case}, the result is not the NELBO of the other characters."


def nll_of_each_order(model, x0, given):
    """Return -log p(written characters | order) for each order. Characters before position `given` are not written."""
    table = diffusion.losses_of_all_sets(model, x0)
    nlls = []
    for order in permutations(range(given, len(x0))):
        steps = enumerate(order)
        nlls.append(sum(table[frozenset(order[step:])][position] for step, position in steps))
    return torch.stack(nlls)


def check_by_margin(f):
    def score(logits, confidence):
        most, second = logits.softmax(-1).topk(2).values.unbind(-1)
        return most - second

    try_rule(f, score, "The rule must choose the masks with the largest difference of the two probabilities.")


def check_in_blocks(f):
    assert callable(f(4)), "The result must be a function, the rule."
    for size in (1, 3, 4, 100):

        def score(logits, confidence, size=size):
            return confidence - 2 * (torch.arange(confidence.shape[1]) // size)

        try_rule(f(size), score, f"With size={size}, the leftmost block and its highest confidence do not come first.")


def try_rule(rule, score, wrong):
    """Check that a selection rule chooses the masked positions with the highest scores.

    `score` turns logits and confidence into scores (B, T). `wrong` is the message if other positions are chosen.
    """
    for B, T, share in ((1, 5, 1.0), (4, 10, 0.3), (16, 12, 0.7)):
        logits = 2 * torch.randn(B, T, 4)
        confidence = torch.rand(B, T)
        masked = torch.rand(B, T) < share
        for part in (0.0, 0.4, 1.0):
            count = (masked.sum(1) * part).ceil().long()
            given = logits.clone(), confidence.clone(), masked.clone(), count.clone()
            chosen = rule(*given)
            right = tools.is_tensor(chosen, (B, T), torch.bool)
            assert right, "The rule must return a boolean tensor of the shape (B, T)."
            same = all(map(torch.equal, given, (logits, confidence, masked, count)))
            assert same, "The rule must not change its arguments."
            assert not (chosen & ~masked).any(), "The rule chooses a position that is not masked."
            assert (chosen.sum(1) == count).all(), "In each row, the rule must choose `count` positions."
            ranked = score(logits, confidence).masked_fill(~masked, -torch.inf).argsort(1, descending=True)
            for row in range(B):
                best = ranked[row, : count[row]].sort().values
                assert torch.equal(chosen[row].nonzero()[:, 0], best), wrong
    model = tools.small_model(4)
    canvas = torch.full((2, 12), model.config.mask_id)
    canvas[0, 3:6] = 1
    *_, last = diffusion.denoise(model, canvas, 5, select=rule)
    whole = not (last.canvas == model.config.mask_id).any() and bool((last.canvas[0, 3:6] == 1).all())
    assert whole, "With this rule, chapter 04's denoise leaves masks, or changes given tokens."
