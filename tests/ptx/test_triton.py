"""The PTX that Triton makes of its kernels, executed: of mma.sync on sm_80, of wgmma on sm_90."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support.bounds import assert_accurate
from support.cuda_on_host import expected_of
from support.draws import Draw, expected_tokens
from support.strategies import Call
from torch import Tensor

pytest.importorskip("triton")

from support.triton_forms import FORMS, of_form

from bench.ptx import triton as executed
from bench.ptx.case import Case
from ssg_kernels._call import GuidedCall, Options
from ssg_kernels._triton import launch, plan
from ssg_kernels._triton.step import LaunchPlan, Step
from ssg_kernels._triton.targets import Target

TARGETS = ("sm_80", "sm_90")


def guided(
    call: Call,
    logits: Tensor,
    prev_logits: Tensor,
    *strengths: float | Tensor,
    target: str,
    choose: Any,
    **how: Any,
) -> Tensor:
    operator = "guided_logits_cfg" if call.is_cfg else "guided_logits"
    rows = logits.shape[0] // (2 if call.is_cfg else 1)
    out = how.pop("out", None)
    if out is None:
        out = torch.full((rows, *logits.shape[1:]), torch.nan, dtype=call.dtype)
    options = Options(*call.options)
    made = GuidedCall(operator, logits, prev_logits, call.size, call.prev_size, strengths, options, out)
    (launched,) = executed.launches(lambda: launch.guided(made), target, choose)
    executed.run(launched, out, **how)
    return out


def check(call: Call, **how: Any) -> None:
    logits, prev_logits, strengths = call.logits(), call.prev_logits(), call.strengths()
    actual = guided(call, logits, prev_logits, *strengths, **how)
    expected = expected_of(call, logits, prev_logits, *strengths)
    largest = max([1.0, *(torch.as_tensor(s).abs().max().item() for s in strengths)])
    assert_accurate(actual, expected, *(largest**2 * x.double() for x in (logits, prev_logits)))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form(form: str, target: str) -> None:
    kinds = ("vector", "scalar", "float")
    check(Call((9, 8), (7, 6), 2, 72, torch.float32, kinds=kinds), target=target, choose=of_form(form))
    check(Call((9, 8), (7, 6), 1, 37, torch.bfloat16, is_cfg=True), target=target, choose=of_form(form))


@pytest.mark.parametrize("layout", ["offset", "channel_major"])
def test_layouts(layout: str) -> None:
    call = Call((8, 8), (6, 6), 2, 33, torch.float16, layout=layout, prev_layout=layout)
    check(call, target="sm_90", choose=of_form("dense_halves"))


def test_float64() -> None:
    check(Call((6, 5), (4, 4), 2, 20, torch.float64), target="sm_90", choose=of_form("fma"))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("size", "prev_size", "batch"), [(16, 13, 64), (32, 24, 16), (64, 48, 4)])
def test_a_strip_of_a_real_step(size: int, prev_size: int, batch: int, target: str) -> None:
    """As the whole step is planned, over the programs of one strip of columns."""
    call = Call((size, size), (prev_size, prev_size), 1, 1, torch.bfloat16)
    chosen = executed.planned(Case(call.size, call.prev_size, batch, 4096, call.dtype), target)
    call = Call(call.size, call.prev_size, 1, chosen.block_v, torch.bfloat16)
    check(call, target=target, choose=executed.one_strip(chosen, batch, 4096))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", ["dense_halves", "separable"])
def test_nan_stays_in_its_column(form: str, target: str) -> None:
    call = Call((9, 8), (7, 6), 2, 41)
    logits, prev_logits = call.logits(), call.prev_logits()
    how = {"target": target, "choose": of_form(form)}
    expected = guided(call, logits, prev_logits, 0.5, **how)
    bad = torch.zeros(2, 41, dtype=torch.bool)
    for i, value in enumerate((math.nan, math.inf, -math.inf)):
        for column in (3 * i, 17 + 5 * i, 40 - i):
            prev_logits[i % 2, (11 * i + column) % 42, column] = value
            bad[i % 2, column] = True
    actual = guided(call, logits, prev_logits, 0.5, **how)
    rows = bad[:, None].expand(actual.shape)
    assert torch.equal(actual[~rows], expected[~rows])
    assert not actual.masked_select(rows).isfinite().all()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", ["dense_halves", "separable"])
def test_beyond_float16(form: str, target: str) -> None:
    """A column that float16 cannot hold is computed again with a scale of its own; the others keep their bits."""
    call = Call((9, 8), (7, 6), 1, 24)
    logits, prev_logits = call.logits(), call.prev_logits()
    how = {"target": target, "choose": of_form(form)}
    before = guided(call, logits, prev_logits, 0.5, **how)
    for column, power in ((3, 14.0), (11, 100.0), (20, -40.0)):
        logits[..., column] *= 2**power
        prev_logits[..., column] *= 2**power
    actual, expected = (
        guided(call, logits, prev_logits, 0.5, **how),
        expected_of(call, logits, prev_logits, 0.5),
    )
    for column in range(24):
        assert_accurate(actual[..., column], expected[..., column])
        if column not in (3, 11, 20):
            assert torch.equal(actual[..., column], before[..., column])


@pytest.mark.parametrize(("form", "strengths"), [("dense_halves", (-1.0, 0.0, 2.0)), ("separable", (0.5,))])
def test_minus_infinity_stays_and_in_place(form: str, strengths: tuple[float, ...]) -> None:
    call = Call((9, 8), (7, 6), 2, 48, torch.bfloat16, is_cfg=len(strengths) > 1)
    logits, prev_logits = call.logits(), call.prev_logits()
    logits[:2, 3::5, 2::7] = -math.inf
    masked = logits[:2] == -math.inf
    how = {"target": "sm_90", "choose": of_form(form)}
    expected = guided(call, logits, prev_logits, *strengths, **how)
    assert (expected[masked] == -math.inf).all()
    assert (expected[~masked] != -math.inf).all()
    guided(call, logits, prev_logits, *strengths, out=logits[:2], **how)
    assert torch.equal(logits[:2], expected)


def whole_map(step: Step, target: Target, accurate: bool = False) -> LaunchPlan:
    """The widest plan whose programs hold the whole previous map, of those with more than one tile."""
    return max((each for each in plan.candidates(step, target) if each.whole_map), key=lambda p: p.block_v)


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, (20, 70)), (torch.bfloat16, (33, 20))])
def test_whole_map(dtype: torch.dtype, size: tuple[int, int]) -> None:
    """Rows that are not aligned, NaN and infinities, and columns that float16 cannot hold: one in all tiles, one in the
    last tiles only, because its map is large in the last row only.
    """
    call = Call(size, (18, 13), 1, 27, dtype)
    logits, prev_logits = call.logits(), call.prev_logits()
    how = {"target": "sm_90", "choose": whole_map}
    before = guided(call, logits, prev_logits, 0.5, **how)
    assert_accurate(before, expected_of(call, logits, prev_logits, 0.5))
    prev_logits[..., 3] *= 2.0**100
    prev_logits[:, -13:, 5] *= 2.0**10
    prev_logits[0, 7, 11], prev_logits[0, 200, 20] = math.nan, math.inf
    logits[0, 3::5, ::4] = -math.inf
    masked = logits == -math.inf
    actual = guided(call, logits, prev_logits, 0.5, **how)
    for column in (3, 5):
        expected = expected_of(call, logits, prev_logits, 0.5)[..., column]
        rows = ~masked[..., column]
        assert_accurate(actual[..., column][rows], expected[rows])
    assert (actual[masked] == -math.inf).all()
    bad = torch.tensor([column in (11, 20) for column in range(27)]).expand(actual.shape) & ~masked
    assert actual[bad].isnan().all()
    same = torch.tensor([column not in (3, 5, 11, 20) for column in range(27)]).expand(actual.shape) & ~masked
    assert torch.equal(actual[same], before[same])


def test_whole_map_of_both_halves() -> None:
    call = Call((33, 20), (18, 13), 2, 24, torch.float16, is_cfg=True, kinds=("vector", "scalar", "float"))
    check(call, target="sm_90", choose=whole_map)


def test_the_right_kernels_were_executed() -> None:
    for target, instruction in (("sm_80", "mma.sync"), ("sm_90", "wgmma.mma_async")):
        chosen = executed.planned(Case((32, 32), (24, 24), 16, 4096, torch.float32), target)
        call = Call((32, 32), (24, 24), 1, chosen.block_v)
        made = GuidedCall(
            "guided_logits", call.logits(), call.prev_logits(), call.size, call.prev_size, (0.5,),
            Options(*call.options), None,
        )  # fmt: skip
        (launched,) = executed.launches(
            lambda made=made: launch.guided(made), target, executed.one_strip(chosen, 16, 4096)
        )
        assert instruction in launched.ptx
    assert plan.make_plan.__module__ == "ssg_kernels._triton.plan"


@pytest.mark.parametrize(
    "call",
    [
        Draw(2, 1, 300, "normal", 0.0, torch.float32, 0, 0.9, 0.125),
        Draw(64, 2, 3, "few_values", 0.5, torch.bfloat16, 9, 0.7),
        Draw(300, 1, 3, "normal", 0.0, torch.float64, 90, 0.9, 1.25),
        Draw(4096, 1, 2, "normal", 0.25, torch.float32, 900, 0.96),
        Draw(9000, 1, 1, "normal", 0.0, torch.float16, 0, 0.5),
    ],
    ids=str,
)
def test_sampling(call: Draw) -> None:
    logits, uniform = call.logits(), call.uniform()
    tokens = executed.sample(logits, uniform, call.scale, call.top_k, call.top_p, "sm_90")
    assert torch.equal(tokens, expected_tokens(call, logits, uniform))
