"""`python -m ssg_kernels selftest`: compares every usable backend of this machine with the reference in float64.

It takes less than a minute and needs no test packages, so that a user can run it on a new GPU and paste its output
into a bug report.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ssg_kernels import guided_logits, guided_logits_cfg, info, reference, sample
from ssg_kernels._accuracy import allowed_error
from ssg_kernels._call import Options
from ssg_kernels._names import BACKENDS, DTYPES, INTERPOLATIONS, PRIORS
from ssg_kernels._torch import backends as resolution

# (prev_size, size) of steps: those of VAR-256, some of its kin, and odd ones.
GRIDS = (
    ((1, 1), (2, 2)),
    ((4, 4), (5, 5)),
    ((5, 5), (6, 6)),
    ((8, 8), (10, 10)),
    ((10, 10), (13, 13)),
    ((13, 13), (16, 16)),
    ((16, 16), (24, 24)),
    ((3, 8), (7, 9)),
    ((1, 5), (4, 5)),
)
VOCABULARIES = (256, 67)
BATCH = 2
FILTERS = ((0, 0.0), (50, 0.0), (0, 0.9), (50, 0.9))


class Case(NamedTuple):
    """One call, and what it should give."""

    name: str
    call: Callable[[torch.device], Tensor]
    excess: Callable[[Tensor], float]
    """The error of a result as a share of what is allowed. NaN, or more than 1, is wrong."""


def run() -> int:
    """Prints one line for each backend. Returns 1 if one of them is wrong or fails, else 0."""
    print("\n".join([*info.versions(), ""]))
    cases = [*_steps(), *_draws()]
    wrong = []
    for name in BACKENDS:
        devices = [device for device in _devices() if resolution.unavailable(name, device) is None]
        if not devices:
            note = next(backend.note for backend in info.backends() if backend.name == name)
            print(_line(name, "", "not usable", note))
        for device in devices:
            start = time.perf_counter()
            with resolution.forcing(name):
                problems = _compare(cases, device)
            took = f"{time.perf_counter() - start:.1f} s"
            if problems:
                wrong.append(name)
                note = f"{len(problems)} of {len(cases)} calls; the first: {problems[0]}"
                print(_line(name, str(device), "WRONG", note))
            else:
                print(_line(name, str(device), "ok", f"{len(cases)} calls in {took}"))
    if wrong:
        print(f"\nWrong results from: {', '.join(dict.fromkeys(wrong))}")
        return 1
    print("\nEvery usable backend agrees with the reference.")
    return 0


def _line(name: str, device: str, verdict: str, note: str) -> str:
    return f"{name:<10} {device:<7} {verdict:<11} {note}"


def _devices() -> list[torch.device]:
    if torch.cuda.is_available():
        return [torch.device("cpu"), torch.device("cuda", torch.cuda.current_device())]
    return [torch.device("cpu")]


def _compare(cases: list[Case], device: torch.device) -> list[str]:
    """The calls that are wrong on the device, each with what is wrong."""
    problems = []
    for case in cases:
        try:
            excess = case.excess(case.call(device).cpu())
        except Exception as error:  # whatever it is, this backend cannot do the call
            problems.append(f"{case.name}: {type(error).__name__}: {error}")
            continue
        if not excess <= 1:
            problems.append(f"{case.name}: the error is {excess:.3g} times what is allowed")
    return problems


def _steps() -> Iterator[Case]:
    """Guided steps that go through every grid, dtype, prior, interpolation, and kind of strength."""
    generator = torch.Generator().manual_seed(0)
    for i, (dtype, (prev_size, size)) in enumerate(itertools.product(DTYPES, GRIDS)):
        options = Options(PRIORS[i % 3], INTERPOLATIONS[i % 4], i % 5 == 0)
        vocabulary, is_cfg = VOCABULARIES[i % 2], i % 4 >= 2
        rows = 2 * BATCH if is_cfg else BATCH
        logits, prev_logits = (
            (4 * torch.randn(rows, h * w, vocabulary, generator=generator)).to(dtype)
            for h, w in (size, prev_size)
        )
        logits[:, 0, 1] = -math.inf  # as samplers mask a token
        strengths: tuple[float | Tensor, ...] = (torch.rand(BATCH, generator=generator),)
        if is_cfg:
            strengths = (0.5, torch.tensor(1.5), 1.0)
        yield _step(logits, prev_logits, size, prev_size, strengths, options)


def _step(
    logits: Tensor,
    prev_logits: Tensor,
    size: tuple[int, int],
    prev_size: tuple[int, int],
    strengths: tuple[float | Tensor, ...],
    options: Options,
) -> Case:
    functions: tuple[Callable[..., Tensor], Callable[..., Tensor]] = (guided_logits, reference.guided_logits)
    if len(strengths) > 1:
        functions = (guided_logits_cfg, reference.guided_logits_cfg)
    function, exact = functions
    expected = exact(logits.double(), prev_logits.double(), size, prev_size, *strengths, *options)
    masked = expected == -math.inf
    allowed = allowed_error(expected, logits.dtype, expected.masked_fill(masked, 0).abs().max().item())

    def call(device: torch.device) -> Tensor:
        own = [x.to(device) if isinstance(x, Tensor) else x for x in strengths]
        return function(logits.to(device), prev_logits.to(device), size, prev_size, *own, *options)

    def excess(result: Tensor) -> float:
        if not torch.equal(result == -math.inf, masked):
            return math.nan
        share = (result.double() - expected).abs() / allowed
        return share.masked_fill(masked, 0).max().item()

    (prev_h, prev_w), (h, w) = prev_size, size
    name = (
        f"{function.__name__} {prev_h}x{prev_w} -> {h}x{w}, V = {logits.shape[2]}, "
        f"{str(logits.dtype).removeprefix('torch.')}, {options.prior}, {options.interpolation}"
    )
    return Case(name + (", rescale" if options.rescale else ""), call, excess)


def _draws() -> Iterator[Case]:
    """Tokens. They are the reference's on every backend."""
    generator = torch.Generator().manual_seed(1)
    for dtype, (top_k, top_p) in itertools.product(DTYPES, FILTERS):
        logits = (4 * torch.randn(BATCH, 36, 4096, generator=generator)).to(dtype)
        uniform = torch.rand(BATCH, 36, generator=generator)
        name = f"sample V = 4096, {str(dtype).removeprefix('torch.')}, top_k = {top_k}, top_p = {top_p}"
        yield _draw(name, logits, uniform, top_k, top_p)


def _draw(name: str, logits: Tensor, uniform: Tensor, top_k: int, top_p: float) -> Case:
    expected = reference.sample(logits, uniform, top_k, top_p)

    def call(device: torch.device) -> Tensor:
        return sample(logits.to(device), uniform.to(device), top_k, top_p)

    return Case(name, call, lambda tokens: 0.0 if torch.equal(tokens, expected) else math.inf)
