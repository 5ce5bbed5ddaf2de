"""Exercises for chapter 11: forward passes, the factor rule, remasking, and a selection rule of your own.

Read 11_fast_decoding.py first. Replace each `raise NotImplementedError` with your own lines, and then run

    python exercises/check.py 11
"""
# ruff: noqa: F401 - the functions that you write use these imports

import torch


def predict_passes():
    """Predict how many forward passes (NFE) chapter 11's `decode` needs for a text. (10 minutes)

    The canvas has 20 positions: 4 given tokens, and then 16 masks. The model is not trained, so it is never certain:
    all its probabilities are above 0 and below 1. Return a list of six numbers, the `nfe` of the last State for

        1. decode(model, canvas, steps=8)
        2. decode(model, canvas, steps=1, how=Decoding(block=8))
        3. decode(model, canvas, steps=8, how=Decoding(guidance=1.0))
        4. decode(model, canvas, how=Decoding(threshold=0.0))
        5. decode(model, canvas, how=Decoding(threshold=0.0, block=4))
        6. decode(model, canvas, how=Decoding(threshold=1.0))

    Hint: `plan_blocks` gives each block at least one pass, and each pass of a rule commits at least one token.
    """
    raise NotImplementedError


def factor_count(confidences, f):
    """Return how many tokens the factor rule of Fast-dLLM commits in one pass. (15 minutes)

    confidences: a list of at least one float, one for each mask, in the order of the text. Let c_1 ≥ c_2 ≥ … be the
    same numbers, sorted. The rule commits the n most confident proposals, where n is the largest number for which
    c_m ≥ 1 - f / (m + 1) holds for every m from 1 to n. A pass commits at least one token. Return n, an int.
    Hint: which of the tokens does a pass still commit if c_3 is the first confidence that is too low?
    """
    raise NotImplementedError


def unmasking_probability(alpha_t, alpha_s, sigma):
    """Return the probability with which a sampler that also remasks must write a masked token. (20 minutes)

    A pass goes from noise level t to a lower one, s. Before the pass each token is visible with probability alpha_t,
    and after it with probability alpha_s, where 0 ≤ alpha_t < alpha_s ≤ 1. In the pass each visible token is masked
    again with probability sigma. Each token that was masked before the pass is written with the probability that this
    function returns, a float. With sigma=0 this is the order `ancestral` of chapter 11. If sigma is so large that even
    a probability of 1 is too small, raise ValueError.
    Hint: write down the expected share of visible tokens after the pass, from both sources, and set it to alpha_s.
    """
    raise NotImplementedError


def threshold_apart(seen, tau):
    """A selection rule of your own: commit what is confident, but no two neighbours in the same pass. (30 minutes)

    Tokens of one pass do not see each other, and neighbours depend on each other most. So go through the masked
    positions from the most to the least confident one, as long as the confidence is at least tau. Commit a position
    unless this pass already commits the position directly before or after it. Neighbours that earlier passes have
    committed do not matter.
    seen: chapter 11's Proposals, with seen.confidence (B, b) and seen.masked (B, b). Return (B, b) bool: True where a
    token is committed. A row can be False everywhere; then `decode` commits the most confident token by itself.
    Hint: argsort(descending=True), and one loop over the rows and their positions. Speed does not matter here.
    """
    raise NotImplementedError
