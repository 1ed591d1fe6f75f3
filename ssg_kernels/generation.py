"""The state of one generation: which scale is due, and the raw logits of the scale before.

`SSG` and `GuidedSampler` are built on it, and so can be a sampler of your own: ask `due` which scale the logits belong
to, `check` them, ask whether it `guides` them, compute, and end with `remember`.

One rule holds for all generations. The prior of a scale comes from the raw logits with which the model last predicted
the scale before it, in the same pyramid. So the first scale of a pyramid is not guided, nor is one whose vocabulary
is not that of the scale before. k counts the scales of the pyramid, and K is how many the pyramid has in full, skipped
ones included. A scale that the model predicts several times is one scale: each repeat has the same prior. Frames are
guided apart, each by the same frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ssg_kernels._checks import strength
from ssg_kernels._grids import Grid, Size, grids_of
from ssg_kernels._names import DTYPES, dtype_names
from ssg_kernels._numbers import as_integer, per_scale

__all__ = ["Generation", "merge_cfg"]


class Generation:
    """Counts the scales of a generation and keeps what the next scale needs of the previous one.

    Args:
        sizes: the grids of a generation, one for each scale: (h, w); an int n for (n, n); (n,) for a row of n, which
            is (1, n); (t, h, w) for t frames of (h, w). Neither side may shrink, except that a grid that is back at
            the first one begins a new pyramid. A grid may stay the same. t may change with a new pyramid only.
        repeats: how often the model predicts each scale, an int or one for each scale.

    Raises:
        ValueError: an argument is none of the above; the message says what was given.

    Attributes:
        grids: the size, the frames and the pyramid of each scale.
        repeats: how often each scale comes.
        step: how many scales of this generation are over. It is 0 again after the last scale.
        repeat: how often the scale that is due came already.
        prev_logits: the raw logits of the previous scale; None before the second scale of a pyramid.
        prev_cfg: the t of classifier-free guidance of the previous scale; None without cfg.
        prev_step: the index of the previous scale, which is not `step` - 1 where scales were skipped.
    """

    grids: tuple[Grid, ...]
    repeats: tuple[int, ...]
    step: int
    repeat: int
    prev_logits: Tensor | None
    prev_cfg: float | Tensor | None
    prev_step: int

    def __init__(self, sizes: Sequence[Size], repeats: int | Sequence[int] = 1) -> None:
        self.grids = grids_of(sizes)
        self.repeats = per_scale("SSG: repeats", "positive ints", repeats, len(self.grids), _as_count)
        self.reset()

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(h, w) of each scale."""
        return tuple(grid.size for grid in self.grids)

    @property
    def tokens(self) -> int:
        """L of the scale that is due."""
        return self.grids[self.step].tokens

    @property
    def pyramids(self) -> tuple[int, ...]:
        """How many scales each pyramid has."""
        starts = [grid.start for grid in self.grids]
        return tuple(starts.count(start) for start in dict.fromkeys(starts))

    def reset(self) -> None:
        """Begin a new generation: the first scale is due."""
        self.step = self.repeat = 0
        self.prev_logits = None
        self.prev_cfg = None
        self.prev_step = -1

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
        due, first = self.grids[self.step], self.grids[0]
        if tokens == due.tokens:
            return self.step
        if tokens == first.tokens:
            return 0
        raise ValueError(
            f"SSG: {self._at(self.step)} expects {due.described()} tokens, got L = {tokens}; "
            f"a new generation begins with {first.described()}"
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
            ValueError: the batch, dtype or device changed within a pyramid; `cfg` came or went within it; the batch
                is odd with `cfg`; a strength does not fit.
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
            ("dtype", logits.dtype, prev.dtype),
            ("device", logits.device, prev.device),
        ):
            if got != due:
                raise ValueError(
                    f"SSG: logits must have the {name} of the previous scale, {due}, got {got} "
                    f"at {self._at(step)}; reset() begins a new generation"
                )

    def guides(self, step: int, logits: Tensor) -> bool:
        """Whether these logits of scale `step` are guided: the pyramid has an earlier scale of the same vocabulary."""
        prev = self.prev_logits
        if prev is None or not self.grids[step].start <= self.prev_step < step:
            return False
        return prev.shape[2] == logits.shape[2]

    def keeps(self, step: int) -> bool:
        """Whether the logits of scale `step` that come now are those that a later scale needs."""
        is_last_repeat = (self.repeat if step == self.step else 0) + 1 == self.repeats[step]
        return is_last_repeat and not self._ends(step)

    def remember(self, logits: Tensor | None, cfg: float | Tensor | None, step: int) -> None:
        """End one prediction of scale `step`, and with its last repeat the scale.

        The next scale reads these logits as the previous scale's. The last scale of a pyramid clears all. The logits
        are kept, not copied: nobody may write into them before the next scale is over.
        """
        if step != self.step:
            self.reset()
            self.step = step
        self.repeat += 1
        if self.repeat == self.repeats[step]:
            self.prev_logits, self.prev_step = logits, step
            self.prev_cfg = cfg.clone() if isinstance(cfg, Tensor) else cfg
            self.skip()

    def skip(self) -> None:
        """Leave out the scale that is due, or what is left of its repeats. The next one is due, and k counts on.

        The prior of the next scale then comes from the last scale that came; if none did, that scale is not guided.
        """
        if self._ends(self.step):
            step = self.step + 1
            self.reset()
            self.step = step % len(self.grids)
        else:
            self.step, self.repeat = self.step + 1, 0

    def keep_rows(self, rows: int) -> None:
        """Go on with the first `rows` of the batch, as a sampler does that stops its cfg half-way."""
        if self.prev_logits is not None:
            self.prev_logits = self.prev_logits[:rows]

    def _ends(self, step: int) -> bool:
        """Whether a pyramid ends with this scale, after which nothing is kept."""
        return step + 1 == len(self.grids) or self.grids[step + 1].start == step + 1

    def _at(self, step: int) -> str:
        return f"step {step + 1} of {len(self.grids)}"


def _as_count(value: object) -> int | None:
    number = as_integer(value)
    return number if number is not None and number > 0 else None


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
