"""The compiled library and the Python package refuse a wrong call with the same sentence.

The compiled library checks its calls itself (`csrc/torch/checks.cpp`), and `ssg_kernels/_checks.py` has the same
conditions. Whoever changes a sentence in one of them finds out here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from support.strategies import INTERPOLATIONS, PRIORS, normal
from torch import Tensor

import ssg_kernels
from ssg_kernels import _names

OPTIONS = {*_names.PRIORS, *_names.INTERPOLATIONS}
pytestmark = pytest.mark.usefixtures("extension")


def sentence(monkeypatch: pytest.MonkeyPatch, backend: str, call: Callable[[], Any]) -> str:
    monkeypatch.setenv("SSG_KERNELS_BACKEND", backend)
    with pytest.raises((ValueError, RuntimeError)) as caught:
        call()
    return str(caught.value)


def assert_same(monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any]) -> None:
    compiled, python = (sentence(monkeypatch, name, call) for name in ("cpu", "reference"))
    assert compiled == python


@pytest.mark.parametrize("argument", ["prior", "interpolation"])
@given(text=st.text(st.characters(max_codepoint=126), max_size=8).filter(lambda text: text not in OPTIONS))
def test_any_name(monkeypatch: pytest.MonkeyPatch, argument: str, text: str) -> None:
    assume(text not in (*PRIORS, *INTERPOLATIONS))
    logits, prev_logits = torch.zeros(1, 4, 1), torch.zeros(1, 1, 1)
    options = {argument: text}
    assert_same(
        monkeypatch, lambda: ssg_kernels.guided_logits(logits, prev_logits, (2, 2), (1, 1), 0.5, **options)
    )


# A change of one dimension or size at a time, to anything near what is right.
@given(
    rows=st.integers(0, 3),
    tokens=st.integers(0, 7),
    columns=st.integers(0, 3),
    size=st.tuples(st.integers(-1, 4), st.integers(-1, 4)),
    prev_size=st.tuples(st.integers(-1, 4), st.integers(-1, 4)),
    prev_rows=st.integers(0, 3),
    is_cfg=st.booleans(),
)
def test_any_sizes(
    monkeypatch: pytest.MonkeyPatch,
    rows: int,
    tokens: int,
    columns: int,
    size: tuple[int, int],
    prev_size: tuple[int, int],
    prev_rows: int,
    is_cfg: bool,
) -> None:
    logits, prev_logits = torch.zeros(rows, tokens, columns), torch.zeros(prev_rows, 1, columns)
    strengths = (0.5, 1.0, 1.0) if is_cfg else (0.5,)
    function = ssg_kernels.guided_logits_cfg if is_cfg else ssg_kernels.guided_logits

    def outcome(backend: str) -> str:
        monkeypatch.setenv("SSG_KERNELS_BACKEND", backend)
        try:
            return str(tuple(function(logits, prev_logits, size, prev_size, *strengths).shape))
        except (ValueError, RuntimeError) as error:
            return str(error)

    assert outcome("cpu") == outcome("reference")


LARGE = [2**16, 2**31, 2**32, 2**62, 2**63 - 1]


@pytest.mark.parametrize("h", LARGE)
@pytest.mark.parametrize("w", LARGE)
def test_products_beyond_64_bits(monkeypatch: pytest.MonkeyPatch, h: int, w: int) -> None:
    empty = torch.zeros(1, 0, 3)
    assert_same(monkeypatch, lambda: ssg_kernels.guided_logits(empty, empty, (h, w), (h, w), 0.5))
    text = sentence(monkeypatch, "cpu", lambda: ssg_kernels.guided_logits(empty, empty, (h, w), (h, w), 0.5))
    assert text == f"guided_logits: logits must have L = {h}*{w} = {h * w} tokens for size ({h}, {w}), got 0"
    # The result of this operator has `size`, and no argument has.
    linear = _linear(x=normal(1, 1, 3), prev_size=(1, 1), size=(h, w), scale=torch.ones(1))
    if h * w >= 2**63:
        assert_same(monkeypatch, linear)
        text = sentence(monkeypatch, "cpu", linear)
        assert text == f"_prior_linear: size must have fewer than 2**63 tokens, got {h}*{w} = {h * w}"
    elif h * w >= 2**62:
        shape = (1, h * w, 3)
        assert sentence(monkeypatch, "cpu", linear) == f"a result of shape {shape} is too large"


def test_strides_beyond_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stride of 2**62 elements leads nowhere where there is one sample."""
    monkeypatch.setenv("SSG_KERNELS_BACKEND", "cpu")
    logits, prev_logits = normal(1, 4, 3), normal(1, 1, 3)
    expected = ssg_kernels.guided_logits(logits, prev_logits, (2, 2), (1, 1), 0.5)
    far = logits.as_strided((1, 4, 3), (2**62, 3, 1))
    prev_far = prev_logits.as_strided((1, 1, 3), (2**62, 2**61, 1))
    assert torch.equal(ssg_kernels.guided_logits(far, prev_far, (2, 2), (1, 1), 0.5), expected)
    out = torch.zeros(1, 4, 3).as_strided((1, 4, 3), (2**62, 3, 1))
    ssg_kernels.guided_logits(far, prev_far, (2, 2), (1, 1), 0.5, out=out)
    assert torch.equal(out, expected)


@pytest.mark.parametrize("shape", [(0, 2**62, 1), (2, 2**62, 0)])
def test_many_tokens_without_logits(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]) -> None:
    monkeypatch.setenv("SSG_KERNELS_BACKEND", "cpu")
    empty = torch.zeros(shape)
    assert ssg_kernels.guided_logits(empty, empty, (2**31, 2**31), (2**31, 2**31), 0.5).shape == shape


READABLE = set(_names.STRENGTH_DTYPES)
ALL_DTYPES = sorted({x for x in vars(torch).values() if isinstance(x, torch.dtype)}, key=str)


@pytest.mark.parametrize("dtype", [d for d in ALL_DTYPES if d not in READABLE], ids=str)
def test_any_unreadable_strength(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    logits, prev_logits = torch.zeros(1, 4, 3), torch.zeros(1, 1, 3)
    if str(dtype).startswith(("torch.qu", "torch.qi")):
        value = torch.empty((), dtype=dtype)
    else:
        value = torch.zeros(16, dtype=torch.uint8).view(dtype)[0]
    for call in (
        lambda: ssg_kernels.guided_logits(logits, prev_logits, (2, 2), (1, 1), value),
        _linear(scale=value),
        _sample(scale=value),
    ):
        assert_same(monkeypatch, call)
    with pytest.raises((ValueError, RuntimeError), match=f"guided_logits: beta must be a .*, got {dtype}$"):
        ssg_kernels.guided_logits(logits, prev_logits, (2, 2), (1, 1), value)


@pytest.mark.parametrize("dtype", _names.STRENGTH_DTYPES, ids=str)
def test_any_readable_strength(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    logits, prev_logits = normal(1, 4, 3), normal(1, 1, 3)
    for backend in ("cpu", "reference"):
        monkeypatch.setenv("SSG_KERNELS_BACKEND", backend)
        expected = ssg_kernels.guided_logits(logits, prev_logits, (2, 2), (1, 1), 1.0)
        one = torch.ones((), dtype=dtype)
        assert torch.equal(ssg_kernels.guided_logits(logits, prev_logits, (2, 2), (1, 1), one), expected)


def test_an_odd_batch_with_cfg(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, prev_logits = torch.zeros(3, 4, 1), torch.zeros(3, 1, 1)
    assert_same(
        monkeypatch,
        lambda: ssg_kernels.guided_logits_cfg(logits, prev_logits, (2, 2), (1, 1), 0.5, 1.0, 1.0),
    )


def _shifted(x: Tensor) -> Tensor:
    """What lies eight elements behind the beginning of x, shaped like the result of the call."""
    return x.flatten().as_strided((2, 12, 8), (96, 8, 1), 8)


def _room() -> Tensor:
    return torch.zeros(300)


def _out_of(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """(logits, prev_logits, out) with an `out` that cannot be written."""
    logits, prev_logits, room = normal(2, 12, 8), normal(2, 4, 8), _room()
    if name == "a part of the logits":
        logits = room[:192].view(2, 12, 8)
    if name == "a part of prev_logits":
        prev_logits = room[:64].view(2, 4, 8)
    return logits, prev_logits, OUTS[name](room)


OUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "another shape": lambda room: torch.zeros(2, 12, 7),
    "another rank": lambda room: torch.zeros(12, 8),
    "another dtype": lambda room: torch.zeros(2, 12, 8).double(),
    "another device": lambda room: torch.zeros(2, 12, 8, device="meta"),
    "a strided vocabulary": lambda room: torch.zeros(2, 8, 12).mT,
    "repeated samples": lambda room: torch.zeros(1, 12, 8).expand(2, 12, 8),
    "repeated tokens": lambda room: torch.zeros(2, 1, 8).expand(2, 12, 8),
    "overlapping rows": lambda room: room.as_strided((2, 12, 8), (96, 7, 1)),
    "a part of the logits": _shifted,
    "a part of prev_logits": _shifted,
}


@pytest.mark.parametrize("name", OUTS)
def test_any_out(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    logits, prev_logits, out = _out_of(name)
    assert_same(
        monkeypatch,
        lambda: ssg_kernels.guided_logits(logits, prev_logits, (3, 4), (2, 2), 0.5, out=out),
    )


def _linear(**changes: Any) -> Callable[[], Tensor]:
    call: dict[str, Any] = {
        "x": normal(2, 4, 3),
        "scale": torch.ones(2),
        "size": (3, 4),
        "prev_size": (2, 2),
        "prior": "dse",
        "interpolation": "bilinear",
        "rescale": False,
        "transpose": False,
        **changes,
    }
    return lambda: torch.ops.ssg._prior_linear.default(*call.values())


@pytest.mark.parametrize(
    "call",
    [
        _linear(x=normal(4, 3)),
        _linear(x=normal(2, 4, 3).long()),
        _linear(size=(3, 0)),
        _linear(size=(3, 4, 1)),
        _linear(prev_size=(4, 1)),
        _linear(x=normal(2, 5, 3)),
        _linear(x=normal(2, 4, 3), transpose=True),
        _linear(prior="x'y"),
        _linear(interpolation='"'),
        _linear(scale=torch.ones(3)),
        _linear(scale=torch.ones(2, dtype=torch.complex64)),
        _linear(scale=torch.ones((), device="meta")),
    ],
)
def test_any_linear_map(monkeypatch: pytest.MonkeyPatch, call: Callable[[], Tensor]) -> None:
    assert_same(monkeypatch, call)


def _sample(**changes: Any) -> Callable[[], Tensor]:
    call: dict[str, Any] = {
        "logits": normal(2, 4, 3),
        "uniform": torch.rand(2, 4),
        "top_k": 2,
        "top_p": 0.5,
        **changes,
    }
    scale = call.pop("scale", None)
    if scale is None:
        return lambda: torch.ops.ssg.sample(**call)
    packet, filters = torch.ops.ssg._sample_tempered, (call["top_k"], call["top_p"])
    if not any(isinstance(x, Tensor) for x in filters):
        return lambda: packet(call["logits"], call["uniform"], scale, *filters)
    tensors = [x if isinstance(x, Tensor) else torch.tensor(x) for x in filters]
    return lambda: packet.tensors(call["logits"], call["uniform"], scale, *tensors)


@pytest.mark.parametrize(
    "call",
    [
        _sample(logits=normal(2, 4)),
        _sample(logits=normal(2, 4, 3).int()),
        _sample(logits=normal(2, 4, 0)),
        _sample(uniform=torch.rand(2, 5)),
        _sample(uniform=torch.rand(8)),
        _sample(uniform=torch.rand(2, 4).half()),
        _sample(uniform=torch.rand(2, 4, device="meta")),
        _sample(top_k=-1),
        _sample(top_k=4),
        _sample(top_p=1.0000001),
        _sample(top_p=-1e-9),
        _sample(top_p=float("nan")),
        _sample(scale=torch.ones(2), top_k=torch.ones(3), top_p=torch.ones(())),
        _sample(scale=torch.ones(2), top_p=torch.ones(3)),
        _sample(scale=torch.ones(2), top_p=torch.ones((), dtype=torch.complex64)),
        _sample(scale=torch.ones(2), top_p=torch.ones((), device="meta")),
        _sample(scale=torch.ones(3)),
        _sample(scale=torch.ones(2, 1)),
        _sample(scale=torch.ones((), dtype=torch.complex64)),
        _sample(scale=torch.tensor([1.0, -2.5])),
        _sample(scale=0.0),
        _sample(scale=float("nan")),
        _sample(scale=float("inf")),
        _sample(logits=torch.full((2, 4, 3), -torch.inf)),
        _sample(logits=torch.full((2, 4, 3), torch.nan)),
        _sample(logits=torch.full((2, 4, 3), torch.inf)),
    ],
)
def test_any_draw(monkeypatch: pytest.MonkeyPatch, call: Callable[[], Tensor]) -> None:
    assert_same(monkeypatch, call)
