"""What must hold of every `attach`, whatever it guides: threads, calls within calls, copies, a second use.

Each check takes a function that makes a new subject. Two subjects of one function are alike to the bit.
"""

from __future__ import annotations

import copy
import io
import pickle
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import pytest
import torch
from torch import Tensor

import ssg_kernels

BETA, THREADS, CALLS = 0.75, 4, 40
ORDERS = ("after", "before")


class Subject(Protocol):
    """A model that can be guided."""

    attach: Callable[..., Any]
    model: Any
    generate: Callable[[Any, int, int], Tensor]
    """(model, batch, seed) to all that the generation decided."""

    @property
    def maker(self) -> tuple[Any, str]:
        """The object and the name of a method that every generation calls."""


Make = Callable[[], Subject]


def generated(subject: Subject, model: Any = None, batch: int = 2, seed: int = 0, **settings: Any) -> Tensor:
    """A generation, with the settings of `attach` where there are any."""
    model = subject.model if model is None else model
    with subject.attach(model, **settings) if settings else nullcontext():
        torch.manual_seed(seed)
        return subject.generate(model, batch, seed)


# Threads.


@contextmanager
def threads_that_switch_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def together(works: Sequence[Callable[[], None]]) -> None:
    """Runs each in a thread of its own, all at the same time. The first error of one is raised."""
    start, errors = threading.Barrier(len(works)), []

    def run(work: Callable[[], None]) -> None:
        start.wait()
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    with threads_that_switch_often():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


def count_right(subject: Subject, calls: int = CALLS) -> int:
    """How many of THREADS * calls generations of one model, made at the same time, equal those made one by one."""
    arguments = [(subject.model, batch, seed) for batch, seed in ((1, 0), (2, 1), (3, 2))]
    expected = [subject.generate(*call) for call in arguments]
    right = [0] * THREADS

    def work(thread: int) -> None:
        for k in range(calls):
            which = (thread + k) % len(arguments)
            try:
                right[thread] += torch.equal(subject.generate(*arguments[which]), expected[which])
            except Exception:
                # The count says so.
                continue

    together([lambda thread=thread: work(thread) for thread in range(THREADS)])
    return sum(right)


def check_threads(make: Make) -> None:
    for cfg_order in ORDERS:
        subject = make()
        torch.manual_seed(0)
        with subject.attach(subject.model, BETA, cfg_order=cfg_order):
            assert count_right(subject) == THREADS * CALLS


def check_contexts_of_several_threads(make: Make) -> None:
    """Each thread attaches to a model of its own, over and over; one thread never does."""
    guided, plain = generated(make(), beta=BETA), generated(make())

    def work(subject: Subject, **settings: Any) -> Callable[[], None]:
        def repeat() -> None:
            for _ in range(8):
                with subject.attach(subject.model, **settings) if settings else nullcontext():
                    result = subject.generate(subject.model, 2, 0)
                assert torch.equal(result, guided if settings else plain)

        return repeat

    torch.manual_seed(0)
    together([work(make(), beta=BETA), work(make(), beta=BETA), work(make())])


# Calls within calls.


@contextmanager
def inside(subject: Subject, action: Callable[[], None]) -> Iterator[None]:
    """The action runs once, in the second step of the next generation."""
    owner, name = subject.maker
    make, count = getattr(owner, name), 0

    def spy(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == 2:
            action()
        return make(*args, **kwargs)

    with pytest.MonkeyPatch.context() as swap:
        swap.setattr(owner, name, spy)
        yield


def check_nested(make: Make) -> None:
    """Within a call: a call of the same model, of another, of an attached other, in this thread and in a new one."""
    plain = generated(make())
    for cfg_order in ORDERS:
        settings = {"beta": BETA, "cfg_order": cfg_order}
        guided, other_guided = generated(make(), **settings), generated(make(), beta=-0.5)
        subject, other, attached = make(), make(), make()
        results: list[Tensor] = []

        def generate(one: Subject, results: list[Tensor] = results) -> None:
            results.append(one.generate(one.model, 2, 0))

        def generate_in_a_thread(one: Subject) -> None:
            thread = threading.Thread(target=lambda: generate(one))
            thread.start()
            thread.join()

        for run in (generate, generate_in_a_thread):
            for one, expected in ((subject, guided), (other, plain), (attached, other_guided)):
                results.clear()
                with (
                    inside(subject, lambda run=run, one=one: run(one)),
                    attached.attach(attached.model, beta=-0.5),
                    subject.attach(subject.model, **settings),
                ):
                    assert torch.equal(generated(subject), guided)
                assert torch.equal(results[0], expected)


# Copies.


def through_pickle(model: Any) -> Any:
    return pickle.loads(pickle.dumps(model))


def through_oldest_pickle(model: Any) -> Any:
    return pickle.loads(pickle.dumps(model, protocol=0))


def through_torch(model: Any) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIERS = (copy.copy, copy.deepcopy, through_pickle, through_oldest_pickle, through_torch)


def check_is_bare(copied: Any, bare: Any) -> None:
    assert type(copied) is type(bare)
    assert list(vars(copied)) == list(vars(bare))
    if isinstance(bare, torch.nn.Module):
        modules = dict(copied.named_modules())
        for name, module in bare.named_modules():
            assert type(modules[name]) is type(module)
            assert list(vars(modules[name])) == list(vars(module))


def check_copies(make: Make, copiers: Sequence[Callable[[Any], Any]] = COPIERS) -> None:
    """Copies that are made inside the context, in a call and outside of one, are as copies of the bare model."""
    settings = {"beta": BETA}
    plain, guided = generated(make()), generated(make(), **settings)
    for copier in copiers:
        subject = make()
        bare = copier(make().model)
        with subject.attach(subject.model, BETA):
            copied = copier(subject.model)
            assert torch.equal(generated(subject, copied), plain)
            assert torch.equal(generated(subject, copied, **settings), guided)
            assert torch.equal(generated(subject), guided)
        check_is_bare(copier(make().model), bare)
        for model in (copied, subject.model):
            assert type(model) is type(bare)
            assert torch.equal(generated(subject, model), plain)
            assert torch.equal(generated(subject, model, **settings), guided)
        subject = make()
        with subject.attach(subject.model, BETA):
            copied = copier(subject.model)
        check_is_bare(copied, bare)


def check_copies_within_a_call(make: Make) -> None:
    plain, guided = generated(make()), generated(make(), beta=BETA)
    for cfg_order in ORDERS:
        subject, copies = make(), []
        with (
            inside(subject, lambda model=subject.model, copies=copies: copies.append(copy.deepcopy(model))),
            subject.attach(subject.model, BETA, cfg_order=cfg_order),
        ):
            generated(subject)
        assert type(copies[0]) is type(subject.model)
        # The spy of `inside` is an entry of the model, so the copy has it too; its action is over.
        assert torch.equal(generated(subject, copies[0]), plain)
        assert torch.equal(generated(subject, copies[0], beta=BETA), guided)


# A second use.


def check_used_again(make: Make) -> None:
    subject = make()
    plain, guided = generated(make()), generated(make(), beta=BETA)
    context = subject.attach(subject.model, BETA)
    for _ in range(2):
        with context as model:
            assert model is subject.model
            assert torch.equal(generated(subject), guided)
            with pytest.raises(ValueError, match="is attached already"):
                context.__enter__()
            assert torch.equal(generated(subject), guided)
        assert torch.equal(generated(subject), plain)
    with pytest.raises(ZeroDivisionError), context:
        raise ZeroDivisionError
    assert torch.equal(generated(subject), plain)


def check_is_found(subject: Subject) -> None:
    """`ssg_kernels.attach` takes the integration that this model is of."""
    found = ssg_kernels.attach(subject.model, BETA)
    assert found.integration == subject.attach(subject.model, BETA).integration


CHECKS: tuple[Callable[[Any], None], ...] = (
    check_threads,
    check_contexts_of_several_threads,
    check_nested,
    check_copies,
    check_copies_within_a_call,
    check_used_again,
)
