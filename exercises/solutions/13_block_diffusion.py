"""Our solutions to the exercises for chapter 13. Other solutions can be just as good."""

import torch


def predict_seen():
    # The clean row at position i sees the clean rows 0 to i, as in a GPT. A noisy row sees its whole block and the
    # clean rows before the block: 3 + 1 rows in the first block, and 2 + 4 rows in the second block. It does not see
    # the clean rows of its own block, because they contain the answers.
    return [1, 2, 3, 4, 5, 4, 4, 4, 6, 6]


def expected_characters(rates):
    # The first n drafts are all accepted with a probability that is the product of the first n rates. The sum of these
    # products over n is the mean number of accepted drafts. The last character of the pass adds 1.
    total = together = 1.0
    for rate in rates:
        together *= rate
        total += together
    return total


def block_mask(T, size):
    # Two comparisons are enough: the same block, and an earlier block. No row sees a later block. A noisy row does not
    # see the clean rows of its own block either, because they contain the answers.
    block = (torch.arange(T) // size).repeat(2)  # (2T,)
    clean = torch.arange(2 * T) >= T  # (2T,)
    same = block[:, None] == block  # (2T, 2T): is it the same block?
    earlier = block[:, None] > block  # is the second block earlier?
    return same & (clean[:, None] == clean) | earlier & clean


def acceptance(p, q):
    # Token x is drafted and accepted with at most the probability min(p(x), q(x)), and accept = p / q, limited to 1,
    # reaches this maximum. What p(x) still lacks is max(0, p(x) - q(x)), and the sum of these numbers is the
    # probability that a draft is refused. A token with q = 0 is never drafted, so any value of `accept` is right for
    # it.
    accept = torch.where(q > 0, p / q.clamp(min=1e-30), 0).clamp(max=1)
    missing = (p - q).clamp(min=0)
    replace = missing / missing.sum() if missing.sum() > 0 else p
    return accept, replace
