"""Scaled spatial guidance for next-scale image generators, as fused kernels."""

from ssg_kernels import reference
from ssg_kernels._torch import autograd, extension, fake, fallback, out, packet, sharding, vmap
from ssg_kernels._version import __version__
from ssg_kernels.guidance import SSG
from ssg_kernels.ops import guided_logits, guided_logits_cfg, sample
from ssg_kernels.sampler import GuidedSampler

__all__ = [
    "SSG",
    "GuidedSampler",
    "__version__",
    "guided_logits",
    "guided_logits_cfg",
    "reference",
    "sample",
]
