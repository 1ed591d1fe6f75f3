"""What the guidance kernels share. Each of them makes one pass over the logits and writes nothing but the result.

For every sample and vocabulary column a kernel computes

    out = (1 + beta) * m(current) - beta * P m(previous),  m(x) = x  or  (1 + t) * conditional - t * unconditional

With SOURCES = 0 it computes out = beta * P previous. The kernels read logits in their own dtype and widen them at
once. They address tokens in 64 bits. Where a tile reaches beyond the vocabulary or the previous map, they read 0, or
a value that meets zeros in the table. A strength is a tensor with its stride (0 if it is 0-d), or a float with the
stride None. Vocabulary columns never mix, because they are the columns of every product. A previous logit that is not
finite makes its column NaN.

With the precision "f16x3" a product is as accurate as in float32. Each operand is split into two float16 numbers, and
three products of these parts go into one accumulator. The tables are split beforehand (`launch.py`). The logits are
multiplied by SCALE first. If the products show that float16 could not hold a column so, the program computes its tile
again, with a scale of its own for each such column. With "f16x2" only the table is split: float16 holds the other
operand.
"""

from __future__ import annotations

import triton
import triton.language as tl

SCALE: tl.constexpr = tl.constexpr(8.0)


@triton.jit
def _load_strength(value, stride, sample, COMPUTE: tl.constexpr):
    if stride is None:
        return value
    else:
        return tl.load(value + sample * stride).to(COMPUTE)


@triton.jit
def load_strengths(
    beta, beta_stride, cfg, cfg_stride, prev_cfg, prev_cfg_stride, sample, COMPUTE: tl.constexpr
):  # fmt: skip
    beta = _load_strength(beta, beta_stride, sample, COMPUTE)
    cfg = _load_strength(cfg, cfg_stride, sample, COMPUTE)
    return beta, cfg, _load_strength(prev_cfg, prev_cfg_stride, sample, COMPUTE)


@triton.jit
def load_merged(logits, half, t, mask, SOURCES: tl.constexpr, COMPUTE: tl.constexpr):
    """Loads logits. With two SOURCES it merges them with the unconditional half, which lies `half` elements further."""
    x = tl.load(logits, mask=mask, other=0.0).to(COMPUTE)
    if SOURCES == 2:
        x = tl.fma(1 + t, x, -t * tl.load(logits + half, mask=mask, other=0.0).to(COMPUTE))
    return x


@triton.jit
def load_scaled(x, half, t, mask, scale, SOURCES: tl.constexpr, PRECISION: tl.constexpr):
    """Previous logits, with the scale that splitting them needs."""
    logits = load_merged(x, half, t, mask, SOURCES, tl.float32)
    if PRECISION == "f16x3":
        logits *= scale
    return logits


@triton.jit
def write_guided(
    out, current, half, mask, added, beta, t, SOURCES: tl.constexpr, COMPUTE: tl.constexpr, MASKED: tl.constexpr
):  # fmt: skip
    """Writes results, from the current logits and from what the prior adds to them. MASKED: some of the logits may be
    -inf and stay so, whatever the prior is. Samplers mask tokens that way.
    """
    result = added
    if SOURCES > 0:
        conditional = tl.load(current, mask=mask, other=0.0).to(COMPUTE)
        merged = conditional
        if SOURCES == 2:
            unconditional = tl.load(current + half, mask=mask, other=0.0).to(COMPUTE)
            merged = tl.fma(1 + t, conditional, -t * unconditional)
        result = tl.fma(1 + beta, merged, added)
        if MASKED:
            result = tl.where(conditional == float("-inf"), float("-inf"), result)
    tl.store(out, result.to(out.dtype.element_ty), mask=mask)


@triton.jit
def write_mirrors(
    out, out_token, current, current_token, half, at, mask, mirror, mask_mirror, even, odd, weight, beta, t, attempt,
    SOURCES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Writes the results of some tokens and of their mirrors. The prior adds weight * (even + odd) to the tokens and
    weight * (even - odd) to the mirrors.

    Sums of matrix products come here in three or more dimensions. Then Triton moves them at most once, to where the
    logits are loaded. In two dimensions it would move the logits to where the sums are, and the results back.
    """
    even *= weight
    if _is_ordinary(attempt, beta, SOURCES, PRECISION):
        _write_both(
            out, out_token, current, current_token, half, at, mask, mirror, mask_mirror, even, odd, weight, beta, t,
            SOURCES, False,
        )  # fmt: skip
    else:
        # The mirrors first: the compiler would keep in registers whatever both ways begin with.
        _write_both(
            out, out_token, current, current_token, half, mirror, mask_mirror, at, mask, even, odd, -weight, beta, t,
            SOURCES, True,
        )  # fmt: skip


@triton.jit
def _is_ordinary(attempt, beta, SOURCES: tl.constexpr, PRECISION: tl.constexpr):
    """Whether logits of -inf stay so by themselves, because the prior is finite and the strength is usual."""
    if PRECISION == "f16x3" and SOURCES == 1:
        return (attempt == 2) & (beta > -1.0) & (beta < 1e15)
    else:
        return False


@triton.jit
def _write_both(
    out, out_token, current, current_token, half, at, mask, mirror, mask_mirror, even, odd, weight, beta, t,
    SOURCES: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    write_guided(
        out + at * out_token, current + at * current_token, half, mask, tl.fma(weight, odd, even), beta, t,
        SOURCES, tl.float32, MASKED,
    )  # fmt: skip
    write_guided(
        out + mirror * out_token, current + mirror * current_token, half, mask_mirror, tl.fma(-weight, odd, even),
        beta, t, SOURCES, tl.float32, MASKED,
    )  # fmt: skip


@triton.jit
def weight_of(beta, unit, scale, SOURCES: tl.constexpr):
    """What the sums of each column are to be multiplied by; with current logits the prior is subtracted."""
    weight = beta * unit * (0x7F000000 - scale.to(tl.int32, bitcast=True)).to(tl.float32, bitcast=True)
    return weight if SOURCES == 0 else -weight


@triton.jit
def nan_if_infinite(x):
    return x + (x - x)


@triton.jit
def split(x, PRECISION: tl.constexpr):
    """The parts of an operand that `dot_of_parts` multiplies. What is not finite, or beyond float16, becomes NaN; with
    "f16x2" perhaps an infinity.
    """
    if PRECISION == "f16x2":
        return (x.to(tl.float16),)
    elif PRECISION == "f16x3":
        # Cut, not rounded: the rest is exact, and both parts are converted two at a time.
        cut = (x.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
        return cut.to(tl.float16), (x - cut).to(tl.float16)
    else:
        return (nan_if_infinite(x),)


@triton.jit
def dot_of_parts(table, PART: tl.constexpr, x, acc, PRECISION: tl.constexpr):
    """table @ x + acc, as accurate as in float32, where `x` are the parts of an operand. The low part of a split table
    lies PART elements behind the high one.
    """
    if PRECISION == "f16x2":
        acc = tl.dot(tl.load(table + PART), x[0], acc)
        return tl.dot(tl.load(table), x[0], acc)
    elif PRECISION == "f16x3":
        high, low = tl.load(table), tl.load(table + PART)
        acc = tl.dot(low, x[0], acc)
        acc = tl.dot(high, x[1], acc)
        return tl.dot(high, x[0], acc)
    else:
        return tl.dot(tl.load(table), x[0], acc, input_precision=PRECISION)


@triton.jit
def accurate_dot(table, PART: tl.constexpr, x, acc, PRECISION: tl.constexpr):
    """table @ x + acc, as accurate as in float32."""
    return dot_of_parts(table, PART, split(x, PRECISION), acc, PRECISION)


@triton.jit
def first_scale(PRECISION: tl.constexpr, BLOCK_V: tl.constexpr):
    return tl.full((BLOCK_V,), SCALE if PRECISION == "f16x3" else 1.0, tl.float32)


@triton.jit
def next_attempt(
    attempt, scale, squares, x, token, half, t, mask,
    TOKENS: tl.constexpr, SOURCES: tl.constexpr, PRECISION: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Which attempt at a tile comes next, and the scales of its columns. `attempt` is 1 if scales have changed, else 0.
    1 follows if they change now: then the tile must be computed again. 2 and 3 say that it is done; at 3 some columns
    have another scale, or no scale serves them.

    float16 could not hold the logits of a column, or too few of their bits, if one of its `squares` is below 1,
    infinite or NaN. These are sums of squared products, (rows, columns). Zeros are lost too, which costs time only.
    """
    following = attempt + 2
    if PRECISION == "f16x3":  # noqa: SIM102, which Triton decides when it compiles
        if tl.max(_excess(squares, mask)) >= 0x40000000:  # up to the bits of infinity
            before = scale
            scale = _scales_again(scale, squares, x, token, half, t, mask, TOKENS, SOURCES, BLOCK_V)
            following = 3 - 2 * tl.max((scale != before).to(tl.int32))
    return following, scale


@triton.jit
def _excess(squares, inside):
    return tl.where(
        inside[None, :], squares.to(tl.uint32, bitcast=True) - 0x3F800000, 0
    )  # less the bits of 1


@triton.jit
def _scales_again(
    scale, squares, x, token, half, t, mask,
    TOKENS: tl.constexpr, SOURCES: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """For each lost column the power of two that brings its largest finite logit to between 2 and 4, so that float16
    holds sums of some hundreds. All other columns keep their scale, and so their bits.
    """
    largest = tl.zeros((BLOCK_V,), tl.float32)
    for _ in range(TOKENS):
        size = tl.abs(load_merged(x, half, t, mask, SOURCES, tl.float32))
        x += token
        largest = tl.maximum(largest, tl.where(size < float("inf"), size, 0.0))
    exponent = tl.minimum(127 + 1 + 127 - (largest.to(tl.int32, bitcast=True) >> 23), 250)
    # One column after the other. A reduction along the rows would give the scale the layout of the products; all that
    # meets the scale would follow, and each warp would split all logits.
    excess, column = _excess(squares, mask), tl.arange(0, BLOCK_V)
    lost = tl.zeros((BLOCK_V,), tl.int32)
    for v in range(BLOCK_V):
        is_lost = tl.max(tl.where((column == v)[None, :], excess, 0)) >= 0x40000000
        lost = tl.where(column == v, is_lost.to(tl.int32), lost)
    return tl.where(lost > 0, (exponent << 23).to(tl.float32, bitcast=True), scale)
