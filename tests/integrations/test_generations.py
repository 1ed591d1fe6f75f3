"""The integrations, on stand-ins that call things in upstream's order."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import standins
from support.generation_checks import (
    Sampler,
    check_after,
    check_before,
    check_everything,
    check_is_itself_again,
    check_two_models,
    recorded,
    run,
    same,
)
from torch import Tensor

from ssg_kernels.integrations import hart, hmar, infinity, switti, var, vq_diffusion

NAMESPACE = vars(standins)
INFINITY_SAMPLER = "sample_with_top_k_top_p_also_inplace_modifying_logits_"


def square(sides: Any) -> list[tuple[int, int]]:
    return [(n, n) for n in sides]


def ramp(cfg: float, stages: int) -> Callable[[int, Tensor, int], Tensor]:
    """cfg as VAR merges it."""

    def merge(scale: int, raw: Tensor, batch: int) -> Tensor:
        t = cfg * (scale / stages)
        return (1 + t) * raw[:batch] - t * raw[batch:]

    return merge


def a_var(more_smooth: bool = False, cfg: float = 1.5, **options: Any) -> Sampler:
    model = standins.Var(**options)
    stages = model.num_stages_minus_1
    return Sampler(
        var.attach,
        model,
        lambda batch, seed: model.autoregressive_infer_cfg(
            batch, None, g_seed=seed, cfg=cfg, top_k=5, top_p=0.9, more_smooth=more_smooth
        ),
        square(model.patch_nums),
        NAMESPACE,
        ramp(cfg, stages),
        gain=lambda scale: 1 + scale / stages,
    )


def a_flexvar() -> Sampler:
    model, sides, invalid = standins.FlexVar(vocabulary=14), (1, 2, 4, 4, 7), torch.tensor([3, 8])
    merge = ramp(2.5, 4)
    return Sampler(
        var.attach,
        model,
        lambda batch, seed: model.autoregressive_infer_cfg(
            None, batch, None, sides, g_seed=seed, cfg=2.5, top_k=4, invalid_ids=invalid
        ),
        square(sides),
        NAMESPACE,
        lambda scale, raw, batch: merge(scale, raw.index_fill(2, invalid, -100.0), batch),
    )


def an_imagefolder(joint_sample: bool = False) -> Sampler:
    model, cfg = standins.ImageFolder(), 3.0
    return Sampler(
        var.attach,
        model,
        lambda batch, seed: model.autoregressive_infer_cfg(
            batch, None, g_seed=seed, cfg=cfg, top_k=4, joint_sample=joint_sample
        ),
        square(model.patch_nums),
        NAMESPACE,
        ramp(cfg, model.num_stages_minus_1),
    )


def a_hart(more_smooth: bool) -> Sampler:
    model, cfg = standins.Hart(), 4.5
    stages = model.num_stages_minus_1
    merge = ramp(cfg, stages)
    return Sampler(
        hart.attach,
        model,
        lambda batch, seed: model.autoregressive_infer_cfg(
            batch, None, g_seed=seed, cfg=cfg, more_smooth=more_smooth
        ),
        square(model.patch_nums),
        NAMESPACE,
        # The last scale goes with the ratio of the one before.
        lambda scale, raw, batch: merge(min(scale, stages - 1), raw, batch),
        source=lambda scale, raw: raw if scale else raw[:, -1:],
        gain=lambda scale: 1 + min(scale, stages - 1) / stages,
    )


def an_infinity(
    grids: Any = ((1, 1), (2, 2), (3, 2), (6, 4)),
    cfgs: Any = (3.0,) * 4,
    layers: Any = (0,),
    model: Any = None,
) -> Sampler:
    model = model or standins.Infinity()
    taus = [0.5 + 0.125 * k for k in range(len(grids))]

    def merge(scale: int, raw: Tensor, batch: int) -> Tensor:
        if len(raw) == batch:
            return raw.mul(1 / taus[scale])
        raw = raw.mul(1 / taus[scale])
        return cfgs[scale] * raw[:batch] + (1 - cfgs[scale]) * raw[batch:]

    return Sampler(
        infinity.attach,
        model,
        lambda batch, seed: model.autoregressive_infer_cfg(
            B=batch,
            g_seed=seed,
            scale_schedule=[(1, h, w) for h, w in grids],
            cfg_list=cfgs,
            tau_list=taus,
            top_k=900,
            top_p=0.97,
            cfg_insertion_layer=layers,
        ),
        grids,
        NAMESPACE,
        merge,
        sampler=INFINITY_SAMPLER,
        tokens=lambda handed, size: handed.view(len(handed), size[0] * size[1], -1),
    )


def a_switti(dtype: torch.dtype = torch.float32, off: int = 10, on: int = 0, **options: Any) -> Sampler:
    pipe, cfg = standins.SwittiPipeline(standins.NextScale((1, 2, 3, 4, 5)), dtype), 6.0

    def merge(scale: int, raw: Tensor, batch: int) -> Tensor:
        if scale < on:
            return raw[:batch]
        if scale >= off:
            return raw if options.get("last_scale_temp") is None else raw / options["last_scale_temp"]
        t = cfg * (scale / 4)
        return (1 + t) * raw[:batch] - t * raw[batch:]

    return Sampler(
        switti.attach,
        pipe,
        lambda batch, seed: pipe(
            ["a"] * batch,
            seed=seed,
            cfg=cfg,
            turn_off_cfg_start_si=off,
            turn_on_cfg_start_si=on,
            **options,
        ),
        square(pipe.switti.patch_nums),
        NAMESPACE,
        merge,
        owner=pipe.switti,
        gain=lambda scale: 1 + scale / 4,
    )


def an_hmar(cfg: float = 1.5) -> Sampler:
    model = standins.Hmar()
    merge = ramp(cfg, model.num_stages_minus_1)

    def also_refined(scale: int, raw: Tensor, batch: int) -> Tensor:
        if scale >= 0:
            return merge(scale, raw, batch)
        t = 1.5e-6
        return (1 + t) * raw[:batch] - t * raw[batch:]

    return Sampler(
        hmar.attach,
        model,
        lambda batch, seed: model.generate(
            batch, None, g_seed=seed, cfg=cfg, mask_schedule=[[], [2], [5, 3, 1], []]
        ),
        square(model.patch_nums),
        NAMESPACE,
        also_refined,
        makers=("get_ns_logits", "get_mask_logits"),
    )


SAMPLERS: dict[str, Callable[[], Sampler]] = {
    "var": a_var,
    "var-smooth": functools.partial(a_var, more_smooth=True),
    "var-512": functools.partial(a_var, patch_nums=(1, 2, 3, 4, 6, 9)),
    "flexvar": a_flexvar,
    "imagefolder": an_imagefolder,
    "imagefolder-joint": functools.partial(an_imagefolder, joint_sample=True),
    "hart": functools.partial(a_hart, more_smooth=False),
    "hart-smooth": functools.partial(a_hart, more_smooth=True),
    "infinity": an_infinity,
    "infinity-wide": functools.partial(an_infinity, [(1, 1), (2, 2), (2, 6), (3, 9)]),
    "infinity-hidden-cfg": functools.partial(an_infinity, layers=(-5,)),
    "infinity-cfg-stops": functools.partial(an_infinity, cfgs=(3.0, 4.0, 1.0, 1.0)),
    "switti": a_switti,
    "switti-cfg-stops": functools.partial(a_switti, off=3, on=1, last_scale_temp=0.1),
    "hmar": an_hmar,
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_guided_as_the_method_says(name: str) -> None:
    check_everything(SAMPLERS[name]())


@pytest.mark.parametrize("name", SAMPLERS)
def test_two_models_of_one_process(name: str) -> None:
    check_two_models(SAMPLERS[name](), SAMPLERS[name]())


SMOOTH_SWITTI = {
    "all": {"off": 10},
    "later": {"off": 4, "smooth_start_si": 2},
    "one-half": {"off": 3, "on": 2},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", SMOOTH_SWITTI)
def test_switti_with_more_smooth(name: str, dtype: torch.dtype) -> None:
    sampler = a_switti(dtype, more_smooth=True, **SMOOTH_SWITTI[name])
    scales = check_after(sampler)
    assert any(scale.smoothed is not None for scale in scales)
    check_is_itself_again(sampler)
    check_two_models(sampler, a_switti(dtype, more_smooth=True, **SMOOTH_SWITTI[name]))


@pytest.mark.parametrize("off", [10, 3])
def test_switti_in_bfloat16(off: int) -> None:
    sampler = a_switti(torch.bfloat16, off=off)
    assert check_after(sampler)[0].raw.dtype == torch.bfloat16
    check_before(sampler)
    check_is_itself_again(sampler)


def test_an_early_stop_leaves_nothing_behind() -> None:
    model = standins.Infinity()
    call = {"B": 2, "g_seed": 0, "cfg_list": [3.0] * 4, "tau_list": [1.0] * 4, "cfg_insertion_layer": [0]}
    call |= {"scale_schedule": [(1, 1, 1), (1, 2, 2), (1, 3, 3), (1, 4, 4)], "top_p": 1.0}
    with infinity.attach(model, 0.75):
        whole = model.autoregressive_infer_cfg(**call)
        model.autoregressive_infer_cfg(**call, trunk_scale=2)
        assert torch.equal(model.autoregressive_infer_cfg(**call), whole)


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


def test_one_infinity_takes_every_aspect_ratio() -> None:
    grids = ([(1, 1), (2, 2), (6, 2), (9, 3)], [(1, 1), (2, 2), (4, 4)], [(1, 1), (2, 2), (2, 6), (3, 9)])
    alone = [run(an_infinity(grid), beta=0.75) for grid in grids]
    model = standins.Infinity()
    with recorded(an_infinity(model=model)) as recorder, infinity.attach(model, 0.75):
        for grid, expected in zip(grids, alone, strict=True):
            assert same(recorder.run(sampler=an_infinity(grid, model=model)), expected)


def refusal(attach: Any, model: Any, **options: Any) -> str:
    with pytest.raises(ValueError, match="this integration follows") as caught:
        attach(model, 0.5, **options)
    return str(caught.value)


MODULES = (var, hart, infinity, switti, hmar, vq_diffusion)
COMMITS = {
    "var": "FoundationVision/VAR at 78b9539",
    "hart": "mit-han-lab/hart at e28a41f",
    "infinity": "FoundationVision/Infinity at 4c27bbb",
    "switti": "yandex-research/switti at 3b286b5",
    "hmar": "NVlabs/HMAR at 595a9df",
    "vq_diffusion": "microsoft/VQ-Diffusion at d1d3948 and huggingface/diffusers at 58eb52c",
}
FIRST_MISSING = {
    "var": "autoregressive_infer_cfg",
    "hart": "autoregressive_infer_cfg",
    "infinity": "autoregressive_infer_cfg",
    "switti": "__call__",
    "hmar": "generate",
    "vq_diffusion": "transformer.transformer",
}


@pytest.mark.parametrize("module", MODULES, ids=list(COMMITS))
def test_anything_else_is_refused(module: Any) -> None:
    name = module.__name__.rpartition(".")[2]
    assert refusal(module.attach, object()) == (
        f"ssg_kernels.integrations.{name}: object has no {FIRST_MISSING[name]}; "
        f"this integration follows {COMMITS[name]}"
    )


def without(model: Any, name: str) -> Any:
    delattr(model, name)
    return model


@pytest.mark.parametrize(
    ("attach", "model", "problem"),
    [
        (var.attach, lambda: without(standins.Var(), "patch_nums"), "Var has no patch_nums"),
        (hart.attach, lambda: without(standins.Hart(), "patch_nums"), "Hart has no patch_nums"),
        (hmar.attach, standins.Var, "Var has no generate"),
        (
            switti.attach,
            standins.Var,
            "Var.__call__ of torch.nn.modules.module calls no sample_with_top_k_top_p_",
        ),
        (
            switti.attach,
            lambda: standins.SwittiPipeline(without(standins.NextScale(), "patch_nums")),
            "SwittiPipeline has no switti.patch_nums",
        ),
        (vq_diffusion.attach, standins.Var, "Var has no transformer.transformer"),
    ],
)
def test_what_is_missing_is_named(attach: Any, model: Any, problem: str) -> None:
    assert f": {problem}; this integration" in refusal(attach, model())


def test_a_method_that_calls_no_sampler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(standins, "sample_with_top_k_top_p_")
    assert "Var.autoregressive_infer_cfg of support.standins calls no sample_with_top_k_top_p_;" in refusal(
        var.attach, standins.Var()
    )


@pytest.mark.parametrize("module", MODULES, ids=list(COMMITS))
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"beta": "x"}, "beta must be a finite number"),
        ({"schedule": "cosine"}, "schedule must be 'linear', 'static'"),
        ({"schedule": 0.5}, "schedule must hold 'linear', 'static'"),
        ({"schedule": [1.0, math.inf]}, "schedule must hold finite numbers, got inf at scale 2"),
        ({"prior": "x"}, "prior must be one of"),
        ({"interpolation": "linear"}, "interpolation must be one of"),
        ({"cfg_order": "x"}, "attach: cfg_order must be one of 'after', 'before', got 'x'"),
    ],
)
def test_wrong_settings_are_refused_at_once(module: Any, arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        module.attach(any_model(module), **{"beta": 0.5, **arguments})


def any_model(module: Any) -> Any:
    if module is vq_diffusion:
        return standins.Dalle()
    if module is switti:
        return standins.SwittiPipeline(standins.NextScale())
    return getattr(standins, module.__name__.rpartition(".")[2].title())()


@pytest.mark.parametrize("cfg_order", ["after", "before"])
def test_a_schedule_of_another_length_is_refused_before_any_work(cfg_order: str) -> None:
    sampler = a_var()
    attached = sampler.attach(sampler.model, 0.5, schedule=[1.0, 1.0], cfg_order=cfg_order)
    with attached, pytest.raises(ValueError, match="schedule must hold one number per scale, 4, got 2"):
        sampler.generate(2, 0)
    assert same(run(sampler), run(a_var()))


def test_hart_in_pieces_is_refused() -> None:
    sampler = a_hart(more_smooth=False)
    with (
        hart.attach(sampler.model, 0.5),
        pytest.raises(ValueError, match=r"num_maskgit_iters must be 1.* got 8;"),
    ):
        sampler.model.autoregressive_infer_cfg(2, None, num_maskgit_iters=8)
    with pytest.raises(TypeError, match="num_iters"), hart.attach(sampler.model, 0.5):
        sampler.model.autoregressive_infer_cfg(2, None, num_iters=8)


def test_infinity_refuses_what_has_no_meaning() -> None:
    model = standins.Infinity()
    call = {"cfg_list": [1.0, 3.0], "tau_list": [1.0] * 2, "cfg_insertion_layer": [0]}
    with (
        infinity.attach(model, 0.5),
        pytest.raises(ValueError, match="scale_schedule must be of single frames"),
    ):
        model.autoregressive_infer_cfg(scale_schedule=[(1, 1, 1), (5, 2, 2)], **call)
    with (
        infinity.attach(model, 0.5, cfg_order="before"),
        pytest.raises(ValueError, match=r"cfg_list must not go from 1 to another value, got \[1.0, 3.0\]"),
    ):
        model.autoregressive_infer_cfg(scale_schedule=[(1, 1, 1), (1, 2, 2)], **call)
    # After cfg there is one grid of logits at every scale.
    check_after(an_infinity(cfgs=(1.0, 3.0, 1.0, 2.0)))


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
    expected = [sampler.generate(2, 0), None]
    with var.attach(model, 0.75, cfg_order=cfg_order):
        expected[1] = sampler.generate(2, 0)
    torch.compiler.reset()
    with torch._dynamo.config.patch(recompile_limit=64):
        model.autoregressive_infer_cfg = torch.compile(model.autoregressive_infer_cfg, backend="eager")
        if compiled_first:
            assert torch.equal(sampler.generate(2, 0), expected[0])
        with var.attach(model, 0.75, cfg_order=cfg_order):
            for _ in range(2):
                assert torch.allclose(sampler.generate(2, 0), expected[1], atol=1e-6)
        assert torch.allclose(sampler.generate(2, 0), expected[0], atol=1e-6)
    torch.compiler.reset()
