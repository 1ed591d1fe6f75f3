"""Compiles plans for GPUs that the machine does not have, and checks the resources and instructions of their code.

Triton checks no limit when it compiles without a GPU. Too much shared or tensor memory passes silently.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from support.triton_compiling import Compiled, compile_plan, compile_sample

from ssg_kernels._triton import cost, plan, targets
from ssg_kernels._triton.step import LaunchPlan, Step

TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")

# If ptxas reaches its limit of 128 or 255 registers, it puts a few on the stack. A register for every four results of
# a thread costs half an instruction a result; a smaller tile costs more.
RESULTS = 4

_DTYPES = {8: torch.float64, 4: torch.float32, 2: torch.bfloat16}

# Steps that are compiled with every tile of the given forms: float32 logits, and both halves of bfloat16 logits.
STEPS = (
    (Step((16, 16), (13, 13), 64, 4096, 4), ("fma", "dense_halves")),
    (Step((64, 64), (48, 48), 4, 4096, 4), ("separable",)),
    (Step((32, 32), (24, 24), 16, 4096, 2, sources=2), ("dense_halves",)),
)
# Steps that are compiled as planned: 16 bits that are not split; both halves of float32; no symmetry; one sample and
# one column, which Triton compiles as constants; float64; the prior alone, and its transpose.
PLANNED = (
    Step((64, 64), (48, 48), 4, 4096, 2),
    Step((64, 64), (48, 48), 4, 4096, 4, sources=2),
    Step((32, 32), (24, 24), 16, 4096, 4, sources=2),
    Step((13, 13), (10, 10), 1, 4097, 4, sources=2, interpolation="nearest"),
    Step((5, 4), (3, 4), 1, 1, 4),
    Step((16, 16), (13, 13), 2, 64, 8, sources=2),
    Step((16, 16), (13, 13), 8, 4096, 4, sources=0),
    Step((16, 16), (13, 13), 8, 4096, 2, sources=0, transpose=True),
)


def compile_for(chosen: LaunchPlan, step: Step, target: str) -> Compiled:
    return compile_plan(chosen, step, _DTYPES[step.itemsize], target)


def cases() -> list[object]:
    found = []
    for name in TARGETS:
        target = targets.named(name)
        for step, forms in STEPS:
            found += [(name, step, each) for each in plan.candidates(step, target) if each.form in forms]
        for step in PLANNED:
            found.append((name, step, plan.make_plan(step, target, step.itemsize == 8)))
    return [
        pytest.param(
            *case,
            id=f"{case[0]}-{case[2].form}-{case[2].block_m}x{case[2].block_v}-"
            f"{'x'.join(map(str, case[1].outputs))}-{8 * case[1].itemsize}-{case[1].sources}",
        )
        for case in found
    ]


@pytest.mark.parametrize(("name", "step", "chosen"), cases())
def test_fits_the_target_and_is_accurate(name: str, step: Step, chosen: LaunchPlan) -> None:
    compiled, target = compile_for(chosen, step, name), targets.named(name)
    is_amd = target.is_amd
    results = cost.work_of(chosen, step, target).outputs / (32 * chosen.warps)
    assert compiled.spilled <= (0 if is_amd else 4 * results / RESULTS), compiled
    assert compiled.registers <= (512 if is_amd else 255)
    # The registers leave room for eight warps at once, so the shared memory must have room for them too.
    at_once = 8 // chosen.warps
    if chosen.warps > 1:
        assert at_once * compiled.shared <= target.shared
    assert compiled.tensor_memory <= 512
    assert not any(line.strip().startswith("trap") for line in compiled.text.splitlines())
    assert_instructions(compiled, chosen, is_amd, step.itemsize == 8)


def assert_instructions(compiled: Compiled, chosen: LaunchPlan, is_amd: bool, is_double: bool) -> None:
    assert compiled.products
    if chosen.form == "fma":
        assert not compiled.dots
        assert all(("f64" if is_double else "f32") in name for name in compiled.products)
        return
    assert compiled.dots
    for name, count in compiled.dots.items():
        if is_amd:
            assert name.startswith("v_mfma_f32_"), name
            assert name.endswith("_f32"), f"{name} does not multiply float32"
        else:
            assert name.endswith(("f32.f16.f16", "f32.f16.f16.f32", "kind::f16")), name
            assert count % 3 == 0


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(
    ("dtype", "vocabulary"),
    [
        (torch.float32, 2),
        (torch.float32, 64),
        (torch.float32, 4096),
        (torch.bfloat16, 8192),
        (torch.float16, 262144),
        (torch.float64, 8192),
    ],
)
def test_sampling_fits_the_target(name: str, dtype: torch.dtype, vocabulary: int) -> None:
    compiled, target = compile_sample(dtype, vocabulary, name), targets.named(name)
    assert compiled.spilled <= (0 if target.is_amd else 56), compiled
    assert 2 * compiled.shared <= target.shared
    assert not compiled.dots


@pytest.mark.parametrize("name", ["sm_90", "gfx942"])
def test_logits_of_other_shapes_share_what_is_compiled(name: str) -> None:
    """The batch is not specialised: otherwise Triton would compile for 1, for multiples of 16 and for the rest."""
    step = Step((6, 6), (5, 5), 1, 4096, 4)
    chosen = plan.make_plan(step, targets.named(name))
    texts = {compile_for(chosen, dataclasses.replace(step, batch=b), name).text for b in (1, 3, 16)}
    assert len(texts) == 1
