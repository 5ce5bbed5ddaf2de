"""Chapter 02: how does one position look at the others?

    python 02_attention.py           # about 5 seconds on a CPU; draws figures/02_attention.png
    python 02_attention.py --show    # the same, and opens the figure in a window

With attention, each position of a text reads from the other positions. This chapter begins with three lines of code and
ends with the module `Attention`, which all later chapters use. Four ideas come in between. Heads are several attentions
side by side. A mask says where a position may look. Rotary positions show how far apart two positions are. A buffer
saves work if only a few positions change.

You should see attention weights, as numbers and in a figure. The chapter also computes several results in two ways.
The two ways agree in all cases except the last, and the output says why.
"""

import math
from importlib import import_module

import torch
import torch.nn as nn
import torch.nn.functional as F

tensors = import_module("01_tensors")

TEXT = "to be or not to be"


# 1. The three lines


def attention(q, k, v, mask=None):
    """Return the output softmax(QKᵀ/√d)V and the weights softmax(QKᵀ/√d).

    A position's query q says what the position looks for, its key k says what it offers, and its value v is what it
    passes on. The output is a weighted mean of the values. A value has a large weight if its key matches the query
    (arXiv:1706.03762, equation 1).

    The queries q and the output have the shape (..., T, d). The keys k and the values v have the shape (..., S, d). The
    weights have the shape (..., T, S). The boolean `mask` (..., T, S) is True where a query may look at a key.
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (..., T, S)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    weights = scores.softmax(dim=-1)
    return weights @ v, weights


def by_products(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False):
    """Compute `attention`, but take the arguments of F.scaled_dot_product_attention.

    Return only the output (..., T, d).
    """
    if is_causal:
        attn_mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    y, weights = attention(q, k, v, attn_mask)
    return y if dropout_p == 0 else F.dropout(weights, dropout_p) @ v


# 2. Rotary positions


def rotary_table(positions, head_dim, base=10000.0):
    """Return the cosine and the sine of position × frequency for `positions` (T,), as two tensors (T, head_dim / 2).

    The frequencies fall from 1 to about 1 / base. High frequencies tell nearby positions apart, and low frequencies
    tell distant positions apart (RoFormer, Su et al. 2021, arXiv:2104.09864).
    """
    frequency = base ** (-torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim)
    angle = positions.float()[:, None] * frequency[None, :]  # (T, head_dim/2)
    return angle.cos(), angle.sin()


def rotate(x, table):
    """Rotate the vectors of x (..., T, hd), where hd is the size of a head. `table` comes from `rotary_table`.

    Each pair of entries (x_i, x_{i+hd/2}) is rotated like a point in the plane, by the angle position × frequency.
    After this rotation, the dot product of a query at position m and a key at position n depends on m and n only
    through n - m. Proof: let R_m be the rotation matrix of position m. R_mᵀ turns back by m positions, and R_n turns
    forward by n positions, so R_mᵀ R_n = R_{n-m}. Therefore (R_m q)·(R_n k) = qᵀ R_mᵀ R_n k = q·(R_{n-m} k).
    """
    cos, sin = (part.to(x.dtype) for part in table)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)  # (..., T, hd)


# 3. The key-value buffer


class KVBuffer:
    """The keys and values of one layer (a "key-value cache"), with room for `rows` positions.

    A forward pass computes some positions, writes their keys and values to the buffer, and attends to all rows written
    so far. A GPT appends one row per pass. The sampler of a diffusion model replaces a range of rows.

    Are the outputs the same as without a buffer? In a causal model they are, because a new row at the end changes no
    earlier row. In a bidirectional model, only the outputs of the first layer are exact. If some tokens change,
    the outputs of the first layer change at all positions, because every position looks at the changed tokens. So the
    next layer needs new keys and values at all positions. But the buffer still holds the old ones.
    """

    def __init__(self, batch, n_head, rows, head_dim, device=None, dtype=None):
        self.k = torch.zeros(batch, n_head, rows, head_dim, device=device, dtype=dtype)
        self.v = torch.zeros_like(self.k)
        self.valid = torch.zeros(rows, dtype=torch.bool, device=device)

    def write(self, positions, k, v):
        """Store the keys k and values v (B, nh, T, hd) at `positions` (T,) of the buffer. nh is the number of heads."""
        self.k.index_copy_(2, positions, k.to(self.k.dtype))
        self.v.index_copy_(2, positions, v.to(self.v.dtype))
        self.valid.index_fill_(0, positions, True)

    def mask(self, positions, causal):
        """Return a boolean tensor (T, rows). It is True where the queries at `positions` (T,) may look.

        A query may look at every row written so far. If `causal` is True, the query must not look at later positions.
        """
        mask = self.valid.expand(len(positions), -1)
        if causal:
            rows = torch.arange(len(self.valid), device=positions.device)
            mask = mask & (rows <= positions[:, None])
        return mask


# 4. The module


class Attention(nn.Module):
    """Multi-head self-attention: several attentions side by side, each with its own part of the channels.

    `causal` is True in the GPT and False in the diffusion model (dLLM). Nothing else differs between the two networks.

    If `qk_norm` is True, each query and each key is divided by its root mean square (QK-norm; Henry et al. 2020,
    arXiv:2010.04245). The scores then stay in a range in which large learning rates are safe.

    The function `kernel` computes softmax(QKᵀ/√d)V. PyTorch's kernel gives the same result as our three lines, but does
    not store the weights. For bfloat16 on a CPU, chapter 05 replaces the kernel with `by_products`, which can be
    faster.
    """

    kernel = staticmethod(F.scaled_dot_product_attention)

    def __init__(self, n_embd, n_head, causal=False, dropout=0.0, rotary=True, qk_norm=True):
        super().__init__()
        self.n_head, self.causal, self.dropout = n_head, causal, dropout
        self.rotary, self.qk_norm = rotary, qk_norm
        self.qkv = nn.Linear(n_embd, 3 * n_embd, bias=False)  # one matrix makes queries, keys and values from x
        self.out = nn.Linear(n_embd, n_embd, bias=False)

    def forward(self, x, positions, table=None, buffer=None):
        """Return the outputs (B, T, C) for the vectors x (B, T, C) at `positions` (T,) of the text.

        `table` comes from `rotary_table`. If `buffer` is a KVBuffer, the new keys and values are written to it,
        and the queries look at all rows written so far.
        """
        B, T, C = x.shape
        qkv = self.qkv(x).view(B, T, 3, self.n_head, C // self.n_head).permute(2, 0, 3, 1, 4)  # (3, B, nh, T, hd)
        qk, v = qkv[:2], qkv[2]  # the next lines treat queries and keys alike
        if self.qk_norm:
            qk = F.rms_norm(qk, qk.shape[-1:])
        if self.rotary:
            qk = rotate(qk, table)
        q, k = qk  # (B, nh, T, hd) each
        if buffer is None:
            y = self.kernel(q, k, v, is_causal=self.causal, dropout_p=self.dropout if self.training else 0.0)
        else:
            buffer.write(positions, k, v)
            mask = buffer.mask(positions, self.causal)
            y = self.kernel(q, buffer.k.to(q.dtype), buffer.v.to(q.dtype), attn_mask=mask)  # (B, nh, T, hd)
        return self.out(y.transpose(1, 2).reshape(B, T, C))  # (B, T, C)


# 5. The demonstration


def report(name, ours, reference, equal=True):
    """Print the largest difference between two results, and check its size.

    If `equal` is True, the difference must be no more than rounding. If `equal` is False, the difference
    must be clearly larger.
    """
    difference = (ours - reference).abs().max().item()
    print(f"  {name:58} {difference:.0e}{'' if equal else '   a real difference'}")
    assert (difference < 1e-5) if equal else (difference > 1e-3)


def show_three_lines():
    tensors.heading("1. softmax(QKᵀ/√d)V")
    keys, values = torch.eye(4), torch.tensor([[10.0], [20.0], [30.0], [40.0]])
    print("  A soft look-up: the values are 10, 20, 30 and 40. The query is a multiple of key 2 (counted from 0).\n"
          "  query            weights                     output")
    for factor in (0, 2, 8, 32):
        y, weights = attention(factor * keys[2:3], keys, values)  # (1, 1), (1, 4)
        row = " ".join(f"{w:6.3f}" for w in weights[0].tolist())
        print(f"  {factor:2} x key 2     {row} {y.item():10.2f}")

    print("\n  Why √d: products of random vectors grow with their size d, and softmax then chooses one key.")
    print("     d   std of q·k      largest of 16 weights: raw   divided by √d")
    for d in (4, 64, 1024):
        q, k = torch.randn(200, d), torch.randn(16, d)
        raw, scaled = ((q @ k.T / s).softmax(-1).amax(-1).mean().item() for s in (1.0, math.sqrt(d)))
        print(f"  {d:4} {(q @ k.T).std().item():15.1f} {raw:28.2f} {scaled:15.2f}")

    print("\n  Our three lines against PyTorch's kernel, which does not store the weights; largest difference:")
    q, k, v = torch.randn(3, 2, 5, 16)  # (B, T, d) each
    causal = torch.ones(5, 5, dtype=torch.bool).tril()
    for name, mask in (("every position looks at every other", None), ("each position looks back only", causal)):
        report(name, attention(q, k, v, mask)[0], F.scaled_dot_product_attention(q, k, v, attn_mask=mask))


def show_heads():
    tensors.heading("2. Heads: several small attentions side by side")
    B, T, C, n_head = 2, 5, 12, 3
    layer = Attention(C, n_head, rotary=False, qk_norm=False)
    x = torch.randn(B, T, C)
    q, k, v = layer.qkv(x).chunk(3, dim=-1)  # (B, T, C) each
    parts = zip(*(part.split(C // n_head, dim=-1) for part in (q, k, v)), strict=True)
    heads = [attention(*part)[0] for part in parts]  # n_head times (B, T, hd)
    print(f"  x {tuple(x.shape)} → q, k, v {tuple(q.shape)} each → {n_head} heads {tuple(heads[0].shape)} each")
    print("  The outputs of the heads are joined and mixed by one matrix. Largest difference:")
    report("a loop over the heads against the module", layer.out(torch.cat(heads, -1)), layer(x, torch.arange(T)))
    assert all(sum(p.numel() for p in Attention(C, n).parameters()) == 4 * C**2 for n in (1, 2, 3, 6))
    print(f"  With 1, 2, 3 or 6 heads there are 4 C² = {4 * C**2} parameters: the heads divide the channels.")


def example_weights(text):
    """Set the queries and keys of two heads by hand. Return {(head, kind of mask): weights (T, T)}."""
    T, d = len(text), 32
    position = torch.arange(T)
    codes = torch.tensor([ord(character) for character in text])
    letter = F.one_hot(codes).float()  # (T, ·): different letters have orthogonal vectors
    # In the second head, all queries and keys are rotated copies of the same vector. Each query is rotated one position
    # further than the key of its own position, so the query matches the key of the next position best.
    same = torch.full((T, d), 4.0)
    here, next_place = rotary_table(position, d), rotary_table(position + 1, d)
    heads = {
        "same letter": (8 * letter, 8 * letter),
        "next letter": (rotate(same, next_place), rotate(same, here)),
    }
    causal = torch.ones(T, T, dtype=torch.bool).tril()
    weights = {}
    for head, (q, k) in heads.items():
        weights[head, "bidirectional"] = attention(q, k, k)[1]
        weights[head, "causal"] = attention(q, k, k, causal)[1]
    return weights


def show_masks():
    tensors.heading("3. Bidirectional (the dLLM) against causal (the GPT)")
    weights = example_weights(TEXT)
    pair = weights["same letter", "bidirectional"], weights["same letter", "causal"]
    assert pair[1].triu(1).abs().max() == 0  # no weight on later positions
    print("  A head that looks for its own letter. Row: the position that looks; column: what it looks at.\n")
    print(f"     {'bidirectional':20}causal\n     {TEXT:20}{TEXT}")
    for i, letter in enumerate(TEXT):
        shades = ["".join(" .:-=+*#"[round(7 * w)] for w in p[i].tolist()) for p in pair]
        print(f"   {letter} {shades[0]:20}{shades[1]}".rstrip())
    print("  In the causal head every 't' sees only itself and the earlier ones; the first 'b' sees no other 'b'.")

    print("\n  We change the input at position 3 of 8 positions. Which outputs change (x)?")
    x = torch.randn(1, 8, 16)
    changed = x + (torch.arange(8) == 3)[:, None]
    for name, causal in (("bidirectional", False), ("causal", True)):
        layer = Attention(16, 2, causal)
        positions = torch.arange(8)
        table = rotary_table(torch.arange(8), 8)
        difference = layer(x, positions, table) - layer(changed, positions, table)
        changed_outputs = (difference.abs().amax((0, 2)) > 1e-7).tolist()  # (T,)
        assert changed_outputs == [not causal or i >= 3 for i in range(8)]
        print(f"  {name:14}", *("x" if c else "." for c in changed_outputs))


def show_rotary():
    tensors.heading("4. Rotary positions")
    q, k = torch.randn(2, 1, 64)  # (T=1, hd) each

    def score(m, n):
        """Return the dot product of q at position m and k at position n."""
        rotated = (rotate(x, rotary_table(torch.tensor([p]), 64)) for x, p in ((q, m), (k, n)))
        return torch.linalg.vecdot(*rotated).item()

    print("  The product of a query at position m and a key at n depends on m and n only through m - n:")
    print("  m - n     n = 0    n = 10   n = 100")
    for distance in (0, 1, 5, 20):
        row = [score(n + distance, n) for n in (0, 10, 100)]
        print(f"  {distance:5}", *(f"{s:9.4f}" for s in row))
        assert max(row) - min(row) < 1e-3
    positions = torch.arange(8)
    x = torch.randn(1, 8, 64)
    table = rotary_table(positions, 64)
    assert torch.allclose(rotate(x, table).norm(dim=-1), x.norm(dim=-1), rtol=1e-5)
    print("  A rotation does not change the length of a vector (asserted).")
    order = torch.randperm(8)
    for rotary in (False, True):
        layer = Attention(64, 1, rotary=rotary)
        shuffled, plain = layer(x[:, order], positions, table), layer(x, positions, table)
        assert torch.allclose(shuffled, plain[:, order], atol=1e-5) is not rotary
    print("  Without positions attention cannot see order: shuffled inputs give shuffled outputs (asserted).")


def run(layers, x, positions, buffers=None):
    """Send x[:, positions] through the layers, each of which adds its output to its input. Return x (B, T, C)."""
    x, table = x[:, positions], rotary_table(positions, x.shape[-1] // layers[0].n_head)
    for layer, buffer in zip(layers, buffers or [None] * len(layers), strict=True):
        x = x + layer(x, positions, table, buffer)
    return x


def show_buffer():
    tensors.heading("5. The key-value buffer: compute a few rows, attend to all")
    B, T, C, n_head = 2, 16, 32, 4
    every = torch.arange(T)

    def make(depth, causal):
        """Return a list of `depth` layers, and a list with a buffer for each layer."""
        layers = [Attention(C, n_head, causal) for _ in range(depth)]
        buffers = [KVBuffer(B, n_head, T, C // n_head) for _ in range(depth)]
        return layers, buffers

    print("  Largest difference from a pass over all rows:")
    gpt, buffers = make(2, causal=True)
    x = torch.randn(B, T, C)
    rows = [run(gpt, x, position, buffers) for position in every.split(1)]  # T times (B, 1, C)
    report(f"causal, 2 layers, row by row: {T} rows, not 1 + … + {T}", torch.cat(rows, dim=1), run(gpt, x, every))

    start, end = 8, 12
    for depth in (1, 2):
        dllm, buffers = make(depth, causal=False)
        x = torch.randn(B, T, C)
        run(dllm, x, every, buffers)
        x[:, start:end] = torch.randn(B, end - start, C)  # as if a sampler had just written here
        rows = run(dllm, x, every[start:end], buffers)  # (B, end - start, C)
        full = run(dllm, x, every)[:, start:end]
        name = f"bidirectional, {depth} layer(s), [{start}:{end}) changed: {end - start} rows, not {T}"
        report(name, rows, full, equal=depth == 1)
    print("  Causal: no position depends on a later one, so kept rows stay right and the cache is exact.")
    print("  Bidirectional: the kept positions look at the changed ones, so in the second layer their keys and values")
    print("  should change too. The buffer holds the old ones: through several layers it is an approximation.")


def draw(show):
    """Draw the attention weights of two heads, with and without a causal mask."""
    figure, axes = tensors.pyplot(show).subplots(2, 2, figsize=(9, 9), layout="constrained")
    for axis, ((head, kind), weights) in zip(axes.flat, example_weights(TEXT).items(), strict=True):
        axis.imshow(weights, cmap="Blues", vmin=0, vmax=1)
        axis.set(title=f"{head}, {kind}", xlabel="is looked at", ylabel="looks")
        axis.set(xticks=range(len(TEXT)), xticklabels=list(TEXT), yticks=range(len(TEXT)), yticklabels=list(TEXT))
    tensors.save_figure(figure, "02_attention", show)


def main():
    flags = tensors.read_flags(__doc__)
    torch.set_num_threads(1)  # for such small tensors, one thread is the fastest
    torch.manual_seed(0)
    with torch.no_grad():
        show_three_lines()
        show_heads()
        show_masks()
        show_rotary()
        show_buffer()
        draw(flags.show)
    print("Next: 03_transformer.py, which builds a whole model from attention.")


if __name__ == "__main__":
    main()
