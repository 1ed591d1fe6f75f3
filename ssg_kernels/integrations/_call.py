"""What an integration is made of: the facts of one upstream model, and the state and the hooks of one call."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, SupportsFloat

from torch import Tensor

from ssg_kernels.guidance import SSG
from ssg_kernels.integrations._target import Function, Method, Target

# Where each hook goes. A hook is a method of the call: it gets the original function, then the arguments.
Hooks = Mapping[Method | Function, Callable[..., Any]]


@dataclass(frozen=True)
class Guidance:
    """The arguments of `attach`, checked."""

    beta: SupportsFloat | Tensor
    schedule: str | Sequence[SupportsFloat]
    prior: str
    interpolation: str
    rescale: bool
    cfg_order: str

    def __post_init__(self) -> None:
        if self.cfg_order not in ("after", "before"):
            raise ValueError(f"attach: cfg_order must be one of 'after', 'before', got {self.cfg_order!r}")
        # The number of scales is known only at the call. Everything else is checked now.
        sized = hasattr(self.schedule, "__len__") and not isinstance(self.schedule, str)
        self.ssg([1] * max(len(self.schedule) if sized else 1, 1))

    def ssg(self, sizes: Sequence[Any]) -> SSG:
        """The guidance of one generation."""
        return SSG(sizes, self.beta, self.schedule, self.prior, self.interpolation, self.rescale)


def arguments_of(method: Callable[..., Any], args: Any, kwargs: Any) -> Mapping[str, Any]:
    """The arguments of a call by name, defaults included."""
    bound = inspect.signature(method).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


class GuidedCall:
    """One call of a sampling method. An integration derives from it.

    The class holds the facts of upstream. An instance is made for each call of the sampling method: it holds the state
    of that call, and its methods are the hooks, which run inside that call only.
    """

    upstream: ClassVar[str]
    """The repository and the commit that the integration follows."""
    methods: ClassVar[Sequence[str]]
    """Dotted paths of the sampling methods."""
    needs: ClassVar[Sequence[str]] = ()
    """Dotted paths of what else the model must have."""

    def __init__(self, target: Target, guidance: Guidance, arguments: Mapping[str, Any]) -> None:
        """`arguments` are those of the call, by name, defaults included."""
        self.target, self.model = target, target.model
        self.guidance, self.arguments = guidance, arguments
        self.start()

    @classmethod
    def serves(cls, model: Any) -> bool:
        """Whether this class is for this model, where an integration has several classes."""
        return True

    @classmethod
    def hooks(cls, cfg_order: str) -> Hooks:
        """The hooks, and where they go."""
        raise NotImplementedError

    def start(self) -> None:
        """Make the state of this call. It may refuse the call: `raise self.target.refuse(...)`."""


class NextScale(GuidedCall):
    """A sampling method that makes the logits of each scale by one method, and samples them by one function.

    Guidance advances with the method that makes the logits, once a scale. So the function may also sample other logits,
    those of a refinement or of another model: these are not guided.
    """

    methods: ClassVar[Sequence[str]] = ("autoregressive_infer_cfg",)
    maker: ClassVar[str] = "get_logits"
    """Dotted path of the method that makes the logits of both halves."""
    sampler: ClassVar[str] = "sample_with_top_k_top_p_"
    """The function that samples the merged logits."""
    needs: ClassVar[Sequence[str]] = ("patch_nums",)

    ssgs: Sequence[SSG]
    """One for each part of the vocabulary that is sampled on its own; mostly one."""
    due: list[SSG]
    """Those of them whose logits were made and not sampled yet."""

    @classmethod
    def hooks(cls, cfg_order: str) -> Hooks:
        if cfg_order == "before":
            return {Method(cls.maker): cls.guide_halves}
        return {Function(cls.sampler): cls.guide_merged, Method(cls.maker): cls.make}

    def start(self) -> None:
        self.ssgs, self.due = [self.guidance.ssg(self.sizes())], []

    def sizes(self) -> Sequence[Any]:
        """The scales of this call."""
        sizes: Sequence[Any] = self.model.patch_nums
        return sizes

    def halves(self, logits: Tensor) -> Tensor:
        """The grid in what the maker returned, a view: (B, L, V)."""
        return logits

    def merged(self, logits: Tensor) -> Tensor:
        """The grid in what the sampler is handed, a view: (B, L, V)."""
        return logits

    def make(self, maker: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        logits = maker(*args, **kwargs)
        self.due = list(self.ssgs)
        return logits

    def guide_merged(self, sampler: Callable[..., Any], logits: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.due:
            # In place, since the sampling method may read the logits again.
            grid = self.merged(logits)
            self.due.pop(0)(grid, out=grid)
        return sampler(logits, *args, **kwargs)

    def guide_halves(self, maker: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        logits = maker(*args, **kwargs)
        grid, (ssg, *_) = self.halves(logits), self.ssgs
        # cfg may stop half-way, and with it the unconditional half.
        ssg.generation.keep_rows(len(grid))
        ssg(grid, out=grid)
        return logits


class Denoiser(GuidedCall):
    """A sampler whose steps all have the same grid. Each branch of cfg is guided by its own previous step."""

    def begin(self, steps: int) -> None:
        """Begin a generation of so many steps."""
        self.steps, self.t = steps, object()
        self.before: dict[Hashable, SSG] = {}
        self.after: dict[Hashable, SSG] = {}

    def guide_branch(self, branch: Hashable, t: object, logits: Tensor) -> Tensor:
        """Guide the logits of one branch, (B, L, V). A step may be tried again: it has one `t`, the same object."""
        if t is not self.t:
            self.t = t
            self.before.update(self.after)
        # On one grid every prior is the previous logits, whatever the sides.
        first = self.before.get(branch) or self.guidance.ssg([(1, logits.shape[1])] * self.steps)
        ssg = self.after[branch] = copy.copy(first)
        return ssg(logits)
