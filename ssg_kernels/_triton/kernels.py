"""The guidance kernels. Each makes one pass over the logits and writes nothing but the result.

For every sample and vocabulary column a kernel computes

    out = (1 + beta) * m(current) - beta * P m(previous),  m(x) = x  or  (1 + t) * conditional - t * unconditional

With SOURCES = 0 it computes out = beta * P previous. The kernels read logits in their own dtype and widen them at
once. They address tokens in 64 bits. Where a tile reaches beyond the vocabulary they read 0; where it reaches beyond
the previous map they read its last line again, which meets zeros in the table. A strength is a tensor with its stride
(0 if it is 0-d), or a float with the stride None. Vocabulary columns never mix, because they are the columns of every
product. A previous logit that is not finite makes its column NaN.

With the precision "f16x3" a product is as accurate as in float32. Each operand is split into two float16 numbers, and
three products of these parts go into one accumulator. The tables are split beforehand (`launch.py`). The logits are
multiplied by SCALE first. If the products show that float16 could not hold a column so, the program computes its tile
again, with a scale of its own for each column.
"""

from __future__ import annotations

import triton
import triton.language as tl

SCALE: tl.constexpr = tl.constexpr(8.0)


@triton.jit
def _strength(value, stride, sample, COMPUTE: tl.constexpr):
    if stride is None:
        return value
    else:
        return tl.load(value + sample * stride).to(COMPUTE)


@triton.jit
def _merged(logits, half, t, mask, SOURCES: tl.constexpr, COMPUTE: tl.constexpr):
    """Loads logits. With two SOURCES it merges them with the unconditional half, which lies `half` elements further."""
    x = tl.load(logits, mask=mask, other=0.0).to(COMPUTE)
    if SOURCES == 2:
        x = (1 + t) * x - t * tl.load(logits + half, mask=mask, other=0.0).to(COMPUTE)
    return x


@triton.jit
def _scaled(x, tokens, token, half, t, mask, scale, SOURCES: tl.constexpr, PRECISION: tl.constexpr):
    """The previous logits of `tokens`, with the scale that splitting them needs."""
    logits = _merged(x + tokens.to(tl.int64) * token, half, t, mask, SOURCES, tl.float32)
    if PRECISION == "f16x3":
        logits *= scale
    return logits


@triton.jit
def _guide(
    out, out_token, current, current_token, half, tokens, mask, prior, weight, beta, t,
    SOURCES: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Writes the result at `tokens`, from the current logits there and the prior, which is `weight * prior` / beta."""
    tokens = tokens.to(tl.int64)
    if SOURCES == 0:
        result = weight * prior
    else:
        current += tokens * current_token
        conditional = tl.load(current, mask=mask, other=0.0).to(COMPUTE)
        merged = conditional
        if SOURCES == 2:
            merged = (1 + t) * conditional - t * tl.load(current + half, mask=mask, other=0.0).to(COMPUTE)
        result = (1 + beta) * merged + (-weight) * prior
        # Samplers mask tokens with -inf. Masked tokens stay masked. The minimum is -inf. With it, Triton compares where
        # the prior lies. Else it would compare where the logits were loaded, and move the results.
        result = tl.where(conditional == tl.minimum(prior, float("-inf")), float("-inf"), result)
    tl.store(out + tokens * out_token, result.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _nan_if_infinite(x):
    return x + (x - x)


@triton.jit
def _dot(table, PART: tl.constexpr, x, acc, PRECISION: tl.constexpr):
    """table @ x + acc, as accurate as in float32. The low part of a split table lies PART elements behind the high one.

    What is not finite in `x`, or beyond float16, becomes NaN.
    """
    if PRECISION == "f16x3":
        high, low = tl.load(table), tl.load(table + PART)
        # Cut, not rounded: the rest is exact, and both parts are converted two at a time.
        cut = (x.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
        x_high, x_low = cut.to(tl.float16), (x - cut).to(tl.float16)
        acc = tl.dot(low, x_high, acc)
        acc = tl.dot(high, x_low, acc)
        return tl.dot(high, x_high, acc)
    else:
        return tl.dot(tl.load(table), _nan_if_infinite(x), acc, input_precision=PRECISION)


@triton.jit
def _is_lost(squares, inside):
    """Whether float16 could not hold the logits of a column, or too few of their bits. `squares`, (rows, columns), are
    sums of squared products: none may be below 1, infinite or NaN. Zeros are lost too, which costs time only.
    """
    return tl.max(_excess(squares, inside)) >= 0x40000000  # up to the bits of infinity


@triton.jit
def _excess(squares, inside):
    return tl.where(
        inside[None, :], squares.to(tl.uint32, bitcast=True) - 0x3F800000, 0
    )  # less the bits of 1


@triton.jit
def _rescaled(
    scale,
    squares,
    x,
    token,
    half,
    t,
    mask,
    TOKENS: tl.constexpr,
    SOURCES: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    """For each lost column the power of two that brings its largest finite logit to between 2^8 and 2^9. All other
    columns keep their scale, and so their bits.
    """
    largest = tl.zeros((BLOCK_V,), tl.float32)
    for _ in range(TOKENS):
        size = tl.abs(_merged(x, half, t, mask, SOURCES, tl.float32))
        x += token
        largest = tl.maximum(largest, tl.where(size < float("inf"), size, 0.0))
    exponent = tl.minimum(127 + 8 + 127 - (largest.to(tl.int32, bitcast=True) >> 23), 250)
    # One column after the other. A reduction along the rows would give the scale the layout of the products; all that
    # meets the scale would follow, and each warp would split all logits.
    excess, column = _excess(squares, mask), tl.arange(0, BLOCK_V)
    lost = tl.zeros((BLOCK_V,), tl.int32)
    for v in range(BLOCK_V):
        is_lost = tl.max(tl.where((column == v)[None, :], excess, 0)) >= 0x40000000
        lost = tl.where(column == v, is_lost.to(tl.int32), lost)
    return tl.where(lost > 0, (exponent << 23).to(tl.float32, bitcast=True), scale)


@triton.jit
def _inverse(power):
    """1 / power, of a power of two."""
    return (0x7F000000 - power.to(tl.int32, bitcast=True)).to(tl.float32, bitcast=True)


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
    beta = _strength(beta, beta_stride, sample, COMPUTE)
    cfg = _strength(cfg, cfg_stride, sample, COMPUTE)
    prev_cfg = _strength(prev_cfg, prev_cfg_stride, sample, COMPUTE)

    x = previous + sample * previous_batch + columns.to(tl.int64) * previous_column
    half = batch.to(tl.int64) * previous_batch
    prior = tl.zeros((BLOCK_M, BLOCK_V), COMPUTE)
    for first in range(0, K_END, BLOCK_K):
        for offset in tl.static_range(BLOCK_K):
            k = first + offset
            mask = columns < tl.where(k < PREV_TOKENS, vocabulary, 0)
            logits = _merged(x + k.to(tl.int64) * previous_token, half, prev_cfg, mask, PREV_SOURCES, COMPUTE)
            logits = _nan_if_infinite(logits)
            prior += tl.load(table + k * (ROW_TILES * BLOCK_M) + rows)[:, None] * logits[None, :]

    target = (out + sample * out_batch + columns)[None, :]
    source = (current + sample * current_batch + columns.to(tl.int64) * current_column)[None, :]
    half = batch.to(tl.int64) * current_batch
    mask = (rows < TOKENS)[:, None] & (columns < vocabulary)[None, :]
    _guide(
        target, out_token, source, current_token, half, rows[:, None], mask, prior, beta, beta, cfg,
        SOURCES, COMPUTE,
    )  # fmt: skip


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
    ee = tl.zeros((BLOCK_M, BLOCK_V), tl.float32)
    eo = tl.zeros((BLOCK_M, BLOCK_V), tl.float32)
    oe = tl.zeros((BLOCK_M, BLOCK_V), tl.float32)
    oo = tl.zeros((BLOCK_M, BLOCK_V), tl.float32)
    for first in range(0, K_END, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        weights = table + rows[:, None] * K_END + k[None, :]
        k = tl.minimum(k, K - 1)[:, None]
        upper, left = k // HALF_W * PREV_W, k % HALF_W
        lower, right = (PREV_H - 1) * PREV_W - upper, PREV_W - 1 - left
        upper_left = _scaled(x, upper + left, token, half, t, mask, scale, SOURCES, PRECISION)
        upper_right = _scaled(x, upper + right, token, half, t, mask, scale, SOURCES, PRECISION)
        lower_left = _scaled(x, lower + left, token, half, t, mask, scale, SOURCES, PRECISION)
        lower_right = _scaled(x, lower + right, token, half, t, mask, scale, SOURCES, PRECISION)
        upper_even, lower_even = upper_left + upper_right, lower_left + lower_right
        ee = _dot(weights, PART, upper_even + lower_even, ee, PRECISION)
        oe = _dot(weights + 2 * QUARTER, PART, upper_even - lower_even, oe, PRECISION)
        upper_odd, lower_odd = upper_left - upper_right, lower_left - lower_right
        eo = _dot(weights + QUARTER, PART, upper_odd + lower_odd, eo, PRECISION)
        oo = _dot(weights + 3 * QUARTER, PART, upper_odd - lower_odd, oo, PRECISION)
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
    columns = tile // ROW_TILES % strips * BLOCK_V + tl.arange(0, BLOCK_V)
    sample = (tile // ROW_TILES // strips).to(tl.int64)
    inside = (columns < vocabulary)[None, :]
    beta = _strength(beta, beta_stride, sample, tl.float32)
    cfg = _strength(cfg, cfg_stride, sample, tl.float32)
    prev_cfg = _strength(prev_cfg, prev_cfg_stride, sample, tl.float32)

    x = previous + sample * previous_batch + columns.to(tl.int64) * previous_column
    half = batch.to(tl.int64) * previous_batch
    scale = tl.full((BLOCK_V,), SCALE if PRECISION == "f16x3" else 1.0, tl.float32)
    ee = tl.zeros((BLOCK_M, BLOCK_V), tl.float32)
    eo, oe, oo = ee, ee, ee
    attempt = 0
    while attempt < 2:
        ee, eo, oe, oo = _quarters(
            x, previous_token, half, prev_cfg, columns < vocabulary, scale, table, rows,
            PREV_H, PREV_W, PREV_SOURCES, PRECISION, QUARTER, BLOCK_M, BLOCK_K, BLOCK_V,
        )  # fmt: skip
        attempt += 2
        if PRECISION == "f16x3":  # noqa: SIM102, which Triton decides when it compiles
            if attempt == 2:
                squares = ee * ee + eo * eo + oe * oe + oo * oo
                if _is_lost(squares, columns < vocabulary):
                    attempt = 1
                    scale = _rescaled(
                        scale, squares, x, previous_token, half, prev_cfg, columns < vocabulary, PREV_H * PREV_W,
                        PREV_SOURCES, BLOCK_V,
                    )  # fmt: skip

    target = (out + sample * out_batch + columns)[None, :]
    source = (current + sample * current_batch + columns.to(tl.int64) * current_column)[None, :]
    half = batch.to(tl.int64) * current_batch
    weight = (beta * unit * _inverse(scale))[None, :]
    upper, left = (rows // HALF_W * W)[:, None], (rows % HALF_W)[:, None]
    lower, right = (H - 1) * W - upper, W - 1 - left
    # A middle row or column is its own mirror, so it is written only once.
    mask = (rows < M)[:, None] & inside
    mask_right, mask_lower = mask & (right > left), mask & (lower > upper)
    even, odd = ee + oe, eo + oo
    _guide(
        target, out_token, source, current_token, half, upper + left, mask, even + odd, weight, beta, cfg,
        SOURCES, tl.float32,
    )  # fmt: skip
    _guide(
        target, out_token, source, current_token, half, upper + right, mask_right, even - odd, weight, beta, cfg,
        SOURCES, tl.float32,
    )  # fmt: skip
    even, odd = ee - oe, eo - oo
    _guide(
        target, out_token, source, current_token, half, lower + left, mask_lower, even + odd, weight, beta, cfg,
        SOURCES, tl.float32,
    )  # fmt: skip
    _guide(
        target, out_token, source, current_token, half, lower + right, mask_lower & mask_right, even - odd,
        weight, beta, cfg, SOURCES, tl.float32,
    )  # fmt: skip


@triton.jit
def _both_axes(
    x, token, half, t, mask, scale, h_table, w_table, first_r, first_c,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PREV_H: tl.constexpr, PREV_W: tl.constexpr,
    SOURCES: tl.constexpr, PRECISION: tl.constexpr, TERMS: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr,
    BLOCK_V: tl.constexpr,
):  # fmt: skip
    """A tile (c, (r, v)) of the sum over all terms of the products along both axes."""
    I_END: tl.constexpr = (PREV_H + BLOCK_I - 1) // BLOCK_I * BLOCK_I
    J_END: tl.constexpr = (PREV_W + BLOCK_J - 1) // BLOCK_J * BLOCK_J
    x, mask, scale = x[None, None, :], mask[None, None, :], scale[None, None, :]
    # The rows (term, r) of the stacked factors along h, and the columns (term, j) of those along w.
    term_r = tl.arange(0, TERMS * BLOCK_R)
    h_rows = h_table + ((term_r // BLOCK_R * ROWS + first_r + term_r % BLOCK_R) * I_END)[:, None]
    term_j = tl.arange(0, TERMS * BLOCK_J)
    w_columns = w_table + (term_j // BLOCK_J * (COLUMNS * J_END) + term_j % BLOCK_J)[None, :]
    w_columns += ((first_c + tl.arange(0, BLOCK_C)) * J_END)[:, None]
    prior = tl.zeros((BLOCK_C, BLOCK_R * BLOCK_V), tl.float32)
    for first_j in range(0, J_END, BLOCK_J):
        j = tl.minimum(first_j + tl.arange(0, BLOCK_J), PREV_W - 1)
        y = tl.zeros((TERMS * BLOCK_R, BLOCK_J * BLOCK_V), tl.float32)
        for first_i in range(0, I_END, BLOCK_I):
            i = first_i + tl.arange(0, BLOCK_I)
            tokens = (tl.minimum(i, PREV_H - 1)[:, None] * PREV_W + j[None, :])[:, :, None]
            logits = _scaled(x, tokens, token, half, t, mask, scale, SOURCES, PRECISION)
            logits = tl.reshape(logits, (BLOCK_I, BLOCK_J * BLOCK_V))
            y = _dot(h_rows + i[None, :], TERMS * ROWS * I_END, logits, y, PRECISION)
        y = tl.permute(tl.reshape(y, (TERMS, BLOCK_R, BLOCK_J, BLOCK_V)), (0, 2, 1, 3))
        y = tl.reshape(y, (TERMS * BLOCK_J, BLOCK_R * BLOCK_V))
        prior = _dot(w_columns + first_j, TERMS * COLUMNS * J_END, y, prior, PRECISION)
    return prior


@triton.jit(do_not_specialize=["batch"])
def separable_kernel(
    out, out_batch, out_token,
    current, current_batch, current_token, current_column,
    previous, previous_batch, previous_token, previous_column,
    h_table, w_table, unit,
    beta, beta_stride, cfg, cfg_stride, prev_cfg, prev_cfg_stride,
    batch, vocabulary,
    H: tl.constexpr, W: tl.constexpr, PREV_H: tl.constexpr, PREV_W: tl.constexpr,
    SOURCES: tl.constexpr, PRECISION: tl.constexpr, TERMS: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr,
    BLOCK_V: tl.constexpr,
):  # fmt: skip
    """The separable form, axis by axis. A program computes BLOCK_R by BLOCK_C points of the output grid for a strip of
    BLOCK_V vocabulary columns.

    It reads the previous map in chunks of BLOCK_J columns of the grid. It contracts each chunk along h with the stacked
    factors of all terms, and the result at once along w, which sums all terms. `h_table` is (terms, rows, PREV_H) and
    `w_table` is (terms, columns, PREV_W), both padded to tiles. TERMS is a power of two: 4 for a prior of 3 terms.
    `unit` undoes the scale of both tables.
    """
    ROW_TILES: tl.constexpr = (H + BLOCK_R - 1) // BLOCK_R
    COLUMN_TILES: tl.constexpr = (W + BLOCK_C - 1) // BLOCK_C
    PREV_SOURCES: tl.constexpr = 2 if SOURCES == 2 else 1
    tile = tl.program_id(0)
    first_r = tile % ROW_TILES * BLOCK_R
    first_c = tile // ROW_TILES % COLUMN_TILES * BLOCK_C
    tile = tile // (ROW_TILES * COLUMN_TILES)
    strips = tl.cdiv(vocabulary, BLOCK_V)
    columns = tile % strips * BLOCK_V + tl.arange(0, BLOCK_V)
    sample = (tile // strips).to(tl.int64)
    inside = (columns < vocabulary)[None, None, :]
    beta = _strength(beta, beta_stride, sample, tl.float32)
    cfg = _strength(cfg, cfg_stride, sample, tl.float32)
    prev_cfg = _strength(prev_cfg, prev_cfg_stride, sample, tl.float32)

    x = previous + sample * previous_batch + columns.to(tl.int64) * previous_column
    half = batch.to(tl.int64) * previous_batch
    scale = tl.full((BLOCK_V,), SCALE if PRECISION == "f16x3" else 1.0, tl.float32)
    prior = tl.zeros((BLOCK_C, BLOCK_R * BLOCK_V), tl.float32)
    attempt = 0
    while attempt < 2:
        prior = _both_axes(
            x, previous_token, half, prev_cfg, columns < vocabulary, scale, h_table, w_table, first_r, first_c,
            ROW_TILES * BLOCK_R, COLUMN_TILES * BLOCK_C, PREV_H, PREV_W, PREV_SOURCES, PRECISION, TERMS,
            BLOCK_R, BLOCK_C, BLOCK_I, BLOCK_J, BLOCK_V,
        )  # fmt: skip
        attempt += 2
        if PRECISION == "f16x3":  # noqa: SIM102, which Triton decides when it compiles
            if attempt == 2:
                squares = tl.sum(tl.reshape(prior * prior, (BLOCK_C, BLOCK_R, BLOCK_V)), 1)
                if _is_lost(squares, columns < vocabulary):
                    attempt = 1
                    scale = _rescaled(
                        scale, squares, x, previous_token, half, prev_cfg, columns < vocabulary, PREV_H * PREV_W,
                        PREV_SOURCES, BLOCK_V,
                    )  # fmt: skip

    weight = (beta * unit * _inverse(scale))[None, None, :]
    r, c = first_r + tl.arange(0, BLOCK_R), first_c + tl.arange(0, BLOCK_C)
    target = (out + sample * out_batch + columns)[None, None, :]
    source = (current + sample * current_batch + columns.to(tl.int64) * current_column)[None, None, :]
    half = batch.to(tl.int64) * current_batch
    mask = ((c < W)[:, None] & (r < H)[None, :])[:, :, None] & inside
    tokens = (r[None, :] * W + c[:, None])[:, :, None]
    prior = tl.reshape(prior, (BLOCK_C, BLOCK_R, BLOCK_V))
    _guide(
        target, out_token, source, current_token, half, tokens, mask, prior, weight, beta, cfg,
        SOURCES, tl.float32,
    )  # fmt: skip
