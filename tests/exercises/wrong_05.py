"""Plausible mistakes in the exercises for chapter 05. Each docstring names the mistake."""

import math
from importlib import import_module

import torch

diffusion = import_module("04_diffusion")


def factors_from_zero():
    """The warm-up begins with a factor of 0."""
    return [0.0, 0.49, 1.0, 0.5, 0.25]


def factors_of_a_late_fall():
    """The cool-down begins after 70 % of the run, and is not 70 % of it."""
    return [0.01, 0.5, 1.0, 1.0, 0.583]


def one_factor():
    """Only the last number."""
    return 0.25


def cosine_from_zero(step, steps, warmup):
    """The first step learns nothing."""
    if step < warmup:
        return step / warmup
    return (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


def cosine_of_the_whole_run(step, steps, warmup):
    """The cosine begins at step 0, so the factor jumps at the end of the warm-up."""
    return (step + 1) / warmup if step < warmup else (1 + math.cos(math.pi * step / steps)) / 2


def whole_wave(step, steps, warmup):
    """The cosine runs to 2π, so the factor rises again."""
    if step < warmup:
        return (step + 1) / warmup
    return (1 + math.cos(2 * math.pi * (step - warmup) / (steps - warmup))) / 2


def linear_fall(step, steps, warmup):
    """A line instead of a cosine."""
    return (step + 1) / warmup if step < warmup else 1 - (step - warmup) / (steps - warmup)


def cosine_without_return(step, steps, warmup):
    """The result is not returned."""
    (1 + math.cos(math.pi * step / steps)) / 2


@torch.no_grad()
def swapped_decay(averaged, weights, decay):
    """decay is the share of the new weights."""
    for a, w in zip(averaged, weights):
        a.lerp_(w, decay)


@torch.no_grad()
def new_names(averaged, weights, decay):
    """The names a stand for new tensors, and the old ones stay as they were."""
    for a, w in zip(averaged, weights):
        a = decay * a + (1 - decay) * w


@torch.no_grad()
def new_tensors(averaged, weights, decay):
    """The list gets new tensors; the model still has the old ones."""
    for i, w in enumerate(weights):
        averaged[i] = decay * averaged[i] + (1 - decay) * w


def recorded(averaged, weights, decay):
    """Autograd records the update."""
    for a, w in zip(averaged, weights):
        a.mul_(decay).add_((1 - decay) * w)


@torch.no_grad()
def both_move(averaged, weights, decay):
    """The weights are scaled in place too."""
    for a, w in zip(averaged, weights):
        a.mul_(decay).add_(w.mul_(1 - decay))


def mean_of_means(model, x0, xt, parts):
    """The mean of the parts' means, although the parts differ in their number of masks."""
    total = 0.0
    for rows, masked_rows in zip(x0.chunk(parts), xt.chunk(parts)):
        masks = (masked_rows == model.config.mask_id).sum().clamp(min=1)
        loss = diffusion.masked_cross_entropy(model, rows, masked_rows, None).sum() / masks / parts
        loss.backward()
        total += loss.item()
    return total


def sum_of_means(model, x0, xt, parts):
    """Each part has the weight of a whole batch."""
    total = 0.0
    for rows, masked_rows in zip(x0.chunk(parts), xt.chunk(parts)):
        loss = diffusion.masked_cross_entropy(model, rows, masked_rows, None).sum()
        loss = loss / (masked_rows == model.config.mask_id).sum()
        loss.backward()
        total += loss.item()
    return total / parts


def mean_over_all_tokens(model, x0, xt, parts):
    """Visible tokens count too, with a loss of 0."""
    total = 0.0
    for rows, masked_rows in zip(x0.chunk(parts), xt.chunk(parts)):
        loss = diffusion.masked_cross_entropy(model, rows, masked_rows, None).mean() / parts
        loss.backward()
        total += loss.item()
    return total


def one_backward_pass(model, x0, xt, parts):
    """All parts stay in memory until the end."""
    masks = (xt == model.config.mask_id).sum()
    losses = [diffusion.masked_cross_entropy(model, rows, masked_rows, None).sum() / masks
              for rows, masked_rows in zip(x0.chunk(parts), xt.chunk(parts))]  # fmt: skip
    sum(losses).backward()
    return sum(losses).item()


def whole_batch(model, x0, xt, parts):
    """No parts at all."""
    loss = diffusion.masked_cross_entropy(model, x0, xt, None).sum() / (xt == model.config.mask_id).sum()
    loss.backward()
    return loss.item()


def last_part_only(model, x0, xt, parts):
    """The gradients of the earlier parts are cleared."""
    masks, total = (xt == model.config.mask_id).sum(), 0.0
    for rows, masked_rows in zip(x0.chunk(parts), xt.chunk(parts)):
        model.zero_grad(set_to_none=False)
        loss = diffusion.masked_cross_entropy(model, rows, masked_rows, None).sum() / masks
        loss.backward()
        total += loss.item()
    return total


WRONG = {
    "predict_factors": [factors_from_zero, factors_of_a_late_fall, one_factor],
    "cosine_factor": [cosine_from_zero, cosine_of_the_whole_run, whole_wave, linear_fall, cosine_without_return],
    "ema_update": [swapped_decay, new_names, new_tensors, recorded, both_move],
    "gradient_in_parts": [mean_of_means, sum_of_means, mean_over_all_tokens, one_backward_pass, whole_batch,
                          last_part_only],
}
