"""The launch plan: it fits the machine, serves every step of the samplers, and divides the work completely."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.cuda_on_host import HOST, VARIANTS

from bench.schedules import every_step

MACHINES = {80: 108, 86: 84, 89: 128, 90: 132, 100: 148, 120: 170}
SHARED = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}


def call(size: tuple[int, int], prev_size: tuple[int, int], capability: int = 90, **given: Any) -> Any:
    sources = given.pop("sources", 1)
    place = (4096, 0, 0)  # an address that is never read
    return HOST.CudaCall(
        size=size,
        prev_size=prev_size,
        current=[place] * sources,
        previous=[place] * sources,
        out=place,
        capability=capability,
        multiprocessors=MACHINES[capability],
        **given,
    )


@pytest.mark.parametrize("capability", MACHINES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("sources", [1, 2])
def test_every_step_of_the_schedules_fits(capability: int, dtype: str, sources: int) -> None:
    for prev_size, size in every_step()[:: 1 if sources == 1 else 3]:
        given = {"dtype": dtype, "batch": 2, "vocabulary": 4096, "sources": sources}
        plan = call(size, prev_size, capability, **given).plan()
        assert plan.describe() == call(size, prev_size, capability, **given).plan().describe()
        if plan.engine == "direct":
            # Only maps that eight columns of do not fit, with the least else.
            item = 8 if dtype == "float64" else 4
            assert 8 * item * prev_size[0] * prev_size[1] > 0.7 * SHARED[capability] * 1024
            continue
        assert plan.shared_bytes <= SHARED[capability] * 1024
        items = 2 * plan.splits * -(-4096 // plan.columns)
        if plan.engine != "mma":
            assert plan.blocks == items
        else:
            each = -(-items // plan.blocks)
            assert (plan.blocks - 1) * each < items <= plan.blocks * each
            assert plan.blocks <= plan.resident * MACHINES[capability]
        assert plan.warps * plan.resident <= 16
        assert plan.resident * (plan.shared_bytes + 1024) <= (SHARED[capability] + 1) * 1024
        assert plan.warps % plan.column_warps == 0
        assert plan.cycles > 0


def test_plans_are_the_committed_ones() -> None:
    """A change of the search or of the model shows here: then measure, and renew the file."""
    lines = Path(__file__).with_name("launch_plans.txt").read_text().splitlines()
    assert len(lines) > 30
    for line in lines:
        step, _, expected = line.partition(" | ")
        target, prev_size, size, dtype, batch, vocabulary, sources = step.split()
        plan = call(
            tuple(map(int, size.split("x"))),
            tuple(map(int, prev_size.split("x"))),
            int(target.removeprefix("sm_")),
            dtype=dtype,
            batch=int(batch),
            vocabulary=int(vocabulary),
            sources=int(sources),
        ).plan()
        assert plan.describe() == expected, step


@pytest.mark.parametrize("capability", [90, 100])
def test_no_step_of_a_data_centre_gpu_needs_the_direct_form(capability: int) -> None:
    for prev_size, size in every_step():
        if prev_size[0] * prev_size[1] <= 64 * 64:
            assert call(size, prev_size, capability, vocabulary=4096).plan().engine != "direct"


@pytest.mark.parametrize(
    ("size", "prev_size", "dtype", "engine"),
    [
        ((64, 64), (48, 48), "float32", "mma"),
        ((32, 32), (24, 24), "bfloat16", "mma"),
        ((16, 16), (13, 13), "bfloat16", "mma"),
        ((16, 16), (13, 13), "float64", "dense"),
        ((32, 32), (24, 24), "float64", "fma"),
        ((3, 3), (2, 2), "float32", "dense"),
        ((8, 8), (6, 6), "bfloat16", "dense"),
    ],
)
def test_tensor_cores_where_arithmetic_would_bind(
    size: tuple[int, int], prev_size: tuple[int, int], dtype: str, engine: str
) -> None:
    batch = 64 * 256 // (size[0] * size[1])
    assert call(size, prev_size, dtype=dtype, batch=batch, vocabulary=4096).plan().engine == engine


def test_axes_beyond_the_index_arithmetic_take_the_direct_form() -> None:
    assert call((4096, 1), (2, 1), prior="spatial").plan().engine != "direct"
    for size, prev_size in (((4097, 1), (2, 1)), ((1, 4097), (1, 2))):
        assert call(size, prev_size, prior="spatial").plan().engine == "direct"


def test_few_columns_are_split_over_rows() -> None:
    plan = call((64, 64), (48, 48), batch=1, vocabulary=64).plan()
    assert plan.splits > 1
    assert plan.blocks >= 32


def test_a_tile_that_is_not_in_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="no such tile"):
        call((16, 16), (13, 13), vocabulary=64).plan_with("mma", thread_columns=1)


def test_every_tile_is_tried_on_the_host() -> None:
    tried = {(v["engine"], v["thread_columns"]) for v in VARIANTS.values() if len(v) > 1}
    assert tried == {tile[:2] for tile in HOST.cuda_tiles if not tile[2]}


@pytest.mark.parametrize(
    ("prev_size", "size", "columns"),
    [((13, 13), (16, 16), (16, 32)), ((24, 24), (32, 32), (16, 32)), ((48, 48), (64, 64), (16, 16))],
)
def test_large_steps_take_the_kernels_made_for_them(
    prev_size: tuple[int, int], size: tuple[int, int], columns: tuple[int, int]
) -> None:
    batch = 64 * 256 // (size[0] * size[1])
    for dtype, wanted in zip(("float32", "bfloat16"), columns, strict=True):
        plan = call(size, prev_size, dtype=dtype, batch=batch, vocabulary=4096).plan()
        assert (plan.engine, plan.made_for, plan.columns) == ("mma", prev_size[0], wanted)


def test_a_plan_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        call((64, 64), (48, 48), vocabulary=64).plan_with("fma", thread_columns=2, column_warps=4)
    with pytest.raises(ValueError, match="does not fit"):
        call((16, 16), (13, 13), vocabulary=64).plan_with("fma", group_pairs=4, splits=3)


def test_describe_says_what_will_run() -> None:
    text = call((16, 16), (13, 13), batch=64, vocabulary=4096).plan().describe()
    for part in ("blocks of", "warps", "columns", "rows at once", "bytes shared", "resident", "cycles"):
        assert part in text
