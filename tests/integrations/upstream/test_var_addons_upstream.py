"""LSRS, VAR-Scaling, CoDe and MVAR on their own code, with random weights."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from support.attach_checks import BETA, check_threads
from support.checkouts import checkout, empty, private_to_threads, randomize
from support.generation_checks import check_everything, check_two_models
from support.guided_samplers import Sampler, ramp
from support.recorders import run
from support.refiner_checks import Refiner, check_refiner
from support.upstream_infinity import an_infinity, infinity_of
from torch import Tensor, nn

import ssg_kernels
from bench.schedules import VAR_256, square
from ssg_kernels.integrations import GuidanceWarning, code, lsrs, mvar, var

VOCABULARY, CFG = 48, 1.5
SHORT = VAR_256[:5]


@contextmanager
def models_of(name: str, part: str = "", **stubs: Any) -> Iterator[Any]:
    hub = empty("huggingface_hub")
    hub["huggingface_hub"].PyTorchModelHubMixin = type("PyTorchModelHubMixin", (), {})
    with checkout(name, {**hub, **stubs}, part):
        import models

        yield models


def a_model(models: Any, kind: str, sides: tuple[int, ...], seed: int, **options: Any) -> Any:
    torch.manual_seed(seed)
    vae = models.VQVAE(VOCABULARY, z_channels=8, ch=32, test_mode=True, v_patch_nums=sides)
    model = getattr(models, kind)(
        vae, num_classes=10, depth=2, embed_dim=32, num_heads=2, patch_nums=sides, **options
    ).eval()
    randomize(model, seed)
    # What the decoder makes of the tokens is no matter here.
    vae.fhat_to_img = lambda f_hat: f_hat.clone()
    return model


def a_sampler(attach: Any, module: Any, model: Any, method: str, **arguments: Any) -> Sampler:
    def generate(model: Any, batch: int, seed: int) -> Tensor:
        # Some of them draw from the global generator too.
        torch.manual_seed(seed)
        labels = torch.arange(batch) % 10
        result = getattr(model, method)(B=batch, label_B=labels, g_seed=seed, cfg=CFG, **arguments)
        if isinstance(result, list | tuple):
            result = result[0] if isinstance(result, tuple) else torch.cat(result, 1)
        return result

    sides = model.patch_nums
    return Sampler(attach, model, generate, square(sides), vars(module), ramp(CFG, len(sides) - 1))


def check_threads_of(make: Callable[[], Sampler]) -> None:
    def private() -> Sampler:
        sampler = make()
        private_to_threads(sampler.model)
        return sampler

    check_threads(private)


# LSRS.


@pytest.fixture(scope="module")
def lsrs_models() -> Iterator[Any]:
    with models_of("LSRS") as models:
        yield models


def an_lsrs(models: Any, sides: tuple[int, ...] = VAR_256, seed: int = 0, **options: Any) -> Sampler:
    class Score(nn.Module):
        """Scores a feature map; upstream trains one."""

        def forward(self, f_hat: Tensor, *_: Any, **__: Any) -> Tensor:
            return f_hat.flatten(1).sum(1, keepdim=True)

    model = a_model(models, "VAR", sides, seed)
    return a_sampler(
        lsrs.attach, models.var, model, "autoregressive_infer_cfg_lsrs",
        top_k=20, top_p=0.96, discriminator=Score(), ed=len(sides), **options,
    )  # fmt: skip


def test_lsrs(lsrs_models: Any) -> None:
    check_everything(an_lsrs(lsrs_models))
    check_two_models(an_lsrs(lsrs_models, SHORT), an_lsrs(lsrs_models, SHORT, seed=1))
    check_threads_of(functools.partial(an_lsrs, lsrs_models, SHORT))


@pytest.mark.parametrize("method", ["autoregressive_infer_cfg", "autoregressive_infer_cfg_idx"])
def test_the_other_methods_of_lsrs(lsrs_models: Any, method: str) -> None:
    model = a_model(lsrs_models, "VAR", SHORT, 0)
    check_everything(a_sampler(lsrs.attach, lsrs_models.var, model, method, top_k=20))


# VAR-Scaling.


@pytest.fixture(scope="module")
def scaling_models() -> Iterator[Any]:
    with models_of("VAR-Scaling", "VAR-main", **empty("sklearn", "sklearn.cluster")) as models:
        yield models


@pytest.mark.parametrize("scale", [0, 3])
def test_var_scaling(scaling_models: Any, scale: int) -> None:
    sampler = a_scaling(scaling_models, scaling_scale=scale)
    check_everything(sampler)


def a_scaling(models: Any, **options: Any) -> Sampler:
    # It asks the model for what a call leaves out.
    model = a_model(models, "VAR", SHORT, 0)
    model.top_k = model.top_p = 0
    sampler = a_sampler(
        var.attach, models.var, model, "autoregressive_infer_cfg",
        top_k=20, top_p=0.96, enable_var_scaling=True, scaling_samples=20, **options,
    )  # fmt: skip
    sampler.tokens = first_candidate
    return sampler


def first_candidate(handed: Tensor, size: tuple[int, int]) -> Tensor:
    """Of the candidates of a scale, one after the other; the others are the same where no draw has masked them."""
    first, *others = handed.split(VOCABULARY, -1)
    for other in others:
        assert torch.equal(other.where(other > -math.inf, first), first)
    assert len(others) in (0, 19)
    return first


def test_var_scaling_on_infinity() -> None:
    with infinity_of("VAR-Scaling", "Infinity-main") as upstream:
        sampler = an_infinity(upstream, 1.5, scaling_num_samples=20)
        generate = sampler.generate

        def seeded(model: Any, batch: int, seed: int) -> Tensor:
            # The candidate is picked by the global generator.
            torch.manual_seed(seed)
            return generate(model, batch, seed)

        sampler.generate = seeded
        check_everything(sampler)


# CoDe.


@pytest.fixture(scope="module")
def code_models() -> Iterator[Any]:
    with models_of("CoDe") as models:
        yield models


K = len(VAR_256)
DRAWS = {"top_k": [20] * K, "top_p": 0.96, "temp": [1.0] * K}


def a_drafter(models: Any, exit_num: int = 8, seed: int = 0) -> Sampler:
    model = a_model(models, "VAR", VAR_256, seed)
    return a_sampler(
        code.attach, models.var, model, "autoregressive_infer_cfg_draft", exit_num=exit_num, **DRAWS
    ).stopping(exit_num)


def a_refiner(models: Any, entry: int = 8, seed: int = 0) -> Refiner:
    model = a_model(models, "VAR", VAR_256, seed)
    sampler = a_sampler(code.attach, models.var, model, "autoregressive_infer_cfg_refine")
    tokens = sum(n * n for n in VAR_256[1 : entry + 1])

    def generate(model: Any, batch: int, seed: int) -> Tensor:
        made = torch.Generator().manual_seed(1)
        draft = torch.randn(batch, tokens, 8, generator=made)
        f_hat = torch.randn(batch, 8, 16, 16, generator=made)
        return model.autoregressive_infer_cfg_refine(
            batch, torch.arange(batch), seed, CFG, draft=draft, f_hat=f_hat, entry_num=entry, **DRAWS
        )

    sampler.generate = generate
    return Refiner(sampler, entry, CFG)


def test_the_drafter_of_code(code_models: Any) -> None:
    check_everything(a_drafter(code_models))
    check_threads_of(functools.partial(a_drafter, code_models, 2))


@pytest.mark.parametrize("entry", [5, 8, 9])
def test_the_refiner_of_code(code_models: Any, entry: int) -> None:
    check_refiner(functools.partial(a_refiner, code_models, entry))


def test_threads_of_the_refiner(code_models: Any) -> None:
    check_threads_of(lambda: a_refiner(code_models, 2).sampler)


def test_code_from_draft_to_image(code_models: Any) -> None:
    """As infer_CoDe.py calls the two; what the refiner throws away is drawn as upstream draws it."""
    drafter, refiner = (a_model(code_models, "VAR", VAR_256, seed) for seed in (0, 1))

    def image(**settings: Any) -> Tensor:
        def one(model: Any, method: str, **arguments: Any) -> Any:
            def call() -> Any:
                return getattr(model, method)(
                    B=2, label_B=torch.arange(2), g_seed=0, cfg=CFG, **DRAWS, **arguments
                )

            if not settings:
                return call()
            with ssg_kernels.attach(model, **settings) as attached:
                assert attached is model
                return call()

        f_hat, draft = one(drafter, "autoregressive_infer_cfg_draft", exit_num=8)
        return one(refiner, "autoregressive_infer_cfg_refine", draft=draft, f_hat=f_hat, entry_num=8)

    plain = image()
    assert torch.equal(image(beta=0.0), plain)
    assert not torch.equal(image(beta=BETA), plain)
    assert torch.equal(image(), plain)


def test_what_code_samples_in_other_methods_is_told(code_models: Any) -> None:
    model = a_model(code_models, "VAR", VAR_256, 0)
    draft = {"draft": torch.randn(2, sum(n * n for n in VAR_256[1:8]), 8), "entry_num": 7}
    told = pytest.warns(GuidanceWarning, match=r"VAR.autoregressive_infer_cfg_mid sampled unguided")
    with told, ssg_kernels.attach(model, BETA):
        model.autoregressive_infer_cfg_mid(
            2, torch.arange(2), 0, top_k=[20] * K, f_hat=torch.zeros(2, 8, 16, 16), **draft
        )


# MVAR.


@pytest.fixture(scope="module")
def mvar_models() -> Iterator[Any]:
    natten = empty("natten")
    natten["natten"].na2d = neighbourhood_attention
    with models_of("MVAR", **natten) as models:
        yield models


def neighbourhood_attention(q: Tensor, k: Tensor, v: Tensor, kernel_size: Any, **_: Any) -> Tensor:
    """Attention of each position to the square around it, which is moved inside at the edges: (B, h, w, heads, c)."""
    h, w = q.shape[1:3]
    side = kernel_size if isinstance(kernel_size, int) else kernel_size[0]
    near = [
        ((torch.arange(n)[:, None] - side // 2).clamp(0, max(n - side, 0)) <= torch.arange(n))
        & (torch.arange(n) < (torch.arange(n)[:, None] - side // 2).clamp(0, max(n - side, 0)) + side)
        for n in (h, w)
    ]
    mask = (near[0][:, None, :, None] & near[1][None, :, None, :]).reshape(h * w, h * w)
    q, k, v = (x.flatten(1, 2).transpose(1, 2) for x in (q, k, v))
    attended = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return attended.transpose(1, 2).unflatten(1, (h, w))


def an_mvar(
    models: Any, sides: tuple[int, ...] = VAR_256, seed: int = 0, more_smooth: bool = False
) -> Sampler:
    model = a_model(models, "MVAR", sides, seed)
    sampler = a_sampler(
        mvar.attach, models.mvar, model, "autoregressive_infer", top_k=20, top_p=0.96, more_smooth=more_smooth
    )
    sampler.gain = lambda scale: 1 + scale / (len(sides) - 1)
    return sampler


@pytest.mark.parametrize("more_smooth", [False, True])
def test_mvar(mvar_models: Any, more_smooth: bool) -> None:
    check_everything(an_mvar(mvar_models, more_smooth=more_smooth))


def test_two_mvars_and_threads(mvar_models: Any) -> None:
    check_two_models(an_mvar(mvar_models, SHORT), an_mvar(mvar_models, SHORT, seed=1))
    check_threads_of(functools.partial(an_mvar, mvar_models, SHORT))


def test_mvar_without_cfg(mvar_models: Any) -> None:
    sampler = an_mvar(mvar_models, SHORT)
    sampler.generate = lambda model, batch, seed: model.autoregressive_infer(
        B=batch, label_B=torch.arange(batch), g_seed=seed, cfg=1.0, top_k=20
    )
    sampler.merge = lambda scale, raw, batch: raw
    check_everything(sampler)
    assert len(run(sampler)[1][0].raw) == sampler.batch
