"""Exercises for chapter 13: who sees whom, the characters of a pass, and the rule that accepts drafts.

Read 13_block_diffusion.py first. Replace each `raise NotImplementedError` with your own lines, and then run

    python exercises/check.py 13
"""
# ruff: noqa: F401 - the functions that you write use these imports

import torch


def predict_seen():
    """Predict how many rows each row of chapter 13's training pass sees, itself included. (10 minutes)

    two_streams(torch.tensor([1, 1, 1, 4, 4]), width=0) returns ten rows:
    five clean rows, at the positions 0 to 4, and then five noisy rows, at the positions 1 to 5.
    The first noisy block starts at position 1, and the second one at 4. Return a list of ten numbers.

    Hint: section 1 of the chapter says who sees whom. A position can have a clean row and also a noisy one.
    """
    raise NotImplementedError


def expected_characters(rates):
    """Return how many characters a pass of draft and verify adds on average, a float. (10 minutes)

    rates: a list of floats from 0 to 1, one for each draft; it may be empty.
    A rate is the probability that its draft is accepted if all drafts before it are accepted.
    The first refused draft ends the pass. In every case the pass adds one more token of its own.

    Hint: how probable is it that the first n drafts are all accepted? The mean is a sum of such probabilities.
    """
    raise NotImplementedError


def block_mask(T, size):
    """Return who sees whom in the training pass of the paper, BD3-LM (arXiv:2503.09573): (2T, 2T) bool. (20 minutes)

    There are T noisy rows, at the positions 0 to T - 1, and then T clean rows, at the same positions.
    Blocks of `size` positions begin at position 0; the last one may be shorter.
    A noisy row sees all noisy rows of its own block, and all clean rows of earlier blocks.
    A clean row sees all clean rows of its own block and of earlier blocks. (In chapter 13, it sees no later row.)

    Hint: give each row the number of its block, and compare the numbers of all pairs of rows by broadcasting.
    """
    raise NotImplementedError


def acceptance(p, q):
    """Return the rule that turns drafts from q into tokens from p, as two tensors (accept, replace). (30 minutes)

    p: (V,), the probabilities that the next token should have. q: (V,), those from which its draft is drawn.
    A draft x is accepted with probability accept[x]. A refused draft is replaced by a token drawn from `replace` (V,).
    The token must have exactly the distribution p, and a draft must be accepted as often as possible.
    Some entries of p and q can be 0, and both results must be finite. If no draft is refused, any `replace` will do.

    Hint: x is drafted and accepted with probability q(x) accept[x]. This must not exceed p(x). What is then missing?
    """
    raise NotImplementedError
