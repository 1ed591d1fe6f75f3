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
    dot_of_parts,
    first_scale,
    load_scaled,
    load_strengths,
    next_attempt,
    split,
    weight_of,
    write_mirrors,
)


@triton.jit
def _load_chunk(
    x, row, token, half, t, mask, scale, first_i, first_j,
    PREV_H: tl.constexpr, PREV_W: tl.constexpr, SOURCES: tl.constexpr, PRECISION: tl.constexpr, FIRST: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """BLOCK_I rows and BLOCK_J columns, with their mirrors, of the previous map, in parts: (i, (m, j, a, b))."""
    side_j = tl.arange(0, 2 * BLOCK_J)
    near = first_j + side_j % BLOCK_J
    j = tl.where(side_j < BLOCK_J, near, PREV_W - 1 - near)
    i = first_i + tl.arange(0, BLOCK_I)
    inside = (i < PREV_H)[:, None, None] & ((near < (PREV_W + 1) // 2)[None, :, None] & mask[None, None, :])
    x = x[None, None, :] + j[None, :, None].to(tl.int64) * token + i[:, None, None] * row
    logits = load_scaled(x, half, t, inside, scale[None, None, :], SOURCES, PRECISION)
    logits = tl.permute(tl.reshape(logits, (BLOCK_I, 2 * BLOCK_J, 4, BLOCK_V // 8, 2)), (0, 3, 1, 2, 4))
    return split(tl.reshape(logits, (BLOCK_I, 2 * BLOCK_J * BLOCK_V)), FIRST)


@triton.jit
def _load_map(
    x, token, half, t, mask, scale,
    PREV_H: tl.constexpr, PREV_W: tl.constexpr, SOURCES: tl.constexpr, PRECISION: tl.constexpr, FIRST: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """All chunks of the previous map: those of the same columns follow one another."""
    row = tl.full((), PREV_W, tl.int64) * token
    chunks = ()
    for first_j in tl.static_range(0, (PREV_W + 1) // 2, BLOCK_J):
        for first_i in tl.static_range(0, PREV_H, BLOCK_I):
            chunk = _load_chunk(
                x, row, token, half, t, mask, scale, first_i, first_j,
                PREV_H, PREV_W, SOURCES, PRECISION, FIRST, BLOCK_I, BLOCK_J, BLOCK_V,
            )  # fmt: skip
            chunks += (chunk,)  # type: ignore[assignment]
    return chunks


@triton.jit
def _along_w(
    even, odd, y, weights, PART: tl.constexpr, QUARTER: tl.constexpr,
    PRECISION: tl.constexpr, TERMS: tl.constexpr, SYMMETRIC: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Adds to both halves what the sums `y` of BLOCK_J columns and their mirrors give."""
    y = tl.reshape(y, (TERMS, BLOCK_R, BLOCK_V // 8, 2, BLOCK_J, 8))
    left, right = tl.split(tl.permute(y, (0, 4, 2, 1, 5, 3)))
    sums = tl.reshape(left + right, (TERMS * BLOCK_J, BLOCK_R * BLOCK_V))
    differences = tl.reshape(left - right, (TERMS * BLOCK_J, BLOCK_R * BLOCK_V))
    even = accurate_dot(weights, PART, sums, even, PRECISION)
    odd = accurate_dot(weights + QUARTER, PART, differences, odd, PRECISION)
    if not SYMMETRIC:
        even = accurate_dot(weights + 2 * QUARTER, PART, differences, even, PRECISION)
        odd = accurate_dot(weights + 3 * QUARTER, PART, sums, odd, PRECISION)
    return even, odd


@triton.jit
def _both_axes(
    chunks, x, token, half, t, mask, scale, h_table, w_table, first_r, first_c,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PREV_H: tl.constexpr, PREV_W: tl.constexpr, WHOLE_MAP: tl.constexpr,
    SOURCES: tl.constexpr, PRECISION: tl.constexpr, FIRST: tl.constexpr, TERMS: tl.constexpr, SYMMETRIC: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr,
    BLOCK_V: tl.constexpr,
):  # fmt: skip
    """The even and the odd half, along w, of the sum over all terms: tiles (c, (m, r, a, b))."""
    PREV_HALF_W: tl.constexpr = (PREV_W + 1) // 2
    I_CHUNKS: tl.constexpr = (PREV_H + BLOCK_I - 1) // BLOCK_I
    I_END: tl.constexpr = I_CHUNKS * BLOCK_I
    J_END: tl.constexpr = (PREV_HALF_W + BLOCK_J - 1) // BLOCK_J * BLOCK_J
    H_PART: tl.constexpr = TERMS * ROWS * I_END
    QUARTER: tl.constexpr = TERMS * COLUMNS * J_END
    PART: tl.constexpr = QUARTER * (2 if SYMMETRIC else 4)
    row = tl.full((), PREV_W, tl.int64) * token
    # The rows (term, r) of the stacked factors along h, and the columns (term, j) of those along w.
    term_r = tl.arange(0, TERMS * BLOCK_R)
    h_rows = h_table + ((term_r // BLOCK_R * ROWS + first_r + term_r % BLOCK_R) * I_END)[:, None]
    h_rows += tl.arange(0, BLOCK_I)[None, :]
    term_j = tl.arange(0, TERMS * BLOCK_J)
    w_columns = w_table + (term_j // BLOCK_J * (COLUMNS * J_END) + term_j % BLOCK_J)[None, :]
    w_columns += ((first_c + tl.arange(0, BLOCK_C)) * J_END)[:, None]
    even = tl.zeros((BLOCK_C, BLOCK_R * BLOCK_V), tl.float32)
    odd = tl.zeros((BLOCK_C, BLOCK_R * BLOCK_V), tl.float32)
    if WHOLE_MAP:
        for first_j in tl.static_range(0, J_END, BLOCK_J):
            y = tl.zeros((TERMS * BLOCK_R, 2 * BLOCK_J * BLOCK_V), tl.float32)
            for i in tl.static_range(I_CHUNKS):
                y = dot_of_parts(
                    h_rows + i * BLOCK_I, H_PART, chunks[first_j // BLOCK_J * I_CHUNKS + i], y, FIRST
                )
            even, odd = _along_w(
                even, odd, y, w_columns + first_j, PART, QUARTER, PRECISION, TERMS, SYMMETRIC, BLOCK_R, BLOCK_J, BLOCK_V
            )  # fmt: skip
    else:
        for first_j in range(0, J_END, BLOCK_J):
            y = tl.zeros((TERMS * BLOCK_R, 2 * BLOCK_J * BLOCK_V), tl.float32)
            if I_CHUNKS <= 8:
                # Unrolled, so that the table is loaded once for all chunks.
                for first_i in tl.static_range(0, I_END, BLOCK_I):
                    chunk = _load_chunk(
                        x, row, token, half, t, mask, scale, first_i, first_j,
                        PREV_H, PREV_W, SOURCES, PRECISION, FIRST, BLOCK_I, BLOCK_J, BLOCK_V,
                    )  # fmt: skip
                    y = dot_of_parts(h_rows + first_i, H_PART, chunk, y, FIRST)
            else:
                for first_i in range(0, I_END, BLOCK_I):
                    chunk = _load_chunk(
                        x, row, token, half, t, mask, scale, first_i, first_j,
                        PREV_H, PREV_W, SOURCES, PRECISION, FIRST, BLOCK_I, BLOCK_J, BLOCK_V,
                    )  # fmt: skip
                    y = dot_of_parts(h_rows + first_i, H_PART, chunk, y, FIRST)
            even, odd = _along_w(
                even, odd, y, w_columns + first_j, PART, QUARTER, PRECISION, TERMS, SYMMETRIC, BLOCK_R, BLOCK_J, BLOCK_V
            )  # fmt: skip
    return even, odd


@triton.jit
def _points(tile, BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr):
    """A tile (c, (m, r, a, b)) as ((c // 8, r // 4, r % 4, c % 8, a), (m, b)). A row of it is a vector of a thread; the
    warps take the rows in turn, 32 at a time.
    """
    tile = tl.reshape(tile, (BLOCK_C // 8, 8, BLOCK_V // 8, BLOCK_R // 4, 4, 4, 2))
    tile = tl.permute(tile, (0, 3, 4, 1, 5, 2, 6))
    return tl.reshape(tile, (BLOCK_C * BLOCK_R * 4, BLOCK_V // 4))


@triton.jit
def _attempt(
    chunks, attempt, x, token, half, t, mask, scale, h_table, w_table, first_r, first_c,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PREV_H: tl.constexpr, PREV_W: tl.constexpr, WHOLE_MAP: tl.constexpr,
    SOURCES: tl.constexpr, PRECISION: tl.constexpr, FIRST: tl.constexpr, TERMS: tl.constexpr, SYMMETRIC: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr,
    BLOCK_V: tl.constexpr,
):  # fmt: skip
    """The sums of a tile, and what `next_attempt` says of them."""
    even, odd = _both_axes(
        chunks, x, token, half, t, mask, scale, h_table, w_table, first_r, first_c,
        ROWS, COLUMNS, PREV_H, PREV_W, WHOLE_MAP, SOURCES, PRECISION, FIRST, TERMS, SYMMETRIC,
        BLOCK_R, BLOCK_C, BLOCK_I, BLOCK_J, BLOCK_V,
    )  # fmt: skip
    # Sums of what one thread holds, so that nothing moves: (r % 4, c % 8) by columns.
    squares = _points(tl.fma(even, even, odd * odd), BLOCK_C, BLOCK_R, BLOCK_V)
    squares = tl.sum(tl.reshape(squares, (BLOCK_C * BLOCK_R // 32, 32, BLOCK_V)), 0)
    following, scale = next_attempt(
        attempt, scale, squares, x, token, half, t, mask, PREV_H * PREV_W, SOURCES, PRECISION, BLOCK_V
    )
    return even, odd, following, scale


@triton.jit
def _write(
    out, out_token, current, current_token, current_column, half, first_r, first_c, first_column, vocabulary,
    even, odd, weight, beta, cfg, attempt,
    H: tl.constexpr, W: tl.constexpr, SOURCES: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Writes the results of a tile. It reads the logits as `_points` has them, in two dimensions: among more, Triton
    3.6 and 3.9 take them in different orders.
    """
    VECTOR: tl.constexpr = BLOCK_V // 4
    row = tl.arange(0, BLOCK_C * BLOCK_R * 4)[:, None]
    columns = first_column + row % 4 * VECTOR + tl.arange(0, VECTOR)[None, :]
    r = first_r + row // 128 % (BLOCK_R // 4) * 4 + row // 32 % 4
    left = first_c + row // (32 * BLOCK_R) * 8 + row // 4 % 8
    right = W - 1 - left
    weight = tl.broadcast_to(tl.reshape(weight, (1, 4, VECTOR)), (BLOCK_C * BLOCK_R, 4, VECTOR))
    weight = tl.reshape(weight, (BLOCK_C * BLOCK_R * 4, VECTOR))
    # Rows first: then all columns of a row share their part of an address.
    target = out + columns
    target += r.to(tl.int64) * (tl.full((), W, tl.int64) * out_token)
    source = current + columns.to(tl.int64) * current_column
    source += r.to(tl.int64) * (tl.full((), W, tl.int64) * current_token)
    # The middle column is its own mirror, so it is written only once.
    mask = (left < (W + 1) // 2) & (r < H) & (columns < vocabulary)
    mask_right = mask & (right > left)
    write_mirrors(
        target, out_token, source, current_token, half, left.to(tl.int64), mask, right.to(tl.int64), mask_right,
        _points(even, BLOCK_C, BLOCK_R, BLOCK_V), _points(odd, BLOCK_C, BLOCK_R, BLOCK_V), weight, beta, cfg, attempt,
        SOURCES, PRECISION,
    )  # fmt: skip


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
    WHOLE_MAP: tl.constexpr,
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

    With WHOLE_MAP the program takes all tiles of its strip. It reads the map once, into shared memory, and again when
    the scales of some columns have changed.
    """
    ROW_TILES: tl.constexpr = (H + BLOCK_R - 1) // BLOCK_R
    COLUMN_TILES: tl.constexpr = ((W + 1) // 2 + BLOCK_C - 1) // BLOCK_C
    PREV_SOURCES: tl.constexpr = 2 if SOURCES == 2 else 1
    # float16 holds 16-bit logits of one source.
    HALVES: tl.constexpr = PREV_SOURCES == 1 and previous.dtype.element_ty.primitive_bitwidth == 16
    FIRST: tl.constexpr = "f16x2" if HALVES and PRECISION == "f16x3" else PRECISION
    TILES: tl.constexpr = ROW_TILES * COLUMN_TILES
    strips = tl.cdiv(vocabulary, BLOCK_V)
    scale = first_scale(PRECISION, BLOCK_V)
    attempt = 0
    tile = tl.program_id(0)
    if WHOLE_MAP:
        tile *= TILES
        last = tile + TILES
        # What `tile` decides is computed within the loops: otherwise the compiler keeps all addresses of the map and of
        # the tables in registers.
        while tile < last:
            strip = tile // TILES
            columns = strip % strips * BLOCK_V + tl.arange(0, BLOCK_V)
            sample = (strip // strips).to(tl.int64)
            s_beta, s_cfg, t = load_strengths(
                beta, beta_stride, cfg, cfg_stride, prev_cfg, prev_cfg_stride, sample, tl.float32
            )
            x = previous + sample * previous_batch + columns.to(tl.int64) * previous_column
            half = batch.to(tl.int64) * previous_batch
            chunks = _load_map(
                x, previous_token, half, t, columns < vocabulary, scale,
                PREV_H, PREV_W, PREV_SOURCES, PRECISION, FIRST, BLOCK_I, BLOCK_J, BLOCK_V,
            )  # fmt: skip
            following = 2
            while (tile < last) & (following > 1):
                first_r, first_c = tile % ROW_TILES * BLOCK_R, (tile - strip * TILES) // ROW_TILES * BLOCK_C
                even, odd, following, scale = _attempt(
                    chunks, attempt, x, previous_token, half, t, columns < vocabulary, scale, h_table, w_table,
                    first_r, first_c, ROW_TILES * BLOCK_R, COLUMN_TILES * BLOCK_C, PREV_H, PREV_W, WHOLE_MAP,
                    PREV_SOURCES, PRECISION, FIRST, TERMS, SYMMETRIC, BLOCK_R, BLOCK_C, BLOCK_I, BLOCK_J, BLOCK_V,
                )  # fmt: skip
                if following > 1:
                    _write(
                        out + sample * out_batch, out_token, current + sample * current_batch, current_token,
                        current_column, batch.to(tl.int64) * current_batch, first_r, first_c,
                        strip % strips * BLOCK_V, vocabulary, even, odd, weight_of(s_beta, unit, scale, SOURCES),
                        s_beta, s_cfg, following, H, W, SOURCES, PRECISION, BLOCK_R, BLOCK_C, BLOCK_V,
                    )  # fmt: skip
                    tile += 1
                attempt = following & 1
    else:
        first_r, first_c = tile % ROW_TILES * BLOCK_R, tile // ROW_TILES % COLUMN_TILES * BLOCK_C
        strip = tile // TILES
        columns = strip % strips * BLOCK_V + tl.arange(0, BLOCK_V)
        sample = (strip // strips).to(tl.int64)
        beta, cfg, prev_cfg = load_strengths(
            beta, beta_stride, cfg, cfg_stride, prev_cfg, prev_cfg_stride, sample, tl.float32
        )
        x = previous + sample * previous_batch + columns.to(tl.int64) * previous_column
        half = batch.to(tl.int64) * previous_batch
        even = tl.zeros((BLOCK_C, BLOCK_R * BLOCK_V), tl.float32)
        odd = even
        while attempt < 2:
            even, odd, attempt, scale = _attempt(
                (), attempt, x, previous_token, half, prev_cfg, columns < vocabulary, scale, h_table, w_table,
                first_r, first_c, ROW_TILES * BLOCK_R, COLUMN_TILES * BLOCK_C, PREV_H, PREV_W, WHOLE_MAP,
                PREV_SOURCES, PRECISION, FIRST, TERMS, SYMMETRIC, BLOCK_R, BLOCK_C, BLOCK_I, BLOCK_J, BLOCK_V,
            )  # fmt: skip
        _write(
            out + sample * out_batch, out_token, current + sample * current_batch, current_token, current_column,
            batch.to(tl.int64) * current_batch, first_r, first_c, strip % strips * BLOCK_V, vocabulary,
            even, odd, weight_of(beta, unit, scale, SOURCES), beta, cfg, attempt,
            H, W, SOURCES, PRECISION, BLOCK_R, BLOCK_C, BLOCK_V,
        )  # fmt: skip
