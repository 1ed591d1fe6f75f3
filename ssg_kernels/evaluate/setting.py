"""The settings that an evaluation compares: one row of its table each."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

_OF_GUIDANCE = ("prior", "interpolation", "schedule", "rescale", "cfg_order")


@dataclass(frozen=True)
class Setting:
    """How the images of one row are sampled.

    Args:
        beta: strength of the guidance. 0 runs the model without guidance.
        prior, interpolation, schedule, rescale: as for `ssg_kernels.SSG`.
        cfg_order: as for `attach`.
        temperature: divides the logits.
        options: the recipe's own options, such as cfg and top_k, as pairs of name and value.
    """

    beta: float = 0.0
    prior: str = "dse"
    interpolation: str = "bilinear"
    schedule: str = "linear"
    rescale: bool = False
    cfg_order: str = "after"
    temperature: float = 1.0
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def guided(self) -> bool:
        return self.beta != 0

    def guidance(self) -> dict[str, Any]:
        """The arguments of `attach`."""
        return {"beta": self.beta} | {name: getattr(self, name) for name in _OF_GUIDANCE}

    def values(self) -> dict[str, Any]:
        """Every name with its value. Without guidance, the options of guidance are None."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "options"}
        if not self.guided:
            own |= dict.fromkeys(_OF_GUIDANCE)
        return own | dict(self.options)

    def __getitem__(self, option: str) -> Any:
        """The value of one of the recipe's own options."""
        return dict(self.options)[option]


def grid(axes: Mapping[str, Sequence[Any]], options: Mapping[str, Sequence[Any]]) -> list[Setting]:
    """All combinations of the values on the axes, each once. Without guidance, the options of guidance do not count."""
    settings = []
    for chosen in itertools.product(*options.values()):
        own = tuple(zip(options, chosen, strict=True))
        for values in itertools.product(*axes.values()):
            setting = Setting(**dict(zip(axes, values, strict=True)), options=own)
            if not setting.guided:
                plain = Setting()
                setting = replace(setting, **{name: getattr(plain, name) for name in _OF_GUIDANCE})
            settings.append(setting)
    return list(dict.fromkeys(settings))


def differ_in_alone(name: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two settings differ in `name` at most. None, without guidance, stands for any option of guidance."""
    return all(
        one[key] == other[key] or (key in _OF_GUIDANCE and None in (one[key], other[key]))
        for key in one
        if key != name
    )


def names(settings: Sequence[Setting]) -> list[str]:
    """A short name for each setting: the values in which the settings differ. Usable as the name of a folder."""
    values = [setting.values() for setting in settings]
    # Settings without guidance have None for the options of guidance: that alone is no difference.
    kinds = {name: {value[name] for value in values} - {None} for name in values[0]}
    differing = [name for name, kind in kinds.items() if len(kind) > 1] or ["beta"]
    return [
        ",".join(f"{name}={_text(value[name])}" for name in differing if value[name] is not None)
        for value in values
    ]


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
