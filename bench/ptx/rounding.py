"""Numbers as the PTX manual rounds them: float16, bfloat16, tf32, and fused multiply-adds."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any

_NAN16 = np.uint16(0x7FFF)  # what cvt gives for a NaN (PTX ISA, cvt: canonical NaN)


def from_bfloat16(bits: Array) -> Array:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_bfloat16(x: Array) -> Array:
    """Rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(x), _NAN16, rounded.astype(np.uint16))


def from_float16(bits: Array) -> Array:
    return np.asarray(bits, np.uint16).view(np.float16).astype(np.float32)


def to_float16(x: Array) -> Array:
    return np.where(np.isnan(x), _NAN16, np.asarray(x, np.float32).astype(np.float16).view(np.uint16))


HALVES = {"f16": (from_float16, to_float16), "bf16": (from_bfloat16, to_bfloat16)}


def tf32(bits: Array) -> Array:
    """What a matrix instruction takes of a 32-bit register: the low 13 bits do not count."""
    return (bits & np.uint32(0xFFFFE000)).view(np.float32)


def toward_zero(x: Array) -> Array:
    """float64 to float32, cut rather than rounded; what float32 cannot hold becomes infinite."""
    near = x.astype(np.float32)
    beyond = (np.abs(near) > np.abs(x)) & np.isfinite(near)
    bits = near.view(np.int32)
    bits -= beyond  # the next number towards zero
    return near


def fma32(a: Array, b: Array, c: Array) -> Array:
    """a b + c. The product is exact in float64 and the sum rounded there first: 2^-29 of an ulp off at most."""
    return (np.multiply(a, b, dtype=np.float64) + c).astype(np.float32)


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def _split(a: Array) -> tuple[Array, Array]:
    t = a * 134217729.0  # 2^27 + 1
    high = t - (t - a)
    return high, a - high


def fma64(a: Array, b: Array, c: Array) -> Array:
    """a b + c, rounded once (Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", 2008)."""
    product = a * b
    (ah, al), (bh, bl) = _split(a), _split(b)
    rest = ((ah * bh - product) + ah * bl + al * bh) + al * bl
    th, tl = _two_sum(c, rest)
    vh, vl = _two_sum(product, th)
    # The sum of the two rests, rounded to odd, so that the last addition rounds as if it were exact.
    z, error = _two_sum(tl, vl)
    bits = np.asarray(z).view(np.int64)
    odd = (error == 0) | ((bits & 1) == 1)
    step = np.where((error > 0) == (z > 0), 1, -1)
    z = np.where(odd, z, (bits + step).view(np.float64))
    exact = vh + z
    return np.where(np.isfinite(exact), exact, product + c)
