"""The guidance kernels. Each makes one pass over the logits and writes nothing but the result.

For every sample and vocabulary column a kernel computes

    out = (1 + beta) * m(current) - beta * P m(previous),  m(x) = x  or  (1 + t) * conditional - t * unconditional

With SOURCES = 0 it computes out = beta * P previous. The kernels read logits in their own dtype and widen them at
once. They address tokens in 64 bits. Where a tile reaches beyond the map or the vocabulary they read 0, and the table
is padded with 0 too. A strength is a tensor with its stride (0 if it is 0-d), or a float with the stride None.
Vocabulary columns never mix, because they are the columns of every product.
"""

from __future__ import annotations

import triton
import triton.language as tl


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
def _guide(
    out, out_token, current, current_token, half, tokens, mask, prior, beta, t,
    SOURCES: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Writes the result at `tokens`, from the current logits there and the prior."""
    tokens = tokens.to(tl.int64)
    if SOURCES == 0:
        result = beta * prior
    else:
        current += tokens * current_token
        conditional = tl.load(current, mask=mask, other=0.0).to(COMPUTE)
        merged = conditional
        if SOURCES == 2:
            merged = (1 + t) * conditional - t * tl.load(current + half, mask=mask, other=0.0).to(COMPUTE)
        result = (1 + beta) * merged - beta * prior
        # Samplers mask tokens with -inf. Masked tokens stay masked.
        result = tl.where(conditional == float("-inf"), float("-inf"), result)
    tl.store(out + tokens * out_token, result.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _dot(a, b, acc, PRECISION: tl.constexpr):
    """a @ b + acc, as accurate as in float32.

    With tf32x3, each operand is split into a part that tf32 holds exactly and a rest, and three products of these parts
    go into one accumulator. tl.dot has a tf32x3 too, but it moves the small products to registers in between.
    """
    if PRECISION == "tf32x3":
        a_high = (a.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
        b_high = (b.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
        acc = tl.dot(a - a_high, b_high, acc, input_precision="tf32")
        acc = tl.dot(a_high, b - b_high, acc, input_precision="tf32")
        return tl.dot(a_high, b_high, acc, input_precision="tf32")
    else:
        return tl.dot(a, b, acc, input_precision=PRECISION)


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
            prior += tl.load(table + k * (ROW_TILES * BLOCK_M) + rows)[:, None] * logits[None, :]

    target = (out + sample * out_batch + columns)[None, :]
    source = (current + sample * current_batch + columns.to(tl.int64) * current_column)[None, :]
    half = batch.to(tl.int64) * current_batch
    mask = (rows < TOKENS)[:, None] & (columns < vocabulary)[None, :]
    _guide(
        target, out_token, source, current_token, half, rows[:, None], mask, prior, beta, cfg,
        SOURCES, COMPUTE,
    )  # fmt: skip


@triton.jit(do_not_specialize=["batch"])
def dense_kernel(
    out, out_batch, out_token,
    current, current_batch, current_token, current_column,
    previous, previous_batch, previous_token, previous_column,
    table,
    beta, beta_stride, cfg, cfg_stride, prev_cfg, prev_cfg_stride,
    batch, vocabulary,
    H: tl.constexpr, W: tl.constexpr, PREV_H: tl.constexpr, PREV_W: tl.constexpr,
    SOURCES: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """The dense form: the prior's matrix times a tile of logits. `table` is (rows, columns), padded to tiles."""
    M: tl.constexpr = H * W
    K: tl.constexpr = PREV_H * PREV_W
    ROW_TILES: tl.constexpr = (M + BLOCK_M - 1) // BLOCK_M
    K_END: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K * BLOCK_K
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

    x = (previous + sample * previous_batch + columns.to(tl.int64) * previous_column)[None, :]
    half = batch.to(tl.int64) * previous_batch
    prior = tl.zeros((BLOCK_M, BLOCK_V), tl.float32)
    for first in range(0, K_END, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        mask = (k < K)[:, None] & inside
        tokens = k.to(tl.int64)[:, None]
        logits = _merged(x + tokens * previous_token, half, prev_cfg, mask, PREV_SOURCES, tl.float32)
        weights = tl.load(table + rows[:, None] * K_END + k[None, :], cache_modifier=".ca")
        prior = _dot(weights, logits, prior, PRECISION)

    target = (out + sample * out_batch + columns)[None, :]
    source = (current + sample * current_batch + columns.to(tl.int64) * current_column)[None, :]
    half = batch.to(tl.int64) * current_batch
    mask = (rows < M)[:, None] & inside
    _guide(
        target, out_token, source, current_token, half, rows[:, None], mask, prior, beta, cfg,
        SOURCES, tl.float32,
    )  # fmt: skip


@triton.jit(do_not_specialize=["batch"])
def dense_halves_kernel(
    out, out_batch, out_token,
    current, current_batch, current_token, current_column,
    previous, previous_batch, previous_token, previous_column,
    table,
    beta, beta_stride, cfg, cfg_stride, prev_cfg, prev_cfg_stride,
    batch, vocabulary,
    H: tl.constexpr, W: tl.constexpr, PREV_H: tl.constexpr, PREV_W: tl.constexpr,
    SOURCES: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """The dense form by even/odd halves along both axes: four products, each over a quarter of the tokens.

    A row stands for a token of the upper left quarter and its three mirrors; so does a column. `table` is (quarters,
    rows, columns). Its quarters, along h and w, are: even and even, even and odd, odd and even, odd and odd.
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

    x = (previous + sample * previous_batch + columns.to(tl.int64) * previous_column)[None, :]
    half = batch.to(tl.int64) * previous_batch
    ee = tl.zeros((BLOCK_M, BLOCK_V), tl.float32)
    eo = tl.zeros((BLOCK_M, BLOCK_V), tl.float32)
    oe = tl.zeros((BLOCK_M, BLOCK_V), tl.float32)
    oo = tl.zeros((BLOCK_M, BLOCK_V), tl.float32)
    for first in range(0, K_END, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        mask = (k < K)[:, None] & inside
        upper, left = k // PREV_HALF_W * PREV_W, k % PREV_HALF_W
        lower, right = (PREV_H - 1) * PREV_W - upper, PREV_W - 1 - left
        tokens = (upper + left).to(tl.int64)[:, None]
        upper_left = _merged(x + tokens * previous_token, half, prev_cfg, mask, PREV_SOURCES, tl.float32)
        tokens = (upper + right).to(tl.int64)[:, None]
        upper_right = _merged(x + tokens * previous_token, half, prev_cfg, mask, PREV_SOURCES, tl.float32)
        tokens = (lower + left).to(tl.int64)[:, None]
        lower_left = _merged(x + tokens * previous_token, half, prev_cfg, mask, PREV_SOURCES, tl.float32)
        tokens = (lower + right).to(tl.int64)[:, None]
        lower_right = _merged(x + tokens * previous_token, half, prev_cfg, mask, PREV_SOURCES, tl.float32)
        weights = table + rows[:, None] * K_END + k[None, :]
        upper_even, lower_even = upper_left + upper_right, lower_left + lower_right
        ee = _dot(tl.load(weights, cache_modifier=".ca"), upper_even + lower_even, ee, PRECISION)
        oe = _dot(
            tl.load(weights + 2 * QUARTER, cache_modifier=".ca"), upper_even - lower_even, oe, PRECISION
        )
        upper_odd, lower_odd = upper_left - upper_right, lower_left - lower_right
        eo = _dot(tl.load(weights + QUARTER, cache_modifier=".ca"), upper_odd + lower_odd, eo, PRECISION)
        oo = _dot(tl.load(weights + 3 * QUARTER, cache_modifier=".ca"), upper_odd - lower_odd, oo, PRECISION)

    target = (out + sample * out_batch + columns)[None, :]
    source = (current + sample * current_batch + columns.to(tl.int64) * current_column)[None, :]
    half = batch.to(tl.int64) * current_batch
    upper, left = (rows // HALF_W * W)[:, None], (rows % HALF_W)[:, None]
    lower, right = (H - 1) * W - upper, W - 1 - left
    # A middle row or column is its own mirror, so it is written only once.
    mask = (rows < M)[:, None] & inside
    mask_right, mask_lower = mask & (right > left), mask & (lower > upper)
    even, odd = ee + oe, eo + oo
    _guide(
        target, out_token, source, current_token, half, upper + left, mask, even + odd, beta, cfg,
        SOURCES, tl.float32,
    )  # fmt: skip
    _guide(
        target, out_token, source, current_token, half, upper + right, mask_right, even - odd, beta, cfg,
        SOURCES, tl.float32,
    )  # fmt: skip
    even, odd = ee - oe, eo - oo
    _guide(
        target, out_token, source, current_token, half, lower + left, mask_lower, even + odd, beta, cfg,
        SOURCES, tl.float32,
    )  # fmt: skip
    _guide(
        target, out_token, source, current_token, half, lower + right, mask_lower & mask_right, even - odd,
        beta, cfg, SOURCES, tl.float32,
    )  # fmt: skip


@triton.jit(do_not_specialize=["batch"])
def separable_kernel(
    out, out_batch, out_token,
    current, current_batch, current_token, current_column,
    previous, previous_batch, previous_token, previous_column,
    h_table, w_table,
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
    """
    ROW_TILES: tl.constexpr = (H + BLOCK_R - 1) // BLOCK_R
    COLUMN_TILES: tl.constexpr = (W + BLOCK_C - 1) // BLOCK_C
    I_END: tl.constexpr = (PREV_H + BLOCK_I - 1) // BLOCK_I * BLOCK_I
    J_END: tl.constexpr = (PREV_W + BLOCK_J - 1) // BLOCK_J * BLOCK_J
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

    x = (previous + sample * previous_batch + columns.to(tl.int64) * previous_column)[None, None, :]
    half = batch.to(tl.int64) * previous_batch
    r, c = first_r + tl.arange(0, BLOCK_R), first_c + tl.arange(0, BLOCK_C)
    # The rows (term, r) of the stacked factors along h, and the columns (term, j) of those along w.
    term_r = tl.arange(0, TERMS * BLOCK_R)
    h_rows = (
        h_table + ((term_r // BLOCK_R * ROW_TILES * BLOCK_R + first_r + term_r % BLOCK_R) * I_END)[:, None]
    )
    term_j = tl.arange(0, TERMS * BLOCK_J)
    w_columns = w_table + (term_j // BLOCK_J * (COLUMN_TILES * BLOCK_C * J_END) + term_j % BLOCK_J)[None, :]
    prior = tl.zeros((BLOCK_C, BLOCK_R * BLOCK_V), tl.float32)
    for first_j in range(0, J_END, BLOCK_J):
        j = first_j + tl.arange(0, BLOCK_J)
        y = tl.zeros((TERMS * BLOCK_R, BLOCK_J * BLOCK_V), tl.float32)
        for first_i in range(0, I_END, BLOCK_I):
            i = first_i + tl.arange(0, BLOCK_I)
            mask = ((i < PREV_H)[:, None] & (j < PREV_W)[None, :])[:, :, None] & inside
            tokens = (i[:, None] * PREV_W + j[None, :]).to(tl.int64)[:, :, None]
            logits = _merged(x + tokens * previous_token, half, prev_cfg, mask, PREV_SOURCES, tl.float32)
            logits = tl.reshape(logits, (BLOCK_I, BLOCK_J * BLOCK_V))
            y = _dot(tl.load(h_rows + i[None, :]), logits, y, PRECISION)
        y = tl.permute(tl.reshape(y, (TERMS, BLOCK_R, BLOCK_J, BLOCK_V)), (0, 2, 1, 3))
        y = tl.reshape(y, (TERMS * BLOCK_J, BLOCK_R * BLOCK_V))
        weights = tl.load(w_columns + (c * J_END + first_j)[:, None])
        prior = _dot(weights, y, prior, PRECISION)

    target = (out + sample * out_batch + columns)[None, None, :]
    source = (current + sample * current_batch + columns.to(tl.int64) * current_column)[None, None, :]
    half = batch.to(tl.int64) * current_batch
    mask = ((c < W)[:, None] & (r < H)[None, :])[:, :, None] & inside
    tokens = (r[None, :] * W + c[:, None])[:, :, None]
    prior = tl.reshape(prior, (BLOCK_C, BLOCK_R, BLOCK_V))
    _guide(
        target, out_token, source, current_token, half, tokens, mask, prior, beta, cfg,
        SOURCES, tl.float32,
    )  # fmt: skip
