"""Our solutions of the exercises for chapter 06. Other solutions can be as good."""

import math

import torch


def predict_windows():
    # The second window begins at 128 - 32 = 96 and adds 96 positions, so it gets 96 / 128 of 64 passes. The third one
    # would begin at 224 - 32 = 192, but it is moved to 230 - 128 = 102, because a full window shows the model more
    # text. It adds 6 positions, and 6 / 128 of 64 passes are 3.
    return [(0, 128, 64), (96, 224, 48), (102, 230, 3)]


class Without:
    def __init__(self, model, banned):
        self.model, self.banned, self.config = model, banned, model.config

    def __call__(self, tokens, t=None):
        logits = self.model(tokens, t).clone()
        logits[..., self.banned] = -math.inf
        return logits


def without(model, banned):
    # A logit of minus infinity becomes the probability 0, and the softmax divides by the sum over the other tokens, so
    # their proportions stay. The clone keeps the model's own logits as they are. The samplers of chapters 04 and 06
    # only call the model and read its config, so an object with these two can take the place of a model.
    return Without(model, banned)


@torch.no_grad()
def template_perplexity(model, canvas, filling):
    # In pass i the first i masks contain their tokens and the others are still masked. These are the conditional
    # probabilities of the chain rule, so their product is the probability of the whole filling in this order. In
    # another order, a dLLM may give another number.
    canvas = canvas.clone()
    total = 0.0
    masks = (canvas == model.config.mask_id).nonzero()[:, 0]  # (M,)
    for place, token in zip(masks, filling):
        total -= model(canvas[None])[0, place].log_softmax(-1)[token].item()
        canvas[place] = token
    return math.exp(total / len(masks))
