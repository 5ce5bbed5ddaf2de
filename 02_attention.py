"""Chapter 02: how does one position look at the others?

    python 02_attention.py           # about 5 seconds on a CPU; draws figures/02_attention.png
    python 02_attention.py --show    # the same, and opens the figure in a window

Attention, from three lines to the module that every later chapter uses: heads, who may look at whom,
where a position stands, and a buffer that saves computing the same rows again.

You should see weights as numbers and as a picture, and each fast way agree with the plain one.
"""

import argparse
import math
from importlib import import_module
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from plumbing import cli, figures

tensors = import_module("01_tensors")

TEXT = "to be or not to be"
FIGURE = Path(__file__).resolve().parent / "figures" / "02_attention.png"


# 1. The three lines


def attention(q, k, v, mask=None, dropout=0.0):
    """softmax(QKᵀ/√d)V (Vaswani et al. 2017, equation 1).

    q: (..., T, d), k and v: (..., S, d), mask: boolean, broadcast to (..., T, S), True where a query may
    look, dropout: the share of weights to leave out. Returns the output (..., T, d) and the weights (..., T, S),
    whose rows sum to 1.
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (..., T, S)
    weights = (scores if mask is None else scores.masked_fill(~mask, -math.inf)).softmax(dim=-1)
    return F.dropout(weights, dropout) @ v, weights


# 2. Rotary positions


def rotary_table(positions, head_dim, base=10000.0):
    """cos and sin of position × frequency, each (T, head_dim / 2), for positions (T,) (Su et al. 2021)."""
    frequency = base ** (-torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim)
    angle = positions.float()[:, None] * frequency[None, :]  # (T, hd/2)
    return angle.cos(), angle.sin()


def rotate(x, table):
    """Turn each pair (x_i, x_{i+hd/2}) of x (B, nh, T, hd) by its position's angle.

    A rotation keeps lengths, and a query's product with a key then depends on the distance between them
    only, not on where they stand.
    """
    cos, sin = (part.to(x.dtype) for part in table)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)  # (B, nh, T, hd)


# 3. One buffer for every cache


class KVBuffer:
    """Keys and values of one layer, preallocated for `rows` positions.

    A pass writes the rows of the positions that it is given and attends over all rows written so far.
    GPT decoding appends one row at a time; a diffusion sampler rewrites a range of them.
    """

    def __init__(self, batch, n_head, rows, head_dim, device=None, dtype=None):
        self.k = torch.zeros(batch, n_head, rows, head_dim, device=device, dtype=dtype)
        self.v = torch.zeros_like(self.k)
        self.valid = torch.zeros(rows, dtype=torch.bool, device=device)

    def write(self, positions, k, v):
        """Store k and v (B, nh, T, hd) in the rows `positions` (T,), in place."""
        self.k.index_copy_(2, positions, k.to(self.k.dtype))
        self.v.index_copy_(2, positions, v.to(self.v.dtype))
        self.valid.index_fill_(0, positions, True)

    def mask(self, positions, causal):
        """Which rows a query may see: (T, rows), True for valid rows, up to its own position if causal."""
        mask = self.valid.expand(len(positions), -1)
        if causal:
            rows = torch.arange(len(self.valid), device=positions.device)
            mask = mask & (rows <= positions[:, None])
        return mask


# 4. The module


class Attention(nn.Module):
    """Multi-head self-attention. The dLLM and the GPT share it: `causal` is the only difference.

    With `norm="rms"`, queries and keys are normalised too (QK-norm), which keeps the scores in a range
    where large learning rates are safe.
    """

    def __init__(self, n_embd, n_head, causal=False, dropout=0.0, rotary=True, qk_norm=True):
        super().__init__()
        self.n_head, self.causal, self.dropout = n_head, causal, dropout
        self.rotary, self.qk_norm = rotary, qk_norm
        self.qkv = nn.Linear(n_embd, 3 * n_embd, bias=False)
        self.out = nn.Linear(n_embd, n_embd, bias=False)

    def forward(self, x, positions, table=None, buffer=None):
        """x: (B, T, C), positions: (T,) absolute, table: from `rotary_table`. Returns (B, T, C)."""
        B, T, C = x.shape
        qkv = self.qkv(x).view(B, T, 3, self.n_head, C // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, nh, T, hd) each
        if self.qk_norm:
            q, k = F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:])
        if self.rotary:
            q, k = rotate(q, table), rotate(k, table)
        dropout = self.dropout if self.training else 0.0
        if buffer is None and torch.is_grad_enabled() and q.dtype == torch.bfloat16 and q.device.type == "cpu":
            # Training in bf16 on a CPU: there the three lines have a faster gradient than PyTorch's kernel.
            causal = torch.ones(T, T, dtype=torch.bool, device=x.device).tril() if self.causal else None
            y, _ = attention(q, k, v, causal, dropout)
        elif buffer is None:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, dropout_p=dropout)
        else:
            buffer.write(positions, k, v)
            mask = buffer.mask(positions, self.causal)
            y = F.scaled_dot_product_attention(q, buffer.k.to(q.dtype), buffer.v.to(q.dtype), attn_mask=mask)
        return self.out(y.transpose(1, 2).reshape(B, T, C))  # (B, T, C)


# 5. The demonstration


def report(name, ours, reference):
    """Print how far two results lie apart, and insist that it is only rounding."""
    difference = (ours - reference).abs().max().item()
    print(f"  {name:58} {difference:.0e}")
    assert difference < 1e-5


def show_three_lines():
    cli.heading("1. softmax(QKᵀ/√d)V")
    keys, values = torch.eye(4), torch.tensor([[10.0], [20.0], [30.0], [40.0]])
    print("  A soft look-up: the values are 10, 20, 30, 40; the query is key 2, ever louder.")
    print("  query            weights                     output")
    for loudness in (0, 2, 8, 32):
        y, weights = attention(loudness * keys[2:3], keys, values)  # (1, 1), (1, 4)
        row = " ".join(f"{w:6.3f}" for w in weights[0].tolist())
        print(f"  {loudness:2} x key 2     {row} {y.item():10.2f}")

    print("\n  Why √d: products of random vectors grow with their length, and softmax then picks one key.")
    print("     d   spread of q.k   largest of 16 weights: raw   divided by √d")
    for d in (4, 64, 1024):
        q, k = torch.randn(200, d), torch.randn(16, d)
        raw, scaled = ((q @ k.T / s).softmax(-1).amax(-1).mean().item() for s in (1.0, math.sqrt(d)))
        print(f"  {d:4} {(q @ k.T).std().item():15.1f} {raw:28.2f} {scaled:15.2f}")

    print("\n  Three lines against PyTorch, which need not store the weights; largest difference:")
    q, k, v = torch.randn(3, 2, 5, 16)  # (B, T, d) each
    causal = torch.ones(5, 5, dtype=torch.bool).tril()
    for name, mask in (("every position looks at every other", None), ("each looks back only", causal)):
        y, weights = attention(q, k, v, mask)
        assert torch.allclose(weights.sum(-1), torch.ones(2, 5))
        report(name, y, F.scaled_dot_product_attention(q, k, v, attn_mask=mask))


def show_heads():
    cli.heading("2. Heads: several small attentions side by side")
    B, T, C, n_head = 2, 5, 12, 3
    layer, x = Attention(C, n_head, rotary=False, qk_norm=False), torch.randn(B, T, C)
    q, k, v = layer.qkv(x).chunk(3, dim=-1)  # (B, T, C) each
    parts = zip(*(part.split(C // n_head, dim=-1) for part in (q, k, v)), strict=True)
    heads = [attention(*part)[0] for part in parts]  # n_head times (B, T, hd)
    print(f"  x {tuple(x.shape)} -> q, k, v {tuple(q.shape)} -> {n_head} heads of {tuple(heads[0].shape)}")
    print("  -> side by side again, mixed by one matrix; against the module, which does all heads at once:")
    report("a loop over heads = Attention", layer.out(torch.cat(heads, -1)), layer(x, torch.arange(T)))
    assert all(sum(p.numel() for p in Attention(C, n).parameters()) == 4 * C**2 for n in (1, 2, 3, 6))
    print(f"  parameters with 1, 2, 3 or 6 heads: 4 C² = {4 * C**2} each time. Heads share the channels out.")


def example_weights(text):
    """Two heads with queries and keys set by hand, bidirectional and causal. -> {(head, kind): (T, T)}"""
    T, d = len(text), 32
    letters = F.one_hot(torch.tensor([ord(c) for c in text])).float()  # alike only if the same letter
    here = torch.arange(T)
    wave = torch.full((T, d), 4.0)  # every token the same: only the rotation tells positions apart
    heads = {
        "same letter": (8 * letters, 8 * letters),
        "next letter": (rotate(wave, rotary_table(here + 1, d)), rotate(wave, rotary_table(here, d))),
    }
    weights = {}
    for head, (q, k) in heads.items():
        weights[head, "bidirectional"] = attention(q, k, k)[1]
        weights[head, "causal"] = attention(q, k, k, torch.ones(T, T, dtype=torch.bool).tril())[1]
    return weights


def show_masks():
    cli.heading("3. Bidirectional (the dLLM) against causal (the GPT)")
    weights = example_weights(TEXT)
    pair = weights["same letter", "bidirectional"], weights["same letter", "causal"]
    assert pair[1].triu(1).abs().max() == 0  # not one glance at the future
    print("  A head that looks for its own letter. Row: who looks; column: at what; denser is more.\n")
    print(f"     {'bidirectional':20}causal\n     {TEXT:20}{TEXT}")
    for i, letter in enumerate(TEXT):
        shades = ["".join(" .:-=+*#"[round(7 * w)] for w in p[i].tolist()) for p in pair]
        print(f"   {letter} {shades[0]:20}{shades[1]}".rstrip())
    print("  The first letters have no past of their own kind, so a causal head sees only themselves.")

    print("\n  Change the input at position 3 of 8. Which outputs move?")
    x = torch.randn(1, 8, 16)
    changed = x + (torch.arange(8) == 3)[:, None]
    for name, causal in (("bidirectional", False), ("causal", True)):
        layer, positions = Attention(16, 2, causal), torch.arange(8)
        table = rotary_table(positions, 8)
        difference = layer(x, positions, table) - layer(changed, positions, table)
        moved = (difference.abs().amax((0, 2)) > 1e-7).tolist()  # (T,)
        assert moved == [not causal or i >= 3 for i in range(8)]
        print(f"  {name:14}", *("x" if m else "." for m in moved))


def show_rotary():
    cli.heading("4. Rotary positions")
    q, k = torch.randn(2, 1, 64)  # (T=1, hd) each

    def score(m, n):
        turned = (rotate(x, rotary_table(torch.tensor([p]), 64)) for x, p in ((q, m), (k, n)))
        return torch.linalg.vecdot(*turned).item()

    print("  The product of one query at m and one key at n: only the distance m - n counts.")
    print("  m - n     n = 0    n = 10   n = 100")
    for distance in (0, 1, 5, 20):
        row = [score(n + distance, n) for n in (0, 10, 100)]
        print(f"  {distance:5}", *(f"{s:9.4f}" for s in row))
        assert max(row) - min(row) < 1e-3
    positions = torch.arange(8)
    x, table = torch.randn(1, 8, 64), rotary_table(positions, 64)
    assert torch.allclose(rotate(x, table).norm(dim=-1), x.norm(dim=-1), rtol=1e-5)
    print("  A rotation changes no vector's length (asserted).")
    order = torch.randperm(8)
    for rotary in (False, True):
        layer = Attention(64, 1, rotary=rotary)
        shuffled, plain = layer(x[:, order], positions, table), layer(x, positions, table)
        assert torch.allclose(shuffled, plain[:, order], atol=1e-5) is not rotary
    print("  Without positions, shuffling the input only shuffles the output: order is invisible (asserted).")


def show_buffer():
    cli.heading("5. The KV buffer: compute a few rows, attend over all")
    T, C, n_head, s, e = 16, 32, 4, 8, 12
    positions, x = torch.arange(T), torch.randn(2, T, C)
    table = rotary_table(positions, C // n_head)

    def run(layer, x, start, stop, buffer):
        """Rows [start:stop) only; the others' keys and values come from the buffer. -> (B, stop-start, C)"""
        part = tuple(angle[start:stop] for angle in table)
        return layer(x[:, start:stop], positions[start:stop], part, buffer)

    print("  largest difference from the pass over all rows, and rows that went through the layer")
    gpt, buffer = Attention(C, n_head, causal=True), KVBuffer(2, n_head, T, C // n_head)
    rows = torch.cat([run(gpt, x, i, i + 1, buffer) for i in range(T)], dim=1)  # (B, T, C)
    report(f"causal, one row at a time: {T} rows, not {T * (T + 1) // 2}", rows, gpt(x, positions, table))

    dllm, buffer = Attention(C, n_head), KVBuffer(2, n_head, T, C // n_head)
    report(f"bidirectional, first pass: {T} rows", run(dllm, x, 0, T, buffer), dllm(x, positions, table))
    x[:, s:e] = torch.randn(2, e - s, C)  # a sampler has just filled in these positions
    full = dllm(x, positions, table)
    rows = run(dllm, x, s, e, buffer)  # (B, e - s, C)
    report(f"bidirectional, [{s}:{e}) rewritten: {e - s} rows, not {T}", rows, full[:, s:e])
    print("  Exact in one layer. Through several, rows outside [8:12) would have moved a little as well:")
    print("  there a diffusion model's cache is an approximation; a GPT's never is.")


def draw(show):
    """Two heads, bidirectional and causal, as pictures of their weights."""
    figure, axes = figures.pyplot(show).subplots(2, 2, figsize=(9, 9), layout="constrained")
    for axis, ((head, kind), weights) in zip(axes.flat, example_weights(TEXT).items(), strict=True):
        axis.imshow(weights, cmap="Blues", vmin=0, vmax=1)
        axis.set(title=f"{head}, {kind}", xlabel="looked at", ylabel="looking")
        axis.set_xticks(range(len(TEXT)), TEXT)
        axis.set_yticks(range(len(TEXT)), TEXT)
    figures.save_figure(figure, FIGURE, show)


def main():
    parser = argparse.ArgumentParser(description="Attention: by hand, in heads, masked, rotated, cached.")
    parser.add_argument("--show", action="store_true", help="open the figure in a window as well")
    args = parser.parse_args()
    torch.manual_seed(0)
    with torch.no_grad():
        show_three_lines()
        show_heads()
        show_masks()
        show_rotary()
        show_buffer()
        draw(args.show)
    print("Next: 03_transformer.py, where attention becomes a model.")


if __name__ == "__main__":
    cli.run(main)
