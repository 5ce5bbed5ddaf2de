"""Our solutions of the exercises for chapter 01. Other solutions can be as good."""


def stable_softmax(logits):
    # If c is subtracted from all logits of a row, the numerator and the denominator are both multiplied by exp(-c), so
    # the probabilities stay the same. With the largest logit as c, no exponent is above 0 and nothing overflows.
    weights = (logits - logits.amax(-1, keepdim=True)).exp()
    return weights / weights.sum(-1, keepdim=True)
