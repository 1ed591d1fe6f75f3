"""Makes the chunks that are missing, spread over the ranks, with one progress bar."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm  # type: ignore[import-untyped]

from ssg_kernels.evaluate import samples
from ssg_kernels.evaluate.folder import Folder, Item
from ssg_kernels.evaluate.outputs import Outputs
from ssg_kernels.evaluate.ranks import Ranks
from ssg_kernels.evaluate.recipe import EvaluateError, Recipe

SHOWN = 24  # images of each setting and seed that every evaluation keeps, for its pictures
_ATTEMPTS = 2
_HOPELESS = 3  # chunks in a row that failed: then something is wrong with all of them


@dataclass(frozen=True)
class Keep:
    """Which samples are kept besides the shown ones."""

    png: bool = False
    npz: bool = False


class Generation:
    """One rank's part of the work."""

    def __init__(self, folder: Folder, recipe: Recipe, outputs: Outputs, ranks: Ranks, keep: Keep) -> None:
        self.folder, self.recipe, self.outputs, self.ranks, self.keep = folder, recipe, outputs, ranks, keep

    def run(self, items: Sequence[Item]) -> float:
        """Makes the missing ones of `items`. Returns the images a second, over all ranks.

        Raises:
            EvaluateError: some chunks could not be made. The message names them.
        """
        todo = self.ranks.share(lambda: [item for item in items if not self.folder.has(item)])
        mine = todo[self.ranks.rank :: self.ranks.count]
        start = time.perf_counter()
        failed: list[tuple[Item, str]] = []
        in_a_row = 0
        with _Progress(self.folder, items, todo, shown=self.ranks.first) as progress:
            for item in mine:
                reason, mendable = self._attempt(item)
                in_a_row = in_a_row + 1 if reason else 0
                if reason:
                    failed.append((item, reason))
                progress.update()
                if in_a_row == _HOPELESS or (reason and not mendable):
                    break
            found = self.ranks.gather(failed, progress.update)
            progress.update(at_once=True)
        failed = [failure for part in found for failure in part]
        if failed:
            raise EvaluateError(_sentence(failed, len(items)))
        return sum(item.count for item in todo) / max(time.perf_counter() - start, 1e-9)

    def _attempt(self, item: Item) -> tuple[str, bool]:
        """Makes a chunk, and again if it fails. Returns why it failed, or "", and whether others may do better."""
        reason = ""
        for _ in range(_ATTEMPTS):
            try:
                self._make(item)
                return "", True
            except EvaluateError as error:
                return str(error), False
            except Exception as error:
                reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
        return f"tried {_ATTEMPTS} times, {reason}", True

    def _make(self, item: Item) -> None:
        made = self.recipe.generate(item.setting, item.seed, item.first, item.count)
        if made.images.dtype != torch.uint8 or made.images.ndim != 4 or len(made.images) != item.count:
            raise EvaluateError(
                f"the recipe must give {item.count} images (B, 3, H, W), uint8, and gave "
                f"{tuple(made.images.shape)}, {made.images.dtype}"
            )
        prompts = [self.recipe.prompt(item.first + i) for i in range(item.count)]
        arrays = self.outputs.of(made.images if made.unrounded is None else made.unrounded, prompts)
        pixels = made.images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        arrays["digest"] = np.array([hashlib.sha256(pixels.tobytes()).hexdigest()])
        if made.tokens is not None:
            arrays["tokens"] = made.tokens.cpu().numpy()
        if self.keep.npz:
            arrays["images"] = pixels
        elif item.first < SHOWN:
            arrays["images"] = pixels[: SHOWN - item.first]
        if self.keep.png:
            samples.write_png(self.folder.path, item, pixels)
        self.folder.save(item, arrays)


def _sentence(failed: Sequence[tuple[Item, str]], total: int) -> str:
    listed = "; ".join(f"{item} ({reason})" for item, reason in failed[:5])
    more = f"; and {len(failed) - 5} more" if len(failed) > 5 else ""
    return (
        f"{len(failed)} of {total} chunks could not be made: {listed}{more}. "
        f"The finished chunks are kept: run the same command again to make the missing ones"
    )


class _Progress:
    """The bar: images that all ranks have made, images a second, and the time left."""

    def __init__(self, folder: Folder, items: Sequence[Item], todo: Sequence[Item], shown: bool) -> None:
        self.folder, self.waiting, self.shown = folder, list(todo), shown
        total, missing = (sum(item.count for item in group) for group in (items, todo))
        patience = 0.5 if sys.stderr.isatty() else 30
        self.bar = tqdm(
            desc="images",
            total=total,
            initial=total - missing,
            unit=" images",
            mininterval=patience,
            maxinterval=patience,
            disable=not shown,
        )
        self.due = 0.0

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def update(self, at_once: bool = False) -> None:
        """Counts the finished chunks: at most once a second, and in no more than a hundredth of the time."""
        begun = time.monotonic()
        if not self.shown or (begun < self.due and not at_once):
            return
        left = [item for item in self.waiting if not self.folder.chunk(item).exists()]
        self.bar.update(sum(item.count for item in self.waiting) - sum(item.count for item in left))
        self.waiting = left
        now = time.monotonic()
        self.due = now + max(1.0, 100 * (now - begun))
