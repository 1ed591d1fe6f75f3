"""Scaled spatial guidance for next-scale image generators, as fused kernels."""

from typing import TYPE_CHECKING, Any

from ssg_kernels import reference
from ssg_kernels._torch import autograd, extension, fake, fallback, out, packet, sharding, vmap
from ssg_kernels._version import __version__
from ssg_kernels.guidance import SSG
from ssg_kernels.ops import guided_logits, guided_logits_cfg, sample
from ssg_kernels.sampler import GuidedSampler

if TYPE_CHECKING:
    from ssg_kernels.integrations._attach import attach

__all__ = [
    "SSG",
    "GuidedSampler",
    "__version__",
    "attach",
    "guided_logits",
    "guided_logits_cfg",
    "reference",
    "sample",
]


def __getattr__(name: str) -> Any:
    # The integrations are loaded at the first use.
    if name == "attach":
        from ssg_kernels.integrations._attach import attach

        return attach
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
