"""Samplers of other projects, run guided: `with ssg_kernels.integrations.var.attach(model, beta=0.5): ...`.

Each module names the upstream commit that it follows, and imports nothing of it. Inside the context the sampling method
of the given object runs guided. Outside it the object is as it was before. `ssg_kernels.attach` finds the module
of a model.

The classes here are what an integration is made of. With them you write one for a model of your own.
"""

from ssg_kernels.integrations import (
    aar,
    code,
    grn,
    hart,
    hmar,
    infinity,
    infinitystar,
    lsrs,
    mvar,
    sar3d,
    skipvar,
    switti,
    tokenflow,
    var,
    vargpt,
    vq_diffusion,
)
from ssg_kernels.integrations._call import Guidance, GuidedCall, Hooks, arguments_of
from ssg_kernels.integrations._denoiser import Denoiser
from ssg_kernels.integrations._integration import Attach, Integration
from ssg_kernels.integrations._next_scale import NextScale
from ssg_kernels.integrations._target import Function, Method, Target
from ssg_kernels.integrations._told import GuidanceWarning

__all__ = [
    "Attach",
    "Denoiser",
    "Function",
    "Guidance",
    "GuidanceWarning",
    "GuidedCall",
    "Hooks",
    "Integration",
    "Method",
    "NextScale",
    "Target",
    "aar",
    "arguments_of",
    "code",
    "grn",
    "hart",
    "hmar",
    "infinity",
    "infinitystar",
    "lsrs",
    "mvar",
    "sar3d",
    "skipvar",
    "switti",
    "tokenflow",
    "var",
    "vargpt",
    "vq_diffusion",
]
