"""The names in C++ (csrc/names.h) are those in Python, in the same order, and C++ quotes names as Python does."""

from __future__ import annotations

import importlib

import pytest
import torch

import ssg_kernels
from ssg_kernels import _names
from ssg_kernels._torch import schema

pytestmark = pytest.mark.usefixtures("extension")


def names(kind: str) -> list[str]:
    return importlib.import_module("ssg_kernels._C").names()[kind]


def test_the_names_that_users_rely_on() -> None:
    assert _names.PRIORS == ("dse", "dse_zero_pad", "spatial")
    assert _names.INTERPOLATIONS == ("nearest", "bilinear", "bicubic", "area")
    assert set(_names.DTYPES) == {torch.float32, torch.bfloat16, torch.float16, torch.float64}
    assert _names.STRENGTHS == {
        "guided_logits": ("beta",),
        "guided_logits_cfg": ("beta", "cfg", "prev_cfg"),
    }


def test_options_of_the_operators() -> None:
    assert names("priors") == list(_names.PRIORS)
    assert names("interpolations") == list(_names.INTERPOLATIONS)


def test_dtypes_of_logits() -> None:
    assert [f"torch.{name}" for name in names("dtypes")] == [str(dtype) for dtype in _names.DTYPES]


def test_dtypes_of_strengths() -> None:
    expected = [str(dtype) for dtype in _names.STRENGTH_DTYPES]
    assert [f"torch.{name}" for name in names("strength_dtypes")] == expected


def test_every_overload_has_a_compiled_kernel() -> None:
    expected = [overload.qualname for overload in schema.OVERLOADS]
    expected += [schema.PRIOR_LINEAR, *schema.SAMPLES]
    assert len(names("overloads")) == len(set(names("overloads")))
    assert set(names("overloads")) == set(expected)


@pytest.mark.parametrize(
    "name",
    ["", "x'y", 'x"y', "'x\"", "x\\y", "x\ny", "x\ty", "x\ry", "x\x00y", "x\x1fy", "x\x7fy", "x~y"],
)
@pytest.mark.parametrize("argument", ["prior", "interpolation"])
def test_a_wrong_name_is_quoted_as_python_does(
    monkeypatch: pytest.MonkeyPatch, argument: str, name: str
) -> None:
    monkeypatch.setenv("SSG_KERNELS_BACKEND", "cpu")
    logits, prev_logits = torch.zeros(1, 4, 3), torch.zeros(1, 1, 3)
    with pytest.raises(RuntimeError) as caught:
        ssg_kernels.guided_logits(logits, prev_logits, (2, 2), (1, 1), 0.5, **{argument: name})
    assert str(caught.value).endswith(f", got {name!r}")
