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

    A run has 1000 steps, with the settings warmup=100 and cooldown=0.7, and no limit of time.
    Return the factors of the steps 0, 49, 250, 650 and 825. The factors are short decimal numbers.

    Hint: decide for each step whether the factor rises, is constant, or falls there.
    """
    raise NotImplementedError


def hide_run(x0, k, mask_id):
    """Hide k (B,) neighbours in each row of x0 (B, T), beginning at a random place: (B, T). (15 minutes)

    A task of your own would begin with this step, if its model should learn to fill gaps.
    Row b gets k[b] masks, which stand side by side; each k[b] is from 1 to T. All other tokens stay.
    Every place at which the run fits into the row is equally likely, including the first and the last place.

    Hint: draw one place for each row, and compare a row of positions with it. For k = T there is only one place.
    """
    raise NotImplementedError


def gradient_in_parts(model, x0, xt, parts):
    """Compute the gradient of a large batch with little memory, and return its loss, a float. (25 minutes)

    x0: (B, T), texts. xt: (B, T), these texts with at least one mask in the whole batch. B is a multiple of `parts`.
    The loss is the mean cross-entropy of all masked tokens of the batch.
    Afterwards each parameter's `.grad`, which was None before, must be the gradient of this loss.
    Each forward pass reads B / parts rows, and its backward pass comes before the next forward pass.

    Hint: rows differ in their number of masks, so the mean of the parts' means is not the mean of the batch.
    diffusion.hidden_losses(model, x0, xt, None) returns the loss of each token, 0 where it is visible.
    """
    raise NotImplementedError
