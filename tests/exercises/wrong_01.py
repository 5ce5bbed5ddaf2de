"""Plausible mistakes in the exercises for chapter 01. Each docstring names the mistake."""


def softmax_that_overflows(logits):
    """The formula as it stands."""
    return logits.exp() / logits.exp().sum(-1, keepdim=True)


def softmax_of_everything(logits):
    """The sum runs over all dimensions."""
    weights = (logits - logits.max()).exp()
    return weights / weights.sum()


WRONG = {"stable_softmax": [softmax_that_overflows, softmax_of_everything]}
