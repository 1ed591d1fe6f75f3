"""Samplers that make the logits of each scale by one method, and sample them by one function."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from ssg_kernels.guidance import SSG
from ssg_kernels.integrations._call import GuidedCall, Hooks
from ssg_kernels.integrations._target import Function, Method


class Drawn(NamedTuple):
    """A grid that was handed to the sampler."""

    ssg: SSG
    """The guidance as it was before the grid."""
    raw: Tensor
    """The raw logits of the first position, which tell copies of the raw logits from guided ones."""

    def is_raw(self, first: Tensor) -> bool:
        """Whether these logits of a first position are the raw ones, maybe masked."""
        if first.shape != self.raw.shape or first.dtype != self.raw.dtype:
            return False
        return bool(((first == self.raw) | (first == -math.inf)).all())


class NextScale(GuidedCall):
    """A sampling method that makes the logits of each scale by one method, and samples them by one function.

    Guidance advances with the method that makes the logits, once a scale. So the function may also sample other logits,
    those of a refinement or of another model: these are not guided.
    """

    methods: ClassVar[Sequence[str]] = ("autoregressive_infer_cfg",)
    maker: ClassVar[str] = "get_logits"
    """Dotted path of the method that makes the logits of both halves."""
    sampler: ClassVar[str] = "sample_with_top_k_top_p_"
    """The function that samples the merged logits; "" where the sampling method does so in its own lines."""
    others: ClassVar[Sequence[str]] = ()
    """Dotted paths of methods that make logits which are not guided."""
    needs: ClassVar[Sequence[str]] = ("patch_nums",)
    """Dotted paths of what else the model must have. The first one holds the scales, unless `sizes` says otherwise."""

    ssgs: Sequence[SSG]
    """One for each part of the vocabulary that is sampled on its own; mostly one."""
    due: list[SSG]
    """Those of them whose logits were made and not sampled yet."""
    drawn: list[Drawn]
    """The grids of this scale that were sampled already. The sampler may draw from them again."""

    @classmethod
    def hooks(cls, cfg_order: str) -> Hooks:
        if not cls.sampler:
            return {Method(cls.maker): cls.guide_halves if cfg_order == "before" else cls.shift_halves}
        if cfg_order == "before":
            return {Function(cls.sampler): cls.sample, Method(cls.maker): cls.guide_halves}
        hooks: Hooks = {Method(other): cls.make_other for other in cls.others}
        return {Function(cls.sampler): cls.guide_merged, Method(cls.maker): cls.make, **hooks}

    def start(self) -> None:
        self.begin([self.guidance.ssg(self.sizes())])

    def begin(self, ssgs: Sequence[SSG]) -> None:
        self.ssgs, self.due, self.drawn = ssgs, [], []
        self.made = self.sampled = self.foreign = self.missed = 0

    def sizes(self) -> Sequence[Any]:
        """The scales of this call."""
        sizes: Sequence[Any] = self.target.need(self.needs[0])
        return sizes

    def halves(self, logits: Tensor) -> Tensor:
        """The grid in what the maker returned, a view: (B, L, V)."""
        return logits

    def merged(self, logits: Tensor) -> Tensor:
        """The grid in what the sampler is handed, a view: (B, L, V)."""
        return logits

    def merge(self, logits: Tensor) -> tuple[Tensor, float] | None:
        """What the sampling method makes of the maker's logits in its own lines, where it has no `sampler`.

        Returns:
            The logits that it samples, (B, L, V), and the temperature that they were divided by. None where another
            hook guides the merged logits of this scale: they are then in `due`.
        """
        raise NotImplementedError

    def make(self, maker: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        # What the maker itself samples is not of this scale.
        self.missed += bool(self.due)
        self.due, self.drawn = [], []
        logits = maker(*args, **kwargs)
        self.made += 1
        self.rows, self.vocabulary = logits.shape[0], logits.shape[-1]
        self.due = list(self.ssgs)
        return logits

    def make_other(self, maker: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        self.due, self.drawn = [], []
        return maker(*args, **kwargs)

    def sample(self, sampler: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.sampled += 1
        return sampler(*args, **kwargs)

    def guide_merged(self, sampler: Callable[..., Any], logits: Tensor, *args: Any, **kwargs: Any) -> Any:
        # In place, since the sampling method may read the logits again.
        if self.due:
            ssg = self.due.pop(0)
            self.skip_to(ssg, self.merged(logits))
            grid = self.whole(self.merged(logits), ssg)
            self.drawn.append(Drawn(copy.copy(ssg), grid[:, 0].clone()))
            ssg(grid, out=grid)
            self.guided += 1
        elif not self.guide_again(logits):
            self.foreign += 1
        return self.sample(sampler, logits, *args, **kwargs)

    def guide_again(self, logits: Tensor) -> bool:
        """Guide another copy of logits of this scale. The same tensor is guided already.

        Returns whether the logits may be of this scale.
        """
        fits = False
        for drawn in self.drawn:
            if logits.ndim == 3 and logits.numel() == drawn.ssg.generation.tokens * drawn.raw.numel():
                fits = True
                grid = self.merged(logits)
                if drawn.is_raw(grid[:, 0]):
                    copy.copy(drawn.ssg)(grid, out=grid)
                    break
        return fits

    def skip_to(self, ssg: SSG, grid: Tensor) -> None:
        """Leave out the scales before the one with as many tokens as this grid, as a sampler does that skips some."""
        generation, tokens = ssg.generation, grid.shape[1]
        if tokens > generation.tokens and tokens in [due.tokens for due in generation.grids[ssg.step :]]:
            while generation.tokens != tokens:
                ssg.skip()

    def whole(self, grid: Tensor, ssg: SSG) -> Tensor:
        """All logits of the scale, where the sampler is handed a part of the batch or of the positions, a view."""
        tokens, batches = ssg.generation.tokens, (self.rows, self.rows // 2)
        if grid.shape[1] == tokens and grid.shape[0] in batches:
            return grid
        row = grid.stride(1)
        numbers = grid.untyped_storage().nbytes() // grid.element_size()
        for batch in batches:
            if batch * tokens * row == numbers and grid.stride(2) == 1 and grid.stride(0) == tokens * row:
                return grid.as_strided(
                    (batch, tokens, grid.shape[2]), grid.stride(), grid.storage_offset() % row
                )
        due = ssg.generation.grids[ssg.step]
        raise self.target.refuse(
            f"{self.sampler} was handed logits of shape {tuple(grid.shape)}, which are neither the {due} grid that "
            f"{self.maker} made for {self.rows} rows nor a view of a part of it"
        )

    def problem(self) -> str | None:
        # A first scale that nothing followed is a generation that stopped there.
        is_one = len(self.ssgs[0].sizes) == 1 or (self.made <= 1 and self.guided and not self.foreign)
        missed = self.missed + bool(self.due)
        if is_one or (self.guided > len(self.ssgs) and not missed):
            return None
        unguided = (
            f"ran unguided at {missed} of {self.made} scales"
            if self.guided > len(self.ssgs)
            else "ran unguided"
        )
        then = f", and {self.sampler} should sample them (calls: {self.sampled})" if self.sampler else ""
        return (
            f"{type(self.model).__name__}.{self.method} {unguided}: "
            f"{self.maker} should make the logits of each scale (calls: {self.made}){then}. "
            "Pass method= to `attach` if this model samples through another method"
        )

    def guide_halves(self, maker: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        logits = maker(*args, **kwargs)
        self.made, self.guided = self.made + 1, self.guided + 1
        grid, (ssg, *_) = self.halves(logits), self.ssgs
        self.skip_to(ssg, grid)
        # cfg may stop half-way, and with it the unconditional half.
        ssg.generation.keep_rows(len(grid))
        ssg(grid, out=grid)
        return logits

    def shift_halves(self, maker: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Add to both halves what guidance adds to the merged logits. cfg hands it on, since its weights sum to 1."""
        self.missed += bool(self.due)
        self.due = []
        logits = maker(*args, **kwargs)
        self.made += 1
        merging = self.merge(logits)
        if merging is None:
            self.due = list(self.ssgs)
            return logits
        merged, temperature = merging
        shift = (self.ssgs[0](merged) - merged) * temperature
        self.guided += 1
        return logits + shift.repeat(len(logits) // len(shift), 1, 1)
