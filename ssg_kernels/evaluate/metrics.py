"""Metrics of features, each computed by a library: torchmetrics, torch-fidelity or prdc."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssg_kernels.evaluate.recipe import EvaluateError

NEIGHBOURS = 3  # of precision and recall, as in the ADM evaluator
SPLIT = 5000  # images of a split of the inception score, as in the ADM evaluator
PRDC_LIMIT = 10_000  # images on each side: prdc keeps all pairs of images in memory
_SUBSET, _SUBSETS = 1000, 100  # of KID, the defaults of torchmetrics
_ALONE: dict[str, Any] = {"sync_on_compute": False}  # One rank has all features.
_SEED = 0  # of the subsets that KID and the inception score draw


@dataclass
class Statistics:
    """Mean (D,) and covariance (D, D) of features, float64. The npz files of the ADM evaluator have them."""

    mean: Tensor
    covariance: Tensor


class _Identity(torch.nn.Module):
    """Stands for the feature network where the features are there already."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


def fid(made: Tensor, real: Tensor | Statistics) -> float:
    """Frechet distance between features (N, D) and (M, D), by torchmetrics in float64."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    made = made.double()
    metric = FrechetInceptionDistance(feature=_Identity(made.shape[1]), **_ALONE).set_dtype(torch.float64)
    metric.to(made.device)
    metric.update(made, real=False)
    if isinstance(real, Statistics):
        # torchmetrics keeps sums. Any number of images gives back the same mean and covariance.
        mean, count = real.mean.to(made), 10_000
        metric.real_features_sum = mean * count
        metric.real_features_cov_sum = real.covariance.to(made) * (count - 1) + count * mean.outer(mean)
        metric.real_features_num_samples = torch.tensor(count)
    else:
        metric.update(real.double(), real=True)
    return metric.compute().item()


def kid(made: Tensor, real: Tensor) -> float:
    """Kernel inception distance, by torchmetrics in float64, in 100 subsets of at most 1000 images."""
    from torchmetrics.image.kid import KernelInceptionDistance

    subset = min(_SUBSET, len(made), len(real))
    with _repeatable():
        metric = KernelInceptionDistance(
            feature=_Identity(made.shape[1]), subsets=_SUBSETS, subset_size=subset, **_ALONE
        )
        metric.update(made.double(), real=False)
        metric.update(real.double(), real=True)
        return metric.compute()[0].item()


def inception_score(logits: Tensor) -> float:
    """Inception score of logits (N, C), by torchmetrics in float64, in splits of about 5000 images."""
    from torchmetrics.image.inception import InceptionScore

    with _repeatable():
        metric = InceptionScore(
            feature=_Identity(logits.shape[1]), splits=max(1, round(len(logits) / SPLIT)), **_ALONE
        )
        metric.update(logits.double())
        return metric.compute()[0].item()


def precision_recall(made: Tensor, real: Tensor, limit: int | None = None) -> tuple[float, float]:
    """Improved precision and recall, with 3 neighbours: by torch-fidelity, or by prdc without it.

    They compare the first `limit` images of each side. prdc never compares more than 10,000.
    """
    made, real = made[:limit], real[:limit]
    if _fidelity():
        from torch_fidelity.metric_prc import prc_features_to_metric

        found = prc_features_to_metric(
            made, real, prc_neighborhood=NEIGHBOURS, prc_batch_size=10_000, save_cpu_ram=True, verbose=False
        )
    else:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn's, about its own threads
            from prdc import compute_prdc

            arrays = [part[:PRDC_LIMIT].cpu().numpy() for part in (real, made)]
            found = compute_prdc(*arrays, nearest_k=NEIGHBOURS)
    return float(found["precision"]), float(found["recall"])


def _fidelity() -> bool:
    """Whether torch-fidelity can be imported: it needs a torchvision that fits this torch."""
    try:
        import torch_fidelity  # noqa: F401
    except (ImportError, RuntimeError):
        return False
    return True


def check(metrics: Sequence[str], count: int) -> dict[str, str]:
    """What computes each metric. Raises EvaluateError if a package is missing, or if there are too few images."""
    if count <= NEIGHBOURS + 1:
        raise EvaluateError(f"metrics need more than {NEIGHBOURS + 1} images, got --images {count}")
    try:
        import torchmetrics
    except (ImportError, RuntimeError) as reason:
        raise EvaluateError(
            f"torchmetrics cannot be imported ({reason}): pip install 'ssg-kernels[evaluate]'"
        ) from reason
    by = {name: f"torchmetrics {torchmetrics.__version__}" for name in metrics if name in _KNOWN}
    if {"precision", "recall"} & set(metrics):
        if _fidelity():
            import torch_fidelity

            library = f"torch-fidelity {torch_fidelity.__version__}, {NEIGHBOURS} neighbours"
        else:
            try:
                import prdc  # noqa: F401
            except ImportError as reason:
                raise EvaluateError(
                    f"precision and recall need prdc or torch-fidelity ({reason}): pip install 'ssg-kernels[evaluate]'"
                ) from reason
            library = f"prdc, {NEIGHBOURS} neighbours, at most {PRDC_LIMIT} images of each side"
        by |= {name: library for name in ("precision", "recall") if name in metrics}
    return by


_KNOWN = ("fid", "kid", "is", "clip_score")


@contextlib.contextmanager
def _repeatable() -> Any:
    """The subsets that torchmetrics draws are the same each time. It warns that it keeps all features: we know."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(_SEED)
        yield
