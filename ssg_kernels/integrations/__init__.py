"""Samplers of other projects, run guided: `with ssg_kernels.integrations.var.attach(model, beta=0.5): ...`.

Each module names the upstream commit it was written for, imports nothing of it, and changes nothing but the
object it is given: inside the context that object's own sampling method runs guided, outside it is itself.
"""

from ssg_kernels.integrations import hart, hmar, infinity, switti, var, vq_diffusion

__all__ = ["hart", "hmar", "infinity", "switti", "var", "vq_diffusion"]
