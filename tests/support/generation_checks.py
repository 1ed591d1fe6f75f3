"""What must hold of every guided sampler, of the stand-ins and of the real ones alike.

The expected logits are Alg. 2 in float64, from what the model put out and the sampler's own formula of cfg.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ssg_kernels import reference
from support import attach_checks
from support.attach_checks import BETA, ORDERS
from support.bounds import ulp
from support.guided_samplers import Sampler
from support.recorders import Scale, recorded, run, same

RELATIVE = 1e-5  # of the largest logit, in float32


def literal(
    sampler: Sampler, maps: list[Tensor], beta: Any, schedule: Any = "linear", **options: Any
) -> list[Tensor]:
    """Alg. 2 over the scales in float64, each frame by itself; where the batch shrinks, its first rows go on.

    The repeats of a scale have one prior. The first scale of a pyramid is not guided, nor is one of another vocabulary.
    """
    guided = []
    for n, (k, logits) in enumerate(zip(sampler.scales, maps, strict=True)):
        logits = logits.double()
        before = [m for m in range(n) if sampler.scales[m] == k - 1]
        if before and sampler.starts_at(k) < k and maps[before[-1]].shape[-1] == logits.shape[-1]:
            prev = maps[before[-1]][: len(logits)].double()
            (*frames, h, w), (*_, prev_h, prev_w) = sampler.sizes[k], sampler.sizes[k - 1]
            t, strength = (*frames, 1)[0], beta * sampler.factor(schedule, k)
            apart = zip(logits.chunk(t, 1), prev.chunk(t, 1), strict=True)
            logits = torch.cat(
                [
                    reference.guided_logits(x, p, (h, w), (prev_h, prev_w), strength, **options)
                    for x, p in apart
                ],
                1,
            )
        guided.append(logits)
    return guided


def assert_close(actual: Tensor, expected: Tensor, steps: float = 1.0) -> None:
    """1e-5 of the largest logit in float32, one step of the dtype in the half types."""
    assert actual.shape == expected.shape
    # Masked logits stay -inf.
    error = (actual.double() - expected).abs().masked_fill(actual == expected, 0)
    largest = expected[expected.isfinite()].abs().max()
    bound = RELATIVE * largest
    if actual.dtype in (torch.bfloat16, torch.float16):
        bound = 1e-6 * largest + steps * ulp(expected, actual.dtype)
    assert (error <= bound).all(), f"off by {(error / bound).max().item():.3g} of what is allowed"


def guided_scales(sampler: Sampler, scales: list[Scale]) -> list[Scale]:
    found = [scale for scale in scales if scale.maker == sampler.makers[0]]
    assert len(found) == len(sampler.scales)
    return found


def merged(sampler: Sampler, scales: list[Scale], batch: int) -> list[Tensor]:
    return [
        sampler.merge(k, sampler.source(k, s.raw), batch) for k, s in zip(sampler.scales, scales, strict=True)
    ]


def check_after(sampler: Sampler, batch: int | None = None, **settings: Any) -> list[Scale]:
    """The sampler is handed guided logits, and whoever reads the logits again reads guided ones."""
    settings = {"beta": BETA, **settings}
    batch = sampler.batch_of(batch)
    _, everything = run(sampler, batch=batch, **settings)
    scales = guided_scales(sampler, everything)
    maps = merged(sampler, scales, batch)
    moved = 0.0
    for n, (scale, expected) in enumerate(zip(scales, literal(sampler, maps, **settings), strict=True)):
        k = sampler.scales[n]
        moved = max(moved, (expected - maps[n].double()).nan_to_num(0).abs().max().item())
        assert scale.handed is not None or scale.smoothed is not None
        if scale.handed is not None:
            assert_close(sampler.tokens(scale.handed, sampler.sizes[k]), expected)
        if scale.smoothed is not None and scale.masked is not None:
            assert torch.equal(scale.smoothed, scale.masked.mul(sampler.gain(k)))
        elif scale.smoothed is not None:
            # In place of the sampler: one rounding of the guided logits, one of their multiple.
            gain = sampler.gain(k)
            assert_close(scale.smoothed, expected * gain, steps=0.5 + 0.5 * gain)
    assert moved > 0.1, "guidance made no difference"
    for scale in everything:
        if scale.maker != sampler.makers[0]:
            assert torch.equal(scale.handed, sampler.merge(-1, scale.raw, batch)), "a refinement was guided"
    return scales


def roundings(guided: Tensor, dtype: torch.dtype, batch: int) -> Iterator[Tensor]:
    """The ends of what the halves may be: close to the middle between two numbers of the dtype, they differ."""
    slack = 1e-6 * guided[guided.isfinite()].abs().max()
    halves = guided.split(batch)
    for signs in itertools.product((-1, 1), repeat=len(halves)):
        yield torch.cat([half + sign * slack for half, sign in zip(halves, signs, strict=True)]).to(dtype)


def check_before(sampler: Sampler, **settings: Any) -> list[Scale]:
    """Both halves are guided, and the sampler's own cfg merges them."""
    settings = {"beta": BETA, **settings}
    _, everything = run(sampler, cfg_order="before", **settings)
    scales = guided_scales(sampler, everything)
    sources = [sampler.source(k, scale.raw) for k, scale in zip(sampler.scales, scales, strict=True)]
    for k, scale, guided in zip(sampler.scales, scales, literal(sampler, sources, **settings), strict=True):
        assert scale.handed is not None
        handed = sampler.tokens(scale.handed, sampler.sizes[k])
        if handed.dtype == torch.float32:
            assert_close(handed, sampler.merge(k, guided, sampler.batch))
        else:
            rounded = roundings(guided, handed.dtype, sampler.batch)
            fits = torch.stack([sampler.merge(k, halves, sampler.batch) for halves in rounded])
            assert (fits.amin(0) <= handed).all()
            assert (handed <= fits.amax(0)).all()
    return scales


def check_is_itself_again(sampler: Sampler) -> None:
    """beta 0 changes no bit; nothing is left of the context, after errors too."""
    before = (
        dict(vars(sampler.model)),
        dict(vars(sampler.owner)),
        sampler.names,
        type(sampler.model),
    )
    plain = run(sampler)
    for cfg_order in ORDERS:
        assert same(plain, run(sampler, beta=0.0, cfg_order=cfg_order))
        assert not same(plain, run(sampler, beta=BETA, cfg_order=cfg_order))
        # Without recorders, which would put everything back themselves.
        with sampler.attach(sampler.model, BETA, cfg_order=cfg_order):
            sampler.generate(sampler.model, sampler.batch, 0)
        with pytest.raises(ZeroDivisionError), sampler.attach(sampler.model, BETA, cfg_order=cfg_order):
            raise ZeroDivisionError
        assert same(plain, run(sampler))
    after = dict(vars(sampler.model)), dict(vars(sampler.owner)), sampler.names, type(sampler.model)
    assert [list(x) for x in before[:3]] == [list(x) for x in after[:3]]
    assert all(before[2][name] is after[2][name] for name in before[2])
    assert before[3] is after[3]


def check_first_scale(sampler: Sampler, is_guided: bool = False) -> None:
    """It is not guided: what the sampler is handed is the same to the bit. A refiner's first scale is guided."""
    first, *others = (
        guided_scales(sampler, run(sampler, **settings)[1])[:1]
        for settings in ({}, *({"beta": BETA, "cfg_order": cfg_order} for cfg_order in ORDERS))
    )
    for other in others:
        is_plain = same((first[0].raw, first), (other[0].raw, other))
        assert is_plain is not is_guided, "the first scale was guided, or should have been"


def check_generations(sampler: Sampler) -> None:
    """A second one, one of another batch, and one after an error half-way are as the first in a new context."""
    for cfg_order in ORDERS:
        fresh = {
            batch: run(sampler, batch=batch, beta=BETA, cfg_order=cfg_order) for batch in sampler.batches
        }
        with recorded(sampler) as recorder, sampler.attach(sampler.model, BETA, cfg_order=cfg_order):
            for batch in (*sampler.batches, sampler.batch):
                assert same(fresh[batch], recorder.run(batch=batch))
                with failing_at(sampler, len(sampler.sizes) // 2), pytest.raises(ZeroDivisionError):
                    sampler.generate(sampler.model, batch, 0)


@contextmanager
def failing_at(sampler: Sampler, scale: int) -> Iterator[None]:
    """The model fails at this scale, once."""
    make = getattr(sampler.owner, sampler.makers[0])
    calls = 0

    def fail(*args: Any, **kwargs: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == scale + 1:
            raise ZeroDivisionError
        return make(*args, **kwargs)

    with pytest.MonkeyPatch.context() as swap:
        swap.setattr(sampler.owner, sampler.makers[0], fail)
        yield


def check_two_models(one: Sampler, other: Sampler) -> None:
    """Of one process and one module: each as it is alone, in turn and at the same time."""
    alone = [run(one, beta=BETA), run(other, beta=-BETA), run(other)]
    with recorded(one) as ones, recorded(other) as others, one.attach(one.model, BETA):
        assert same(alone[2], others.run())
        with other.attach(other.model, -BETA):
            assert same(alone[0], ones.run())
            assert same(alone[1], others.run())
            assert same(alone[0], ones.run())
        assert same(alone[2], others.run())

        # At the same time: the other samples a whole image while this one is half-way.
        for settings, expected in (({}, alone[2]), ({"beta": -BETA}, alone[1])):
            with other.attach(other.model, **settings) if settings else nullcontext():
                result, meanwhile = generate_meanwhile(one, other)
            assert torch.equal(result, alone[0][0])
            assert torch.equal(meanwhile, expected[0])


def generate_meanwhile(one: Sampler, other: Sampler) -> tuple[Tensor, Tensor]:
    """A generation of each, the other's in a thread of its own, from end to end within a step of the one's."""
    make, results = getattr(one.owner, one.makers[0]), []

    def spy(*args: Any, **kwargs: Any) -> Tensor:
        logits = make(*args, **kwargs)
        if not results:
            # Some samplers draw from the global generators too, which are the process's.
            numpy_state = np.random.get_state()
            with torch.random.fork_rng():
                thread = threading.Thread(
                    target=lambda: results.append(other.generate(other.model, other.batch, 0))
                )
                thread.start()
                thread.join()
            np.random.set_state(numpy_state)
        return logits

    with pytest.MonkeyPatch.context() as swap:
        swap.setattr(one.owner, one.makers[0], spy)
        return one.generate(one.model, one.batch, 0), results[0]


def check_attached_twice(sampler: Sampler) -> None:
    with sampler.attach(sampler.model, BETA), pytest.raises(ValueError, match="is attached already"):
        sampler.attach(sampler.model, BETA)
    first, second = (sampler.attach(sampler.model, BETA) for _ in range(2))
    with first, pytest.raises(ValueError, match="is attached already"), second:
        pass


SETTINGS: list[dict[str, Any]] = [
    {},
    {"schedule": "static", "prior": "dse_zero_pad"},
    {"prior": "spatial", "interpolation": "bicubic", "beta": -0.5},
    {"rescale": True, "interpolation": "area", "beta": torch.tensor(1.5)},
]


def check_everything(sampler: Sampler, settings: Sequence[dict[str, Any]] = SETTINGS) -> None:
    numbers = {"schedule": [0.25 * (k + 1) for k in range(sampler.K)], "beta": 1.0}
    for chosen in (*settings, numbers):
        check_after(sampler, **chosen)
        check_before(sampler, **chosen)
    check_after(sampler, batch=sampler.batches[-1])
    check_is_itself_again(sampler)
    check_first_scale(sampler)
    check_generations(sampler)
    check_attached_twice(sampler)
    attach_checks.check_is_found(sampler)


def check_guided(make: Callable[[], Sampler]) -> None:
    check_everything(make())


def check_two_of_one_module(make: Callable[[], Sampler]) -> None:
    check_two_models(make(), make())


CHECKS: tuple[Callable[[Any], None], ...] = (
    check_guided,
    check_two_of_one_module,
    *attach_checks.CHECKS,
)
