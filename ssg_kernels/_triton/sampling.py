"""Samples without a sort: finds by bisection the token that `reference.sample_weights` and a uniform determine.

Logits become keys, which are whole numbers in the same order, so that a bisection over them ends. Weights are whole
numbers too, so that their sums do not depend on the order. One pass counts or sums the tokens up to a key, or up to a
column. Tens of passes find the k-th key, the key where top-p cuts, and the column that the uniform falls on.

A program holds as many whole rows as fit its registers. If a row is too wide for that, the program takes one row and
reads it again in every pass, tile by tile.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _key(x, COMPUTE: tl.constexpr, SHIFT: tl.constexpr):
    """A signed whole number for each x, in the order of x. SHIFT drops the bits that are zero in half precision."""
    if COMPUTE is tl.float64:
        bits = x.to(tl.int64, bitcast=True)
        return bits ^ ((bits >> 63) & 0x7FFFFFFFFFFFFFFF)
    else:
        bits = x.to(tl.int32, bitcast=True)
        return (bits ^ ((bits >> 31) & 0x7FFFFFFF)) >> SHIFT


@triton.jit
def _load(rows, column, inside, first, vocabulary, COMPUTE: tl.constexpr, BLOCK: tl.constexpr):
    """Loads the logits from column `first` on, and -inf beyond the last column. Adding 0 turns -0 into 0."""
    columns = first + tl.arange(0, BLOCK)[None, :]
    mask = inside[:, None] & (columns < vocabulary)
    return (
        tl.load(rows[:, None] + columns.to(tl.int64) * column, mask=mask, other=-float("inf")).to(COMPUTE)
        + 0.0
    )


@triton.jit
def _place(x, origin, factor):
    """`x` scaled, as a whole number of units of 2**-25, cut towards zero (`reference.weigh`)."""
    scaled = (x - origin[:, None]) * factor.to(x.dtype)[:, None]
    return tl.minimum(tl.maximum(scaled, -2113929216.0), 2113929216.0).to(tl.int32)


@triton.jit
def _weigh(x, origin, factor, top):
    """The weights of `reference.weigh`, step by step."""
    distance = top[:, None].to(tl.uint32, bitcast=True) - _place(x, origin, factor).to(
        tl.uint32, bitcast=True
    )
    distance = tl.minimum(distance, 939524096)
    octaves = 2751463424 - tl.umulhi(distance << 2, tl.full(distance.shape, 3098164009, tl.uint32))
    fraction = octaves << 6
    power = tl.umulhi(fraction, tl.full(distance.shape, 232067, tl.uint32)) + 1338725
    power = tl.umulhi(fraction, power) + 10388937
    power = tl.umulhi(fraction, power) + 59576866
    power = tl.umulhi(fraction, power) + 257944253
    power = tl.umulhi(fraction, power) + 744260972
    power = tl.umulhi(fraction, power) + 1073741824
    return ((power + 64) >> 7).to(tl.int64) << 16 >> (41 - (octaves >> 26)).to(tl.int64)


@triton.jit
def _part(total, share):
    """The share of the total, cut to a whole number; at most total - 1."""
    high = tl.umulhi((total << 1).to(tl.uint64, bitcast=True), (share << 1).to(tl.uint64, bitcast=True))
    return tl.minimum(high.to(tl.int64, bitcast=True), total - 1)


@triton.jit
def _tile(
    key, weight, rows, column, inside, first, vocabulary, origin, factor, top,
    COMPUTE: tl.constexpr, SHIFT: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Keys, weights and columns of a tile. If the tile is the whole row, `key` and `weight` hold them already."""
    columns = first + tl.arange(0, BLOCK)[None, :]
    if WHOLE:
        return key, weight, columns
    else:
        x = _load(rows, column, inside, first, vocabulary, COMPUTE, BLOCK)
        return _key(x, COMPUTE, SHIFT), _weigh(x, origin, factor, top), columns


@triton.jit
def _between(low, high):
    """The whole number halfway, rounded down, without overflow."""
    return (low & high) + ((low ^ high) >> 1)


@triton.jit
def _number(number, stride, sample, inside):
    """A number for each row: that of its sample in a tensor, or with the stride None the argument itself."""
    if stride is None:
        return number
    else:
        return tl.load(number + sample * stride, mask=inside, other=1)


@triton.jit(do_not_specialize=["batch", "tokens", "scale", "drop_low", "drop_high", "keep"])
def sample_kernel(
    out, logits, logits_batch, logits_token, logits_column, uniform, uniform_batch, uniform_token,
    scale, scale_stride, drop, drop_stride, drop_low, drop_high, keep, keep_stride, batch, tokens, vocabulary,
    COMPUTE: tl.constexpr, SHIFT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Draws a token for each of ROWS rows, or -1 for a row without an answer.

    A row has no answer if it holds a NaN, if its largest logit is infinite, or if its scale is not positive and finite.

    `keep` is top_k. `drop` is 1 - top_p in units of 2**-62, or -1 without top_p. `scale`, `drop` and `keep` are
    tensors. With the stride None `scale` and `keep` are numbers, and `drop` is the number of `drop_low` and
    `drop_high`, since an argument of 64 bits would change the kernel's type with its value. `scale` is 0 where there
    is no answer. COLUMNS is the vocabulary rounded up to whole BLOCKs.
    """
    WHOLE: tl.constexpr = COLUMNS == BLOCK
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < batch.to(tl.int64) * tokens
    sample, token = row // tokens, row % tokens
    rows = logits + sample * logits_batch + token * logits_token
    u = tl.load(uniform + sample * uniform_batch + token * uniform_token, mask=inside, other=0.0)
    factor = tl.zeros((ROWS,), tl.float32) + _number(scale, scale_stride, sample, inside)
    if drop_stride is None:
        drop = tl.zeros((ROWS,), tl.int64) + (
            (drop_high.to(tl.int64) << 32) | (drop_low.to(tl.int64) & 0xFFFFFFFF)
        )
    else:
        drop = tl.load(drop + sample * drop_stride, mask=inside, other=0)
    keep = tl.zeros((ROWS,), tl.int32) + _number(keep, keep_stride, sample, inside)

    # The largest logit of each row, and which rows have an answer.
    largest = tl.full((ROWS,), -float("inf"), COMPUTE)
    has_nan = tl.zeros((ROWS,), tl.int32)
    x = tl.zeros((ROWS, BLOCK), COMPUTE)
    for first in range(0, COLUMNS, BLOCK):
        x = _load(rows, logits_column, inside, first, vocabulary, COMPUTE, BLOCK)
        largest = tl.maximum(largest, tl.max(tl.where(x == x, x, -float("inf")), 1))
        has_nan = tl.maximum(has_nan, tl.max((x != x).to(tl.int32), 1))
    is_valid = (has_nan == 0) & (tl.abs(largest) < float("inf")) & (factor > 0)
    largest, factor = tl.where(is_valid, largest, 0.0), tl.where(is_valid, factor, 1.0)
    top = _key(largest, COMPUTE, SHIFT)
    bottom = _key(tl.full((ROWS,), -float("inf"), COMPUTE), COMPUTE, SHIFT) - 1
    # Weights count from the origin and the place of the largest logit (`reference.weigh`).
    origin = tl.where(tl.abs(largest.to(tl.float32)) * factor >= 35.0, largest, 0.0)
    factor = factor * 33554432.0
    place = tl.sum(_place(largest[:, None], origin, factor), 1)
    key, weight = _key(x, COMPUTE, SHIFT), _weigh(x, origin, factor, place)

    # Top-k: tokens with keys above `low` stay. The search ends as soon as exactly `keep` do, since `low` need not be a
    # key itself.
    low, high = bottom, tl.where(keep > 0, top, bottom)
    while tl.max((low + 1 < high).to(tl.int32), 0) > 0:
        middle = _between(low, high)
        count = tl.zeros((ROWS,), tl.int32)
        for first in range(0, COLUMNS, BLOCK):
            k, w, c = _tile(
                key, weight, rows, logits_column, inside, first, vocabulary, origin, factor, place,
                COMPUTE, SHIFT, BLOCK, WHOLE,
            )  # fmt: skip
            count += tl.sum((k > middle[:, None]).to(tl.int32), 1)
        low = tl.where(count >= keep, middle, low)
        high = tl.where(count > keep, high, tl.where(count < keep, middle, low + 1))
    cut = low

    # Top-p: the keys up to `low` weigh at most `limit`, and the keys up to `high` weigh more.
    total, count = tl.zeros((ROWS,), tl.int64), tl.zeros((ROWS,), tl.int32)
    for first in range(0, COLUMNS, BLOCK):
        k, w, c = _tile(
            key, weight, rows, logits_column, inside, first, vocabulary, origin, factor, place,
            COMPUTE, SHIFT, BLOCK, WHOLE,
        )  # fmt: skip
        total += tl.sum(tl.where(k > cut[:, None], w, 0), 1)
        count += tl.sum((k > cut[:, None]).to(tl.int32), 1)
    has_p = drop >= 0
    limit = _part(total, tl.maximum(drop, 0))
    high = tl.where(has_p, top, low)
    below, up_to = tl.zeros((ROWS,), tl.int64), total
    fewer, most = tl.zeros((ROWS,), tl.int32), count
    is_open = (low + 1 < high) & (most - fewer > 1)
    while tl.max(is_open.to(tl.int32), 0) > 0:
        middle = _between(low, high)
        running, count = tl.zeros((ROWS,), tl.int64), tl.zeros((ROWS,), tl.int32)
        for first in range(0, COLUMNS, BLOCK):
            k, w, c = _tile(
                key, weight, rows, logits_column, inside, first, vocabulary, origin, factor, place,
                COMPUTE, SHIFT, BLOCK, WHOLE,
            )  # fmt: skip
            is_in = (k > cut[:, None]) & (k <= middle[:, None])
            running += tl.sum(tl.where(is_in, w, 0), 1)
            count += tl.sum(is_in.to(tl.int32), 1)
        goes = running <= limit
        low, below = tl.where(is_open & goes, middle, low), tl.where(is_open & goes, running, below)
        fewer = tl.where(is_open & goes, count, fewer)
        high, up_to = tl.where(is_open & ~goes, middle, high), tl.where(is_open & ~goes, running, up_to)
        most = tl.where(is_open & ~goes, count, most)
        is_open = (low + 1 < high) & (most - fewer > 1)

    # Between `low` and `high` lies one logit, once or several times. The first `ties` of its tokens go as well.
    each = tl.maximum((up_to - below) // tl.maximum(most - fewer, 1), 1)
    ties = tl.where(has_p, (limit - below) // each, 0)
    left, right = tl.full((ROWS,), -1, tl.int32), tl.where(ties > 0, vocabulary - 1, 0)
    while tl.max((left + 1 < right).to(tl.int32), 0) > 0:
        middle = (left + right) >> 1
        count = tl.zeros((ROWS,), tl.int32)
        for first in range(0, COLUMNS, BLOCK):
            k, w, c = _tile(
                key, weight, rows, logits_column, inside, first, vocabulary, origin, factor, place,
                COMPUTE, SHIFT, BLOCK, WHOLE,
            )  # fmt: skip
            is_in = (k > low[:, None]) & (k <= high[:, None]) & (c <= middle[:, None])
            count += tl.sum(is_in.to(tl.int32), 1)
        left, right = tl.where(count < ties, middle, left), tl.where(count < ties, right, middle)
    gone = tl.where(ties > 0, right, -1)

    # The token is the first column whose running weight exceeds the uniform's share of the total.
    total -= below + ties * each
    u = tl.minimum(tl.maximum(tl.where(u == u, u, 0.0), 0.0), 1.0)
    share = (u * 4611686018427387904.0).to(tl.int64)
    target = _part(total, share)
    left, right = tl.full((ROWS,), -1, tl.int32), tl.zeros((ROWS,), tl.int32) + (vocabulary - 1)
    while tl.max((left + 1 < right).to(tl.int32), 0) > 0:
        middle = (left + right) >> 1
        running = tl.zeros((ROWS,), tl.int64)
        for first in range(0, COLUMNS, BLOCK):
            k, w, c = _tile(
                key, weight, rows, logits_column, inside, first, vocabulary, origin, factor, place,
                COMPUTE, SHIFT, BLOCK, WHOLE,
            )  # fmt: skip
            is_in = (k > low[:, None]) & ((k > high[:, None]) | (c > gone[:, None])) & (c <= middle[:, None])
            running += tl.sum(tl.where(is_in, w, 0), 1)
        left, right = tl.where(running > target, left, middle), tl.where(running > target, middle, right)
    tl.store(out + row, tl.where(is_valid, right, -1).to(tl.int64), mask=inside)
