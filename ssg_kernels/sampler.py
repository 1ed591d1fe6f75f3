"""From raw logits to tokens over the scales of one generation: guidance and sampling."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple, SupportsFloat

import torch
from torch import Tensor

from ssg_kernels import _checks
from ssg_kernels._grids import Size
from ssg_kernels._names import CFG_ORDERS, CFG_SCHEDULES, quoted
from ssg_kernels._numbers import as_finite, as_integer, is_finite, items_of, per_scale
from ssg_kernels._torch.sharding import replicated_like
from ssg_kernels.generation import Generation, merge_cfg
from ssg_kernels.guidance import SSG, GuidedScale
from ssg_kernels.ops import sample_tempered

__all__ = ["GuidedSampler"]


class SampledScale(NamedTuple):
    """One scale of a generation, as :meth:`ssg_kernels.GuidedSampler.draw` needs it."""

    guided: GuidedScale | None
    """None for the first scale of a pyramid, which is not guided."""
    cfg: float | Tensor | None
    prev_cfg: float | Tensor | None
    inverse_temperature: float | Tensor
    top_k: int | Tensor
    top_p: float | Tensor


class GuidedSampler:
    r"""Draws the tokens of one generation: call it with each scale's raw logits in turn, get token ids back.

    A call merges the two halves by classifier-free guidance, guides them as :class:`SSG` does, divides by the
    temperature and samples as :func:`sample` does, in two passes over the logits: `guided_logits_cfg` (or
    `guided_logits`) and the sampling operator.

    Args:
        sizes, beta, schedule, prior, interpolation, rescale, repeats: as for :class:`SSG`.
        cfg: t of classifier-free guidance, (1 + t) * conditional - t * unconditional: a number, K numbers (one per
            scale), or a tensor of shape () or (B,) on the device of the logits. None where the logits have no
            unconditional half. A scale s in the form s*c + (1-s)*u is t = s - 1.
        cfg_schedule: "static", or "ramp": t at scale k of K is cfg * (k-1)/(K-1), as VAR, HART, Switti and HMAR have
            it (HART's last scale uses the t of the one before: K numbers say so).
        cfg_order: "after" guides the merged logits by the previous scale's logits, merged with their own t; "before"
            guides both halves and merges them then. The two differ where t changes between scales.
        top_k: how many of the largest logits stay, ties included; 0 keeps all. An int, or K.
        top_p: the probability that stays; 0.0 keeps all. A number, or K.
        classes: how many neighbouring columns are one choice; None for the whole vocabulary. It is 2 where a token
            consists of bits, and column 2i + c is the logit of value c for bit i, as in Infinity.
        temperature: what the guided logits are divided by, positive: a number, K numbers, or a tensor of shape ()
            or (B,) on the device of the logits, read at every call.

    Raises:
        ValueError: an argument is none of the above; the message names it, its value and what was expected.

    The sampler keeps the logits that you pass, without a copy, and the next call reads them as the previous scale's. Do
    not write into them before that call. It keeps nothing after the last scale or after `reset`. A new generation
    begins as for :class:`SSG`. Interleaved generations need one sampler each.

    Under `torch.compile(fullgraph=True)` a loop over all scales becomes one graph. Pass the uniforms there, since the
    compiler does not trace a `torch.Generator`. A CUDA graph captures the same loop after one eager generation on the
    device, since nothing in it waits for the device. Torch registers its default generator with the graph; a generator
    of your own needs `graph.register_generator_state(generator)`.

    Example::

        sizes = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
        sampler = GuidedSampler(sizes, beta=0.5, cfg=1.5, cfg_schedule="ramp", top_k=900, top_p=0.96)
        for n in sizes:
            logits = ...                         # the model's, (2B, n*n, V), the conditional half first
            tokens = sampler(logits, generator)  # (B, n*n), int64
    """

    def __init__(
        self,
        sizes: Sequence[Size],
        beta: SupportsFloat | Tensor,
        schedule: str | Sequence[SupportsFloat] = "linear",
        prior: str = "dse",
        interpolation: str = "bilinear",
        rescale: bool = False,
        *,
        cfg: SupportsFloat | Sequence[SupportsFloat] | Tensor | None = None,
        cfg_schedule: str = "static",
        cfg_order: str = "after",
        top_k: int | Sequence[int] = 0,
        top_p: SupportsFloat | Sequence[SupportsFloat] = 0.0,
        temperature: SupportsFloat | Sequence[SupportsFloat] | Tensor = 1.0,
        classes: int | None = None,
        repeats: int | Sequence[int] = 1,
    ) -> None:
        self._ssg = SSG(sizes, beta, schedule, prior, interpolation, rescale, repeats=repeats)
        self._tensors: dict[str, tuple[Tensor, ...]] = {}
        self._scales: tuple[SampledScale, ...] = ()
        count = len(self._ssg.sizes)
        self._ramp = _as_ramp(cfg, cfg_schedule, self._ssg.generation.pyramids)
        self._cfg: Tensor | None = None
        self._cfgs: tuple[float, ...] | None = None
        if isinstance(cfg, Tensor):
            self._cfg = _as_strength("cfg", cfg)
        elif cfg is not None:
            cfgs = per_scale("GuidedSampler: cfg", "finite numbers", cfg, count, as_finite)
            ramp = (1.0,) * count if self._ramp is None else self._ramp
            self._cfgs = tuple(t * share for t, share in zip(cfgs, ramp, strict=True))
        if cfg_order not in CFG_ORDERS:
            raise ValueError(
                f"GuidedSampler: cfg_order must be one of {quoted(CFG_ORDERS)}, got {cfg_order!r}"
            )
        self._before = cfg_order == "before"
        self._top_ks = per_scale("GuidedSampler: top_k", "integers from 0 on", top_k, count, _as_top_k)
        self._top_ps = per_scale("GuidedSampler: top_p", "numbers from 0 to 1", top_p, count, _as_top_p)
        if classes is not None and not _as_top_k(classes):
            raise ValueError(f"GuidedSampler: classes must be a positive integer or None, got {classes!r}")
        self._classes = classes
        self._temperature: Tensor | None = None
        self._inverse_temperatures: tuple[float, ...] = ()
        if isinstance(temperature, Tensor):
            self._temperature = _as_strength("temperature", temperature)
        else:
            name, expected = "GuidedSampler: temperature", "positive finite numbers"
            temperatures = per_scale(name, expected, temperature, count, _as_temperature)
            self._inverse_temperatures = tuple(1 / t for t in temperatures)
        # What a call needs of each scale, where that is numbers only.
        if not any(isinstance(x, Tensor) for x in (beta, cfg, temperature)):
            self._scales = tuple(map(self.scale, range(count)))
        # Compiled code is bound to the floats of this object, so it reads them as tensors. A compiler that traces this
        # very line needs none: then the numbers are inputs of its graph already.
        if not torch.compiler.is_compiling():
            for name in ("_cfgs", "_inverse_temperatures", "_top_ks", "_top_ps"):
                if numbers := getattr(self, name):
                    self._tensors[name] = _as_tensors(numbers, torch.device("cpu"))

    def __copy__(self) -> GuidedSampler:
        """A sampler whose generation goes on from here on its own."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__, _ssg=copy.copy(self._ssg))
        return twin

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """The (h, w) of each scale."""
        return self._ssg.sizes

    @property
    def step(self) -> int:
        """Scales of this generation sampled so far, 0..K-1; 0 again after the last one."""
        return self._ssg.step

    @property
    def generation(self) -> Generation:
        """Which scale is due, and the previous raw logits."""
        return self._ssg.generation

    def reset(self) -> None:
        """Begin a new generation: the next call is the first scale."""
        self._ssg.reset()

    def skip(self) -> None:
        """Leave out the scale that is due. The prior of the next scale comes from the last scale that came."""
        self._ssg.skip()

    def __call__(
        self, logits: Tensor, generator: torch.Generator | None = None, *, uniform: Tensor | None = None
    ) -> Tensor:
        """Draw the tokens of the next scale.

        Args:
            logits: raw logits of this scale, (2B, L, V) with L = h*w, the conditional half first; (B, L, V) without
                `cfg`. float32, bfloat16, float16 or float64, of any strides.
            generator: draws the uniforms, on the device of the logits; torch's default one where it is None. With
                DTensor logits every rank draws all of them, so its generator must be in the same state on every rank.
            uniform: the uniforms themselves, float32 or float64 in [0, 1), instead of a generator; of the shape of the
                result.

        Returns:
            Token ids, (B, L), int64; with `classes` one of each group, (B, L, V / classes). On a GPU -1 where
            the largest of the guided logits is not finite.

        Raises:
            ValueError, RuntimeError: whatever `SSG`, `guided_logits`, `guided_logits_cfg` and `sample` raise; a
                generator and uniforms at once. After an error the sampler is as it was before the call.
        """
        generation = self._ssg.generation
        step = generation.due(logits)
        is_guided = generation.guides(step, logits)
        device = logits.device if torch.compiler.is_compiling() else None
        scale = self.scale(step, device, generation.prev_step if is_guided else None)
        self._ssg.check(step, logits, scale.cfg)
        batch = logits.shape[0] if scale.cfg is None else logits.shape[0] // 2
        if self._temperature is not None:
            _checks.strength("GuidedSampler", "temperature", self._temperature, batch, logits.device)
        shape = self._shape_of(logits, batch, self._top_ks[step])
        if uniform is None:
            uniform = torch.rand(shape, generator=generator, dtype=torch.float32, device=logits.device)
            uniform = replicated_like(uniform, logits)
        elif generator is not None:
            raise ValueError("GuidedSampler: generator and uniform must not be given both")
        elif uniform.shape != shape:
            given = tuple(uniform.shape)
            raise ValueError(f"GuidedSampler: uniform must have shape {shape}, got {given}")
        if self._cfg is not None and not self._before:
            # Its values may have changed since the previous scale.
            scale = scale._replace(prev_cfg=generation.prev_cfg)
        tokens = self.draw(scale, logits, generation.prev_logits if is_guided else None, uniform)
        # Not a copy, since nothing here writes into the logits.
        generation.remember(logits, scale.cfg, step)
        return tokens

    def scale(
        self, step: int, device: torch.device | str | None = None, prev_step: int | None = None
    ) -> SampledScale:
        """What :meth:`GuidedSampler.draw` needs to know of scale `step`, from 0 on.

        Args:
            step: the index of the scale.
            device: of the logits. With a device all numbers are tensors there, so that code which was compiled once
                serves all of them. Without one numbers stay numbers.
            prev_step: the index of the scale that the previous logits are of; the one before where it is None.
        """
        if device is None and self._scales and prev_step in (None, step - 1):
            return self._scales[step]
        is_first = self.generation.grids[step].start == step
        cfg = prev_cfg = self._cfg_of(step, device)
        if not (self._before or is_first):
            prev_cfg = self._cfg_of(step - 1 if prev_step is None else prev_step, device)
        if self._temperature is None:
            inverse = self._on(device, "_inverse_temperatures")[step]
        else:
            # Half-precision and integer temperatures are inverted in float32.
            inverse = 1 / self._temperature.to(torch.promote_types(self._temperature.dtype, torch.float32))
        guided = None if is_first else self._ssg.scale(step, device, prev_step)
        top_k: Any = self._on(device, "_top_ks")[step]
        top_p = self._on(device, "_top_ps")[step]
        return SampledScale(guided, cfg, prev_cfg, inverse, top_k, top_p)

    def draw(
        self, scale: SampledScale, logits: Tensor, prev_logits: Tensor | None, uniform: Tensor
    ) -> Tensor:
        """Draw tokens from logits and previous logits of your own. Nothing is kept: this is the form to compile.

        Args:
            scale: what :meth:`GuidedSampler.scale` returned.
            logits: raw logits of this scale, as in a call.
            prev_logits: raw logits of the previous scale; None for a scale that is not guided.
            uniform: uniform random numbers, of the shape of the result.

        Returns:
            Token ids, as in a call.

        Raises:
            ValueError, RuntimeError: whatever `guided_logits`, `guided_logits_cfg` and `sample` raise.
        """
        guided_scale, cfg, prev_cfg, inverse_temperature, top_k, top_p = scale
        guided = logits
        if guided_scale is not None and prev_logits is not None:
            guided = self._ssg.guide(guided_scale, logits, prev_logits, cfg, prev_cfg)
        elif cfg is not None:
            guided = merge_cfg(logits, cfg)
        if self._classes is None:
            return sample_tempered(guided, uniform, inverse_temperature, top_k, top_p)
        guided = guided.unflatten(2, (-1, self._classes)).flatten(1, 2)
        tokens = sample_tempered(guided, uniform.flatten(1), inverse_temperature, top_k, top_p)
        return tokens.view(uniform.shape)

    def _shape_of(self, logits: Tensor, batch: int, top_k: int) -> tuple[int, ...]:
        """The shape of the returned tokens."""
        tokens, vocabulary = logits.shape[1:]
        classes = vocabulary if self._classes is None else self._classes
        if self._classes is not None and vocabulary % classes:
            raise ValueError(
                f"GuidedSampler: logits must have a vocabulary of whole groups of classes = {classes}, "
                f"got {vocabulary}"
            )
        if top_k > classes:
            which = "V" if self._classes is None else "classes"
            raise ValueError(f"GuidedSampler: top_k must be from 0 to {which} = {classes}, got {top_k}")
        return (batch, tokens) if self._classes is None else (batch, tokens, vocabulary // classes)

    def _cfg_of(self, step: int, device: torch.device | str | None) -> float | Tensor | None:
        if self._cfg is not None:
            return self._cfg if self._ramp is None else self._cfg * self._ramp[step]
        return None if self._cfgs is None else self._on(device, "_cfgs")[step]

    def _on(self, device: torch.device | str | None, name: str) -> Sequence[float | Tensor]:
        """The numbers of that name, one per scale; as tensors on the device if one is given."""
        numbers: tuple[float, ...] = getattr(self, name)
        if device is None or not self._tensors:
            return numbers
        tensors = self._tensors[name]
        if tensors[0].device != torch.device(device):
            tensors = self._tensors[name] = _as_tensors(numbers, torch.device(device))
        return tensors


def _as_tensors(numbers: tuple[float, ...], device: torch.device) -> tuple[Tensor, ...]:
    # Outside inference mode, so that autograd may save them whichever mode the sampler was made in.
    with torch.inference_mode(False):
        dtype = torch.float32 if device.type == "mps" else torch.float64
        return torch.tensor(numbers, dtype=dtype, device=device).unbind()


def _as_ramp(cfg: object, schedule: str, pyramids: tuple[int, ...]) -> tuple[float, ...] | None:
    """The factors that multiply cfg, one per scale of each pyramid; None where it stays as it is."""
    if schedule not in CFG_SCHEDULES:
        raise ValueError(
            f"GuidedSampler: cfg_schedule must be one of {quoted(CFG_SCHEDULES)}, got {schedule!r}"
        )
    if schedule == "static":
        return None
    if not isinstance(cfg, Tensor) and items_of(cfg) is not None:
        raise ValueError(
            f"GuidedSampler: cfg_schedule must be 'static' where cfg holds one number per scale, got {schedule!r}"
        )
    return tuple(k / max(count - 1, 1) for count in pyramids for k in range(count))


def _as_strength(name: str, value: Tensor) -> Tensor:
    if value.ndim > 1 or value.is_complex():
        raise ValueError(
            f"GuidedSampler: {name} must be a real tensor of shape () or (B,), "
            f"got {value.dtype} of shape {tuple(value.shape)}"
        )
    return value


def _as_top_k(value: Any) -> int | None:
    number = as_integer(value)
    return number if number is not None and number >= 0 else None


def _as_top_p(value: Any) -> float | None:
    number = as_finite(value)
    return number if number is not None and 0 <= number <= 1 else None


def _as_temperature(value: Any) -> float | None:
    number = as_finite(value)
    return number if number is not None and number > 0 and is_finite(1 / number) else None
