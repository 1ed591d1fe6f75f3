"""`python -m study.train`: trains the demo's three networks from scratch. It resumes after an interruption."""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssg_kernels.demo import data, weights
from ssg_kernels.demo.classifier import Classifier
from ssg_kernels.demo.tokenizer import Tokenizer
from ssg_kernels.demo.weights import Models
from study import baseline, progress

CHECKPOINT = 100  # steps between two checkpoints; a multiple of REVIVE
REVIVE = 50  # steps between two replacements of unused codes
UNCONDITIONAL = 0.1  # share of the images trained without their class, for classifier-free guidance


@dataclass(frozen=True)
class Plan:
    classifier_steps: int = 2000
    tokenizer_steps: int = 2500
    transformer_steps: int = 8000
    batch: int = 64
    transformer_batch: int = 32
    coded: int = 131072  # images whose tokens train the transformer
    seed: int = 0


def train(plan: Plan, models: Models, work: Path, device: str = "cpu") -> None:
    """Trains `models` one after the other and saves each as `work`/NAME.safetensors. A saved one is loaded instead.

    Raises:
        ValueError: `work` belongs to another plan.
    """
    work.mkdir(parents=True, exist_ok=True)
    begun, wanted = work / "plan.json", json.dumps(asdict(plan))
    if begun.exists() and begun.read_text() != wanted:
        raise ValueError(
            f"{work} holds a run of plan {begun.read_text()}, not of {wanted}: choose another folder"
        )
    begun.write_text(wanted)
    stages: dict[str, Callable[[], None]] = {
        "classifier": lambda: _train_classifier(plan, models.classifier, work, device),
        "tokenizer": lambda: _train_tokenizer(plan, models.tokenizer, work, device),
        "transformer": lambda: _train_transformer(plan, models, work, device),
    }
    for name, stage in stages.items():
        path, model = work / f"{name}.safetensors", getattr(models, name)
        model.to(device)
        if not path.exists():
            stage()
            weights.save(model, path)
        # The next networks are trained on the weights as shipped, which are rounded.
        weights.fill(model, path)


def _train_classifier(plan: Plan, model: Classifier, work: Path, device: str) -> None:
    def loss(step: int) -> Tensor:
        images, labels = _batch(plan, 1, step, device)
        wanted = data.factors(plan.batch, _seed(plan, 1, step)).to(device)
        noisy = images + 0.1 * torch.rand(len(images), 1, 1, 1).to(device) * torch.randn_like(images)
        logits, factors = model(noisy)
        return F.cross_entropy(logits, labels, label_smoothing=0.02) + F.mse_loss(factors, wanted)

    _fit("classifier", model, loss, plan.classifier_steps, 2e-3, work, plan.seed)


def _train_tokenizer(plan: Plan, model: Tokenizer, work: Path, device: str) -> None:
    # They may be those of another tokenizer.
    (work / "codes.pt").unlink(missing_ok=True)
    used = torch.zeros(model.config.vocabulary, dtype=torch.int64, device=device)
    last = int(0.8 * plan.tokenizer_steps)

    def loss(step: int) -> Tensor:
        loss, grids, vectors = model.training_loss(_batch(plan, 2, step, device)[0])
        used.add_(torch.cat([grid.flatten() for grid in grids]).bincount(minlength=len(used)))
        if (step % REVIVE == 0 or step == 1) and step <= last:
            model.revive(used, vectors)
            used.zero_()
        return loss

    _fit("tokenizer", model, loss, plan.tokenizer_steps, 2e-3, work, plan.seed)


def _train_transformer(plan: Plan, models: Models, work: Path, device: str) -> None:
    tokens, labels = (part.to(device) for part in _codes(plan, models.tokenizer, work, device))
    model, tokenizer = models.transformer, models.tokenizer

    def loss(step: int) -> Tensor:
        chosen = torch.randint(len(tokens), (plan.transformer_batch,)).to(device)
        wanted, classes = tokens[chosen].long(), labels[chosen]
        withheld = torch.rand(len(chosen)).to(device) < UNCONDITIONAL
        classes = classes.masked_fill(withheld, model.config.classes)
        logits = model(classes, tokenizer.views(wanted))
        return F.cross_entropy(logits.flatten(0, 1), wanted.flatten())

    _fit("transformer", model, loss, plan.transformer_steps, 1.5e-3, work, plan.seed, 0.3)


def _batch(plan: Plan, stage: int, step: int, device: str) -> tuple[Tensor, Tensor]:
    """New images at every step. The transformer's images and the study's come from other seeds."""
    images, labels = data.images(plan.batch, _seed(plan, stage, step))
    return images.to(device), labels.to(device)


def _seed(plan: Plan, stage: int, step: int) -> int:
    return (plan.seed * 10 + stage) * 10**6 + step


@torch.inference_mode()
def _codes(plan: Plan, tokenizer: Tokenizer, work: Path, device: str) -> tuple[Tensor, Tensor]:
    """Tokens (N, L) and classes (N,) of the images that train the transformer."""
    path = work / "codes.pt"
    if not path.exists():
        parts = []
        for start in progress.bar(range(0, plan.coded, 1024), "codes", -(-plan.coded // 1024)):
            images, _ = data.images(min(1024, plan.coded - start), _seed(plan, 3, start))
            parts.append(tokenizer.encode(images.to(device)).short().cpu())
        labels = torch.cat([torch.arange(len(part)) % len(data.CLASSES) for part in parts])
        _write({"tokens": torch.cat(parts), "labels": labels}, path)
    codes = torch.load(path, weights_only=True)
    return codes["tokens"].clone(), codes["labels"].clone()


def _fit(
    name: str,
    model: nn.Module,
    loss_of: Callable[[int], Tensor],
    steps: int,
    rate: float,
    work: Path,
    seed: int,
    decay: float = 1.0,
) -> None:
    """Minimises `loss_of(step)` over steps 1 to `steps`. A resumed run takes exactly the steps of an uninterrupted one.

    The learning rate falls to a hundredth along a cosine, over the last part of the steps; `decay` is the share of it.
    """
    path = work / f"{name}.pt"
    # Not fused: in some steps a phi is unused and its parameters have no gradient.
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.01)
    begun = 0
    if path.exists():
        kept = torch.load(path, weights_only=True)
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        begun = kept["step"]
    model.train()
    mean = 0.0
    bar = progress.bar(range(begun + 1, steps + 1), name, steps, begun)
    for step in bar:
        torch.manual_seed(seed * 10**6 + step)
        fallen = max(0.0, 1 - (1 - step / steps) / decay)
        warm, cosine = min(1.0, step / 100), 0.5 + 0.5 * math.cos(math.pi * fallen)
        for group in optimizer.param_groups:
            group["lr"] = rate * warm * (0.01 + 0.99 * cosine)
        optimizer.zero_grad()
        loss = loss_of(step)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        mean = loss.item() if not mean else 0.98 * mean + 0.02 * loss.item()
        bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
        if step % CHECKPOINT == 0 and step < steps:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            _write(state, path)


def _write(state: dict[str, object], path: Path) -> None:
    unfinished = path.with_suffix(".tmp")
    torch.save(state, unfinished)
    os.replace(unfinished, path)


def main(argv: Sequence[str] | None = None) -> int:
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(
        prog="python -m study.train",
        description="Trains the demo's three networks from scratch. Resumes after an interruption.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--work", type=Path, default=Path("build/demo"), help="folder for the checkpoints")
    parser.add_argument("--out", type=Path, default=weights.SHIPPED, help="folder for the finished weights")
    parser.add_argument("--seed", type=int, default=0, help="seed of the data and of the training")
    parser.add_argument("--device", default=default, help="device to train on")
    arguments = parser.parse_args(argv)
    plan = Plan(seed=arguments.seed)
    torch.manual_seed(plan.seed)
    models = weights.new()
    train(plan, models, arguments.work, arguments.device)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in vars(models):
        shutil.copy(arguments.work / f"{name}.safetensors", arguments.out)
    reached = json.dumps(baseline.measure(models), indent=1)
    (arguments.out / "baseline.json").write_text(reached + "\n")
    print(reached)
    return 0


if __name__ == "__main__":
    sys.exit(main())
