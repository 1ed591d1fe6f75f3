"""Every wrong call raises before any work is done, with the same words on every backend."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.strategies import normal

import ssg_kernels
from ssg_kernels import reference

Arguments = dict[str, Any]
Break = Callable[[Arguments], None]


def arguments(operator: str) -> Arguments:
    """A valid call: two samples (four rows with cfg), 2x2 to 3x4, eight columns."""
    is_cfg = operator == "guided_logits_cfg"
    rows = 4 if is_cfg else 2
    return {
        "logits": normal(rows, 12, 8),
        "prev_logits": normal(rows, 4, 8),
        "size": (3, 4),
        "prev_size": (2, 2),
        "beta": 0.5,
        **({"cfg": 1.5, "prev_cfg": 1.0} if is_cfg else {}),
        "prior": "dse",
        "interpolation": "bilinear",
        "rescale": False,
    }


def put(**values: Any) -> Break:
    return lambda call: call.update(values)


def alter(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Break:
    return lambda call: call.update({name: change(call[name])})


# In the order in which the operators check. {b} stands for the batch of the result, {r} for that of the logits.
WRONG: list[tuple[str, Break]] = [
    ("logits must be a 3-D tensor (B, L, V), got 2-D", alter("logits", lambda x: x[0])),
    ("logits must be a 3-D tensor (B, L, V), got 4-D", alter("logits", lambda x: x[None])),
    ("prev_logits must be a 3-D tensor (B, L', V), got 2-D", alter("prev_logits", lambda x: x[0])),
    (
        "logits must be float32, bfloat16, float16 or float64, got torch.int64",
        alter("logits", lambda x: x.long()),
    ),
    (
        "logits must be float32, bfloat16, float16 or float64, got torch.bool",
        alter("logits", lambda x: x.bool()),
    ),
    (
        "logits must be float32, bfloat16, float16 or float64, got torch.complex64",
        alter("logits", lambda x: x.to(torch.complex64)),
    ),
    (
        "prev_logits must have the dtype of logits, torch.float32, got torch.float64",
        alter("prev_logits", lambda x: x.double()),
    ),
    (
        "prev_logits must have the dtype of logits, torch.bfloat16, got torch.float32",
        alter("logits", lambda x: x.bfloat16()),
    ),
    (
        "prev_logits must be on the device of logits, cpu, got meta",
        alter("prev_logits", lambda x: x.to("meta")),
    ),
    ("size must be two positive integers, got (0, 3)", put(size=(0, 3))),
    ("size must be two positive integers, got (3, -4)", put(size=(3, -4))),
    ("size must be two positive integers, got (3, 4, 1)", put(size=(3, 4, 1))),
    ("size must be two positive integers, got (12,)", put(size=(12,))),
    ("size must be two positive integers, got ()", put(size=())),
    ("prev_size must be two positive integers, got (2, 0)", put(prev_size=(2, 0))),
    ("prev_size must be two positive integers, got (2, 2, 1)", put(prev_size=(2, 2, 1))),
    (
        "prev_size must not exceed size, got prev_size (4, 1) and size (3, 4)",
        put(prev_size=(4, 1)),
    ),
    (
        "prev_size must not exceed size, got prev_size (1, 5) and size (3, 4)",
        put(prev_size=(1, 5)),
    ),
    ("logits must have L = 3*4 = 12 tokens for size (3, 4), got 11", alter("logits", lambda x: x[:, :11])),
    (
        "prev_logits must have L' = 2*2 = 4 tokens for prev_size (2, 2), got 3",
        alter("prev_logits", lambda x: x[:, :3]),
    ),
    ("prev_logits must have the batch of logits, {r}, got 1", alter("prev_logits", lambda x: x[:1])),
    ("prev_logits must have the vocabulary of logits, 8, got 7", alter("prev_logits", lambda x: x[..., :7])),
    ("prior must be one of 'dse', 'dse_zero_pad', 'spatial', got 'x'", put(prior="x")),
    ("prior must be one of 'dse', 'dse_zero_pad', 'spatial', got ''", put(prior="")),
    (
        "interpolation must be one of 'nearest', 'bilinear', 'bicubic', 'area', got 'linear'",
        put(interpolation="linear"),
    ),
]

ODD_BATCH: list[tuple[str, Break]] = [
    (
        "logits must hold an even batch, conditional half first, got 3",
        lambda call: call.update(logits=call["logits"][:3], prev_logits=call["prev_logits"][:3]),
    ),
]

WRONG_BETA: list[tuple[str, Break]] = [
    (
        "beta must be a float or a tensor of shape () or ({b},), got shape (3,)",
        put(beta=torch.ones(3)),
    ),
    (
        "beta must be a float or a tensor of shape () or ({b},), got shape (1,)",
        put(beta=torch.ones(1)),
    ),
    (
        "beta must be a float or a tensor of shape () or ({b},), got shape (2, 1, 1)",
        put(beta=torch.ones(2, 1, 1)),
    ),
    ("beta must be a real tensor, got torch.complex64", put(beta=torch.ones(2, dtype=torch.complex64))),
    ("beta must be on the device of logits, cpu, got meta", put(beta=torch.ones((), device="meta"))),
]

WRONG_STRENGTH_OF_CFG: list[tuple[str, Break]] = [
    (f"{name} {text}", put(**{name: value}))
    for name in ("cfg", "prev_cfg")
    for text, value in (
        ("must be a float or a tensor of shape () or (2,), got shape (4,)", torch.ones(4)),
        ("must be a float or a tensor of shape () or (2,), got shape (2, 1)", torch.ones(2, 1)),
        ("must be a real tensor, got torch.complex128", torch.ones((), dtype=torch.complex128)),
        ("must be on the device of logits, cpu, got meta", torch.ones(2, device="meta")),
    )
]

CASES = [("guided_logits", *wrong) for wrong in (*WRONG, *WRONG_BETA)]
CASES += [
    ("guided_logits_cfg", *wrong) for wrong in (*WRONG, *ODD_BATCH, *WRONG_BETA, *WRONG_STRENGTH_OF_CFG)
]


def message_of(function: Callable[..., Any], call: Arguments) -> str:
    with pytest.raises((ValueError, RuntimeError)) as caught:
        function(**call)
    return str(caught.value)


def written(operator: str, text: str) -> str:
    return f"{operator}: " + text.format(b=2, r=4 if operator == "guided_logits_cfg" else 2)


def broken(operator: str, *breaks: Break) -> Arguments:
    call = arguments(operator)
    for spoil in breaks:
        spoil(call)
    return call


def ids(value: Any) -> str | None:
    return value if isinstance(value, str) else ""


@pytest.mark.parametrize(("operator", "text", "spoil"), CASES, ids=ids)
def test_wrong_call(backend: str, operator: str, text: str, spoil: Break) -> None:
    call = broken(operator, spoil)
    assert written(operator, text) in message_of(getattr(ssg_kernels, operator), call)
    # The .out overload raises the same, and writes nothing.
    call["out"] = torch.full((2, 12, 8), torch.nan)
    assert written(operator, text) in message_of(getattr(ssg_kernels, operator), call)
    assert call["out"].isnan().all()


@pytest.mark.parametrize(("operator", "text", "spoil"), CASES, ids=ids)
def test_wrong_call_of_the_reference(operator: str, text: str, spoil: Break) -> None:
    assert written(operator, text) in message_of(getattr(reference, operator), broken(operator, spoil))


@pytest.mark.parametrize(("operator", "text", "spoil"), CASES, ids=ids)
def test_wrong_call_while_tracing(operator: str, text: str, spoil: Break) -> None:
    call = {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in broken(operator, spoil).items()}
    if "device" in text:
        pytest.skip("on meta tensors every device is the same")
    assert written(operator, text) in message_of(getattr(ssg_kernels, operator), call)


@pytest.mark.parametrize("operator", ["guided_logits", "guided_logits_cfg"])
def test_the_first_of_two_mistakes_is_named(backend: str, operator: str) -> None:
    pairs = 0
    wrong = [case[1:] for case in CASES if case[0] == operator]
    for (first, spoil_first), (_, spoil_second) in itertools.combinations(wrong, 2):
        theirs = touched(operator, spoil_second)
        if theirs & (touched(operator, spoil_first) | set(re.findall(r"\w+", first))):
            continue  # the second mistake would undo the first, or change the message about it
        call = broken(operator, spoil_first, spoil_second)
        assert written(operator, first) in message_of(getattr(ssg_kernels, operator), call)
        pairs += 1
    assert pairs > 200


def touched(operator: str, spoil: Break) -> set[str]:
    call = arguments(operator)
    before = dict(call)
    spoil(call)
    return {name for name in call if call[name] is not before[name]}


def _of_two(count: int) -> Callable[[Arguments], torch.Tensor]:
    return lambda call: torch.full((2, 12, count), torch.nan)


OUT_TEXT = "out must be a (2, 12, 8) torch.float32 tensor on cpu with a contiguous vocabulary, got "
WRONG_OUT: list[tuple[str, Callable[[Arguments], torch.Tensor]]] = [
    (OUT_TEXT + "(2, 12, 7) torch.float32 on cpu", _of_two(7)),
    (OUT_TEXT + "(12, 8) torch.float32 on cpu", lambda call: torch.full((12, 8), torch.nan)),
    (OUT_TEXT + "(3, 12, 8) torch.float32 on cpu", lambda call: torch.full((3, 12, 8), torch.nan)),
    (OUT_TEXT + "(2, 12, 8) torch.float64 on cpu", lambda call: torch.full((2, 12, 8), torch.nan).double()),
    (OUT_TEXT + "(2, 12, 8) torch.float32 on cpu", lambda call: torch.full((2, 8, 12), torch.nan).mT),
    (OUT_TEXT + "(2, 12, 8) torch.float32 on cpu", lambda call: torch.full((2, 12, 16), torch.nan)[..., ::2]),
    (OUT_TEXT + "(2, 12, 8) torch.float32 on meta", lambda call: torch.empty(2, 12, 8, device="meta")),
]


@pytest.mark.parametrize("operator", ["guided_logits", "guided_logits_cfg"])
@pytest.mark.parametrize(("text", "make"), WRONG_OUT, ids=ids)
def test_wrong_out(backend: str, operator: str, text: str, make: Callable[[Arguments], torch.Tensor]) -> None:
    call = arguments(operator)
    call["out"] = make(call)
    assert written(operator, text) in message_of(getattr(ssg_kernels, operator), call)
    assert call["out"].device.type == "meta" or call["out"].isnan().all()


def _in_one_buffer(call: Arguments, shift: int) -> torch.Tensor:
    """Puts the logits into a buffer. Returns a view shaped like `out` that starts `shift` elements further."""
    logits = call["logits"]
    buffer = torch.zeros(logits.numel() + 200)
    call["logits"] = buffer[: logits.numel()].view(logits.shape).copy_(logits)
    return buffer[shift : shift + 2 * 12 * 8].view(2, 12, 8)


@pytest.mark.parametrize("operator", ["guided_logits", "guided_logits_cfg"])
@pytest.mark.parametrize("shift", [1, 8, 96, 191])
def test_out_must_be_logits_or_apart_from_them(backend: str, operator: str, shift: int) -> None:
    call = arguments(operator)
    call["out"] = _in_one_buffer(call, shift)
    before = call["out"].clone(), call["logits"].clone()
    text = written(operator, "out must be logits itself or not overlap it")
    assert text in message_of(getattr(ssg_kernels, operator), call)
    assert torch.equal(call["out"], before[0])
    assert torch.equal(call["logits"], before[1])


def test_out_may_not_be_the_unconditional_half(backend: str) -> None:
    call = arguments("guided_logits_cfg")
    call["out"] = call["logits"][2:]
    before = call["logits"].clone()
    text = "guided_logits_cfg: out must be logits itself or not overlap it"
    assert text in message_of(ssg_kernels.guided_logits_cfg, call)
    assert torch.equal(call["logits"], before)


@pytest.mark.parametrize("operator", ["guided_logits", "guided_logits_cfg"])
def test_out_must_not_overlap_prev_logits(backend: str, operator: str) -> None:
    call = arguments(operator)
    buffer = torch.zeros(2 * 12 * 8 + call["prev_logits"].numel())
    prev_logits = buffer[-call["prev_logits"].numel() :].view(call["prev_logits"].shape)
    call["prev_logits"] = prev_logits.copy_(call["prev_logits"])
    # The two share one element.
    call["out"] = buffer[1 : 1 + 2 * 12 * 8].view(2, 12, 8)
    before = buffer.clone()
    assert written(operator, "out must not overlap prev_logits") in message_of(
        getattr(ssg_kernels, operator), call
    )
    assert torch.equal(buffer, before)
    # Neighbours without a common element do not overlap.
    call["out"] = buffer[: 2 * 12 * 8].view(2, 12, 8)
    getattr(ssg_kernels, operator)(**call)
    assert torch.equal(call["prev_logits"], before[-prev_logits.numel() :].view_as(prev_logits))


def test_out_whose_elements_share_memory(backend: str) -> None:
    call = arguments("guided_logits")
    call["out"] = torch.zeros(1, 12, 8).expand(2, 12, 8)
    expected = "guided_logits: out must not share memory between its elements"
    assert message_of(ssg_kernels.guided_logits, call) == expected
    assert not call["out"].any()


BACKENDS = "SSG_KERNELS_BACKEND must be one of reference, cpu, triton, cuda, got 'x'"


@pytest.mark.parametrize("operator", ["guided_logits", "guided_logits_cfg"])
@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("x", BACKENDS),
        ("CPU", BACKENDS.replace("'x'", "'CPU'")),
        ("triton", "SSG_KERNELS_BACKEND=triton cannot serve tensors on cpu"),
        ("cuda", "SSG_KERNELS_BACKEND=cuda cannot serve tensors on cpu"),
    ],
)
def test_a_backend_that_cannot_serve(
    monkeypatch: pytest.MonkeyPatch, operator: str, value: str, text: str
) -> None:
    monkeypatch.setenv("SSG_KERNELS_BACKEND", value)
    call = arguments(operator)
    assert text in message_of(getattr(ssg_kernels, operator), call)
    call["out"] = torch.full((2, 12, 8), torch.nan)
    assert text in message_of(getattr(ssg_kernels, operator), call)
    assert call["out"].isnan().all()
    # A wrong call is wrong on every backend, so its error comes before that of the backend.
    call["prior"] = "x"
    assert written(operator, "prior must be one of") in message_of(getattr(ssg_kernels, operator), call)


@pytest.mark.parametrize("operator", ["guided_logits", "guided_logits_cfg"])
@pytest.mark.parametrize("argument", ["beta", "cfg", "prev_cfg"])
@pytest.mark.parametrize("value", ["strong", None, [0.5, 0.5]])
def test_a_strength_that_is_no_number(operator: str, argument: str, value: object) -> None:
    call = arguments(operator)
    if argument not in call:
        return
    call[argument] = value
    with pytest.raises((TypeError, ValueError, RuntimeError)):
        getattr(ssg_kernels, operator)(**call)


@pytest.mark.usefixtures("extension")
@pytest.mark.parametrize("operator", ["guided_logits", "guided_logits_cfg"])
def test_the_kernel_and_the_reference_use_the_same_words(
    monkeypatch: pytest.MonkeyPatch, operator: str
) -> None:
    for text, spoil in (case[1:] for case in CASES if case[0] == operator):
        messages = []
        for name in ("cpu", "reference"):
            monkeypatch.setenv("SSG_KERNELS_BACKEND", name)
            messages.append(message_of(getattr(ssg_kernels, operator), broken(operator, spoil)))
        of_python = message_of(getattr(reference, operator), broken(operator, spoil))
        assert messages[0] == messages[1], text
        assert of_python in messages[0]
