"""Chapter 13: can one model be a GPT and a diffusion model, and does it then write faster?

    python 13_block_diffusion.py                              # train; no GPU: 7 minutes on two cores
    python 13_block_diffusion.py --write --prompt "ROMEO:"    # the text of a GPT, in fewer passes: draft and verify
    python 13_block_diffusion.py --write --block 8 --steps 4  # block by block: blocks of 8 characters, 4 passes each
    python 13_block_diffusion.py --measure                    # the curve from GPT to dLLM, and the speeds: 15 minutes

A GPT writes one token per pass. A dLLM writes many, but its tokens of one pass do not see each other. Between them is
block diffusion (BD3-LM, Arriola et al. 2025, arXiv:2503.09573): the text is written block by block from left to right,
and each block by unmasking. A block of one token is a GPT, and a block as long as the text is a dLLM.

One network learns all block sizes here. So it can also do two jobs in one pass: as a GPT it verifies the tokens that
were proposed before, and as a dLLM it proposes the next ones (TiDAR, Liu et al. 2025, arXiv:2511.08923). The text then
has exactly the distribution of the GPT. In a terminal, accepted proposals are highlighted, and refused ones are red.
"""

import functools
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from plumbing import checkpoint, cli, corpora, devices, measures, runs, sampling, settings, tokenizers

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
generation = import_module("06_generate")
gpt_training = import_module("07_train_gpt")
fast = import_module("11_fast_decoding")

SIZES = (1, 2, 4, 8, 16, 32, 64)  # block sizes of training, besides the whole window
SMALL = 16  # largest block from which drafts are trained
CLEAN = -1


# 1. Who sees whom


class Rows(NamedTuple):
    """The R rows that one pass computes. Each row is a token at a position, in one of two streams.

    The clean stream is a GPT: a clean row sees the clean rows up to its own position. The noisy stream consists of
    blocks with masks. A noisy row sees all rows of its own block, and the clean rows before the block.
    """

    positions: torch.Tensor  # (R,)
    visible: torch.Tensor  # (R, R) True where the first row sees the second one
    near: torch.Tensor  # (R, width) for the convolution: where the visible rows at the positions p - width + 1 … p are


def make_rows(positions, start, width=1):
    """Return the Rows at `positions` (R,). start (R,): where the block of each row starts, or CLEAN.

    Positions are counted from the first row. If clean rows precede it, they have negative positions, and all rows see
    them. The indices in `near` count the width - 1 rows before the first one too, because a convolution reads them.
    """
    clean, before = start == CLEAN, torch.where(start == CLEAN, positions + 1, start)  # sees clean rows below `before`
    visible = clean & (positions < before[:, None]) | ~clean & (start == start[:, None])  # (R, R)
    wanted = positions[:, None] - torch.arange(width - 1, -1, -1, device=positions.device)  # (R, width)
    found = visible[:, None] & (positions == wanted[..., None])  # (R, width, R), with at most one True per position
    near = torch.where(found.any(-1), found.int().argmax(-1), wanted)
    return Rows(positions, visible, near + width - 1)


def two_streams(starts, width=1):
    """The Rows of training on T + 1 tokens: T clean rows, which predict the next token, then T noisy rows.

    starts (T,): where the block of each noisy row starts. The noisy rows are at positions 1 to T, because the GPT, too,
    predicts these from the first token on.
    """
    here = torch.arange(len(starts), device=starts.device)
    return make_rows(torch.cat((here, here + 1)), torch.cat((torch.full_like(here, CLEAN), starts)), width)


# 2. The model: chapter 03's Transformer, with another attention mask and a head for drafts


class Layer:
    """What chapter 02's Attention needs as a buffer: the keys and values of all rows, and who sees whom.

    room: tensors (B, nh, rows, hd) for keys and values, whose first n rows are kept from earlier passes; None: no rows.
    """

    def __init__(self, visible, room=None, n=0):
        self.visible, self.room, self.n = visible, room, n

    def write(self, positions, k, v):
        self.k, self.v = k, v
        if self.room:
            end = self.n + k.shape[2]
            for room, new in zip(self.room, (k, v)):
                room[:, :, self.n : end] = new
            self.k, self.v = (room[:, :, :end] for room in self.room)

    def mask(self, positions, causal):
        return self.visible


class Kept:
    """The keys, values and embeddings of the first n clean rows of a text, and room for the rows of one more pass.

    No clean row depends on a later one, so kept rows are exact. A pass writes its rows behind them, the clean ones
    first. To keep some of these, raise n; the next pass writes over the others.
    """

    def __init__(self, model, batch, rows):
        c, kind = model.config, dict(device=model.head.weight.device, dtype=model.head.weight.dtype)
        self.n = 0
        self.rooms = [torch.zeros(2, batch, c.n_head, rows, c.n_embd // c.n_head, **kind) for _ in range(c.n_layer)]
        self.embedded = torch.zeros(batch, rows + max(0, c.conv - 1), c.n_embd, **kind)  # zeros precede the text


class Hybrid(transformer.Transformer):
    """A causal Transformer that also reads noisy rows, and a small head that makes drafts hang together."""

    wiring = "hybrid"  # a checkpoint says so, since its weights fit no other class

    def __init__(self, config):
        super().__init__(config)
        V, C = config.vocab_size + 1, config.n_embd
        self.draft_up, self.draft_down = nn.Linear(C, 2 * C, bias=False), nn.Linear(2 * C, C, bias=False)
        self.previous = nn.Parameter(torch.zeros(2, V, 2 * C))  # one table for the token before, one for that before it
        nn.init.normal_(self.draft_up.weight, std=C**-0.5)
        nn.init.zeros_(self.draft_down.weight)

    def forward(self, tokens, rows=None, kept=None):
        """tokens (B, R) of the Rows `rows` → logits (B, R, V) and the vectors (B, R, C) from which they are made.

        Without `rows` all are clean: a GPT. kept: a Kept; its rows are seen by all rows, and the new ones join it.
        """
        B, R = tokens.shape
        if rows is None:
            here = torch.arange(R, device=tokens.device)
            rows = make_rows(here, torch.full_like(here, CLEAN), max(1, self.config.conv))
        x, n = self.token_emb(tokens), kept.n if kept else 0  # (B, R, C)
        if self.conv is not None:
            width = self.config.conv
            if kept:
                kept.embedded[:, n + width - 1 : n + width - 1 + R] = x
            near = kept.embedded[:, n : n + width - 1 + R] if kept else F.pad(x, (0, 0, width - 1, 0))
            x = x + sum(weight * near[:, rows.near[:, i]] for i, weight in enumerate(self.conv.weight))
        positions = rows.positions + n
        table = transformer.attention.rotary_table(positions, self.config.n_embd // self.config.n_head)
        visible = F.pad(rows.visible, (n, 0), value=True)  # (R, n + R)
        for i, block in enumerate(self.blocks):
            x = block(x, positions, table, Layer(visible, kept.rooms[i] if kept else None, n))
        x = self.norm(x)
        return self.head(x), x

    def follow(self, x, previous):
        """The logits of drafts: x (…, C) of rows of masks, previous (…, 2) the token before each and that before it.

        The drafts of a block are drawn one after another from these logits. They depend on each other through
        `previous` alone, which needs no pass of the network (Hydra, Ankner et al. 2024, arXiv:2402.05109).
        """
        inner = self.draft_up(x) + self.previous[0][previous[..., 0]] + self.previous[1][previous[..., 1]]  # (…, 2C)
        return self.head(self.norm(x + self.draft_down(F.relu(inner).square())))


# 3. Training: the loss of a GPT, the loss of a dLLM, and the loss of the drafts


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
    u = diffusion.stratified(B * G, x.device, generator).view(B, G)
    k = 1 + (u * size).long().clamp(max=size - 1)  # (B, G)
    completely = (torch.rand(B, G, device=x.device, generator=generator) < whole) & (size <= SMALL)
    k = torch.where(completely, size, k)
    score = block + torch.rand(x.shape, device=x.device, generator=generator)  # (B, T) sorted by block
    rank = score.argsort(1).argsort(1) - (first - starts[0])[block]  # (B, T) of the score within the block
    return torch.where(rank < k[:, block], mask_id, x), (size / k)[:, block]


def cross_entropies(network, windows, starts, whole=0.0, generator=None):
    """One training pass over windows (B, T + 1): the cross-entropies (B, T) of the clean stream, of the noisy stream
    (0 where it is not masked) and of the drafts (0 where a token could not be one), and the weights of mask_blocks."""
    T, x, mask_id = len(starts), windows[:, 1:], network.config.mask_id
    xt, weight = mask_blocks(x, starts, mask_id, whole, generator)
    rows = two_streams(starts, network.config.conv)
    logits, vectors = network(torch.cat((windows[:, :-1], xt), 1), rows)  # (B, 2T, V), (B, 2T, C)
    loss = F.cross_entropy(logits.float().flatten(0, 1), x.repeat(1, 2).flatten(), reduction="none").view(len(x), 2 * T)
    place = torch.arange(1, T + 1, device=x.device) - starts  # (T,) in the block
    drafts = (weight == 1) & (place > 0) & (place < SMALL)  # (B, T): the token at place 0 comes from the clean stream
    previous = torch.stack((windows[:, :-1], windows[:, :-1].roll(1, 1)), -1)  # (B, T, 2)
    draft = torch.zeros_like(loss[:, :T])
    draft[drafts] = F.cross_entropy(network.follow(vectors[:, T:][drafts], previous[drafts]).float(), x[drafts],
                                    reduction="none")
    return loss[:, :T], loss[:, T:] * (xt == mask_id), draft, weight


def hybrid_loss(network, windows):
    """The sum of three means: over all tokens, over the masked tokens, and over the drafts. windows: (B, T + 1)."""
    starts = draw_starts(windows.shape[1] - 1).to(windows.device)
    clean, noisy, draft, _ = cross_entropies(network, windows, starts, whole=0.25)
    return clean.mean() + noisy.sum() / (noisy > 0).sum() + draft.sum() / (draft > 0).sum().clamp(min=1)


# 4. Likelihood: an exact one, and a bound for every block size


def as_gpt(model):
    """The clean stream of a Hybrid as a Transformer of chapter 03, which shares its weights."""
    with torch.device("meta"):
        gpt = transformer.Transformer(model.config)
    gpt.load_state_dict({name: model.state_dict()[name] for name in gpt.state_dict()}, assign=True)
    return gpt.eval().requires_grad_(False)


@torch.no_grad()
def block_nelbo(model, windows, size, draws=1, seed=0, batch_size=32):
    """Estimate the NELBO of windows (N, T + 1), written in blocks of `size`: (mean, standard error) in nats per token.

    By the chain rule, -log p(text) is the sum of -log p(block | text before it). Each term has chapter 04's bound,
    which a single pass estimates for all blocks. The first token of a window is given. The error is over the windows.
    """
    generator = torch.Generator(windows.device).manual_seed(seed)
    T = windows.shape[1] - 1
    starts = 1 + torch.arange(T, device=windows.device) // size * size
    bounds = []
    for rows in windows.split(batch_size):
        losses = [cross_entropies(model, rows, starts, generator=generator) for _ in range(draws)]
        bounds.append(sum((weight * noisy).mean(1) for _, noisy, _, weight in losses) / draws)
    return measures.mean_and_error(torch.cat(bounds))


def two_losses(start):
    """The Objective of this chapter. start: the token with which the samples at evaluations begin."""

    def sample(model):
        first = torch.tensor([[start]], device=model.head.weight.device)
        return gpt_training.generate(as_gpt(model), first, model.config.seq_len - 1)[0]

    return training.Objective("NLL", 1, hybrid_loss, lambda model, windows, draws: gpt_training.nll(as_gpt(model), windows),
                              sample)


# 7. The command line


@dataclass(frozen=True)
class Command(runs.RunFlags):
    """The flags of this chapter."""

    config: str = "hybrid-laptop"  # the settings file: a name in configs/, or the path of a YAML file
    model: transformer.TransformerConfig = transformer.TransformerConfig()
    train: training.TrainConfig = training.TrainConfig()


def main(argv=None):
    command = settings.parse(Command, argv)
    corpus = corpora.load(command.corpus)
    tokenizer = tokenizers.CharTokenizer.from_text(corpus.text)
    model_config = replace(command.model, vocab_size=tokenizer.vocab_size, causal=True)
    training.start_run(command, "hybrid", model_config, two_losses(gpt_training.opening(tokenizer)), tokenizer, corpus,
                       corpora.split(corpus.text), Hybrid)


if __name__ == "__main__":
    cli.run(main)
