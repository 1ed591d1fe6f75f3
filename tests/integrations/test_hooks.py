"""Hooks on unusual objects: classes that copy themselves, adapters, compiled modules, and what others replace."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from support import standins
from support.attach_checks import (
    BETA,
    check_copies,
    check_is_bare,
    check_nested,
    check_used_again,
    generated,
    together,
)
from torch import Tensor, nn

from ssg_kernels.integrations import var, vq_diffusion


@dataclass
class Vars:
    """A subject whose model samples as VAR does."""

    model: Any
    attach: Callable[..., Any] = var.attach

    @property
    def maker(self) -> tuple[Any, str]:
        return self.model, "get_logits"

    def generate(self, model: Any, batch: int, seed: int) -> Tensor:
        return model.autoregressive_infer_cfg(batch, None, g_seed=seed, top_k=5)


class CopiesItself(standins.Var):
    """By `type(self)`, as many classes do."""

    def __copy__(self) -> Any:
        new = type(self).__new__(type(self))
        new.__dict__.update(self.__dict__)
        return new

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        memo[id(self)] = new = type(self).__new__(type(self))
        new.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return new


class ReducesItself(standins.Var):
    def __reduce__(self) -> Any:
        return type(self), (self.patch_nums,), self.__getstate__()

    def __getstate__(self) -> Any:
        return dict(self.__dict__)

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state)


class Slots:
    """It has no `__dict__`."""

    __slots__ = ("inner",)

    def __init__(self) -> None:
        self.inner = standins.Var()

    def get_logits(self, h: Tensor, cond: Tensor) -> Tensor:
        return self.inner.get_logits(h, cond)

    def __getattr__(self, name: str) -> Any:
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    autoregressive_infer_cfg = standins.Var.autoregressive_infer_cfg


class Registered(standins.Var):
    """Its class is told of its subclasses, and wants them to have a name."""

    names: tuple[str, ...] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        Registered.names += (cls.__qualname__,)


KINDS = (CopiesItself, ReducesItself, Registered)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("check", [check_copies, check_nested, check_used_again], ids=lambda c: c.__name__)
def test_classes_that_copy_in_their_own_way(kind: type, check: Callable[..., None]) -> None:
    check(lambda: Vars(kind()))


def test_an_object_without_a_dict() -> None:
    subject = Vars(Slots())
    plain, guided = generated(subject), generated(subject, beta=BETA)
    assert not torch.equal(plain, guided)
    for copier in (copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))):
        with var.attach(subject.model, BETA):
            copied = copier(subject.model)
            assert torch.equal(generated(subject, copied), plain)
        assert type(copied) is type(subject.model) is Slots
        assert torch.equal(generated(subject, copied, beta=BETA), guided)


def test_the_class_of_an_attached_model() -> None:
    model = standins.Var()
    with var.attach(model, BETA):
        assert isinstance(model, standins.Var)
        assert type(model).__qualname__ == "Var"
        assert type(model).autoregressive_infer_cfg is standins.Var.autoregressive_infer_cfg
        assert b"ssg_kernels" not in pickle.dumps(model)
        made = type(model)()
        assert torch.equal(generated(Vars(made)), generated(Vars(standins.Var())))
    assert type(model) is standins.Var
    assert torch.equal(generated(Vars(made), beta=BETA), generated(Vars(model), beta=BETA))


class Adapter(nn.Module):
    """Passes attributes on to the model inside, as PEFT's adapters do."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "inner":
                raise
            return getattr(self.inner, name)


def test_a_compiled_model_whose_method_is_compiled() -> None:
    subject = Vars(standins.Var())
    expected = generated(subject, beta=BETA)
    torch.compiler.reset()
    method = subject.model.autoregressive_infer_cfg
    subject.model.autoregressive_infer_cfg = torch.compile(method, backend="eager")
    compiled = torch.compile(subject.model, backend="eager")
    with torch._dynamo.config.patch(recompile_limit=64):
        assert torch.allclose(generated(subject, compiled, beta=BETA), expected, atol=1e-6)
    torch.compiler.reset()


@pytest.mark.parametrize("cfg_order", ["after", "before"])
@pytest.mark.parametrize("wrap", [Adapter, lambda model: torch.compile(model, backend="eager")])
def test_a_wrapper_is_the_model_inside(wrap: Any, cfg_order: str) -> None:
    settings = {"beta": BETA, "cfg_order": cfg_order}
    subject = Vars(standins.Var())
    guided = generated(subject, **settings)
    plain = generated(subject)
    wrapped = wrap(subject.model)
    with var.attach(wrapped, **settings) as entered:
        assert entered is subject.model
        copies = [copy.deepcopy(wrapped), copy.copy(wrapped)]
        assert torch.equal(generated(subject, wrapped), guided)
        assert torch.equal(generated(subject, copies[0]), plain)
    for model in (*copies, wrapped):
        assert torch.equal(generated(subject, model), plain)
        assert torch.equal(generated(subject, model, **settings), guided)
    check_is_bare(copies[0], copy.deepcopy(wrap(standins.Var())))


@pytest.mark.parametrize("compiled", ["transformer", "network", "both"])
@pytest.mark.parametrize("compiled_first", [False, True])
def test_a_compiled_part(compiled: str, compiled_first: bool) -> None:
    """The hook is on `forward` of a module within; replacing it takes effect after a first compiled call too."""

    def generate() -> Tensor:
        torch.manual_seed(0)
        return model.generate_content(torch.arange(2) * 1.0, 2)

    model = standins.Dalle()
    plain = generate()
    with vq_diffusion.attach(model, BETA):
        guided = generate()
    torch.compiler.reset()
    if compiled != "transformer":
        model.transformer.transformer = torch.compile(model.transformer.transformer, backend="eager")
    if compiled != "network":
        model.transformer.predict_start = torch.compile(model.transformer.predict_start, backend="eager")
    if compiled_first:
        assert torch.equal(generate(), plain)
    for _ in range(2):
        with vq_diffusion.attach(model, BETA):
            for _ in range(2):
                assert torch.allclose(generate(), guided)
        assert torch.equal(generate(), plain)
    torch.compiler.reset()


def test_a_method_kept_for_later_is_not_guided() -> None:
    subject = Vars(standins.Var())
    plain = generated(subject)
    with var.attach(subject.model, BETA):
        kept = subject.model.autoregressive_infer_cfg
    assert torch.equal(kept(2, None, g_seed=0, top_k=5), plain)


@pytest.mark.parametrize("cfg_order", ["after", "before"])
def test_a_call_that_outlives_the_context_is_guided_to_its_end(cfg_order: str) -> None:
    subject = Vars(standins.Var())
    settings = {"beta": BETA, "cfg_order": cfg_order}
    guided, results = generated(subject, **settings), []
    has_begun, is_left = threading.Event(), threading.Event()
    network = subject.model.network

    def wait(*args: Any) -> Tensor:
        has_begun.set()
        is_left.wait()
        return network(*args)

    subject.model.network = wait
    thread = threading.Thread(target=lambda: results.append(generated(subject)))
    with var.attach(subject.model, **settings):
        thread.start()
        has_begun.wait()
    is_left.set()
    thread.join()
    assert torch.equal(results[0], guided)
    assert type(subject.model) is standins.Var


def test_one_of_several_threads_attaches() -> None:
    model, inside, refused = standins.Var(), [], []

    def work() -> None:
        for _ in range(50):
            try:
                with var.attach(model, BETA):
                    inside.append(threading.get_ident())
                    assert len(inside) == 1
                    inside.clear()
            except ValueError as error:
                refused.append(str(error))

    together([work] * 4)
    assert all("is attached already" in text for text in refused)
    assert type(model) is standins.Var


def test_what_others_replace_inside_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays, and is guided."""
    subject = Vars(standins.Var())
    calls: list[str] = []
    get_logits, sample = subject.model.get_logits, standins.sample_with_top_k_top_p_

    def louder(*args: Any) -> Tensor:
        calls.append("get_logits")
        return 2 * get_logits(*args)

    expected = []
    for model in (standins.Var(), standins.Var()):
        model.get_logits = louder
        expected.append(generated(subject, model, beta=BETA, cfg_order="before"))
    calls.clear()
    for cfg_order in ("after", "before"):
        with var.attach(subject.model, BETA, cfg_order=cfg_order):
            subject.model.get_logits = louder
            guided = generated(subject)
            assert calls == ["get_logits"] * 4
            calls.clear()
        assert vars(subject.model)["get_logits"] is louder
        del subject.model.get_logits
    assert torch.equal(guided, expected[0])

    # A replacement that is undone only after the context puts the hook back, which does nothing then.
    guided, plain = generated(Vars(standins.Var()), beta=BETA), generated(Vars(standins.Var()))
    with monkeypatch.context() as swap, var.attach(subject.model, BETA):
        hooked = standins.sample_with_top_k_top_p_
        swap.setattr(standins, "sample_with_top_k_top_p_", lambda *args, **kwargs: hooked(*args, **kwargs))
        assert torch.equal(generated(subject), guided)
    assert standins.sample_with_top_k_top_p_ is hooked
    assert torch.equal(generated(subject), plain)
    # The next context uses it again, and takes it out.
    assert torch.equal(generated(subject, beta=BETA), guided)
    assert standins.sample_with_top_k_top_p_ is sample
