"""Our solutions of the exercises for chapter 10. Other solutions can be as good."""

import math

import torch


def predict_measures():
    # Of six words, "bat" and "mat" are unknown. "abababab" has five runs, of which only "abab" and "baba" differ. The
    # copy is "to be"; the space after it is not in the training text. If no run is common, m is half of p or of q, so
    # every logarithm is log 2.
    return [4 / 6, 2 / 5, 5, math.log(2)]


def paired_difference(a, b):
    # A hard window raises both losses, so it hardly changes their difference. The windows are independent of each
    # other, so the N differences are, and their mean has the usual error. The errors of the two means may both be
    # larger than the difference, although A is better in nearly every window.
    difference = b - a  # (N,)
    return difference.mean().item(), (difference.std() / len(difference) ** 0.5).item()


@torch.no_grad()
def nll_in_order(model, x0, order):
    # By the chain rule, log p(text | order) is the sum of the logarithms of T probabilities, one per pass. The mean of
    # such numbers over all orders is the NELBO. The text of a GPT has one order only, so its NLL is exact.
    T = len(x0)
    canvas = torch.full_like(x0, model.config.mask_id)
    total = 0.0
    for step, position in enumerate(order):
        t = torch.tensor([(T - step) / T])
        total -= model(canvas[None], t)[0, position].log_softmax(-1)[x0[position]].item()
        canvas[position] = x0[position]
    return total
