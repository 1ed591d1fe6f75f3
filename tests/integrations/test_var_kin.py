"""`mvar`, `aar`, `sar3d`, `lsrs`, `skipvar` and `code` on stand-ins."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from support import var_kin
from support.attach_checks import BETA, check_threads
from support.generation_checks import check_guided, check_two_of_one_module
from support.guided_samplers import Sampler, ramp
from support.refiner_checks import Refiner, check_refiner
from torch import Tensor

import ssg_kernels
from bench.schedules import square
from ssg_kernels.integrations import GuidanceWarning, aar, code, lsrs, mvar, sar3d, skipvar

CFG = 1.5


def a_sampler(attach: Any, model: Any, method: str, sizes: Any = None, **arguments: Any) -> Sampler:
    return Sampler(
        attach,
        model,
        lambda model, batch, seed: getattr(model, method)(
            **{"B": batch, "label_B": None, "g_seed": seed, **arguments}
        ),
        sizes or square(model.patch_nums),
        vars(var_kin),
        ramp(CFG, model.num_stages_minus_1),
    )


def an_mvar(cfg: float = CFG) -> Sampler:
    sampler = a_sampler(mvar.attach, var_kin.Mvar(), "autoregressive_infer", cfg=cfg)
    if cfg == 1.0:
        sampler.merge = lambda scale, raw, batch: raw
    return sampler


def an_aar() -> Sampler:
    model = var_kin.Aar(patch_nums=(1, 2, 4, 7))
    return a_sampler(aar.attach, model, "autoregressive_infer_cfg", [(1, n) for n in model.patch_nums])


def of_planes(sampler: Sampler) -> Sampler:
    """Each plane is a sample to the checks."""
    stages = len(sampler.sizes) - 1

    def apart(logits: Tensor, size: tuple[int, int]) -> Tensor:
        return logits.view(-1, size[0] * size[1], logits.shape[-1])

    def merge(scale: int, raw: Tensor, batch: int) -> Tensor:
        t = CFG * (scale / stages)
        cond, uncond = raw.chunk(2)
        return (1 + t) * cond - t * uncond

    sampler.source = lambda scale, raw: apart(raw, sampler.sizes[scale])
    sampler.tokens, sampler.merge = apart, merge
    sampler.gain = lambda scale: 1 + scale / stages
    return sampler


def a_sar3d(kind: str = "image") -> Sampler:
    model = (var_kin.Sar3d if kind == "image" else var_kin.Sar3dText)()
    sampler = a_sampler(sar3d.attach, model, "")
    sampler.generate = lambda model, batch, seed: getattr(
        model, f"autoregressive_infer_cfg_3D_VAR_{kind}_l2norm"
    )(batch, None, g_seed=seed, cfg=CFG, more_smooth=kind == "image")
    return of_planes(sampler)


def a_skipvar(cfg: float = 3.0) -> Sampler:
    grids, taus = [(1, 1), (2, 2), (3, 2), (6, 4), (8, 8)], [0.5, 0.625, 0.75, 0.875, 1.0]

    def merge(scale: int, raw: Tensor, batch: int) -> Tensor:
        raw = raw.mul(1 / taus[scale])
        return cfg * raw[:batch] + (1 - cfg) * raw[-batch:]

    return Sampler(
        skipvar.attach,
        var_kin.Skipvar(),
        lambda model, batch, seed: model.autoregressive_infer_cfg_SkipVAR(
            B=batch,
            g_seed=seed,
            scale_schedule=[(1, h, w) for h, w in grids],
            cfg_list=[cfg] * 5,
            tau_list=taus,
        ),
        grids[:4],
        vars(var_kin),
        merge,
        sampler="sample_with_top_k_top_p_also_inplace_modifying_logits_",
        tokens=lambda handed, size: handed.view(len(handed), size[0] * size[1], -1),
        K=5,
    )


def a_drafter() -> Sampler:
    return a_sampler(code.attach, var_kin.Code(), "autoregressive_infer_cfg_draft").stopping(3)


SAMPLERS: dict[str, Callable[[], Sampler]] = {
    "mvar": an_mvar,
    "mvar-without-cfg": functools.partial(an_mvar, 1.0),
    "aar": an_aar,
    "sar3d": a_sar3d,
    "sar3d-text": functools.partial(a_sar3d, "text"),
    "lsrs": lambda: a_sampler(lsrs.attach, var_kin.Lsrs(), "autoregressive_infer_cfg_lsrs"),
    "skipvar": a_skipvar,
    "code-draft": a_drafter,
    "code-var": lambda: a_sampler(code.attach, var_kin.Code(), "autoregressive_infer_cfg"),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_it_is_guided(name: str) -> None:
    check_guided(SAMPLERS[name])


@pytest.mark.parametrize("name", ["sar3d", "skipvar", "code-draft"])
def test_two_models_and_threads(name: str) -> None:
    check_two_of_one_module(SAMPLERS[name])
    check_threads(SAMPLERS[name])


# CoDe's refiner.


def a_refiner(entry: int = 2) -> Refiner:
    model = var_kin.Code()
    return Refiner(
        a_sampler(code.attach, model, "autoregressive_infer_cfg_refine", entry_num=entry), entry, CFG
    )


@pytest.mark.parametrize("entry", [1, 2, 3])
def test_a_refiner_is_guided(entry: int) -> None:
    check_refiner(functools.partial(a_refiner, entry))


def test_threads_of_a_refiner() -> None:
    check_threads(lambda: a_refiner().sampler)


def test_one_context_serves_all_methods_of_code() -> None:
    model = var_kin.Code()
    with warnings.catch_warnings():
        warnings.simplefilter("error", GuidanceWarning)
        with ssg_kernels.attach(model, BETA) as guided:
            draft = guided.autoregressive_infer_cfg_draft(2, None, 0)
            guided.autoregressive_infer_cfg_refine(2, None, 0, draft=draft)
            guided.autoregressive_infer_cfg(2, None, 0)
    with (
        pytest.warns(GuidanceWarning, match=r"Code.autoregressive_infer_cfg_draft or .* was not called"),
        ssg_kernels.attach(model, BETA),
    ):
        pass
