"""What the exercises for chapter 04 must do. check.py gives each function the learner's function of the same name."""

from importlib import import_module
from itertools import product

import torch

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
answers = import_module("exercises.checks.01_tensors")


def check_predict_masks(f):
    answer = f()
    right = isinstance(answer, (list, tuple)) and len(answer) == 4 and all(map(answers.is_number, answer))
    assert right, "The function must return a list of four numbers."
    fixed, drawn = torch.tensor([0.25]).double(), (torch.arange(10000).double() + 0.5) / 10000
    wanted = [amount for t in (fixed, drawn) for amount in (mean_masks(t), no_mask(t))]
    names = ("mean number of masks for t = 1/4", "probability of no mask for t = 1/4",
             "mean number of masks for a random t", "probability of no mask for a random t")  # fmt: skip
    for name, mine, yours in zip(names, wanted, answer):
        assert answers.close(yours, mine, 1e-4), f"The {name} is another number."


def mean_masks(t):
    """The mean number of masks among three characters, over all of their masks and all masking rates t (n,)."""
    return sum(sum(hidden) * probability(hidden, t) for hidden in product((0, 1), repeat=3))


def no_mask(t):
    return probability((0, 0, 0), t)


def probability(hidden, t):
    """The probability, averaged over t (n,), that exactly those characters are masked for which hidden is 1."""
    return (t ** sum(hidden) * (1 - t) ** (len(hidden) - sum(hidden))).mean().item()


def check_nelbo_by_hand(f):
    for T in (1, 2, 4):
        torch.manual_seed(T)
        model = transformer.Transformer(transformer.TransformerConfig(4, 4, n_layer=1, n_head=1, n_embd=8))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=1.0)  # so that the order of writing matters
        x0 = torch.randint(4, (T,))
        steps, _ = diffusion.derive_bound(model, x0)
        nll, bound, *_ = steps.values()
        answer, text = f(model, x0), "a text of one character" if T == 1 else f"a text of {T} characters"
        assert answers.is_number(answer), "The function must return one finite number."
        answer = float(answer)
        per_character = T > 1 and answers.close(answer * T, bound, 1e-4)
        assert not per_character, "The result is in nats per character, and not in nats for the whole text."
        exact = bound - nll > 3e-4 and answers.close(answer, nll, 1e-4)
        assert not exact, "This is the NLL, the logarithm of a mean. The NELBO is a mean of logarithms."
        assert answer > 0, "The NELBO of these models is a positive number."
        assert answers.close(answer, bound, 1e-4), f"For {text}, the result is not chapter 04's NELBO."


def check_least_confident(f):
    try_rule(f, lambda row: lambda i: row[i], "The rule must select the masked positions of lowest confidence.")


def check_in_blocks(f):
    assert callable(f(4)), "The result must be a function, the rule."
    for size in (1, 3, 4, 12, 100):
        wrong = f"With size={size}, the rule does not select the leftmost block first, and its surest positions in it."
        try_rule(f(size), lambda row, size=size: lambda i: (i // size, -row[i]), wrong)
    for masks, count in ((torch.arange(12) >= 6, 2), (torch.arange(12) == 11, 1)):
        selected = f(4)(torch.full((1, 12), 0.5), masks[None], torch.tensor([count]))
        early = selected[0, :8].any() or not masks[:8].any()
        assert early, "A block without masks is finished, and the rule must go on with the next one."


def try_rule(rule, order, wrong):
    """Compare a selection rule with sorting. order(row of confidence): the key by which positions are sorted."""
    torch.manual_seed(0)
    for B, T in ((1, 5), (4, 10), (3, 12)):
        for share in (0.3, 0.7, 1.0):
            confidence = torch.rand(B, T)
            confidence[:, 0], confidence[:, -1] = 0, 1
            masked = torch.rand(B, T) < share
            masked[:, -1] = True
            for part in (0.0, 0.4, 1.0):
                count = (masked.sum(1) * part).long()
                compare(rule, confidence, masked, count, order, wrong)
    model = transformer.Transformer(transformer.TransformerConfig(4, 12, n_layer=1, n_head=1, n_embd=8))
    canvas = torch.full((2, 12), model.config.mask_id)
    canvas[0, 3:6] = 1
    *_, last = diffusion.denoise(model, canvas, 5, select=rule)
    whole = not (last.canvas == model.config.mask_id).any() and bool((last.canvas[0, 3:6] == 1).all())
    assert whole, "With this rule, chapter 04's denoise leaves masks, or changes given tokens."


def compare(rule, confidence, masked, count, order, wrong):
    given = confidence.clone(), masked.clone(), count.clone()
    selected = rule(*given, generator=torch.Generator().manual_seed(0))
    boolean = torch.is_tensor(selected) and selected.dtype == torch.bool and selected.shape == masked.shape
    assert boolean, "The rule must return a boolean tensor of the shape (B, T)."
    same = all(map(torch.equal, given, (confidence, masked, count)))
    assert same, "The rule must not change its arguments."
    assert not (selected & ~masked).any(), "The rule selects a position that is not masked."
    number = (selected.sum(1) == count).all()
    assert number, "Each row must select exactly as many positions as its entry of count says."
    for row, places, n, chosen in zip(confidence.tolist(), masked, count.tolist(), selected):
        best = sorted(places.nonzero().flatten().tolist(), key=order(row))[:n]
        assert chosen.nonzero().flatten().tolist() == sorted(best), wrong
