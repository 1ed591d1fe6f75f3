"""What the images are compared with: a folder or an npz of images, or the mean and covariance of features."""

from __future__ import annotations

import contextlib
import hashlib
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssg_kernels.evaluate.folder import write
from ssg_kernels.evaluate.metrics import Statistics
from ssg_kernels.evaluate.outputs import features
from ssg_kernels.evaluate.recipe import EvaluateError, Network

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_BATCH = 50


@dataclass
class Reference:
    """The reference's features (M, D), their statistics, or both. KID, precision and recall need the features."""

    features: Tensor | None = None
    statistics: Statistics | None = None

    @property
    def width(self) -> int:
        if self.features is not None:
            return self.features.shape[1]
        assert self.statistics is not None
        return len(self.statistics.mean)


def load(path: Path, network: Network) -> Reference:
    """Reads the reference at `path`. Features of images are computed once and kept in the user's cache.

    Args:
        path: a folder with images, at any depth; an npz with images (N, H, W, 3), uint8, as `arr_0`; or an npz with
            `mu` and `sigma`. The files of the ADM evaluator have all three, and then `mu` and `sigma` give the FID.
        network: the feature network. It gets the images of a folder at their own size.
    """
    if path.is_dir():
        return Reference(features=torch.from_numpy(_cached(path, network, _folder(path))))
    if not path.is_file():
        raise EvaluateError(f"--reference {path} is neither a folder nor a file")
    try:
        with np.load(path) as file:
            names = set(file.files)
            statistics = None
            if {"mu", "sigma"} <= names:
                statistics = _statistics(path, file["mu"], file["sigma"])
    except (OSError, ValueError, zipfile.BadZipFile) as reason:
        raise EvaluateError(f"--reference {path} is no npz file: {reason}") from reason
    if "arr_0" in names:
        return Reference(torch.from_numpy(_cached(path, network, _npz(path))), statistics)
    if statistics is None:
        raise EvaluateError(
            f"--reference {path} must have images (N, H, W, 3) as arr_0, or mu and sigma; it has "
            f"{', '.join(sorted(names)) or 'nothing'}"
        )
    return Reference(statistics=statistics)


def of_batches(batches: Iterator[Tensor], network: Network) -> Reference:
    """The reference that a recipe brings along."""
    return Reference(features=torch.from_numpy(_all_features(batches, network)))


def _statistics(path: Path, mean: np.ndarray, covariance: np.ndarray) -> Statistics:
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise EvaluateError(
            f"--reference {path}: mu must be (D,) and sigma (D, D), got {mean.shape} and {covariance.shape}"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise EvaluateError(f"--reference {path}: mu or sigma holds NaN or infinity")
    return Statistics(*(torch.from_numpy(np.asarray(x, dtype=np.float64)) for x in (mean, covariance)))


def _npz(path: Path) -> Iterator[Tensor]:
    try:
        with np.load(path) as file:
            images = file["arr_0"]
    except (OSError, ValueError, zipfile.BadZipFile) as reason:
        raise EvaluateError(f"--reference {path}: arr_0 cannot be read: {reason}") from reason
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not len(images):
        raise EvaluateError(
            f"--reference {path}: arr_0 must be images (N, H, W, 3), uint8, got {images.shape}, {images.dtype}"
        )
    yield from torch.from_numpy(images).permute(0, 3, 1, 2).split(_BATCH)


def _folder(path: Path) -> Iterator[Tensor]:
    from PIL import Image

    names = _images_in(path)
    if not names:
        raise EvaluateError(f"--reference {path} holds no image ({', '.join(_SUFFIXES)})")
    batch: list[np.ndarray] = []
    for name in names:
        try:
            with Image.open(name) as file:
                image = np.asarray(file.convert("RGB"))
        except OSError as reason:
            raise EvaluateError(f"--reference: {name} cannot be read: {reason}") from reason
        if batch and (len(batch) == _BATCH or batch[0].shape != image.shape):
            yield torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2)
            batch = []
        batch.append(image)
    yield torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2)


def _images_in(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES)


def _cached(path: Path, network: Network, batches: Iterator[Tensor]) -> np.ndarray:
    files = _images_in(path) if path.is_dir() else [path]
    digest = hashlib.sha256(str(path.resolve()).encode())
    for file in files:
        facts = file.stat()
        digest.update(f"{file.name} {facts.st_size} {facts.st_mtime_ns}".encode())
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    kept = home / "ssg_kernels" / "evaluate" / f"{digest.hexdigest()}.npz"
    # Which network made the features is told from its outputs for a fixed image.
    probe = features(network, torch.arange(3 * 64 * 64).view(1, 3, 64, 64).mul(37).remainder(256).byte())
    try:
        with np.load(kept) as file:
            if np.allclose(file["probe"], probe["features"], rtol=1e-4, atol=1e-5):
                return file["features"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        pass
    found = _all_features(batches, network)
    with contextlib.suppress(OSError, EvaluateError):  # The cache only saves time.
        write(kept, lambda file: np.savez(file, features=found, probe=probe["features"]))
    return found


def _all_features(batches: Iterator[Tensor], network: Network) -> np.ndarray:
    return np.concatenate([features(network, batch)["features"] for batch in batches])
