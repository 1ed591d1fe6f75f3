"""What every `attach` refuses, and what it says then."""

from __future__ import annotations

import inspect
import math
import re
from typing import Any

import pytest
from support import infinity_kin, standins, var_kin

from ssg_kernels.integrations import (
    aar,
    code,
    grn,
    hart,
    hmar,
    infinity,
    infinitystar,
    lsrs,
    mvar,
    sar3d,
    skipvar,
    switti,
    tokenflow,
    var,
    vargpt,
    vq_diffusion,
)


def refusal(attach: Any, model: Any, **options: Any) -> str:
    with pytest.raises(ValueError, match="this integration follows") as caught:
        attach(model, 0.5, **options)
    return str(caught.value)


MODULES = (
    *(var, hart, infinity, switti, hmar, vq_diffusion, mvar, aar, sar3d, lsrs, skipvar, code),
    *(infinitystar, vargpt, tokenflow, grn),
)
COMMITS = {
    "var": "FoundationVision/VAR at 78b9539",
    "hart": "mit-han-lab/hart at e28a41f",
    "infinity": "FoundationVision/Infinity at 4c27bbb",
    "switti": "yandex-research/switti at 3b286b5",
    "hmar": "NVlabs/HMAR at 595a9df",
    "vq_diffusion": "microsoft/VQ-Diffusion at d1d3948 and huggingface/diffusers at 58eb52c",
    "mvar": "CVL-UESTC/MVAR at d0e035a",
    "aar": "qiuk2/AAR at eaaf1bc",
    "sar3d": "HaooChenn/SAR3D_reproduce at f40a460",
    "lsrs": "dt-3t/LSRS at 22c26fe",
    "skipvar": "fakerone-li/SkipVAR at 607be0e",
    "code": "czg1225/CoDe at bfb204d",
    "infinitystar": "FoundationVision/InfinityStar at 0446330",
    "vargpt": "VARGPT-family/VARGPT-v1.1 at 8c67c26",
    "tokenflow": "ByteFlow-AI/TokenFlow at 9812da0",
    "grn": "MGenAI/GRN at 2a3353d",
}
FIRST_MISSING = {
    "var": "autoregressive_infer_cfg",
    "hart": "autoregressive_infer_cfg",
    "infinity": "autoregressive_infer_cfg",
    "switti": "__call__",
    "hmar": "generate",
    "vq_diffusion": "transformer.transformer",
    "mvar": "autoregressive_infer",
    "aar": "autoregressive_infer_cfg",
    "sar3d": "autoregressive_infer_cfg_3D_VAR_image_l2norm",
    "lsrs": "autoregressive_infer_cfg_lsrs",
    "skipvar": "autoregressive_infer_cfg_SkipVAR",
    "code": "autoregressive_infer_cfg_draft",
    "infinitystar": "get_logits_during_infer",
    "vargpt": "autoregressive_infer_cfg",
    "tokenflow": "autoregressive_infer_cfg",
    "grn": "get_logits_during_infer",
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
    name = module.__name__.rpartition(".")[2]
    kin = {**var_kin.MODELS, **infinity_kin.MODELS}
    return kin[name]() if name in kin else getattr(standins, name.title())()


@pytest.mark.parametrize("module", MODULES, ids=list(COMMITS))
def test_what_attach_says_of_itself(module: Any) -> None:
    name = module.__name__.rpartition(".")[2]
    assert repr(module.attach) == f"ssg_kernels.integrations.{name}.attach"
    guided, shared = module.attach.__doc__.split("\n\nGuide a model: inside the context")
    assert len(re.findall(r"Guide an? ", guided)) == 1
    assert "beta, schedule, prior" in shared
    assert list(inspect.signature(module.attach).parameters) == [
        "model", "beta", "schedule", "prior", "interpolation", "rescale", "cfg_order", "method",
    ]  # fmt: skip
