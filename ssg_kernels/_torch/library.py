"""Defines the operators of namespace `ssg`, as far as the compiled library has not, and attaches kernels to them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ssg_kernels._torch import extension, schema

LIBRARY = torch.library.Library("ssg", "FRAGMENT" if extension.is_loaded() else "DEF")


def _define() -> None:
    for qualname in schema.OPERATORS:
        if not extension.is_loaded():
            LIBRARY.define(schema.schema(qualname))
        LIBRARY.define(schema.fallback_schema(qualname))


def implement(qualname: str, kernel: Callable[..., object], key: str, *, with_keyset: bool = False) -> None:
    """Attaches `kernel` to the operator under the dispatch key."""
    LIBRARY.impl(qualname.removeprefix("ssg::"), kernel, key, with_keyset=with_keyset)


_define()
