"""`attach`: the one signature and the one context of all integrations."""

from __future__ import annotations

import functools
import inspect
import operator
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Any, SupportsFloat

from torch import Tensor

from ssg_kernels.integrations._call import Guidance, GuidedCall, arguments_of
from ssg_kernels.integrations._hooks import Around, Place, entered, hooked_method, running, watched
from ssg_kernels.integrations._target import Function, Install, Target
from ssg_kernels.integrations._told import GuidanceWarning, Seen


class Attach:
    """The one signature of `attach`. A subclass says which integration takes the model."""

    def __call__(
        self,
        model: Any,
        beta: SupportsFloat | Tensor,
        schedule: str | Sequence[SupportsFloat] = "linear",
        prior: str = "dse",
        interpolation: str = "bilinear",
        rescale: bool = False,
        cfg_order: str = "after",
        *,
        method: str | None = None,
    ) -> AbstractContextManager[Any]:
        """Guide a model: inside the context its sampling method runs guided, outside it is bit-identical to before.

        Args:
            model: the object that has the sampling method, or what `torch.compile` made of it.
            beta, schedule, prior, interpolation, rescale: as for `ssg_kernels.SSG`.
            cfg_order: "after" guides the logits that cfg has merged; "before" guides both halves.
            method: the name of the sampling method, where a derived model has its own.

        Returns:
            A context manager that enters with the model. It can be entered again after it was left. Inside it, calls
            may run at the same time in several threads. A copy or a pickle of the model is not guided. Its
            `integration` is the name of the integration that guides the model, and its `methods` are the names of the
            sampling methods.

        Raises:
            ValueError: an argument is none of the above; the model is attached already; or the model is not what this
                integration was written for: the message names what is missing, and the upstream commit.

        Warns:
            GuidanceWarning: where the context ends and nothing was sampled in it, or something was sampled unguided.
        """
        guidance = Guidance(beta, schedule, prior, interpolation, rescale, cfg_order)
        return self.taken_by(model, method).context(model, guidance, method)

    def taken_by(self, model: Any, method: str | None) -> Integration:
        """The integration that guides this model."""
        raise NotImplementedError


class Integration(Attach):
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

    def taken_by(self, model: Any, method: str | None) -> Integration:
        return self

    def kind_of(self, model: Any) -> type[GuidedCall]:
        """The class that guides this model, if this integration takes it."""
        return next(call for call in self._calls if call.serves(model))

    def context(self, model: Any, guidance: Guidance, method: str | None) -> Context:
        """The context that guides this model. Raises ValueError where the model lacks something."""
        kind = self.kind_of(model)
        methods = kind.methods if method is None else (method,)
        return Context(Target(model, self.__module__, kind.upstream, methods), kind, guidance)

    def facts(self, model: Any) -> int:
        """How many facts the model agrees with. It may lack the kind's methods where the user names another."""
        kind = self.kind_of(model)
        methods = sum(1 if _has(model, path) else -1 for path in kind.methods)
        return methods + len(kind.needs) + len(kind.takes) + len(kind.hooks("after"))

    def recognise(self, model: Any, method: str | None) -> Context:
        """A context, not to be entered. Raises ValueError where the model is not of this integration's kind."""
        context = self.context(model, Guidance(0.0, "linear", "dse", "bilinear", False, "after"), method)
        context.entered = True
        context.recognise()
        return context


def _has(model: Any, path: str) -> bool:
    try:
        operator.attrgetter(path)(model)
    except AttributeError:
        return False
    return True


class Context(AbstractContextManager[Any]):
    """Inside it, each call of a sampling method of the target is a guided call. It enters with the model."""

    def __init__(self, target: Target, kind: type[GuidedCall], guidance: Guidance) -> None:
        self._target, self._kind, self._guidance = target, kind, guidance
        self._hooks: Mapping[Install, Callable[..., Any]] = {}
        self._stack: ExitStack | None = None
        self._seen = Seen(target.model, target.methods)
        self.integration = target.integration
        for order in ("after", "before"):
            self._find(order)
        for path in target.methods:
            target.need_method(path)
        for path in kind.needs:
            target.need(path)
        self.entered = False
        """Whether it was entered. One that never was has guided nothing, and says so."""

    def __repr__(self) -> str:
        name = type(self._target.model).__name__
        return f"{self.integration}.attach({', '.join(f'{name}.{path}' for path in self._target.methods)})"

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of the sampling methods that run guided inside."""
        return tuple(self._target.methods)

    def recognise(self) -> None:
        """Raises ValueError where the sampling method lacks a parameter that this kind of model has."""
        target = self._target
        for path in target.methods:
            parameters = inspect.signature(target.need(path)).parameters if self._kind.takes else ()
            for name in self._kind.takes:
                if name not in parameters:
                    raise target.refuse(f"{type(target.model).__name__}.{path} takes no {name}")

    def _find(self, cfg_order: str) -> Mapping[Install, Callable[..., Any]]:
        hooks = self._kind.hooks(cfg_order)
        return {install: hook for place, hook in hooks.items() for install in place.find(self._target)}

    def __enter__(self) -> Any:
        self.entered = True
        target = self._target
        methods = [target.need_method(path) for path in target.methods]
        hooks = self._find(self._guidance.cfg_order)
        places = self._kind.hooks(self._guidance.cfg_order)
        functions = [install for p in places if isinstance(p, Function) for install in p.find(target)]
        seen = Seen(target.model, target.methods)
        with ExitStack() as stack:
            for path, method in zip(target.methods, methods, strict=True):
                place = stack.enter_context(hooked_method(*method))
                guided = functools.partial(self._call, path)
                stack.enter_context(entered(place, guided, target.attached_already()))
            for install in hooks:
                stack.enter_context(install())
            for install in functions:
                stack.enter_context(watched(stack.enter_context(install()), seen.watch))
            self._hooks, self._seen, self._stack = hooks, seen, stack.pop_all()
        return target.model

    def __del__(self) -> None:
        if not getattr(self, "entered", True) and not sys.is_finalizing():
            warnings.warn(
                f"{self!r} was never entered, so it guided nothing: call the sampling method inside "
                "`with attach(...):`",
                GuidanceWarning,
                stacklevel=2,
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stack is not None:
            stack, self._stack = self._stack, None
            stack.close()
            # A block that ended in an exception keeps it.
            if error is None and kind is None and (sentence := self._seen.sentence()):
                warnings.warn(f"{self.integration}: {sentence}", GuidanceWarning, stacklevel=2)

    def _call(self, path: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._stack is None:
            # Someone kept the method for later.
            return method(*args, **kwargs)
        seen = self._seen
        seen.calls.append(path)
        call = self._kind(self._target, self._guidance, path, arguments_of(method, args, kwargs))
        with ExitStack() as stack:
            # Installed by the context already, and kept until this call is over, even where the context is left first.
            hooks: dict[Place, Around] = {
                stack.enter_context(install()): functools.partial(hook, call)
                for install, hook in self._hooks.items()
            }
            with running(hooks):
                result = method(*args, **kwargs)
        if problem := call.problem():
            seen.problems.append(problem)
        return result
