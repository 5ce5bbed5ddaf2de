"""Chapter 02: attention equals PyTorch's, masks, rotary positions, and when cached = uncached."""

import math
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from helpers import ROOT, python

from plumbing import devices

attention = import_module("02_attention")

B, T, C, HEADS = 3, 12, 32, 4
POSITIONS = torch.arange(T)
TABLE = attention.rotary_table(POSITIONS, C // HEADS)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def causal_mask(rows=T):
    return torch.ones(rows, rows, dtype=torch.bool).tril()


def new_buffer(rows=T, batch=B):
    return attention.KVBuffer(batch, HEADS, rows, C // HEADS)


def through(layer, x, positions, buffer):
    """The outputs of the rows `positions` of x; the buffer holds the other rows."""
    table = attention.rotary_table(positions, C // HEADS)
    return layer(x[:, positions], positions, table, buffer)


def close(a, b):
    return torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("mask", [None, causal_mask()], ids=["bidirectional", "causal"])
def test_three_lines_equal_pytorch(mask):
    q, k, v = torch.randn(3, B, HEADS, T, 8)
    y, weights = attention.attention(q, k, v, mask)
    assert close(y, F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
    assert close(weights.sum(-1), torch.ones(B, HEADS, T))
    assert (weights >= 0).all()
    if mask is not None:
        assert (weights[..., ~mask] == 0).all()


def test_queries_and_keys_may_differ_in_number():
    q, k, v = torch.randn(B, 2, 8), torch.randn(B, 5, 8), torch.randn(B, 5, 6)
    y, weights = attention.attention(q, k, v)
    assert y.shape == (B, 2, 6) and weights.shape == (B, 2, 5)
    assert close(y, F.scaled_dot_product_attention(q, k, v))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_module_equals_a_loop_over_heads(causal, rotary, qk_norm):
    layer, x = attention.Attention(C, HEADS, causal, rotary=rotary, qk_norm=qk_norm), torch.randn(B, T, C)
    size, outputs = C // HEADS, []
    for h in range(HEADS):
        q, k, v = (part[..., h * size : (h + 1) * size] for part in layer.qkv(x).chunk(3, dim=-1))
        if qk_norm:
            q, k = (z / (z.pow(2).mean(-1, keepdim=True) + torch.finfo(z.dtype).eps).sqrt() for z in (q, k))
        if rotary:
            q, k = attention.rotate(q, TABLE), attention.rotate(k, TABLE)
        outputs.append(attention.attention(q, k, v, causal_mask() if causal else None)[0])
    assert close(layer(x, POSITIONS, TABLE), layer.out(torch.cat(outputs, dim=-1)))


@pytest.mark.parametrize("causal", [False, True])
def test_which_outputs_depend_on_an_input(causal):
    layer, x = attention.Attention(C, HEADS, causal), torch.randn(B, T, C)
    changed = x.clone()
    changed[:, 7] += 1
    moved = (layer(x, POSITIONS, TABLE) - layer(changed, POSITIONS, TABLE)).abs().amax((0, 2)) > 1e-7
    assert moved.tolist() == [not causal or i >= 7 for i in range(T)]


def test_rotation_keeps_norms_and_does_not_change_position_zero():
    x = torch.randn(B, HEADS, T, 8)
    turned = attention.rotate(x, TABLE)
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), rtol=1e-5)
    assert torch.equal(turned[:, :, 0], x[:, :, 0])
    assert not close(turned[:, :, 1:], x[:, :, 1:])


def test_rotation_by_hand():
    table = attention.rotary_table(torch.tensor([3]), 2)  # one pair, frequency 1: an angle of 3 radians
    turned = attention.rotate(torch.tensor([[1.0, 0.0]]), table)
    assert close(turned, torch.tensor([[math.cos(3), math.sin(3)]]))


def test_rotations_satisfy_the_identity_of_the_proof():
    """R_mᵀ R_n = R_{n-m}, with the matrices of all positions of TABLE."""
    size = C // HEADS
    identity = torch.eye(size).expand(T, size, size).transpose(0, 1)  # (size, T, size): every unit vector at every m
    R = attention.rotate(identity, TABLE).permute(1, 2, 0)  # (T, size, size): column i is R_m applied to unit i
    for m in range(T):
        for n in range(m, T):
            assert close(R[m].T @ R[n], R[n - m])


@pytest.mark.parametrize("shift", [1, 17, 500])
def test_scores_depend_on_the_distance_only(shift):
    q, k = torch.randn(2, B, HEADS, T, 8)
    moved = attention.rotary_table(POSITIONS + shift, 8)
    here = attention.rotate(q, TABLE) @ attention.rotate(k, TABLE).mT
    there = attention.rotate(q, moved) @ attention.rotate(k, moved).mT
    assert torch.allclose(here, there, atol=1e-3)
    assert not torch.allclose(here, attention.rotate(q, moved) @ attention.rotate(k, TABLE).mT, atol=1e-1)


def test_attention_sees_order_only_with_positions():
    x, order = torch.randn(B, T, C), torch.randperm(T)
    for rotary in (False, True):
        layer = attention.Attention(C, HEADS, rotary=rotary)
        shuffled = layer(x[:, order], POSITIONS, TABLE)
        assert close(shuffled, layer(x, POSITIONS, TABLE)[:, order]) is not rotary


@pytest.mark.parametrize("sizes", [[1] * T, [5, 1, 6], [T]], ids=["one by one", "blocks", "at once"])
@pytest.mark.parametrize("rotary", [False, True])
def test_causal_append_equals_the_full_pass(sizes, rotary):
    layer, x = attention.Attention(C, HEADS, causal=True, rotary=rotary), torch.randn(B, T, C)
    buffer = new_buffer(rows=T + 9)  # no query may look at rows that were never written
    parts = [through(layer, x, positions, buffer) for positions in POSITIONS.split(sizes)]
    assert close(torch.cat(parts, dim=1), layer(x, POSITIONS, TABLE))
    assert buffer.valid.sum() == T


def test_bidirectional_append_of_blocks_is_block_causal_attention():
    """As in block diffusion, a position sees its own block and all earlier blocks."""
    layer, x, buffer = attention.Attention(C, HEADS), torch.randn(B, T, C), new_buffer()
    parts = [through(layer, x, positions, buffer) for positions in POSITIONS.split(4)]
    q, k, v = (z.view(B, T, HEADS, -1).transpose(1, 2) for z in layer.qkv(x).chunk(3, dim=-1))
    q, k = (attention.rotate(F.rms_norm(z, z.shape[-1:]), TABLE) for z in (q, k))
    mask = POSITIONS[:, None] // 4 >= POSITIONS[None, :] // 4
    y = attention.attention(q, k, v, mask)[0].transpose(1, 2).reshape(B, T, C)
    assert close(torch.cat(parts, dim=1), layer.out(y))


@pytest.mark.parametrize("s, e", [(0, 4), (3, 9), (8, T), (0, T)])
def test_bidirectional_rewrite_of_a_range_equals_the_full_pass(s, e):
    layer, x, buffer = attention.Attention(C, HEADS), torch.randn(B, T, C), new_buffer()
    assert close(through(layer, x, POSITIONS, buffer), layer(x, POSITIONS, TABLE))
    x[:, s:e] = torch.randn(B, e - s, C)
    assert close(through(layer, x, POSITIONS[s:e], buffer), layer(x, POSITIONS, TABLE)[:, s:e])


@pytest.mark.parametrize("depth, causal", [(1, False), (2, False), (1, True), (2, True)])
def test_when_a_cache_is_exact(depth, causal):
    """Causal: exact in all layers. Bidirectional: exact in one layer only, unless all rows are computed again."""
    layers, x = [attention.Attention(C, HEADS, causal) for _ in range(depth)], torch.randn(B, T, C)
    buffers = [new_buffer() for _ in layers]
    attention.run(layers, x, POSITIONS, buffers)
    x[:, 8:] = torch.randn(B, T - 8, C)
    rows, full = attention.run(layers, x, POSITIONS[8:], buffers), attention.run(layers, x, POSITIONS)
    assert close(rows, full[:, 8:]) is (causal or depth == 1)
    assert close(attention.run(layers, x, POSITIONS, buffers), full)


def test_rows_need_not_be_neighbours():
    layer, x, buffer = attention.Attention(C, HEADS), torch.randn(B, T, C), new_buffer()
    through(layer, x, POSITIONS, buffer)
    rows = torch.tensor([9, 2, 5])
    x[:, rows] += 1
    assert close(through(layer, x, rows, buffer), layer(x, POSITIONS, TABLE)[:, rows])


def test_writing_changes_only_the_rows_that_it_is_given():
    buffer = new_buffer(batch=1)
    k, v = torch.randn(2, 1, HEADS, 2, C // HEADS)
    buffer.write(torch.tensor([4, 6]), k, v)
    assert torch.equal(buffer.k[:, :, [4, 6]], k) and torch.equal(buffer.v[:, :, [4, 6]], v)
    assert buffer.valid.nonzero().flatten().tolist() == [4, 6]
    assert not buffer.k[:, :, ~buffer.valid].any() and not buffer.v[:, :, ~buffer.valid].any()
    assert buffer.mask(torch.tensor([5]), causal=True)[0].nonzero().flatten().tolist() == [4]
    assert buffer.mask(torch.tensor([5]), causal=False)[0].nonzero().flatten().tolist() == [4, 6]


def test_dropout_of_weights_in_training_only():
    layer, x = attention.Attention(C, HEADS, dropout=0.5), torch.randn(B, T, C)
    assert not torch.equal(layer(x, POSITIONS, TABLE), layer(x, POSITIONS, TABLE))
    layer.eval()
    assert torch.equal(layer(x, POSITIONS, TABLE), layer(x, POSITIONS, TABLE))


def test_example_heads_look_where_their_names_say():
    weights = attention.example_weights("abca")
    assert weights["same letter", "bidirectional"][0].argsort().tolist()[-2:] in ([0, 3], [3, 0])
    assert weights["same letter", "causal"][0].tolist() == [1, 0, 0, 0]
    assert weights["next letter", "bidirectional"].argmax(-1).tolist() == [1, 2, 3, 3]
    assert weights["next letter", "causal"].argmax(-1).tolist() == [0, 1, 2, 3]


def test_chapter_runs_from_anywhere_and_names_the_next(tmp_path):
    done = python(ROOT / "02_attention.py", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "03_transformer.py" in done.out.splitlines()[-1]
    assert (ROOT / "figures" / "02_attention.png").stat().st_size > 1000
    assert not list(tmp_path.iterdir())


@torch.enable_grad()
@pytest.mark.parametrize("shape", [dict(), dict(is_causal=True), dict(attn_mask=causal_mask(), dropout_p=0.0)], ids=str)
def test_attention_by_products_equals_pytorch_in_value_and_gradient(shape):
    q, k, v = torch.randn(3, B, HEADS, T, 8, dtype=torch.float64).requires_grad_().unbind()
    target, results = torch.randn(B, HEADS, T, 8, dtype=torch.float64), []
    for kernel in (F.scaled_dot_product_attention, devices.attention_by_products):
        y = kernel(q, k, v, **shape)
        results.append((y, *torch.autograd.grad(((y - target) ** 2).sum(), (q, k, v))))
    for expected, found in zip(*results):
        assert torch.allclose(expected, found)


def test_attention_by_products_drops_weights():
    q, k, v = torch.randn(64, 8), torch.randn(64, 8), torch.ones(64, 1)
    plain, dropped = (devices.attention_by_products(q, k, v, dropout_p=p) for p in (0.0, 0.5))
    assert close(plain, torch.ones(64, 1)) and not close(dropped, plain)
    assert dropped.mean().item() == pytest.approx(1, abs=0.2)  # the weights that remain are scaled up


@torch.enable_grad()
@pytest.mark.parametrize("causal", [False, True])
def test_another_kernel_on_one_instance_gives_the_same_training_in_bf16(causal):
    """Training in bfloat16 with the other kernel against PyTorch's kernel in float32: outputs and gradients."""
    layer, x, positions = attention.Attention(64, 2, causal), torch.randn(2, 9, 64), torch.arange(9)
    table, results = attention.rotary_table(positions, 32), []
    for dtype in (torch.float32, torch.bfloat16):
        if dtype == torch.bfloat16:
            layer.kernel = devices.attention_by_products
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = layer(x, positions, table)
        y.float().square().mean().backward()
        results.append((y.float(), layer.qkv.weight.grad.clone()))
    for exact, rounded in zip(*results):
        assert (exact - rounded).norm() < 0.02 * exact.norm()
    assert attention.Attention(64, 2).kernel is F.scaled_dot_product_attention  # other instances keep PyTorch's


@pytest.mark.parametrize("causal", [False, True])
def test_another_kernel_also_works_with_a_buffer(causal):
    layer, x, results = attention.Attention(C, HEADS, causal), torch.randn(B, T, C), []
    for kernel in (layer.kernel, devices.attention_by_products):
        layer.kernel, buffer = kernel, new_buffer(rows=T + 3)
        results.append(torch.cat([through(layer, x, p, buffer) for p in POSITIONS.split(5)], dim=1))
    assert close(*results)
