"""Creates the demo's networks, saves their weights as safetensors in float16, and loads them."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save as serialise
from torch import nn

from ssg_kernels.demo.classifier import Classifier
from ssg_kernels.demo.data import CLASSES, factors
from ssg_kernels.demo.tokenizer import Tokenizer, TokenizerConfig
from ssg_kernels.demo.transformer import Transformer, TransformerConfig

SHIPPED = Path(__file__).parent / "weights"


@dataclass
class Models:
    classifier: Classifier
    tokenizer: Tokenizer
    transformer: Transformer


def new(
    tokenizer: TokenizerConfig = TokenizerConfig(),  # noqa: B008  (frozen)
    width: int = 96,
    depth: int = 4,
    heads: int = 3,
) -> Models:
    """Untrained networks whose shapes match each other."""
    shape = TransformerConfig(
        tokenizer.sizes, tokenizer.vocabulary, tokenizer.latent, len(CLASSES), width, depth, heads
    )
    return Models(Classifier(len(CLASSES), factors(0, 0).shape[1]), Tokenizer(tokenizer), Transformer(shape))


def save(model: nn.Module, path: Path) -> None:
    """Writes the weights in float16, with the configuration in the metadata."""
    config: Any = getattr(model, "config", None)
    tensors = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    unfinished = path.with_suffix(".tmp")
    unfinished.write_bytes(serialise(tensors, {"config": json.dumps(asdict(config) if config else {})}))
    os.replace(unfinished, path)


def load(folder: Path = SHIPPED, device: str = "cpu") -> Models:
    """Loads the three networks from `folder`, in float32 and ready for inference."""
    classifier = Classifier(len(CLASSES), factors(0, 0).shape[1])
    tokenizer = Tokenizer(TokenizerConfig(**_config(folder / "tokenizer.safetensors")))
    transformer = Transformer(TransformerConfig(**_config(folder / "transformer.safetensors")))
    models = Models(classifier, tokenizer, transformer)
    for name, model in vars(models).items():
        fill(model, folder / f"{name}.safetensors")
        model.to(device)
    return models


def fill(model: nn.Module, path: Path) -> None:
    """Loads weights that `save` wrote, and makes the model ready for inference."""
    with safe_open(path, "pt") as file:
        model.load_state_dict({name: file.get_tensor(name).float() for name in file.keys()})  # noqa: SIM118
    model.eval().requires_grad_(False)


def _config(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
    return {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}


def parameters(models: Models) -> str:
    """Number of parameters of the tokenizer and the transformer together, such as '1.5 M'."""
    count = sum(p.numel() for m in (models.tokenizer, models.transformer) for p in m.parameters())
    return f"{count / 1e6:.1f} M"
