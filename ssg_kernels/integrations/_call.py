"""What an integration is made of: the facts of one upstream model, and the state and the hooks of one call."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, SupportsFloat

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
    takes: ClassVar[Sequence[str]] = ()
    """Parameters of the sampling method by which `ssg_kernels.attach` knows this kind of model."""

    guided: int
    """The scales, or outputs of a denoiser, that a hook was handed; the first one counts too."""

    def __init__(self, target: Target, guidance: Guidance, arguments: Mapping[str, Any]) -> None:
        """`arguments` are those of the call, by name, defaults included."""
        self.target, self.model = target, target.model
        self.guidance, self.arguments = guidance, arguments
        self.guided = 0
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

    def problem(self) -> str | None:
        """Why nothing was guided in this call, which is over; None if something was, or if there was nothing to guide.

        A generation that stopped early is guided as far as it went.
        """
        raise NotImplementedError


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
    """The function that samples the merged logits."""
    others: ClassVar[Sequence[str]] = ()
    """Dotted paths of methods that make logits which are not guided."""
    needs: ClassVar[Sequence[str]] = ("patch_nums",)

    ssgs: Sequence[SSG]
    """One for each part of the vocabulary that is sampled on its own; mostly one."""
    due: list[SSG]
    """Those of them whose logits were made and not sampled yet."""
    drawn: list[Drawn]
    """The grids of this scale that were sampled already. The sampler may draw from them again."""

    @classmethod
    def hooks(cls, cfg_order: str) -> Hooks:
        if cfg_order == "before":
            return {Function(cls.sampler): cls.sample, Method(cls.maker): cls.guide_halves}
        hooks: Hooks = {Method(other): cls.make_other for other in cls.others}
        return {Function(cls.sampler): cls.guide_merged, Method(cls.maker): cls.make, **hooks}

    def start(self) -> None:
        self.begin([self.guidance.ssg(self.sizes())])

    def begin(self, ssgs: Sequence[SSG]) -> None:
        self.ssgs, self.due, self.drawn = ssgs, [], []
        self.made = self.sampled = self.foreign = 0

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
        # What the maker itself samples is not of this scale.
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
            h, w = drawn.ssg.sizes[drawn.ssg.step]
            if logits.ndim == 3 and logits.numel() == h * w * drawn.raw.numel():
                fits = True
                grid = self.merged(logits)
                if drawn.is_raw(grid[:, 0]):
                    copy.copy(drawn.ssg)(grid, out=grid)
                    break
        return fits

    def whole(self, grid: Tensor, ssg: SSG) -> Tensor:
        """All logits of the scale, where the sampler is handed a part of the batch or of the positions, a view."""
        h, w = ssg.sizes[ssg.step]
        batches = (self.rows, self.rows // 2)
        if grid.shape[1] == h * w and grid.shape[0] in batches:
            return grid
        row = grid.stride(1)
        numbers = grid.untyped_storage().nbytes() // grid.element_size()
        for batch in batches:
            if batch * h * w * row == numbers and grid.stride(2) == 1 and grid.stride(0) == h * w * row:
                return grid.as_strided(
                    (batch, h * w, grid.shape[2]), grid.stride(), grid.storage_offset() % row
                )
        raise self.target.refuse(
            f"{self.sampler} was handed logits of shape {tuple(grid.shape)}, which are neither the {h}x{w} grid that "
            f"{self.maker} made for {self.rows} rows nor a view of a part of it"
        )

    def problem(self) -> str | None:
        # A first scale that nothing followed is a generation that stopped there.
        is_one = len(self.ssgs[0].sizes) == 1 or (self.made <= 1 and self.guided and not self.foreign)
        if is_one or self.guided > len(self.ssgs):
            return None
        name, method = type(self.model).__name__, self.target.methods[0]
        return (
            f"{name}.{method} ran unguided: {self.maker} should make the logits of each scale (calls: {self.made}), "
            f"and {self.sampler} should sample them (calls: {self.sampled}). Pass method= to `attach` if this model "
            "samples through another method"
        )

    def guide_halves(self, maker: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        logits = maker(*args, **kwargs)
        self.made, self.guided = self.made + 1, self.guided + 1
        grid, (ssg, *_) = self.halves(logits), self.ssgs
        # cfg may stop half-way, and with it the unconditional half.
        ssg.generation.keep_rows(len(grid))
        ssg(grid, out=grid)
        return logits


class Denoiser(GuidedCall):
    """A sampler whose steps all have the same grid. Each branch of cfg is guided by its own previous step."""

    steps = 0

    def problem(self) -> str | None:
        if self.guided or self.steps == 1:
            return None
        name, method = type(self.model).__name__, self.target.methods[0]
        return (
            f"{name}.{method} ran unguided: the network should put out the logits of each step, and did not run. Pass "
            "method= to `attach` if this model samples through another method"
        )

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
        self.guided += 1
        # On one grid every prior is the previous logits, whatever the sides.
        first = self.before.get(branch) or self.guidance.ssg([(1, logits.shape[1])] * self.steps)
        ssg = self.after[branch] = copy.copy(first)
        return ssg(logits)
