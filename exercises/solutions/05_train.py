"""Our solutions of the exercises for chapter 05. Other solutions can be as good."""

from importlib import import_module

import torch

diffusion = import_module("04_diffusion")


def predict_factors():
    # The warm-up covers the steps 0 to 99, and step s has the factor (s + 1) / 100, so that already step 0 learns.
    # The cool-down is the last 70 % of the run. It begins at step 300 and falls by 1 / 700 per step: step 650 is in
    # its middle, and at step 825 a quarter of it is left.
    return [0.01, 0.5, 1.0, 0.5, 0.25]


def hide_run(x0, k, mask_id):
    # A run of k tokens fits at T - k + 1 places. A random number u below 1, multiplied by this count and rounded down,
    # is one of the places 0 … T - k. With this in place of `hide`, simple_loss is the loss of another task, and
    # everything else of chapter 05 stays.
    B, T = x0.shape
    start = (torch.rand(B, device=x0.device) * (T - k + 1)).long()[:, None]  # (B, 1)
    place = torch.arange(T, device=x0.device)
    hidden = (place >= start) & (place < start + k[:, None])  # (B, T)
    return torch.where(hidden, mask_id, x0)


def gradient_in_parts(model, x0, xt, parts):
    # The loss of the batch is a sum over tokens, divided by one number: the masks of the whole batch. If each part is
    # divided by that same number, then the losses of the parts add up to the loss of the batch, and so do the
    # gradients, because backward() adds to `.grad`. A part without a mask adds 0.
    masks = (xt == model.config.mask_id).sum()
    total = 0.0
    for rows, masked_rows in zip(x0.chunk(parts), xt.chunk(parts)):
        loss = diffusion.hidden_losses(model, rows, masked_rows, None).sum() / masks
        loss.backward()
        total += loss.item()
    return total
