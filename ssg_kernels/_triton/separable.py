"""The separable form, axis by axis. `common.py` says what all kernels compute."""

from __future__ import annotations

import triton
import triton.language as tl

from ssg_kernels._triton.common import (
    SCALE,
    accurate_dot,
    any_lost,
    inverse,
    load_scaled,
    load_strength,
    scales_again,
    write_guided,
)


@triton.jit
def _along_h(
    y, x, token, half, t, inside, scale, h_rows, first_i, j, PART: tl.constexpr,
    PREV_H: tl.constexpr, PREV_W: tl.constexpr, SOURCES: tl.constexpr, PRECISION: tl.constexpr, FIRST: tl.constexpr,
    BLOCK_I: tl.constexpr,
):  # fmt: skip
    """Adds to `y` the product of the stacked factors along h with BLOCK_I rows of the previous map, at columns `j`."""
    i = first_i + tl.arange(0, BLOCK_I)
    tokens = (i[:, None] * PREV_W + j[None, :])[:, :, None]
    inside = (i < PREV_H)[:, None, None] & inside
    logits = load_scaled(x, tokens, token, half, t, inside, scale, SOURCES, PRECISION)
    return accurate_dot(h_rows + i[None, :], PART, tl.reshape(logits, (BLOCK_I, y.shape[1])), y, FIRST)


@triton.jit
def _both_axes(
    x, token, half, t, mask, scale, h_table, w_table, first_r, first_c,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PREV_H: tl.constexpr, PREV_W: tl.constexpr,
    SOURCES: tl.constexpr, PRECISION: tl.constexpr, TERMS: tl.constexpr, SYMMETRIC: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr,
    BLOCK_V: tl.constexpr,
):  # fmt: skip
    """The even and the odd half, along w, of the sum over all terms: tiles (c, (v // 8, r, v % 8)).

    The order of the columns lets the sums of the first product be stored for the second one without bank conflicts.
    """
    PREV_HALF_W: tl.constexpr = (PREV_W + 1) // 2
    I_END: tl.constexpr = (PREV_H + BLOCK_I - 1) // BLOCK_I * BLOCK_I
    J_END: tl.constexpr = (PREV_HALF_W + BLOCK_J - 1) // BLOCK_J * BLOCK_J
    QUARTER: tl.constexpr = TERMS * COLUMNS * J_END
    PART: tl.constexpr = QUARTER * (2 if SYMMETRIC else 4)
    # float16 holds 16-bit logits of one source.
    HALVES: tl.constexpr = SOURCES == 1 and x.dtype.element_ty.primitive_bitwidth == 16
    FIRST: tl.constexpr = "f16x2" if HALVES and PRECISION == "f16x3" else PRECISION
    x, mask, scale = x[None, None, :], mask[None, None, :], scale[None, None, :]
    # The rows (term, r) of the stacked factors along h, and the columns (term, j) of those along w.
    term_r = tl.arange(0, TERMS * BLOCK_R)
    h_rows = h_table + ((term_r // BLOCK_R * ROWS + first_r + term_r % BLOCK_R) * I_END)[:, None]
    term_j = tl.arange(0, TERMS * BLOCK_J)
    w_columns = w_table + (term_j // BLOCK_J * (COLUMNS * J_END) + term_j % BLOCK_J)[None, :]
    w_columns += ((first_c + tl.arange(0, BLOCK_C)) * J_END)[:, None]
    even = tl.zeros((BLOCK_C, BLOCK_R * BLOCK_V), tl.float32)
    odd = tl.zeros((BLOCK_C, BLOCK_R * BLOCK_V), tl.float32)
    side_j = tl.arange(0, 2 * BLOCK_J)
    for first_j in range(0, J_END, BLOCK_J):
        near = first_j + side_j % BLOCK_J
        j = tl.where(side_j < BLOCK_J, near, PREV_W - 1 - near)
        y = tl.zeros((TERMS * BLOCK_R, 2 * BLOCK_J * BLOCK_V), tl.float32)
        inside = (near < PREV_HALF_W)[None, :, None] & mask
        if I_END <= 8 * BLOCK_I:
            # Unrolled, so that the table is loaded once for all chunks.
            for first_i in tl.static_range(0, I_END, BLOCK_I):
                y = _along_h(
                    y, x, token, half, t, inside, scale, h_rows, first_i, j, TERMS * ROWS * I_END,
                    PREV_H, PREV_W, SOURCES, PRECISION, FIRST, BLOCK_I,
                )  # fmt: skip
        else:
            for first_i in range(0, I_END, BLOCK_I):
                y = _along_h(
                    y, x, token, half, t, inside, scale, h_rows, first_i, j, TERMS * ROWS * I_END,
                    PREV_H, PREV_W, SOURCES, PRECISION, FIRST, BLOCK_I,
                )  # fmt: skip
        y = tl.reshape(y, (TERMS, BLOCK_R, 2, BLOCK_J, BLOCK_V // 8, 8))
        left, right = tl.split(tl.permute(y, (0, 3, 4, 1, 5, 2)))
        sums = tl.reshape(left + right, (TERMS * BLOCK_J, BLOCK_R * BLOCK_V))
        differences = tl.reshape(left - right, (TERMS * BLOCK_J, BLOCK_R * BLOCK_V))
        weights = w_columns + first_j
        even = accurate_dot(weights, PART, sums, even, PRECISION)
        odd = accurate_dot(weights + QUARTER, PART, differences, odd, PRECISION)
        if not SYMMETRIC:
            even = accurate_dot(weights + 2 * QUARTER, PART, differences, even, PRECISION)
            odd = accurate_dot(weights + 3 * QUARTER, PART, sums, odd, PRECISION)
    return even, odd


@triton.jit
def _points(tile, BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr):
    """The tile (c, (v // 8, r, v % 8)) as (c, r, v)."""
    tile = tl.permute(tl.reshape(tile, (BLOCK_C, BLOCK_V // 8, BLOCK_R, 8)), (0, 2, 1, 3))
    return tl.reshape(tile, (BLOCK_C, BLOCK_R, BLOCK_V))


@triton.jit(do_not_specialize=["batch"])
def separable_kernel(
    out, out_batch, out_token,
    current, current_batch, current_token, current_column,
    previous, previous_batch, previous_token, previous_column,
    h_table, w_table, unit,
    beta, beta_stride, cfg, cfg_stride, prev_cfg, prev_cfg_stride,
    batch, vocabulary,
    H: tl.constexpr, W: tl.constexpr, PREV_H: tl.constexpr, PREV_W: tl.constexpr,
    SOURCES: tl.constexpr, PRECISION: tl.constexpr, TERMS: tl.constexpr, SYMMETRIC: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr,
    BLOCK_V: tl.constexpr,
):  # fmt: skip
    """The separable form, axis by axis. A program computes BLOCK_R by BLOCK_C points of the left half of the output
    grid, and the mirrors of these points, for a strip of BLOCK_V vocabulary columns.

    It reads the previous map in chunks of BLOCK_J columns of the grid and their mirrors. It contracts each chunk along
    h with the stacked factors of all terms. Sums and differences of the mirrors are then contracted along w at once,
    which sums all terms. `h_table` is (terms, rows, PREV_H) and `w_table` is (quarters, terms, columns, half of
    PREV_W), both padded to tiles. Its quarters are: even to even, odd to odd and, unless the factors are SYMMETRIC, odd
    to even and even to odd. TERMS is a power of two: 4 for a prior of 3 terms. `unit` undoes the scale of both tables.
    """
    HALF_W: tl.constexpr = (W + 1) // 2
    ROW_TILES: tl.constexpr = (H + BLOCK_R - 1) // BLOCK_R
    COLUMN_TILES: tl.constexpr = (HALF_W + BLOCK_C - 1) // BLOCK_C
    PREV_SOURCES: tl.constexpr = 2 if SOURCES == 2 else 1
    tile = tl.program_id(0)
    first_r = tile % ROW_TILES * BLOCK_R
    first_c = tile // ROW_TILES % COLUMN_TILES * BLOCK_C
    tile = tile // (ROW_TILES * COLUMN_TILES)
    strips = tl.cdiv(vocabulary, BLOCK_V)
    columns = tile % strips * BLOCK_V + tl.arange(0, BLOCK_V)
    sample = (tile // strips).to(tl.int64)
    inside = (columns < vocabulary)[None, None, :]
    beta = load_strength(beta, beta_stride, sample, tl.float32)
    cfg = load_strength(cfg, cfg_stride, sample, tl.float32)
    prev_cfg = load_strength(prev_cfg, prev_cfg_stride, sample, tl.float32)

    x = previous + sample * previous_batch + columns.to(tl.int64) * previous_column
    half = batch.to(tl.int64) * previous_batch
    scale = tl.full((BLOCK_V,), SCALE if PRECISION == "f16x3" else 1.0, tl.float32)
    even = tl.zeros((BLOCK_C, BLOCK_R * BLOCK_V), tl.float32)
    odd = even
    attempt = 0
    while attempt < 2:
        even, odd = _both_axes(
            x, previous_token, half, prev_cfg, columns < vocabulary, scale, h_table, w_table, first_r, first_c,
            ROW_TILES * BLOCK_R, COLUMN_TILES * BLOCK_C, PREV_H, PREV_W, PREV_SOURCES, PRECISION, TERMS, SYMMETRIC,
            BLOCK_R, BLOCK_C, BLOCK_I, BLOCK_J, BLOCK_V,
        )  # fmt: skip
        attempt += 2
        if PRECISION == "f16x3":  # noqa: SIM102, which Triton decides when it compiles
            if attempt == 2:
                squares = tl.sum(_points(even * even + odd * odd, BLOCK_C, BLOCK_R, BLOCK_V), 1)
                if any_lost(squares, columns < vocabulary):
                    attempt = 1
                    scale = scales_again(
                        scale, squares, x, previous_token, half, prev_cfg, columns < vocabulary, PREV_H * PREV_W,
                        PREV_SOURCES, BLOCK_V,
                    )  # fmt: skip

    weight = (beta * unit * inverse(scale))[None, None, :]
    r, left = first_r + tl.arange(0, BLOCK_R)[None, :], first_c + tl.arange(0, BLOCK_C)[:, None]
    right = W - 1 - left
    target = (out + sample * out_batch + columns)[None, None, :]
    source = (current + sample * current_batch + columns.to(tl.int64) * current_column)[None, None, :]
    half = batch.to(tl.int64) * current_batch
    # The middle column is its own mirror, so it is written only once.
    mask = ((left < HALF_W) & (r < H))[:, :, None] & inside
    mask_right = mask & (right > left)[:, :, None]
    write_guided(
        target, out_token, source, current_token, half, (r * W + left)[:, :, None], mask,
        _points(even + odd, BLOCK_C, BLOCK_R, BLOCK_V), weight, beta, cfg, SOURCES, tl.float32,
    )  # fmt: skip
    write_guided(
        target, out_token, source, current_token, half, (r * W + right)[:, :, None], mask_right,
        _points(even - odd, BLOCK_C, BLOCK_R, BLOCK_V), weight, beta, cfg, SOURCES, tl.float32,
    )  # fmt: skip
