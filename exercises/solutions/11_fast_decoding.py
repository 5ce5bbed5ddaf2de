"""Our solutions of the exercises for chapter 11. Other solutions can be as good."""

import torch


def predict_passes():
    # Without a rule, the plan decides: 8 passes, or at least one for each of the 2 blocks. Guidance reads two texts per
    # pass, with and without the given tokens, so each pass counts twice. A threshold of 0 accepts all proposals, so
    # each block takes one pass, and nothing reaches a threshold of 1 here, so each pass commits a single token.
    return [8, 2, 16, 1, 4, 16]


def factor_count(confidences, f):
    # The required confidence rises with m, because more tokens must be right together. The count ends before the first
    # token that is not confident enough; a later token cannot make up for it. The first token is committed in any case,
    # because a pass that commits nothing would be repeated for ever.
    n = 0
    for c in sorted(confidences, reverse=True):
        if c < 1 - f / (n + 2):  # the token n + 1
            break
        n += 1
    return max(1, n)


def unmasking_probability(alpha_t, alpha_s, sigma):
    # The share alpha_t (1 - sigma) stays visible, and (1 - alpha_t) q is written. Their sum must be alpha_s. Each token
    # that is masked again has to be replaced by one that is written, so q grows with sigma. A probability q is at most
    # 1, and this limits sigma: it is the bound σ ≤ (1 - α_s) / α_t that chapter 11 quotes from ReMDM.
    q = (alpha_s - alpha_t * (1 - sigma)) / (1 - alpha_t)
    if q > 1 + 1e-9:  # rounding can give a little more than 1
        raise ValueError("sigma is too large")
    return min(1.0, q)


def threshold_apart(seen, tau):
    # To take the most confident first matters: from left to right, an unsure token could keep out a surer neighbour. In
    # contrast to the rule `apart`, a position can be committed next to a surer one that was itself kept out.
    chosen = torch.zeros_like(seen.masked)
    for row, order in enumerate(seen.confidence.argsort(1, descending=True).tolist()):
        for i in order:
            sure = seen.masked[row, i] and seen.confidence[row, i] >= tau
            if sure and not chosen[row, max(0, i - 1) : i + 2].any():
                chosen[row, i] = True
    return chosen
