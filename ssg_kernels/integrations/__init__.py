"""Samplers of other projects, run guided: `with ssg_kernels.integrations.var.attach(model, beta=0.5): ...`.

Each module names the upstream commit that it follows, and imports nothing of it. Inside the context the sampling method
of the given object runs guided. Outside it the object is as it was before.
"""

from ssg_kernels.integrations import hart, hmar, infinity, switti, var, vq_diffusion

__all__ = ["hart", "hmar", "infinity", "switti", "var", "vq_diffusion"]
