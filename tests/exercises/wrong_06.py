"""Plausible mistakes in the exercises for chapter 06. Each docstring names the mistake."""

import math

import torch
import torch.nn.functional as F


def windows_side_by_side():
    """Windows that do not overlap."""
    return [(0, 128, 64), (128, 230, 51)]


def last_window_not_moved():
    """The last window is not full."""
    return [(0, 128, 64), (96, 224, 48), (192, 230, 3)]


def all_steps_for_each_window():
    """A window with few masks gets as many steps as a full one, as far as it has masks."""
    return [(0, 128, 64), (96, 224, 64), (102, 230, 11)]


def masks_of_the_whole_length(start, end, length, tokenizer):
    """The ends are added to `length` masks."""
    return tokenizer.encode(start) + [tokenizer.mask_id] * length + tokenizer.encode(end)


def end_forgotten_in_the_count(start, end, length, tokenizer):
    """Only the start is subtracted."""
    first = tokenizer.encode(start)
    return first + [tokenizer.mask_id] * (length - len(first)) + tokenizer.encode(end)


def no_error(start, end, length, tokenizer):
    """Ends that are too long overlap silently."""
    ids = tokenizer.encode(start) + [tokenizer.mask_id] * length
    return ids[: max(0, length - len(end))] + tokenizer.encode(end)


def exact_fit_refused(start, end, length, tokenizer):
    """At least one mask is demanded."""
    first, last = tokenizer.encode(start), tokenizer.encode(end)
    if len(first) + len(last) >= length:
        raise ValueError("too long")
    return first + [tokenizer.mask_id] * (length - len(first) - len(last)) + last


def blanks_as_text(start, end, length, tokenizer):
    """The middle is a space and not a mask."""
    if len(start) + len(end) > length:
        raise ValueError("too long")
    return tokenizer.encode(start + " " * (length - len(start) - len(end)) + end)


class Changed:
    """A model whose logits `change` changes."""

    def __init__(self, model, change):
        self.model, self.change, self.config = model, change, model.config

    def __call__(self, tokens, t=None):
        return self.change(self.model(tokens, t))


def logit_zero(model, banned):
    """A logit of 0 is not a probability of 0."""
    return Changed(model, lambda logits: logits.index_fill(-1, torch.tensor(banned, dtype=torch.long), 0.0))


def in_place(model, banned):
    """The model's own logits change."""

    def change(logits):
        logits[..., banned] = -math.inf
        return logits

    return Changed(model, change)


def probabilities_for_logits(model, banned):
    """The result is a probability and not a logit, so the proportions change."""

    def change(logits):
        p = logits.softmax(-1).clone()
        p[..., banned] = -math.inf
        return p

    return Changed(model, change)


def only_the_first(model, banned):
    """Only the first banned token is banned."""
    return Changed(model, lambda logits: logits.index_fill(-1, torch.tensor(banned[:1], dtype=torch.long), -math.inf))


def a_function(model, banned):
    """A function has no config."""

    def call(tokens, t=None):
        return model(tokens, t).index_fill(-1, torch.tensor(banned, dtype=torch.long), -math.inf)

    return call


def surprises(model, canvas, filling):
    with torch.no_grad():
        masks = canvas == model.config.mask_id
        return F.cross_entropy(model(canvas[None])[0][masks], filling, reduction="none")


def one_pass(model, canvas, filling):
    """One pass for all masks: no filled token sees another one."""
    return math.exp(surprises(model, canvas, filling).mean())


def sum_for_mean(model, canvas, filling):
    """The sum of the surprises, not divided by their number."""
    return math.exp(surprises(model, canvas, filling).sum())


@torch.no_grad()
def pseudo_likelihood(model, canvas, filling):
    """Each token is predicted while all others are visible, also the later ones."""
    masks, total = (canvas == model.config.mask_id).nonzero()[:, 0], 0.0
    for place, token in zip(masks, filling):
        seen = canvas.clone()
        seen[masks] = filling
        seen[place] = model.config.mask_id
        total -= model(seen[None])[0, place].log_softmax(-1)[token].item()
    return math.exp(total / len(masks))


@torch.no_grad()
def from_right_to_left(model, canvas, filling):
    """The other order."""
    canvas, total = canvas.clone(), 0.0
    masks = (canvas == model.config.mask_id).nonzero()[:, 0].flip(0)
    for place, token in zip(masks, filling.flip(0)):
        total -= model(canvas[None])[0, place].log_softmax(-1)[token].item()
        canvas[place] = token
    return math.exp(total / len(masks))


@torch.no_grad()
def canvas_overwritten(model, canvas, filling):
    """The canvas of the caller is filled."""
    total = 0.0
    masks = (canvas == model.config.mask_id).nonzero()[:, 0]
    for place, token in zip(masks, filling):
        total -= model(canvas[None])[0, place].log_softmax(-1)[token].item()
        canvas[place] = token
    return math.exp(total / len(masks))


WRONG = {
    "predict_windows": [windows_side_by_side, last_window_not_moved, all_steps_for_each_window],
    "canvas_with_ends": [masks_of_the_whole_length, end_forgotten_in_the_count, no_error, exact_fit_refused,
                         blanks_as_text],
    "without": [logit_zero, in_place, probabilities_for_logits, only_the_first, a_function],
    "template_perplexity": [one_pass, sum_for_mean, pseudo_likelihood, from_right_to_left, canvas_overwritten],
}
