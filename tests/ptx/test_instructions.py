"""What instructions compute, against Python's own numbers."""

from __future__ import annotations

import math
import struct
from fractions import Fraction

import numpy as np
import pytest
import torch
from support.ptx_text import run, words

from bench.ptx import matrix, rounding, wgmma


def results(body: str, given: list[int], of: str = "r") -> list[int]:
    """What the body makes of %r2, a 32-bit pattern for each lane."""
    x = torch.tensor(np.array(given * 2, np.uint32)[:64].view(np.int32).copy())
    out = run(
        f"ld.global.u32 %r2, [%d3]; {body} st.global.u32 [%d4], %{of}3;",
        x,
        torch.zeros(64, dtype=torch.int32),
    )
    return out.numpy().view(np.uint32)[: len(given)].tolist()


def patterns() -> list[int]:
    few = [
        0,
        1,
        2,
        31,
        32,
        33,
        127,
        128,
        255,
        0x7FFF,
        0x8000,
        0x12345678,
        0x7FFFFFFF,
        0x80000000,
        0xFFFFFFFF,
        0xDEADBEEF,
    ]
    generator = np.random.default_rng(0)
    return few + generator.integers(0, 1 << 32, 16).tolist()


def signed(x: int, bits: int = 32) -> int:
    return x - (1 << bits) if x >> (bits - 1) & 1 else x


M = 0xFFFFFFFF
INTEGERS = {
    "add.s32 %r3, %r2, -7;": lambda x: (x - 7) & M,
    "mul.lo.s32 %r3, %r2, 0x1234567;": lambda x: x * 0x1234567 & M,
    "mul.hi.u32 %r3, %r2, 0x9234567;": lambda x: x * 0x9234567 >> 32,
    "mad.hi.u32 %r3, %r2, 0xF0000001, 5;": lambda x: (x * 0xF0000001 >> 32) + 5 & M,
    "mad.lo.s32 %r3, %r2, %r2, 5;": lambda x: (x * x + 5) & M,
    "shl.b32 %r3, %r2, 5;": lambda x: x << 5 & M,
    "shl.b32 %r3, 3, %r2;": lambda x: 3 << x & M if x < 32 else 0,
    "shr.u32 %r3, 0xF0000000, %r2;": lambda x: 0xF0000000 >> min(x, 32),
    "shr.s32 %r3, 0xF0000000, %r2;": lambda x: signed(0xF0000000) >> min(x, 31) & M,
    "bfe.u32 %r3, %r2, 3, 9;": lambda x: x >> 3 & 511,
    "bfe.s32 %r3, %r2, 3, 9;": lambda x: signed(x >> 3 & 511, 9) & M,
    "bfi.b32 %r3, %r2, 0x5A5A5A5A, 4, 8;": lambda x: 0x5A5A5A5A & ~0xFF0 | (x & 255) << 4,
    "prmt.b32 %r3, %r2, 0xAABBCCDD, 0x7610;": lambda x: 0xAABB0000 | x & 0xFFFF,
    "prmt.b32 %r3, %r2, 0, 0x8000;": lambda x: (255 if x & 128 else 0) << 24 | (x & 255) * 0x010101,
    "popc.b32 %r3, %r2;": lambda x: x.bit_count(),
    "clz.b32 %r3, %r2;": lambda x: 32 - x.bit_length(),
    "div.s32 %r3, %r2, -7;": lambda x: int(Fraction(signed(x), -7)) & M,
    "div.u32 %r3, %r2, 7;": lambda x: x // 7,
    "rem.s32 %r3, %r2, 7;": lambda x: int(math.fmod(signed(x), 7)) & M,
    "min.s32 %r3, %r2, 5;": lambda x: min(signed(x), 5) & M,
    "max.u32 %r3, %r2, 5;": lambda x: max(x, 5),
    "not.b32 %r3, %r2;": lambda x: ~x & M,
    "cvt.u16.u32 %h1, %r2; cvt.u32.u16 %r3, %h1;": lambda x: x & 0xFFFF,
    "cvt.u16.u32 %h1, %r2; cvt.s32.s16 %r3, %h1;": lambda x: signed(x & 0xFFFF, 16) & M,
    "mov.b32 {%h1, %h2}, %r2; mov.b32 %r3, {%h2, %h1};": lambda x: x >> 16 | (x & 0xFFFF) << 16,
    "mul.wide.s32 %d5, %r2, -3; shr.s64 %d5, %d5, 16; cvt.u32.u64 %r3, %d5;": lambda x: (
        signed(x) * -3 >> 16 & M
    ),
    "setp.lt.s32 %p1, %r2, 5; selp.b32 %r3, 1, 2, %p1;": lambda x: 1 if signed(x) < 5 else 2,
    "setp.lt.u32 %p1, %r2, 5; selp.b32 %r3, 1, 2, %p1;": lambda x: 1 if x < 5 else 2,
    "shfl.sync.bfly.b32 %r3, %r2, 0, 31, -1;": lambda x: x,
}


@pytest.mark.parametrize("body", INTEGERS)
def test_integers(body: str) -> None:
    given = patterns()
    assert results(body, given) == [INTEGERS[body](x) for x in given]


def bits_of(x: float) -> int:
    return struct.unpack("<I", struct.pack("<f", x))[0]


@pytest.mark.parametrize(
    "comparison", ["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"]
)
def test_comparisons_with_nan(comparison: str) -> None:
    given = [1.0, 2.0, 3.0, math.nan, -math.inf, math.inf, -0.0, 2.5] * 4
    body = f"mov.b32 %f1, %r2; setp.{comparison}.f32 %p1, %f1, 0f40000000; selp.b32 %r3, 1, 0, %p1;"
    plain = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}

    def expected(x: float) -> int:
        if comparison in ("num", "nan"):
            return int(math.isnan(x) == (comparison == "nan"))
        if math.isnan(x):
            return int(comparison.endswith("u"))
        return int(eval(f"x {plain[comparison[:2]]} 2.0", {"x": x}))

    assert results(body, [bits_of(x) for x in given]) == [expected(x) for x in given]


def test_the_larger_number_or_nan() -> None:
    given = [1.0, 3.0, math.nan, -math.nan, -math.inf, math.inf, -0.0, 2.5] * 4
    body = "mov.b32 %f1, %r2; max.NaN.f32 %f1, %f1, 0f40000000; mov.b32 %r3, %f1;"
    expected = [0x7FFFFFFF if math.isnan(x) else bits_of(max(x, 2.0)) for x in given]
    assert results(body, [bits_of(x) for x in given]) == expected


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_the_smaller_and_the_larger_half(kind: str) -> None:
    given = [1.0, 3.0, math.nan, -math.inf, math.inf, -0.5, 2.0, 2.5] * 4
    body = f"""mov.b32 %f1, %r2; cvt.rn.{kind}.f32 %h1, %f1; cvt.rn.{kind}.f32 %h2, 0f40000000;
    min.{kind} %h3, %h1, %h2; cvt.f32.{kind} %f2, %h3; max.{kind} %h4, %h1, %h2; cvt.f32.{kind} %f3, %h4;
    sub.f32 %f2, %f3, %f2; mov.b32 %r3, %f2;"""
    expected = [bits_of(0.0 if math.isnan(x) else max(x, 2.0) - min(x, 2.0)) for x in given]
    assert results(body, [bits_of(x) for x in given]) == expected


@pytest.mark.parametrize(("kind", "dtype"), [("f16", torch.float16), ("bf16", torch.bfloat16)])
def test_conversions_to_halves_and_back(kind: str, dtype: torch.dtype) -> None:
    values = [
        0.0,
        -0.0,
        1.0,
        1 + 2**-8,
        1 + 3 * 2**-9,
        65504.0,
        65520.0,
        1e30,
        1e-8,
        -3e-5,
        math.inf,
        1 / 3,
    ] * 3
    given = torch.tensor(values[:32])
    body = f"mov.b32 %f1, %r2; cvt.rn.{kind}.f32 %h1, %f1; cvt.f32.{kind} %f3, %h1; mov.b32 %r3, %f3;"
    expected = given.to(dtype).float().numpy().view(np.uint32).tolist()
    assert results(body, given.numpy().view(np.uint32).tolist()) == expected
    assert math.isnan(struct.unpack("<f", struct.pack("<I", results(body, [bits_of(math.nan)] * 32)[0]))[0])


def test_two_numbers_a_register_and_mixed_precision() -> None:
    given = [bits_of(x) for x in (1.0, -2.5, 0.1, 3e7)] * 8
    x = np.array(given, np.uint32).view(np.float32)
    body = """mov.b64 %d5, {%r2, %r2}; add.f32x2 %d5, %d5, %d5; mul.f32x2 %d5, %d5, %d5;
    fma.rn.f32x2 %d5, %d5, %d5, %d5; mov.b64 {%r4, %r3}, %d5;"""
    square = (x + x) * (x + x)
    expected = (square.astype(np.float64) * square + square).astype(np.float32)
    assert results(body, given) == expected.view(np.uint32).tolist()
    body = """mov.b32 %f1, %r2; cvt.rn.bf16.f32 %h1, %f1; sub.rn.f32.bf16 %f2, %h1, %f1;
    fma.rn.f32.bf16 %f2, %h1, %h1, %f2; mov.b32 %r3, %f2;"""
    half = torch.from_numpy(x.copy()).bfloat16().double().numpy()
    rest = (half - x).astype(np.float32)
    assert results(body, given) == (half * half + rest).astype(np.float32).view(np.uint32).tolist()


def test_fused_multiply_add_rounds_once() -> None:
    generator = np.random.default_rng(1)
    a, b = generator.standard_normal((2, 3000)) * 2.0 ** generator.integers(-30, 30, (2, 3000))
    c = np.where(
        generator.random(3000) < 0.5, -a * b * (1 + generator.integers(-3, 4, 3000) * 2.0**-52), a + b
    )
    c[::7] *= 2.0 ** generator.integers(-60, 60, len(c[::7]))
    for x, y, z, found in zip(a, b, c, rounding.fma64(a, b, c), strict=True):
        assert found == float(Fraction(x) * Fraction(y) + Fraction(z))


def test_numbers_are_cut_toward_zero() -> None:
    x = np.array([1 + 2**-24, -1 - 2**-24, 1 + 2**-23, 1e300, -math.inf, math.nan, 3.0])
    with np.errstate(over="ignore"):
        found = rounding.toward_zero(x)
    assert found[:4].tolist() == [1.0, -1.0, 1 + 2**-23, math.inf]
    assert found[4] == -math.inf
    assert math.isnan(found[5])


@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix_gives_what_stmatrix_took(transposed: bool) -> None:
    """Both by the manual; the second matrix is checked element by element."""
    trans = ".trans" if transposed else ""
    body = f"""
    and.b32 %r5, %r0, 31; shl.b32 %r6, %r5, 4; shr.u32 %r7, %r0, 5; shl.b32 %r7, %r7, 9; add.u32 %r6, %r6, %r7;
    shl.b32 %r8, %r0, 8; or.b32 %r9, %r8, 1; or.b32 %r10, %r8, 2; or.b32 %r11, %r8, 3;
    stmatrix.sync.aligned.m8n8.x4.shared.b16 [%r6], {{%r8, %r9, %r10, %r11}};
    bar.warp.sync -1;
    ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{%r12, %r13, %r14, %r15}}, [%r6];
    st.global.u32 [%d4], %r13;
    """
    out = run(body, words(), torch.zeros(64, dtype=torch.int32), shared=1024)
    halves = np.array([(lane << 8) | 1 for lane in range(64)], np.uint32).view(np.uint16).reshape(2, 8, 8)
    expected = halves.swapaxes(1, 2) if transposed else halves
    assert torch.equal(
        out, torch.from_numpy(np.ascontiguousarray(expected).reshape(-1).view(np.int32).copy())
    )


def test_fragments_cover_their_matrices_once() -> None:
    for at, shape in (
        (matrix.accumulator(8), (16, 8)),
        (matrix.accumulator(64), (16, 64)),
        *zip(matrix.operand_words(8), ((16, 8), (8, 8)), strict=True),
        *zip(matrix.operand_words(4), ((16, 4), (4, 8)), strict=True),
        *zip(matrix.operand_halves(16), ((16, 16), (16, 8)), strict=True),
        *zip(matrix.operand_halves(8), ((16, 8), (8, 8)), strict=True),
    ):
        seen = np.zeros(shape, int)
        np.add.at(seen, at, 1)
        assert (seen == 1).all()


def test_a_product_of_halves() -> None:
    """D = A B with A from a table: lane by lane what the figures of the manual say for m16n8k16."""
    body = """
    cvt.rn.f32.u32 %f1, %r0; cvt.rn.f16.f32 %h1, %f1; mov.b32 %r5, {%h1, %h1};
    mov.f32 %f9, 0f00000000;
    mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32
    {%f2,%f3,%f4,%f5}, {%r5,%r5,%r5,%r5}, {%r5,%r5}, {%f9,%f9,%f9,%f9};
    st.global.f32 [%d4], %f3;
    """
    out = run(body, words(), torch.zeros(64), threads=32)[:32]
    a = np.array([[4 * (row % 8) + column % 8 // 2 for column in range(16)] for row in range(16)])
    b = np.array([[4 * column + row % 8 // 2 for column in range(8)] for row in range(16)])
    d = a @ b
    assert out.tolist() == [d[lane // 4, 2 * (lane % 4) + 1] for lane in range(32)]


@pytest.mark.parametrize(("mode", "width"), [(0, 16), (3, 32), (2, 64), (1, 128)])
def test_matrices_in_shared_memory(mode: int, width: int) -> None:
    """Every element once, and in the swizzled layouts chunks of a row that lie where the exclusive-or puts them."""
    stride = 8 * width if mode else 256
    descriptor = mode << 62 | (stride >> 4) << 32 | (128 >> 4) << 16
    at = wgmma.addresses(descriptor, 16)
    assert len(np.unique(at)) == 128
    for n, k in ((0, 0), (1, 5), (3, 2), (6, 7), (11, 4)):
        chunk = k // 4
        if mode == 0:
            expected = n // 8 * 256 + chunk * 128 + n % 8 * 16 + k % 4 * 4
        else:
            row = n % 8 * width // 128  # of 128 bytes, in the pattern of eight rows
            expected = n // 8 * stride + n % 8 * width + k * 4
            expected ^= (row % (width // 16)) << 4
        assert at[n, k] == expected


def test_shuffles() -> None:
    def lanes(mode: str, by: int, clamp: int) -> list[int]:
        body = f"shfl.sync.{mode}.b32 %r3|%p1, %r0, {by}, {clamp}, -1; @!%p1 add.u32 %r3, %r3, 1000;"
        body += "st.global.u32 [%d4], %r3;"
        return run(body, words(), torch.zeros(64, dtype=torch.int32))[:32].tolist()

    assert lanes("bfly", 5, 31) == [i ^ 5 for i in range(32)]
    assert lanes("idx", 7, 31) == [7] * 32
    assert lanes("up", 3, 0) == [i - 3 if i >= 3 else i + 1000 for i in range(32)]
    assert lanes("down", 3, 31) == [i + 3 if i + 3 < 32 else i + 1000 for i in range(32)]
    assert lanes("idx", 1, 0x181F) == [i // 8 * 8 + 1 for i in range(32)]


def test_votes_and_reductions() -> None:
    body = """
    setp.gt.u32 %p1, %r0, 40; vote.sync.ballot.b32 %r3, %p1, -1; redux.sync.add.s32 %r4, %r0, -1;
    redux.sync.max.s32 %r5, %r0, -1; add.u32 %r4, %r4, %r5; add.u32 %r3, %r3, %r4; st.global.u32 [%d4], %r3;
    """
    out = run(body, words(), torch.zeros(64, dtype=torch.int32))
    assert out[:32].tolist() == [496 + 31] * 32
    ballot = sum(1 << i for i in range(32) if i + 32 > 40)
    assert (out[32:].numpy().view(np.uint32) == (ballot + 496 + 1024 + 63) % (1 << 32)).all()


def test_atomic_additions() -> None:
    body = """
    setp.lt.u32 %p1, %r0, 4; @!%p1 bra more; shl.b32 %r2, %r0, 2; mov.u32 %r3, 100; st.shared.u32 [%r2], %r3;
    more: bar.sync 0; and.b32 %r2, %r0, 3; shl.b32 %r2, %r2, 2; atom.shared.add.u32 %r4, [%r2], %r0; bar.sync 0;
    ld.shared.u32 %r5, [%r2]; st.global.u32 [%d4], %r5;
    """
    out = run(body, words(), torch.zeros(64, dtype=torch.int32))
    assert out[:4].tolist() == [100 + sum(range(i, 64, 4)) for i in range(4)]
