"""What a generation may be beyond one pyramid of squares: rows, frames, repeats, clips, skipped scales, changes of V.

Every case is held against Alg. 2 in float64, written out scale by scale.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.bounds import assert_accurate
from support.strategies import normal
from torch import Tensor

from ssg_kernels import SSG, GuidedSampler, reference
from ssg_kernels.generation import Generation


class Predicted(NamedTuple):
    """One prediction of a scale."""

    size: tuple[int, int, int]
    raw: Tensor
    k: int
    """From 1 on, within the pyramid."""
    K: int


def merge(raw: Tensor, t: float | None) -> Tensor:
    raw = raw.double()
    if t is None:
        return raw
    cond, uncond = raw.chunk(2)
    return (1 + t) * cond - t * uncond


def literal(
    predictions: Sequence[Predicted], beta: Any, cfg: Sequence[float] | None = None, **options: Any
) -> list[Tensor]:
    """Alg. 2, each frame by itself. `cfg` is t of each prediction."""
    guided = []
    for i, now in enumerate(predictions):
        logits = merge(now.raw, None if cfg is None else cfg[i])
        # The last prediction of an earlier scale of this pyramid.
        pyramid = next(j for j in range(i, -1, -1) if predictions[j].k == 1 or j == 0)
        before = [j for j in range(pyramid, i) if predictions[j].k < now.k]
        if before:
            j = before[-1]
            prev = merge(predictions[j].raw, None if cfg is None else cfg[j])
            if prev.shape[2] == logits.shape[2]:
                t, h, w = now.size
                _, *prev_size = predictions[j].size
                strength = beta * (1 - (now.k - 1) / now.K)
                frames = zip(logits.chunk(t, 1), prev.chunk(t, 1), strict=True)
                logits = torch.cat(
                    [
                        reference.guided_logits(x, p, (h, w), prev_size, strength, **options)
                        for x, p in frames
                    ],
                    1,
                )
        guided.append(logits)
    return guided


def predicted(
    pyramids: Sequence[Sequence[tuple[int, int, int]]],
    repeats: Sequence[int] | None = None,
    rows: int = 2,
    vocabulary: int = 5,
    seed: int = 0,
) -> list[Predicted]:
    found: list[Predicted] = []
    scales = [(size, k + 1, len(pyramid)) for pyramid in pyramids for k, size in enumerate(pyramid)]
    for n, (size, k, K) in enumerate(scales):
        t, h, w = size
        for _ in range(1 if repeats is None else repeats[n]):
            found.append(Predicted(size, normal(rows, t * h * w, vocabulary, seed=seed + len(found)), k, K))
    return found


def check(
    ssg: SSG, predictions: Sequence[Predicted], expected: Sequence[Tensor], cfg: Sequence[float] | None = None
) -> None:
    for _ in range(2):
        for i, (one, wanted) in enumerate(zip(predictions, expected, strict=True)):
            guided = ssg(one.raw) if cfg is None else ssg(one.raw, cfg[i])
            assert_accurate(guided, wanted, 8 * one.raw.double())
        assert ssg.step == ssg.generation.repeat == 0
        assert ssg.generation.prev_logits is None


# Grids.


def test_a_row_has_one_side() -> None:
    rows = [(1,), (3,), (7,)]
    assert SSG(rows, 0.5).sizes == ((1, 1), (1, 3), (1, 7))
    predictions = predicted([[(1, 1, n) for (n,) in rows]])
    check(SSG(rows, 0.75), predictions, literal(predictions, 0.75))
    check(SSG([(1, n) for (n,) in rows], 0.75), predictions, literal(predictions, 0.75))


@pytest.mark.parametrize("prior", ["dse", "spatial"])
def test_a_column_is_a_row(prior: str) -> None:
    raw = [normal(2, n, 5, seed=n) for n in (1, 4, 6)]
    row, column = (SSG(sizes, 0.75, prior=prior) for sizes in ([1, (4,), (6,)], [1, (4, 1), (6, 1)]))
    for logits in raw:
        assert_accurate(row(logits), column(logits).double())


def test_frames_are_samples_of_their_own() -> None:
    sizes = [(3, 1, 1), (3, 2, 2), (3, 3, 5)]
    ssg, apart = SSG(sizes, 0.75), SSG([size[1:] for size in sizes], 0.75)
    for t, h, w in sizes:
        logits = normal(2, t * h * w, 5, seed=h)
        expected = apart(logits.view(6, h * w, 5)).view(2, -1, 5)
        assert torch.equal(ssg(logits), expected)


@pytest.mark.parametrize("rescale", [False, True])
def test_frames_with_a_strength_for_each_sample(rescale: bool) -> None:
    sizes = [(2, 1, 1), (2, 2, 3), (2, 4, 4)]
    predictions = predicted([sizes], rows=6)
    beta, cfg = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([0.0, 1.5, 3.0])
    ssg = SSG(sizes, beta, rescale=rescale)
    together = [ssg(one.raw, cfg) for one in predictions]
    for b in range(3):
        rows = [Predicted(one.size, one.raw[[b, 3 + b]], one.k, one.K) for one in predictions]
        alone = literal(rows, beta[b].item(), [cfg[b].item()] * 3, rescale=rescale)
        for guided, wanted, one in zip(together, alone, predictions, strict=True):
            assert_accurate(guided[b : b + 1], wanted, 8 * one.raw.double())


@pytest.mark.parametrize("layout", ["itself", "contiguous", "strided"])
def test_frames_write_into_a_given_tensor(layout: str) -> None:
    sizes = [(2, 1, 1), (2, 2, 3)]
    one, two = SSG(sizes, 0.75), SSG(sizes, 0.75)
    for n in (2, 12):
        logits = normal(2, n, 5)
        expected = one(logits)
        out = {"itself": logits, "contiguous": torch.empty(2, n, 5), "strided": torch.empty(2, 5, n).mT}[
            layout
        ]
        assert two(logits, out=out) is out
        assert torch.equal(out, expected)


# Pyramids.

CLIPS = [[(1, 1, 1), (1, 2, 2), (1, 3, 3)], [(2, 1, 1), (2, 3, 2)], [(4, 1, 1)]]


def test_each_pyramid_counts_from_one() -> None:
    predictions = predicted(CLIPS)
    ssg = SSG([size for clip in CLIPS for size in clip], 0.75)
    assert ssg.generation.pyramids == (3, 2, 1)
    assert ssg.multipliers == (1, 1 - 1 / 3, 1 - 2 / 3, 1, 1 / 2, 1)
    check(ssg, predictions, literal(predictions, 0.75))
    assert repr(ssg).startswith("SSG(1x1, 2x2, 3x3, 2x1x1, 2x3x2, 4x1x1; ")


def test_numbers_of_a_schedule_are_for_each_pyramid_or_for_all() -> None:
    twice = [1, 2, 3] * 2
    assert SSG(twice, 1, [1, 2, 3]).multipliers == (1, 2, 3, 1, 2, 3)
    assert SSG(twice, 1, range(6)).multipliers == (0, 1, 2, 3, 4, 5)
    assert SSG(twice, 1, "static").multipliers == (1,) * 6
    assert SSG([1, 2, 1], 1, [1, 2, 3]).multipliers == (1, 2, 3)
    for sizes, count in ((twice, 3), ([1, 2, 1], 3)):
        with pytest.raises(ValueError, match=f"schedule must hold one number per scale, {count}, got 2"):
            SSG(sizes, 1, [1, 2])


def test_what_shrinks_in_another_way_is_refused() -> None:
    for sizes, text in (
        (
            [1, 3, 2],
            "got (2, 2) after (3, 3) at scale 3; only a size that is back at the first, (1, 1), begins",
        ),
        ([2, 3, 1], "got (1, 1) after (3, 3) at scale 3"),
        ([1, (1, 2, 2)], None),
        ([1, (3, 2, 2)], "sizes must keep the frames of a pyramid, got 3 after 1 at scale 2"),
        ([(1, 2, 3, 4)], "got (1, 2, 3, 4) at scale 1"),
        ([()], "got () at scale 1"),
        ([(0, 1, 1)], "got (0, 1, 1) at scale 1"),
    ):
        if text is None:
            SSG(sizes, 0.5)
            continue
        with pytest.raises(ValueError, match=re.escape(text)):
            SSG(sizes, 0.5)


# Repeats.


def test_a_repeat_has_the_prior_of_the_scale() -> None:
    sizes, repeats = [(1, 1, 1), (1, 2, 2), (1, 3, 3)], [2, 3, 2]
    predictions = predicted([sizes], repeats)
    expected = literal(predictions, 0.75)
    # The three of the second scale have one prior: that of the last 1x1.
    assert_accurate(
        expected[4],
        reference.guided_logits(
            predictions[4].raw.double(), predictions[1].raw.double(), (2, 2), (1, 1), 0.75 * 2 / 3
        ),
    )
    check(SSG(sizes, 0.75, repeats=repeats), predictions, expected)


@pytest.mark.parametrize(
    ("repeats", "text"),
    [
        (0, "repeats must hold positive ints, got 0"),
        ([1, 2], "repeats must be one of the positive ints or hold 3, one per scale, got 2 of them"),
        ([1, 2, 0], "got 0 at scale 3"),
        ("2", "repeats must be one of the positive ints or hold 3, one per scale, got '2'"),
    ],
)
def test_wrong_repeats(repeats: Any, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"SSG: {text}" if text[0] == "r" else text)):
        SSG([1, 2, 3], 0.5, repeats=repeats)


def test_an_early_end_among_repeats_begins_anew() -> None:
    ssg = SSG([1, 2, 3], 0.75, repeats=3)
    predictions = predicted([[(1, n, n) for n in (1, 2, 3)]], [3, 3, 3])
    for one in predictions[:5]:
        ssg(one.raw)
    check(ssg, predictions, literal(predictions, 0.75))


# Changes and gaps.


@pytest.mark.parametrize("is_cfg", [False, True])
def test_where_the_vocabulary_changes_nothing_is_guided_and_k_counts_on(is_cfg: bool) -> None:
    sizes = [(1, n, n) for n in (1, 2, 3, 4)]
    wide = predicted([sizes], vocabulary=8)
    predictions = [*predicted([sizes])[:2], *wide[2:]]
    cfg = [0.0, 0.5, 1.0, 1.5] if is_cfg else None
    expected = literal(predictions, 0.75, cfg)
    assert torch.equal(expected[2], merge(wide[2].raw, None if cfg is None else cfg[2]))
    check(SSG(sizes, 0.75), predictions, expected, cfg)


def test_skipped_scales_count() -> None:
    sizes = [(1, n, n) for n in (1, 2, 3, 4, 5)]
    predictions = [one for one in predicted([sizes]) if one.k in (2, 4, 5)]
    expected = literal(predictions, 0.75)
    ssg = SSG(sizes, 0.75)
    for _ in range(2):
        for one, wanted in zip(predictions, expected, strict=True):
            while ssg.step + 1 < one.k:
                ssg.skip()
            assert_accurate(ssg(one.raw), wanted, 8 * one.raw.double())
    # At the end of a pyramid too.
    ssg = SSG([1, 2, 1, 2], 0.75)
    ssg(normal(1, 1, 3))
    ssg.skip()
    assert ssg.step == 2
    assert ssg.generation.prev_logits is None
    ssg(normal(1, 1, 3))
    ssg.skip()
    assert ssg.step == 0


@given(st.data())
def test_any_generation_is_the_literal_one(data: st.DataObject) -> None:
    first = data.draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    pyramids = []
    for _ in range(data.draw(st.integers(1, 3))):
        t, (h, w) = data.draw(st.integers(1, 3)), first
        pyramids.append([(t, h, w)])
        for down, across in data.draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=2)):
            h, w = h + down, w + across
            pyramids[-1].append((t, h, w))
        # A pyramid that ends on the first grid would go on.
        if (h, w) == first:
            pyramids[-1].append((t, h + 1, w))
    count = sum(map(len, pyramids))
    repeats = data.draw(st.lists(st.integers(1, 2), min_size=count, max_size=count))
    rows = data.draw(st.sampled_from([2, 4]))
    predictions = predicted(pyramids, repeats, rows, seed=data.draw(st.integers(0, 2**31)))
    ts = st.lists(st.floats(0, 3), min_size=len(predictions), max_size=len(predictions))
    cfg = data.draw(st.none() | ts)
    beta = data.draw(st.floats(-1, 3))
    ssg = SSG([size for pyramid in pyramids for size in pyramid], beta, repeats=repeats)
    check(ssg, predictions, literal(predictions, beta, cfg), cfg)


# The parts built on it.


@pytest.mark.parametrize("cfg_order", ["after", "before"])
def test_a_guided_sampler_has_the_same_generations(cfg_order: str) -> None:
    sizes, repeats = [size for clip in CLIPS for size in clip], [1, 2, 1, 2, 1, 2]
    predictions = predicted(CLIPS, repeats, rows=4)
    each = [k for k, count in enumerate(repeats) for _ in range(count)]
    ramp = [0.0, 1.0, 2.0, 0.0, 2.0, 0.0]
    sampler = GuidedSampler(
        sizes, 0.75, cfg=2.0, cfg_schedule="ramp", cfg_order=cfg_order, repeats=repeats, top_k=3
    )
    ssg = SSG(sizes, 0.75, repeats=repeats)
    for i, one in enumerate(predictions):
        uniform = torch.rand(2, one.raw.shape[1], generator=torch.Generator().manual_seed(i))
        # "before" merges both halves with the t of this scale.
        prev = ssg.generation.prev_cfg
        if cfg_order == "before" and prev is not None:
            ssg.generation.prev_cfg = ramp[each[i]]
        expected = reference.sample(ssg(one.raw, ramp[each[i]]), uniform, top_k=3)
        assert torch.equal(sampler(one.raw, uniform=uniform), expected)
    assert sampler.step == 0


def test_a_guided_sampler_skips_and_sees_a_change_of_vocabulary() -> None:
    raw = {n: normal(4, n * n, 6 if n < 4 else 8, seed=n) for n in (1, 3, 4, 5)}
    sampler, ssg = GuidedSampler([1, 2, 3, 4, 5], 0.75, cfg=[0, 1, 2, 3, 4]), SSG([1, 2, 3, 4, 5], 0.75)
    for n, logits in raw.items():
        if n == 3:
            sampler.skip()
            ssg.skip()
        uniform = torch.rand(2, n * n, generator=torch.Generator().manual_seed(n))
        expected = reference.sample(ssg(logits, float(n - 1)), uniform)
        assert torch.equal(sampler(logits, uniform=uniform), expected)


def test_a_compiled_loop_is_the_loop() -> None:
    sizes, repeats = [size for clip in CLIPS[:2] for size in clip], [1, 2, 1, 1, 2]
    predictions = predicted(CLIPS[:2], repeats)
    beta = torch.tensor([0.5, 1.0])

    def loop(raw: list[Tensor], beta: Tensor) -> list[Tensor]:
        ssg = SSG(sizes, beta, repeats=repeats)
        return [ssg(logits) for logits in raw]

    raw = [one.raw for one in predictions]
    compiled = torch.compile(loop, backend="eager", fullgraph=True)(raw, beta)
    for actual, expected in zip(compiled, loop(raw, beta), strict=True):
        assert torch.equal(actual, expected)


def test_a_generation_keeps_what_is_needed_and_no_more() -> None:
    state = Generation([1, 2, 3, 1, 2], repeats=[1, 2, 1, 1, 1])
    kept = []
    for n in (1, 2, 2, 3, 1, 2):
        logits = torch.empty(1, n * n, 3)
        step = state.due(logits)
        state.check(step, logits)
        kept.append((step, state.guides(step, logits), state.keeps(step)))
        twin = copy.copy(state)
        state.remember(logits, None, step)
        assert (twin.step, twin.repeat) != (state.step, state.repeat)
    assert kept == [
        (0, False, True),
        (1, True, False),
        (1, True, True),
        (2, True, False),
        (3, False, True),
        (4, True, False),
    ]
