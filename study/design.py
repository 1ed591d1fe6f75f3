"""What the study compares, and how many images it measures."""

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
# ... and the conventions that the paper leaves open.
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
    """Grids, and numbers of images per seed.

    A row's operating point is the sampling with the least Frechet distance. It is found in three stages:

    1. The sweep measures every combination of `cfgs`, `temperatures` and `betas` with `coarse` images.
    2. The `shortlist` best are measured again with `middle` images. So are the neighbours half a step from the best.
    3. The `finalists` best of stage 2 are measured with `final` images, and the best becomes the operating point.

    The reported figures come from `seeds` other seeds.
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
    confirm: int = 1500  # images for each row's operating point
    curve: int = 1000  # images for each point of a curve
    curve_cfgs: tuple[float, ...] = (0.0, 1.0, 2.0)
    curve_temperatures: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5)
    curve_betas: tuple[float, ...] = (0.15, 0.4, 0.8, 1.6)
    reference: int = 20000  # images of the data, with which all cells are compared
    latents: int = 2000
