"""Checks of the exercises for chapter 05. check.py calls check_NAME with the learner's function NAME."""

from importlib import import_module

import torch

diffusion = import_module("04_diffusion")
training = import_module("05_train")
tools = import_module("exercises.checks.tools")


def check_predict_factors(f):
    answer = f()
    config = training.TrainConfig(warmup=100, cooldown=0.7)
    assert tools.are_numbers(answer, 5), "The function must return a list of five numbers."
    for step, factor in zip((0, 49, 250, 650, 825), answer):
        true = training.learning_rate(step, step / 1000, config)
        assert tools.close(factor, true), f"In step {step}, chapter 05 has another factor than your list."


def check_hide_run(f):
    x0 = torch.randint(5, (1600, 8))
    k = torch.tensor([1, 3, 7, 8]).repeat(400)
    before = x0.clone(), k.clone()
    xt = f(x0, k, 5)
    assert tools.is_tensor(xt, (1600, 8), torch.long), "The result must be a tensor of tokens (B, T)."
    assert torch.equal(x0, before[0]) and torch.equal(k, before[1]), "The arguments must stay as they are."
    hidden = xt == 5
    assert torch.equal(xt[~hidden], x0[~hidden]), "The tokens that are not hidden must stay."
    assert torch.equal(hidden.sum(1), k), "Row b must have k[b] masks. A run must not leave the row."
    edge = torch.zeros(1600, 1)
    edges = hidden.long().diff(dim=1, prepend=edge, append=edge) > 0
    assert (edges.sum(1) == 1).all(), "The masks of a row must stand side by side."
    for length in (1, 3, 7):
        starts = edges[k == length].long().argmax(1)  # (400,)
        times = starts.bincount(minlength=9 - length)
        assert times.min() > 0, f"A run of {length} never begins at one of the places where it fits."
        assert times.max() < 1.7 * times.float().mean(), f"For runs of {length}, not all places are equally likely."


def watched(f, model, *arguments):
    """Call f(model, *arguments). Return its result and a list with one pair for each forward pass.

    A pair is (number of rows in the pass, whether a backward pass came before).
    """
    passes = []

    def look(module, inputs):
        passes.append((len(inputs[0]), any(p.grad is not None for p in module.parameters())))

    hook = model.register_forward_pre_hook(look)
    try:
        return f(model, *arguments), passes
    finally:
        hook.remove()


def check_gradient_in_parts(f):
    model = tools.small_model(5, std=0.3)
    x0 = torch.randint(5, (6, 8))
    few = torch.arange(8) < torch.tensor([0, 0, 8, 8, 1, 2])[:, None]  # the first two rows have no mask
    for masked, parts in ((few, 3), (few, 1), (torch.rand(6, 8) < 0.5, 2)):
        xt = torch.where(masked, model.config.mask_id, x0)
        model.zero_grad()
        whole = diffusion.hidden_losses(model, x0, xt, None).sum() / masked.sum()
        whole.backward()
        wanted = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        loss, passes = watched(f, model, x0, xt, parts)
        assert passes and all(rows == 6 // parts for rows, _ in passes), "Each forward pass must get B / parts rows."
        assert len(passes) <= parts, "There must be one forward pass for each part, and not more."
        early = all(backward for _, backward in passes[1:])
        assert early, "Each part needs its backward pass before the next forward pass; otherwise no memory is saved."
        grads = [p.grad for p in model.parameters()]
        assert all(g is not None for g in grads), "Every parameter must have a gradient afterwards."
        finite = all(bool(g.isfinite().all()) for g in grads)
        assert finite, "A gradient is not a finite number. Think of a part of the batch that contains no mask."
        same = all(torch.allclose(g, w, atol=1e-5) for g, w in zip(grads, wanted))
        assert same, "The gradient differs from that of the whole batch. Every masked token must have the same weight."
        right = tools.is_number(loss) and tools.close(loss, whole)
        assert right, "The function must return the loss, the mean over all masked tokens of the batch."
