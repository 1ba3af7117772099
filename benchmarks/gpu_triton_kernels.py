"""Triton kernels of benchmarks/gpu_peer_triton.py: top-k, sort, the matrix product of experts, SwiGLU."""

import triton
import triton.language as tl


@triton.jit
def top_k(
    logits, indices, weights, counts,
    experts: tl.constexpr, wide: tl.constexpr, k: tl.constexpr, k_wide: tl.constexpr, renormalize: tl.constexpr,
):  # fmt: skip
    """A program a token: softmax, the k largest, and one more row for each of their experts."""
    token = tl.program_id(0)
    lanes = tl.arange(0, wide)
    scores = tl.load(
        logits + token * experts + lanes, mask=lanes < experts, other=-float("inf")
    ).to(tl.float32)
    top = tl.max(scores, 0)
    places = tl.arange(0, k_wide)
    best, chance = tl.zeros((k_wide,), dtype=tl.int32), tl.zeros((k_wide,), dtype=tl.float32)
    left = scores
    for place in tl.static_range(k):
        one = tl.argmax(left, 0)
        best = tl.where(places == place, one, best)
        chance = tl.where(places == place, tl.exp(tl.max(left, 0) - top), chance)
        left = tl.where(lanes == one, -float("inf"), left)
    whole = tl.sum(chance, 0) if renormalize else tl.sum(tl.exp(scores - top), 0)
    inside = places < k
    tl.store(indices + token * k + places, best, mask=inside)
    tl.store(weights + token * k + places, chance / whole, mask=inside)
    tl.atomic_add(counts + best, 1, mask=inside)


@triton.jit
def share_blocks(
    counts, cursors, pairs_of_blocks, experts_of_blocks, blocks_used, pairs,
    experts: tl.constexpr, wide: tl.constexpr, block_m: tl.constexpr, step: tl.constexpr,
):  # fmt: skip
    """A program an expert, and one more: where its blocks begin, whose they are, and the last one's padding."""
    expert = tl.program_id(0)
    lanes = tl.arange(0, wide)
    rows = tl.load(counts + lanes, mask=lanes < experts, other=0)
    blocks = (rows + block_m - 1) // block_m
    before = tl.sum(tl.where(lanes < expert, blocks, 0), 0)
    if expert == experts:
        tl.store(blocks_used, before)
    else:
        own_rows = tl.sum(tl.where(lanes == expert, rows, 0), 0)
        own = tl.sum(tl.where(lanes == expert, blocks, 0), 0)
        tl.store(cursors + expert, before * block_m)
        inside = tl.arange(0, step)
        for first in range(0, own, step):
            tl.store(experts_of_blocks + before + first + inside, expert, mask=first + inside < own)
        for first in range(own_rows, own * block_m, step):
            at = first + inside
            tl.store(pairs_of_blocks + before * block_m + at, pairs, mask=at < own * block_m)


@triton.jit
def scatter(indices, cursors, pairs_of_blocks, pairs, step: tl.constexpr):
    """Each pair into its expert's blocks."""
    pair = tl.program_id(0) * step + tl.arange(0, step)
    real = pair < pairs
    expert = tl.load(indices + pair, mask=real, other=0)
    place = tl.atomic_add(cursors + expert, 1, mask=real)
    tl.store(pairs_of_blocks + place, pair, mask=real)


@triton.jit
def expert_matmul(
    a, b, c, scales, pairs_of_blocks, experts_of_blocks, blocks_used, pairs, blocks, n, k,
    per_row: tl.constexpr, scaled: tl.constexpr,
    block_m: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr, group: tl.constexpr,
):  # fmt: skip
    """c[pair] = a[pair // per_row] @ b[expert of its block].T, times the pair's scale where `scaled`."""
    program = tl.program_id(0)
    columns = tl.cdiv(n, block_n)
    first = program // (group * columns) * group
    rows = min(blocks - first, group)
    inside = program % (group * columns)
    block, column = first + inside % rows, inside // rows
    if block >= tl.load(blocks_used):
        return
    pair = tl.load(pairs_of_blocks + block * block_m + tl.arange(0, block_m)).to(tl.int64)
    real = pair < pairs
    expert = tl.load(experts_of_blocks + block).to(tl.int64)
    depth = tl.arange(0, block_k)
    wide = (column * block_n + tl.arange(0, block_n)) % n
    a_at = a + (pair // per_row)[:, None] * k + depth[None, :]
    b_at = b + expert * n * k + wide[None, :] * k + depth[:, None]
    total = tl.zeros((block_m, block_n), dtype=tl.float32)
    for _ in range(0, tl.cdiv(k, block_k)):
        total += tl.dot(tl.load(a_at, mask=real[:, None], other=0.0), tl.load(b_at))
        a_at += block_k
        b_at += block_k
    if scaled:
        total *= tl.load(scales + pair, mask=real, other=0.0)[:, None]
    out = column * block_n + tl.arange(0, block_n)
    keep = real[:, None] & (out < n)[None, :]
    tl.store(c + pair[:, None] * n + out[None, :], total.to(tl.bfloat16), mask=keep)


@triton.jit
def swiglu(both, hidden, size, width: tl.constexpr, step: tl.constexpr):
    """hidden[row] = silu(gate) * up, of rows that are [gate, up]."""
    at = tl.program_id(0).to(tl.int64) * step + tl.arange(0, step)
    inside = at < size
    gate_at = both + at // width * (2 * width) + at % width
    gate = tl.load(gate_at, mask=inside).to(tl.float32)
    up = tl.load(gate_at + width, mask=inside).to(tl.float32)
    tl.store(hidden + at, (gate * tl.sigmoid(gate) * up).to(tl.bfloat16), mask=inside)
