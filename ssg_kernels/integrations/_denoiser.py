"""Samplers whose steps all have one grid."""

from __future__ import annotations

import copy
from collections.abc import Hashable

from torch import Tensor

from ssg_kernels.guidance import SSG
from ssg_kernels.integrations._call import GuidedCall


class Denoiser(GuidedCall):
    """A sampler whose steps all have the same grid. Each branch of cfg is guided by its own previous step."""

    steps = 0

    def problem(self) -> str | None:
        if self.guided or self.steps == 1:
            return None
        return (
            f"{type(self.model).__name__}.{self.method} ran unguided: "
            "the network should put out the logits of each step, and did not run. Pass "
            "method= to `attach` if this model samples through another method"
        )

    def begin(self, steps: int) -> None:
        """Begin a generation of so many steps."""
        self.steps, self.t = steps, object()
        self.before: dict[Hashable, SSG] = {}
        self.after: dict[Hashable, SSG] = {}

    def guide_branch(self, branch: Hashable, t: object, logits: Tensor) -> Tensor:
        """Guide the logits of one branch, (B, L, V). A step may be tried again: it has one `t`, the same object."""
        if t is not self.t:
            self.t = t
            self.before.update(self.after)
        self.guided += 1
        # On one grid every prior is the previous logits, whatever the sides.
        first = self.before.get(branch) or self.guidance.ssg([(1, logits.shape[1])] * self.steps)
        ssg = self.after[branch] = copy.copy(first)
        return ssg(logits)
