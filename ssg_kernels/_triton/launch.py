"""Launches the kernels for checked arguments. One key finds the plan, the tables and the compiled kernel."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssg_kernels._call import GuidedCall, Options, Strength
from ssg_kernels._triton import dense, factors, plan, sampling, separable, targets
from ssg_kernels._triton.step import LaunchPlan, Step

UNFUSED = {"enable_fp_fusion": False}  # the kernels say themselves where to fuse
_INTERPRETED = triton.knobs.runtime.interpret

# With this many launches, a new one replaces the oldest. Triton keeps its kernel, so it returns without compiling.
_MOST_LAUNCHES = 4096
_WIDEST_ROW = 8192
_WHOLE = 1 << 62  # shares of a sum of weights are counted in units of 2**-62

_launches: dict[tuple[Any, ...], _Launch] = {}
# Tables, and the number that undoes their scale. They are never freed, because a captured graph reads them at every
# replay. A process has one entry for each step, options, dtype and tile shape; another batch, vocabulary or stride adds
# one only if the plan picks another tile.
_tables: dict[tuple[Any, ...], tuple[Any, ...]] = {}


def guided(call: GuidedCall) -> Tensor:
    """Computes the guided logits, into `call.out` if it is given."""
    logits, out = call.logits, call.out
    if out is None:
        out = torch.empty(call.shape, dtype=logits.dtype, device=logits.device)
    step = (tuple(call.size), tuple(call.prev_size), *call.options, False, call.halves)
    _run(out, logits, call.prev_logits, call.strengths, step)
    return out


def linear(
    x: Tensor, scale: Tensor, size: Sequence[int], prev_size: Sequence[int], options: Options,
    transpose: bool,
) -> Tensor:  # fmt: skip
    """scale * P x, or scale * P^T x."""
    h, w = prev_size if transpose else size
    out = torch.empty((x.shape[0], h * w, x.shape[2]), dtype=x.dtype, device=x.device)
    _run(out, x, x, (scale,), (tuple(size), tuple(prev_size), *options, transpose, 0))
    return out


def sample(logits: Tensor, uniform: Tensor, scale: Strength, top_k: int | Tensor, top_p: Strength) -> Tensor:
    """One token per row; -1 for a row without an answer, which `sample_kernel` defines."""
    batch, tokens, vocabulary = logits.shape
    out = torch.empty((batch, tokens), dtype=torch.int64, device=logits.device)
    if not out.numel():
        return out
    scale, drop, keep = _scale(scale), _drop(top_p), _keep_at_most(top_k, vocabulary)
    tensors = [out, logits, uniform, *[x for x in (scale, drop, keep) if isinstance(x, Tensor)]]
    numbers: list[Any] = []
    for number in (scale, drop, keep):
        numbers += (
            (number, number.stride(0) if number.ndim else 0) if isinstance(number, Tensor) else (number, None)
        )
    numbers[4:4] = (0, 0)
    if not isinstance(drop, Tensor):
        numbers[2:6] = (0, None, *struct.unpack("<ii", struct.pack("<q", drop)))
    strides = (*logits.stride(), *uniform.stride())
    key = (
        logits.device, logits.dtype, uniform.dtype, *numbers[1:4:2], numbers[7], batch, tokens, vocabulary,
        strides, _alignment(tensors), *[x.dtype for x in tensors[3:]],
    )  # fmt: skip
    launch = _launches.get(key)
    if launch is None:
        _refuse_capture(logits.device)
        rows = batch * tokens
        given, at_once, warps = sample_tile(logits.dtype, vocabulary)
        launch = _keep(key, _Launch(sampling.sample_kernel, given, -(-rows // at_once), warps, 1))
    launch(
        logits.device, out, logits, *strides[:3], uniform, *strides[3:], *numbers,
        batch, tokens, vocabulary,
    )  # fmt: skip
    return out


def _scale(scale: Strength) -> Strength:
    """In float32, 0 where it is not positive and finite; the bounds are those of `reference.weigh`."""
    if isinstance(scale, Tensor):
        wide = scale.double()
        return wide.clamp(2.0**-100, 2.0**100).where((wide > 0) & wide.isfinite(), 0.0).float()
    return min(max(scale, 2.0**-100), 2.0**100) if 0 < scale < math.inf else 0.0


def _drop(top_p: Strength) -> Any:
    """1 - top_p in units of 2**-62, or -1 where top_p is 0 (`reference.sample_weights`)."""
    if isinstance(top_p, Tensor):
        p = top_p.double().nan_to_num(0.0).clamp(0.0, 1.0)
        return (_WHOLE - (p * float(_WHOLE)).long().clamp(min=1)).where(p > 0, -1)
    return _WHOLE - max(1, int(min(top_p, 1.0) * float(_WHOLE))) if top_p > 0 else -1


def _keep_at_most(top_k: int | Tensor, vocabulary: int) -> int | Tensor:
    if isinstance(top_k, Tensor):
        return top_k.double().nan_to_num(0.0).clamp(0, vocabulary).int()
    return top_k


def sample_tile(dtype: torch.dtype, vocabulary: int) -> tuple[tuple[Any, ...], int, int]:
    """The compile-time arguments of the sampling kernel, its rows per program, and its warps."""
    compute = tl.float64 if dtype == torch.float64 else tl.float32
    shift = {torch.bfloat16: 16, torch.float16: 13}.get(dtype, 0)
    columns = 1 << (vocabulary - 1).bit_length()
    block = columns if columns <= _WIDEST_ROW else _WIDEST_ROW // 4
    # A thread holds 16 logits, or two rows if that is less. Its registers also hold their keys, weights and bounds.
    rows = max(1, min(256, 2048 // block))
    warps = max(4, block // 512)
    return (compute, shift, rows, block, -(-vocabulary // block) * block), rows, warps


def _run(
    out: Tensor, current: Tensor, previous: Tensor, strengths: tuple[Strength, ...], step: tuple[Any, ...]
) -> None:
    if not out.numel():
        return
    dtype = torch.float64 if out.dtype == torch.float64 else torch.float32
    arguments: list[Any] = []
    for value in strengths:
        if isinstance(value, Tensor):
            value = value.to(dtype)
            arguments += (value, value.stride(0) if value.ndim else 0)
        elif dtype == torch.float64:  # a kernel's scalar arguments are float32
            arguments += (torch.full((), value, dtype=dtype, device=out.device), 0)
        else:
            arguments += (value, None)
    arguments += (0.0, None) * (3 - len(strengths))
    batch, _, vocabulary = out.shape
    tensors = (out, current, previous, *[x for x in arguments[::2] if isinstance(x, Tensor)])
    strides = (*out.stride()[:2], *current.stride(), *previous.stride())
    key = (out.device, out.dtype, step, batch, vocabulary, strides, *arguments[1::2], _alignment(tensors))
    launch = _launches.get(key)
    if launch is None:
        _refuse_capture(out.device)
        launch = _keep(key, _prepare(out, previous, step))
    call = (out, *strides[:2], current, *strides[2:5], previous, *strides[5:], *launch.tables, *arguments)
    launch(out.device, *call, batch, vocabulary)


def is_aligned(x: Tensor) -> bool:
    """Whether Triton reads whole vectors of the rows of (B, L, V) logits."""
    return x.stride(2) == 1 and not any(n % 16 for n in (x.data_ptr(), *x.stride()[:2], x.shape[2]))


def _alignment(tensors: Sequence[Tensor]) -> tuple[bool, ...]:
    """Whether each tensor starts at a multiple of 16 bytes.

    Triton compiles separately for such addresses, and for strides and sizes that are 1 or a multiple of 16.
    """
    return tuple([x.data_ptr() % 16 == 0 for x in tensors])


class _Launch:
    """A kernel with its tables, grid and constants. The first call compiles it; later calls only launch it."""

    def __init__(
        self,
        kernel: Any,
        constants: tuple[Any, ...],
        programs: int,
        warps: int,
        stages: int,
        tables: tuple[Any, ...] = (),
    ) -> None:
        self.tables = tables
        self.grid = (programs, 1, 1)
        self.options = {"num_warps": warps, "num_stages": stages, **UNFUSED}
        self.kernel, self.constants = kernel, constants
        self.launch: Any = None

    def __call__(self, device: torch.device, *arguments: Any) -> None:
        if device.type == "cuda" and device.index != torch.cuda.current_device():
            with torch.cuda.device(device):
                self._run(*arguments)
        else:
            self._run(*arguments)

    def _run(self, *arguments: Any) -> None:
        try:
            self._compile_or_launch(*arguments)
        except Exception as reason:  # of the compilers that Triton starts, and of the driver
            raise RuntimeError(
                f"ssg_kernels: Triton could not compile or launch {self.kernel.__name__}: {reason}. "
                "SSG_KERNELS_BACKEND=cuda, or reference, computes without Triton"
            ) from reason

    def _compile_or_launch(self, *arguments: Any) -> None:
        if self.launch is not None:
            self.launch(*arguments, *self.constants)
            return
        compiled = self.kernel[self.grid](*arguments, *self.constants, **self.options)
        if not _INTERPRETED:
            # The key holds all that Triton compiles for, so later calls need not inspect their arguments again.
            self.launch = compiled[self.grid]


def constants(chosen: LaunchPlan, step: Step, dtype: torch.dtype) -> tuple[Any, tuple[Any, ...]]:
    """The kernel of a plan and its compile-time arguments, in order."""
    sizes = (*step.outputs, *step.inputs)
    tile: tuple[int, ...] = (chosen.block_m, chosen.block_k, chosen.block_v)
    if chosen.form == "fma":
        compute = tl.float64 if dtype == torch.float64 else tl.float32
        tokens = (math.prod(step.outputs), math.prod(step.inputs))
        return dense.fma_kernel, (*tokens, step.sources, compute, *tile)
    if chosen.form == "separable":
        tile = (chosen.block_m, chosen.block_c, chosen.block_k, chosen.block_j, chosen.block_v)
        kind = (step.sources, chosen.precision, chosen.terms, step.is_symmetric_along_w, chosen.whole_map)
        return separable.separable_kernel, (*sizes, *kind, *tile)
    return dense.dense_halves_kernel, (*sizes, step.sources, chosen.precision, *tile)


def tables(chosen: LaunchPlan, step: Step, rescale: bool) -> tuple[Tensor, ...]:
    """The tables that the kernel of a plan reads, in float64 on the CPU."""
    options = (step.prior, step.interpolation, rescale, step.transpose)
    terms = factors.prior_terms(step.size, step.prev_size, *options)
    if chosen.form == "separable":
        quarters = list(zip(*[factors.fold(w) for _, w in terms], strict=True))
        if step.is_symmetric_along_w:
            del quarters[2:]
        tile = (chosen.terms, chosen.block_c, chosen.block_j)
        return (
            factors.axis_table([h for h, _ in terms], chosen.terms, chosen.block_m, chosen.block_k),
            torch.stack([factors.axis_table(quarter, *tile) for quarter in quarters]),
        )
    table = factors.dense_table(terms, chosen.halves, chosen.block_m, chosen.block_k)
    return (table[0].mT.contiguous(),) if chosen.form == "fma" else (table,)


def device_tables(chosen: LaunchPlan, step: Step, rescale: bool, dtype: torch.dtype) -> tuple[Any, ...]:
    """What the kernel takes for its tables, on the CPU: the tables in `dtype`, or scaled and split into two float16
    numbers, high and low. With matrix products, the number that undoes the scale of all tables follows.
    """
    made = tables(chosen, step, rescale)
    if chosen.form == "fma":
        return tuple(table.to(dtype) for table in made)
    if chosen.precision != "f16x3":
        return (*(table.to(dtype) for table in made), 1.0)
    unit, split = 1.0, []
    for table in made:
        # The largest lies from 8 to 16 then. float16 has room above for sums, and below for the low parts.
        scale = 2.0 ** (4 - math.frexp(table.abs().max().item())[1])
        high = (scale * table).half()
        split.append(torch.stack([high, (scale * table - high.double()).half()]))
        unit /= scale
    return (*split, unit)


def _refuse_capture(device: torch.device) -> None:
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "ssg_kernels: the first call of a kind compiles its kernel and uploads its tables, which a CUDA graph "
            "cannot capture; call it once with the same shapes, strides and strengths before capturing"
        )


def _keep(key: tuple[Any, ...], launch: _Launch) -> _Launch:
    if len(_launches) >= _MOST_LAUNCHES:
        _launches.pop(next(iter(_launches)), None)
    return _launches.setdefault(key, launch)


def _prepare(out: Tensor, previous: Tensor, step: tuple[Any, ...]) -> _Launch:
    device = out.device
    size, prev_size, prior, interpolation, rescale, transpose, sources = step
    batch, _, vocabulary = out.shape
    described = Step(
        size, prev_size, batch, vocabulary, out.itemsize, sources, prior, interpolation, transpose,
        is_aligned(previous),
    )  # fmt: skip
    accurate = out.dtype == torch.float64
    chosen = plan.make_plan(described, targets.of(device), accurate)
    dtype = torch.float64 if accurate else torch.float32
    tiles = (chosen.form, chosen.precision, chosen.block_m, chosen.block_k, chosen.block_c, chosen.block_j)
    table_key = (device, dtype, size, prev_size, prior, interpolation, rescale, transpose, *tiles)
    uploaded = _tables.get(table_key)
    if uploaded is None:
        made = device_tables(chosen, described, rescale, dtype)
        uploaded = tuple(each.to(device) if isinstance(each, Tensor) else each for each in made)
        # If two threads come here at once, both launch with the tables of the first.
        uploaded = _tables.setdefault(table_key, uploaded)
    kernel, given = constants(chosen, described, out.dtype)
    return _Launch(kernel, given, chosen.programs, chosen.warps, chosen.stages, uploaded)
