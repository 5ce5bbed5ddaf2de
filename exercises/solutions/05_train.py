"""Our solutions to the exercises for chapter 05. Other solutions can be just as good."""

from importlib import import_module

import torch

diffusion = import_module("04_diffusion")


def predict_factors():
    # The warm-up covers the steps 0 to 99. Step s has the factor (s + 1) / 100, so even step 0 learns. The cooldown is
    # the last 70 % of the run: from step 300 on, the factor falls by 1 / 700 per step. Step 650 is in the middle of the
    # cooldown, and at step 825 a quarter of the cooldown is left.
    return [0.01, 0.5, 1.0, 0.5, 0.25]


def hide_run(x0, k, mask_id):
    # A run of k tokens fits at T - k + 1 places. A random number below 1, multiplied by this count and rounded down, is
    # one of the places 0 … T - k. With this function in place of `hide`, chapter 05 would learn another task.
    B, T = x0.shape
    start = (torch.rand(B, device=x0.device) * (T - k + 1)).long()[:, None]  # (B, 1)
    place = torch.arange(T, device=x0.device)
    hidden = (place >= start) & (place < start + k[:, None])  # (B, T)
    return torch.where(hidden, mask_id, x0)


def gradient_in_parts(model, x0, xt, parts):
    # The loss of the batch is a sum over tokens, divided by the number of masks in the whole batch. If the sum of each
    # part is divided by this number, the losses of the parts add up to the loss of the batch. So do the gradients,
    # because backward() adds to `.grad`. A part without a mask adds 0.
    masks = (xt == model.config.mask_id).sum()
    total = 0.0
    for rows, masked_rows in zip(x0.chunk(parts), xt.chunk(parts)):
        loss = diffusion.hidden_losses(model, rows, masked_rows, None).sum() / masks
        loss.backward()
        total += loss.item()
    return total
