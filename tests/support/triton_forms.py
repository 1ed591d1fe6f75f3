"""Plans of a chosen form with as few programs as it allows, because the interpreter runs one after the other."""

from __future__ import annotations

from collections.abc import Callable

from ssg_kernels._triton import plan
from ssg_kernels._triton.step import LaunchPlan, Step
from ssg_kernels._triton.targets import Target

FORMS = ("fma", "dense_halves", "separable")


def of_form(form: str) -> Callable[..., LaunchPlan]:
    """A stand-in for `plan.make_plan`. If a step cannot take the form, the plan has the nearest form that it can."""

    def make_plan(step: Step, target: Target, accurate: bool = False) -> LaunchPlan:
        if form == "fma" or accurate:
            plans = plan._fma(step)
        elif form == "dense_halves" and step.is_symmetric:
            plans = plan._dense_halves(step, target)
        else:
            plans = plan._separable(step, target)
        return min(plans, key=lambda each: (each.programs, -each.block_m))

    return make_plan
