"""Our solutions to the exercises for chapter 06. Other solutions can be just as good."""

import math

import torch


def predict_windows():
    # The second window begins at 128 - 32 = 96 and adds 96 positions, so it gets 96 / 128 of 64 passes. The third
    # window would begin at 224 - 32 = 192, but it is moved to 230 - 128 = 102, because a full window shows the model
    # more text. It adds 6 positions, and 6 / 128 of 64 passes are 3.
    return [(0, 128, 64), (96, 224, 48), (102, 230, 3)]


class Without:
    def __init__(self, model, banned):
        self.model, self.banned, self.config = model, banned, model.config

    def __call__(self, tokens, t=None):
        logits = self.model(tokens, t).clone()
        logits[..., self.banned] = -math.inf
        return logits


def without(model, banned):
    # Softmax turns a logit of minus infinity into the probability 0, and the other probabilities keep their
    # proportions. The clone leaves the model's own logits unchanged. The samplers of chapters 04 and 06 only call the
    # model and read its config, so an object of the class Without can replace a model.
    return Without(model, banned)


@torch.no_grad()
def template_perplexity(model, canvas, filling):
    # In pass i, the first i masks are already filled. So each pass gives one factor of the chain rule, and the product
    # of these factors is the probability of the whole filling in this order. In another order, a dLLM can give a
    # different probability.
    canvas = canvas.clone()
    total = 0.0
    masks = (canvas == model.config.mask_id).nonzero()[:, 0]  # (M,)
    for place, token in zip(masks, filling):
        total -= model(canvas[None])[0, place].log_softmax(-1)[token].item()
        canvas[place] = token
    return math.exp(total / len(masks))
