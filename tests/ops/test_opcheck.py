"""torch.library.opcheck: schemas, fakes, autograd registration and functionalization of every overload."""

from __future__ import annotations

import sys

import pytest
import torch

from ssg_kernels._names import STRENGTHS
from ssg_kernels._torch import schema
from ssg_kernels._torch.schema import Overload

SIZE, PREV_SIZE, VOCABULARY = (3, 4), (2, 3), 5
TOKENS, PREV_TOKENS = 12, 6

# Views that hold (B, T, V) logits: a sampler hands over slices of all of these.
LAYOUTS = {
    "contiguous": lambda *shape: torch.randn(shape),
    "batch_slice": lambda b, t, v: torch.randn(2 * b, t, v)[b:],
    "token_slice": lambda b, t, v: torch.randn(b, t + 3, v)[:, 2 : 2 + t],
    "vocabulary_slice": lambda b, t, v: torch.randn(b, t, v + 2)[..., 1 : 1 + v],
    "channel_major": lambda b, t, v: torch.randn(b, v, t).mT,
}
OPTIONS = (("dse", "bilinear", False), ("dse_zero_pad", "bicubic", True), ("spatial", "nearest", False))


def arguments(overload: Overload, layout: str, options: tuple[str, str, bool], requires_grad: bool) -> tuple:
    rows = 4 if overload.operator == "guided_logits_cfg" else 2
    make = LAYOUTS[layout]
    logits, prev_logits = make(rows, TOKENS, VOCABULARY), make(rows, PREV_TOKENS, VOCABULARY)
    strengths = [
        0.5 if name in overload.floats else (torch.tensor(0.5), torch.rand(2))[i % 2]
        for i, name in enumerate(overload.strengths)
    ]
    tensors = [x for x in (logits, prev_logits, *strengths) if isinstance(x, torch.Tensor)]
    for x in tensors:
        x.requires_grad_(requires_grad)
    return (logits, prev_logits, SIZE, PREV_SIZE, *strengths, *options)


@pytest.mark.parametrize("overload", [o for o in schema.OVERLOADS if not o.is_out], ids=lambda o: o.qualname)
def test_functional(overload: Overload) -> None:
    torch.library.opcheck(overload.op, arguments(overload, "contiguous", OPTIONS[0], True))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("operator", STRENGTHS)
def test_functional_of_layouts(operator: str, layout: str) -> None:
    overload = Overload(operator, (), is_out=False)
    options = OPTIONS[1 + list(LAYOUTS).index(layout) % 2]
    torch.library.opcheck(overload.op, arguments(overload, layout, options, layout != "contiguous"))


@pytest.mark.parametrize("overload", [o for o in schema.OVERLOADS if o.is_out], ids=lambda o: o.qualname)
def test_out(overload: Overload) -> None:
    torch.library.opcheck(
        overload.op,
        arguments(overload, "contiguous", OPTIONS[0], False),
        {"out": torch.empty(2, TOKENS, VOCABULARY)},
    )


@pytest.mark.parametrize("layout", ["batch_slice", "channel_major"])
@pytest.mark.parametrize("operator", STRENGTHS)
def test_out_of_layouts(operator: str, layout: str) -> None:
    overload = Overload(operator, (), is_out=True)
    out = torch.empty(4, TOKENS + 1, VOCABULARY + 2)[::2, 1:, 1:-1]
    torch.library.opcheck(overload.op, arguments(overload, layout, OPTIONS[0], False), {"out": out})


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize(
    ("layout", "scale"), [("contiguous", ()), ("token_slice", (2,)), ("channel_major", ())]
)
def test_prior_linear(layout: str, scale: tuple[int, ...], transpose: bool) -> None:
    x = LAYOUTS[layout](2, TOKENS if transpose else PREV_TOKENS, VOCABULARY).requires_grad_()
    torch.library.opcheck(
        torch.ops.ssg._prior_linear.default,
        (x, torch.rand(scale, requires_grad=True), SIZE, PREV_SIZE, *OPTIONS[0], transpose),
    )


@pytest.mark.parametrize("overload", schema.OVERLOADS, ids=lambda o: o.qualname)
def test_meta(overload: Overload) -> None:
    args = tuple(
        x.to("meta") if isinstance(x, torch.Tensor) else x
        for x in arguments(overload, "channel_major", OPTIONS[0], False)
    )
    out = {"out": torch.empty(2, TOKENS, VOCABULARY, device="meta")} if overload.is_out else {}
    result = overload.op(*args, **out)
    assert result.shape == (2, TOKENS, VOCABULARY)
    assert result.is_contiguous()
    assert result.device.type == "meta"


@pytest.mark.usefixtures("extension")
@pytest.mark.parametrize("operator", STRENGTHS)
def test_inference_runs_no_python(operator: str) -> None:
    """In inference mode a call goes from torch's dispatcher to the compiled kernel, past everything in Python."""
    overload = Overload(operator, (), is_out=False)
    args = arguments(overload, "contiguous", OPTIONS[0], False)
    call, calls = overload.op._op, []
    with torch.inference_mode():
        sys.setprofile(
            lambda frame, event, _: calls.append(frame.f_code.co_name) if event == "call" else None
        )
        try:
            call(*args)
        finally:
            sys.setprofile(None)
    assert calls == []
