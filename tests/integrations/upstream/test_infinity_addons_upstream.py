"""`infinity` on the real code of what others made of Infinity: VAREdit, FastVAR, ScaleKV and SpecuKV."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from typing import Any

import pytest
import torch
from support.attach_checks import check_is_found
from support.checkouts import empty, folder_of
from support.generation_checks import check_after, check_before, check_everything, check_is_itself_again
from support.guided_samplers import Sampler
from support.upstream_infinity import an_infinity, infinity_of, schedule
from torch import Tensor
from torch.nn import functional


def check(sampler: Sampler) -> None:
    check_after(sampler)
    check_before(sampler)
    check_is_itself_again(sampler)
    check_is_found(sampler)


def with_fused_norm(upstream: Any, sampler: Sampler) -> None:
    """As it is shipped; without it some hand on less to the attention."""
    for block in sampler.model.unregistered_blocks:
        block.fused_norm_func = upstream.module.fused_ada_layer_norm


def flash_attn_func(q: Tensor, k: Tensor, v: Tensor, dropout_p: float, softmax_scale: float) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v, scale=softmax_scale).transpose(1, 2)


def test_varedit() -> None:
    with infinity_of("VAREdit") as upstream:
        _, h, w = schedule(upstream, 1.5, "0.06M")[-1]
        source = torch.randn(1, h * w, 32, generator=torch.Generator().manual_seed(3))

        def images(batch: int) -> Tensor:
            return source.expand(2 * batch, -1, -1)

        sampler = an_infinity(upstream, 1.5, src_img_prefix=images(1))
        sampler.batches = (1,)
        check_everything(sampler)


@pytest.mark.parametrize("name", ["ScaleKV", "SpecuKV"])
def test_a_smaller_cache(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with infinity_of(name) as upstream:
        monkeypatch.chdir(folder_of(name))
        sampler = an_infinity(upstream, 1.0, "1M")
        with_fused_norm(upstream, sampler)
        importlib.import_module("enable_scale_kv_2b").enable_scale_kv(sampler.model, max_capacity=650)
        generate = sampler.generate

        def generate_afresh(model: Any, batch: int, seed: int) -> Tensor:
            # It is made for one generation: its state outlives it.
            for module in model.modules():
                if hasattr(module, "kv_cluster"):
                    module.kv_cluster.has_reached_base = False
            return generate(model, batch, seed)

        sampler.generate = generate_afresh
        check(sampler)


def test_fastvar(monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves out the last two scales, and K counts them."""
    for stub, module in empty("cv2", "torchvision", "torchvision.transforms").items():
        monkeypatch.setitem(sys.modules, stub, module)
    with infinity_of("FastVAR", "Infinity") as upstream:
        basic = importlib.import_module("infinity.models.fastvar_basic")
        monkeypatch.setattr(basic, "flash_attn_func", flash_attn_func)
        # It leaves the first three layers whole, and this model has two.
        prune = basic.compute_merge
        monkeypatch.setattr(basic, "compute_merge", lambda x, **k: prune(x, **{**k, "is_later_layer": True}))
        sampler = an_infinity(upstream, 1.0, "1M")
        with_fused_norm(upstream, sampler)
        sizes, merge = sampler.sizes, sampler.merge
        came = [k for k, (_, w) in enumerate(sizes) if w not in (48, 64)]
        check(
            dataclasses.replace(
                sampler, sizes=[sizes[k] for k in came], numbers=came, K=len(sizes), repeats=(), batches=(1,),
                merge=lambda k, raw, batch: merge(came[k], raw, batch),
            )
        )  # fmt: skip
