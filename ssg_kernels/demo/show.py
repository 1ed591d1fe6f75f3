"""`python -m ssg_kernels demo`: the same random numbers through four settings, with and without cfg and guidance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ssg_kernels.demo import data, figures, metrics, weights
from ssg_kernels.demo.generate import Clock, Sampling, generate
from ssg_kernels.evaluate.metrics import fid

COLUMNS = 4  # images per class in the picture
EACH = 480  # images of each setting that are measured
REAL = 4096  # images of the data that they are compared with


@dataclass(frozen=True)
class Options:
    beta: float = 0.8
    prior: str = "dse"
    seed: int = 0
    classes: str = ""
    out: Path = Path("ssg-demo")

    def settings(self) -> dict[str, Sampling]:
        """The four settings, by name. Temperature and schedule are those at which the study saw the most."""
        guided = {"beta": self.beta, "prior": self.prior, "schedule": "static"}
        return {
            "nothing": Sampling(cfg=0.0, temperature=1.5),
            "SSG": Sampling(cfg=0.0, temperature=1.5, **guided),  # type: ignore[arg-type]
            "cfg": Sampling(temperature=1.5),
            "cfg and SSG": Sampling(temperature=1.5, **guided),  # type: ignore[arg-type]
        }


def classes_of(text: str) -> list[int]:
    """The classes in a comma-separated list of names or numbers. An empty list means all classes."""
    chosen = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        if item in data.CLASSES:
            chosen.append(data.CLASSES.index(item))
        elif item.isdecimal() and int(item) < len(data.CLASSES):
            chosen.append(int(item))
        else:
            known = ", ".join(f"{i} {name}" for i, name in enumerate(data.CLASSES))
            raise ValueError(f"classes must be names or numbers of {known}; got {item!r}")
    return chosen or list(range(len(data.CLASSES)))


def run(options: Options) -> int:
    """Writes the pictures to `options.out` and prints what each setting gives, and times."""
    classes = classes_of(options.classes)
    models = weights.load()
    rows = max(COLUMNS, EACH // len(classes))
    labels = torch.tensor(classes).repeat_interleave(rows)
    settings = options.settings()
    # The first generation in a process is slower, so warm up before timing.
    generate(models, labels[:COLUMNS], options.seed, settings["cfg and SSG"])
    print(
        f"Generating {len(settings)} x {len(labels)} images ({weights.parameters(models)} parameters, CPU) ...",
        flush=True,
    )
    clocks = {name: Clock() for name in settings}
    made = {
        name: generate(models, labels, options.seed, sampling, clock=clocks[name])[0]
        for name, sampling in settings.items()
    }
    seen = {name: metrics.features(models.classifier, images) for name, images in made.items()}
    real, truth = data.images(REAL, options.seed + 9 * 10**9)
    real = real[torch.isin(truth, torch.tensor(classes))]
    measured = metrics.features(models.classifier, real).features
    scales = len(models.tokenizer.config.sizes)
    print(f"{'setting':<12} {'class accuracy':>15} {'Frechet distance':>17} {'forward passes an image':>24}")
    for name, sampling in settings.items():
        accuracy, distance = seen[name].accuracy(labels), fid(seen[name].features, measured)
        passes = scales * (2 if sampling.cfg else 1)
        print(f"{name:<12} {accuracy:>15.1%} {distance:>17.2f} {passes:>24}")

    options.out.mkdir(parents=True, exist_ok=True)
    pictures = [options.out / "images.png", options.out / "spectrum.png"]
    found = {name: features.probabilities.argmax(1) for name, features in seen.items()}
    figures.grids(
        {name: _grid(images, rows) for name, images in made.items()},
        [data.CLASSES[c] for c in classes],
        pictures[0],
        framed={name: _grid(guess != labels, rows) for name, guess in found.items()},
    )
    figures.spectra(
        {name: metrics.spectrum(part) for name, part in made.items()}, metrics.spectrum(real), pictures[1]
    )
    print()
    print("\n".join(_table(models.tokenizer.config.sizes, clocks["cfg"], clocks["cfg and SSG"], len(labels))))
    print(f"\nWritten: {pictures[0]} (red frames: the classifier sees another class), {pictures[1]}")
    return 0


def _grid(images: Tensor, rows: int) -> Tensor:
    return images.unflatten(0, (-1, rows))[:, :COLUMNS]


def _table(sizes: tuple[int, ...], plain: Clock, guided: Clock, images: int) -> list[str]:
    """Table of times. Those of guidance are the time from logits to tokens with SSG minus the time without."""
    lines = [
        "Time from logits to tokens with cfg, in us per image:",
        f"{'scale':>5} {'grid':>6} {'without':>9} {'with SSG':>9} {'guidance':>9} {'share of generation':>20}",
    ]
    timed = zip(sizes, plain.sampling, guided.sampling, strict=True)
    rows = [(str(k + 1), f"{n}x{n}", before, after) for k, (n, before, after) in enumerate(timed)]
    for scale, grid, before, after in [*rows, ("all", "", sum(plain.sampling), sum(guided.sampling))]:
        times = " ".join(f"{1e6 * s / images:>9.1f}" for s in (before, after, after - before))
        lines.append(f"{scale:>5} {grid:>6} {times} {(after - before) / guided.total:>20.2%}")
    lines.append(
        f"A guided image took {1e3 * guided.total / images:.2f} ms; {torch.get_num_threads()} threads."
    )
    return lines
