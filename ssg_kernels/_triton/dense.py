"""The dense forms: the matrix of the prior times the previous map. `common.py` says what all kernels compute."""

from __future__ import annotations

import triton
import triton.language as tl

from ssg_kernels._triton.common import (
    accurate_dot,
    first_scale,
    load_merged,
    load_scaled,
    load_strengths,
    nan_if_infinite,
    next_attempt,
    weight_of,
    write_guided,
    write_mirrors,
)


@triton.jit(do_not_specialize=["batch"])
def fma_kernel(
    out, out_batch, out_token,
    current, current_batch, current_token, current_column,
    previous, previous_batch, previous_token, previous_column,
    table,
    beta, beta_stride, cfg, cfg_stride, prev_cfg, prev_cfg_stride,
    batch, vocabulary,
    TOKENS: tl.constexpr, PREV_TOKENS: tl.constexpr, SOURCES: tl.constexpr, COMPUTE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """The dense form without matrix instructions: sums outer products of a column of the prior's matrix and the logits
    of a token.

    `table` is the (columns, rows) transpose of the padded matrix.
    """
    ROW_TILES: tl.constexpr = (TOKENS + BLOCK_M - 1) // BLOCK_M
    K_END: tl.constexpr = (PREV_TOKENS + BLOCK_K - 1) // BLOCK_K * BLOCK_K
    PREV_SOURCES: tl.constexpr = 2 if SOURCES == 2 else 1
    # Tiles of the same columns run side by side, so that all but the first read the previous logits from the cache.
    tile = tl.program_id(0)
    rows = tile % ROW_TILES * BLOCK_M + tl.arange(0, BLOCK_M)
    strips = tl.cdiv(vocabulary, BLOCK_V)
    columns = tile // ROW_TILES % strips * BLOCK_V + tl.arange(0, BLOCK_V)
    sample = (tile // ROW_TILES // strips).to(tl.int64)
    beta, cfg, prev_cfg = load_strengths(
        beta, beta_stride, cfg, cfg_stride, prev_cfg, prev_cfg_stride, sample, COMPUTE
    )

    x = previous + sample * previous_batch + columns.to(tl.int64) * previous_column
    half = batch.to(tl.int64) * previous_batch
    prior = tl.zeros((BLOCK_M, BLOCK_V), COMPUTE)
    for first in range(0, K_END, BLOCK_K):
        for offset in tl.static_range(BLOCK_K):
            k = first + offset
            mask = columns < tl.where(k < PREV_TOKENS, vocabulary, 0)
            logits = load_merged(
                x + k.to(tl.int64) * previous_token, half, prev_cfg, mask, PREV_SOURCES, COMPUTE
            )
            logits = nan_if_infinite(logits)
            weights = tl.load(table + k * (ROW_TILES * BLOCK_M) + rows)
            prior = tl.fma(weights[:, None], logits[None, :], prior)

    target = (out + sample * out_batch + columns)[None, :]
    source = (current + sample * current_batch + columns.to(tl.int64) * current_column)[None, :]
    half = batch.to(tl.int64) * current_batch
    mask = (rows < TOKENS)[:, None] & (columns < vocabulary)[None, :]
    at = rows[:, None].to(tl.int64)
    write_guided(
        target + at * out_token, source + at * current_token, half, mask, prior * (beta if SOURCES == 0 else -beta),
        beta, cfg, SOURCES, COMPUTE, True,
    )  # fmt: skip


@triton.jit
def _points(x, ROWS: tl.constexpr, BLOCK_V: tl.constexpr):
    """A tile (row, v) as (v // 32, row, v % 32)."""
    return tl.permute(tl.reshape(x, (ROWS, BLOCK_V // 32, 32)), (1, 0, 2))


@triton.jit
def _quarters(
    x, token, half, t, mask, scale, table, rows,
    PREV_H: tl.constexpr, PREV_W: tl.constexpr, SOURCES: tl.constexpr, PRECISION: tl.constexpr,
    QUARTER: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """The products of the four quarters of the table with the even and odd halves of the previous map."""
    HALF_W: tl.constexpr = (PREV_W + 1) // 2
    K: tl.constexpr = (PREV_H + 1) // 2 * HALF_W
    K_END: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K * BLOCK_K
    PART: tl.constexpr = 4 * QUARTER
    x, mask, scale = x[None, :], mask[None, :], scale[None, :]
    last = x + tl.full((), PREV_H * PREV_W - 1, tl.int64) * token
    ee = tl.zeros((BLOCK_M, BLOCK_V), tl.float32)
    eo = tl.zeros((BLOCK_M, BLOCK_V), tl.float32)
    oe = tl.zeros((BLOCK_M, BLOCK_V), tl.float32)
    oo = tl.zeros((BLOCK_M, BLOCK_V), tl.float32)
    for first in range(0, K_END, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        weights = table + rows[:, None] * K_END + k[None, :]
        k = tl.minimum(k, K - 1)[:, None]
        upper, left = k // HALF_W * PREV_W, k % HALF_W
        right = PREV_W - 1 - left
        at, mirror = (upper + left).to(tl.int64) * token, (upper + right).to(tl.int64) * token
        upper_left = load_scaled(x + at, half, t, mask, scale, SOURCES, PRECISION)
        upper_right = load_scaled(x + mirror, half, t, mask, scale, SOURCES, PRECISION)
        lower_left = load_scaled(last - mirror, half, t, mask, scale, SOURCES, PRECISION)
        lower_right = load_scaled(last - at, half, t, mask, scale, SOURCES, PRECISION)
        upper_even, lower_even = upper_left + upper_right, lower_left + lower_right
        ee = accurate_dot(weights, PART, upper_even + lower_even, ee, PRECISION)
        oe = accurate_dot(weights + 2 * QUARTER, PART, upper_even - lower_even, oe, PRECISION)
        upper_odd, lower_odd = upper_left - upper_right, lower_left - lower_right
        eo = accurate_dot(weights + QUARTER, PART, upper_odd + lower_odd, eo, PRECISION)
        oo = accurate_dot(weights + 3 * QUARTER, PART, upper_odd - lower_odd, oo, PRECISION)
    return ee, eo, oe, oo


@triton.jit(do_not_specialize=["batch"])
def dense_halves_kernel(
    out, out_batch, out_token,
    current, current_batch, current_token, current_column,
    previous, previous_batch, previous_token, previous_column,
    table, unit,
    beta, beta_stride, cfg, cfg_stride, prev_cfg, prev_cfg_stride,
    batch, vocabulary,
    H: tl.constexpr, W: tl.constexpr, PREV_H: tl.constexpr, PREV_W: tl.constexpr,
    SOURCES: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """The dense form by even/odd halves along both axes: four products, each over a quarter of the tokens.

    A row stands for a token of the upper left quarter and its three mirrors; so does a column. `table` is (quarters,
    rows, columns). Its quarters, along h and w, are: even and even, even and odd, odd and even, odd and odd. `unit`
    undoes the scale of the table.
    """
    HALF_W: tl.constexpr = (W + 1) // 2
    PREV_HALF_W: tl.constexpr = (PREV_W + 1) // 2
    M: tl.constexpr = (H + 1) // 2 * HALF_W
    K: tl.constexpr = (PREV_H + 1) // 2 * PREV_HALF_W
    ROW_TILES: tl.constexpr = (M + BLOCK_M - 1) // BLOCK_M
    K_END: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K * BLOCK_K
    QUARTER: tl.constexpr = ROW_TILES * BLOCK_M * K_END
    PREV_SOURCES: tl.constexpr = 2 if SOURCES == 2 else 1
    tile = tl.program_id(0)
    rows = tile % ROW_TILES * BLOCK_M + tl.arange(0, BLOCK_M)
    strips = tl.cdiv(vocabulary, BLOCK_V)
    first_column = tile // ROW_TILES % strips * BLOCK_V
    columns = first_column + tl.arange(0, BLOCK_V)
    sample = (tile // ROW_TILES // strips).to(tl.int64)
    beta, cfg, prev_cfg = load_strengths(
        beta, beta_stride, cfg, cfg_stride, prev_cfg, prev_cfg_stride, sample, tl.float32
    )

    x = previous + sample * previous_batch + columns.to(tl.int64) * previous_column
    half = batch.to(tl.int64) * previous_batch
    scale = first_scale(PRECISION, BLOCK_V)
    ee = tl.zeros((BLOCK_M, BLOCK_V), tl.float32)
    eo, oe, oo = ee, ee, ee
    attempt = 0
    while attempt < 2:
        ee, eo, oe, oo = _quarters(
            x, previous_token, half, prev_cfg, columns < vocabulary, scale, table, rows,
            PREV_H, PREV_W, PREV_SOURCES, PRECISION, QUARTER, BLOCK_M, BLOCK_K, BLOCK_V,
        )  # fmt: skip
        # Sums of what one thread holds, so that nothing moves. A middle token alone has a single product, which may be
        # small by chance.
        squares = tl.fma(ee, ee, tl.fma(eo, eo, tl.fma(oe, oe, oo * oo)))
        squares = tl.sum(tl.reshape(squares, (BLOCK_M // 16, 2, 8, BLOCK_V)), 1)
        attempt, scale = next_attempt(
            attempt, scale, tl.reshape(squares, (BLOCK_M // 2, BLOCK_V)), x, previous_token, half, prev_cfg,
            columns < vocabulary, PREV_H * PREV_W, PREV_SOURCES, PRECISION, BLOCK_V,
        )  # fmt: skip

    columns = first_column + tl.arange(0, BLOCK_V // 32)[:, None, None] * 32 + tl.arange(0, 32)[None, None, :]
    target = out + sample * out_batch + columns
    source = current + sample * current_batch + columns.to(tl.int64) * current_column
    half = batch.to(tl.int64) * current_batch
    weight = tl.reshape(weight_of(beta, unit, scale, SOURCES), (BLOCK_V // 32, 1, 32))
    upper, left = (rows // HALF_W * W)[None, :, None], (rows % HALF_W)[None, :, None]
    lower, right = (H - 1) * W - upper, W - 1 - left
    # A middle row or column is its own mirror, so it is written only once.
    mask = (rows < M)[None, :, None] & (columns < vocabulary)
    mask_right, mask_lower = mask & (right > left), mask & (lower > upper)
    at, mirror = (upper + left).to(tl.int64), (upper + right).to(tl.int64)
    write_mirrors(
        target, out_token, source, current_token, half, at, mask, mirror, mask_right,
        _points(ee + oe, BLOCK_M, BLOCK_V), _points(eo + oo, BLOCK_M, BLOCK_V), weight, beta, cfg, attempt,
        SOURCES, PRECISION,
    )  # fmt: skip
    # The same tokens backwards, from the last one.
    last = tl.full((), H * W - 1, tl.int64)
    write_mirrors(
        target + last * out_token, out_token, source + last * current_token, current_token, half,
        -mirror, mask_lower, -at, mask_lower & mask_right,
        _points(ee - oe, BLOCK_M, BLOCK_V), _points(eo - oo, BLOCK_M, BLOCK_V), weight, beta, cfg, attempt,
        SOURCES, PRECISION,
    )  # fmt: skip
