"""What the exercises for chapter 05 must do. check.py gives each function the learner's function of the same name."""

import math
from importlib import import_module

import torch

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")


def is_number(value):
    """Whether `value` is one finite number: an int, a float, or a tensor with one element."""
    if torch.is_tensor(value):
        return value.numel() == 1 and bool(value.isfinite().all())
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def close(value, wanted, tolerance=1e-5):
    return abs(float(value) - wanted) <= tolerance


def check_predict_factors(f):
    answer, config = f(), training.TrainConfig(warmup=100, cooldown=0.7)
    assert isinstance(answer, (list, tuple)) and len(answer) == 5, "The function must return a list of five numbers."
    for step, factor in zip((0, 49, 250, 650, 825), answer):
        true = training.learning_rate_factor(step, 1000, config)
        right = is_number(factor) and close(factor, true)
        assert right, f"In step {step}, chapter 05 has another factor than your list."


def check_cosine_factor(f):
    for steps, warmup in ((100, 10), (7, 1), (50, 49), (40, 0)):
        factors = [f(step, steps, warmup) for step in range(steps)]
        assert all(map(is_number, factors)), "The function must return a finite number for every step."
        factors = [float(factor) for factor in factors]
        assert min(factors) > 0, "Every step, the first and the last included, must have a factor above 0."
        assert max(factors) < 1 + 1e-9, "No factor may be above 1."
        rise = [(step + 1) / warmup for step in range(warmup)]
        assert all(map(close, factors, rise)), "During the warm-up the factor must rise as in chapter 05."
        assert close(factors[warmup], 1), "At step `warmup` the cosine must begin at its top, with the factor 1."
        fall = factors[warmup:]
        assert all(map(float.__gt__, fall, fall[1:])), "After step `warmup` the factor must fall in every step."
    for done, wanted in ((0.25, (2 + math.sqrt(2)) / 4), (0.5, 0.5), (0.75, (2 - math.sqrt(2)) / 4)):
        value = f(20 + int(80 * done), 100, 20)
        assert close(value, wanted), f"When {done:.0%} of the fall is done, the factor is not that of the cosine."


def check_ema_update(f):
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(3, 4)), torch.nn.Parameter(torch.randn(5))]
    values, averaged = [w.detach().clone() for w in weights], [torch.randn(3, 4), torch.randn(5)]
    tensors, start = list(averaged), [a.clone() for a in averaged]
    f(averaged, weights, 0.9)
    assert not any(a.requires_grad for a in [*averaged, *tensors]), "Autograd has recorded the update: switch it off."
    assert all(map(torch.equal, weights, values)), "The current weights must stay as they are."
    assert not all(map(torch.equal, tensors, start)), "The tensors of `averaged` must change in place."
    same = all(a is tensor for a, tensor in zip(averaged, tensors))
    assert same, "The tensors of `averaged` must change in place: the list must contain the same tensors as before."
    moved = [(a - s).abs().max() > 1e-6 for a, s in zip(tensors, start)]
    assert all(moved), "Every tensor of the list must move, not only the first one."
    wanted = [0.9 * s + 0.1 * w for s, w in zip(start, values)]
    assert all(map(torch.allclose, tensors, wanted)), "With decay 0.9, the average must keep nine tenths of its value."
    for _ in range(200):
        f(averaged, weights, 0.9)
    near = all(torch.allclose(a, w, atol=1e-5) for a, w in zip(tensors, values))
    assert near, "If the weights stay constant, the average must arrive at them after many steps."
    f(averaged, [torch.zeros(3, 4), torch.zeros(5)], 1.0)
    near = all(torch.allclose(a, w, atol=1e-5) for a, w in zip(tensors, values))
    assert near, "With decay 1 the average must not move at all."


def small_model():
    torch.manual_seed(0)
    model = transformer.Transformer(transformer.TransformerConfig(5, 8, n_layer=1, n_head=1, n_embd=8))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def watched(f, model, *arguments):
    """Call f, and return its result and one pair per forward pass: the number of rows, and whether a backward pass
    came before it."""
    passes = []

    def look(module, inputs):
        passes.append((len(inputs[0]), any(p.grad is not None for p in module.parameters())))

    hook = model.register_forward_pre_hook(look)
    try:
        return f(model, *arguments), passes
    finally:
        hook.remove()


def check_gradient_in_parts(f):
    model, x0 = small_model(), torch.randint(5, (6, 8))
    few = torch.arange(8) < torch.tensor([0, 0, 8, 8, 1, 2])[:, None]  # the first two rows have no mask
    for masked, parts in ((few, 3), (few, 6), (few, 1), (torch.rand(6, 8) < 0.5, 2)):
        xt = torch.where(masked, model.config.mask_id, x0)
        model.zero_grad()
        whole = diffusion.masked_cross_entropy(model, x0, xt, None).sum() / masked.sum()
        whole.backward()
        wanted = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        loss, passes = watched(f, model, x0, xt, parts)
        assert passes and all(rows == 6 // parts for rows, _ in passes), "Each forward pass must get B / parts rows."
        assert len(passes) <= parts, "There must be one forward pass for each part, and not more."
        assert all(p.grad is not None for p in model.parameters()), "Every parameter must have a gradient afterwards."
        early = all(backward for _, backward in passes[1:])
        assert early, "Each part needs its backward pass before the next forward pass; otherwise no memory is saved."
        grads = [p.grad for p in model.parameters()]
        finite = all(bool(g.isfinite().all()) for g in grads)
        assert finite, "A gradient is not a finite number. Think of a part of the batch that contains no mask."
        same = all(torch.allclose(g, w, atol=1e-5) for g, w in zip(grads, wanted))
        assert same, "The gradient differs from that of the whole batch. Every masked token must have the same weight."
        assert is_number(loss), "The function must return the loss, a number."
        loss = loss.detach() if torch.is_tensor(loss) else loss
        assert close(loss, whole.item()), "The returned loss differs from the mean over all masked tokens of the batch."
