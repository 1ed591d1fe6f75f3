"""The state of one generation: which scale is due, and the raw logits of the scale before.

`SSG` and `GuidedSampler` are built on it, and so can be a sampler of your own: ask `due` which scale the logits belong
to, `check` them, compute, and end the scale with `remember`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ssg_kernels._checks import strength
from ssg_kernels._names import DTYPES, dtype_names

__all__ = ["Generation", "merge_cfg"]


class Generation:
    """Counts the scales of a generation and keeps what the next scale needs of the previous one.

    Args:
        sizes: the K grids of a generation, each (h, w), or an int n for (n, n). Neither side may shrink; a
            grid may repeat.

    Raises:
        ValueError: `sizes` is none of the above; the message says what was given.

    Attributes:
        sizes: (h, w) of each scale.
        step: how many scales of this generation are over, 0..K-1. It is 0 again after the last scale.
        prev_logits: the raw logits of the previous scale; None before the second scale.
        prev_cfg: the t of classifier-free guidance of the previous scale; None without cfg.
    """

    sizes: tuple[tuple[int, int], ...]
    step: int
    prev_logits: Tensor | None
    prev_cfg: float | Tensor | None

    def __init__(self, sizes: Sequence[int | tuple[int, int]]) -> None:
        self.sizes = _as_sizes(sizes)
        self.reset()

    def reset(self) -> None:
        """Begin a new generation: the first scale is due."""
        self.step = 0
        self.prev_logits = None
        self.prev_cfg = None

    def due(self, logits: Tensor) -> int:
        """The index of the scale that these logits belong to, from 0 on.

        Logits with the token count of the first size begin a new generation wherever another count is due. Nothing
        changes before `remember`.

        Raises:
            ValueError: the logits are not (B, L, V), or L is not that of the size which is due.
        """
        if logits.ndim != 3:
            raise ValueError(f"SSG: logits must be a 3-D tensor (B, L, V), got {logits.ndim}-D")
        tokens = logits.shape[1]
        h, w = self.sizes[self.step]
        if tokens == h * w:
            return self.step
        first_h, first_w = self.sizes[0]
        if tokens == first_h * first_w:
            return 0
        raise ValueError(
            f"SSG: {self._at(self.step)} expects size ({h}, {w}), L = {h * w} tokens, got L = {tokens}; "
            f"a new generation begins with size ({first_h}, {first_w}), L = {first_h * first_w}"
        )

    def check(
        self,
        step: int,
        logits: Tensor,
        cfg: float | Tensor | None = None,
        beta: Tensor | None = None,
    ) -> None:
        """Check that the logits of scale `step` go on with this generation.

        Args:
            step: what `due` returned.
            logits: raw logits, (B, L, V), or (2B, L, V) with `cfg`.
            cfg: t of classifier-free guidance, a float or a tensor of shape () or (B,), or None.
            beta: the strength of the guidance where it is a tensor, of shape () or (B,).

        Raises:
            ValueError: the batch, vocabulary, dtype or device changed within the generation; `cfg` came or went
                within it; the batch is odd with `cfg`; a strength does not fit.
        """
        if logits.dtype not in DTYPES:
            raise ValueError(f"SSG: logits must be {dtype_names()}, got {logits.dtype}")
        rows = batch = logits.shape[0]
        if cfg is not None:
            if rows % 2:
                raise ValueError(f"SSG: logits must hold an even batch, conditional half first, got {rows}")
            batch = rows // 2
            strength("SSG", "cfg", cfg, batch, logits.device)
        if beta is not None:
            strength("SSG", "beta", beta, batch, logits.device)
        prev = self.prev_logits
        if step == 0 or prev is None:
            return
        if (cfg is None) != (self.prev_cfg is None):
            came = "got none" if cfg is None else "got one after scales without"
            raise ValueError(
                f"SSG: cfg must be given at every scale of a generation or at none, {self._at(step)} {came}"
            )
        for name, got, due in (
            ("batch", rows, prev.shape[0]),
            ("vocabulary", logits.shape[2], prev.shape[2]),
            ("dtype", logits.dtype, prev.dtype),
            ("device", logits.device, prev.device),
        ):
            if got != due:
                raise ValueError(
                    f"SSG: logits must have the {name} of the previous scale, {due}, got {got} "
                    f"at {self._at(step)}; reset() begins a new generation"
                )

    def is_last(self, step: int) -> bool:
        """Whether `step` is the last scale, after which nothing is kept."""
        return step + 1 == len(self.sizes)

    def remember(self, logits: Tensor | None, cfg: float | Tensor | None, step: int) -> None:
        """End scale `step`. The next scale reads these logits as the previous scale's; the last one clears all.

        The logits are kept, not copied: nobody may write into them before the next scale is over.
        """
        if self.is_last(step):
            self.reset()
            return
        self.prev_logits = logits
        self.prev_cfg = cfg.clone() if isinstance(cfg, Tensor) else cfg
        self.step = step + 1

    def keep_rows(self, rows: int) -> None:
        """Go on with the first `rows` of the batch, as a sampler does that stops its cfg half-way."""
        if self.prev_logits is not None:
            self.prev_logits = self.prev_logits[:rows]

    def _at(self, step: int) -> str:
        return f"step {step + 1} of {len(self.sizes)}"


def merge_cfg(logits: Tensor, cfg: float | Tensor) -> Tensor:
    """Classifier-free guidance alone: (1 + t) * conditional - t * unconditional.

    Args:
        logits: (2B, L, V), the conditional half first.
        cfg: t, a float or a tensor of shape () or (B,).

    Returns:
        (B, L, V) in the dtype of the logits, computed in float32 at least. A conditional -inf stays -inf.
    """
    cond, uncond = logits.to(torch.promote_types(logits.dtype, torch.float32)).chunk(2)
    t = cfg.to(cond.dtype).reshape(-1, 1, 1) if isinstance(cfg, Tensor) else cfg
    masked = cond == -math.inf
    if isinstance(t, Tensor):
        # Without zeros there, the derivative with respect to t would be 0 times infinity.
        cond, uncond = cond.masked_fill(masked, 0), uncond.masked_fill(masked, 0)
    merged = (1 + t) * cond - t * uncond
    return merged.masked_fill(masked, -math.inf).to(logits.dtype)


def _as_sizes(sizes: Any) -> tuple[tuple[int, int], ...]:
    if isinstance(sizes, str) or not isinstance(sizes, Iterable):
        raise ValueError(f"SSG: sizes must hold ints or (h, w) pairs, got {sizes!r}")
    pairs: list[tuple[int, int]] = []
    for size in sizes:
        pair, scale = _as_pair(size), len(pairs) + 1
        if min(pair) < 1:
            raise ValueError(
                f"SSG: sizes must be positive ints or (h, w) pairs of them, got {size!r} at scale {scale}"
            )
        if pairs and (pair[0] < pairs[-1][0] or pair[1] < pairs[-1][1]):
            raise ValueError(f"SSG: sizes must not shrink, got {pair} after {pairs[-1]} at scale {scale}")
        pairs.append(pair)
    if not pairs:
        raise ValueError("SSG: sizes must hold at least one scale, got none")
    return tuple(pairs)


def _as_pair(size: Any) -> tuple[int, int]:
    """(h, w), or (0, 0) for what is no size."""
    try:
        h, w = size if isinstance(size, Iterable) else (size, size)
        return operator.index(h), operator.index(w)
    except (TypeError, ValueError):
        return 0, 0
