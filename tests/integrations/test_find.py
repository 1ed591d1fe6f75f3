"""`ssg_kernels.attach` finds the integration of a model."""

from __future__ import annotations

import inspect
import logging
import sys
import types
from importlib import metadata
from typing import Any

import pytest
import torch
from support import derived, infinity_kin, standins, var_kin

import ssg_kernels
from ssg_kernels.integrations import Integration, NextScale, hart, var

MODELS: dict[str, tuple[str, Any]] = {
    "var": ("var", standins.Var),
    "var-compiled": ("var", lambda: torch.compile(standins.Var(), backend="eager")),
    "derived": ("var", derived.Candidates),
    "flexvar": ("var", standins.FlexVar),
    "imagefolder": ("var", standins.ImageFolder),
    "hart": ("hart", standins.Hart),
    "infinity": ("infinity", standins.Infinity),
    "switti": ("switti", lambda: standins.SwittiPipeline(standins.NextScale())),
    "hmar": ("hmar", standins.Hmar),
    "vq_diffusion": ("vq_diffusion", standins.Dalle),
    "sar3d-text": ("sar3d", var_kin.Sar3dText),
    **{name: (name, kind) for name, kind in {**var_kin.MODELS, **infinity_kin.MODELS}.items()},
}


@pytest.mark.parametrize("name", MODELS)
def test_each_model_is_found(caplog: pytest.LogCaptureFixture, name: str) -> None:
    expected, make = MODELS[name]
    with caplog.at_level(logging.INFO, "ssg_kernels"):
        context = ssg_kernels.attach(make(), 0.5)
    assert context.integration == f"ssg_kernels.integrations.{expected}"
    assert repr(context).startswith(f"ssg_kernels.integrations.{expected}.attach(")
    assert caplog.messages == [f"guided by {context!r}"]


def test_it_guides_as_the_integration_does() -> None:
    model = standins.Var()
    call = {"B": 2, "label_B": None, "g_seed": 0}
    settings = {"schedule": "static", "prior": "spatial", "cfg_order": "before"}
    with var.attach(model, 0.75, **settings):
        expected = model.autoregressive_infer_cfg(**call)
    with ssg_kernels.attach(model, 0.75, **settings) as entered:
        assert entered is model
        assert torch.equal(model.autoregressive_infer_cfg(**call), expected)
        with pytest.raises(ValueError, match=r"^ssg_kernels.attach: this Var is attached already"):
            ssg_kernels.attach(model, 0.75)
    assert inspect.signature(ssg_kernels.attach) == inspect.signature(var.attach)
    with pytest.raises(ValueError, match="cfg_order must be one of"):
        ssg_kernels.attach(model, 0.5, cfg_order="x")


def test_the_method_can_be_named() -> None:
    model = derived.SkipVar()
    context = ssg_kernels.attach(model, 0.5, method="autoregressive_infer_cfg_SkipVAR")
    assert repr(context) == "ssg_kernels.integrations.var.attach(SkipVar.autoregressive_infer_cfg_SkipVAR)"


def test_an_unknown_model_is_told_what_was_tried() -> None:
    with pytest.raises(ValueError, match="no integration takes this Linear") as caught:
        ssg_kernels.attach(torch.nn.Linear(1, 1), 0.5)
    for name in (
        "aar",
        "code",
        "hart",
        "hmar",
        "infinity",
        "lsrs",
        "mvar",
        "sar3d",
        "skipvar",
        "switti",
        "var",
    ):
        assert f"\n  ssg_kernels.integrations.{name}: Linear" in str(caught.value)
    assert "Linear has no autoregressive_infer_cfg; this integration follows FoundationVision/VAR" in str(
        caught.value
    )
    assert "docs/integrations/own.md" in str(caught.value)


class Mine(NextScale):
    """Guide my model."""

    upstream = "mine at 1"
    takes = ("g_seed",)


def registered(monkeypatch: pytest.MonkeyPatch, **entries: Any) -> None:
    module = types.ModuleType("mine")
    vars(module).update(entries)
    monkeypatch.setitem(sys.modules, "mine", module)
    points = metadata.EntryPoints(
        metadata.EntryPoint(name, f"mine:{name}", "ssg_kernels.integrations")
        for name in [*entries, "missing"]
    )
    monkeypatch.setattr(metadata, "entry_points", lambda **group: points.select(**group))


def test_integrations_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Integration(Mine)
    registered(monkeypatch, mine=mine, module=types.SimpleNamespace(attach=mine), broken=3)
    assert ssg_kernels.attach(standins.Var(), 0.5).integration == Mine.__module__
    # Which asks for more of a model is nearer to it.
    assert ssg_kernels.attach(standins.Infinity(), 0.5).integration == "ssg_kernels.integrations.infinity"
    with pytest.raises(ValueError, match=r"entry point broken .mine:broken.: is no integration") as caught:
        ssg_kernels.attach(object(), 0.5)
    assert "entry point missing (mine:missing): AttributeError" in str(caught.value)
    assert f"\n  {Mine.__module__}: object has no autoregressive_infer_cfg" in str(caught.value)


def test_one_kind_may_still_be_attached_as_another() -> None:
    assert hart.attach(standins.Var(), 0.5).integration == "ssg_kernels.integrations.hart"
    assert "attach" in ssg_kernels.__all__
    with pytest.raises(AttributeError, match="has no attribute 'attached'"):
        ssg_kernels.attached  # noqa: B018
