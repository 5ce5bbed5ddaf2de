"""Random blocks of a text, and random masks in them, for the training of chapter 13."""

import torch

from plumbing import sampling

SIZES = (1, 2, 4, 8, 16, 32, 64)  # block sizes of training, besides the whole window
SMALL = 16  # largest block that training sometimes masks completely


def draw_starts(T):
    """Draw blocks that cover the positions 1 to T, and return where the block of each position starts: (T,).

    One time in eight it is one block. Otherwise each size is as likely as makes all sizes cover equally many positions.
    """
    starts, at = torch.ones(T, dtype=torch.long), 1
    if torch.rand(()) < 1 / 8:
        return starts
    while at <= T:
        size = SIZES[int(torch.multinomial(1 / torch.tensor(SIZES), 1))]
        starts[at - 1 : at - 1 + size] = at
        at += size
    return starts


def mask_blocks(x, starts, mask_id, whole=0.0, generator=None):
    """Mask k tokens of each block of x (B, T), with k evenly from 1 to the size of the block: (B, T).

    Also returns size / k of the block of each token, its weight in the NELBO: (B, T). whole: the share of the small
    blocks that are masked completely, because drafts begin from such blocks.
    """
    first, block, size = torch.unique_consecutive(starts, return_inverse=True, return_counts=True)
    B, G = len(x), len(size)
    u = sampling.stratified(B * G, x.device, generator).view(B, G)
    k = 1 + (u * size).long().clamp(max=size - 1)  # (B, G)
    completely = (torch.rand(B, G, device=x.device, generator=generator) < whole) & (size <= SMALL)
    k = torch.where(completely, size, k)
    score = block + torch.rand(x.shape, device=x.device, generator=generator)  # (B, T) sorted by block
    rank = score.argsort(1).argsort(1) - (first - starts[0])[block]  # (B, T) of the score within the block
    return torch.where(rank < k[:, block], mask_id, x), (size / k)[:, block]
