"""Plausible mistakes in the exercises for chapter 11. Each docstring names the mistake."""

import torch


def steps_shared_by_blocks():
    """The blocks share one pass."""
    return [8, 1, 16, 1, 4, 16]


def guidance_for_free():
    """Guidance reads two texts in one pass, which counts twice."""
    return [8, 2, 8, 1, 4, 16]


def given_tokens_count():
    """The given tokens are written too."""
    return [8, 2, 16, 1, 5, 20]


def no_top_up():
    """A threshold that nothing reaches commits nothing."""
    return [8, 2, 16, 1, 4, 0]


def first_failing_too(confidences, f):
    """The first token below its bar is committed too."""
    ranked = sorted(confidences, reverse=True)
    for m, c in enumerate(ranked, 1):
        if c < 1 - f / (m + 1):
            return m
    return len(ranked)


def unsorted(confidences, f):
    """The order of the text instead of the order of confidence."""
    n = 0
    for c in confidences:
        if c < 1 - f / (n + 2):
            break
        n += 1
    return max(1, n)


def not_even_one(confidences, f):
    """A pass that commits nothing never ends."""
    n = 0
    for c in sorted(confidences, reverse=True):
        if c < 1 - f / (n + 2):
            break
        n += 1
    return n


def one_bar_for_all(confidences, f):
    """How many tokens are above the bar of a single token."""
    return max(1, sum(c >= 1 - f / 2 for c in confidences))


def largest_n_anywhere(confidences, f):
    """Tokens below their bar are skipped."""
    ranked = sorted(confidences, reverse=True)
    return max([1, *(m for m, c in enumerate(ranked, 1) if c >= 1 - f / m)])


def ancestral_only(alpha_t, alpha_s, sigma):
    """Tokens that are masked again are not replaced."""
    return (alpha_s - alpha_t) / (1 - alpha_t)


def wrong_sign(alpha_t, alpha_s, sigma):
    """As if remasking made tokens visible."""
    return (alpha_s - alpha_t * (1 + sigma)) / (1 - alpha_t)


def clamped(alpha_t, alpha_s, sigma):
    """A sigma that is too large gives 1 instead of an error."""
    return min(1.0, (alpha_s - alpha_t * (1 - sigma)) / (1 - alpha_t))


def divided_by_zero(alpha_t, alpha_s, sigma):
    """The limit of sigma is computed also where no token is visible."""
    if sigma > (1 - alpha_s) / alpha_t + 1e-9:
        raise ValueError("sigma is too large")
    return (alpha_s - alpha_t * (1 - sigma)) / (1 - alpha_t)


def share_of_all_tokens(alpha_t, alpha_s, sigma):
    """The share of all tokens, not of the masked ones."""
    if sigma * alpha_t > 1 - alpha_s + 1e-9:
        raise ValueError("sigma is too large")
    return alpha_s - alpha_t * (1 - sigma)


def plain_threshold(seen, tau):
    """Neighbours are committed together."""
    return (seen.confidence >= tau) & seen.masked


def only_peaks(seen, tau):
    """Only positions that are surer than both neighbours, as the rule `apart` does."""
    c = seen.confidence.masked_fill(~seen.masked, -1.0)
    edge = torch.full_like(c[:, :1], -1.0)
    peak = (c > torch.cat((edge, c[:, :-1]), 1)) & (c > torch.cat((c[:, 1:], edge), 1))
    return peak & seen.masked & (c >= tau)


def left_to_right(seen, tau):
    """The order of the text instead of the order of confidence."""
    chosen = plain_threshold(seen, tau)
    for i in range(1, chosen.shape[1]):
        chosen[:, i] &= ~chosen[:, i - 1]
    return chosen


def away_from_known(seen, tau):
    """Neighbours of earlier passes keep a position out too."""
    chosen = seen.masked & False
    for row, order in enumerate(seen.confidence.argsort(1, descending=True).tolist()):
        for i in order:
            near = slice(max(0, i - 1), i + 2)
            free = seen.masked[row, near].all() and not chosen[row, near].any()
            chosen[row, i] = free and seen.confidence[row, i] >= tau
    return chosen


def known_positions_too(seen, tau):
    """Positions that are not masked are committed again."""
    chosen = seen.masked & False
    for row, order in enumerate(seen.confidence.argsort(1, descending=True).tolist()):
        for i in order:
            chosen[row, i] = seen.confidence[row, i] >= tau and not chosen[row, max(0, i - 1) : i + 2].any()
    return chosen


def both_neighbours_are_slices(seen, tau):
    """At the position 0 the slice that begins at -1 is empty."""
    chosen = seen.masked & False
    for row, order in enumerate(seen.confidence.argsort(1, descending=True).tolist()):
        for i in order:
            if seen.masked[row, i] and seen.confidence[row, i] >= tau and not chosen[row, i - 1 : i + 2].any():
                chosen[row, i] = True
    return chosen


WRONG = {
    "predict_passes": [steps_shared_by_blocks, guidance_for_free, given_tokens_count, no_top_up],
    "factor_count": [first_failing_too, unsorted, not_even_one, one_bar_for_all, largest_n_anywhere],
    "unmasking_probability": [ancestral_only, wrong_sign, clamped, divided_by_zero, share_of_all_tokens],
    "threshold_apart": [plain_threshold, only_peaks, left_to_right, away_from_known, known_positions_too,
                        both_neighbours_are_slices],
}
