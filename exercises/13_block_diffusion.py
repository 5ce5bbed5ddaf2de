"""Exercises for chapter 13: who sees whom, the characters of a pass, and the rule that accepts drafts.

Read 13_block_diffusion.py first. Replace each `raise NotImplementedError` with your own lines, and then run

    python exercises/check.py 13
"""
# ruff: noqa: F401 - the functions that you write use these imports

import torch


def predict_seen():
    """Predict how many rows each row of chapter 13's training pass sees. (10 minutes)

    two_streams(torch.tensor([1, 1, 1, 4, 4])) returns ten rows: first five clean rows, at the positions 0 to 4, and
    then five noisy rows, at the positions 1 to 5. The first noisy block starts at position 1, and the second one at 4.
    Return a list of ten numbers: how many of the ten rows each row sees, itself included.
    Hint: the docstring of `Rows` says who sees whom. A position can have a clean row and also a noisy one.
    """
    raise NotImplementedError


def expected_characters(rates):
    """Return how many characters a pass of draft and verify adds on average. (10 minutes)

    rates: a list of floats from 0 to 1, which may be empty. The first is the probability that the first draft is
    accepted. Each further one is the probability that this draft is accepted if all drafts before it are. The first
    refused draft ends the pass. In every case the pass adds one more token, which replaces the refused draft or follows
    the last accepted one. Return a float.
    Hint: with which probability are the first n drafts all accepted? The mean of a count is the sum of such numbers.
    """
    raise NotImplementedError


def block_mask(T, size):
    """Return who sees whom in the training pass of the paper, BD3-LM (arXiv:2503.09573). (20 minutes)

    In the paper the clean rows predict nothing: the noisy rows read them as context. So, unlike the clean rows of this
    chapter, a clean row also sees the rest of its own block. There are 2T rows: first T noisy rows, at the positions 0
    to T - 1, and then T clean rows, at the same positions. The blocks of `size` positions begin at position 0, and the
    last block may be shorter. The rule has two parts:

        A noisy row sees all noisy rows of its own block, and all clean rows of earlier blocks.
        A clean row sees all clean rows of its own block and of earlier blocks.

    Return (2T, 2T) bool, True where the first row sees the second one.
    Hint: give each row the number of its block, and compare the numbers of all pairs of rows by broadcasting.
    """
    raise NotImplementedError


def acceptance(p, q):
    """Return the rule that turns drafts from q into tokens from p, as two tensors (accept, replace). (30 minutes)

    p: (V,) the probabilities that the next token should have. q: (V,) those from which its draft was drawn. A draft x
    is accepted with probability accept[x]. If it is refused, the token that replaces it is drawn from the probabilities
    `replace`. Choose both so that the token has exactly the distribution p, whatever q is, and that a draft is accepted
    as often as possible. Return accept (V,), numbers from 0 to 1, and replace (V,), which sums to 1. Both must be
    finite, although some tokens can have p = 0 or q = 0. If p and q are equal, no draft is refused, and `replace` may
    be any distribution.
    Hint: x is drafted and accepted with probability q(x) accept[x]. This must not exceed p(x). What is then missing?
    """
    raise NotImplementedError
