"""Compares GuidedSampler with the operators called one by one, and tests its state through all that can go wrong."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.strategies import DTYPES, INTERPOLATIONS, PRIORS, normal
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

import ssg_kernels
from bench.schedules import VAR_256
from ssg_kernels import GuidedSampler

SIZES = [(1, 1), (2, 2), (3, 2), (6, 4)]
K = len(SIZES)


def raw_logits(rows: int = 4, vocabulary: int = 9, sizes: Any = SIZES, **options: Any) -> list[Tensor]:
    return [normal(rows, h * w, vocabulary, **options) for h, w in sizes]


def uniforms(batch: int = 2, sizes: Any = SIZES, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(batch, h * w, generator=generator) for h, w in sizes]


def literal(
    raw: list[Tensor],
    uniform: list[Tensor],
    betas: list[float],
    cfgs: list[Any] | None,
    top_ks: list[int],
    top_ps: list[float],
    temperatures: list[Any],
    *options: Any,
) -> list[Tensor]:
    """The tokens, operator by operator. The first scale is only merged, which guidance with beta 0 does."""
    tokens = []
    for k, logits in enumerate(raw):
        prev = max(k - 1, 0)
        sizes = (SIZES[k], SIZES[prev])
        beta = betas[k] if k else 0.0
        if cfgs is None:
            guided = ssg_kernels.guided_logits(logits, raw[prev], *sizes, beta, *options)
        else:
            strengths = (beta, cfgs[k], cfgs[prev])
            guided = ssg_kernels.guided_logits_cfg(logits, raw[prev], *sizes, *strengths, *options)
        scale = 1 / torch.as_tensor(temperatures[k], dtype=torch.float64)
        tokens.append(
            torch.ops.ssg._sample_tempered(
                guided, uniform[k], scale.expand(len(guided)), top_ks[k], top_ps[k]
            )
        )
    return tokens


def generation(sampler: GuidedSampler, raw: list[Tensor], uniform: list[Tensor]) -> list[Tensor]:
    tokens = []
    for k, (logits, u) in enumerate(zip(raw, uniform, strict=True)):
        assert sampler.step == k
        tokens.append(sampler(logits, uniform=u))
    assert sampler.step == 0
    return tokens


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert a.dtype == torch.int64
        # The merged first scale may be rounded differently. That can move one edge across a uniform, hardly ever two.
        assert (a != b).sum() <= (1 if k == 0 else 0)


@given(st.data())
def test_is_the_literal_loop(backend: str, data: st.DataObject) -> None:
    def per_scale(values: st.SearchStrategy) -> tuple[Any, list]:
        """An argument of the sampler, and its value at each scale."""
        if data.draw(st.booleans()):
            one = data.draw(values)
            return one, [one] * K
        each = data.draw(st.lists(values, min_size=K, max_size=K))
        return each, each

    options = data.draw(st.tuples(st.sampled_from(PRIORS), st.sampled_from(INTERPOLATIONS), st.booleans()))
    beta = data.draw(st.floats(-1, 3))
    cfg, cfgs = (None, None) if data.draw(st.booleans()) else per_scale(st.floats(0, 3))
    top_k, top_ks = per_scale(st.integers(0, 9))
    top_p, top_ps = per_scale(st.floats(0, 1))
    temperature, temperatures = per_scale(st.floats(0.25, 4))
    dtype, seed = data.draw(st.sampled_from(DTYPES)), data.draw(st.integers(0, 2**31))
    raw = raw_logits(rows=2 if cfg is None else 4, dtype=dtype, seed=seed)
    betas = [beta * (1 - k / K) for k in range(K)]
    expected = literal(raw, uniforms(), betas, cfgs, top_ks, top_ps, temperatures, *options)
    sampler = GuidedSampler(
        SIZES, beta, "linear", *options, cfg=cfg, top_k=top_k, top_p=top_p, temperature=temperature
    )
    before = [x.clone() for x in raw]
    for _ in range(2):
        assert_same(generation(sampler, raw, uniforms()), expected)
    assert all(map(torch.equal, raw, before))


def test_the_ramp_is_that_of_the_samplers(backend: str) -> None:
    raw, u = raw_logits(), uniforms()
    filters = ([5] * K, [0.9] * K, [1.0] * K)
    expected = literal(raw, u, [0.5] * K, [0.0, 1.0, 2.0, 3.0], *filters)
    settings = {"schedule": "static", "top_k": 5, "top_p": 0.9}
    for cfg in (3.0, torch.tensor(3.0), torch.tensor([3.0, 3.0])):
        sampler = GuidedSampler(SIZES, 0.5, cfg=cfg, cfg_schedule="ramp", **settings)
        assert_same(generation(sampler, raw, u), expected)
    # HART's last scale has the t of the scale before it.
    expected = literal(raw, u, [0.5] * K, [0.0, 1.0, 2.0, 2.0], *filters)
    sampler = GuidedSampler(SIZES, 0.5, cfg=[0, 1, 2, 2], **settings)
    assert_same(generation(sampler, raw, u), expected)
    assert GuidedSampler([4], 0.5, cfg=3.0, cfg_schedule="ramp").sizes == ((4, 4),)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_before_guides_the_halves_and_merges_them_then(backend: str, as_tensor: bool) -> None:
    raw, u = raw_logits(dtype=torch.float64, seed=2), uniforms()
    ssg = ssg_kernels.SSG(SIZES, 0.8)
    expected = []
    for k, (logits, uniform) in enumerate(zip(raw, u, strict=True)):
        conditional, unconditional = ssg(logits).chunk(2)
        expected.append(ssg_kernels.sample((1 + k) * conditional - k * unconditional, uniform, 5, 0.9))
    cfg = torch.tensor(3.0) if as_tensor else 3.0
    settings = {"cfg": cfg, "cfg_schedule": "ramp", "top_k": 5, "top_p": 0.9}
    sampler = GuidedSampler(SIZES, 0.8, cfg_order="before", **settings)
    for _ in range(2):
        assert_same(generation(sampler, raw, u), expected)
    after = generation(GuidedSampler(SIZES, 0.8, **settings), raw, u)
    assert any((a != b).any() for a, b in zip(after, expected, strict=True))


def test_tensors_are_read_at_every_call(backend: str) -> None:
    raw, u = raw_logits(), uniforms()
    cfgs = [torch.tensor([k, 0.5 * k]) for k in range(K)]
    temperatures = [torch.tensor([1.0, 1.0 + k]) for k in range(K)]
    expected = literal(raw, u, [0.5] * K, cfgs, [0] * K, [0.0] * K, temperatures)
    cfg, temperature = torch.zeros(2), torch.ones(2)
    sampler = GuidedSampler(SIZES, 0.5, "static", cfg=cfg, temperature=temperature)
    for k in range(K):
        cfg.copy_(cfgs[k])
        temperature.copy_(temperatures[k])
        assert torch.equal(sampler(raw[k], uniform=u[k]), expected[k])


@pytest.mark.parametrize("dtype", [torch.float16, torch.int64])
def test_temperatures_of_other_dtypes(backend: str, dtype: torch.dtype) -> None:
    raw, u = raw_logits(), uniforms()
    tokens = generation(GuidedSampler(SIZES, 0.5, cfg=1.0, temperature=3.0), raw, u)
    temperature = torch.tensor(3, dtype=dtype)
    assert_same(generation(GuidedSampler(SIZES, 0.5, cfg=1.0, temperature=temperature), raw, u), tokens)


def test_the_generator_draws_the_uniforms(backend: str) -> None:
    raw, u = raw_logits(), uniforms(seed=5)
    sampler = GuidedSampler(SIZES, 0.5, cfg=1.0)
    expected = generation(sampler, raw, u)
    generator = torch.Generator().manual_seed(5)
    assert_same([sampler(x, generator) for x in raw], expected)
    torch.manual_seed(5)
    assert_same([sampler(x) for x in raw], expected)
    with pytest.raises(ValueError, match="generator and uniform must not be given both"):
        sampler(raw[0], generator, uniform=u[0])
    assert sampler.step == 0


def test_groups_of_classes(backend: str) -> None:
    """Infinity's bits are guided as one vocabulary of 2d columns, and drawn as d choices between two."""
    raw, settings = raw_logits(vocabulary=10), {"cfg": 1.5, "temperature": 0.5}
    u = [torch.rand(2, h * w, 5) for h, w in SIZES]
    sampler = GuidedSampler(SIZES, 0.5, classes=2, top_k=2, top_p=0.97, **settings)
    ssg = ssg_kernels.SSG(SIZES, 0.5)
    for k, tokens in enumerate(generation(sampler, raw, u)):
        choices = ssg(raw[k], 1.5).unflatten(-1, (5, 2)) / 0.5
        assert tokens.shape == choices.shape[:-1]
        for i in range(5):
            assert torch.equal(tokens[..., i], ssg_kernels.sample(choices[..., i, :], u[k][..., i], 2, 0.97))
    assert sampler(raw[0], torch.Generator().manual_seed(0)).shape == (2, 1, 5)
    sampler.reset()
    text = "logits must have a vocabulary of whole groups of classes = 2, got 9"
    with pytest.raises(ValueError, match=text):
        sampler(raw_logits()[0])
    text = re.escape("uniform must have shape (2, 1, 5), got (2, 1)")
    with pytest.raises(ValueError, match=text):
        sampler(raw[0], uniform=torch.rand(2, 1))


# What a call does


class Operators(TorchDispatchMode):
    """Records every operator that allocates or computes, and the shapes it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = op(*args, **(kwargs or {}))
        if op is not torch.ops.aten.view.default:
            self.names.append(op.name())
            self.shapes.append(tuple(result.shape))
        return result


@pytest.mark.parametrize(
    ("cfg", "operator"), [(None, "guided_logits.float"), (1.5, "guided_logits_cfg.float")]
)
def test_two_operators_and_one_map_of_logits(cfg: float | None, operator: str) -> None:
    raw = raw_logits(rows=2 if cfg is None else 4)
    sampler = GuidedSampler(SIZES, 0.5, cfg=cfg, top_k=3, top_p=0.9, temperature=0.7)
    sampler(raw[0])
    for k in range(1, K):
        with torch.inference_mode(), Operators() as seen:
            sampler(raw[k])
        assert sorted(seen.names) == sorted(
            ["aten::rand.generator", f"ssg::{operator}", "ssg::_sample_tempered.float"]
        )
        assert seen.shapes.count((2, SIZES[k][0] * SIZES[k][1], 9)) == 1


def test_nothing_is_kept_after_the_last_scale() -> None:
    raw = raw_logits()
    sampler = GuidedSampler(SIZES, 0.5, cfg=1.5)
    for k, logits in enumerate(raw):
        sampler(logits)
        assert sampler.generation.prev_logits is (logits if k < K - 1 else None)
    sampler(raw[0])
    sampler.reset()
    assert sampler.generation.prev_logits is None


# State


def test_a_generation_that_ended_early(backend: str) -> None:
    raw, u = raw_logits(), uniforms()
    sampler = GuidedSampler(SIZES, 0.5, cfg=1.5, cfg_schedule="ramp")
    expected = generation(sampler, raw, u)
    other = raw_logits(rows=6)
    for stop in range(1, K):
        for k in range(stop):
            sampler(other[k])
        assert_same([sampler(x, uniform=v) for x, v in zip(raw, u, strict=True)], expected)
        sampler(other[0])
        sampler.reset()
        assert_same(generation(sampler, raw, u), expected)


def test_two_at_once(backend: str) -> None:
    raw, u = [raw_logits(seed=s) for s in (0, 100)], [uniforms(seed=s) for s in (0, 1)]
    make = lambda i: GuidedSampler(SIZES, 0.5 + i, cfg=1.5, top_p=0.9)  # noqa: E731
    expected = [generation(make(i), raw[i], u[i]) for i in range(2)]
    samplers = [make(i) for i in range(2)]
    for k, i in itertools.product(range(K), range(2)):
        assert torch.equal(samplers[i](raw[i][k], uniform=u[i][k]), expected[i][k])


@pytest.mark.parametrize("at", range(K))
def test_after_an_error_it_is_as_before(backend: str, at: int) -> None:
    raw, u = raw_logits(), uniforms()
    sampler = GuidedSampler(SIZES, 0.5, cfg=1.5, top_k=4)
    expected = generation(sampler, raw, u)
    for k in range(K):
        if k == at:
            spoilt = raw[k].clone()
            spoilt[1, -1, 3] = math.nan
            for wrong, text in (
                (spoilt, "finite largest value"),
                (raw[k][..., :3], "GuidedSampler: top_k must be from 0 to V = 3, got 4"),
                (raw[k].int(), "float32, bfloat16, float16 or float64"),
                (raw[k][:3], "even batch"),
                (raw[k][:, :, None], "3-D tensor"),
                (normal(4, 5, 9), "expects size"),
            ):
                with pytest.raises((ValueError, RuntimeError), match=text):
                    sampler(wrong, uniform=torch.rand(2, wrong.shape[1]))
            with pytest.raises((ValueError, RuntimeError), match="uniform must have shape"):
                sampler(raw[k], uniform=torch.rand(3, 3))
        assert torch.equal(sampler(raw[k], uniform=u[k]), expected[k])


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor, iter], ids=lambda k: k.__name__)
def test_numbers_in_any_sequence(kind: Any) -> None:
    raw, u = raw_logits(), uniforms()
    given = {"top_k": [4, 3, 2, 9], "top_p": [0.5, 0.75, 0.875, 1.0], "temperature": [1.0, 0.5, 2.0, 1.5]}
    cfg, schedule = [0.5, 1.0, 1.5, 2.0], [1.0, 0.75, 0.5, 0.25]
    expected = generation(GuidedSampler(SIZES, 0.5, schedule, cfg=cfg, **given), raw, u)
    # A tensor of cfg or temperature holds one number for each sample, so it is not a sequence over the scales.
    per_sample = ("temperature",) if kind is torch.tensor else ()
    others = {name: values if name in per_sample else kind(values) for name, values in given.items()}
    cfg = cfg if kind is torch.tensor else kind(cfg)
    sampler = GuidedSampler(np.array(SIZES), np.float32(0.5), kind(schedule), cfg=cfg, **others)
    assert_same(generation(sampler, raw, u), expected)


WRONG = [
    ({"cfg": "x"}, "cfg must be one of the finite numbers or hold 4, one per scale, got 'x'"),
    ({"cfg": [1, 2, 3]}, "cfg must be one of the finite numbers or hold 4, one per scale, got 3 of them"),
    ({"cfg": [1, 2, math.inf, 3]}, "cfg must hold finite numbers, got inf at scale 3"),
    ({"cfg": math.nan}, "cfg must hold finite numbers, got nan"),
    (
        {"cfg": torch.ones(2, 2)},
        "cfg must be a real tensor of shape () or (B,), got torch.float32 of shape (2, 2)",
    ),
    ({"cfg": 1.5, "cfg_order": "both"}, "cfg_order must be one of 'after', 'before', got 'both'"),
    ({"cfg": 1.5, "cfg_schedule": "linear"}, "cfg_schedule must be one of 'static', 'ramp', got 'linear'"),
    (
        {"cfg": [1, 2, 3, 4], "cfg_schedule": "ramp"},
        "cfg_schedule must be 'static' where cfg holds one number per scale, got 'ramp'",
    ),
    ({"top_k": -1}, "top_k must hold integers from 0 on, got -1"),
    ({"top_k": 1.5}, "top_k must hold integers from 0 on, got 1.5"),
    ({"top_k": None}, "top_k must be one of the integers from 0 on or hold 4, one per scale, got None"),
    (
        {"top_k": np.array([3, 2])},
        "top_k must be one of the integers from 0 on or hold 4, one per scale, got 2 of them",
    ),
    ({"top_p": 1.1}, "top_p must hold numbers from 0 to 1, got 1.1"),
    ({"top_p": [0, 0.5, -0.1, 1]}, "top_p must hold numbers from 0 to 1, got -0.1 at scale 3"),
    ({"classes": 0}, "classes must be a positive integer or None, got 0"),
    ({"classes": 1.5}, "classes must be a positive integer or None, got 1.5"),
    ({"temperature": 0.0}, "temperature must hold positive finite numbers, got 0.0"),
    ({"temperature": [1, 1, 1, "x"]}, "temperature must hold positive finite numbers, got 'x' at scale 4"),
    (
        {"temperature": torch.ones(2, 1)},
        "temperature must be a real tensor of shape () or (B,), got torch.float32 of shape (2, 1)",
    ),
]


@pytest.mark.parametrize(("settings", "text"), WRONG, ids=lambda x: x if isinstance(x, str) else "")
def test_wrong_settings(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(f"GuidedSampler: {text}") + "$"):
        GuidedSampler(SIZES, 0.5, **settings)


def test_wrong_settings_of_ssg_and_of_a_call() -> None:
    with pytest.raises(ValueError, match="sizes must not shrink"):
        GuidedSampler([3, 2], 0.5)
    logits = normal(4, 1, 9)
    with pytest.raises(ValueError, match=r"cfg must be a float or a tensor of shape \(\) or \(2,\)"):
        GuidedSampler(SIZES, 0.5, cfg=torch.ones(3))(logits)
    with pytest.raises(ValueError, match=r"temperature must be .* shape \(\) or \(2,\), got shape \(3,\)"):
        GuidedSampler(SIZES, 0.5, cfg=1.0, temperature=torch.ones(3))(logits)
    with pytest.raises((ValueError, RuntimeError), match="scale must be positive and finite"):
        GuidedSampler(SIZES, 0.5, cfg=1.0, temperature=torch.tensor(-1.0))(logits)


# torch.compile


@pytest.fixture
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh")
def test_one_compiled_function_draws_every_scale_and_setting() -> None:
    pairs = [(n, n) for n in VAR_256]
    raw, u = raw_logits(sizes=pairs), uniforms(sizes=pairs)
    draw = torch.compile(GuidedSampler.draw, backend="aot_eager", fullgraph=True)
    for number in (0.5, 0.7, 0.9):
        top_ks = [round(9 * number)] * 5 + [3] * 5
        settings = {"cfg": 1 + number, "cfg_schedule": "ramp", "top_k": top_ks, "top_p": number}
        sampler = GuidedSampler(pairs, number, temperature=number, **settings)
        expected = generation(sampler, raw, u)
        for k, logits in enumerate(raw):
            scale, prev_logits = sampler.scale(k, "cpu"), raw[k - 1] if k else None
            assert torch.equal(draw(sampler, scale, logits, prev_logits, u[k]), expected[k])
    assert counters["stats"]["unique_graphs"] <= 3  # one for the first scale, which is not guided


@pytest.mark.usefixtures("_fresh")
def test_a_sampler_made_by_compiled_code() -> None:
    def generate(raw: list[Tensor], u: list[Tensor], number: float) -> list[Tensor]:
        sampler = GuidedSampler(
            SIZES, number, cfg=2 * number, top_k=4, top_p=number / 2, temperature=1 + number
        )
        return [sampler(x, uniform=v) for x, v in zip(raw, u, strict=True)]

    raw, u = raw_logits(), uniforms()
    counter = CompileCounterWithBackend("aot_eager")
    ours = torch.compile(generate, backend=counter, fullgraph=True)
    for number in (0.25, 0.5, 0.75, 1.0):
        assert_same(ours(raw, u, number), generate(raw, u, number))
    assert counter.frame_count <= 2


@pytest.mark.usefixtures("_fresh")
def test_one_graph_for_every_setting() -> None:
    def loop(sampler: GuidedSampler, raw: list[Tensor], u: list[Tensor]) -> list[Tensor]:
        return [sampler(x, uniform=v) for x, v in zip(raw, u, strict=True)]

    raw, u = raw_logits(), uniforms()
    counter = CompileCounterWithBackend("aot_eager")
    ours = torch.compile(loop, backend=counter, fullgraph=True)
    for number in (0.25, 0.5, 0.75):
        settings = {"cfg": 1 + number, "top_k": 4, "top_p": number, "temperature": number}
        sampler = GuidedSampler(SIZES, number, **settings)
        assert_same(ours(sampler, raw, u), loop(sampler, raw, u))
    assert counter.frame_count <= 2


@pytest.mark.usefixtures("_fresh")
@pytest.mark.parametrize(
    ("backend", "mode"), [("aot_eager", torch.no_grad), ("inductor", torch.inference_mode)]
)
def test_a_generation_is_one_graph(backend: str, mode: type) -> None:
    sizes = VAR_256[:3]
    settings = {"cfg": 1.5, "cfg_schedule": "ramp", "top_k": 5, "top_p": 0.9, "temperature": 0.8}
    sampler = GuidedSampler(sizes, 0.5, **settings)

    def loop(raw: list[Tensor], u: list[Tensor]) -> list[Tensor]:
        return [sampler(x, uniform=v) for x, v in zip(raw, u, strict=True)]

    counter = CompileCounterWithBackend(backend)
    ours = torch.compile(loop, backend=counter, fullgraph=True)
    pairs = [(n, n) for n in sizes]
    compilations = set()
    with mode():
        for seed in range(3):
            raw, u = raw_logits(sizes=pairs, seed=seed), uniforms(sizes=pairs, seed=seed)
            assert_same(ours(raw, u), loop(raw, u))
            assert sampler.step == 0
            compilations.add(counter.frame_count)
    assert len(compilations) == 1
