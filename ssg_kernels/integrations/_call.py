"""What an integration is made of: the facts of one upstream model, and the state and the hooks of one call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
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

    def ssg(self, sizes: Sequence[Any], repeats: int | Sequence[int] = 1) -> SSG:
        """The guidance of one generation; the arguments are as for `SSG`."""
        options = self.prior, self.interpolation, self.rescale
        return SSG(sizes, self.beta, self.schedule, *options, repeats=repeats)


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

    upstream: ClassVar[str] = ""
    """The repository and the commit that the integration follows, for its messages."""
    methods: ClassVar[Sequence[str]]
    """Dotted paths of the sampling methods."""
    needs: ClassVar[Sequence[str]] = ()
    """Dotted paths of what else the model must have."""
    takes: ClassVar[Sequence[str]] = ()
    """Parameters of the sampling method by which `ssg_kernels.attach` knows this kind of model."""

    guided: int
    """The scales, or outputs of a denoiser, that a hook was handed; the first one counts too."""

    def __init__(self, target: Target, guidance: Guidance, method: str, arguments: Mapping[str, Any]) -> None:
        """`method` is the sampling method that was called, and `arguments` are its own by name, defaults included."""
        self.target, self.model, self.guidance = target, target.model, guidance
        self.method, self.arguments = method, arguments
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
