"""Exercises for chapter 05: the learning rate, a task of your own, and a batch in parts.

Read 05_train.py first. Replace each `raise NotImplementedError` with your own lines, and then run

    python exercises/check.py 05
"""
# ruff: noqa: F401 - the functions that you write use these imports

import math
from importlib import import_module

import torch
import torch.nn.functional as F

diffusion = import_module("04_diffusion")


def predict_factors():
    """Predict what chapter 05's `learning_rate` returns. (5 minutes)

    A run has 1000 steps and no time limit. Its settings are warmup=100 and cooldown=0.7.
    Return a list of the factors at the steps 0, 49, 250, 650 and 825. All factors are short decimal numbers.

    Hint: decide for each step whether the factor is rising, constant or falling.
    """
    raise NotImplementedError


def hide_run(x0, k, mask_id):
    """Mask some neighbouring tokens at a random place in each row of x0 (B, T). (15 minutes)

    A task that teaches a model to fill gaps could begin with this step.
    k (B,) holds a number from 1 to T for each row. Row b gets k[b] masks side by side.
    All other tokens stay. Return the result (B, T).
    All places at which the masks fit into the row are equally likely.

    Hint: draw one place for each row, and compare the positions 0 to T - 1 with it. For k = T there is only one place.
    """
    raise NotImplementedError


def gradient_in_parts(model, x0, xt, parts):
    """Compute the gradient of a large batch with little memory. Return the loss of the batch, a float. (25 minutes)

    `x0` (B, T) holds texts, and `xt` (B, T) holds the same texts with some tokens masked.
    Some rows may contain no masks at all, but the batch contains at least one mask.
    The loss is the mean cross-entropy over all masked tokens of the batch.
    Before the call, each parameter's `.grad` is None. After the call, `.grad` must be the gradient of this loss.
    B is a multiple of `parts`, and each forward pass must read B / parts rows.
    The backward pass for these rows must come before the next forward pass.

    Hint: parts differ in their number of masks, so the mean of the parts' losses is not the loss of the batch.
    diffusion.hidden_losses(model, x0, xt, None) returns the loss of every token, which is 0 for visible tokens.
    """
    raise NotImplementedError
