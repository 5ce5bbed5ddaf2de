"""Chapter 13: can one model be a GPT and a diffusion model, and does it then write faster?

    python 13_block_diffusion.py                              # train; no GPU: 6 minutes on two cores
    python 13_block_diffusion.py write --prompt "ROMEO:"      # draft and verify: a GPT's text in fewer passes
    python 13_block_diffusion.py write --block 8 --steps 4    # blocks of 8 characters, with 4 passes each

A GPT writes one token per pass. A dLLM writes many tokens per pass, but the tokens of one pass do not see each other.
Block diffusion lies between the two (BD3-LM, Arriola et al. 2025, arXiv:2503.09573): it writes block after block from
left to right, and each block by unmasking. With blocks of one token, it is a GPT. With one block for the whole text, it
is a dLLM.

The model of this chapter learns blocks of many sizes. So it can do two jobs in one pass: as a GPT it verifies tokens
that were proposed before, and as a dLLM it proposes the next ones (TiDAR, Liu et al. 2025, arXiv:2511.08923). The text
then has exactly the distribution of the GPT. In a terminal, accepted proposals are highlighted, and refused ones are
red.

Sections 1 to 5 make the model and train it, section 6 writes in blocks, and section 7 drafts and verifies. At first you
may skip two things: which rows a convolution reads (`rows_before`), and the KeptRows of section 3, which save time.

After training you should see how the NELBO grows with the size of a block. For blocks of a whole window it is far above
the NELBO of chapter 05's dLLM, because only a small part of the training has such blocks. You should also see what
drafts save, in passes and in seconds. They save seconds only where a pass over many rows costs little more than a pass
over one (docs/block_diffusion.md).
"""

import functools
import math
import time
from dataclasses import asdict, dataclass
from importlib import import_module

from plumbing import checkpoint, cli, devices, measures, text

import torch
import torch.nn as nn
import torch.nn.functional as F

tensors = import_module("01_tensors")
attention = import_module("02_attention")
transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
generation = import_module("06_generate")
gpt = import_module("07_train_gpt")
fast = import_module("11_fast_decoding")


# 1. Who sees whom
#
# A pass computes rows. Each row is a token at a position, in one of two streams. The clean stream is a GPT: a clean row
# sees the clean rows up to its own position, and predicts the next token. The noisy stream consists of blocks, in which
# some tokens are masked. A noisy row sees all rows of its own block and the clean rows before the block, and predicts
# its own token. These are the rows of the text "abcde" in blocks of two:
#
#                    clean rows        noisy rows
#                    a   b   c   d     (b)  (c)   (d)  (e)
#        position    0   1   2   3      1    2     3    4
#        a sees      x
#        b sees      x   x
#        c sees      x   x   x
#        d sees      x   x   x   x
#      (b) sees      x                  x    x
#      (c) sees      x                  x    x
#      (d) sees      x   x   x                     x    x
#      (e) sees      x   x   x                     x    x
#
# (In BD3-LM, the clean rows of a block also see each other. Our clean rows do not, so that they can verify as a GPT.)

CLEAN = -1  # takes the place of a block's start in a clean row, which belongs to no block


@dataclass(frozen=True)
class Rows:
    """The R rows that one pass computes, and which of them each row reads."""

    positions: torch.Tensor  # (R,)
    visible: torch.Tensor  # (R, R) True where row i sees row j, in attention
    conv_rows: torch.Tensor  # (R, width) the rows that a convolution adds up: see `rows_before`


def make_rows(positions, start, width):
    """Return the Rows at `positions` (R,). start (R,): where the block of each row starts, or CLEAN.

    Positions are counted from the first of these rows. In addition, all rows see the clean rows of earlier passes.
    """
    is_clean = start == CLEAN
    before = torch.where(is_clean, positions + 1, start)  # a row sees the clean rows at positions below this
    sees_clean = is_clean[None, :] & (positions[None, :] < before[:, None])  # (R, R) row i sees column j
    sees_noisy = ~is_clean[None, :] & (start[None, :] == start[:, None])  # (R, R)
    visible = sees_clean | sees_noisy
    return Rows(positions, visible, rows_before(positions, visible, width))


def two_streams(starts, width):
    """Return the Rows of training on T + 1 tokens: T clean rows, which predict the next token, then T noisy rows.

    starts (T,): where the block of each noisy row starts. The clean rows are at the positions 0 to T - 1, and the noisy
    rows at the positions 1 to T. Both predict the tokens at the positions 1 to T.
    """
    place = torch.arange(len(starts), device=starts.device)
    clean = torch.full_like(starts, CLEAN)
    return make_rows(torch.cat((place, place + 1)), torch.cat((clean, starts)), width)


def rows_before(positions, visible, width):
    """Return which rows a convolution of this width reads for each row: (R, width).

    A row at position p reads those rows at the positions p - width + 1 … p that it sees. In the table above, with a
    width of 3, (d) reads b, c and itself. Rows of earlier passes have negative positions. The convolution gets the last
    width - 1 of these, followed by the new rows, so the result counts from the first of them:

        row           two earlier ones    first new row    second    …
        position          -2    -1              0             1
        number             0     1              2             3
    """
    wanted = positions[:, None] - torch.arange(width - 1, -1, -1, device=positions.device)  # (R, width) positions
    stands_there = visible[:, None, :] & (positions == wanted[..., None])  # (R, width, R)
    row = stands_there.int().argmax(-1)  # (R, width); a row sees at most one row at each position from 0 on
    itself = torch.arange(len(positions), device=positions.device)[:, None]
    row = torch.where(stands_there.any(-1), row, itself)  # where a mask has no row, a row reads itself
    row = torch.where(wanted < 0, wanted, row)
    return row + width - 1


# 2. Random blocks, and random masks in them

SIZES = (1, 2, 4, 8, 16, 32, 64)  # sizes of blocks in training, besides the whole window
SMALL = 16  # blocks up to this size are masked completely more often than by chance


def draw_starts(T):
    """Draw blocks that cover the positions 1 to T, and return where the block of each position starts: (T,).

    One time in eight, a single block covers all positions. Otherwise larger blocks are drawn more rarely, so that the
    blocks of each size cover about the same number of positions.
    """
    starts = torch.ones(T, dtype=torch.long)
    if torch.rand(()) < 1 / 8:
        return starts
    weights = 1 / torch.tensor(SIZES)
    at = 1
    while at <= T:
        size = SIZES[int(torch.multinomial(weights, 1))]
        starts[at - 1 : at - 1 + size] = at
        at += size
    return starts


def mask_blocks(x, starts, mask_id, whole=0.0):
    """Hide k tokens of each block of x (B, T), where k is spread evenly from 1 to the size of the block.

    Returns xt (B, T) and, for each token, the share of its block that is hidden: (B, T). whole: the share of small
    blocks that are hidden completely in any case, because drafts begin from such blocks.
    """
    B = len(x)
    first, block, size = torch.unique_consecutive(starts, return_inverse=True, return_counts=True)  # (G,), (T,), (G,)
    k = diffusion.spread_evenly(B * len(size), size.repeat(B), x.device).view(B, -1)  # (B, G)
    completely = (torch.rand(k.shape, device=x.device) < whole) & (size <= SMALL)
    k = torch.where(completely, size, k)
    score = block + torch.rand(x.shape, device=x.device)  # (B, T) every score of a block is below the next block's
    rank = diffusion.ranks(score) - (first - starts[0])[block]  # (B, T) the rank of a score within its block
    return torch.where(rank < k[:, block], mask_id, x), (k / size)[:, block]


# 3. Keys and values of rows


class OnlyThisPass:
    """The keys and values of one layer, with the interface of chapter 02's KVBuffer. It keeps nothing for later passes.

    visible: (R, R), who sees whom. A KVBuffer derives this from the positions, but here several rows can have the same
    position.
    """

    def __init__(self, visible):
        self.visible = visible

    def write(self, positions, k, v):
        self.k, self.v = k, v

    def mask(self, positions, causal):
        return self.visible


class KeptRows:
    """The first n clean rows of a text, from earlier passes, in chapter 03's cache.

    No clean row depends on a later one, so kept rows are exact. A pass writes its new rows behind the kept rows, clean
    rows first. To keep the first of the new rows, raise n; the next pass writes over all rows behind the first n.
    """

    def __init__(self, model, batch, rows):
        self.n = 0
        self.compute = gpt.LeanRows(model, model.make_cache(batch, rows))


# 4. The model: chapter 03's Transformer with another attention mask, and a small head for drafts


class Hybrid(transformer.Transformer):
    """A causal Transformer that also reads noisy rows."""

    wiring = "hybrid"  # checkpoints name it, because these weights fit no other class

    def __init__(self, config):
        if not gpt.LeanRows.fits(config):
            raise ValueError("a hybrid has rotary positions, RMSNorm and squared ReLU")
        super().__init__(config)
        C = config.n_embd
        self.draft_up = nn.Linear(C, 2 * C, bias=False)
        self.draft_down = nn.Linear(2 * C, C, bias=False)
        # Two vectors for each token: one for when it stands right before a draft, and one for when it stands two before
        # it.
        self.previous = nn.Parameter(torch.zeros(2, config.vocab_size + 1, 2 * C))
        nn.init.normal_(self.draft_up.weight, std=C**-0.5)
        nn.init.zeros_(self.draft_down.weight)

    def forward(self, tokens, rows, kept=None):
        """Return logits (B, R, V) for tokens (B, R) in the Rows `rows`, and the vectors (B, R, C) behind the logits.

        kept: KeptRows. All new rows see the kept ones, and are written behind them.
        """
        x = self.embed(tokens, None, rows.positions)  # (B, R, C)
        if kept:
            visible = F.pad(rows.visible, (kept.n, 0), value=True)  # (R, n + R)
            x = kept.compute(x, kept.n, rows.positions + kept.n, visible, rows.conv_rows)
            return self.head(x), x
        table = attention.rotary_table(rows.positions, self.config.n_embd // self.config.n_head)
        for i, layer in enumerate(self.blocks):  # chapter 03's blocks, which are no blocks of text
            if i < len(self.convs):
                x = self.convolve(x, rows.conv_rows, self.convs[i].weight)
            x = layer(x, rows.positions, table, OnlyThisPass(rows.visible))
        x = self.norm(x)
        return self.head(x), x

    def convolve(self, x, conv_rows, weights):
        """Add to each row the rows before it that it sees: the convolution of chapter 03 for two streams.

        x (B, R, C). conv_rows: (R, width), as in Rows. weights: (width, C).
        """
        around = F.pad(x, (0, 0, len(weights) - 1, 0))  # (B, width - 1 + R, C), zero before the text
        return x + sum(weight * around.index_select(1, conv_rows[:, i]) for i, weight in enumerate(weights))

    def draft_logits(self, x, previous):
        """Return the logits of drafts (…, V) from the vectors x (…, C) of masked rows.

        previous (…, 2): the two tokens before each draft, the nearest first. The masked rows of one pass do not see
        each other's tokens. Through `previous`, each draft still depends on the two tokens before it, without a further
        pass (as in Hydra, Ankner et al. 2024, arXiv:2402.05109).
        """
        inner = self.draft_up(x) + self.previous[0][previous[..., 0]] + self.previous[1][previous[..., 1]]  # (…, 2C)
        return self.head(self.norm(x + self.draft_down(F.relu(inner).square())))


# 5. Training


def read_both(model, windows, xt, starts):
    """Read windows (B, T + 1) in one pass over both streams: logits (B, 2T, V) and vectors (B, 2T, C).

    xt (B, T): the tokens at the positions 1 to T, some of them hidden. starts: where their blocks start (T,).
    """
    return model(torch.cat((windows[:, :-1], xt), 1), two_streams(starts, model.config.conv))


def cross_entropies(logits, target):
    """Return -log p(target) for logits (…, V) and target (…): (…), in nats."""
    losses = F.cross_entropy(logits.float().flatten(0, -2), target.flatten(), reduction="none")
    return losses.view(target.shape)


def hybrid_loss(model, windows):
    """Return the loss of windows (B, T + 1): a weighted sum of three means, over all tokens, hidden tokens, and drafts.

    Draft and verify writes the text of the clean stream, so the clean stream's loss has the largest weight.
    """
    target = windows[:, 1:]  # (B, T)
    T = target.shape[1]
    starts = draw_starts(T).to(windows.device)
    xt, share = mask_blocks(target, starts, model.config.mask_id, whole=0.25)
    logits, vectors = read_both(model, windows, xt, starts)
    hidden = xt == model.config.mask_id  # (B, T)
    clean = cross_entropies(logits[:, :T], target)
    noisy = cross_entropies(logits[:, T:][hidden], target[hidden])
    drafts = draft_losses(model, windows, vectors[:, T:], starts, share == 1)
    return 2 * clean.mean() + noisy.mean() / 2 + drafts.sum() / max(1, len(drafts)) / 2


def draft_losses(model, windows, vectors, starts, is_whole):
    """Return the cross-entropies of all drafts that these windows (B, T + 1) allow: (n,).

    vectors (B, T, C): of the noisy rows. is_whole (B, T): True in blocks that are hidden completely. A draft is a token
    of such a block, but not the first one: when we write, the clean stream has already chosen the first token.
    """
    T = len(starts)
    place = torch.arange(1, T + 1, device=starts.device) - starts  # (T,) each token's place in its block
    drafted = is_whole & (place > 0) & (place < SMALL)  # (B, T)
    one_before = windows[:, :-1]  # (B, T)
    two_before = F.pad(windows[:, :-2], (1, 0))  # nothing is two before position 1, but a draft is never there
    previous = torch.stack((one_before, two_before), -1)  # (B, T, 2)
    logits = model.draft_logits(vectors[drafted], previous[drafted])  # (n, V)
    return cross_entropies(logits, windows[:, 1:][drafted])


class BlockDiffusion(gpt.NextToken):
    """The task of this chapter: to be a GPT and a diffusion model of blocks. It is evaluated as a GPT."""

    def loss(self, model, windows):
        return hybrid_loss(model, windows)

    def evaluate(self, model, windows):
        return clean_nll(model, windows)

    def sample(self, model):
        canvas = torch.full((1, model.config.seq_len), model.config.mask_id, device=self.train.device)
        canvas[:, 0] = gpt.opening(self.tokenizer)
        *_, last = stream(model, canvas)
        return self.tokenizer.decode(last.canvas[0])


def clean_nll(model, windows):
    """Return the exact NLL of windows (N, T + 1) under the clean stream: (mean, standard error), in nats per token."""

    def clean_stream(tokens):
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        rows = make_rows(positions, torch.full_like(positions, CLEAN), model.config.conv)
        return model(tokens, rows)[0]

    return gpt.nll(clean_stream, windows)


@torch.no_grad()
def block_nelbo(model, windows, size, draws=1, seed=0, batch_size=32):
    """Estimate the NELBO of windows (N, T + 1), written in blocks of `size`: (mean, standard error) in nats per token.

    By the chain rule, -log p(text) is the sum of -log p(block | text before it). Chapter 04 bounds each term, and one
    pass estimates the bounds of all blocks. The first token of a window is given. The error comes from the differences
    between windows.
    """
    T = windows.shape[1] - 1
    starts = 1 + torch.arange(T, device=windows.device) // size * size  # (T,)
    bounds = []
    with diffusion.same_numbers(seed, windows.device):
        for batch in windows.split(batch_size):
            target = batch[:, 1:]
            bound = torch.zeros(len(batch), device=batch.device)
            for _ in range(draws):
                xt, share = mask_blocks(target, starts, model.config.mask_id)
                logits, _ = read_both(model, batch, xt, starts)
                losses = cross_entropies(logits[:, T:], target) * (xt == model.config.mask_id)
                bound = bound + (losses / share).mean(1)
            bounds.append(bound / draws)
    return measures.mean_and_error(torch.cat(bounds))


def curve(model, windows, draws=1):
    """Return the NELBO of windows (N, T + 1) for blocks from one token to the whole window: [(size, mean, error)]."""
    T = windows.shape[1] - 1
    sizes = [1]
    while sizes[-1] < T:
        sizes.append(min(2 * sizes[-1], T))
    return [(size, *block_nelbo(model, windows, size, draws)) for size in sizes]


# 6. Writing in blocks


class CleanBlockModel(fast.BlockModel):
    """Chapter 11's BlockModel for a Hybrid. It keeps the rows of finished blocks, as clean rows.

    In chapter 11 kept rows are an approximation, because the rows before a block see the block. Here kept rows are
    exact.
    """

    kept = None

    def __call__(self, block, t):
        """Return logits (B, b, V) for block (B, b). No mask is left before the block."""
        canvas, _ = self.put(block)
        if self.kept is None:
            self.kept = KeptRows(self.model, *canvas.shape)
        n = self.kept.n
        positions = torch.arange(self.end - n, device=canvas.device)  # counted from the first row that is not kept
        start = self.start - n
        starts = torch.where(positions < start, CLEAN, start)
        rows = make_rows(positions, starts, self.config.conv)
        logits, _ = self.model(canvas[:, n : self.end], rows, self.kept)
        self.kept.n = self.start  # the rows before the block will not change
        return logits[:, start:]


# 7. Draft and verify

DRAFTS = 3  # proposals per pass; docs/block_diffusion.md compares other numbers


def probabilities(logits, temperature, top_k):
    """Return the probability with which chapter 04's `draw` takes each token, for logits (…, V): (…, V)."""
    if temperature < diffusion.COLDEST:  # then `draw` takes the most likely token
        return F.one_hot(diffusion.draw(logits, 0), logits.shape[-1]).to(logits.dtype)
    return diffusion.probabilities(logits, temperature, top_k)


def verify(p, q, drafts):
    """Accept some of the first drafts, and draw the token after them, so that each token has the distribution p.

    drafts: a list of m tokens. p (m + 1, V): the probabilities of the tokens at the place of each draft, and at the
    place after the last draft. q (m or more, V): the probabilities from which each draft was drawn. Returns (number of
    accepted drafts, token).

    A draft x is accepted with probability min(1, p(x) / q(x)). So x is drawn and accepted with probability
    q(x) min(1, p(x) / q(x)) = min(p(x), q(x)). To reach p(x), max(0, p(x) - q(x)) is still missing. So we draw the
    token that replaces a refused draft in proportion to this difference. (Speculative sampling, Leviathan et al. 2022,
    arXiv:2211.17192.)
    """
    m = len(drafts)
    tokens = torch.tensor(drafts, dtype=torch.long, device=p.device)[:, None]
    ratio = p[:m].gather(1, tokens) / q[:m].gather(1, tokens)  # (m, 1)
    refused = (torch.rand(m, 1, device=p.device) >= ratio)[:, 0].tolist()
    accepted = [*refused, True].index(True)
    weights = (p[accepted] - q[accepted]).clamp(min=0) if accepted < m else p[m]
    return accepted, int(diffusion.pick(weights))


def draft_tokens(model, vectors, tokens, temperature, top_k):
    """Draft a token for each of vectors (m, C) in turn. Return the list of tokens, and their probabilities (m, V).

    tokens: the last two tokens before the drafts.
    """
    tokens = list(tokens)
    q = vectors.new_zeros(len(vectors), model.config.vocab_size)
    for i, vector in enumerate(vectors):
        previous = torch.tensor([tokens[-1], tokens[-2]], device=vectors.device)
        q[i] = probabilities(model.draft_logits(vector, previous), temperature, top_k)
        tokens.append(int(diffusion.pick(q[i])))
    return tokens[2:], q


@functools.lru_cache
def rows_of_pass(known, drafts, size, width, device):
    """Return the Rows of one pass: `known` tokens of the text and then `drafts` drafts, all clean, and blocks of masks.

    The pass may accept any number of the drafts, from none to all. For each of these cases there is one block of masks.
    It starts right behind the accepted drafts, and sees them. The token at its first position is drawn in this pass, so
    this position has no row. The `size` masks behind it will become the next drafts. With two drafts x and y of the
    text behind "k":

        clean rows:   k x y
        noisy rows:       _ _      if x is refused
                            _ _    if x is accepted, and y is refused
                              _ _  if both are accepted

    In training, a block also has a mask at its first position. Here we leave that mask out: it would hardly help to
    guess the other tokens, and with two drafts a pass then has 9 rows instead of 12.
    """
    positions = list(range(known + drafts))
    starts = [CLEAN] * (known + drafts)
    for accepted in range(drafts + 1):
        start = known + accepted
        positions += range(start + 1, start + 1 + size)
        starts += [start] * size
    return make_rows(torch.tensor(positions, device=device), torch.tensor(starts, device=device), width)


@dataclass(frozen=True)
class Pass:
    """What one pass of draft and verify does to a text."""

    drafts: list  # the drafts that it verified
    new: list  # the tokens that it added to the text: accepted drafts, and one more
    probability: torch.Tensor  # (len(new),) the probability of each new token


@torch.no_grad()
def draft_and_verify(model, prompt, length, temperature=0.8, top_k=None, drafts=DRAFTS):
    """Continue the tokens `prompt`, a list of one or more, to `length` tokens. Yields a Pass for each forward pass.

    The distribution is that of chapter 07's `stream`: the model sees the last seq_len tokens at most, and when its
    window is full, it forgets all but the last seq_len // 2.
    """
    written = list(prompt)
    window, width, device = model.config.seq_len, model.config.conv, model.head.weight.device
    start = 0  # the model sees written[start:]
    kept = None
    proposed, q = [], torch.zeros(0, model.config.vocab_size, device=device)
    while len(written) < length:
        if len(written) - start > window:
            start = len(written) - max(1, window // 2)
            kept = None
        if kept is None:
            kept = KeptRows(model, 1, window + drafts * (drafts + 1))  # room for a full window and blocks of masks
        fit = min(length - len(written) - 1, start + window - len(written))  # drafts that fit the text and the window
        proposed = proposed[:fit]
        known = written[start + kept.n :]  # the tokens whose rows are not kept

        masks = [model.config.mask_id] * (drafts * (len(proposed) + 1))
        rows = rows_of_pass(len(known), len(proposed), drafts, width, device)
        tokens = torch.tensor([known + proposed + masks], device=device)
        logits, vectors = model(tokens, rows, kept)  # (1, R, V), (1, R, C)

        last = len(known) - 1  # the row of the last known token predicts the first draft
        p = probabilities(logits[0, last : last + len(proposed) + 1], temperature, top_k)  # (m + 1, V)
        accepted, token = verify(p, q, proposed)
        new = [*proposed[:accepted], token]
        written += new
        kept.n += len(known) + accepted  # the next pass writes over all rows behind these
        yield Pass(proposed, new, p[range(len(new)), new])

        first = len(known) + len(proposed) + drafts * accepted  # the first mask behind the accepted drafts
        proposed, q = draft_tokens(model, vectors[0, first : first + drafts], written[-2:], temperature, top_k)


@dataclass(frozen=True)
class Verified(diffusion.State):
    """A State of draft and verify."""

    drafts: torch.Tensor  # (B, T) the drafts that this pass verified, accepted or not; -1 elsewhere


def stream(model, canvas, temperature=0.8, top_k=None, drafts=DRAFTS):
    """Write the masks at the end of canvas (B, T), one text after another. Yields a Verified State per pass.

    At least the first token of each text must be given.
    """
    given = canvas != model.config.mask_id
    confidence = given.float()
    for row, end in enumerate(given.sum(1).tolist()):
        prompt = canvas[row, :end].tolist()
        for step in draft_and_verify(model, prompt, canvas.shape[1], temperature, top_k, drafts):
            here = slice(end, end + len(step.new))
            canvas, confidence = canvas.clone(), confidence.clone()
            committed = torch.zeros_like(given)
            verified = torch.full_like(canvas, -1)
            canvas[row, here] = canvas.new_tensor(step.new)
            confidence[row, here] = step.probability
            committed[row, here] = True
            verified[row, end : end + len(step.drafts)] = canvas.new_tensor(step.drafts)
            yield Verified(canvas, confidence, committed, verified)
            end += len(step.new)


# 8. The command line


@dataclass(frozen=True)
class Train(training.Settings):
    """The flags of training."""

    train: training.TrainConfig = training.TrainConfig()

    def __post_init__(self):
        if not gpt.LeanRows.fits(self.model):
            raise ValueError("a hybrid has rotary positions, RMSNorm and squared ReLU: "
                             "leave out positions, norm and activation")
        if self.model.time_conditioned:
            raise ValueError("a hybrid has no noise level: leave out time_conditioned")


@dataclass(frozen=True)
class Write(gpt.Continue):
    """The flags of writing."""

    drafts: int | None = None  # proposals per pass, by default 3; 0 writes like a GPT
    block: int = 0  # write in blocks of this many characters, and do not draft
    steps: int | None = None  # with --block: passes per block; by default one per character
    rule: fast.Rule = fast.Rule()

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= (self.drafts or 0) <= 32:
            raise ValueError("drafts must be from 0 to 32")
        if not 0 <= self.block <= 10**6:
            raise ValueError("block must be from 0 to 1000000")
        if self.block and self.drafts is not None:
            raise ValueError("drafts and block are two ways to write: choose one")
        if not self.block and (self.steps is not None or self.rule != fast.Rule()):
            raise ValueError("steps, confidence, threshold, factor and entropy say how to write a block: add block")


def train(settings):
    corpus = text.load(settings.corpus)
    tokenizer = text.Characters.of(corpus.text)
    device = devices.pick_device(settings.device)
    config = transformer.TransformerConfig(**asdict(settings.model), vocab_size=tokenizer.vocab_size, causal=True)
    task = BlockDiffusion(tokenizer, text.split(corpus.text), config.seq_len, device)
    about = {"corpus": corpus.name, "corpus_sha256": corpus.sha256}
    folder = training.start(settings, "hybrid", task, config, about, device, Hybrid)
    if folder:
        show_results(folder, task, device)
        print("\nNext: 14_sudoku.py, where the freedom to choose the order wins.")


def show_results(folder, task, device):
    """Print the NELBO of the hybrid in `folder` for each size of blocks, and what drafting saves."""
    model, _, _ = checkpoint.load(folder, device, ("hybrid",), Hybrid)
    windows = training.evenly(task.windows, 48)
    tensors.heading(f"From GPT to dLLM: nats per character on {len(windows)} windows of unseen text")
    mean, error = clean_nll(model, windows)
    print(f"   next token, exact {mean:10.3f} ± {error:.3f}")
    for size, mean, error in curve(model, windows):
        print(f"   blocks of {size:4}, at most {mean:.3f} ± {error:.3f}")
    list(draft_and_verify(model, windows[0, :1].tolist(), 64))  # the first passes are slow
    for name, drafts in (("like a GPT, without drafts", 0), (f"with {DRAFTS} drafts in a pass", DRAFTS)):
        torch.manual_seed(1)
        began = time.perf_counter()
        passes = list(draft_and_verify(model, windows[0, :1].tolist(), 256, drafts=drafts))
        seconds = time.perf_counter() - began
        print(f"   writing {name:27} {255 / len(passes):5.2f} characters per pass, {255 / seconds:5.0f} per second")


def write(settings):
    folder = checkpoint.find(settings.checkpoint, "hybrid")
    model, tokenizer, _ = checkpoint.load(folder, devices.pick_device(settings.device), ("hybrid",), Hybrid)
    canvas = gpt.make_canvas(settings, tokenizer).to(model.head.weight.device)  # (B, T)
    seed = generation.pick_seed(settings)
    if settings.block:
        states = stream_blocks(model, canvas, settings)
    else:
        drafts = DRAFTS if settings.drafts is None else settings.drafts
        states = stream(model, canvas, settings.temp, settings.topk, drafts)
    generation.watch(states, canvas, tokenizer, settings, f"seed {seed} · {folder.name}")


def stream_blocks(model, canvas, settings):
    """Fill the masks of canvas (B, T) in blocks, as the settings say. Yields States."""
    steps = settings.steps or settings.block
    masks = int((canvas == model.config.mask_id).sum(1).max())
    if canvas.shape[1] > model.config.seq_len:
        masks = model.config.seq_len  # chapter 06 asks for the passes of a window that is full of masks
    passes = steps * math.ceil(masks / settings.block)
    select, _ = settings.rule.select()
    denoise = functools.partial(fast.denoise_blocks, select=select, block=settings.block, reader=CleanBlockModel)
    return generation.generate(model, canvas, passes, settings.temp, settings.topk, denoise)


def main(argv=None):
    command, words = cli.sub_command(("train", "write"), argv)
    if command == "write":
        write(cli.parse(Write, words))
    else:
        train(cli.parse(Train, words, section="hybrid"))


if __name__ == "__main__":
    cli.run(main)
