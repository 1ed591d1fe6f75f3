"""`vq_diffusion` on Microsoft's real models: of classes, of text, and unconditional."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support.checkouts import checkout, randomize
from support.denoiser_checks import Denoiser, check_everything, check_guided, recorded_microsoft, run, same
from torch import Tensor, nn

from ssg_kernels.integrations import vq_diffusion

SIDE, VOCABULARY, STEPS, TEXT, WIDTH = 6, 24, 10, 5, 16


class ImageCodec(nn.Module):
    def decode(self, tokens: Tensor) -> Tensor:
        return tokens.clone()


class TextCodec(nn.Module):
    def get_tokens(self, texts: list[str]) -> dict[str, Tensor]:
        return {"token": torch.tensor([[len(text) % 32 + k for k in range(TEXT)] for text in texts])}


class TextEmbedding(nn.Module):
    embed_dim = WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(64, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table(tokens)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Any]:
    pytest.importorskip("einops")
    with checkout("VQ-Diffusion"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "cuda", lambda self, *_, **__: self)
        from image_synthesis.modeling.models import conditional_dalle, dalle, unconditional_dalle

        yield {
            "classes": conditional_dalle.C_DALLE,
            "text": dalle.DALLE,
            "unconditional": unconditional_dalle.UC_DALLE,
        }


def own(name: str) -> str:
    return f"{__name__}.{name}"


def transformer(kind: str) -> dict[str, Any]:
    modeling = "image_synthesis.modeling"
    network = {"classes": "Condition2ImageTransformer", "text": "Text2ImageTransformer"}
    params = {
        "n_layer": 2, "n_embd": WIDTH, "n_head": 2, "content_seq_len": SIDE * SIDE, "mlp_hidden_times": 2,
        "content_spatial_size": [SIDE, SIDE], "block_activate": "GELU2", "mlp_type": "fc",
    }  # fmt: skip
    if kind == "classes":
        condition = {
            "target": f"{modeling}.embeddings.class_embedding.ClassEmbedding",
            "params": {"identity": True},
        }
        params["class_number"] = 10
    elif kind == "text":
        condition = {"target": own("TextEmbedding")}
        params |= {"condition_seq_len": TEXT, "condition_dim": WIDTH}
    else:
        condition = None
    return {
        "target": f"{modeling}.transformers.diffusion_transformer.DiffusionTransformer",
        "params": {
            "diffusion_step": STEPS,
            "alpha_init_type": "alpha1",
            "transformer_config": {
                "target": f"{modeling}.transformers.transformer_utils."
                f"{network.get(kind, 'UnCondition2ImageTransformer')}",
                "params": params,
            },
            "condition_emb_config": condition,
            "content_emb_config": {
                "target": f"{modeling}.embeddings.dalle_mask_image_embedding.DalleMaskImageEmbedding",
                "params": {"num_embed": VOCABULARY, "spatial_size": [SIDE, SIDE], "embed_dim": WIDTH},
            },
        },
    }


def a_dalle(
    upstream: Any,
    kind: str,
    scale: float = 3.0,
    sample_type: str = "top0.86r",
    indices: Any = None,
    seed: int = 0,
) -> Denoiser:
    torch.manual_seed(seed)
    parts: dict[str, Any] = {
        "content_codec_config": {"target": own("ImageCodec")},
        "diffusion_config": transformer(kind),
    }
    if kind == "text":
        parts["condition_codec_config"] = {"target": own("TextCodec")}
    model = upstream[kind](**parts)
    randomize(model, seed)
    with torch.no_grad():
        model.transformer.transformer.to_logits[-1].weight.mul_(3)
    model.guidance_scale = scale

    def generate(model: Any, batch: int, seed: int) -> Tensor:
        conditions = {
            "classes": {"label": list(range(batch))},
            "text": {"text": ["a" * (k + 1) for k in range(batch)]},
            "unconditional": None,
        }
        # It keeps the cfg of its first call, of that call's batch, unless told so.
        model.truncation_forward = kind == "unconditional"
        options: dict[str, Any] = {"replicate": batch} if kind == "unconditional" else {}
        out = model.generate_content(
            batch=conditions[kind], filter_ratio=0, sample_type=sample_type, **options
        )
        return out["content"]

    steps = list(range(STEPS - 1, -1, -1)) if indices is None else indices
    return Denoiser(
        vq_diffusion.attach,
        model,
        generate,
        lambda: recorded_microsoft(model.transformer, steps),
        len(steps),
        model.transformer.transformer,
    )


DALLES: dict[str, dict[str, Any]] = {
    "classes": {"kind": "classes"},
    "classes-without-cfg": {"kind": "classes", "scale": 1.0},
    "text": {"kind": "text"},
    "text-fast": {"kind": "text", "sample_type": "top0.86r,time2", "indices": [9, 7, 5, 3, 1, 0]},
    "text-faster": {"kind": "text", "sample_type": "top0.86r,time4", "indices": [9, 5, 1, 0]},
    "unconditional": {"kind": "unconditional", "sample_type": "normal"},
}


@pytest.mark.parametrize("name", DALLES)
def test_vq_diffusion(upstream: Any, name: str) -> None:
    denoiser = a_dalle(upstream, **DALLES[name])
    outputs = check_guided(denoiser)
    has_cfg = DALLES[name]["kind"] != "unconditional" and denoiser.model.guidance_scale != 1
    assert len(outputs) == denoiser.steps * (2 if has_cfg else 1)
    diffusion = denoiser.model.transformer
    check_everything(denoiser, [diffusion, diffusion.transformer])


def test_steps_that_are_tried_again(upstream: Any) -> None:
    """The purity prior fills three tokens a step, in two tries."""
    denoiser = a_dalle(upstream, "text")
    diffusion = denoiser.model.transformer
    diffusion.prior_rule, diffusion.prior_ps, diffusion.prior_weight = 2, 1, 1
    diffusion.n_sample = [3] * STEPS
    outputs = check_guided(denoiser)
    assert len(outputs) > 2 * denoiser.steps
    check_everything(denoiser, [diffusion, diffusion.transformer])


def test_two_vq_diffusions(upstream: Any) -> None:
    one, other = a_dalle(upstream, "classes"), a_dalle(upstream, "classes", seed=1)
    alone = run(one, beta=0.75), run(other, beta=-0.5), run(other)
    with one.attach(one.model, 0.75):
        assert same(run(other), alone[2])
        with other.attach(other.model, -0.5):
            assert same(run(one), alone[0])
            assert same(run(other), alone[1])
