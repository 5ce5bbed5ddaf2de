"""Exercises for chapter 05: the learning rate, averaged weights, and a batch in parts.

Read 05_train.py first. Replace each `raise NotImplementedError` with your own lines, and then run

    python exercises/check.py 05
"""
# ruff: noqa: F401 - the functions that you write use these imports

import math
from importlib import import_module

import torch

diffusion = import_module("04_diffusion")


def predict_factors():
    """Predict what chapter 05's `learning_rate_factor` returns. (5 minutes)

    A run has 1000 steps, with the settings warmup=100 and cooldown=0.7. Return the factors of the steps 0, 49, 250, 650
    and 825: a list of five numbers. Calculate them by hand; they are short decimal numbers.
    Hint: decide for each step whether the factor rises, is constant, or falls there.
    """
    raise NotImplementedError


def cosine_factor(step, steps, warmup):
    """Return a learning-rate factor that first rises in a line and then falls along a cosine. (15 minutes)

    In the first `warmup` steps the factor rises as in chapter 05: to 1 / warmup in step 0, then to 2 / warmup, and so
    on. With warmup=0 there is no rise. From step `warmup` on the factor is (1 + cos x) / 2. There x grows evenly with
    the step. It is 0 at step `warmup`, and it would be π at step `steps`, which comes after the last step.
    step is from 0 to steps - 1, and warmup is less than steps. The result is a float.
    Hint: first calculate which share of the steps after the warm-up is done.
    """
    raise NotImplementedError


def ema_update(averaged, weights, decay):
    """Move the averaged weights a little towards the current weights, in place. (10 minutes)

    averaged, weights: two lists of tensors. The tensors at the same place of the two lists have the same shape. Each
    tensor a of `averaged` becomes decay × a + (1 - decay) × w, where w is its partner in `weights`. The tensors of
    `weights` are parameters of a model that is in training: they do not change, and autograd must record nothing.
    "In place" means that the tensors themselves change, because a model uses them. The function returns nothing.
    Hint: methods of a tensor whose names end with _ work in place, and torch.no_grad() switches the recording off.
    """
    raise NotImplementedError


def gradient_in_parts(model, x0, xt, parts):
    """Compute the gradient of a large batch, but keep only a part of the batch in memory at a time. (25 minutes)

    x0: (B, T) texts. xt: (B, T) the same texts with masks, at least one in the whole batch. B is a multiple of `parts`.
    model: chapter 03's Transformer, whose parameters have no gradients before the call. The loss is the mean
    cross-entropy of all masked tokens of the batch. After the call the gradients of the parameters (`.grad`) are those
    of this loss, and the function returns the loss, a float. Each forward pass gets B / parts rows, and its backward
    pass comes before the next forward pass.
    Hint: rows differ in their number of masks, so the mean of the parts' means is not the mean of the batch. The
    function diffusion.masked_cross_entropy(model, x0, xt, None) returns the loss of each token.
    """
    raise NotImplementedError
