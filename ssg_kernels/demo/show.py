"""`python -m ssg_kernels demo`: draws images with and without guidance from the same random numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ssg_kernels.demo import data, figures, metrics, weights
from ssg_kernels.demo.generate import Clock, Sampling, generate

COLUMNS = 6  # images per class in the picture
EACH = 480  # images that are measured, with and without guidance each


@dataclass(frozen=True)
class Options:
    beta: float = 0.3
    prior: str = "dse"
    seed: int = 0
    classes: str = ""
    out: Path = Path("ssg-demo")


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
    """Writes the pictures to `options.out` and prints times and class accuracy."""
    classes = classes_of(options.classes)
    models = weights.load()
    rows = max(COLUMNS, EACH // len(classes))
    labels = torch.tensor(classes).repeat_interleave(rows)
    plain = Sampling()
    guided = replace(plain, beta=options.beta, prior=options.prior)
    # The first generation in a process is slower, so warm up before timing.
    generate(models, labels[:COLUMNS], options.seed, guided)
    clocks = Clock(), Clock()
    print(
        f"Generating 2 x {len(labels)} images ({weights.parameters(models)} parameters, CPU) ...", flush=True
    )
    without, _ = generate(models, labels, options.seed, plain, clock=clocks[0])
    with_ssg, _ = generate(models, labels, options.seed, guided, clock=clocks[1])

    options.out.mkdir(parents=True, exist_ok=True)
    names = [data.CLASSES[c] for c in classes]
    title = f"with SSG: {options.prior}, beta {options.beta:g}"
    shown = {"without SSG": _grid(without, rows), title: _grid(with_ssg, rows)}
    pictures = [options.out / "images.png", options.out / "spectrum.png"]
    figures.grids(shown, names, pictures[0])
    real, truth = data.images(4096, options.seed + 9 * 10**9)
    real = real[torch.isin(truth, torch.tensor(classes))]
    energies = {name: metrics.spectrum(part) for name, part in (("without SSG", without), (title, with_ssg))}
    figures.spectra(energies, metrics.spectrum(real), pictures[1])

    accuracy = [metrics.features(models.classifier, x).accuracy(labels) for x in (without, with_ssg)]
    print("\n".join(_table(models.tokenizer.config.sizes, *clocks, len(labels))))
    print(
        f"\nThe classifier recognises the requested class in {accuracy[0]:.1%} of the images without SSG and in "
        f"{accuracy[1]:.1%} with SSG."
    )
    print("Written: " + ", ".join(map(str, pictures)))
    return 0


def _grid(images: Tensor, rows: int) -> Tensor:
    return images.unflatten(0, (-1, rows))[:, :COLUMNS]


def _table(sizes: tuple[int, ...], plain: Clock, guided: Clock, images: int) -> list[str]:
    """Table of times. Those of guidance are the time from logits to tokens with SSG minus the time without."""
    lines = [
        "Time from logits to tokens, in us per image:",
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
