"""`var` on stand-ins of VAR, FlexVAR and ImageFolder."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import standins
from support.generation_checks import CHECKS
from support.guided_samplers import Sampler, ramp
from support.recorders import run, same
from torch import Tensor

from bench.schedules import square
from ssg_kernels.integrations import var


def a_var(more_smooth: bool = False, cfg: float = 1.5, **options: Any) -> Sampler:
    model = standins.Var(**options)
    stages = model.num_stages_minus_1
    return Sampler(
        var.attach,
        model,
        lambda model, batch, seed: model.autoregressive_infer_cfg(
            batch, None, g_seed=seed, cfg=cfg, top_k=5, top_p=0.9, more_smooth=more_smooth
        ),
        square(model.patch_nums),
        vars(standins),
        ramp(cfg, stages),
        gain=lambda scale: 1 + scale / stages,
    )


def a_flexvar() -> Sampler:
    model, sides, invalid = standins.FlexVar(vocabulary=14), (1, 2, 4, 4, 7), torch.tensor([3, 8])
    merge = ramp(2.5, 4)
    return Sampler(
        var.attach,
        model,
        lambda model, batch, seed: model.autoregressive_infer_cfg(
            None, batch, None, sides, g_seed=seed, cfg=2.5, top_k=4, invalid_ids=invalid
        ),
        square(sides),
        vars(standins),
        lambda scale, raw, batch: merge(scale, raw.index_fill(2, invalid, -100.0), batch),
    )


def an_imagefolder(joint_sample: bool = False) -> Sampler:
    model, cfg = standins.ImageFolder(), 3.0
    return Sampler(
        var.attach,
        model,
        lambda model, batch, seed: model.autoregressive_infer_cfg(
            batch, None, g_seed=seed, cfg=cfg, top_k=4, joint_sample=joint_sample
        ),
        square(model.patch_nums),
        vars(standins),
        ramp(cfg, model.num_stages_minus_1),
    )


SAMPLERS: dict[str, Callable[[], Sampler]] = {
    "var": a_var,
    "var-smooth": functools.partial(a_var, more_smooth=True),
    "var-512": functools.partial(a_var, patch_nums=(1, 2, 3, 4, 6, 9)),
    "flexvar": a_flexvar,
    "imagefolder": an_imagefolder,
    "imagefolder-joint": functools.partial(an_imagefolder, joint_sample=True),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", SAMPLERS)
def test_var(name: str, check: Callable[..., None]) -> None:
    check(SAMPLERS[name])


def test_flexvar_takes_the_scales_of_each_call() -> None:
    model = standins.FlexVar()

    def generate(sides: tuple[int, ...]) -> Tensor:
        return model.autoregressive_infer_cfg(
            None, 2, None, sides, g_seed=0, top_k=4, invalid_ids=torch.tensor([3])
        )

    schedules = [(1, 2, 3, 4), (1, 2, 5), (1, 2, 3, 4)]
    alone = []
    for sides in schedules:
        with var.attach(model, 0.75):
            alone.append(generate(sides))
    with var.attach(model, 0.75):
        for sides, expected in zip(schedules, alone, strict=True):
            assert torch.equal(generate(sides), expected)


@pytest.mark.parametrize("cfg_order", ["after", "before"])
def test_a_schedule_of_another_length_is_refused_before_any_work(cfg_order: str) -> None:
    sampler = a_var()
    attached = sampler.attach(sampler.model, 0.5, schedule=[1.0, 1.0], cfg_order=cfg_order)
    with attached, pytest.raises(ValueError, match="schedule must hold one number per scale, 4, got 2"):
        sampler.generate(sampler.model, 2, 0)
    assert same(run(sampler), run(a_var()))


def test_a_compiled_module_is_the_module() -> None:
    sampler = a_var()
    expected = run(sampler, beta=0.75)
    sampler.model = torch.compile(sampler.model, backend="eager")
    assert same(run(sampler, beta=0.75), expected)


@pytest.mark.parametrize("cfg_order", ["after", "before"])
@pytest.mark.parametrize("compiled_first", [False, True])
def test_a_compiled_sampling_method(cfg_order: str, compiled_first: bool) -> None:
    sampler = a_var(more_smooth=True)
    model = sampler.model
    expected = [sampler.generate(sampler.model, 2, 0), None]
    with var.attach(model, 0.75, cfg_order=cfg_order):
        expected[1] = sampler.generate(sampler.model, 2, 0)
    torch.compiler.reset()
    with torch._dynamo.config.patch(recompile_limit=64):
        model.autoregressive_infer_cfg = torch.compile(model.autoregressive_infer_cfg, backend="eager")
        if compiled_first:
            assert torch.equal(sampler.generate(sampler.model, 2, 0), expected[0])
        with var.attach(model, 0.75, cfg_order=cfg_order):
            for _ in range(2):
                assert torch.allclose(sampler.generate(sampler.model, 2, 0), expected[1], atol=1e-6)
        assert torch.allclose(sampler.generate(sampler.model, 2, 0), expected[0], atol=1e-6)
    torch.compiler.reset()
