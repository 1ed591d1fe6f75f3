"""`vq_diffusion` on a stand-in of Microsoft's, and on diffusers' own pipeline with small random weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from support import standins
from support.attach_checks import CHECKS, check_copies_within_a_call
from support.denoiser_checks import (
    Denoiser,
    Output,
    check_everything,
    check_guided,
    recorded_microsoft,
    run,
    same,
)
from torch import Tensor

from ssg_kernels.integrations import vq_diffusion


def a_dalle(
    indices: list[int], repeats: int = 1, conditioned: bool = True, scale: float = 3.0, **options: Any
) -> Denoiser:
    model = standins.Dalle(scale)
    model.transformer.repeats = repeats
    return Denoiser(
        vq_diffusion.attach,
        model,
        lambda model, batch, seed: model.generate_content(
            torch.arange(batch) * 1.0 if conditioned else None, batch, **options
        ),
        lambda: recorded_microsoft(model.transformer, indices),
        len(indices),
        model.transformer.transformer,
    )


DALLES: dict[str, dict[str, Any]] = {
    "two-branches": {"indices": [5, 4, 3, 2, 1, 0]},
    "one-branch": {"indices": [5, 4, 3, 2, 1, 0], "scale": 1.0},
    "unconditional": {"indices": [5, 4, 3, 2, 1, 0], "conditioned": False},
    "from-half-way": {"indices": [2, 1, 0], "filter_ratio": 0.5},
    "fast": {"indices": [5, 3, 1, 0], "skip_step": 1},
    "faster": {"indices": [5, 2, 0], "skip_step": 2},
    "fastest": {"indices": [5, 0], "skip_step": 4},
    "tries-again": {"indices": [5, 4, 3, 2, 1, 0], "repeats": 3},
}


@pytest.mark.parametrize("name", DALLES)
def test_microsofts(name: str) -> None:
    denoiser = a_dalle(**DALLES[name])
    outputs = check_guided(denoiser)
    branches = 2 if name not in ("one-branch", "unconditional") else 1
    assert len(outputs) == denoiser.steps * branches * DALLES[name].get("repeats", 1)
    diffusion = denoiser.model.transformer
    check_everything(denoiser, [diffusion, diffusion.transformer])


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", DALLES)
def test_microsofts_in_threads_and_copies(name: str, check: Callable[..., None]) -> None:
    if check is check_copies_within_a_call and name != "unconditional":
        pytest.skip("the cfg that a call installs goes on calling the model that it was made for")
    check(lambda: a_dalle(**DALLES[name]))


def test_two_of_microsofts_in_turn() -> None:
    one, other = a_dalle(**DALLES["fast"]), a_dalle(**DALLES["two-branches"])
    alone = run(one, beta=0.75), run(other, beta=-0.5), run(other)
    with one.attach(one.model, 0.75):
        assert same(run(other), alone[2])
        with other.attach(other.model, -0.5):
            assert same(run(one), alone[0])
            assert same(run(other), alone[1])


# diffusers


def a_pipeline(steps: int = 5, guidance_scale: float = 4.0, num_images_per_prompt: int = 1) -> Denoiser:
    reason = "pip install diffusers transformers: this runs their pipeline"
    diffusers = pytest.importorskip("diffusers", reason=reason)
    transformers = pytest.importorskip("transformers", reason=reason)
    pipelines = pytest.importorskip(
        "diffusers.pipelines.deprecated.vq_diffusion.pipeline_vq_diffusion",
        reason="diffusers has removed VQDiffusionPipeline",
    )
    torch.manual_seed(0)
    side, width, classes = 4, 16, 12
    text = transformers.CLIPTextConfig(
        vocab_size=32, hidden_size=width, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=8, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = pipelines.VQDiffusionPipeline(
            vqvae=diffusers.VQModel(
                block_out_channels=(16,), down_block_types=("DownEncoderBlock2D",), latent_channels=4,
                up_block_types=("UpDecoderBlock2D",), norm_num_groups=4, num_vq_embeddings=classes - 1, vq_embed_dim=4,
            ),
            text_encoder=transformers.CLIPTextModel(text).eval(),
            tokenizer=Tokenizer(),
            transformer=diffusers.Transformer2DModel(
                attention_bias=True, cross_attention_dim=width, attention_head_dim=8, num_attention_heads=2,
                num_vector_embeds=classes, num_embeds_ada_norm=steps, norm_num_groups=4, sample_size=side,
                activation_fn="geglu-approximate",
            ).eval(),
            scheduler=diffusers.VQDiffusionScheduler(num_vec_classes=classes, num_train_timesteps=steps),
            learned_classifier_free_sampling_embeddings=pipelines.LearnedClassifierFreeSamplingEmbeddings(
                learnable=False
            ),
        )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    torch.nn.init.normal_(pipe.transformer.out.weight)

    def generate(pipe: Any, batch: int, seed: int) -> Tensor:
        images = pipe(
            ["a"] * (batch // num_images_per_prompt or 1),
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            num_images_per_prompt=num_images_per_prompt,
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
        )
        return torch.from_numpy(images.images)

    @contextmanager
    def record() -> Iterator[list[Output]]:
        outputs: list[Output] = []
        head, forward = pipe.transformer.out.forward, pipe.transformer.forward

        def spy_head(*args: Any) -> Tensor:
            raw = head(*args)
            outputs.append(Output(len(outputs), "both", raw.clone()))
            return raw

        def spy_forward(*args: Any, **kwargs: Any) -> Any:
            result = forward(*args, **kwargs)
            outputs[-1].delivered = result.sample.transpose(1, 2).clone()
            return result

        with pytest.MonkeyPatch.context() as swap:
            swap.setattr(pipe.transformer.out, "forward", spy_head)
            swap.setattr(pipe.transformer, "forward", spy_forward)
            yield outputs

    return Denoiser(
        vq_diffusion.attach, pipe, generate, record, steps, pipe.transformer.out, lambda x: x.log_softmax(-1)
    )


class Tokenizer:
    """Of no vocabulary: the pipeline needs token ids and a length."""

    model_max_length = 8

    def __call__(self, texts: Any, **_: Any) -> Any:
        class Encoded:
            input_ids = torch.tensor([[0, *(len(text) + k for k in range(6)), 1] for text in texts])

        return Encoded()


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_diffusers(guidance_scale: float) -> None:
    denoiser = a_pipeline(guidance_scale=guidance_scale)
    outputs = check_guided(denoiser)
    assert outputs[0].raw.shape[0] == (4 if guidance_scale > 1 else 2)
    check_everything(denoiser, [denoiser.model.transformer, denoiser.model.transformer.out])


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_diffusers_in_threads_and_copies(check: Callable[..., None]) -> None:
    check(a_pipeline)


def test_diffusers_takes_the_number_of_steps_from_the_call() -> None:
    denoiser = a_pipeline(steps=7)
    check_guided(denoiser)
    with denoiser.attach(denoiser.model, 0.75) as pipe:
        assert pipe is denoiser.model
        assert isinstance(pipe, type(a_pipeline().model))
        few = pipe("a", num_inference_steps=3, generator=torch.manual_seed(0), output_type="np").images
    assert few.shape[0] == 1


def test_two_diffusers_pipelines() -> None:
    one, other = a_pipeline(), a_pipeline(steps=3)
    alone = run(one, beta=0.75), run(other, beta=-0.5), run(other)
    with one.attach(one.model, 0.75):
        assert same(run(other), alone[2])
        with other.attach(other.model, -0.5):
            assert same(run(one), alone[0])
            assert same(run(other), alone[1])


def test_a_diffusers_pipeline_without_vector_quantisation_is_refused() -> None:
    pipe = a_pipeline().model
    del pipe.transformer.out
    with pytest.raises(
        ValueError, match=r"VQDiffusionPipeline has no transformer\.out; .*diffusers at 58eb52c"
    ):
        vq_diffusion.attach(pipe, 0.5)
