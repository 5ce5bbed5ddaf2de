"""Our solutions of the exercises for chapter 05. Other solutions can be as good."""

import math
from importlib import import_module

import torch

diffusion = import_module("04_diffusion")


def predict_factors():
    # The warm-up covers the steps 0 to 99, and step s has the factor (s + 1) / 100, so that already step 0 learns.
    # The cool-down is the last 70 % of the run. It begins at step 300 and falls by 1 / 700 per step: step 650 is in
    # its middle, and at step 825 a quarter of it is left.
    return [0.01, 0.5, 1.0, 0.5, 0.25]


def cosine_factor(step, steps, warmup):
    # The two formulas meet at step `warmup`, where both give 1, so the factor makes no jump. The cosine is flat at both
    # of its ends: the learning rate stays high for a while, and the last steps are very small.
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / (steps - warmup)
    return (1 + math.cos(math.pi * done)) / 2


@torch.no_grad()
def ema_update(averaged, weights, decay):
    # lerp_ moves a tensor in place by a share of the way to another tensor. The share is 1 - decay: with a decay of
    # 0.995 the weights of this step count for half a percent. Assigning to a new name would leave the model's own
    # tensors as they were.
    for a, w in zip(averaged, weights, strict=True):
        a.lerp_(w, 1 - decay)


def gradient_in_parts(model, x0, xt, parts):
    # The loss of the batch is a sum over tokens, divided by one number: the masks of the whole batch. If each part is
    # divided by that same number, then the losses of the parts add up to the loss of the batch, and so do the
    # gradients, because backward() adds to `.grad`. A part without a mask adds 0.
    masks, total = (xt == model.config.mask_id).sum(), 0.0
    for rows, masked_rows in zip(x0.chunk(parts), xt.chunk(parts)):
        loss = diffusion.masked_cross_entropy(model, rows, masked_rows, None).sum() / masks
        loss.backward()
        total += loss.item()
    return total
