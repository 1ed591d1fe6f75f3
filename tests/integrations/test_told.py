"""What goes by unguided is told, and what is guided or stopped early is not."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from support import derived, standins

import ssg_kernels
from ssg_kernels.integrations import GuidanceWarning, hmar, infinity, switti, var, vq_diffusion


@contextmanager
def told(*parts: str) -> Iterator[None]:
    """One warning, with all of these in its text, that points here."""
    with pytest.warns(GuidanceWarning) as caught:
        yield
    assert len(caught) == 1
    assert caught[0].filename == __file__
    for part in parts:
        assert part in str(caught[0].message)


@pytest.fixture
def silent() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", GuidanceWarning)
        yield


def generate(model: Any) -> Any:
    return model.autoregressive_infer_cfg(2, None, 0)


@pytest.mark.parametrize("cfg_order", ["after", "before"])
def test_no_call(cfg_order: str) -> None:
    with told("var: Var.autoregressive_infer_cfg was not called", "method="):  # noqa: SIM117
        with var.attach(standins.Var(), 0.5, cfg_order=cfg_order):
            pass
    with told("Dalle.generate_content was not called"), vq_diffusion.attach(standins.Dalle(), 0.5):
        pass


@pytest.mark.parametrize("cfg_order", ["after", "before"])
def test_another_method_that_samples(cfg_order: str) -> None:
    with told(
        "SkipVar.autoregressive_infer_cfg_SkipVAR sampled unguided",
        "SkipVar.autoregressive_infer_cfg was not called",
        "method='autoregressive_infer_cfg_SkipVAR'",
    ):
        model = derived.SkipVar()
        with var.attach(model, 0.5, cfg_order=cfg_order):
            model.autoregressive_infer_cfg_SkipVAR(2, None, 0)
    # Beside guided calls too.
    with (
        told("autoregressive_infer_cfg_SkipVAR sampled unguided"),
        var.attach(model, 0.5, cfg_order=cfg_order),
    ):
        generate(model)
        model.autoregressive_infer_cfg_SkipVAR(2, None, 0)


@pytest.mark.parametrize(
    ("kind", "cfg_order", "made", "sampled"),
    [
        (derived.Inline, "after", 4, 0),
        (derived.OnlyTheFirst, "after", 4, 1),
        (derived.Bypassing, "after", 0, 4),
        (derived.Bypassing, "before", 0, 4),
        (derived.AtOnce, "after", 1, 4),
    ],
)
def test_a_call_that_guides_nothing(kind: Any, cfg_order: str, made: int, sampled: int) -> None:
    model = kind()
    with (
        told(
            f"var: {kind.__name__}.autoregressive_infer_cfg ran unguided",
            f"get_logits should make the logits of each scale (calls: {made})",
            f"sample_with_top_k_top_p_ should sample them (calls: {sampled})",
        ),
        var.attach(model, 0.5, cfg_order=cfg_order),
    ):
        generate(model)
        generate(model)


def test_scales_that_were_made_and_not_guided_are_told() -> None:
    class InlineAtTheEnd(derived.Inline):
        def choose(self, logits: Any, rng: Any) -> Any:
            return (
                super().choose(logits, rng)
                if logits.shape[1] == 25
                else derived.Derived.choose(self, logits, rng)
            )

    with (
        told("InlineAtTheEnd.autoregressive_infer_cfg ran unguided at 1 of 4 scales", "(calls: 3)"),
        var.attach(InlineAtTheEnd(), 0.5) as model,
    ):
        generate(model)


def test_a_context_that_nobody_enters() -> None:
    for attach in (var.attach, ssg_kernels.attach):
        with pytest.warns(
            GuidanceWarning,
            match=r"var.attach\(Var.autoregressive_infer_cfg\) was never entered, so it guided",
        ) as caught:
            attach(standins.Var(), 0.5)
        assert len(caught) == 1


def test_a_model_that_was_refused_is_told_once(silent: None) -> None:
    model = standins.Var()
    for attach in (var.attach, ssg_kernels.attach):
        with pytest.raises(ValueError, match="Linear has no"):
            attach(torch.nn.Linear(1, 1), 0.5)
        with var.attach(model, 0.5), pytest.raises(ValueError, match="attached already"):
            attach(generate(model) is None or model, 0.5)


def test_both_halves_are_guided_whoever_samples(silent: None) -> None:
    for model in (derived.Inline(), derived.OnlyTheFirst()):
        with var.attach(model, 0.5, cfg_order="before"):
            generate(model)


def test_a_call_past_the_hook() -> None:
    model = standins.Var()
    kept = model.autoregressive_infer_cfg
    for call in (kept, lambda *args: standins.Var.autoregressive_infer_cfg(model, *args)):
        with told("Var.autoregressive_infer_cfg was called past its hook"), var.attach(model, 0.5):
            call(2, None, 0)


def test_an_error_on_request(silent: None) -> None:
    model = standins.Var()
    with pytest.raises(GuidanceWarning, match="was not called"), var.attach(model, 0.5):
        pass
    assert type(model) is standins.Var
    with var.attach(model, 0.5):
        generate(model)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_a_block_that_failed_keeps_its_exception(silent: None, error: type[BaseException]) -> None:
    with pytest.raises(error), var.attach(standins.Var(), 0.5):
        raise error


@pytest.mark.parametrize("stop", [1, 2, 4])
@pytest.mark.parametrize("cfg_order", ["after", "before"])
def test_a_generation_that_stops_early_is_guided(silent: None, cfg_order: str, stop: int) -> None:
    model = standins.Infinity()
    with infinity.attach(model, 0.5, cfg_order=cfg_order):
        model.autoregressive_infer_cfg(
            B=2, g_seed=0, cfg_list=[3.0] * 4, tau_list=[1.0] * 4, cfg_insertion_layer=[0], trunk_scale=stop,
            scale_schedule=[(1, 1, 1), (1, 2, 2), (1, 3, 3), (1, 4, 4)], top_p=1.0,
        )  # fmt: skip


def test_one_scale_or_step_has_nothing_to_guide(silent: None) -> None:
    inline = derived.Inline()
    inline.patch_nums, inline.num_stages_minus_1 = (4,), 1
    with var.attach(inline, 0.5):
        generate(inline)
    model = standins.Dalle(num_timesteps=1)
    with vq_diffusion.attach(model, 0.5):
        model.generate_content(torch.arange(2) * 1.0, 2)


def test_what_is_guided_is_not_told(silent: None) -> None:
    pipe, refining, diffusion = (
        standins.SwittiPipeline(standins.NextScale()),
        standins.Hmar(),
        standins.Dalle(),
    )
    for cfg_order in ("after", "before"):
        with switti.attach(pipe, 0.5, cfg_order=cfg_order):
            pipe(["a"], seed=0, more_smooth=cfg_order == "after")
        with hmar.attach(refining, 0.5, cfg_order=cfg_order):
            refining.generate(2, None, 0, mask_schedule=[[], [2], [5], []])
        with vq_diffusion.attach(diffusion, 0.5, cfg_order=cfg_order):
            diffusion.generate_content(torch.arange(2) * 1.0, 2)


def test_other_models_of_the_module_do_not_count(silent: None) -> None:
    """Unguided ones, copies, and those of other contexts and of other threads."""
    model, other, attached = standins.Var(), derived.SkipVar(), standins.Var(seed=1)
    with var.attach(model, 0.5), var.attach(attached, 0.5):
        generate(other)
        other.autoregressive_infer_cfg_SkipVAR(2, None, 0)
        generate(copy.deepcopy(model))
        thread = threading.Thread(target=generate, args=(other,))
        thread.start()
        generate(model)
        generate(attached)
        thread.join()


def test_each_context_tells_of_its_own() -> None:
    model, other = standins.Var(), standins.Var(seed=1)
    context = var.attach(model, 0.5)
    with told("was not called"), context, var.attach(other, 0.5):
        generate(other)
    with warnings.catch_warnings():
        warnings.simplefilter("error", GuidanceWarning)
        with context:
            generate(model)
    with told("was not called"), context:
        pass


def test_a_call_of_another_thread_counts(silent: None) -> None:
    model = standins.Var()
    with var.attach(model, 0.5):
        thread = threading.Thread(target=generate, args=(model,))
        thread.start()
        thread.join()


def test_a_call_that_failed_is_told_by_its_error(silent: None) -> None:
    model = standins.Var()
    with var.attach(model, 0.5, schedule=[1.0]), pytest.raises(ValueError, match="one number per scale"):
        generate(model)
