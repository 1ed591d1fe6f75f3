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
def _weigh(x, largest, scale):
    """round(2**35 * exp((x - largest) * scale)). Adding 2**52 rounds, and leaves the result in the mantissa."""
    share = tl.exp((x.to(tl.float64) - largest.to(tl.float64)[:, None]) * scale[:, None])
    return (34359738368.0 * share + 4503599627370496.0).to(tl.int64, bitcast=True) - 0x4330000000000000


@triton.jit
def _tile(
    key, weight, rows, column, inside, first, vocabulary, largest, scale,
    COMPUTE: tl.constexpr, SHIFT: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Keys, weights and columns of a tile. If the tile is the whole row, `key` and `weight` hold them already."""
    columns = first + tl.arange(0, BLOCK)[None, :]
    if WHOLE:
        return key, weight, columns
    else:
        x = _load(rows, column, inside, first, vocabulary, COMPUTE, BLOCK)
        return _key(x, COMPUTE, SHIFT), _weigh(x, largest, scale), columns


@triton.jit
def _between(low, high):
    """The whole number halfway, rounded down, without overflow."""
    return (low & high) + ((low ^ high) >> 1)


@triton.jit
def _double(low, high):
    """Joins two halves of 32 bits into a float64, because a float argument of a kernel is float32."""
    bits = (high.to(tl.int64) << 32) | (low.to(tl.int64) & 0xFFFFFFFF)
    return bits.to(tl.float64, bitcast=True)


@triton.jit
def _per_row(number, stride, low, high, sample, inside, ROWS: tl.constexpr):
    """A number for each row: that of its sample in a tensor, or with the stride None the float64 of two halves."""
    if stride is None:
        return tl.zeros((ROWS,), tl.float64) + _double(low, high)
    else:
        return tl.load(number + sample * stride, mask=inside, other=1.0).to(tl.float64)


@triton.jit(
    do_not_specialize=[
        "batch",
        "tokens",
        "keep_low",
        "keep_high",
        "drop_low",
        "drop_high",
        "scale_low",
        "scale_high",
    ]
)
def sample_kernel(
    out, logits, logits_batch, logits_token, logits_column, uniform, uniform_batch, uniform_token,
    scale, scale_stride, scale_low, scale_high, drop, drop_stride, drop_low, drop_high,
    keep, keep_stride, keep_low, keep_high, batch, tokens, vocabulary,
    COMPUTE: tl.constexpr, SHIFT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Draws a token for each of ROWS rows, or -1 for a row without an answer.

    A row has no answer if it holds a NaN, if its largest logit is infinite, or if its scale is not positive and finite.

    `keep` is top_k. `drop` is 1 - top_p, or more than 1 without top_p. `scale`, `drop` and `keep` are tensors, or
    floats with the stride None. COLUMNS is the vocabulary rounded up to whole BLOCKs.
    """
    WHOLE: tl.constexpr = COLUMNS == BLOCK
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < batch.to(tl.int64) * tokens
    sample, token = row // tokens, row % tokens
    rows = logits + sample * logits_batch + token * logits_token
    u = tl.load(uniform + sample * uniform_batch + token * uniform_token, mask=inside, other=0.0).to(
        tl.float64
    )
    scale = _per_row(scale, scale_stride, scale_low, scale_high, sample, inside, ROWS)
    drop = _per_row(drop, drop_stride, drop_low, drop_high, sample, inside, ROWS)
    keep = _per_row(keep, keep_stride, keep_low, keep_high, sample, inside, ROWS).to(tl.int32)

    # The largest logit of each row, and which rows have an answer.
    largest = tl.full((ROWS,), -float("inf"), COMPUTE)
    has_nan = tl.zeros((ROWS,), tl.int32)
    x = tl.zeros((ROWS, BLOCK), COMPUTE)
    for first in range(0, COLUMNS, BLOCK):
        x = _load(rows, logits_column, inside, first, vocabulary, COMPUTE, BLOCK)
        largest = tl.maximum(largest, tl.max(tl.where(x == x, x, -float("inf")), 1))
        has_nan = tl.maximum(has_nan, tl.max((x != x).to(tl.int32), 1))
    is_valid = (has_nan == 0) & (tl.abs(largest) < float("inf")) & (scale > 0) & (scale < float("inf"))
    largest, scale = tl.where(is_valid, largest, 0.0), tl.where(is_valid, scale, 1.0)
    top = _key(largest, COMPUTE, SHIFT)
    bottom = _key(tl.full((ROWS,), -float("inf"), COMPUTE), COMPUTE, SHIFT) - 1
    key, weight = _key(x, COMPUTE, SHIFT), _weigh(x, largest, scale)

    # Top-k: tokens with keys above `low` stay. The search ends as soon as exactly `keep` do, since `low` need not be a
    # key itself.
    low, high = bottom, tl.where(keep > 0, top, bottom)
    while tl.max((low + 1 < high).to(tl.int32), 0) > 0:
        middle = _between(low, high)
        count = tl.zeros((ROWS,), tl.int32)
        for first in range(0, COLUMNS, BLOCK):
            k, w, c = _tile(
                key, weight, rows, logits_column, inside, first, vocabulary, largest, scale,
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
            key, weight, rows, logits_column, inside, first, vocabulary, largest, scale,
            COMPUTE, SHIFT, BLOCK, WHOLE,
        )  # fmt: skip
        total += tl.sum(tl.where(k > cut[:, None], w, 0), 1)
        count += tl.sum((k > cut[:, None]).to(tl.int32), 1)
    limit = tl.minimum((drop * total.to(tl.float64)).to(tl.int64), total - 1)
    has_p = drop <= 1.0
    high = tl.where(has_p, top, low)
    below, up_to = tl.zeros((ROWS,), tl.int64), total
    fewer, most = tl.zeros((ROWS,), tl.int32), count
    is_open = (low + 1 < high) & (most - fewer > 1)
    while tl.max(is_open.to(tl.int32), 0) > 0:
        middle = _between(low, high)
        running, count = tl.zeros((ROWS,), tl.int64), tl.zeros((ROWS,), tl.int32)
        for first in range(0, COLUMNS, BLOCK):
            k, w, c = _tile(
                key, weight, rows, logits_column, inside, first, vocabulary, largest, scale,
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
                key, weight, rows, logits_column, inside, first, vocabulary, largest, scale,
                COMPUTE, SHIFT, BLOCK, WHOLE,
            )  # fmt: skip
            is_in = (k > low[:, None]) & (k <= high[:, None]) & (c <= middle[:, None])
            count += tl.sum(is_in.to(tl.int32), 1)
        left, right = tl.where(count < ties, middle, left), tl.where(count < ties, right, middle)
    gone = tl.where(ties > 0, right, -1)

    # The token is the first column whose running weight exceeds the uniform's share of the total.
    total -= below + ties * each
    u = tl.minimum(tl.maximum(tl.where(u == u, u, 0.0), 0.0), 1.0)
    target = tl.minimum((u * total.to(tl.float64)).to(tl.int64), total - 1)
    left, right = tl.full((ROWS,), -1, tl.int32), tl.zeros((ROWS,), tl.int32) + (vocabulary - 1)
    while tl.max((left + 1 < right).to(tl.int32), 0) > 0:
        middle = (left + right) >> 1
        running = tl.zeros((ROWS,), tl.int64)
        for first in range(0, COLUMNS, BLOCK):
            k, w, c = _tile(
                key, weight, rows, logits_column, inside, first, vocabulary, largest, scale,
                COMPUTE, SHIFT, BLOCK, WHOLE,
            )  # fmt: skip
            is_in = (k > low[:, None]) & ((k > high[:, None]) | (c > gone[:, None])) & (c <= middle[:, None])
            running += tl.sum(tl.where(is_in, w, 0), 1)
        left, right = tl.where(running > target, left, middle), tl.where(running > target, middle, right)
    tl.store(out + row, tl.where(is_valid, right, -1).to(tl.int64), mask=inside)
