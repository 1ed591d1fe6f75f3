"""What is kept of each image: the outputs of the feature network, and its CLIPScore."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssg_kernels.evaluate.recipe import EvaluateError, Network, Recipe

CLIP = "openai/clip-vit-large-patch14"
_BATCH = 50  # images at once
OTHERS = frozenset(
    {"clip", "digest", "images", "tokens"}
)  # arrays of a chunk that are no outputs of the network


class Outputs:
    """Runs the networks of the metrics on images."""

    def __init__(self, network: Network | None, clip: Any | None, device: str) -> None:
        self.network, self.clip, self.device = network, clip, device

    def of(self, images: Tensor, prompts: Sequence[str]) -> dict[str, np.ndarray]:
        """The arrays of a chunk: the network's outputs and, if asked for, the chunk's mean cosine as "clip"."""
        arrays = features(self.network, images) if self.network is not None else {}
        if self.clip is not None:
            self.clip.reset()
            for part, texts in _batches(images, prompts):
                self.clip.update(part.to(self.device), texts)
            # torchmetrics gives 100 times the cosine. The paper's tables have the cosine.
            arrays["clip"] = np.full(len(images), self.clip.compute().item() / 100)
        return arrays


def features(network: Network, images: Tensor) -> dict[str, np.ndarray]:
    """The network's outputs for images (N, 3, H, W), uint8."""
    found: dict[str, list[Tensor]] = {}
    for part in images.split(_BATCH):
        for name, value in network(part).items():
            found.setdefault(name, []).append(value.float().cpu())
    return {name: torch.cat(parts).numpy() for name, parts in found.items()}


def outputs(recipe: Recipe, metrics: Sequence[str], device: str, clip_model: str) -> Outputs:
    """The networks that the metrics need. Raises EvaluateError if weights or packages are missing."""
    network: Network | None = None
    if {"fid", "kid", "is", "precision", "recall"} & set(metrics):
        network = recipe.network() or inception(device)
    return Outputs(network, clip_score(clip_model) if "clip_score" in metrics else None, device)


def inception(device: str) -> Network:
    """The Inception network of the original FID, as torch-fidelity has it, with that package's own weights."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
    except (ImportError, RuntimeError) as reason:
        raise EvaluateError(
            f"these metrics use the Inception network of torch-fidelity, which cannot be imported ({reason}): "
            f"pip install torch-fidelity, and a torchvision that fits your torch"
        ) from reason
    kept = Path(torch.hub.get_dir(), "checkpoints", os.path.basename(URL_INCEPTION_V3))
    try:
        extractor = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"])
    except (OSError, RuntimeError) as reason:
        raise EvaluateError(
            f"the weights of Inception are not there and could not be downloaded ({reason}): put {URL_INCEPTION_V3} "
            f"at {kept}"
        ) from reason
    extractor.to(device).eval()

    @torch.inference_mode()
    def run(images: Tensor) -> Mapping[str, Tensor]:
        pooled, logits = extractor(images.to(device))
        return {"features": pooled, "logits": logits}

    return run


def clip_score(model: str) -> Any:
    """torchmetrics' CLIPScore, with the weights that transformers has for `model`, a name or a folder."""
    try:
        from torchmetrics.multimodal.clip_score import CLIPScore
        from transformers import CLIPModel, CLIPProcessor
    except (ImportError, RuntimeError) as reason:
        raise EvaluateError(
            f"clip_score needs torchmetrics and transformers ({reason}): pip install 'ssg-kernels[evaluate]'"
        ) from reason
    try:
        network, processor = CLIPModel.from_pretrained(model), CLIPProcessor.from_pretrained(model)
    except (OSError, ValueError) as reason:
        raise EvaluateError(
            f"the weights of {model} are not there and could not be downloaded "
            f"({str(reason).partition(chr(10))[0]}): download them with `hf download {model} --local-dir DIR` on a "
            f"machine with a network, and name them with --clip DIR"
        ) from reason
    loaded: Any = lambda: (_TensorsOnly(network.eval()), processor)  # noqa: E731
    return CLIPScore(loaded, sync_on_compute=False)


class _TensorsOnly(torch.nn.Module):
    """A CLIPModel whose features are tensors. transformers 5 wraps them, and torchmetrics 1.9 does not expect it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def get_image_features(self, *args: Any) -> Tensor:
        return _tensor(self.model.get_image_features(*args))

    def get_text_features(self, *args: Any) -> Tensor:
        return _tensor(self.model.get_text_features(*args))


def _tensor(features: Any) -> Tensor:
    found: Tensor = features if isinstance(features, Tensor) else features.pooler_output
    return found


def _batches(images: Tensor, prompts: Sequence[str]) -> list[tuple[Tensor, list[str]]]:
    return [(images[i : i + _BATCH], list(prompts[i : i + _BATCH])) for i in range(0, len(images), _BATCH)]
