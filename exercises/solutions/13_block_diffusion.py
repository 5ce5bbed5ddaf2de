"""Our solutions of the exercises for chapter 13. Other solutions can be as good."""

import torch


def predict_seen():
    # The clean row at position i is a row of a GPT: it sees the clean rows 0 to i. A noisy row sees its whole block and
    # the clean rows before the block: 3 + 1 rows in the first block, and 2 + 4 in the second one. It does not see the
    # clean rows of its own block, which contain the answers.
    return [1, 2, 3, 4, 5, 4, 4, 4, 6, 6]


def expected_characters(rates):
    # At least n drafts are accepted with the product of the first n rates. A count is the sum of "at least one", "at
    # least two" and so on, each 0 or 1, so its mean is the sum of these products. The other token of the pass adds 1.
    total = together = 1.0
    for rate in rates:
        together *= rate
        total += together
    return total


def block_mask(T, size):
    # Two comparisons say everything: the same block, and an earlier block. A clean row of a later block may never be
    # seen, and a noisy row may not even see the clean rows of its own block, since they contain its answer.
    block = (torch.arange(T) // size).repeat(2)  # (2T,)
    clean = torch.arange(2 * T) >= T  # (2T,)
    same = block[:, None] == block  # (2T, 2T): is it the same block?
    earlier = block[:, None] > block  # is the second block earlier?
    return same & (clean[:, None] == clean) | earlier & clean


def acceptance(p, q):
    # Token x can be drafted and accepted with at most the probability min(p(x), q(x)), and accept = p / q, limited to
    # 1, reaches it. What is missing to p(x) is max(0, p(x) - q(x)), and its sum is the probability that a draft is
    # refused. A token with q = 0 is never drafted, so any number is right there.
    accept = torch.where(q > 0, p / q.clamp(min=1e-30), 0).clamp(max=1)
    missing = (p - q).clamp(min=0)
    replace = missing / missing.sum() if missing.sum() > 0 else p
    return accept, replace
