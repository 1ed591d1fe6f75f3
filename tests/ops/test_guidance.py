"""Compares SSG with the loop that it replaces, and tests it with all that samplers do to the logits around it."""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.bounds import assert_accurate
from support.strategies import DTYPES, INTERPOLATIONS, LAYOUTS, PRIORS, normal
from torch import Tensor
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import ssg_kernels
from bench.schedules import VAR_256, infinity, square
from ssg_kernels import SSG, guidance, reference

INF = math.inf
SIZES = [(1, 1), (2, 2), (3, 2), (6, 4)]
Strength = float | Tensor


def raw_logits(
    sizes: list[tuple[int, int]], rows: int = 2, vocabulary: int = 9, **options: Any
) -> list[Tensor]:
    return [normal(rows, h * w, vocabulary, **options) for h, w in sizes]


def literal(
    sizes: list[tuple[int, int]],
    raw: list[Tensor],
    betas: list[Strength],
    *options: Any,
    cfgs: list[Strength] | None = None,
) -> list[Tensor]:
    """Alg. 2 over the scales in float64. The previous logits of every scale are the raw ones."""
    raw = [x.double() for x in raw]
    guided = []
    for k, logits in enumerate(raw):
        if cfgs is not None:
            cond, uncond = logits.chunk(2)
            t = torch.as_tensor(cfgs[k], dtype=torch.float64).reshape(-1, 1, 1)
            logits = (1 + t) * cond - t * uncond
            raw[k] = logits
        if k:
            logits = reference.guided_logits(logits, raw[k - 1], sizes[k], sizes[k - 1], betas[k], *options)
        guided.append(logits)
    return guided


def linear(beta: float, count: int) -> list[float]:
    return [beta * (1 - (k - 1) / count) for k in range(1, count + 1)]


def assert_generation(ssg: SSG, raw: list[Tensor], expected: list[Tensor], cfgs: Any = None) -> None:
    for k, (logits, wanted) in enumerate(zip(raw, expected, strict=True)):
        assert ssg.step == k
        guided = ssg(logits) if cfgs is None else ssg(logits, cfgs[k])
        assert guided.dtype == logits.dtype
        assert guided.is_contiguous()
        assert_accurate(guided, wanted, 2 * logits.double())


@given(st.data())
def test_is_the_literal_loop(backend: str, data: st.DataObject) -> None:
    steps = st.tuples(st.integers(0, 3), st.integers(0, 3))
    sizes = [(data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)))]
    for down, across in data.draw(st.lists(steps, max_size=4)):
        sizes.append((sizes[-1][0] + down, sizes[-1][1] + across))
    options = data.draw(st.tuples(st.sampled_from(PRIORS), st.sampled_from(INTERPOLATIONS), st.booleans()))
    beta = data.draw(st.floats(-1, 3))
    schedule, multipliers = data.draw(
        st.sampled_from(
            [
                ("linear", linear(1.0, len(sizes))),
                ("static", [1.0] * len(sizes)),
                *[([0.5 + 0.25 * k for k in range(len(sizes))],) * 2],
            ]
        )
    )
    dtype = data.draw(st.sampled_from(DTYPES))
    raw = raw_logits(sizes, dtype=dtype, seed=data.draw(st.integers(0, 2**31)))
    layout = LAYOUTS[data.draw(st.sampled_from(list(LAYOUTS)))]
    raw = [layout(x) for x in raw]
    cfgs = data.draw(st.none() | st.lists(st.floats(0, 3), min_size=len(sizes), max_size=len(sizes)))
    betas = [beta * m for m in multipliers]
    expected = literal(sizes, raw, betas, *options, cfgs=cfgs)
    ssg = SSG(sizes, beta, schedule, *options)
    for _ in range(2):
        assert_generation(ssg, raw, expected, cfgs)
        assert ssg.step == 0


@pytest.mark.parametrize("sizes", [square(VAR_256), infinity("1.5")[:9]], ids=["var", "infinity"])
def test_over_the_scales_of_a_sampler(backend: str, sizes: list[tuple[int, int]]) -> None:
    raw = raw_logits(sizes, rows=2, vocabulary=33)
    assert_generation(SSG(sizes, 0.75), raw, literal(sizes, raw, linear(0.75, len(sizes))))


def test_sizes_may_be_sides_or_pairs() -> None:
    sides = SSG((1, np.int64(2), (3, 3)), 1)
    assert sides.sizes == SSG([(1, 1), (2, 2), [3, 3]], 1.0).sizes == ((1, 1), (2, 2), (3, 3))
    assert SSG(torch.tensor([[1, 1], [2, 3]]), 1).sizes == ((1, 1), (2, 3))


@pytest.mark.parametrize(
    ("schedule", "betas"),
    [
        ("linear", (1.5, 1.0, 0.5)),
        ("static", (2.0, 2.0, 2.0)),
        # Numbers multiply beta, as those of "linear" and "static" do. The first scale is not guided.
        ((7.0, 0.5, 0.25), (1.0, 0.5)),
    ],
)
def test_schedules_by_hand(backend: str, schedule: Any, betas: tuple[float, ...]) -> None:
    beta = 2.0
    sizes = [(1, 1), (2, 2), (2, 3), (4, 4)]
    if not isinstance(schedule, str):
        sizes = sizes[:3]
    raw = raw_logits(sizes)
    ssg = SSG(sizes, beta, schedule)
    assert torch.equal(ssg(raw[0]), raw[0])
    for k, beta_k in enumerate(betas, 1):
        by_hand = ssg_kernels.guided_logits(raw[k], raw[k - 1], sizes[k], sizes[k - 1], beta_k)
        assert torch.equal(ssg(raw[k]), by_hand)


def test_the_numbers_of_the_linear_schedule_are_those_of_the_paper() -> None:
    assert SSG([1] * 4, 1.0).multipliers == (1.0, 0.75, 0.5, 0.25)
    assert SSG([1], 1.0).multipliers == (1.0,)
    assert SSG([1] * 3, 1.0, "static").multipliers == (1.0, 1.0, 1.0)
    assert SSG([1] * 3, 1.0, np.array([3, 2, 1])).multipliers == (3.0, 2.0, 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int32])
@pytest.mark.parametrize("values", [2.9, [1.7, 2.9]])
def test_a_tensor_of_strengths(backend: str, values: Any, dtype: torch.dtype) -> None:
    beta = torch.tensor(values).to(dtype)
    raw = raw_logits(SIZES)
    betas = [beta.double() * m for m in linear(1.0, 4)]
    assert_generation(SSG(SIZES, beta), raw, literal(SIZES, raw, betas))


def test_a_tensor_of_strengths_is_read_at_every_call(backend: str) -> None:
    beta = torch.tensor(1.0)
    ssg = SSG(SIZES, beta, "static")
    raw = raw_logits(SIZES)
    expected = literal(SIZES, raw, [0.0, 1.0, 2.0, 3.0])
    for k in range(4):
        beta.fill_(k)
        assert_accurate(ssg(raw[k]), expected[k])


@pytest.mark.parametrize("cfg", [None, 1.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_place(backend: str, dtype: torch.dtype, cfg: float | None) -> None:
    raw = raw_logits(SIZES, dtype=dtype)
    expected = [ssg(x, cfg) for ssg in [SSG(SIZES, 0.5)] for x in raw]
    ssg = SSG(SIZES, 0.5)
    for logits, wanted in zip(raw, expected, strict=True):
        given = logits.clone()
        out = given[: len(wanted)]
        assert ssg(given, cfg, out=out) is out
        assert torch.equal(out, wanted)


def test_fewer_rows_go_on(backend: str) -> None:
    raw = raw_logits(SIZES, rows=4)
    ssg = SSG(SIZES, 0.5)
    ssg.generation.keep_rows(2)
    expected = [SSG(SIZES[:2], 0.5, [1, 0.75]), SSG(SIZES[1:], 0.5, [1, 0.5, 0.25])]
    assert torch.equal(ssg(raw[0]), expected[0](raw[0]))
    assert torch.equal(ssg(raw[1]), expected[0](raw[1]))
    ssg.generation.keep_rows(2)
    expected[1](raw[1][:2])
    for logits in raw[2:]:
        assert torch.equal(ssg(logits[:2]), expected[1](logits[:2]))


def test_fake_tensors_in_and_out() -> None:
    ssg = SSG((1, 2), 0.5)
    with FakeTensorMode():
        for _ in range(2):
            assert isinstance(ssg(torch.empty(1, 1, 3)), FakeTensor)
            assert isinstance(ssg(torch.empty(1, 4, 3)), FakeTensor)
        ssg(torch.empty(1, 1, 3))
    # A fake call leaves nothing behind for real ones.
    ssg.reset()
    raw = raw_logits(square((1, 2)))
    for logits, expected in zip(raw, [ssg(x) for ssg in [SSG((1, 2), 0.5)] for x in raw], strict=True):
        assert torch.equal(ssg(logits), expected)


def test_a_copy_goes_on_alone() -> None:
    raw = raw_logits(SIZES)
    expected = [ssg(x) for ssg in [SSG(SIZES, 0.5)] for x in raw]
    ssg = SSG(SIZES, 0.5)
    for logits in raw[:2]:
        ssg(logits)
    twins = copy.copy(ssg), copy.deepcopy(ssg)
    for twin in (*twins, ssg):
        for logits, wanted in zip(raw[2:], expected[2:], strict=True):
            assert torch.equal(twin(logits), wanted)


# What samplers do to the logits. Each of these went wrong with a real sampler.


def sampler(ssg: SSG, raw: list[Tensor], spoil: Callable[[Tensor, Tensor], None]) -> list[Tensor]:
    """The guided logits of a generation. Calls `spoil(given, returned)` after every scale."""
    guided = []
    for logits in raw:
        given = logits.clone()
        returned = ssg(given)
        guided.append(returned.clone())
        spoil(given, returned)
    return guided


def mask_returned(given: Tensor, returned: Tensor) -> None:
    returned[..., ::2] = -INF


def mask_given(given: Tensor, returned: Tensor) -> None:
    given[..., ::2] = -INF


def overwrite_given(given: Tensor, returned: Tensor) -> None:
    """For a sampler that reads its own tensor again: guidance goes back into that tensor, and then masking does."""
    given.copy_(returned)
    given[..., 1:] = -INF


SPOILS = [mask_returned, mask_given, overwrite_given]


@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_sampler_does_in_place_stays_out(backend: str, spoil: Any, dtype: torch.dtype) -> None:
    raw = raw_logits(SIZES, dtype=dtype)
    clean = sampler(SSG(SIZES, 0.5), raw, lambda given, returned: None)
    spoilt = sampler(SSG(SIZES, 0.5), raw, spoil)
    assert all(torch.equal(a, b) for a, b in zip(clean, spoilt, strict=True))


@pytest.mark.parametrize(("spoil", "copies"), [(mask_returned, 1), (mask_given, 0), (overwrite_given, 0)])
def test_these_samplers_tell_a_cache_that_is_no_copy(
    monkeypatch: pytest.MonkeyPatch, spoil: Any, copies: int
) -> None:
    # SSG copies once for the caller and once for its cache. With one copy for both, the first scale's result is the
    # cache; with none, the cache is the input. Both must show.
    raw = raw_logits(SIZES)
    clean = sampler(SSG(SIZES, 0.5), raw, lambda given, returned: None)
    kept: dict[int, Tensor] = {}

    def one_copy(logits: Tensor) -> Tensor:
        return kept.setdefault(id(logits), logits.clone()) if copies else logits

    monkeypatch.setattr(guidance, "_copy", one_copy)
    spoilt = sampler(SSG(SIZES, 0.5), raw, spoil)
    assert not all(torch.equal(a, b) for a, b in zip(clean, spoilt, strict=True))


def test_the_first_scale_comes_back_as_a_copy() -> None:
    logits = normal(2, 1, 9)
    guided = SSG(SIZES, 0.5)(logits)
    assert torch.equal(guided, logits)
    assert guided.untyped_storage().data_ptr() != logits.untyped_storage().data_ptr()


def test_the_previous_logits_are_the_raw_ones(backend: str) -> None:
    # At 1x1 -> 1x1 -> 1x1, guided_3 = l_3 + b (l_3 - l_2), whatever guided_2 was.
    values = torch.tensor([1.0, 2.0, 5.0]).reshape(3, 1, 1, 1)
    ssg = SSG([1, 1, 1], 1.0, "static")
    assert [ssg(x).item() for x in values] == [1.0, 3.0, 8.0]


def test_t_may_be_changed_in_place_afterwards(backend: str) -> None:
    raw = raw_logits(SIZES, rows=4)
    expected = literal(SIZES, raw, linear(0.5, 4), cfgs=[0.5, 1.0, 1.5, 2.0])
    ssg, t = SSG(SIZES, 0.5), torch.zeros(())
    for logits, wanted in zip(raw, expected, strict=True):
        t += 0.5
        assert_accurate(ssg(logits, t), wanted)


# Classifier-free guidance.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["float", "scalar", "vector"])
def test_cfg_merges_each_scale_with_its_own_t(backend: str, kind: str, dtype: torch.dtype) -> None:
    ramp = [1.5 * k / 3 for k in range(4)]
    cfgs: list[Strength] = {
        "float": ramp,
        "scalar": [torch.tensor(t) for t in ramp],
        "vector": [torch.tensor([t, 2 * t]) for t in ramp],
    }[kind]
    raw = raw_logits(SIZES, rows=4, dtype=dtype)
    assert_generation(SSG(SIZES, 0.5), raw, literal(SIZES, raw, linear(0.5, 4), cfgs=cfgs), cfgs)


def test_cfg_calls_the_operator_with_the_t_before(backend: str) -> None:
    raw = raw_logits(SIZES, rows=4)
    ssg = SSG(SIZES, 0.5, "static", "spatial", "nearest", True)
    ssg(raw[0], 3.0)
    for k, (t, prev_t) in enumerate([(2.0, 3.0), (1.0, 2.0), (0.0, 1.0)], 1):
        by_hand = ssg_kernels.guided_logits_cfg(
            raw[k], raw[k - 1], SIZES[k], SIZES[k - 1], 0.5, t, prev_t, "spatial", "nearest", True
        )
        assert torch.equal(ssg(raw[k], t), by_hand)


def test_cfg_keeps_masked_logits_masked(backend: str) -> None:
    ssg = SSG(SIZES, 0.5)
    for logits in raw_logits(SIZES, rows=4):
        logits[:, :, 3] = -INF  # in both halves, so that the merge would give (1 + t) * -inf + t * inf = NaN
        logits[:2, :, 4] = -INF
        guided = ssg(logits, 1.5)
        assert torch.equal(guided.isinf().nonzero()[:, 2].unique(), torch.tensor([3, 4]))
        assert (guided[:, :, 3:5] == -INF).all()
        assert not guided.isnan().any()


# Generations.


def test_a_generation_follows_the_one_before() -> None:
    raw, other = raw_logits(SIZES), raw_logits(SIZES, rows=3, vocabulary=5, dtype=torch.float64)
    ssg = SSG(SIZES, 0.5)
    for k, logits in enumerate(itertools.chain(raw, other)):
        assert ssg.step == k % 4
        ssg(logits)
    assert_generation(ssg, raw, literal(SIZES, raw, linear(0.5, 4)))


@pytest.mark.parametrize("seen", [1, 2, 3])
def test_a_generation_that_ended_early_needs_no_reset(seen: int) -> None:
    raw = raw_logits(SIZES)
    expected = literal(SIZES, raw, linear(0.5, 4))
    ssg = SSG(SIZES, 0.5)
    for logits in raw_logits(SIZES, rows=5, dtype=torch.float64)[:seen]:
        ssg(logits)
    assert ssg.step == seen
    for k, (logits, wanted) in enumerate(zip(raw, expected, strict=True), 1):
        assert_accurate(ssg(logits), wanted)
        assert ssg.step == k % 4


def test_reset_begins_a_generation() -> None:
    raw = raw_logits(SIZES)
    ssg = SSG(SIZES, 0.5)
    ssg(raw[0])
    ssg(raw[1])
    ssg.reset()
    assert ssg.step == 0
    with pytest.raises(ValueError, match=re.escape("step 1 of 4 expects size (1, 1)")):
        ssg(raw[2])
    assert_generation(ssg, raw, literal(SIZES, raw, linear(0.5, 4)))


def test_one_grid_for_all_steps_is_no_new_generation() -> None:
    sizes = [(3, 4)] * 5
    raw = raw_logits(sizes)
    expected = literal(sizes, raw, linear(0.5, 5))
    ssg = SSG(sizes, 0.5)
    for _ in range(2):
        assert_generation(ssg, raw, expected)
    ssg(raw[3])
    ssg.reset()
    assert_generation(ssg, raw, expected)


def test_a_first_grid_that_repeats() -> None:
    sizes = [(1, 1), (1, 1), (2, 2), (2, 2)]
    raw = raw_logits(sizes)
    expected = literal(sizes, raw, linear(0.5, 4))
    ssg = SSG(sizes, 0.5)
    assert_generation(ssg, raw, expected)
    # Two of four scales, then a new generation: it gives 1x1 where 2x2 was due.
    ssg(raw[0])
    ssg(raw[1])
    for logits, wanted in zip(raw, expected, strict=True):
        assert_accurate(ssg(logits), wanted)


def test_one_scale_is_never_guided() -> None:
    ssg = SSG([4], 2.0)
    for _ in range(2):
        logits = normal(2, 16, 5)
        assert torch.equal(ssg(logits), logits)


def test_nothing_is_kept_after_the_last_scale() -> None:
    ssg = SSG(SIZES, 0.5)
    for logits in raw_logits(SIZES, rows=4):
        ssg(logits, 1.0)
    assert not any(
        isinstance(value, Tensor) for part in (ssg, ssg.generation) for value in vars(part).values()
    )


def test_two_generations_at_once_need_two() -> None:
    raw, other = raw_logits(SIZES), raw_logits(SIZES)
    one, two = SSG(SIZES, 0.5), SSG(SIZES, 0.5)
    pairs = [(one(a), two(b)) for a, b in zip(raw, other, strict=True)]
    for sources, index in ((raw, 0), (other, 1)):
        expected = literal(SIZES, sources, linear(0.5, 4))
        for pair, wanted in zip(pairs, expected, strict=True):
            assert_accurate(pair[index], wanted)


def test_a_copy_goes_its_own_way() -> None:
    raw = raw_logits(SIZES)
    expected = literal(SIZES, raw, linear(0.5, 4))
    ssg = SSG(SIZES, 0.5)
    ssg(raw[0])
    twin = copy.deepcopy(ssg)
    for k in (1, 2, 3):
        assert_accurate(ssg(raw[k]), expected[k])
        assert_accurate(twin(raw[k]), expected[k])


def test_repr_says_what_it_is() -> None:
    text = repr(SSG([1, (2, 3)], 0.5, prior="spatial"))
    assert text.startswith("SSG(1x1, 2x3; beta=0.5, ")
    assert "prior='spatial'" in text


# Wrong calls.


@pytest.fixture
def begun() -> SSG:
    """An SSG that has seen the first two of four scales, two samples of nine columns."""
    ssg = SSG(SIZES, torch.tensor([0.5, 1.0]))
    for logits in raw_logits(SIZES)[:2]:
        ssg(logits)
    return ssg


@pytest.mark.parametrize(
    ("text", "logits", "cfg"),
    [
        ("step 3 of 4 expects size (3, 2), L = 6 tokens, got L = 24; ", normal(2, 24, 9), None),
        ("a new generation begins with size (1, 1), L = 1", normal(2, 4, 9), None),
        ("logits must be a 3-D tensor (B, L, V), got 2-D", normal(6, 9), None),
        (
            "logits must be float32, bfloat16, float16 or float64, got torch.int64",
            normal(2, 6, 9).long(),
            None,
        ),
        ("beta must be a float or a tensor of shape () or (3,), got shape (2,)", normal(3, 6, 9), None),
        (
            "dtype of the previous scale, torch.float32, got torch.float64 at step 3 of 4; reset()",
            normal(2, 6, 9).double(),
            None,
        ),
        ("beta must be on the device of logits, meta, got cpu", normal(2, 6, 9).to("meta"), None),
        (
            "cfg must be given at every scale of a generation or at none, step 3 of 4 got",
            normal(4, 6, 9),
            1.5,
        ),
        ("logits must hold an even batch, conditional half first, got 3", normal(3, 6, 9), 1.5),
        (
            "cfg must be a float or a tensor of shape () or (2,), got shape (4,)",
            normal(4, 6, 9),
            torch.ones(4),
        ),
        (
            "cfg must be a real tensor, got torch.complex64",
            normal(4, 6, 9),
            torch.ones((), dtype=torch.complex64),
        ),
    ],
)
def test_wrong_logits_change_nothing(begun: SSG, text: str, logits: Tensor, cfg: Any) -> None:
    parts = (begun, begun.generation)
    before = [dict(vars(part)) for part in parts]
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        begun(logits, cfg)
    assert str(caught.value).startswith("SSG: ")
    for part, values in zip(parts, before, strict=True):
        assert all(vars(part)[name] is value for name, value in values.items())
    assert begun(normal(2, 6, 9)).shape == (2, 6, 9)


def test_the_batch_may_not_change_within_a_generation() -> None:
    ssg = SSG(SIZES, 0.5)
    ssg(normal(2, 1, 9))
    text = "SSG: logits must have the batch of the previous scale, 2, got 3 at step 2 of 4; reset() begins"
    with pytest.raises(ValueError, match=re.escape(text)):
        ssg(normal(3, 4, 9))
    ssg(normal(3, 1, 9))
    ssg(normal(3, 4, 9))


def test_the_device_may_not_change_within_a_generation() -> None:
    ssg = SSG(SIZES, 0.5)
    ssg(normal(2, 1, 9))
    with pytest.raises(ValueError, match="device of the previous scale, cpu, got meta"):
        ssg(normal(2, 4, 9).to("meta"))


def test_cfg_may_not_stop_within_a_generation() -> None:
    ssg = SSG(SIZES, 0.5)
    ssg(normal(4, 1, 9), 1.5)
    for rows in (2, 4):
        with pytest.raises(ValueError, match="a generation or at none, step 2 of 4 got none"):
            ssg(normal(rows, 4, 9))
    ssg(normal(4, 4, 9), 0.0)


def test_wrong_logits_at_the_first_scale() -> None:
    for logits, cfg, text in (
        (normal(2, 4, 9), None, "step 1 of 4 expects size (1, 1), L = 1 tokens, got L = 4"),
        (normal(2, 1, 9).int(), None, "got torch.int32"),
        (normal(3, 1, 9), 1.5, "got 3"),
        (
            normal(2, 1, 9),
            torch.ones(2),
            "cfg must be a float or a tensor of shape () or (1,), got shape (2,)",
        ),
    ):
        ssg = SSG(SIZES, 0.5)
        with pytest.raises(ValueError, match=re.escape(text)):
            ssg(logits, cfg)
        assert ssg.step == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"sizes": []}, "sizes must hold at least one scale, got none"),
        ({"sizes": 16}, "sizes must hold ints or (h, w) pairs, got 16"),
        ({"sizes": "1 2"}, "sizes must hold ints or (h, w) pairs, got '1 2'"),
        ({"sizes": [1, 0]}, "sizes must be positive ints or (h, w) pairs of them, got 0 at scale 2"),
        ({"sizes": [(1, -1)]}, "sizes must be positive ints or (h, w) pairs of them, got (1, -1) at scale 1"),
        ({"sizes": [1, 2.5]}, "got 2.5 at scale 2"),
        ({"sizes": ["ab"]}, "got 'ab' at scale 1"),
        ({"sizes": [None]}, "got None at scale 1"),
        ({"sizes": [1, 3, 2]}, "sizes must not shrink, got (2, 2) after (3, 3) at scale 3"),
        ({"sizes": [(2, 3), (3, 2)]}, "sizes must not shrink, got (3, 2) after (2, 3) at scale 2"),
        ({"beta": "0.5"}, "beta must be a finite number or a tensor of shape () or (B,), got '0.5'"),
        ({"beta": None}, "beta must be a finite number or a tensor of shape () or (B,), got None"),
        ({"beta": math.nan}, "beta must be a finite number or a tensor of shape () or (B,), got nan"),
        ({"beta": [0.5, 0.5]}, "got [0.5, 0.5]"),
        (
            {"beta": torch.ones(2, 1)},
            "beta must be a float or a tensor of shape () or (B,), got shape (2, 1)",
        ),
        ({"beta": torch.ones(2, dtype=torch.complex64)}, "beta must be a real tensor, got torch.complex64"),
        ({"schedule": "cosine"}, "schedule must be 'linear', 'static' or 3 numbers, got 'cosine'"),
        ({"schedule": 0.5}, "schedule must hold 'linear', 'static' or 3 numbers, got 0.5"),
        ({"schedule": [1, 2]}, "schedule must hold one number per scale, 3, got 2"),
        ({"schedule": [1, 2, "3"]}, "schedule must hold finite numbers, got '3' at scale 3"),
        ({"schedule": [1, INF, 3]}, "schedule must hold finite numbers, got inf at scale 2"),
        ({"prior": "x"}, "prior must be one of 'dse', 'dse_zero_pad', 'spatial', got 'x'"),
        (
            {"interpolation": "linear"},
            "interpolation must be one of 'nearest', 'bilinear', 'bicubic', 'area', got 'linear'",
        ),
    ],
)
def test_wrong_construction(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        SSG(**{"sizes": [1, 2, 3], "beta": 0.5, **arguments})
    assert str(caught.value).startswith("SSG: ")


# Autograd, inference mode, devices and compilers.


def test_gradients_are_those_of_the_loop(backend: str) -> None:
    raw = [x.requires_grad_() for x in raw_logits(SIZES, dtype=torch.float64)]
    beta = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    weights = [torch.randn_like(x) for x in raw]
    gradients = []
    for guided in (
        list(map(SSG(SIZES, beta), raw)),
        literal(SIZES, raw, [beta * m for m in linear(1.0, 4)]),
    ):
        loss = sum((w * x).sum() for w, x in zip(weights, guided, strict=True))
        gradients.append(torch.autograd.grad(loss, [*raw, beta]))
    for actual, expected in zip(*gradients, strict=True):
        assert torch.allclose(actual, expected, rtol=1e-10, atol=1e-10)


def test_inference_mode(backend: str) -> None:
    raw = raw_logits(SIZES)
    expected = literal(SIZES, raw, linear(0.5, 4))
    with torch.inference_mode():
        ssg = SSG(SIZES, 0.5)
        for _ in range(2):
            assert_generation(ssg, raw, expected)
    # The same SSG then trains: no tensor that it made in inference mode may be in the graph.
    trained = [x.clone().requires_grad_() for x in raw]
    sum(ssg(x).sum() for x in trained).backward()
    assert all(x.grad is not None for x in trained)


@pytest.mark.parametrize("is_cfg", [False, True])
@pytest.mark.parametrize("beta_shape", [None, (), (2,)])
def test_no_value_is_read_back_from_a_device(is_cfg: bool, beta_shape: tuple[int, ...] | None) -> None:
    # Fake tensors have no values, so reading one raises.
    with FakeTensorMode():
        beta = 0.5 if beta_shape is None else torch.ones(beta_shape, device="cuda")
        ssg = SSG(SIZES, beta)
        for h, w in SIZES * 2:
            logits = torch.empty(4 if is_cfg else 2, h * w, 9, device="cuda")
            guided = ssg(logits, torch.ones(2, device="cuda")) if is_cfg else ssg(logits)
            assert guided.device == logits.device
            assert guided.shape == (2, h * w, 9)


def loop(ssg: SSG, raw: list[Tensor]) -> list[Tensor]:
    """The loop of a sampler, which masks the returned logits."""
    guided = []
    for logits in raw:
        returned = ssg(logits)
        guided.append(returned.clone())
        returned.masked_fill_(returned < 0, -INF)
    return guided


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


@pytest.fixture
def _no_compiled_code() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("_no_compiled_code")
def test_a_compiled_loop_is_one_graph_for_every_strength() -> None:
    sizes = square(VAR_256)
    raw = raw_logits(sizes)
    compiled = torch.compile(loop, fullgraph=True, backend="aot_eager")
    for beta in (0.5, 1.0, 2.0):
        ssg = SSG(sizes, beta)
        for _ in range(2):
            guided = compiled(ssg, raw)
            assert ssg.step == 0
            for actual, expected in zip(guided, loop(SSG(sizes, beta), raw), strict=True):
                assert torch.equal(actual, expected)
    assert graphs() == 1
    for beta in (torch.tensor(0.5), torch.tensor(1.0)):
        for actual, expected in zip(
            compiled(SSG(sizes, beta), raw), loop(SSG(sizes, beta), raw), strict=True
        ):
            assert torch.equal(actual, expected)
    assert graphs() == 2


@pytest.mark.usefixtures("_no_compiled_code")
@pytest.mark.parametrize("cfg", [None, 1.5])
def test_one_compiled_function_guides_every_scale_and_strength(cfg: float | None) -> None:
    raw = raw_logits(square(VAR_256), rows=2)
    guide = torch.compile(SSG.guide, fullgraph=True, backend="aot_eager")
    for beta in (0.5, 1.0, 2.0):
        ssg = SSG(VAR_256, beta)
        for k in range(1, len(raw)):
            arguments = (ssg.scale(k, "cpu"), raw[k], raw[k - 1], cfg, cfg)
            assert torch.equal(guide(ssg, *arguments), ssg.guide(*arguments))
    assert graphs() <= 2


@pytest.mark.usefixtures("_no_compiled_code")
def test_an_ssg_made_by_compiled_code() -> None:
    def generate(raw: list[Tensor], beta: float) -> list[Tensor]:
        return loop(SSG(SIZES, beta), raw)

    raw = raw_logits(SIZES)
    compiled = torch.compile(generate, fullgraph=True, backend="aot_eager")
    for beta in (0.1, 0.2, 0.3, 0.4):
        for actual, expected in zip(compiled(raw, beta), generate(raw, beta), strict=True):
            torch.testing.assert_close(actual, expected)
    assert graphs() <= 2


@pytest.mark.usefixtures("_no_compiled_code")
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_compiled_loop_with_cfg(mode: Any) -> None:
    def generate(raw: list[Tensor], ts: Tensor) -> list[Tensor]:
        ssg = SSG(SIZES, 0.5)
        return [ssg(logits, t) for logits, t in zip(raw, ts.unbind(), strict=True)]

    raw, ts = raw_logits(SIZES, rows=4), torch.linspace(0, 1.5, 4)
    with mode():
        compiled = torch.compile(generate, fullgraph=True, backend="aot_eager")
        for actual, expected in zip(compiled(raw, ts), generate(raw, ts), strict=True):
            # torch's own operators merge the first scale. A compiler may contract them to fused multiply-adds.
            assert_accurate(actual, expected.double())


@pytest.mark.usefixtures("_no_compiled_code")
def test_a_compiled_step_at_a_time_is_right_too() -> None:
    sizes = square(VAR_256)
    raw = raw_logits(sizes)
    ssg, eager = SSG(sizes, 0.5), SSG(sizes, 0.5)
    compiled = torch.compile(lambda logits: ssg(logits), backend="eager")
    with torch._dynamo.config.patch(recompile_limit=16):
        for _ in range(2):
            for logits in raw:
                assert torch.equal(compiled(logits), eager(logits))
