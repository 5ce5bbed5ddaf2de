"""Chapter 13: can one model be a GPT and a diffusion model, and does it then write faster?

    python 13_block_diffusion.py                              # train; no GPU: 7 minutes on two cores
    python 13_block_diffusion.py --write --prompt "ROMEO:"    # draft and verify: a GPT's text in fewer passes
    python 13_block_diffusion.py --write --block 8 --steps 4  # blocks of 8 characters, with 4 passes each

A GPT writes one token per pass. A dLLM writes many, but the tokens of one pass do not see each other. Between the two
is block diffusion (BD3-LM, Arriola et al. 2025, arXiv:2503.09573): it writes block after block from left to right, and
each block by unmasking. If a block is one token, this is a GPT. If a block is the whole text, it is a dLLM.

The model of this chapter learns all block sizes. So it can do two jobs in one pass: as a GPT it verifies tokens that
were proposed before, and as a dLLM it proposes the next ones (TiDAR, Liu et al. 2025, arXiv:2511.08923). The text then
has exactly the distribution of the GPT. In a terminal, accepted proposals are highlighted, and refused ones are red.
"""

import functools
import sys
from dataclasses import dataclass, fields, replace
from importlib import import_module
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from plumbing import blocks, buffers, checkpoint, cli, corpora, devices, measures, runs, sampling, settings, tokenizers
from plumbing.settings import Count, NonNegative, OptionalCount, OptionalPath, Switch, number

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
generation = import_module("06_generate")
gpt_training = import_module("07_train_gpt")
fast = import_module("11_fast_decoding")

CLEAN = -1  # the `start` of a clean row; a noisy row has that of its block
DRAFTS = 3  # proposals per pass; docs/block_diffusion.md compares other numbers


# 1. Who sees whom
class Rows(NamedTuple):
    """The R rows that one pass computes. Each row is a token at a position, in one of two streams.
    The clean stream is a GPT: a clean row sees the clean rows up to its own position. The noisy stream consists of
    blocks with masks. A noisy row sees all rows of its own block, and the clean rows before the block."""

    positions: torch.Tensor  # (R,)
    visible: torch.Tensor  # (R, R) True where row i sees row j
    near: torch.Tensor  # (R, width) for the convolution: the visible rows at the positions p - width + 1 … p


def make_rows(positions, start, width=1):
    """Return the Rows at `positions` (R,). start (R,): where the block of each row starts, or CLEAN.
    Positions are counted from the first row. All rows see the clean rows of earlier passes, at negative positions. The
    convolution reads width - 1 of these, so the indices in `near` are counted from there."""
    clean, before = start == CLEAN, torch.where(start == CLEAN, positions + 1, start)  # sees clean rows below `before`
    visible = clean & (positions < before[:, None]) | ~clean & (start == start[:, None])  # (R, R)
    wanted = positions[:, None] - torch.arange(width - 1, -1, -1, device=positions.device)  # (R, width)
    found = visible[:, None] & (positions == wanted[..., None])  # (R, width, R), at most one True for each position
    near = torch.where(found.any(-1), found.int().argmax(-1), wanted)
    return Rows(positions, visible, near + width - 1)


def two_streams(starts, width=1):
    """The Rows of training on T + 1 tokens: T clean rows, which predict the next token, then T noisy rows.
    starts (T,): where the block of each noisy row starts. Clean rows predict the positions 1 to T of the noisy rows."""
    here = torch.arange(len(starts), device=starts.device)
    return make_rows(torch.cat((here, here + 1)), torch.cat((torch.full_like(here, CLEAN), starts)), width)


# 2. The model: chapter 03's Transformer with another attention mask, and a small head for drafts
class Hybrid(transformer.Transformer):
    """A causal Transformer that also reads noisy rows."""

    wiring = "hybrid"  # checkpoints name it, because these weights fit no other class

    def __init__(self, config):
        super().__init__(config)
        V, C = config.vocab_size + 1, config.n_embd
        self.draft_up, self.draft_down = nn.Linear(C, 2 * C, bias=False), nn.Linear(2 * C, C, bias=False)
        self.previous = nn.Parameter(torch.zeros(2, V, 2 * C))  # tables for the token before, and the one before that
        nn.init.normal_(self.draft_up.weight, std=C**-0.5)
        nn.init.zeros_(self.draft_down.weight)

    def forward(self, tokens, rows, kept=None):
        """tokens (B, R) in the Rows `rows` → logits (B, R, V), and the vectors (B, R, C) from which they are made.
        kept: buffers.Kept, the clean rows of earlier passes. The new rows see them and are written behind them."""
        R, n, width = tokens.shape[1], kept.n if kept else 0, self.config.conv
        x, positions = self.token_emb(tokens), rows.positions + n  # (B, R, C), (R,)
        if width:
            if kept:
                kept.embedded[:, n + width - 1 : n + width - 1 + R] = x
            near = kept.embedded[:, n : n + width - 1 + R] if kept else F.pad(x, (0, 0, width - 1, 0))
            x = x + sum(w * near.index_select(1, rows.near[:, i]) for i, w in enumerate(self.conv.weight))
        table = transformer.attention.rotary_table(positions, self.config.n_embd // self.config.n_head)
        visible = F.pad(rows.visible, (n, 0), value=True)  # (R, n + R)
        for i, block in enumerate(self.blocks):
            x = block(x, positions, table, buffers.Layer(visible, kept.rooms[i] if kept else None, n))
        x = self.norm(x)
        return self.head(x), x

    def follow(self, x, previous):
        """The logits of drafts. x (…, C): vectors of masked rows. previous (…, 2): the two tokens before each, nearest
        first. The masked rows of one pass do not see each other's tokens. Through `previous` each draft still depends
        on the two before it, at the cost of no further pass (as in Hydra, Ankner et al. 2024, arXiv:2402.05109)."""
        inner = self.draft_up(x) + self.previous[0][previous[..., 0]] + self.previous[1][previous[..., 1]]  # (…, 2C)
        return self.head(self.norm(x + self.draft_down(F.relu(inner).square())))


# 3. Training and likelihood
def cross_entropies(network, windows, starts, whole=0.0, generator=None):
    """One pass over both streams of windows (B, T + 1): four tensors (B, T) for the tokens at the positions 1 to T.
    They are the cross-entropies of the clean stream; those of the noisy stream, 0 at visible tokens; those of the
    drafts, 0 where there is none; and the weights of the noisy ones in the NELBO. starts, whole: as in mask_blocks."""
    T, x, mask_id = len(starts), windows[:, 1:], network.config.mask_id
    xt, weight = blocks.mask_blocks(x, starts, mask_id, whole, generator)  # (B, T) each
    rows = two_streams(starts, network.config.conv)
    logits, vectors = network(torch.cat((windows[:, :-1], xt), 1), rows)  # (B, 2T, V), (B, 2T, C)
    loss = F.cross_entropy(logits.float().flatten(0, 1), x.repeat(1, 2).flatten(), reduction="none").view(-1, 2 * T)
    previous = torch.stack((windows[:, :-1], windows[:, :-1].roll(1, 1)), -1)  # (B, T, 2)
    follow = network.follow(vectors[:, T:], previous).float()  # (B, T, V)
    draft = F.cross_entropy(follow.flatten(0, 1), x.flatten(), reduction="none").view_as(x)
    place = torch.arange(1, T + 1, device=x.device) - starts  # (T,) in the block; the first token needs no draft
    drafted = (weight == 1) & (place > 0) & (place < blocks.SMALL)  # (B, T): the block is masked completely
    return loss[:, :T], loss[:, T:] * (xt == mask_id), draft * drafted, weight


def hybrid_loss(network, windows):
    """A weighted sum of three means: over all tokens, over the masked tokens, and over the drafts. windows: (B, T + 1).
    The text that draft and verify writes is that of the clean stream, so its loss has the largest weight."""
    starts = blocks.draw_starts(windows.shape[1] - 1).to(windows.device)
    clean, noisy, draft, _ = cross_entropies(network, windows, starts, whole=0.25)
    return 2 * clean.mean() + noisy.sum() / (noisy > 0).sum() / 2 + draft.sum() / (draft > 0).sum().clamp(min=1) / 2


@torch.no_grad()
def block_nelbo(model, windows, size, draws=1, seed=0, batch_size=32):
    """Estimate the NELBO of windows (N, T + 1), written in blocks of `size`: (mean, standard error) in nats per token.
    By the chain rule, -log p(text) is the sum of -log p(block | text before it). Chapter 04 bounds each term, and one
    pass estimates the bounds of all blocks. The first token of a window is given. The error is over the windows."""
    generator = torch.Generator(windows.device).manual_seed(seed)
    starts = 1 + torch.arange(windows.shape[1] - 1, device=windows.device) // size * size  # (T,)
    bounds = []
    for rows in windows.split(batch_size):
        passes = [cross_entropies(model, rows, starts, generator=generator) for _ in range(draws)]
        bounds.append(sum((weight * noisy).mean(1) for _, noisy, _, weight in passes) / draws)
    return measures.mean_and_error(torch.cat(bounds))


def nll(model, windows):
    """The exact NLL of windows (N, T + 1) under the clean stream: (mean, standard error) in nats per token."""
    here = torch.arange(windows.shape[1] - 1, device=windows.device)
    rows = make_rows(here, torch.full_like(here, CLEAN), model.config.conv)
    return gpt_training.nll(lambda tokens: model(tokens, rows)[0], windows)


def two_losses(start):
    """The Objective of this chapter. start: the token with which the samples at evaluations begin."""

    def sample(model):
        text = [start]
        for _ in draft_and_verify(model, text, model.config.seq_len):
            pass
        return torch.tensor(text)

    return training.Objective("NLL", 1, hybrid_loss, lambda model, windows, draws: nll(model, windows), sample)


# 4. Writing in blocks
class BlockNetwork:
    """Computes the logits of a block for chapter 11's `decode`, and keeps the rows of finished blocks as clean rows.
    In chapter 11 kept rows are an approximation, because rows before a block see the block. Here they are exact."""

    def __init__(self, model, canvas, how):
        self.model, self.how, self.mask_id, self.nfe = model, how, model.config.mask_id, 0
        self.kept = buffers.Kept(model, *canvas.shape)

    def __call__(self, canvas, start, end, fresh):
        """The logits (B, end - start, V) of the columns [start, end) of canvas (B, T), before which no mask is left."""
        n, self.nfe = self.kept.n, self.nfe + 1
        positions = torch.arange(end - n, device=canvas.device)
        rows = make_rows(positions, torch.where(positions < start - n, CLEAN, start - n), self.model.config.conv)
        logits, _ = self.model(canvas[:, n:end], rows, self.kept)
        self.kept.n = start  # the rows before the block
        return logits[:, start - n :]


# 5. Draft and verify
@functools.lru_cache
def rows_of_pass(known, masks, width, device):
    """The Rows of one pass: `known` tokens of the text and some drafts, all clean, and then blocks of masks.
    masks: sizes of the blocks: the first follows the text if no draft is accepted, the second if one is. Each starts at
    the position of the next token, sees the drafts before it, and will propose what follows that token."""
    clean = range(known + len(masks) - 1)
    noisy = [(known + accepted + i, known + accepted) for accepted, size in enumerate(masks) for i in range(size)]
    positions, starts = zip(*[(i, CLEAN) for i in clean], *noisy)
    return make_rows(torch.tensor(positions, device=device), torch.tensor(starts, device=device), width)


def verify(p, q, draft, generator=None):
    """Accept the first of the drafts and draw the token behind them, so that each token has the distribution p.
    draft: m tokens. p (m + 1, V): probabilities of the tokens at the place of each draft, and behind the last one.
    q (m, V): those from which each draft was drawn. Returns (number of accepted drafts, next token).
    A draft x is accepted with probability min(1, p(x) / q(x)), so x is drawn and accepted with min(p(x), q(x)). The
    rest of p(x) is max(0, p(x) - q(x)): in proportion to it we draw the token that replaces a refused draft.
    (Speculative sampling, Leviathan et al. 2022, arXiv:2211.17192.)"""
    m, tokens = len(draft), torch.tensor(draft, dtype=torch.long, device=p.device)[:, None]
    ratio = p[:m].gather(1, tokens) / q[:m].gather(1, tokens)  # (m, 1)
    refused = (torch.rand(m, 1, device=p.device, generator=generator) >= ratio)[:, 0].tolist()
    accepted = refused.index(True) if True in refused else m
    weights = (p[accepted] - q[accepted]).clamp(min=0) if accepted < m else p[m]
    return accepted, int(sampling.pick(weights, generator))


def propose(model, vectors, text, temperature, top_k, generator):
    """Draft a token for each of vectors (m, C) in turn, after the list `text`: m tokens, and `verify`'s q (m, V)."""
    text, q = list(text), [vectors.new_zeros(0, model.config.vocab_size)]
    for vector in vectors:
        logits = model.follow(vector, torch.tensor([text[-1], text[-2]], device=vectors.device))  # (V,)
        q.append(sampling.probabilities(logits, temperature, top_k)[None])
        text.append(int(sampling.pick(q[-1][0], generator)))
    return text[len(text) - len(vectors) :], torch.cat(q)


@torch.no_grad()
def draft_and_verify(model, text, length, temperature=0.8, top_k=None, generator=None, drafts=DRAFTS):
    """Continue the list of tokens `text`, which it changes, to `length` tokens. Each pass adds the accepted drafts and
    one more token, and yields (drafts, probabilities of the new tokens).
    The distribution is that of chapter 07's `generate`: the model sees the last seq_len tokens at most, and when its
    window is full, it forgets all but the last seq_len // 2."""
    window, device = model.config.seq_len, model.head.weight.device
    start, kept, draft, q = 0, None, [], torch.zeros(0, model.config.vocab_size, device=device)
    while len(text) < length:
        if len(text) - start > window:  # the model sees text[start:]
            start, kept = len(text) - max(1, window // 2), None
        kept = kept or buffers.Kept(model, 1, window + (drafts + 1) ** 2)
        known = len(text) - start - kept.n  # tokens whose rows are not kept
        draft = draft[: min(length - len(text) - 1, start + window - len(text))]
        masks = (drafts + 1,) * (len(draft) + 1)
        tokens = text[-known:] + draft + [model.config.mask_id] * sum(masks)
        rows = rows_of_pass(known, masks, model.config.conv, device)
        logits, vectors = model(torch.tensor([tokens], device=device), rows, kept)  # (1, R, V), (1, R, C)
        p = sampling.probabilities(logits[0, known - 1 : known + len(draft)], temperature, top_k)  # (m + 1, V)
        accepted, token = verify(p, q, draft, generator)
        new, kept.n = draft[:accepted] + [token], kept.n + known + accepted
        text += new
        yield draft, p[range(len(new)), new]
        first = known + len(draft) + sum(masks[:accepted])  # the row of the mask at the position of `token`
        behind = vectors[0, first + 1 : first + masks[accepted]]  # (drafts, C)
        draft, q = propose(model, behind, text[-2:], temperature, top_k, generator)


@dataclass(frozen=True, kw_only=True)
class Verified(diffusion.State):
    """A State of draft and verify."""

    drafts: torch.Tensor  # (B, T) the drafts that this pass verified, accepted or not; -1 elsewhere


def write(model, canvas, steps, temperature, top_k, generator, denoise=None, drafts=DRAFTS):
    """Fill canvas (B, T) by draft and verify, row by row, and yield Verified States. Each row is a prompt of at least
    one token, and then masks. The arguments are those of generation.generate; steps and denoise are not used."""
    given, step = canvas != model.config.mask_id, 0
    nothing, sure, none = torch.zeros_like(given), given.float(), torch.full_like(canvas, -1)
    yield Verified(canvas=canvas, confidence=sure, committed=nothing, step=0, nfe=0, drafts=none)
    for row, end in enumerate(given.sum(1).tolist()):
        text = canvas[row, :end].tolist()
        for draft, probabilities in draft_and_verify(
                model, text, canvas.shape[1], temperature, top_k, generator, drafts):
            here, step = slice(end, len(text)), step + 1
            canvas, sure, new, tried = canvas.clone(), sure.clone(), nothing.clone(), none.clone()
            canvas[row, here], sure[row, here], new[row, here] = canvas.new_tensor(text[here]), probabilities, True
            tried[row, end : end + len(draft)] = canvas.new_tensor(draft)
            yield Verified(canvas=canvas, confidence=sure, committed=new, step=step, nfe=step, drafts=tried)
            end = len(text)


# 6. The command line
@dataclass(frozen=True)
class Command(runs.RunFlags):
    """The flags of this chapter."""

    config: str = "hybrid-laptop"  # the settings file: a name in configs/, or the path of a YAML file
    write: Switch = False  # write with a trained model (the run that --run names, or the latest) instead of training
    prompt: str = "\\n"  # with --write: how the text begins, at least one character; \n is a new line
    len: number(int, 2, generation.MAX_LENGTH) = 256  # with --write: number of characters, the prompt included
    temp: NonNegative = 0.8  # with --write: temperature; 0 always takes the most probable character
    topk: OptionalCount = None  # with --write: sample from this many most probable characters only
    num: Count = 1  # with --write: number of samples
    drafts: number(int, 0, 32) = DRAFTS  # with --write: drafts per pass; 0 writes like a GPT
    quiet: Switch = False  # with --write: print the text and nothing else
    gif: OptionalPath = None  # with --write: save the run as an animation: a path that ends in .gif
    html: OptionalPath = None  # with --write: save the run as a web page with a player: a path that ends in .html
    decoding: fast.Decoding = fast.Decoding()  # with --write --block: how to fill a block, in --steps passes
    model: transformer.TransformerConfig = transformer.TransformerConfig()
    train: training.TrainConfig = training.TrainConfig()


def check_flags(command, argv):
    """Raise UserError if a flag has no meaning together with the others."""
    how, model, rules = command.decoding, command.model, [field.name for field in fields(fast.Decoding)]
    words = {word.partition("=")[0] for word in (sys.argv[1:] if argv is None else argv) if word.startswith("--")}
    writing = "prompt len temp topk num drafts quiet gif html".split() + rules
    given = [name for name in writing if f"--{name}" in words]
    known = {f"--{name}" for name in "write config run device seed".split() + ["steps"] * bool(how.block) + writing}
    other = min(words - known, default="")
    for wrong, message in (
            (given and not command.write, f"--{' '.join(given[:1])} is a flag of writing: add --write"),
            (command.write and other, f"{other} is a flag of training: leave it out, or leave out --write"),
            (how.block and "drafts" in given, "--drafts and --block are two ways to write: choose one"),
            (set(given) & set(rules) and not how.block, "this flag says how to write a block: add --block"),
            (how.cache != "none" or how.guidance or how.remask, "--cache, --guidance and --remask are for a dLLM"),
            (not command.prompt, "this model continues a text: --prompt needs at least one character"),
            (model.time_conditioned or model.positions != "rope" or model.conv_in == "every",
             "a hybrid has rotary positions, no noise level, and no --conv-in every")):
        if wrong:
            raise cli.UserError(message)


def write_text(command, argv):
    """Write with a trained model, as the flags say."""
    folder, how = checkpoint.find(command.run, "hybrid"), command.decoding
    model, tokenizer, _ = checkpoint.load(folder, devices.pick_device(command.device), Hybrid)
    flags = generation.prepare(generation.Flags(
        temp=command.temp, topk=command.topk, len=command.len, num=command.num, prompt=command.prompt,
        seed=command.train.seed if settings.given(argv, "--seed") else None, quiet=command.quiet,
        gif=command.gif, html=command.html))
    sampler = functools.partial(fast.decode, how=how, network=BlockNetwork)
    writer = generation.generate if how.block else functools.partial(write, drafts=command.drafts)
    rows, window = generation.canvas_rows(flags, tokenizer), model.config.seq_len
    masks = rows[0].count(model.config.mask_id) if command.len <= window else window  # of a full window
    flags = replace(flags, steps=command.train.steps * -(-masks // max(1, how.block)))  # per block, rounded up
    generation.watch(model, tokenizer, rows, flags, folder.resolve().name, sampler, writer)


def main(argv=None):
    command = settings.parse(Command, argv)
    check_flags(command, argv)
    if command.write:
        return write_text(command, argv)
    corpus = corpora.load(command.corpus)
    tokenizer, parts = tokenizers.CharTokenizer.from_text(corpus.text), corpora.split(corpus.text)
    config = replace(command.model, vocab_size=tokenizer.vocab_size, causal=True)
    objective = two_losses(gpt_training.opening(tokenizer))
    folder = training.start_run(command, "hybrid", config, objective, tokenizer, corpus, parts, Hybrid)
    import_module("plumbing.reports.block_diffusion").after_training(folder, parts[1])  # it imports this chapter
    print("\n--write shows accepted and refused drafts. Next: 14_sudoku.py, where any order of writing wins.")


if __name__ == "__main__":
    cli.run(main, "lower --num, or use --device cpu")
