"""Scaled spatial guidance over the scales of one generation."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any, SupportsFloat

import torch
from torch import Tensor

from ssg_kernels._checks import DTYPES, INTERPOLATIONS, PRIORS, strength
from ssg_kernels.ops import guided_logits, guided_logits_cfg

__all__ = ["SSG"]


class SSG:
    r"""The guidance of one generation: call it with each scale's raw logits in turn, get guided logits back.

    With k = 1..K counting the scales, and P the prior, which carries the previous scale's grid to this one,

    .. math:: \ell_k^{SSG} = \ell_k + \beta_k (\ell_k - P \ell_{k-1}), \qquad \ell_1^{SSG} = \ell_1

    (Eq. 8 and Alg. 2 of the paper). What it keeps is a copy of the previous scale's raw logits and the number
    of scales seen: nothing done in place to what it was given or to what it returned reaches the next scale.
    The copy is freed with the last scale.

    Args:
        sizes: the K grids of a generation, each (h, w), or an int n for (n, n). Neither side may shrink; a
            grid may repeat.
        beta: the strength, a float or a tensor of shape () or (B,) on the device of the logits. A tensor is
            read at every call, so its values may be changed in place between calls, or between replays of a
            captured graph.
        schedule: the multipliers m_k of beta_k = beta * m_k. "linear", the paper's decay, is 1 - (k-1)/K;
            "static" is 1; K numbers are the multipliers themselves, so with beta = 1 they are the beta_k. The
            first is not used, since the first scale is not guided.
        prior: "dse", "dse_zero_pad" or "spatial", as in `guided_logits`.
        interpolation: "nearest", "bilinear", "bicubic" or "area", likewise.
        rescale: keep the amplitude of the coarse spectrum instead of its coefficients, likewise.

    Raises:
        ValueError: an argument is none of the above; the message names it, its value and what was expected.

    After the last scale a new generation begins by itself. It also does where one ended early: logits with
    the token count of the first size begin a new generation wherever another count is due. Where that same
    count is due (a diffusion sampler with one grid, stopped half-way) only `reset` can tell. An SSG serves
    one generation at a time; two that interleave need one each.

    Under `torch.compile(fullgraph=True)` a loop over all scales becomes one graph, which serves every
    strength. Calls that are compiled one by one are compiled once per scale, since the step is Python state.

    Example::

        sizes = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
        ssg = SSG(sizes, beta=0.5)
        for n in sizes:
            logits = ...                   # the model's, (B, n*n, V)
            tokens = sample(ssg(logits))   # guided, (B, n*n, V)
    """

    sizes: tuple[tuple[int, int], ...]
    beta: float | Tensor
    multipliers: tuple[float, ...]

    def __init__(
        self,
        sizes: Sequence[int | tuple[int, int]],
        beta: SupportsFloat | Tensor,
        schedule: str | Sequence[SupportsFloat] = "linear",
        prior: str = "dse",
        interpolation: str = "bilinear",
        rescale: bool = False,
    ) -> None:
        self.sizes = _as_sizes(sizes)
        self.beta = _as_beta(beta)
        self.multipliers = _as_multipliers(schedule, len(self.sizes))
        self.prior = _as_choice("prior", prior, PRIORS)
        self.interpolation = _as_choice("interpolation", interpolation, INTERPOLATIONS)
        self.rescale = bool(rescale)
        # beta_k where beta is a float: tensors, so that torch.compile serves every strength with one graph.
        self._betas: tuple[Tensor, ...] = ()
        if not isinstance(self.beta, Tensor):
            self._betas = self._betas_on(torch.device("cpu"))
        self.reset()

    def __repr__(self) -> str:
        sizes = ", ".join(f"{h}x{w}" for h, w in self.sizes)
        return (
            f"SSG({sizes}; beta={self.beta}, multipliers={self.multipliers}, prior={self.prior!r}, "
            f"interpolation={self.interpolation!r}, rescale={self.rescale}, step={self._step})"
        )

    @property
    def step(self) -> int:
        """Scales of this generation seen so far, 0..K-1; 0 again after the last one."""
        return self._step

    def reset(self) -> None:
        """Begin a new generation: the next call is the first scale."""
        self._step = 0
        self._prev_logits: Tensor | None = None
        self._prev_cfg: float | Tensor | None = None

    def __call__(self, logits: Tensor, cfg: float | Tensor | None = None) -> Tensor:
        """Guide the logits of the next scale.

        Args:
            logits: raw logits of this scale, (B, L, V) with L = h*w, float32, bfloat16, float16 or float64,
                of any strides. With `cfg`: (2B, L, V), the conditional half first, then the unconditional.
            cfg: t of classifier-free guidance, (1 + t) * conditional - t * unconditional, at this scale: a
                float or a tensor of shape () or (B,). The previous logits are merged with the t of their own
                scale. It is given at every scale of a generation or at none.

        Returns:
            Guided logits, (B, L, V), contiguous, in the dtype of `logits` and never an alias of them; with
            `cfg` merged and guided. The first scale comes back as a copy, with `cfg` merged.

        Raises:
            ValueError: L is not that of the size which is due (the message says which, and the step); B, V,
                dtype or device changed within a generation; `cfg` came or went within a generation.
            ValueError, RuntimeError: whatever `guided_logits` and `guided_logits_cfg` raise.
                After an error the SSG is as it was before the call.
        """
        return self._advance(logits, cfg)

    def _advance(
        self, logits: Tensor, cfg: float | Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        """`__call__`, with the result written into `out`, which may be `logits` itself."""
        step = self._step_of(logits)
        self._check(logits, cfg, step)
        is_last = step + 1 == len(self.sizes)
        # A copy, and made first: `out` may overwrite the logits, and samplers mask theirs with -inf in place.
        kept = None if is_last else _copy(logits)
        if step:
            guided = self._guided(logits, cfg, step, out)
        else:
            guided = _copy(logits) if cfg is None else _merged(logits, cfg)
            if out is not None:
                guided = out.copy_(guided)
        self._remember(kept, cfg, step)
        return guided

    def _remember(self, logits: Tensor | None, cfg: float | Tensor | None, step: int) -> None:
        """Ends a step: the next one reads these as the previous scale's, but nothing does after the last."""
        if step + 1 == len(self.sizes):
            self.reset()
            return
        self._prev_logits = logits
        self._prev_cfg = cfg.clone() if isinstance(cfg, Tensor) else cfg
        self._step = step + 1

    def _keep_rows(self, rows: int) -> None:
        """Go on with the first `rows` of the batch: what is left where a sampler stops its cfg half-way."""
        if self._prev_logits is not None:
            self._prev_logits = self._prev_logits[:rows]

    def _guided(
        self, logits: Tensor, cfg: float | Tensor | None, step: int, out: Tensor | None = None
    ) -> Tensor:
        prev_logits, prev_cfg = self._prev_logits, self._prev_cfg
        assert prev_logits is not None
        size, prev_size, beta = self.sizes[step], self.sizes[step - 1], self._beta_of(step, logits.device)
        options = (self.prior, self.interpolation, self.rescale)
        if cfg is None:
            return guided_logits(logits, prev_logits, size, prev_size, beta, *options, out=out)
        assert prev_cfg is not None
        return guided_logits_cfg(logits, prev_logits, size, prev_size, beta, cfg, prev_cfg, *options, out=out)

    def _beta_of(self, step: int, device: torch.device) -> Tensor:
        if not self._betas:
            assert isinstance(self.beta, Tensor)
            # Half-precision and integer strengths are scaled in float32.
            return self.beta.to(torch.promote_types(self.beta.dtype, torch.float32)) * self.multipliers[step]
        if self._betas[step].device != device:
            self._betas = self._betas_on(device)
        return self._betas[step]

    def _betas_on(self, device: torch.device) -> tuple[Tensor, ...]:
        assert not isinstance(self.beta, Tensor)
        dtype = torch.float32 if device.type == "mps" else torch.float64
        # Outside inference mode, so that autograd may save them whichever mode the SSG was made in.
        with torch.inference_mode(False):
            betas = torch.tensor([self.beta * m for m in self.multipliers], dtype=dtype, device=device)
            return betas.unbind()

    def _step_of(self, logits: Tensor) -> int:
        if logits.ndim != 3:
            raise ValueError(f"SSG: logits must be a 3-D tensor (B, L, V), got {logits.ndim}-D")
        tokens = logits.shape[1]
        h, w = self.sizes[self._step]
        if tokens == h * w:
            return self._step
        first_h, first_w = self.sizes[0]
        if tokens == first_h * first_w:
            return 0
        raise ValueError(
            f"SSG: {self._at(self._step)} expects size ({h}, {w}), L = {h * w} tokens, got L = {tokens}; "
            f"a new generation begins with size ({first_h}, {first_w}), L = {first_h * first_w}"
        )

    def _at(self, step: int) -> str:
        return f"step {step + 1} of {len(self.sizes)}"

    def _check(self, logits: Tensor, cfg: float | Tensor | None, step: int) -> None:
        if logits.dtype not in DTYPES:
            raise ValueError(f"SSG: logits must be float32, bfloat16, float16 or float64, got {logits.dtype}")
        rows = batch = logits.shape[0]
        if cfg is not None:
            if rows % 2:
                raise ValueError(f"SSG: logits must hold an even batch, conditional half first, got {rows}")
            batch = rows // 2
            strength("SSG", "cfg", cfg, batch, logits.device)
        if not self._betas:
            strength("SSG", "beta", self.beta, batch, logits.device)
        prev = self._prev_logits
        if step == 0 or prev is None:
            return
        if (cfg is None) != (self._prev_cfg is None):
            came = "got none" if cfg is None else "got one after scales without"
            raise ValueError(
                f"SSG: cfg must be given at every scale of a generation or at none, {self._at(step)} {came}"
            )
        for name, got, due in (
            ("batch", rows, prev.shape[0]),
            ("vocabulary", logits.shape[2], prev.shape[2]),
            ("dtype", logits.dtype, prev.dtype),
            ("device", logits.device, prev.device),
        ):
            if got != due:
                raise ValueError(
                    f"SSG: logits must have the {name} of the previous scale, {due}, got {got} "
                    f"at {self._at(step)}; reset() begins a new generation"
                )


def _copy(logits: Tensor) -> Tensor:
    return logits.clone(memory_format=torch.contiguous_format)


def _merged(logits: Tensor, cfg: float | Tensor) -> Tensor:
    """(2B, L, V) to (B, L, V), (1 + t) * conditional - t * unconditional; a conditional -inf stays -inf."""
    cond, uncond = logits.to(torch.promote_types(logits.dtype, torch.float32)).chunk(2)
    t = cfg.to(cond.dtype).reshape(-1, 1, 1) if isinstance(cfg, Tensor) else cfg
    merged = (1 + t) * cond - t * uncond
    return merged.masked_fill(cond == -math.inf, -math.inf).to(logits.dtype)


def _as_sizes(sizes: Sequence[int | tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    pairs: list[tuple[int, int]] = []
    for size in _as_items("sizes", "ints or (h, w) pairs", sizes):
        pair, scale = _as_pair(size), len(pairs) + 1
        if min(pair) < 1:
            raise ValueError(
                f"SSG: sizes must be positive ints or (h, w) pairs of them, got {size!r} at scale {scale}"
            )
        if pairs and (pair[0] < pairs[-1][0] or pair[1] < pairs[-1][1]):
            raise ValueError(f"SSG: sizes must not shrink, got {pair} after {pairs[-1]} at scale {scale}")
        pairs.append(pair)
    if not pairs:
        raise ValueError("SSG: sizes must hold at least one scale, got none")
    return tuple(pairs)


def _as_pair(size: Any) -> tuple[int, int]:
    """(h, w), or (0, 0) for what is no size."""
    try:
        h, w = size if isinstance(size, Iterable) else (size, size)
        return operator.index(h), operator.index(w)
    except (TypeError, ValueError):
        return 0, 0


def _as_beta(beta: SupportsFloat | Tensor) -> float | Tensor:
    if isinstance(beta, Tensor):
        if beta.ndim > 1:
            raise ValueError(
                f"SSG: beta must be a float or a tensor of shape () or (B,), got shape {tuple(beta.shape)}"
            )
        if beta.is_complex():
            raise ValueError(f"SSG: beta must be a real tensor, got {beta.dtype}")
        return beta
    number = _as_number(beta)
    if not math.isfinite(number):
        raise ValueError(f"SSG: beta must be a finite number or a tensor of shape () or (B,), got {beta!r}")
    return number


def _as_multipliers(schedule: str | Sequence[SupportsFloat], count: int) -> tuple[float, ...]:
    if isinstance(schedule, str):
        if schedule == "linear":
            return tuple(1 - step / count for step in range(count))
        if schedule == "static":
            return (1.0,) * count
        raise ValueError(f"SSG: schedule must be 'linear', 'static' or {count} numbers, got {schedule!r}")
    items = _as_items("schedule", f"'linear', 'static' or {count} numbers", schedule)
    if len(items) != count:
        raise ValueError(f"SSG: schedule must hold one number per scale, {count}, got {len(items)}")
    multipliers = tuple(_as_number(item) for item in items)
    for step, multiplier in enumerate(multipliers):
        if not math.isfinite(multiplier):
            raise ValueError(
                f"SSG: schedule must hold finite numbers, got {items[step]!r} at scale {step + 1}"
            )
    return multipliers


def _as_choice(name: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError(f"SSG: {name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def _as_items(name: str, expected: str, value: Any) -> list[Any]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError(f"SSG: {name} must hold {expected}, got {value!r}")
    return list(value)


def _as_number(value: object) -> float:
    """The float that `value` is, or NaN."""
    try:
        return float(value) if isinstance(value, SupportsFloat) else math.nan
    except (TypeError, ValueError):
        return math.nan
