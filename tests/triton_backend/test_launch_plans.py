"""The plan: every step of every schedule has one that fits its GPU, and `info --plan` prints it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch

from bench import schedules
from ssg_kernels import __main__, info
from ssg_kernels._triton import cost, launch, plan, targets
from ssg_kernels._triton.step import LaunchPlan, Step

FORMS = ("fma", "dense_halves", "separable")


def steps() -> Iterator[Step]:
    kinds = itertools.cycle(
        [
            {},
            {"sources": 2},
            {"interpolation": "nearest"},
            {"prior": "spatial", "interpolation": "area"},
            {"sources": 0},
            {"sources": 0, "transpose": True},
            {"prior": "dse_zero_pad", "sources": 2},
        ]
    )
    amounts = itertools.cycle([(1, 4096), (64, 4096), (4, 64), (1, 2), (3, 16384)])
    for prev_size, size in schedules.every_step():
        for itemsize in (2, 4):
            yield Step(size, prev_size, *next(amounts), itemsize, **next(kinds))


@pytest.mark.parametrize("name", list(targets.TARGETS))
def test_every_step_of_every_schedule(name: str) -> None:
    target = targets.named(name)
    met = set()
    for step in steps():
        for accurate in (False, True):
            chosen = plan.make_plan(step, target, accurate)
            assert_fits(chosen, step)
            assert chosen.form in (("fma",) if accurate else FORMS)
            met.add(chosen.form)
        counted = cost.estimate(plan.make_plan(step, target), step, target)
        assert counted.bytes == step.bytes
        assert 0 < counted.bytes / target.copy < counted.seconds
    assert met == set(FORMS), "of each form there is a step that takes it"


def assert_fits(chosen: LaunchPlan, step: Step) -> None:
    """Asserts that blocks are powers of two, and that the programs cover every result."""
    blocks = (chosen.block_m, chosen.block_k, chosen.block_v, chosen.block_c, chosen.block_j)
    for block in blocks[: 1 if chosen.form == "fma" else None]:
        assert block & (block - 1) == 0
    h, w = step.outputs
    strips = math.ceil(step.vocabulary / chosen.block_v) * step.batch
    if chosen.form == "separable":
        tiles = math.ceil(h / chosen.block_m) * math.ceil(math.ceil(w / 2) / chosen.block_c)
        # Triton 3.6 needs inner lengths of at least 16 in both products.
        assert min(chosen.block_k, chosen.terms * chosen.block_j) >= 16
        assert chosen.terms >= step.terms
    else:
        rows = math.ceil(h / 2) * math.ceil(w / 2) if chosen.halves else h * w
        tiles = math.ceil(rows / chosen.block_m)
        assert chosen.form == "fma" or min(chosen.block_m, chosen.block_k, chosen.block_v) >= 16
    assert chosen.programs == (1 if chosen.whole_map else tiles) * strips < 2**31
    if chosen.halves:
        assert step.is_symmetric


@pytest.mark.parametrize("form", FORMS)
def test_tables_are_padded_to_the_tiles(form: str) -> None:
    step = Step((9, 7), (5, 6), 1, 64, 4, interpolation="bilinear")
    for chosen in plan.candidates(step, targets.named("sm_90")):
        if chosen.form != form:
            continue
        shapes = [tuple(table.shape) for table in launch.tables(chosen, step, False)]
        if form == "separable":
            padded = [(chosen.terms, chosen.block_m, chosen.block_k), (2, chosen.terms, 16, chosen.block_j)]
        else:
            rows, columns = (20, 9) if chosen.halves else (63, 30)
            rows = math.ceil(rows / chosen.block_m) * chosen.block_m
            columns = math.ceil(columns / chosen.block_k) * chosen.block_k
            padded = [(columns, rows) if form == "fma" else (4, rows, columns)]
        assert shapes == padded


@pytest.mark.parametrize(
    ("logits", "aligned"),
    [
        (torch.empty(2, 4, 32), True),
        (torch.empty(2, 5, 36)[:, :4, :32], False),
        (torch.empty(2, 4, 64)[..., 16:48], True),
        (torch.empty(2, 4, 64)[..., 1:33], False),
        (torch.empty(2, 4, 33), False),
        (torch.empty(2, 4, 64)[..., ::2], False),
    ],
)
def test_only_aligned_rows_are_prefetched(logits: torch.Tensor, aligned: bool) -> None:
    assert launch.is_aligned(logits) == aligned
    step = Step((16, 16), (13, 13), 1, 4096, 4, aligned=aligned)
    stages = {each.stages for each in plan.candidates(step, targets.named("sm_90")) if each.halves}
    assert stages == {2 if aligned else 1}


def test_equal_steps_have_equal_plans() -> None:
    for step in itertools.islice(steps(), 40):
        target = targets.named("sm_90")
        first = plan.make_plan(step, target), plan.describe(step, target)
        plan.make_plan.cache_clear()
        assert (plan.make_plan(step, target), plan.describe(step, target)) == first


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("sm_90", "sm_90"),
        ("sm_87", "sm_86"),
        ("sm_103", "sm_100"),
        ("sm_121", "sm_120"),
        ("gfx1100", "gfx942"),
    ],
)
def test_other_cards_are_planned_as_their_nearest(name: str, known: str) -> None:
    assert targets.named(name) is targets.TARGETS[known]


@pytest.mark.parametrize("name", ["sm_75", "h200", "sm_", ""])
def test_unknown_targets(name: str) -> None:
    with pytest.raises(
        ValueError, match=f"^target must be sm_80 or newer, or gfx...; known are sm_80, .*; got '{name}'$"
    ):
        targets.named(name)


@pytest.mark.parametrize("name", list(targets.TARGETS))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_info_prints_it(name: str, dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "info",
        "--plan",
        "32x32",
        "24x24",
        "--batch",
        "16",
        "--cfg",
        "--target",
        name,
        "--dtype",
        dtype,
    ]
    assert __main__.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"24x24 -> 32x32, V = 4096, B = 16, {dtype}, dse, bilinear, cfg"
    assert lines[1] == f"on {name} as of one {targets.named(name).card}; counted, not measured"
    step = Step((32, 32), (24, 24), 16, 4096, {"float32": 4, "bfloat16": 2, "float64": 8}[dtype], 2)
    described = plan.describe(step, targets.named(name), dtype == "float64")
    assert [line[9:] for line in lines[3 : 3 + len(described)]] == described
    assert lines[3].startswith("triton   ")
    assert any(line.startswith("cpu      ") for line in lines)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (info.PlanRequest((4, 4), (5, 4)), r"prev_size must not exceed size, got \(5, 4\) and \(4, 4\)"),
        (info.PlanRequest((4, 4), (4, 0)), r"prev_size must not exceed size, got \(4, 0\) and \(4, 4\)"),
        (info.PlanRequest((4, 4), (3, 3), target="sm_70"), "target must be sm_80 or newer"),
    ],
)
def test_a_plan_without_meaning(request_: info.PlanRequest, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        info.plan_report(request_)
