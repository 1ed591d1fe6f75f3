"""Hooks on the methods of one object and on the functions of a module. A hook runs only inside a guided call.

Hooks stay installed for a whole context, and hold no state. A guided call announces its own hooks in a context variable
(`running`), and a hooked name looks there. So other threads, other models and calls outside a sampling method get the
original.
"""

from __future__ import annotations

import copyreg
import functools
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any

# A wrapper: it is called with the original function first, then with the arguments.
Around = Callable[..., Any]

# Is told which object's method called, and the name of that method.
Watcher = Callable[[Any, str], None]

_lock = threading.Lock()


class Place:
    """A hooked name. Readers get the original, wrapped by the current call's hook if that call has one."""

    def __init__(self) -> None:
        self.users = 0
        self.watchers: list[Watcher] = []
        """Told of each call that no hook runs in."""
        self.entry: Around | None = None
        """Wraps the original in every call. A sampling method has one: it begins a guided call."""

    def over(self, original: Callable[..., Any]) -> Callable[..., Any]:
        around = self.entry or _current.get().get(self)
        return original if around is None else functools.partial(around, original)


_NO_HOOKS: Mapping[Place, Around] = types.MappingProxyType({})
_current = ContextVar("ssg_kernels.integrations", default=_NO_HOOKS)


@contextmanager
def running(hooks: Mapping[Place, Around]) -> Iterator[None]:
    """Inside, and in this thread alone, the current call has these hooks."""
    token = _current.set(hooks)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def entered(place: Place, around: Around, refusal: Exception) -> Iterator[None]:
    """Inside, `around` wraps every call. Raises the refusal where the place has an entry already."""
    with _lock:
        if place.entry is not None:
            raise refusal
        place.entry = around
    try:
        yield
    finally:
        place.entry = None


@contextmanager
def watched(place: Place, watcher: Watcher) -> Iterator[None]:
    """Inside, the watcher is told of the calls that reach the original as they are, outside of every guided call."""
    with _lock:
        place.watchers = [*place.watchers, watcher]
    try:
        yield
    finally:
        with _lock:
            place.watchers = [one for one in place.watchers if one is not watcher]


def calling_method(depth: int) -> tuple[Any, str] | None:
    """The object whose method called, maybe through functions, and the outermost of its public methods."""
    frame: FrameType | None = sys._getframe(depth)
    caller, names = None, []
    while frame is not None:
        code = frame.f_code
        if code.co_argcount and code.co_varnames[0] == "self" and "self" in frame.f_locals:
            this = frame.f_locals["self"]
            if caller is None:
                caller = this
            if this is caller:
                names.append(code.co_name)
        frame = frame.f_back
    if caller is None:
        return None
    return caller, ([name for name in names if not name.startswith("_")] or names)[-1]


def is_entered(owner: Any, name: str) -> bool:
    """Whether a method of this object has an entry."""
    place = vars(type(owner)).get(name)
    return isinstance(place, _Method) and place.owner is owner and place.entry is not None


@contextmanager
def hooked_method(owner: Any, name: str) -> Iterator[Place]:
    """Inside, `owner.name` is a place, on this object alone."""
    with _lock:
        if not _hooks_of(owner):
            object.__setattr__(owner, "__class__", _hooked_class(type(owner)))
        hooked = type(owner)
        place = vars(hooked).get(name)
        if not isinstance(place, _Method):
            place = _Method(owner, name, hooked)
            setattr(hooked, name, place)
        place.users += 1
    try:
        yield place
    finally:
        with _lock:
            place.users -= 1
            if not place.users:
                delattr(hooked, name)
            # Something else may have given the object another class meanwhile.
            if type(owner) is hooked and not _hooks_of(owner):
                object.__setattr__(owner, "__class__", hooked.__base__)


class _Method(Place):
    """A descriptor in the class that an object has while it is hooked.

    Python asks it before the entries of the object, so these need not change. A copy or a pickle therefore holds
    nothing of ours, as long as it names the object's own class. Compiled code checks the class, so it sees the hook.
    """

    def __init__(self, owner: Any, name: str, hooked: type) -> None:
        super().__init__()
        self.owner, self.name, self.hooked = owner, name, hooked

    def __get__(self, instance: Any, _: type | None = None) -> Any:
        if instance is None:
            return getattr(self.hooked.__base__, self.name)
        try:
            original = vars(instance)[self.name]
        except (TypeError, KeyError):  # The object has no __dict__, or no entry of its own.
            original = getattr(super(self.hooked, instance), self.name)
        # Other instances of this class were made by `type(model)(...)`.
        return self.over(original) if instance is self.owner else original

    def __set__(self, instance: Any, value: Any) -> None:
        vars(instance)[self.name] = value

    def __delete__(self, instance: Any) -> None:
        try:
            del vars(instance)[self.name]
        except KeyError:
            raise AttributeError(self.name) from None


def _hooks_of(owner: Any) -> list[_Method]:
    return [m for m in vars(type(owner)).values() if isinstance(m, _Method) and m.owner is owner]


def _hooked_class(own: Any) -> type:
    """A class like `own`, whose instances are copied and pickled as instances of `own`."""

    def bare(value: Any) -> Any:
        return own if value is hooked else value

    def reduce_ex(self: Any, protocol: Any) -> Any:
        reduced = own.__reduce_ex__(self, protocol)
        if isinstance(reduced, str):
            return reduced
        function, arguments, *rest = reduced
        function, arguments = bare(function), tuple(map(bare, arguments))
        if function in (copyreg.__newobj__, copyreg.__newobj_ex__):  # type: ignore[attr-defined]
            # Picklers refuse these two for any class but `type(self)`; a partial of them they take.
            function, arguments = functools.partial(function, arguments[0]), arguments[1:]
        return (function, arguments, *rest)

    def copied(name: str) -> Callable[..., Any]:
        @functools.wraps(getattr(own, name))
        def copied_by_own(self: Any, *args: Any) -> Any:
            copy = getattr(own, name)(self, *args)
            if copy is not self and type(copy) is hooked:
                object.__setattr__(copy, "__class__", own)
            return copy

        return copied_by_own

    members = {name: getattr(own, name) for name in ("__module__", "__qualname__", "__doc__")}
    # Empty slots keep the layout of `own`, with a __dict__ or without; objects change between alike classes only.
    members |= {"__slots__": (), "__reduce_ex__": reduce_ex}
    members |= {name: copied(name) for name in ("__copy__", "__deepcopy__") if hasattr(own, name)}
    hooked = types.new_class(own.__name__, (own,), exec_body=lambda namespace: namespace.update(members))
    return hooked


@contextmanager
def hooked_function(namespace: dict[str, Any], name: str) -> Iterator[Place]:
    """Inside, the global function `name` of a module is a place."""
    with _lock:
        current = namespace[name]
        place = current if isinstance(current, _Function) else _Function(current)
        namespace[name] = place
        place.users += 1
    try:
        yield place
    finally:
        with _lock:
            place.users -= 1
            if not place.users and namespace.get(name) is place:
                namespace[name] = place.original


class _Function(Place):
    """Takes the place of a global function."""

    def __init__(self, original: Callable[..., Any]) -> None:
        super().__init__()
        self.original = original
        functools.update_wrapper(self, original)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.watchers and self not in _current.get() and (caller := calling_method(2)):
            for watcher in self.watchers:
                watcher(*caller)
        return self.over(self.original)(*args, **kwargs)
