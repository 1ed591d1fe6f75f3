"""`vargpt` on the real VARGPT-v1.1: its language model, its Infinity and its sampler.

Its code is of transformers 4.46.1. The text before the image is stood in for by random hidden states.
"""

from __future__ import annotations

import importlib
import types
from collections.abc import Iterator
from importlib import machinery
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch._dynamo
from support.attach_checks import BETA, count_right
from support.checkouts import checkout, empty, private_to_threads, randomize
from support.generation_checks import check_everything, check_two_models
from support.guided_samplers import Sampler
from support.upstream_infinity import Vae, flash_attn_func, flash_attn_varlen_kvpacked_func
from torch import Tensor, nn

from ssg_kernels.integrations import vargpt

PACKAGE, WIDTH, CHANNELS, CFG, TEXT = "vargpt_qwen_v1_1", 32, 128, 3.0, 5


@pytest.fixture(scope="module")
def upstream() -> Iterator[Any]:
    transformers = pytest.importorskip("transformers")
    if transformers.__version__ != "4.46.1":
        pytest.skip(f"VARGPT's code is of transformers 4.46.1, this is {transformers.__version__}")
    pytest.importorskip("torchvision")
    stubs = empty(
        "timm", "timm.models", "timm.models.layers", "timm.loss", "pytz", "colorama", "wandb", "cv2", "pandas"
    )  # fmt: skip
    stubs["timm.models"].register_model = lambda function: function
    stubs["timm.loss"].SoftTargetCrossEntropy = nn.CrossEntropyLoss
    flash = stubs["flash_attn"] = types.ModuleType("flash_attn")
    flash.__spec__ = machinery.ModuleSpec("flash_attn", None)
    flash.flash_attn_func = flash_attn_func
    flash.flash_attn_varlen_kvpacked_func = flash_attn_varlen_kvpacked_func
    with checkout("VARGPT-v1.1", stubs):
        yield SimpleNamespace(
            module=importlib.import_module(f"{PACKAGE}.modeling_vargpt_qwen2_vl"),
            infinity=importlib.import_module(f"{PACKAGE}.var_model.infinity.models.infinity"),
        )


def a_vargpt(upstream: Any, half: bool = False, seed: int = 0) -> Sampler:
    module, vae = upstream.module, Vae(32)
    torch.manual_seed(seed)
    gen = upstream.infinity.Infinity(
        vae, text_channels=CHANNELS, text_maxlen=8, embed_dim=CHANNELS, depth=2, num_heads=2, block_chunks=2,
        shared_aln=True, rope2d_each_sa_layer=1, rope2d_normalized_by_hw=2, pn="0.06M", use_bit_label=1,
        inference_mode=True,
    )  # fmt: skip
    config = module.VARGPTQwen2VLConfig(
        vocab_size=40, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, rope_scaling={"type": "mrope", "mrope_section": [2, 3, 3]},
        vision_config={"depth": 1, "embed_dim": 16, "hidden_size": WIDTH, "num_heads": 2},
        special_tokens={"image_gen_start_token_id": 30}, attn_implementation="eager",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        # Its constructor reads two checkpoints.
        patch.setattr(module, "load_visual_tokenizer", lambda args: vae)
        patch.setattr(module, "load_var_model", lambda vae, args: gen)
        model = module.VARGPTQwen2VLForConditionalGeneration(config).eval()
    randomize(model, seed)
    with torch.no_grad():
        gen.head.weight.mul_(3)
    sides = (1, 2, 4, 6, 8, 12, 16)
    taus = [0.5 + 0.05 * k for k in range(len(sides))]

    def generate(model: Any, batch: int, seed: int) -> Tensor:
        made = torch.Generator().manual_seed(1)
        model.past_hidden_states = torch.randn(1, TEXT + 1, WIDTH, generator=made)
        text = torch.randn(TEXT, CHANNELS, generator=made)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            _, _, image, _ = model.autoregressive_infer_cfg(
                scale_schedule=[(1, n, n) for n in sides],
                label_B_or_BLT=(text, [TEXT], torch.tensor([0, TEXT]).int(), TEXT), B=1,
                g_seed=seed, cfg_list=[CFG] * len(sides), tau_list=taus, top_k=900, top_p=0.97, returns_vemb=1,
                cfg_insertion_layer=[0], vae_type=32, ret_img=True, inference_mode=True,
            )  # fmt: skip
        return image

    def merge(scale: int, raw: Tensor, batch: int) -> Tensor:
        raw = raw.mul(1 / taus[scale])
        return CFG * raw[:1] + (1 - CFG) * raw[1:]

    return Sampler(
        vargpt.attach,
        model,
        generate,
        [(n, n) for n in sides],
        vars(module),
        merge,
        owner=gen,
        sampler="sample_with_top_k_top_p_also_inplace_modifying_logits_",
        tokens=lambda handed, size: handed.view(1, size[0] * size[1], -1),
        batch=1,
        batches=(1,),
    )


@pytest.mark.parametrize("half", [False, True])
def test_vargpt(upstream: Any, half: bool) -> None:
    sampler = a_vargpt(upstream, half)
    check_everything(sampler)
    check_two_models(sampler, a_vargpt(upstream, half, seed=1))


def test_threads(upstream: Any) -> None:
    sampler = a_vargpt(upstream)
    private_to_threads(sampler.model)
    with vargpt.attach(sampler.model, BETA):
        assert count_right(sampler, calls=3) == 12
