"""The CUDA kernels' own source, run on the host, against the reference in float64: every plan, shape, dtype and layout.

Each call runs twice, with the threads of a block in opposite orders, and must give the same bits: a race would not.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.bounds import assert_accurate
from support.cuda_on_host import HOST, SIZED, VARIANTS, expected_of, plan_of, prepare
from support.strategies import DTYPES, INTERPOLATIONS, OUT_LAYOUTS, PRIORS, Call, calls, normal
from torch import Tensor

INF = math.inf
HALF = (torch.bfloat16, torch.float16)
CAPABILITIES = (80, 86, 89, 90, 100, 120)


def readable(x: Tensor) -> Tensor:
    """What the binding hands to the kernel: a strided vocabulary is copied."""
    return x if x.stride(2) == 1 or x.shape[2] <= 1 else x.contiguous()


def run(
    call: Call,
    logits: Tensor | None,
    prev_logits: Tensor,
    *strengths: float | Tensor,
    out: Tensor | None = None,
    variant: dict[str, Any] | None = None,
    capability: int = 90,
    transposed: bool = False,
) -> Tensor:
    logits = logits if logits is None else readable(logits)
    prev_logits = readable(prev_logits)
    tokens = math.prod(call.prev_size if transposed else call.size)
    shape = (prev_logits.shape[0] // (2 if call.is_cfg else 1), tokens, prev_logits.shape[2])
    if out is None:
        out = torch.full(shape, torch.nan, dtype=call.dtype)
    results = []
    for reverse in (False, True):
        target = out if reverse else torch.full(shape, torch.nan, dtype=call.dtype)
        prepared = prepare(
            call, logits, prev_logits, target, *strengths, capability=capability, transposed=transposed
        )
        prepared.run(plan_of(prepared, variant), reverse)
        results.append(target)
    bits = [r.contiguous().view(torch.uint8).numpy() for r in results]
    np.testing.assert_array_equal(*bits, err_msg="the result depends on the order of the threads: a race")
    return out


def check(call: Call, **how: Any) -> Tensor:
    logits, prev_logits, strengths = call.logits(), call.prev_logits(), call.strengths()
    before = logits.clone(), prev_logits.clone()
    actual = run(call, logits, prev_logits, *strengths, **how)
    expected = expected_of(call, logits, prev_logits, *strengths)
    largest_strength = max([1.0, *(torch.as_tensor(s).abs().max().item() for s in strengths if call.batch)])
    assert_accurate(actual, expected, *(largest_strength**2 * x.double() for x in (logits, prev_logits)))
    assert torch.equal(logits, before[0])
    assert torch.equal(prev_logits, before[1])
    return actual


def fits(call: Call, variant: dict[str, Any]) -> bool:
    return call.dtype != torch.float64 or variant["engine"] != "mma"


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_are_what_they_say(name: str) -> None:
    for size, prev_size in (((16, 11), (13, 7)), ((9, 12), (8, 12)), ((10, 9), (7, 8))):
        call = Call(size, prev_size, 2, 35)
        prepared = prepare(
            call, call.logits(), call.prev_logits(), torch.empty(2, size[0] * size[1], 35), 0.5
        )
        plan = plan_of(prepared, VARIANTS[name])
        for choice in ("engine", "thread_columns", "column_warps", "warps"):
            if choice in VARIANTS[name]:
                assert getattr(plan, choice) == VARIANTS[name][choice]


@given(calls(largest=20), st.sampled_from(CAPABILITIES))
def test_any_call(call: Call, capability: int) -> None:
    check(dataclasses.replace(call, batch=max(call.batch, 1)), capability=capability)


@given(calls(largest=16), st.sampled_from(list(VARIANTS)))
def test_any_call_of_any_plan(call: Call, name: str) -> None:
    call = dataclasses.replace(call, batch=max(call.batch, 1))
    if fits(call, VARIANTS[name]):
        check(call, variant=VARIANTS[name])


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_option(name: str, dtype: torch.dtype) -> None:
    for i, (prior, interpolation, is_cfg) in enumerate(
        itertools.product(PRIORS, INTERPOLATIONS, (False, True))
    ):
        kinds = ("float", "scalar", "vector")
        size, prev_size = ((16, 11), (13, 7)) if i % 2 else ((9, 12), (8, 12))
        call = Call(size, prev_size, 2, 35, dtype, prior, interpolation, i % 3 == 0, is_cfg, kinds, seed=i)
        if fits(call, VARIANTS[name]):
            check(call, variant=VARIANTS[name])


@pytest.mark.parametrize("name", VARIANTS)
def test_every_pair_of_sides(name: str) -> None:
    # Odd and even halves, their remainders modulo 4 and 8, and middles that are their own mirrors.
    for n in range(1, 20):
        for prev_n in range(max(1, n - 6), n + 1):
            size, prev_size = ((n, 3), (prev_n, 2)) if (n + prev_n) % 2 else ((4, n), (3, prev_n))
            check(Call(size, prev_size, 1, 9, seed=n), variant=VARIANTS[name])


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_vocabulary(name: str, dtype: torch.dtype) -> None:
    for vocabulary in (*range(1, 36), 63, 64, 65, 127, 130):
        call = Call((5, 6), (4, 5), 2, vocabulary, dtype, is_cfg=vocabulary % 2 == 0, seed=vocabulary)
        if fits(call, VARIANTS[name]):
            check(call, variant=VARIANTS[name])


@pytest.mark.parametrize("layout", OUT_LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_layout(layout: str, dtype: torch.dtype) -> None:
    for is_cfg, other, vocabulary in itertools.product((False, True), ("contiguous", layout), (8, 37)):
        check(Call((6, 5), (4, 5), 3, vocabulary, dtype, is_cfg=is_cfg, layout=layout, prev_layout=other))
        check(Call((6, 5), (4, 5), 3, vocabulary, dtype, is_cfg=is_cfg, layout=other, prev_layout=layout))


@pytest.mark.parametrize(
    ("size", "prev_size", "batch", "vocabulary", "capability"),
    [
        ((2, 2), (1, 1), 1, 5000, 90),
        ((3, 4), (2, 2), 100, 3, 80),
        ((1, 1), (1, 1), 3, 1000, 90),
        ((64, 1), (1, 1), 2, 33, 90),
        ((1, 90), (1, 70), 2, 33, 90),
        ((32, 32), (24, 24), 1, 70, 90),
        ((32, 32), (24, 24), 1, 40, 89),
        ((64, 64), (48, 48), 1, 16, 90),
        ((64, 64), (48, 48), 1, 16, 80),
        ((64, 64), (48, 48), 1, 16, 120),
        ((111, 37), (90, 30), 1, 16, 90),
        ((45, 90), (37, 74), 1, 8, 90),
        ((84, 84), (64, 64), 1, 4, 90),
    ],
)
def test_extreme_shapes(
    size: tuple[int, int], prev_size: tuple[int, int], batch: int, vocabulary: int, capability: int
) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        check(
            Call(size, prev_size, batch, vocabulary, dtype, is_cfg=dtype == torch.bfloat16),
            capability=capability,
        )


@pytest.mark.parametrize("name", [name for name in VARIANTS if "mma" in name])
@pytest.mark.parametrize("prior", PRIORS)
def test_tensor_cores_are_float32_accurate(name: str, prior: str) -> None:
    """The split products keep float32's accuracy where plain tf32 would miss the bound a hundred times over."""
    call = Call((32, 32), (24, 24), 1, 32, prior=prior)
    logits, prev_logits = call.logits(), call.prev_logits()
    actual = run(call, logits, prev_logits, 1.5, variant=VARIANTS[name])
    expected = expected_of(call, logits, prev_logits, 1.5)
    assert ((actual.double() - expected).abs().max() / expected.abs().max()).item() < 6e-7


def sized(columns: int, n: int) -> dict[str, Any]:
    return {"engine": "mma", "thread_columns": columns, "made_for": n}


@pytest.mark.parametrize(("columns", "prev_n", "n", "one_part"), SIZED)
def test_the_sizes_that_kernels_are_made_for(
    columns: int, prev_n: int, n: int, one_part: bool | None
) -> None:
    """Whole strips and a tail; the bound of float32 is three times as strict as elsewhere."""
    for dtype, is_cfg in itertools.product((torch.float32, *HALF), (False, True)):
        if one_part and (dtype == torch.float32 or is_cfg):
            continue
        call = Call((n, n), (prev_n, prev_n), 1, 4 * columns + 8, dtype, is_cfg=is_cfg, rescale=is_cfg)
        actual = check(call, variant=sized(columns, prev_n))
        if dtype == torch.float32 and not is_cfg:
            expected = expected_of(call, call.logits(), call.prev_logits(), *call.strengths())
            assert ((actual.double() - expected).abs().max() / expected.abs().max()).item() < 6e-7


@pytest.mark.parametrize(
    "variant", [*(VARIANTS[name] for name in VARIANTS if "mma" in name), sized(4, 24)], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_magnitude_keeps_its_relative_accuracy(variant: dict[str, Any], dtype: torch.dtype) -> None:
    """Strips that float16 does not hold are computed another way; the values beside them are no less accurate."""
    if dtype == torch.bfloat16 and variant.get("made_for"):
        return
    call = Call((32, 32), (24, 24), 1, 24, dtype)
    largest = torch.finfo(dtype).max / 64
    for scale in (1e-30, 1e-6, 0.01, 0.25, 3.0, 1e4, 1e30, largest):
        logits, prev_logits = (x / 4 * scale for x in (call.logits(), call.prev_logits()))
        actual = run(call, logits, prev_logits, 0.75, variant=variant)
        expected = expected_of(call, logits, prev_logits, 0.75)
        assert_accurate(actual, expected)
    # One large value in a column of one strip.
    logits, prev_logits = call.logits(), call.prev_logits()
    prev_logits[0, 100, 3] = torch.finfo(dtype).max
    actual = run(call, logits, prev_logits, 0.75, variant=variant)
    expected = expected_of(call, logits, prev_logits, 0.75)
    others = torch.arange(24) != 3
    assert_accurate(actual[..., others], expected[..., others])
    assert_accurate(actual[..., 3], expected[..., 3])


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_transposed_operator(name: str, dtype: torch.dtype, interpolation: str) -> None:
    """Without current logits the kernel computes scale * P x, and scale * P^T x for autograd."""
    for i, (size, prev_size) in enumerate([((7, 5), (4, 5)), ((10, 10), (8, 8)), ((16, 3), (13, 1))]):
        for transposed in (False, True):
            call = Call(size, prev_size, 2, 19, dtype, interpolation=interpolation)
            if not fits(call, VARIANTS[name]):
                continue
            operator = torch.from_numpy(
                HOST.dense_operator(size, prev_size, "dse", interpolation, False, transposed)
            )
            x = normal(2, operator.shape[1], 19, dtype=dtype, seed=i)
            scale = torch.tensor([0.75, -1.5])
            actual = run(call, None, x, scale, variant=VARIANTS[name], transposed=transposed)
            assert_accurate(actual, scale.double()[:, None, None] * (operator @ x.double()))


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("is_cfg", [False, True])
def test_nan_and_infinities_stay_in_their_column(name: str, is_cfg: bool) -> None:
    call = Call((9, 8), (7, 6), 2, 41, is_cfg=is_cfg)
    strengths = (0.5, 1.5, 0.5)[: 3 if is_cfg else 1]
    logits, prev_logits = call.logits(), call.prev_logits()
    expected = run(call, logits, prev_logits, *strengths, variant=VARIANTS[name])
    clean = prev_logits.clone()
    bad = torch.zeros(2, 41, dtype=torch.bool)
    for i, value in enumerate((math.nan, INF, -INF)):
        for column in (3 * i, 3 * i + 1, 17 + 5 * i, 40 - i):
            prev_logits[i % 2, (11 * i + column) % 42, column] = value
            bad[i % 2, column] = True
    actual = run(call, logits, prev_logits, *strengths, variant=VARIANTS[name])
    rows = bad[:, None].expand(actual.shape)
    if "mma" in name:  # computes such a strip another way, with other last bits
        assert_accurate(actual[~rows], expected_of(call, logits, clean, *strengths)[~rows])
    else:
        assert torch.equal(actual[~rows], expected[~rows])
    assert not actual.masked_select(rows).isfinite().all()


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize("is_cfg", [False, True])
def test_minus_infinity_stays(name: str, dtype: torch.dtype, is_cfg: bool) -> None:
    call = Call((6, 7), (5, 4), 2, 37, dtype, is_cfg=is_cfg)
    strengths = (-1.0, 0.0, 2.0)[: 3 if is_cfg else 1]  # weights that would turn -inf into NaN
    logits, prev_logits = call.logits(), call.prev_logits()
    logits[:2, 3::5, 2::7] = -INF
    prev_logits[0, 3, 5] = math.nan
    masked = logits[:2] == -INF
    actual = run(call, logits, prev_logits, *strengths, variant=VARIANTS[name])
    assert (actual[masked] == -INF).all()
    assert (actual[~masked] != -INF).all()


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("is_cfg", [False, True])
def test_in_place(name: str, dtype: torch.dtype, is_cfg: bool) -> None:
    call = Call((10, 9), (7, 8), 2, 44, dtype, is_cfg=is_cfg)
    if not fits(call, VARIANTS[name]):
        return
    logits, prev_logits, strengths = call.logits(), call.prev_logits(), call.strengths()
    expected = run(call, logits, prev_logits, *strengths, variant=VARIANTS[name])
    prepared = prepare(call, logits, prev_logits, logits[:2], *strengths)
    prepared.run(plan_of(prepared, VARIANTS[name]))
    assert torch.equal(logits[:2], expected)


def in_storage(values: Tensor, begin: int, stride: int) -> Tensor:
    """A copy whose rows lie `stride` elements apart, from element `begin` on. The last one ends the storage."""
    batch, tokens, vocabulary = values.shape
    storage = torch.full((begin + (batch * tokens - 1) * stride + vocabulary,), torch.nan, dtype=values.dtype)
    view = storage.as_strided(values.shape, (tokens * stride, stride, 1), begin)
    return view.copy_(values)


@pytest.mark.parametrize(("columns", "prev_n", "n", "one_part"), SIZED)
@pytest.mark.parametrize(("begin", "extra"), [(1, 0), (8, 1)])
def test_rows_that_are_not_aligned(
    columns: int, prev_n: int, n: int, one_part: bool, begin: int, extra: int
) -> None:
    call = Call((n, n), (prev_n, prev_n), 2, 4 * columns + 9, torch.bfloat16 if one_part else torch.float32)
    stride = call.vocabulary + extra
    logits, prev_logits = (in_storage(x, begin, stride) for x in (call.logits(), call.prev_logits()))
    out = in_storage(torch.zeros_like(logits), begin, stride)
    around = torch.as_strided(out, (out.untyped_storage().nbytes() // out.element_size(),), (1,), 0)
    untouched = around.isnan()
    run(call, logits, prev_logits, *call.strengths(), out=out, variant=sized(columns, prev_n))
    assert_accurate(out, expected_of(call, logits, prev_logits, *call.strengths()))
    assert torch.equal(around.isnan(), untouched)


@pytest.mark.parametrize("layout", OUT_LAYOUTS)
@pytest.mark.parametrize("vocabulary", [16, 37])
def test_writes_nothing_but_out(layout: str, vocabulary: int) -> None:
    from support.strategies import LAYOUTS

    call = Call((6, 5), (4, 5), 2, vocabulary)
    logits, prev_logits = call.logits(), call.prev_logits()
    out = LAYOUTS[layout](torch.zeros(2, 30, vocabulary))
    around = torch.as_strided(out, (out.untyped_storage().nbytes() // 4,), (1,), 0)
    untouched = around.isnan()
    run(call, logits, prev_logits, 0.5, out=out)
    assert_accurate(out, expected_of(call, logits, prev_logits, 0.5))
    assert torch.equal(around.isnan(), untouched)


@pytest.mark.parametrize(
    "dtype",
    [
        *DTYPES,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.bool,
    ],
)
def test_strengths_of_every_dtype(dtype: torch.dtype) -> None:
    call = Call((3, 3), (2, 2), 2, 5, is_cfg=True)
    logits, prev_logits = call.logits(), call.prev_logits()
    for strength in (
        torch.tensor([1.0, 0.0]).to(dtype),
        torch.tensor([1, 9, 0, 9]).to(dtype)[::2],
        torch.tensor(1).to(dtype),
    ):
        actual = run(call, logits, prev_logits, strength, strength, strength)
        assert_accurate(actual, expected_of(call, logits, prev_logits, strength, strength, strength))
