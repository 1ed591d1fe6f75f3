"""Scaled spatial guidance over the scales of one generation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple, SupportsFloat

import torch
from torch import Tensor

from ssg_kernels._call import Options
from ssg_kernels._grids import Size
from ssg_kernels._names import INTERPOLATIONS, PRIORS, quoted
from ssg_kernels._numbers import as_finite, items_of
from ssg_kernels.generation import Generation, merge_cfg
from ssg_kernels.ops import guided_logits, guided_logits_cfg

__all__ = ["SSG"]


class GuidedScale(NamedTuple):
    """One scale of a generation, as :meth:`ssg_kernels.SSG.guide` needs it."""

    size: tuple[int, int]
    prev_size: tuple[int, int]
    beta: float | Tensor
    frames: int = 1


class SSG:
    r"""The guidance of one generation: call it with each scale's raw logits in turn, get guided logits back.

    With k = 1..K counting the scales, and P the prior, which carries the previous scale's grid to this one,

    .. math:: \ell_k^{SSG} = \ell_k + \beta_k (\ell_k - P \ell_{k-1}), \qquad \ell_1^{SSG} = \ell_1

    (Eq. 8 and Alg. 2 of the paper). One rule says what that means for generations that the paper does not have: **the
    prior of a scale comes from the raw logits with which the model last predicted the scale before it, in the same
    pyramid.** The first scale of a pyramid is not guided, k counts the scales of the pyramid, and K is how many its
    schedule has.

    An SSG keeps a copy of the previous scale's raw logits and the number of scales
    that it has seen. So you may change the logits that you passed or got in place: the next scale does not see it.
    The copy is freed with the last scale.

    Args:
        sizes: the grids of a generation, one for each scale:

            - (h, w), or an int n for (n, n). Neither side may shrink; a grid may stay the same.
            - (n,) for a row of n, the same as (1, n).
            - (t, h, w) for t frames, L = t*h*w. Frames are guided apart, each by the same frame of the scale before.
            - A grid that is back at the first one begins a new pyramid, as each clip of a video does.
        beta: the strength, a float or a tensor of shape () or (B,) on the device of the logits. A tensor is
            read at every call, so its values may be changed in place between calls, or between replays of a
            captured graph.
        schedule: the multipliers m_k of beta_k = beta * m_k. "linear", the paper's decay, is 1 - (k-1)/K;
            "static" is 1; K numbers are the multipliers themselves, so with beta = 1 they are the beta_k. The
            first is not used, since the first scale is not guided. Several pyramids have K numbers each if they are
            alike, or one for each of all scales.
        prior, interpolation, rescale: as for :func:`guided_logits`.
        repeats: how often the model predicts each scale in turn, an int or one for each scale. Every repeat is guided
            by the last repeat of the scale before; k does not advance.

    Raises:
        ValueError: an argument is none of the above; the message names it, its value and what was expected.

    After the last scale a new generation begins by itself. A new one also begins where the last one ended early: logits
    with the token count of the first size begin a new generation wherever another count is due. Where that same
    count is due (a diffusion sampler with one grid that was stopped half-way), call `reset`. Where a sampler leaves
    out a scale, call `skip`: K and k still count it. A scale whose vocabulary is not that of the scale before is not
    guided, and k counts on. An SSG serves one generation at a time; two interleaved generations need an SSG each.

    Under `torch.compile(fullgraph=True)` a loop over all scales becomes one graph, which serves every
    strength. Where each call is compiled alone, torch compiles once per scale, since the step is Python state. Compile
    :meth:`SSG.guide` instead: it keeps no state, and one function serves all scales and strengths::

        guide = torch.compile(ssg.guide, fullgraph=True)
        guided = guide(ssg.scale(k, logits.device), logits, prev_logits)  # k = 1..K-1

    Example::

        sizes = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
        ssg = SSG(sizes, beta=0.5)
        for n in sizes:
            logits = ...                   # the model's, (B, n*n, V)
            tokens = sample(ssg(logits))   # guided, (B, n*n, V)
    """

    beta: float | Tensor
    multipliers: tuple[float, ...]
    generation: Generation
    """Which scale is due, and the previous raw logits."""

    def __init__(
        self,
        sizes: Sequence[Size],
        beta: SupportsFloat | Tensor,
        schedule: str | Sequence[SupportsFloat] = "linear",
        prior: str = "dse",
        interpolation: str = "bilinear",
        rescale: bool = False,
        *,
        repeats: int | Sequence[int] = 1,
    ) -> None:
        self.generation = Generation(sizes, repeats)
        self.beta = _as_beta(beta)
        self.multipliers = _as_multipliers(schedule, self.generation.pyramids)
        self.options = Options(
            _as_choice("prior", prior, PRIORS),
            _as_choice("interpolation", interpolation, INTERPOLATIONS),
            bool(rescale),
        )
        self._tensor_beta = self.beta if isinstance(self.beta, Tensor) else None
        # Compiled code that reads a float of this object is bound to its value. It reads the beta_k as tensors, which
        # are made here unless the compiler traces this very line: then beta is an input of its graph already.
        self._betas: tuple[Tensor, ...] = ()
        self._scales: tuple[GuidedScale, ...] = ()
        if not isinstance(self.beta, Tensor):
            self._scales = tuple(self._scale(k, self.beta * m) for k, m in enumerate(self.multipliers))
            if not torch.compiler.is_compiling():
                self._betas = self._betas_on(torch.device("cpu"))

    def __repr__(self) -> str:
        sizes = ", ".join(map(str, self.generation.grids))
        options = ", ".join(f"{name}={value!r}" for name, value in self.options._asdict().items())
        return f"SSG({sizes}; beta={self.beta}, multipliers={self.multipliers}, {options}, step={self.step})"

    def __copy__(self) -> SSG:
        """An SSG whose generation goes on from here on its own."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__, generation=copy.copy(self.generation))
        return twin

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(h, w) of each scale."""
        return self.generation.sizes

    @property
    def step(self) -> int:
        """Scales of this generation seen so far, 0..K-1; 0 again after the last one."""
        return self.generation.step

    def reset(self) -> None:
        """Begin a new generation: the next call is the first scale."""
        self.generation.reset()

    def skip(self) -> None:
        """Leave out the scale that is due. The prior of the next scale comes from the last scale that came."""
        self.generation.skip()

    def __call__(
        self, logits: Tensor, cfg: float | Tensor | None = None, *, out: Tensor | None = None
    ) -> Tensor:
        """Guide the logits of the next scale.

        Args:
            logits: raw logits of this scale, (B, L, V) with L = h*w or t*h*w, float32, bfloat16, float16 or float64,
                of any strides. With `cfg`: (2B, L, V), the conditional half first, then the unconditional.
            cfg: t of classifier-free guidance, (1 + t) * conditional - t * unconditional, at this scale: a
                float or a tensor of shape () or (B,). The previous logits are merged with the t of their own
                scale. It is given at every scale of a generation or at none.
            out: a tensor for the result, as in `guided_logits`; it may be `logits` itself.

        Returns:
            Guided logits, (B, L, V), in the dtype of `logits`; with `cfg` merged and guided. Without `out` they
            are a new contiguous tensor. A scale that is not guided comes back as a copy, with `cfg` merged.

        Raises:
            ValueError: L is not that of the size which is due (the message says which, and the step); B, dtype or
                device changed within a pyramid; `cfg` came or went within a pyramid.
            ValueError, RuntimeError: whatever `guided_logits` and `guided_logits_cfg` raise.
                After an error the SSG is as it was before the call.
        """
        generation = self.generation
        step = generation.due(logits)
        generation.check(step, logits, cfg, self._tensor_beta)
        # A copy, and made first: `out` may overwrite the logits, and samplers mask theirs with -inf in place.
        kept = _copy(logits) if generation.keeps(step) else None
        if generation.guides(step, logits):
            assert generation.prev_logits is not None
            device = logits.device if torch.compiler.is_compiling() else None
            scale = self.scale(step, device, generation.prev_step)
            guided = self.guide(scale, logits, generation.prev_logits, cfg, generation.prev_cfg, out=out)
        else:
            guided = _copy(logits) if cfg is None else merge_cfg(logits, cfg)
            if out is not None:
                guided = out.copy_(guided)
        generation.remember(kept, cfg, step)
        return guided

    def check(self, step: int, logits: Tensor, cfg: float | Tensor | None = None) -> None:
        """Check that the logits of scale `step` fit this generation and its strengths; raises ValueError if not."""
        self.generation.check(step, logits, cfg, self._tensor_beta)

    def scale(
        self, step: int, device: torch.device | str | None = None, prev_step: int | None = None
    ) -> GuidedScale:
        """What :meth:`SSG.guide` needs to know of scale `step`. The first scale of a pyramid, 0, is not guided.

        Args:
            step: the index of the scale.
            device: of the logits. With a device beta is a tensor there, so that code which was compiled once serves
                every strength. Without one a float stays a float.
            prev_step: the index of the scale that the previous logits are of; the one before where it is None.
        """
        beta = self._tensor_beta
        if beta is not None:
            # Half-precision and integer strengths are scaled in float32.
            beta = beta.to(torch.promote_types(beta.dtype, torch.float32)) * self.multipliers[step]
            return self._scale(step, beta, prev_step)
        if device is None or not self._betas:
            is_next = prev_step is None or prev_step == step - 1
            return self._scales[step] if is_next else self._scale(step, self._scales[step].beta, prev_step)
        if self._betas[step].device != torch.device(device):
            self._betas = self._betas_on(torch.device(device))
        return self._scale(step, self._betas[step], prev_step)

    def _scale(self, step: int, beta: float | Tensor, prev_step: int | None = None) -> GuidedScale:
        grids = self.generation.grids
        prev = grids[max(step - 1, 0) if prev_step is None else prev_step]
        return GuidedScale(grids[step].size, prev.size, beta, grids[step].frames)

    def guide(
        self,
        scale: GuidedScale,
        logits: Tensor,
        prev_logits: Tensor,
        cfg: float | Tensor | None = None,
        prev_cfg: float | Tensor | None = None,
        *,
        out: Tensor | None = None,
    ) -> Tensor:
        """Guide logits by previous logits of your own. Nothing is kept: this is the form to compile for a loop.

        Args:
            scale: what :meth:`SSG.scale` returned.
            logits: raw logits of this scale, as in a call.
            prev_logits: raw logits of the previous scale.
            cfg, prev_cfg: t of classifier-free guidance of the two scales, both or neither.
            out: as in a call.

        Returns:
            Guided logits, as in a call.

        Raises:
            ValueError, RuntimeError: whatever `guided_logits` and `guided_logits_cfg` raise.
        """
        if scale.frames > 1:
            return self._guide_frames(scale, logits, prev_logits, cfg, prev_cfg, out)
        size, prev_size, beta, _ = scale
        if cfg is None:
            return guided_logits(logits, prev_logits, size, prev_size, beta, *self.options, out=out)
        assert prev_cfg is not None
        return guided_logits_cfg(
            logits, prev_logits, size, prev_size, beta, cfg, prev_cfg, *self.options, out=out
        )

    def _guide_frames(
        self,
        scale: GuidedScale,
        logits: Tensor,
        prev_logits: Tensor,
        cfg: float | Tensor | None,
        prev_cfg: float | Tensor | None,
        out: Tensor | None,
    ) -> Tensor:
        """Guide each frame as a sample of its own: (B, t*h*w, V) is (B*t, h*w, V)."""
        t = scale.frames

        def apart(logits: Tensor) -> Tensor:
            return logits.unflatten(1, (t, -1)).flatten(0, 1)

        def of_each(strength: Any) -> Any:
            return strength.repeat_interleave(t) if getattr(strength, "ndim", 0) else strength

        written = out if out is not None and out.is_contiguous() else None
        guided = self.guide(
            scale._replace(beta=of_each(scale.beta), frames=1), apart(logits), apart(prev_logits), of_each(cfg),
            of_each(prev_cfg), out=None if written is None else apart(written),
        )  # fmt: skip
        if written is not None:
            return written
        guided = guided.unflatten(0, (-1, t)).flatten(1, 2)
        return guided if out is None else out.copy_(guided)

    def _betas_on(self, device: torch.device) -> tuple[Tensor, ...]:
        assert not isinstance(self.beta, Tensor)
        dtype = torch.float32 if device.type == "mps" else torch.float64
        # Outside inference mode, so that autograd may save them whichever mode the SSG was made in.
        with torch.inference_mode(False):
            betas = torch.tensor([self.beta * m for m in self.multipliers], dtype=dtype, device=device)
            return betas.unbind()


def _copy(logits: Tensor) -> Tensor:
    return logits.clone(memory_format=torch.contiguous_format)


def _as_beta(beta: SupportsFloat | Tensor) -> float | Tensor:
    if isinstance(beta, Tensor):
        if beta.ndim > 1:
            raise ValueError(
                f"SSG: beta must be a float or a tensor of shape () or (B,), got shape {tuple(beta.shape)}"
            )
        if beta.is_complex():
            raise ValueError(f"SSG: beta must be a real tensor, got {beta.dtype}")
        return beta
    number = as_finite(beta)
    if number is None:
        raise ValueError(f"SSG: beta must be a finite number or a tensor of shape () or (B,), got {beta!r}")
    return number


def _as_multipliers(schedule: str | Sequence[SupportsFloat], pyramids: tuple[int, ...]) -> tuple[float, ...]:
    """m_k of every scale, with K of each pyramid."""
    total = sum(pyramids)
    count = pyramids[0] if len(set(pyramids)) == 1 else total
    if isinstance(schedule, str):
        if schedule == "linear":
            return tuple(1 - step / K for K in pyramids for step in range(K))
        if schedule == "static":
            return (1.0,) * total
        raise ValueError(f"SSG: schedule must be 'linear', 'static' or {count} numbers, got {schedule!r}")
    items = items_of(schedule)
    if items is None:
        raise ValueError(f"SSG: schedule must hold 'linear', 'static' or {count} numbers, got {schedule!r}")
    if len(items) == count:
        items = items * (total // count)
    if len(items) != total:
        raise ValueError(f"SSG: schedule must hold one number per scale, {count}, got {len(items)}")
    multipliers = [as_finite(item) for item in items]
    for step, multiplier in enumerate(multipliers):
        if multiplier is None:
            raise ValueError(
                f"SSG: schedule must hold finite numbers, got {items[step]!r} at scale {step + 1}"
            )
    return tuple(m for m in multipliers if m is not None)


def _as_choice(name: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError(f"SSG: {name} must be one of {quoted(choices)}, got {value!r}")
    return value
