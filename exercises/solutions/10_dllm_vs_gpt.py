"""Our solutions to the exercises for chapter 10. Other solutions can be just as good."""

import math

import torch


def predict_measures():
    # Of six words, "bat" and "mat" are unknown. "abababab" has five runs, but only two different ones, "abab" and
    # "baba". The copy is "to be", because the training text ends there. If two texts have no run in common, p or q is 0
    # for each run, so m is half of the other share, and every logarithm is log 2.
    return [4 / 6, 2 / 5, 5, math.log(2)]


def paired_difference(a, b):
    # A hard window raises both NLLs, so it hardly changes their difference. The windows are independent of each other,
    # and so are the N differences, so the usual formula holds. The standard error of each model's mean can be larger
    # than the mean difference, although A is better in nearly every window.
    difference = b - a  # (N,)
    return difference.mean().item(), (difference.std() / len(difference) ** 0.5).item()


@torch.no_grad()
def nll_in_order(model, x0, order):
    # By the chain rule, -log p(text | order) is a sum of T terms, one per pass. The mean of this sum over all orders is
    # the NELBO. A GPT has only one order, so for a GPT this sum is the exact NLL.
    T = len(x0)
    canvas = torch.full_like(x0, model.config.mask_id)
    total = 0.0
    for step, position in enumerate(order):
        t = torch.tensor([(T - step) / T])
        total -= model(canvas[None], t)[0, position].log_softmax(-1)[x0[position]].item()
        canvas[position] = x0[position]
    return total
