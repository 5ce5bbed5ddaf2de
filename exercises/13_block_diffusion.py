"""Exercises for chapter 13: who sees whom, how much a pass writes, and the rule that accepts drafts.

Read 13_block_diffusion.py first. Replace each `raise NotImplementedError` with your own lines, and then run

    python exercises/check.py 13
"""
# ruff: noqa: F401 - the functions that you write use these imports

import torch


def predict_seen():
    """Predict how many rows each row sees in a training pass of chapter 13. (10 minutes)

    The rows of the pass are two_streams(torch.tensor([1, 1, 1, 4, 4]), width=0):
    five clean rows, at the positions 0 to 4, and then five noisy rows, at the positions 1 to 5.
    The first noisy block starts at position 1, and the second at position 4.
    Return a list of ten numbers. Each row also sees itself, so count it, too.

    Hint: section 1 of the chapter says who sees whom. A position can have a clean row and also a noisy row.
    """
    raise NotImplementedError


def expected_characters(rates):
    """Return the mean number of characters that a pass of `draft_and_verify` adds to the text. (10 minutes)

    `rates` is a list of floats from 0 to 1, one for each draft. The list can be empty.
    A rate is the probability that a draft is accepted if all drafts before it are accepted.
    The pass adds all drafts before the first refused draft, and then always one more character.

    Hint: how probable is it that the first n drafts are all accepted? The mean is a sum of such probabilities.
    """
    raise NotImplementedError


def block_mask(T, size):
    """Return the attention mask of a training pass in the paper BD3-LM (arXiv:2503.09573). (20 minutes)

    The mask is a boolean tensor (2T, 2T): True where row i sees row j.
    There are T noisy rows, at the positions 0 to T - 1, and then T clean rows, at the same positions.
    Each block has `size` positions, and the first block begins at position 0. The last block can be shorter.
    A noisy row sees all noisy rows of its own block, and all clean rows of earlier blocks.
    A clean row sees all clean rows of its own block and of earlier blocks.
    (In chapter 13, a clean row sees no later row.)

    Hint: give each row the number of its block, and compare the numbers of all pairs of rows by broadcasting.
    """
    raise NotImplementedError


def acceptance(p, q):
    """Return the rule that turns drafts drawn from q into tokens with distribution p. (30 minutes)

    Return two tensors, accept and replace.
    `p` (V,) has the probabilities that the next token must have. The draft is drawn with the probabilities `q` (V,).
    A draft x is accepted with probability accept[x]. A refused draft is replaced by a token drawn from `replace`.
    The next token must have exactly the distribution p, and drafts must be accepted as often as possible.
    Both results have the shape (V,) and must be finite, even where an entry of p or q is 0.
    If no draft is ever refused, any probabilities will do as `replace`.

    Hint: x is drafted and accepted with probability q(x) accept[x], which must not exceed p(x). How much is missing?
    """
    raise NotImplementedError
