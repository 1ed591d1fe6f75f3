"""How DTensor may shard the operators without communication: the guided operators over the batch and the vocabulary,
and sampling over the batch and the tokens.

An overload with `out` computes the functional overload and copies its result into `out`, which keeps its own layout:
DTensor itself does not lay out an `out` argument, so a rule for the overload would be wrong in any other layout.

Importing `torch.distributed.tensor` takes long, and most users do not need it. So the rules are registered when
somebody imports it.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ssg_kernels._torch import library, out, schema

_DTENSOR = "torch.distributed.tensor"


def replicated_like(x: Tensor, like: Tensor) -> Tensor:
    """`x` as a DTensor that every rank has whole, if `like` is a DTensor; `x` itself otherwise.

    DTensor takes the part of a rank from it without communication. Every rank must pass the same values.
    """
    module = sys.modules.get(_DTENSOR)
    if module is None or not isinstance(like, module.DTensor):
        return x
    mesh = like.device_mesh
    return module.DTensor.from_local(x, mesh, [module.Replicate()] * mesh.ndim, run_check=False)


def _register() -> None:
    _register_out()
    try:
        from torch.distributed.tensor.experimental import register_sharding
    except (
        ImportError
    ):  # it is experimental; without it DTensor says that the operators have no sharding strategy
        return
    for overload in schema.OVERLOADS:
        if not overload.is_out:
            register_sharding(overload.op)(_guided_rule(overload))
    register_sharding(torch.ops.ssg._prior_linear.default)(_prior_linear_rule)
    for qualname in schema.SAMPLES:
        register_sharding(schema.op_of(qualname))(_sample_rule)


def _register_out() -> None:
    from torch.distributed.tensor import DTensor

    for overload in schema.OVERLOADS:
        if overload.is_out:
            functional = out.functional_kernel(overload.functional.op)

            def rule(
                mode: Any, op: Any, types: Any, args: Any, kwargs: Any, functional: Any = functional
            ) -> Tensor:
                return functional(*args, **kwargs)

            torch.library.register_torch_dispatch(overload.qualname, DTensor, rule, lib=library.LIBRARY)


def _guided_rule(overload: schema.Overload) -> Any:
    # The two halves of the cfg operator share one batch, so a shard of it would hold samples of one half only.
    shards_batch = overload.operator == "guided_logits"
    first, last = 4, 4 + len(overload.strengths)

    def rule(*arguments: Any) -> list[tuple[list[Any], list[Any]]]:
        is_tensor = [i < 2 or (first <= i < last and hasattr(x, "ndim")) for i, x in enumerate(arguments)]
        return _acceptable(arguments, is_tensor, maps=2, shards_batch=shards_batch)

    return rule


def _prior_linear_rule(*arguments: Any) -> list[tuple[list[Any], list[Any]]]:
    return _acceptable(arguments, [i < 2 for i in range(len(arguments))], maps=1, shards_batch=True)


def _sample_rule(*arguments: Any) -> list[tuple[list[Any], list[Any]]]:
    from torch.distributed.tensor import Replicate, Shard

    def of_argument(i: int, x: Any, placement: Any) -> Any:
        if i < 2:
            return placement
        if not hasattr(x, "ndim"):
            return None
        return placement if x.ndim and placement == Shard(0) else Replicate()

    return [
        ([placement], [of_argument(i, x, placement) for i, x in enumerate(arguments)])
        for placement in (Replicate(), Shard(0), Shard(1))
    ]


def _acceptable(
    arguments: Sequence[Any], is_tensor: Sequence[bool], maps: int, shards_batch: bool
) -> list[tuple[list[Any], list[Any]]]:
    """Placements of the output and of the arguments: first `maps` tensors (B, T, V), then strengths, () or (B,)."""
    from torch.distributed.tensor import Replicate, Shard

    def placements(of_map: Any, of_strengths: Any) -> tuple[list[Any], list[Any]]:
        inputs: list[Any] = []
        for i, x in enumerate(arguments):
            if not is_tensor[i]:
                inputs.append(None)
            elif i < maps:
                inputs.append(of_map)
            else:
                inputs.append(of_strengths if x.ndim else Replicate())
        return [of_map], inputs

    acceptable = [placements(Replicate(), Replicate()), placements(Shard(2), Replicate())]
    return [*acceptable, placements(Shard(0), Shard(0))] if shards_batch else acceptable


class _Finder(importlib.abc.MetaPathFinder):
    """Registers the rules when DTensor's import ends, and then removes itself from the import system."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _DTENSOR:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                _register()

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


if _DTENSOR in sys.modules:
    _register()
elif torch.distributed.is_available():
    sys.meta_path.insert(0, _Finder())
