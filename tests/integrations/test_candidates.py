"""Guidance follows the logits that the model makes, however often and in whatever parts a sampler draws from them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import derived, standins
from support.generation_checks import assert_close, check_everything, literal
from support.guided_samplers import Sampler, ramp
from torch import Tensor

from bench.schedules import square
from ssg_kernels.integrations import GuidanceWarning, switti, var


def a_sampler(model: Any) -> Sampler:
    return Sampler(
        var.attach,
        model,
        lambda model, batch, seed: model.autoregressive_infer_cfg(batch, None, seed),
        square(model.patch_nums),
        vars(derived),
        ramp(1.5, model.num_stages_minus_1),
    )


def draws(monkeypatch: pytest.MonkeyPatch, model: Any, **settings: Any) -> list[tuple[Tensor, list[Tensor]]]:
    """For each scale what the model made, and what each call of the sampler was handed."""
    scales: list[tuple[Tensor, list[Tensor]]] = []
    make, sample = model.get_logits, derived.sample_with_top_k_top_p_

    def spy_make(*args: Any) -> Tensor:
        scales.append((make(*args), []))
        return scales[-1][0]

    def spy_sample(logits: Tensor, **options: Any) -> Tensor:
        scales[-1][1].append(logits.clone())
        return sample(logits, **options)

    monkeypatch.setattr(model, "get_logits", spy_make)
    monkeypatch.setattr(derived, "sample_with_top_k_top_p_", spy_sample)
    with var.attach(model, **settings):
        model.autoregressive_infer_cfg(2, None, 0)
    return scales


def expected(model: Any, scales: list[tuple[Tensor, list[Tensor]]], **settings: Any) -> list[Tensor]:
    sampler = a_sampler(model)
    return literal(sampler, [sampler.merge(k, raw, 2) for k, (raw, _) in enumerate(scales)], **settings)


@pytest.mark.parametrize(
    ("kind", "count"), [(derived.Candidates, 20), (derived.CopiedCandidates, 20), (derived.LateCopies, 2)]
)
@pytest.mark.parametrize(
    "settings",
    [{}, {"schedule": "static", "prior": "spatial"}, {"rescale": True}],
    ids=["dse", "spatial", "rescale"],
)
def test_every_candidate_is_drawn_from_the_guided_logits(
    monkeypatch: pytest.MonkeyPatch, kind: type, count: int, settings: dict[str, Any]
) -> None:
    model, settings = kind(), {"beta": 0.75, **settings}
    scales = draws(monkeypatch, model, **settings)
    for guided, (_, handed) in zip(expected(model, scales, **settings), scales, strict=True):
        assert len(handed) == count
        assert_close(handed[0], guided)
        for logits in handed:
            # -inf where an earlier draw or the sampler itself masked it.
            assert_close(logits.where(logits > -math.inf, guided.float()), guided)
            assert (logits > -math.inf).any(-1).all()


@pytest.mark.parametrize("dim", [0, 1])
def test_a_scale_in_parts_is_guided_whole(monkeypatch: pytest.MonkeyPatch, dim: int) -> None:
    model = derived.InParts(dim)
    scales = draws(monkeypatch, model, beta=0.75)
    for guided, (_, handed) in zip(expected(model, scales, beta=0.75), scales, strict=True):
        assert_close(torch.cat(handed, dim), guided)


@pytest.mark.parametrize("dim", [0, 1])
def test_copies_of_parts_are_refused(dim: int) -> None:
    model = derived.InParts(dim, copied=True)
    with (
        var.attach(model, 0.75),
        pytest.raises(
            ValueError, match=r"was handed logits of shape \(.*\), which are neither the \dx\d grid"
        ),
    ):
        model.autoregressive_infer_cfg(2, None, 0)


@pytest.mark.parametrize(
    "make",
    [derived.Candidates, derived.LateCopies, lambda: derived.InParts(0), lambda: derived.InParts(1)],
    ids=["candidates", "late-copies", "batch", "positions"],
)
def test_both_orders_hold(monkeypatch: pytest.MonkeyPatch, make: Callable[[], Any]) -> None:
    """ "before" guides the halves once; a generation is the same again, and the model is itself after it."""
    model = make()
    plain = model.autoregressive_infer_cfg(2, None, 0)
    for cfg_order in ("after", "before"):
        with var.attach(model, 0.75, cfg_order=cfg_order):
            guided = [model.autoregressive_infer_cfg(2, None, 0) for _ in range(2)]
        assert torch.equal(*guided)
        assert not torch.equal(guided[0], plain)
        with var.attach(model, 0.0, cfg_order=cfg_order):
            assert torch.equal(model.autoregressive_infer_cfg(2, None, 0), plain)
    assert torch.equal(model.autoregressive_infer_cfg(2, None, 0), plain)


def test_candidates_of_a_smooth_switti(monkeypatch: pytest.MonkeyPatch) -> None:
    gumbel, seen = standins.gumbel_softmax_with_rng, []

    def spy(logits: Tensor, **options: Any) -> Tensor:
        seen.append(logits.clone())
        return gumbel(logits, **options)

    pipe = standins.SwittiPipeline(standins.NextScale())
    advance = pipe.switti.advance

    def draw_again(state: Tensor, embedded: Tensor) -> Tensor:
        # The hook merges the halves itself: it reads the shape only.
        again = torch.zeros(1, *seen[-1].shape[1:])
        standins.gumbel_softmax_with_rng(again, tau=1.0, hard=False, dim=-1, rng=None)
        return advance(state, embedded)

    monkeypatch.setattr(standins, "gumbel_softmax_with_rng", spy)
    monkeypatch.setattr(pipe.switti, "advance", draw_again)
    with switti.attach(pipe, 0.75):
        pipe(["a"], seed=0, more_smooth=True)
    assert len(seen) == 8
    for first, second in zip(seen[::2], seen[1::2], strict=True):
        assert torch.equal(first, second)


def test_a_method_of_another_name() -> None:
    model = derived.SkipVar()
    with var.attach(derived.Derived(), 0.75) as same_loop:
        guided = same_loop.autoregressive_infer_cfg(2, None, 0)
    plain = model.autoregressive_infer_cfg_SkipVAR(2, None, 0)
    with var.attach(model, 0.75, method="autoregressive_infer_cfg_SkipVAR"):
        assert torch.equal(model.autoregressive_infer_cfg_SkipVAR(2, None, 0), guided)
    assert torch.equal(model.autoregressive_infer_cfg_SkipVAR(2, None, 0), plain)
    assert not torch.equal(guided, plain)


def named(model: Any) -> Sampler:
    sampler = a_sampler(model)
    sampler.attach = lambda *args, **options: var.attach(
        *args, **options, method="autoregressive_infer_cfg_SkipVAR"
    )
    sampler.generate = lambda model, batch, seed: model.autoregressive_infer_cfg_SkipVAR(batch, None, seed)
    return sampler


def test_everything_holds_of_a_method_of_another_name() -> None:
    check_everything(named(derived.SkipVar()))


def test_a_missing_method_is_refused() -> None:
    with pytest.raises(
        ValueError, match="Var has no sample_lsrs; this integration follows FoundationVision/VAR"
    ):
        var.attach(standins.Var(), 0.5, method="sample_lsrs")


def test_naming_the_other_method_tells_of_the_first() -> None:
    model = derived.SkipVar()
    with (
        pytest.warns(GuidanceWarning, match=r"SkipVar.autoregressive_infer_cfg sampled unguided, and"),
        var.attach(model, 0.75, method="autoregressive_infer_cfg_SkipVAR"),
    ):
        model.autoregressive_infer_cfg(2, None, 0)
