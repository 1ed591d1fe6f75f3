"""`attach`: the one signature and the one context of all integrations."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Any, SupportsFloat

from torch import Tensor

from ssg_kernels.integrations._call import Guidance, GuidedCall, arguments_of
from ssg_kernels.integrations._hooks import Around, Place, entered, hooked_method, running
from ssg_kernels.integrations._target import Install, Target


class Integration:
    """The `attach` of one integration.

    Args:
        calls: subclasses of `GuidedCall`, one for each kind of model that the integration takes. The first that serves
            the model is used. Their docstrings say what is guided, and their module gives the integration its name.
    """

    def __init__(self, *calls: type[GuidedCall]) -> None:
        self._calls = calls
        self.__name__, self.__module__ = "attach", calls[0].__module__
        docs = (inspect.getdoc(documented) for documented in (*calls, type(self).__call__))
        self.__doc__ = "\n\n".join(filter(None, dict.fromkeys(docs)))

    def __repr__(self) -> str:
        return f"{self.__module__}.attach"

    def __call__(
        self,
        model: Any,
        beta: SupportsFloat | Tensor,
        schedule: str | Sequence[SupportsFloat] = "linear",
        prior: str = "dse",
        interpolation: str = "bilinear",
        rescale: bool = False,
        cfg_order: str = "after",
    ) -> AbstractContextManager[Any]:
        """Guide a model: inside the context its sampling method runs guided, outside it is bit-identical to before.

        Args:
            model: the object that has the sampling method, or what `torch.compile` made of it.
            beta, schedule, prior, interpolation, rescale: as for `ssg_kernels.SSG`.
            cfg_order: "after" guides the logits that cfg has merged; "before" guides both halves.

        Returns:
            A context manager that enters with the model. It can be entered again after it was left. Inside it, calls
            may run at the same time in several threads. A copy or a pickle of the model is not guided.

        Raises:
            ValueError: an argument is none of the above; the model is attached already; or the model is not what this
                integration was written for: the message names what is missing, and the upstream commit.
        """
        kind = next(call for call in self._calls if call.serves(model))
        target = Target(model, self.__module__, kind.upstream, kind.methods)
        return _Context(target, kind, Guidance(beta, schedule, prior, interpolation, rescale, cfg_order))


class _Context(AbstractContextManager[Any]):
    """Inside it, each call of a sampling method of the target is a guided call. It enters with the model."""

    def __init__(self, target: Target, kind: type[GuidedCall], guidance: Guidance) -> None:
        self._target, self._kind, self._guidance = target, kind, guidance
        self._hooks: Mapping[Install, Callable[..., Any]] = {}
        self._stack: ExitStack | None = None
        for order in ("after", "before"):
            self._find(order)
        for path in kind.methods:
            target.need_method(path)
        for path in kind.needs:
            target.need(path)

    def _find(self, cfg_order: str) -> Mapping[Install, Callable[..., Any]]:
        return {place.find(self._target): hook for place, hook in self._kind.hooks(cfg_order).items()}

    def __enter__(self) -> Any:
        target = self._target
        methods = [target.need_method(path) for path in self._kind.methods]
        hooks = self._find(self._guidance.cfg_order)
        with ExitStack() as stack:
            for method in methods:
                place = stack.enter_context(hooked_method(*method))
                stack.enter_context(entered(place, self._call, target.attached_already()))
            for install in hooks:
                stack.enter_context(install())
            self._hooks, self._stack = hooks, stack.pop_all()
        return target.model

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stack is not None:
            stack, self._stack = self._stack, None
            stack.close()

    def _call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._stack is None:
            # Someone kept the method for later.
            return method(*args, **kwargs)
        call = self._kind(self._target, self._guidance, arguments_of(method, args, kwargs))
        with ExitStack() as stack:
            # Installed by the context already, and kept until this call is over, even where the context is left first.
            hooks: dict[Place, Around] = {
                stack.enter_context(install()): functools.partial(hook, call)
                for install, hook in self._hooks.items()
            }
            with running(hooks):
                return method(*args, **kwargs)
