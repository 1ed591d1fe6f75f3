"""Evaluates checkpoints with and without guidance: `python -m ssg_kernels evaluate RECIPE ...`.

A recipe is a model together with the protocol by which it is sampled. To evaluate a model of your own, derive from
`Recipe`.
"""

from ssg_kernels.evaluate.recipe import EvaluateError, PaperRow, Recipe, Samples, Source, chunk_seed
from ssg_kernels.evaluate.setting import Setting

__all__ = ["EvaluateError", "PaperRow", "Recipe", "Samples", "Setting", "Source", "chunk_seed"]
