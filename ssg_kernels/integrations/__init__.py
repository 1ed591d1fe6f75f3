"""Samplers of other projects, run guided: `with ssg_kernels.integrations.var.attach(model, beta=0.5): ...`.

Each module names the upstream commit that it follows, and imports nothing of it. Inside the context the sampling method
of the given object runs guided. Outside it the object is as it was before. `ssg_kernels.attach` finds the module
of a model.
"""

from ssg_kernels.integrations import hart, hmar, infinity, switti, var, vq_diffusion
from ssg_kernels.integrations._told import GuidanceWarning as GuidanceWarning

__all__ = ["hart", "hmar", "infinity", "switti", "var", "vq_diffusion"]
