"""Launches up to the driver: what reaches a GPU, what is kept between calls, and what happens without a GPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import triton
from support.triton_compiling import driver
from torch import Tensor

import ssg_kernels
from ssg_kernels import _triton
from ssg_kernels._call import GuidedCall, Options
from ssg_kernels._torch import backends, extension
from ssg_kernels._triton import launch

OPTIONS = Options("dse", "bilinear", False)
# Positions in what Triton passes to a launcher: the grid (three numbers), stream, function, packed metadata, launch
# metadata, two hooks, and the kernel's arguments.
_FUNCTION, _METADATA, _ARGUMENTS = 4, 6, 9


@pytest.fixture
def launched() -> Iterator[list[tuple[Any, ...]]]:
    """The arguments of every launch, on a stand-in for a GPU."""
    found: list[tuple[Any, ...]] = []
    launch._launches.clear()
    with driver("sm_90", lambda *arguments: found.append(arguments)):
        yield found
    launch._launches.clear()


def guide(
    logits: Tensor,
    prev_logits: Tensor,
    *strengths: float | Tensor,
    out: Tensor | None = None,
    size: tuple[int, int] = (4, 4),
    prev_size: tuple[int, int] = (3, 3),
) -> Tensor:
    operator = "guided_logits" if len(strengths) == 1 else "guided_logits_cfg"
    return launch.guided(GuidedCall(operator, logits, prev_logits, size, prev_size, strengths, OPTIONS, out))


def same(a: object, b: object) -> bool:
    if not isinstance(a, Tensor):
        return a is b or (type(a) is type(b) and a == b)
    # With float64 logits, each call passes a float as a new tensor.
    is_scalar = a.ndim == 0 and a.dtype == torch.float64 and torch.equal(a, b)
    return is_scalar or (a.data_ptr(), a.dtype, a.stride()) == (b.data_ptr(), b.dtype, b.stride())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", ["float", "scalar", "vector"])
def test_later_calls_hand_over_what_the_first_did(
    launched: list[tuple[Any, ...]], dtype: torch.dtype, kind: str
) -> None:
    accurate = torch.float64 if dtype == torch.float64 else torch.float32
    strength = {"float": 0.5, "scalar": torch.tensor(0.5, dtype=accurate)}.get(
        kind, torch.ones(2, dtype=accurate)
    )
    logits, prev_logits = torch.randn(4, 16, 40, dtype=dtype), torch.randn(4, 9, 40, dtype=dtype)
    out = torch.empty(2, 16, 40, dtype=dtype)
    for _ in range(3):
        guide(logits, prev_logits, strength, 1.5, 0.5, out=out)
    first, *later = (call[:_METADATA] + call[_METADATA + 1 :] for call in launched)
    assert len(later) == 2
    for call in later:
        assert [(a, b) for a, b in zip(first, call, strict=True) if not same(a, b)] == []
    (kept,) = launch._launches.values()
    table = kept.tables[0]
    assert any(x is table for x in launched[0][_ARGUMENTS:])
    # Only logits are in half precision, never a table.
    assert table.dtype == accurate


def test_what_a_kernel_is_compiled_for_is_looked_up(launched: list[tuple[Any, ...]]) -> None:
    def functions(*calls: tuple[Tensor, Tensor, float | Tensor]) -> list[object]:
        del launched[:]
        for call in calls:
            guide(*call)
            guide(*call)
        assert len(launched) == 2 * len(calls)
        assert all(a[_FUNCTION] is b[_FUNCTION] for a, b in zip(launched[::2], launched[1::2], strict=True))
        return [call[_FUNCTION] for call in launched[::2]]

    logits, prev_logits, beta = torch.randn(3, 16, 48), torch.randn(3, 9, 48), torch.rand(3)
    unaligned = torch.randn(3 * 16 * 48 + 1)[1:].view(3, 16, 48)
    strided = torch.randn(3, 16, 49)[..., :48]
    transposed = torch.randn(3, 48, 9).mT
    kernels = functions(
        (logits, prev_logits, beta),
        (unaligned, prev_logits, beta),
        (strided, prev_logits, beta),
        (logits, transposed, beta),
        (logits, prev_logits, beta[:1].expand(3)),
        (logits, prev_logits, 0.5),
    )
    assert len(set(map(id, kernels))) == len(kernels)
    # Calls with another batch use the same kernel. So do calls with another vocabulary, among multiples of 16.
    again = functions(
        (logits[:1], prev_logits[:1], 0.5), (logits[:2], prev_logits[:2], 0.5), (logits, prev_logits, 0.5)
    )
    assert len(set(map(id, again))) == 1


def test_launches_are_forgotten_and_tables_are_not(
    launched: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_MOST_LAUNCHES", 3)
    monkeypatch.setattr(launch, "_tables", {})
    logits, prev_logits = torch.randn(8, 16, 40), torch.randn(8, 9, 40)
    for batch in range(1, 9):
        guide(logits[:batch], prev_logits[:batch], 0.5)
    assert len(launch._launches) == 3
    # A captured graph may read the table of a forgotten launch. All launches of a step share one table, which stays.
    assert len(launch._tables) == 1
    ((table,),) = launch._tables.values()
    assert all(any(x is table for x in call[_ARGUMENTS:]) for call in launched)
    guide(logits[:, :1], prev_logits[:, :1], 0.5, size=(1, 1), prev_size=(1, 1))
    assert len(launch._tables) == 2
    assert len(launched) == 9


def test_a_first_call_under_capture_says_what_to_do(
    launched: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(device: torch.device) -> None:
        refused(torch.device("cuda", 0))

    refused = launch._refuse_capture
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(launch, "_refuse_capture", refuse)
    monkeypatch.setattr(launch, "_tables", {})
    text = r"^ssg_kernels: .* call it once with the same shapes, strides and strengths before capturing$"
    logits, prev_logits = torch.randn(2, 16, 40), torch.randn(2, 9, 40)
    with pytest.raises(RuntimeError, match=text):
        guide(logits, prev_logits, 0.5)
    with pytest.raises(RuntimeError, match=text):
        launch.sample(logits, torch.rand(2, 16), 1.0, 5, 0.5)
    # Nothing was uploaded or compiled.
    assert not launched
    assert not launch._tables
    assert not launch._launches
    monkeypatch.setattr(launch, "_refuse_capture", refused)
    guide(logits, prev_logits, 0.5)
    monkeypatch.setattr(launch, "_refuse_capture", refuse)
    guide(logits, prev_logits, 0.5)
    assert len(launched) == 2


@pytest.mark.parametrize("kind", ["float", "scalar", "vector"])
def test_sampling_compiles_once(launched: list[tuple[Any, ...]], kind: str) -> None:
    logits, uniform = torch.randn(2, 16, 40), torch.rand(2, 16)
    for scale, top_k, top_p in (
        (1.0, 5, 0.5),
        (1.0, 5, 0.5),
        (0.0, 1, 1.0),
        (1e-300, 0, 0.0),
        (2.0, 16, 0.25),
    ):
        strength = {"float": scale, "scalar": torch.tensor(scale)}.get(kind, torch.full((2,), scale))
        launch.sample(logits, uniform, strength, top_k, top_p)
    assert len(launch._launches) == 1
    first, second, *others = (
        [x for x in call[_ARGUMENTS:] if not isinstance(x, Tensor)] for call in launched
    )
    assert first == second
    # The numbers take 32 bits each, so that the kernel that was compiled for the first call takes those of any other.
    assert all(call[_FUNCTION] is launched[0][_FUNCTION] for call in launched)
    numbers = [x for call in (first, *others) for x in call if type(x) is int]
    assert all(-(2**31) <= x < 2**31 for x in numbers)


def test_empty_calls_launch_nothing(launched: list[tuple[Any, ...]]) -> None:
    guide(torch.randn(0, 16, 40), torch.randn(0, 9, 40), 0.5)
    assert not launched


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    _triton._unavailable.cache_clear()
    backends._warn_of_the_reference.cache_clear()
    yield monkeypatch
    _triton._unavailable.cache_clear()
    backends._warn_of_the_reference.cache_clear()


def test_why_it_cannot_serve(found: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert (
        _triton.unavailable(cpu)
        == "Triton serves CPU tensors only in its interpreter, under TRITON_INTERPRET=1"
    )
    assert (
        _triton.unavailable(torch.device("mps"))
        == "the Triton kernels are for CUDA and ROCm devices, not mps"
    )
    with driver("sm_90"):
        assert _triton.unavailable(cuda) is None
    _triton._unavailable.cache_clear()
    if not torch.cuda.is_available():
        assert _triton.unavailable(cuda).startswith("triton finds no usable GPU driver: ")
    _triton._unavailable.cache_clear()
    found.setattr(importlib.util, "find_spec", lambda name: None)
    assert _triton.unavailable(cuda) == "triton is not installed: pip install triton"
    # No other backend could serve these tensors. A warning says so once, and the reference computes.
    with pytest.warns(
        UserWarning,
        match=r"no kernel for these cuda tensors \(triton is not installed: pip install triton\): the reference",
    ):
        assert backends.resolve(cuda) == "reference"
    assert backends.resolve(cuda) == "reference"


def test_no_compiler(found: pytest.MonkeyPatch) -> None:
    """Triton builds a helper for its launches with a C compiler when its driver is first used."""

    class Driver:
        def get_current_target(self) -> None:
            raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")

    found.setattr(triton.runtime.driver, "_active", Driver())
    reason = _triton.unavailable(torch.device("cuda"))
    assert reason.startswith("triton finds no usable GPU driver: Failed to find C compiler.")
    assert reason.endswith(": install one, or name it with CC")


def test_a_failed_launch_says_how_to_go_on() -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered")

    launch._launches.clear()
    logits, prev_logits = torch.randn(1, 16, 40), torch.randn(1, 9, 40)
    with driver("sm_90", fail):
        for _ in range(2):  # when it is compiled, and later
            with pytest.raises(
                RuntimeError,
                match=r"^ssg_kernels: Triton could not compile or launch \w+_kernel: Triton Error .*encountered\. "
                r"SSG_KERNELS_BACKEND=cuda, or reference, computes without Triton$",
            ):
                guide(logits, prev_logits, 0.5)
    launch._launches.clear()


def test_which_backend_comes_first(found: pytest.MonkeyPatch) -> None:
    found.setattr(backends, "FIRST", {8: "triton", 9: "cuda", 12: "triton"})
    assert [backends.first(family) for family in (7, 8, 9, 10, 11, 12, 13)] == [
        "triton", "triton", "cuda", "cuda", "cuda", "triton", "triton",
    ]  # fmt: skip
    assert backends.families_of_triton() == [8, *range(12, 32)]
    found.setattr(importlib.util, "find_spec", lambda name: None)
    assert backends.families_of_triton() == []


def test_the_cuda_kernels_serve_where_triton_was_first_and_fails(found: pytest.MonkeyPatch) -> None:
    left = []
    found.setattr(extension, "cuda_error", lambda device: None)
    found.setattr(extension, "take_the_rest", lambda families=(): left.append(families))
    found.setattr(importlib.util, "find_spec", lambda name: None)
    assert backends.resolve(torch.device("cuda")) == "cuda"
    assert left == [()]


def test_forced_where_it_cannot_serve(found: pytest.MonkeyPatch) -> None:
    found.setenv("SSG_KERNELS_BACKEND", "triton")
    with pytest.raises(
        (ValueError, RuntimeError), match="SSG_KERNELS_BACKEND=triton cannot serve tensors on cpu: Triton"
    ):
        ssg_kernels.guided_logits(torch.randn(1, 4, 5), torch.randn(1, 1, 5), (2, 2), (1, 1), 0.5)
