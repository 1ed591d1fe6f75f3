"""`tokenflow` on the real TokenFlow: its language model and sampler; the tokenizer of images is stood in for.

TokenFlow asks for transformers 4.43.4 and ends the process with any other.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support.attach_checks import BETA, count_right
from support.checkouts import checkout, empty, private_to_threads, randomize
from support.generation_checks import check_everything, check_two_models
from support.guided_samplers import Sampler, ramp
from torch import Tensor, nn
from torch.nn import functional

from bench.schedules import square
from ssg_kernels.integrations import tokenflow

TEXT, CODES, WIDTH, CFG = 20, 24, 32, 2.5
SIDES = (1, 2, 4, 6)
LENGTHS = (4, 2, 3, 5, 4, 6)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Any]:
    transformers = pytest.importorskip("transformers")
    if transformers.__version__ != "4.43.4":
        pytest.skip(f"TokenFlow asks for transformers 4.43.4, this is {transformers.__version__}")
    with checkout("TokenFlow", empty("llava_t2i.model.multimodal_encoder.builder"), "t2i"):
        yield importlib.import_module("llava_t2i.model.language_model.llava_llama")


class VisionTower(nn.Module):
    """Codes to features of the next scale, as the tokenizer makes them, and no picture."""

    def __init__(self) -> None:
        super().__init__()
        self.codebook = nn.Embedding(CODES, WIDTH)
        self.scale_rq_layers = list(SIDES)
        self.num_patches = sum(side * side for side in SIDES)

    @property
    def device(self) -> torch.device:
        return self.codebook.weight.device

    def forward(self, codes: Tensor, pred_for_curr_shape: int | None = None) -> Tensor:
        features, f_hat, now, then = self.codebook(codes), torch.zeros(1), [], []
        for part, side, after in zip(
            features.split([side * side for side in SIDES], 1), SIDES, (*SIDES[1:], SIDES[-1]), strict=True
        ):
            f_hat = f_hat + part.unflatten(1, (side, side)).permute(0, 3, 1, 2)
            now.append(f_hat.flatten(2).mT)
            f_hat = functional.interpolate(f_hat, (after, after), mode="bicubic")
            then.append(f_hat.flatten(2).mT)
        if pred_for_curr_shape is not None:
            then[pred_for_curr_shape] = now[pred_for_curr_shape + 1]
        return torch.cat(then[:-1], 1)

    def decode_to_img_pt(self, codes: Tensor) -> Tensor:
        return codes[:, None, None].float() / CODES


def a_tokenflow(module: Any, predictions: int = 3, half: bool = False, seed: int = 0) -> Sampler:
    config = module.LlavaConfig(
        vocab_size=TEXT + CODES, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, tokenizer_model_max_length=80, tokenizer_padding_side="right",
        attn_implementation="eager",
    )  # fmt: skip
    torch.manual_seed(seed)
    model = module.LlavaLlamaForCausalLM(config)
    tower = model.model.vision_tower = VisionTower()
    model.model.mm_projector = nn.Linear(WIDTH, WIDTH)
    model.model.lvl_embed = nn.Embedding(len(SIDES) + 1, WIDTH)
    model.model.pos_1LC = nn.Parameter(torch.zeros(tower.num_patches, WIDTH))
    for layer in model.model.layers:
        layer.self_attn.qknorm = module.LlavaMetaModel.__init__.__globals__["QKNorm"](WIDTH // 2)
    model.register_buffer("image_token_start", torch.tensor(TEXT))
    model.image_token_end, model.pad_token_id = TEXT + CODES - 1, 0
    randomize(model, seed)
    with torch.no_grad():
        model.lm_head.weight.mul_(3)
    model.eval()

    def generate(model: Any, batch: int, seed: int) -> Tensor:
        prompts = [1 + torch.arange(length) for length in LENGTHS[: 2 * batch]]
        codes = list(prompts)
        top_k, top_p = [20, 10, 5][:predictions], [0.9] * predictions
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            model.autoregressive_infer_cfg(
                batch, codes, g_seed=seed, cfg=CFG, topk_list=top_k, topp_list=top_p
            )
        return torch.cat(codes)

    def source(scale: int, raw: Tensor) -> Tensor:
        before, tokens = sum(side * side for side in SIDES[:scale]), SIDES[scale] ** 2
        starts = [length - 1 + before for length in LENGTHS]
        return torch.stack([row[a : a + tokens] for row, a in zip(raw, starts, strict=False)])

    merge = ramp(CFG, len(SIDES) - 1)

    def masked(scale: int, raw: Tensor, batch: int) -> Tensor:
        logits = merge(scale, raw, batch)
        logits[..., :TEXT] = -math.inf
        return logits

    return Sampler(
        tokenflow.attach,
        model,
        generate,
        square(SIDES),
        vars(module),
        masked,
        makers=("forward",),
        source=source,
        repeats=[1] + [predictions] * (len(SIDES) - 1),
        batch=1,
    )


@pytest.mark.parametrize(("predictions", "half"), [(3, False), (2, True)])
def test_tokenflow(upstream: Any, predictions: int, half: bool) -> None:
    sampler = a_tokenflow(upstream, predictions, half)
    check_everything(sampler)
    check_two_models(sampler, a_tokenflow(upstream, predictions, half, seed=1))


@pytest.mark.parametrize("cfg_order", ["after", "before"])
def test_threads(upstream: Any, cfg_order: str) -> None:
    sampler = a_tokenflow(upstream)
    private_to_threads(sampler.model)
    with tokenflow.attach(sampler.model, BETA, cfg_order=cfg_order):
        assert count_right(sampler, calls=3) == 12
