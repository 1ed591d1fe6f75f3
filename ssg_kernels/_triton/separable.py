"""The separable form, axis by axis. `common.py` says what all kernels compute.

A program's strip of vocabulary columns is (a, m, b): 4 vectors a of BLOCK_V // 8 pairs m of 2 columns b. Products have
their columns in other orders:

    the previous map    (m, j, a, b)    j: columns of the map and their mirrors
    the sums            (m, r, a, b)    r: rows of the grid

With them the logits and the sums of the first product are stored in shared memory without bank conflicts. The sums of
the second product need no move at all: of an instruction's result, the four threads of a row hold the pairs b of the
four vectors a, and each of them holds all m. That is where `_points` reads and writes a vector of logits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ssg_kernels._triton.common import (
    accurate_dot,
    first_scale,
    load_scaled,
    load_strengths,
    next_attempt,
    weight_of,
    write_mirrors,
)


@triton.jit
def _along_h(
    y, x, row, half, t, inside, scale, h_rows, first_i, PART: tl.constexpr,
    PREV_H: tl.constexpr, SOURCES: tl.constexpr, PRECISION: tl.constexpr, FIRST: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Adds to `y` the product of the stacked factors along h with BLOCK_I rows of the previous map. `x` points to the
    columns of its row 0.
    """
    i = first_i + tl.arange(0, BLOCK_I)
    inside = (i < PREV_H)[:, None, None] & inside
    logits = load_scaled(x + i[:, None, None] * row, half, t, inside, scale, SOURCES, PRECISION)
    logits = tl.permute(tl.reshape(logits, (BLOCK_I, 2 * BLOCK_J, 4, BLOCK_V // 8, 2)), (0, 3, 1, 2, 4))
    logits = tl.reshape(logits, (BLOCK_I, 2 * BLOCK_J * BLOCK_V))
    return accurate_dot(h_rows + i[None, :], PART, logits, y, FIRST)


@triton.jit
def _both_axes(
    x, token, half, t, mask, scale, h_table, w_table, first_r, first_c,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PREV_H: tl.constexpr, PREV_W: tl.constexpr,
    SOURCES: tl.constexpr, PRECISION: tl.constexpr, TERMS: tl.constexpr, SYMMETRIC: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr,
    BLOCK_V: tl.constexpr,
):  # fmt: skip
    """The even and the odd half, along w, of the sum over all terms: tiles (c, (m, r, a, b))."""
    PREV_HALF_W: tl.constexpr = (PREV_W + 1) // 2
    I_END: tl.constexpr = (PREV_H + BLOCK_I - 1) // BLOCK_I * BLOCK_I
    J_END: tl.constexpr = (PREV_HALF_W + BLOCK_J - 1) // BLOCK_J * BLOCK_J
    QUARTER: tl.constexpr = TERMS * COLUMNS * J_END
    PART: tl.constexpr = QUARTER * (2 if SYMMETRIC else 4)
    # float16 holds 16-bit logits of one source.
    HALVES: tl.constexpr = SOURCES == 1 and x.dtype.element_ty.primitive_bitwidth == 16
    FIRST: tl.constexpr = "f16x2" if HALVES and PRECISION == "f16x3" else PRECISION
    row = tl.full((), PREV_W, tl.int64) * token
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
        x_j = x + j[None, :, None].to(tl.int64) * token
        y = tl.zeros((TERMS * BLOCK_R, 2 * BLOCK_J * BLOCK_V), tl.float32)
        inside = (near < PREV_HALF_W)[None, :, None] & mask
        if I_END <= 8 * BLOCK_I:
            # Unrolled, so that the table is loaded once for all chunks.
            for first_i in tl.static_range(0, I_END, BLOCK_I):
                y = _along_h(
                    y, x_j, row, half, t, inside, scale, h_rows, first_i, TERMS * ROWS * I_END,
                    PREV_H, SOURCES, PRECISION, FIRST, BLOCK_I, BLOCK_J, BLOCK_V,
                )  # fmt: skip
        else:
            for first_i in range(0, I_END, BLOCK_I):
                y = _along_h(
                    y, x_j, row, half, t, inside, scale, h_rows, first_i, TERMS * ROWS * I_END,
                    PREV_H, SOURCES, PRECISION, FIRST, BLOCK_I, BLOCK_J, BLOCK_V,
                )  # fmt: skip
        y = tl.reshape(y, (TERMS, BLOCK_R, BLOCK_V // 8, 2, BLOCK_J, 8))
        left, right = tl.split(tl.permute(y, (0, 4, 2, 1, 5, 3)))
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
    """A tile (c, (m, r, a, b)) as ((c // 8, r // 4, r % 4, c % 8, a), (m, b)). A row of it is a vector of a thread; the
    warps take the rows in turn, 32 at a time.
    """
    tile = tl.reshape(tile, (BLOCK_C // 8, 8, BLOCK_V // 8, BLOCK_R // 4, 4, 4, 2))
    tile = tl.permute(tile, (0, 3, 4, 1, 5, 2, 6))
    return tl.reshape(tile, (BLOCK_C * BLOCK_R * 4, BLOCK_V // 4))


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
    first_column = tile % strips * BLOCK_V
    columns = first_column + tl.arange(0, BLOCK_V)
    sample = (tile // strips).to(tl.int64)
    beta, cfg, prev_cfg = load_strengths(
        beta, beta_stride, cfg, cfg_stride, prev_cfg, prev_cfg_stride, sample, tl.float32
    )

    x = previous + sample * previous_batch + columns.to(tl.int64) * previous_column
    half = batch.to(tl.int64) * previous_batch
    scale = first_scale(PRECISION, BLOCK_V)
    even = tl.zeros((BLOCK_C, BLOCK_R * BLOCK_V), tl.float32)
    odd = even
    attempt = 0
    while attempt < 2:
        even, odd = _both_axes(
            x, previous_token, half, prev_cfg, columns < vocabulary, scale, h_table, w_table, first_r, first_c,
            ROW_TILES * BLOCK_R, COLUMN_TILES * BLOCK_C, PREV_H, PREV_W, PREV_SOURCES, PRECISION, TERMS, SYMMETRIC,
            BLOCK_R, BLOCK_C, BLOCK_I, BLOCK_J, BLOCK_V,
        )  # fmt: skip
        # Sums of what one thread holds, so that nothing moves: (r % 4, c % 8) by columns.
        squares = _points(tl.fma(even, even, odd * odd), BLOCK_C, BLOCK_R, BLOCK_V)
        squares = tl.sum(tl.reshape(squares, (BLOCK_C * BLOCK_R // 32, 32, BLOCK_V)), 0)
        attempt, scale = next_attempt(
            attempt, scale, squares, x, previous_token, half, prev_cfg, columns < vocabulary, PREV_H * PREV_W,
            PREV_SOURCES, PRECISION, BLOCK_V,
        )  # fmt: skip

    # The logits of `_points`, in two dimensions: among more, Triton 3.6 and 3.9 take them in different orders.
    VECTOR: tl.constexpr = BLOCK_V // 4
    row = tl.arange(0, BLOCK_C * BLOCK_R * 4)[:, None]
    columns = first_column + row % 4 * VECTOR + tl.arange(0, VECTOR)[None, :]
    r = first_r + row // 128 % (BLOCK_R // 4) * 4 + row // 32 % 4
    left = first_c + row // (32 * BLOCK_R) * 8 + row // 4 % 8
    right = W - 1 - left
    weight = weight_of(beta, unit, scale, SOURCES)
    weight = tl.broadcast_to(tl.reshape(weight, (1, 4, VECTOR)), (BLOCK_C * BLOCK_R, 4, VECTOR))
    weight = tl.reshape(weight, (BLOCK_C * BLOCK_R * 4, VECTOR))
    # Rows first: then all columns of a row share their part of an address.
    target = out + sample * out_batch + columns
    target += r.to(tl.int64) * (tl.full((), W, tl.int64) * out_token)
    source = current + sample * current_batch + columns.to(tl.int64) * current_column
    source += r.to(tl.int64) * (tl.full((), W, tl.int64) * current_token)
    half = batch.to(tl.int64) * current_batch
    # The middle column is its own mirror, so it is written only once.
    mask = (left < HALF_W) & (r < H) & (columns < vocabulary)
    mask_right = mask & (right > left)
    write_mirrors(
        target, out_token, source, current_token, half, left.to(tl.int64), mask, right.to(tl.int64), mask_right,
        _points(even, BLOCK_C, BLOCK_R, BLOCK_V), _points(odd, BLOCK_C, BLOCK_R, BLOCK_V), weight, beta, cfg, attempt,
        SOURCES, PRECISION,
    )  # fmt: skip
