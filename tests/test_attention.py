"""Chapter 02: attention as in PyTorch, causal masks, rotary positions, and when a buffer is exact."""

import math
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F

attention = import_module("02_attention")

B, T, C, HEADS = 3, 12, 32, 4
POSITIONS = torch.arange(T)
TABLE = attention.rotary_table(POSITIONS, C // HEADS)
CAUSAL = torch.ones(T, T, dtype=torch.bool).tril()

kinds_of_mask = pytest.mark.parametrize(
    "arguments", [{}, {"is_causal": True}, {"attn_mask": CAUSAL}], ids=["none", "causal", "given"])  # fmt: skip


@pytest.fixture(autouse=True)
def usual_start():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def new_buffer(rows=T, batch=B):
    return attention.KVBuffer(batch, HEADS, rows, C // HEADS)


def through(layer, x, positions, buffer):
    """Compute the outputs of x at `positions`. The buffer holds all other rows."""
    table = attention.rotary_table(positions, C // HEADS)
    return layer(x[:, positions], positions, table, buffer)


def close(a, b):
    return torch.allclose(a, b, atol=1e-5)


# 1. The three lines


@torch.enable_grad()
@kinds_of_mask
def test_attention_and_its_gradient_are_those_of_pytorch(arguments):
    q, k, v = torch.randn(3, B, HEADS, T, 8, dtype=torch.float64).requires_grad_().unbind()
    target = torch.randn(B, HEADS, T, 8, dtype=torch.float64)
    results = []
    for kernel in (F.scaled_dot_product_attention, attention.by_products):
        y = kernel(q, k, v, **arguments)
        gradients = torch.autograd.grad((y - target).square().sum(), (q, k, v))
        results.append((y, *gradients))
    for expected, found in zip(*results):
        assert torch.allclose(expected, found)


def test_queries_and_keys_may_differ_in_number_and_the_weights_of_a_query_sum_to_one():
    q, k, v = torch.randn(B, 2, 8), torch.randn(B, 5, 8), torch.randn(B, 5, 6)
    y, weights = attention.attention(q, k, v)
    assert close(weights.sum(-1), torch.ones(B, 2)) and (weights >= 0).all()
    assert close(y, weights @ v) and close(y, F.scaled_dot_product_attention(q, k, v))


@kinds_of_mask
def test_dropout_removes_half_of_the_weights_and_doubles_the_others(arguments):
    q, k, v = torch.randn(B, HEADS, T, 8), torch.randn(B, HEADS, T, 8), torch.eye(T)  # so the output is the weights
    plain, dropped = (attention.by_products(q, k, v, **arguments, dropout_p=p) for p in (0, 0.5))
    kept = dropped != 0
    assert close(dropped[kept], 2 * plain[kept])
    assert kept.sum() / (plain > 0).sum() == pytest.approx(0.5, abs=0.05)


# 2. Rotary positions


def test_rotation_by_hand():
    table = attention.rotary_table(torch.tensor([3]), 4)  # two pairs, with the frequencies 1 and 1/100
    turned = attention.rotate(torch.tensor([[1.0, 0.0, 0.0, 2.0]]), table)
    assert close(turned, torch.tensor([[math.cos(3), -2 * math.sin(0.03), math.sin(3), 2 * math.cos(0.03)]]))


def test_rotations_satisfy_the_identity_of_the_proof():
    """The identity is R_mᵀ R_n = R_{n-m}. For n = m, it says that a rotation keeps the length of a vector."""
    size = C // HEADS
    units = torch.eye(size)[:, None].expand(size, T, size)  # every unit vector at every position
    R = attention.rotate(units, TABLE).permute(1, 2, 0)  # (T, size, size): column i is R_m applied to unit vector i
    assert close(R[0], torch.eye(size))
    for m in range(T):
        for n in range(m, T):
            assert close(R[m].T @ R[n], R[n - m])


# 3. The module


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_the_module_equals_a_loop_over_heads(causal, rotary, qk_norm):
    layer, x = attention.Attention(C, HEADS, causal, rotary=rotary, qk_norm=qk_norm), torch.randn(B, T, C)
    outputs = []
    for head in torch.arange(C).split(C // HEADS):
        q, k, v = (part[..., head] for part in layer.qkv(x).chunk(3, dim=-1))
        if qk_norm:
            q, k = (z / z.square().mean(-1, keepdim=True).sqrt() for z in (q, k))
        if rotary:
            q, k = attention.rotate(q, TABLE), attention.rotate(k, TABLE)
        outputs.append(attention.attention(q, k, v, CAUSAL if causal else None)[0])
    assert torch.allclose(layer(x, POSITIONS, TABLE), layer.out(torch.cat(outputs, dim=-1)), atol=1e-4)
    assert sum(p.numel() for p in layer.parameters()) == 4 * C**2


@pytest.mark.parametrize("causal", [False, True])
def test_a_causal_output_does_not_depend_on_later_inputs(causal):
    layer, x = attention.Attention(C, HEADS, causal), torch.randn(B, T, C)
    changed = x.clone()
    changed[:, 7] += 1
    moved = (layer(x, POSITIONS, TABLE) - layer(changed, POSITIONS, TABLE)).abs().amax((0, 2)) > 1e-7
    assert moved.tolist() == [not causal or i >= 7 for i in range(T)]


def test_dropout_acts_in_training_only():
    layer, x = attention.Attention(C, HEADS, dropout=0.5), torch.randn(B, T, C)
    assert not torch.equal(layer(x, POSITIONS, TABLE), layer(x, POSITIONS, TABLE))
    layer.eval()
    assert torch.equal(layer(x, POSITIONS, TABLE), layer(x, POSITIONS, TABLE))


def test_the_example_heads_look_where_their_names_say():
    weights = attention.example_weights("abca")
    assert weights["same letter", "bidirectional"][0].argsort().tolist()[-2:] in ([0, 3], [3, 0])
    assert weights["same letter", "causal"][0].tolist() == [1, 0, 0, 0]
    assert weights["next letter", "bidirectional"].argmax(-1).tolist() == [1, 2, 3, 3]
    assert weights["next letter", "causal"].argmax(-1).tolist() == [0, 1, 2, 3]


# 4. The buffer


def test_writing_changes_only_the_rows_that_it_is_given():
    buffer = new_buffer(batch=1)
    k, v = torch.randn(2, 1, HEADS, 2, C // HEADS)
    buffer.write(torch.tensor([6, 4]), k, v)
    assert torch.equal(buffer.k[:, :, [6, 4]], k) and torch.equal(buffer.v[:, :, [6, 4]], v)
    assert not buffer.k[:, :, ~buffer.valid].any() and not buffer.v[:, :, ~buffer.valid].any()
    queries = torch.tensor([3, 4, 5])
    assert buffer.mask(queries, causal=False).nonzero().tolist() == [[i, row] for i in range(3) for row in (4, 6)]
    assert buffer.mask(queries, causal=True).nonzero().tolist() == [[1, 4], [2, 4]]


@pytest.mark.parametrize("sizes", [[1] * T, [5, 1, 6], [T]], ids=["one by one", "blocks", "at once"])
@pytest.mark.parametrize("kernel", [F.scaled_dot_product_attention, attention.by_products])
def test_a_causal_layer_with_a_buffer_equals_the_full_pass(sizes, kernel):
    layer, x = attention.Attention(C, HEADS, causal=True), torch.randn(B, T, C)
    layer.kernel = kernel
    buffer = new_buffer(rows=T + 9)  # no query may look at rows that were never written
    parts = [through(layer, x, positions, buffer) for positions in POSITIONS.split(sizes)]
    assert close(torch.cat(parts, dim=1), layer(x, POSITIONS, TABLE))


def test_appending_blocks_to_a_bidirectional_layer_is_block_causal_attention():
    """Block-causal means that a position sees its own block and all earlier blocks, as in block diffusion."""
    layer, x, buffer = attention.Attention(C, HEADS), torch.randn(B, T, C), new_buffer()
    parts = [through(layer, x, positions, buffer) for positions in POSITIONS.split(4)]
    q, k, v = (z.view(B, T, HEADS, -1).transpose(1, 2) for z in layer.qkv(x).chunk(3, dim=-1))
    q, k = (attention.rotate(F.rms_norm(z, z.shape[-1:]), TABLE) for z in (q, k))
    mask = POSITIONS[:, None] // 4 >= POSITIONS[None, :] // 4
    y = attention.attention(q, k, v, mask)[0].transpose(1, 2).reshape(B, T, C)
    assert close(torch.cat(parts, dim=1), layer.out(y))


@pytest.mark.parametrize("causal, depth, rows, exact", [
    (False, 1, [9, 2, 5], True),
    (False, 2, [8, 9, 10, 11], False),  # the second layer's buffer holds old keys and values of the other rows
    (True, 2, [8, 9, 10, 11], True),
    (True, 2, [0, 1, 2, 3], True),  # the later rows are out of date, but these do not look at them
], ids=str)  # fmt: skip
def test_when_rewritten_rows_are_exact(causal, depth, rows, exact):
    layers, x = [attention.Attention(C, HEADS, causal) for _ in range(depth)], torch.randn(B, T, C)
    buffers = [new_buffer() for _ in layers]
    plain = x
    for layer in layers:
        plain = plain + layer(plain, POSITIONS, TABLE)
    assert close(attention.run(layers, x, POSITIONS, buffers), plain)
    x[:, rows] = torch.randn(B, len(rows), C)
    full = attention.run(layers, x, POSITIONS)
    again = attention.run(layers, x, torch.tensor(rows), buffers)
    assert close(again, full[:, rows]) is exact
    assert close(attention.run(layers, x, POSITIONS, buffers), full)  # as soon as all rows are computed again
