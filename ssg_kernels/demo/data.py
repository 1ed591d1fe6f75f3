"""Draws the demo's images from a seed: shapes filled with fine textures."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

SIDE = 32
SHAPES = ("disc", "square", "triangle", "cross")
TEXTURES = ("striped", "checked", "dotted")
CLASSES = tuple(f"{texture} {shape}" for shape in SHAPES for texture in TEXTURES)
# The uniform numbers that make an image, in the order in which `_draw` reads them.
_NAMES = (
    *("x", "y", "size", "turn", "texture angle", "period", "phase", "other phase"),
    *("hue", "brightness", "ramp angle", "background", "ramp", "background hue"),
)
_PERIODIC = ("hue", "ramp angle", "background hue")
# The classifier predicts all of them but the phases.
_FACTORS = tuple(name for name in _NAMES if "phase" not in name)
COLUMNS = tuple(
    f"{function}{name}"
    for name in _FACTORS
    for function in (("cos ", "sin ") if name in _PERIODIC else ("",))
)


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draws `count` images. The classes take turns, so each is equally frequent.

    Image i depends only on `seed` and i, not on `count`.

    Returns:
        Images (count, 3, 32, 32), float32 in [-1, 1], and their classes (count,), int64.
    """
    uniform = _uniform(count, seed)
    labels = torch.arange(count) % len(CLASSES)
    parts = zip(uniform.split(1024), labels.split(1024), strict=True)
    return torch.cat([_draw(u, c) for u, c in parts]), labels


def factors(count: int, seed: int) -> Tensor:
    """What differs between the images of `images(count, seed)` besides the class: (count, 15), mean 0, variance 1.

    `COLUMNS` names the columns. A periodic factor has two of them, its cosine and its sine.
    """
    u = dict(zip(_NAMES, _uniform(count, seed).unbind(1), strict=True))
    columns = []
    for name in _FACTORS:
        if name in _PERIODIC:
            columns += [f(2 * math.pi * u[name]) * 2**0.5 for f in (torch.cos, torch.sin)]
        else:
            columns.append((u[name] - 0.5) * 12**0.5)
    return torch.stack(columns, 1)


def _uniform(count: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((count, len(_NAMES)), dtype=np.float32))


def _draw(uniform: Tensor, labels: Tensor) -> Tensor:
    u = [column.view(-1, 1, 1) for column in uniform.unbind(1)]
    shape, texture = (labels // len(TEXTURES)).view(-1, 1, 1), (labels % len(TEXTURES)).view(-1, 1, 1)
    y, x = torch.meshgrid(*[torch.arange(SIDE) - (SIDE - 1) / 2] * 2, indexing="ij")
    mask = _inside(x - _between(u[0], -3, 3), y - _between(u[1], -3, 3), u[2], u[3], shape)
    light = _texture(x, y, u[4:8], texture)
    colour = _hue(u[8]) * _between(u[9], 0.75, 1).unsqueeze(1)
    ink = colour * (0.2 + 0.8 * light.unsqueeze(1))
    angle = 2 * math.pi * u[10]
    ramp = (x * angle.cos() + y * angle.sin()) / SIDE
    paper = (_between(u[11], 0.25, 0.75) + _between(u[12], 0, 0.4) * ramp).unsqueeze(1)
    paper = paper * (1 + 0.3 * (_hue(u[13]) - 0.5))
    return 2 * torch.lerp(paper, ink, mask.unsqueeze(1)).clamp(0, 1) - 1


def _between(u: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * u


def _turned(x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    return x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()


def _inside(x: Tensor, y: Tensor, size: Tensor, turn: Tensor, shape: Tensor) -> Tensor:
    """1 inside the shape and 0 outside, with an edge one pixel wide."""
    radius = _between(size, 9, 12)
    x, y = _turned(x, y, _between(turn, -0.3, 0.3))
    disc = (x * x + y * y).sqrt() - radius
    square = torch.maximum(x.abs(), y.abs()) - 0.85 * radius
    triangle = torch.maximum(0.866 * x.abs() - 0.5 * y, y) - 0.62 * radius
    narrow, wide = torch.minimum(x.abs(), y.abs()), torch.maximum(x.abs(), y.abs())
    cross = torch.maximum(narrow - 0.38 * radius, wide - 1.05 * radius)
    distance = torch.stack(torch.broadcast_tensors(disc, square, triangle, cross))
    chosen = distance.gather(0, shape.expand_as(disc).unsqueeze(0)).squeeze(0)
    return (0.5 - chosen).clamp(0, 1)


def _texture(x: Tensor, y: Tensor, u: list[Tensor], texture: Tensor) -> Tensor:
    """0 in the dark parts and 1 in the light ones. Edges are about a pixel wide, periods 4.5 to 7.5 pixels long."""
    angle = _between(u[0], -0.3, 0.3) + torch.where(texture == 0, math.pi / 4, 0.0)
    x, y = _turned(x, y, angle)
    wave = 2 * math.pi / _between(u[1], 4.5, 6)
    striped = (wave * x + 2 * math.pi * u[2]).sin()
    p, q = 0.8 * wave * x + 2 * math.pi * u[2], 0.8 * wave * y + 2 * math.pi * u[3]
    checked = 1.5 * p.sin() * q.sin()
    dotted = p.cos() + q.cos() - 0.6
    waves = torch.stack(torch.broadcast_tensors(striped, checked, dotted))
    return torch.sigmoid(5 * waves.gather(0, texture.expand_as(striped).unsqueeze(0)).squeeze(0))


def _hue(u: Tensor) -> Tensor:
    """Turns hues (N, 1, 1) in [0, 1) into colours (N, 3, 1, 1)."""
    thirds = torch.arange(3).view(1, 3, 1, 1) / 3
    return 0.5 + 0.5 * (2 * math.pi * (u.unsqueeze(1) - thirds)).cos()
