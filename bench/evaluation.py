"""`python -m bench.evaluation`: what an evaluation of the demo costs beside generating alone, chunk by chunk.

Both take turns in one process with one thread, and each chunk is timed by the processor's time, so that other work on
the machine disturbs little.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ssg_kernels.demo.generate import Sampling, generate
from ssg_kernels.evaluate import Setting, Source
from ssg_kernels.evaluate.evaluator import Evaluation
from ssg_kernels.evaluate.folder import Folder
from ssg_kernels.evaluate.generation import Generation
from ssg_kernels.evaluate.outputs import outputs
from ssg_kernels.evaluate.ranks import Ranks
from ssg_kernels.evaluate.recipes.demo import Demo


def measured(cfg: float, chunks: int) -> tuple[float, float]:
    """Milliseconds of a chunk of the demo: generated alone, and by the evaluation with everything that it keeps."""
    recipe = Demo()
    recipe.load(Source())
    setting = Setting(beta=0.4, options=tuple({**recipe.options, "cfg": cfg}.items()))
    evaluation = Evaluation({"guided": setting}, [0], recipe.chunk * chunks, recipe.metrics)
    networks = outputs(recipe, recipe.metrics, "cpu", "")
    labels = torch.arange(recipe.chunk) % 12
    alone: list[float] = []
    evaluated: list[float] = []
    with tempfile.TemporaryDirectory() as out:
        generation = Generation(Folder(Path(out)), recipe, networks, Ranks(), evaluation.keep)
        for item in evaluation.items(recipe.chunk):
            alone.append(_timed(generate, recipe.models, labels, item.first, Sampling(cfg=cfg, beta=0.4)))
            evaluated.append(_timed(generation.run, [item]))
    return statistics.median(alone[1:]), statistics.median(evaluated[1:])


def _timed(act: Callable[..., object], *arguments: object) -> float:
    start = time.process_time()
    act(*arguments)
    return 1e3 * (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.evaluation", description=__doc__)
    parser.add_argument("--chunks", type=int, default=12, help="of 120 images, for each row")
    chunks = parser.parse_args().chunks
    torch.set_num_threads(1)
    print("cfg  generated alone  evaluated  speed of the evaluation")
    for cfg in (1.0, 0.0):
        alone, evaluated = measured(cfg, chunks + 1)
        print(f"{cfg:<4g} {alone:>12.1f} ms {evaluated:>7.1f} ms {alone / evaluated:>23.1%}")


if __name__ == "__main__":
    main()
