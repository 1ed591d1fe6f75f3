"""What every integration is made of: the sampling method of one object, wrapped, and hooks that last one call."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from torch import Tensor

from ssg_kernels.guidance import SSG

# Stands for a function: called with what it stands for, then with the arguments.
Around = Callable[..., Any]
# Hooks for one call of the sampling method, from the arguments of that call: each is undone when it ends.
Hooks = Callable[[Mapping[str, Any]], Sequence[AbstractContextManager[Any]]]

ORDERS = ("after", "before")


class Target:
    """The object to attach to, and the upstream commit whose facts it has to fulfil."""

    def __init__(self, model: Any, module: str, upstream: str) -> None:
        # torch.compile of a module compiles `forward` alone: the sampling method is that of the module inside.
        self.model = getattr(model, "_orig_mod", model)
        self._name = f"ssg_kernels.integrations.{module.rpartition('.')[2]}"
        self._upstream = upstream

    def refuse(self, problem: str) -> ValueError:
        return ValueError(f"{self._name}: {problem}; this integration follows {self._upstream}")

    def need(self, path: str) -> Any:
        """The attribute at a dotted path, "" being the model; raises ValueError where there is none."""
        owner = self.model
        for name in filter(None, path.split(".")):
            if not hasattr(owner, name):
                raise self.refuse(f"{type(self.model).__name__} has no {path}")
            owner = getattr(owner, name)
        return owner

    def need_method(self, path: str) -> Callable[..., Any]:
        """The method at a dotted path; raises ValueError where there is none, or where it is guided already."""
        method = self.need(path)
        if isinstance(method, _Replacement):
            raise self.refuse(f"this {type(self.model).__name__} is attached already")
        return method

    def need_global(self, method: str, name: str) -> dict[str, Any]:
        """The globals of a method, which must hold a function `name`; raises ValueError where they do not."""
        namespace: dict[str, Any] = getattr(inspect.unwrap(self.need_method(method)), "__globals__", {})
        if not callable(namespace.get(name)):
            where = f"{type(self.model).__name__}.{method} of {namespace.get('__name__')}"
            raise self.refuse(f"{where} calls no {name}")
        return namespace


class Settings:
    """The arguments that all `attach` share, checked."""

    def __init__(
        self, beta: Any, schedule: Any, prior: str, interpolation: str, rescale: bool, cfg_order: str
    ) -> None:
        self._beta, self._schedule = beta, schedule
        self._options = (prior, interpolation, rescale)
        if cfg_order not in ORDERS:
            raise ValueError(f"attach: cfg_order must be one of 'after', 'before', got {cfg_order!r}")
        self.before = cfg_order == "before"
        # How many scales there are is known at the call; all else is checked here.
        count = len(schedule) if hasattr(schedule, "__len__") and not isinstance(schedule, str) else 1
        SSG([1] * max(count, 1), beta, schedule, *self._options)

    def ssg(self, sizes: Sequence[Any]) -> SSG:
        """The guidance of one generation."""
        return SSG(sizes, self._beta, self._schedule, *self._options)


def attached(target: Target, methods: Sequence[str], hooks: Hooks) -> AbstractContextManager[Any]:
    """Inside it every call of one of the methods runs under hooks of its own. Enters with the model."""
    for path in methods:
        target.need_method(path)

    def around(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        call = inspect.signature(method).bind(*args, **kwargs)
        call.apply_defaults()
        with ExitStack() as stack:
            for hook in hooks(call.arguments):
                stack.enter_context(hook)
            return method(*args, **kwargs)

    @contextmanager
    def context() -> Iterator[Any]:
        with ExitStack() as stack:
            for path in methods:
                target.need_method(path)
                owner, _, name = path.rpartition(".")
                stack.enter_context(replaced(target.need(owner), name, around))
            yield target.model

    return context()


@contextmanager
def replaced(owner: Any, name: str, around: Around) -> Iterator[None]:
    """Inside, `owner.name(...)` is `around(owner's own, ...)`, on this object alone."""
    replacement = _Replacement(around, getattr(owner, name))
    if name.startswith("__"):
        # Python looks these up on the type: give this object a type of its own.
        kind = type(owner)
        members = {name: staticmethod(replacement), "__module__": kind.__module__, "__doc__": kind.__doc__}
        object.__setattr__(owner, "__class__", type(kind.__name__, (kind,), members))
        try:
            yield
        finally:
            object.__setattr__(owner, "__class__", kind)
        return
    members = vars(owner)
    own = {name: members[name]} if name in members else {}
    members[name] = replacement
    try:
        yield
    finally:
        del members[name]
        members.update(own)


class _Replacement(functools.partial[Any]):
    """A partial, told from those of others."""


@contextmanager
def replaced_global(namespace: dict[str, Any], name: str, around: Around) -> Iterator[None]:
    """Inside, and in this thread alone, the global function `name` is `around(the function, ...)`."""
    with _lock:
        current = namespace[name]
        shared = current if isinstance(current, _PerThread) else _PerThread(current)
        namespace[name] = shared
        shared.users += 1
    outer = getattr(shared.thread, "around", None)
    shared.thread.around = around
    try:
        yield
    finally:
        shared.thread.around = outer
        with _lock:
            shared.users -= 1
            if not shared.users and namespace[name] is shared:
                namespace[name] = shared.function


class _PerThread:
    """A function of a module that each thread may have replaced for itself."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.users = 0
        self.thread = threading.local()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        around = getattr(self.thread, "around", None)
        if around is None:
            return self.function(*args, **kwargs)
        return around(self.function, *args, **kwargs)


_lock = threading.Lock()


def guided_argument(ssgs: Iterator[SSG]) -> Around:
    """Of a sampler: its logits, guided in place, since what called it may read them again."""

    def around(sampler: Callable[..., Any], logits: Tensor, *args: Any, **kwargs: Any) -> Any:
        next(ssgs)(logits, out=logits)
        return sampler(logits, *args, **kwargs)

    return around


def guided_result(ssg: SSG) -> Around:
    """Of a method that makes logits: both halves, guided, before cfg merges them."""

    def around(get_logits: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        logits = get_logits(*args, **kwargs)
        ssg.generation.keep_rows(logits.shape[0])
        return ssg(logits, out=logits)

    return around
