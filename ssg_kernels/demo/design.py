"""What the study compares, and how much of it is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Table 5 of the paper ("linear" is bilinear interpolation in space, "static" is DSE without decay) ...
TABLE: dict[str, dict[str, Any]] = {
    "baseline": {"beta": None},
    "nearest": {"prior": "spatial", "interpolation": "nearest"},
    "linear": {"prior": "spatial"},
    "dse zero-padded": {"prior": "dse_zero_pad"},
    "dse": {},
    "dse static": {"schedule": "static"},
}
# ... and what the paper leaves open.
CONVENTIONS: dict[str, dict[str, Any]] = {
    "dse rescaled": {"rescale": True},
    "dse zero-padded rescaled": {"prior": "dse_zero_pad", "rescale": True},
    "dse nearest": {"interpolation": "nearest"},
    "dse bicubic": {"interpolation": "bicubic"},
    "dse area": {"interpolation": "area"},
    "dse guided, then merged": {"cfg_order": "before"},
}
ROWS = TABLE | CONVENTIONS


@dataclass(frozen=True)
class Design:
    """How much is measured, in images of a seed.

    A row's operating point is the sampling of the least Frechet distance. The sweep measures every combination of
    `cfgs`, `temperatures` and `betas` with `coarse` images. Its `shortlist` best are measured again with `middle`, and
    so are the neighbours half a step from the best of these. The `finalists` best of all these are measured once more
    with `final`, by which the operating point is chosen. What is reported of it comes from `seeds` of its own.
    """

    cfgs: tuple[float, ...] = (0.0, 1.0, 2.0, 3.5)
    temperatures: tuple[float, ...] = (0.8, 1.0, 1.25, 1.5)
    betas: tuple[float, ...] = (0.3, 0.8, 1.6)
    coarse: int = 200
    shortlist: int = 5
    middle: int = 800
    finalists: int = 3
    final: int = 2000
    seeds: int = 10
    confirm: int = 1500  # of each row's operating point
    curve: int = 1000  # of each point of a curve
    curve_cfgs: tuple[float, ...] = (0.0, 1.0, 2.0)
    curve_temperatures: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5)
    curve_betas: tuple[float, ...] = (0.15, 0.4, 0.8, 1.6)
    reference: int = 20000  # of the data, with which all is compared
    latents: int = 2000
