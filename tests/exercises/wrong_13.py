"""Plausible mistakes in the exercises for chapter 13. Each docstring names the mistake."""

import torch


def noisy_rows_see_the_answers():
    """Noisy rows see the clean rows of their own block too."""
    return [1, 2, 3, 4, 5, 5, 6, 7, 7, 8]


def noisy_rows_look_back_only():
    """The noisy rows are causal inside a block."""
    return [1, 2, 3, 4, 5, 2, 3, 4, 5, 6]


def clean_rows_see_all():
    """The clean rows are not causal."""
    return [5, 5, 5, 5, 5, 4, 4, 4, 6, 6]


def position_zero_forgotten():
    """The clean row before the first block is forgotten."""
    return [1, 2, 3, 4, 5, 3, 3, 3, 5, 5]


def sum_of_rates(rates):
    """A draft is counted although an earlier one was refused."""
    return 1 + sum(rates)


def accepted_only(rates):
    """The token that every pass adds is forgotten."""
    total, together = 0.0, 1.0
    for rate in rates:
        together *= rate
        total += together
    return total


def all_or_nothing(rates):
    """Either all drafts are accepted or none."""
    together = 1.0
    for rate in rates:
        together *= rate
    return 1 + len(rates) * together


def powers_of_the_mean(rates):
    """Every draft has the mean rate."""
    mean = sum(rates) / max(1, len(rates))
    return sum(mean**n for n in range(len(rates) + 1))


def parts(T, size):
    block, clean = (torch.arange(T) // size).repeat(2), torch.arange(2 * T) >= T
    return block[:, None], block, clean[:, None], clean


def answers_visible(T, size):
    """A noisy row sees the clean rows of its own block."""
    row, column, clean, column_clean = parts(T, size)
    return (row == column) & (clean == column_clean) | (row >= column) & column_clean


def causal_clean_rows(T, size):
    """The clean rows are those of the book's hybrid, which see earlier positions only."""
    row, column, clean, column_clean = parts(T, size)
    mask = (row == column) & (clean == column_clean) | (row > column) & column_clean
    mask[T:, T:] = torch.ones(T, T, dtype=torch.bool).tril()
    return mask


def one_stream(T, size):
    """Noisy rows see the noisy rows of earlier blocks instead of the clean ones."""
    row, column, clean, column_clean = parts(T, size)
    return (row >= column) & (clean == column_clean)


def streams_exchanged(T, size):
    """The clean rows come first."""
    row, column, clean, column_clean = parts(T, size)
    return (row == column) & (clean == column_clean) | (row > column) & ~column_clean


def transposed(T, size):
    """Rows and columns are exchanged."""
    row, column, clean, column_clean = parts(T, size)
    return ((row == column) & (clean == column_clean) | (row > column) & column_clean).T


def replaced_from_p(p, q):
    """The replacement is drawn from p itself, so tokens with q < p stay too rare."""
    return torch.where(q > 0, p / q.clamp(min=1e-30), 0).clamp(max=1), p


def refuse_everything(p, q):
    """Right, but no draft is ever accepted."""
    return torch.zeros_like(p), p


def all_or_none(p, q):
    """A draft is accepted only if p is at least as high as q there."""
    missing = (p - q).clamp(min=0)
    return (p >= q).to(p), missing / missing.sum() if missing.sum() > 0 else p


def absolute_difference(p, q):
    """The replacement also contains tokens that are drafted too often."""
    missing = (p - q).abs()
    accept = torch.where(q > 0, p / q.clamp(min=1e-30), 0).clamp(max=1)
    return accept, missing / missing.sum() if missing.sum() > 0 else p


def not_a_number(p, q):
    """0 / 0 where nothing is drafted or missing."""
    missing = (p - q).clamp(min=0)
    return (p / q).clamp(max=1), missing / missing.sum()


def without_limit(p, q):
    """p / q can be above 1."""
    missing = (p - q).clamp(min=0)
    return torch.where(q > 0, p / q.clamp(min=1e-30), 0), missing / missing.sum() if missing.sum() > 0 else p


def accept_with_p(p, q):
    """A draft is accepted with the probability p, whatever q is."""
    missing = (p - q).clamp(min=0)
    return p, missing / missing.sum() if missing.sum() > 0 else p


WRONG = {
    "predict_seen": [noisy_rows_see_the_answers, noisy_rows_look_back_only, clean_rows_see_all,
                     position_zero_forgotten],
    "expected_characters": [sum_of_rates, accepted_only, all_or_nothing, powers_of_the_mean],
    "block_mask": [answers_visible, causal_clean_rows, one_stream, streams_exchanged, transposed],
    "acceptance": [replaced_from_p, refuse_everything, all_or_none, absolute_difference, not_a_number, without_limit,
                   accept_with_p],
}
