"""Random calls of the operators: sizes, options, dtypes, strengths and memory layouts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from hypothesis import strategies as st
from torch import Tensor

from ssg_kernels._names import DTYPES, INTERPOLATIONS, PRIORS

# The most elements that the logits of a scale may have, so that an example takes milliseconds.
_MAX_ELEMENTS = 100_000


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int | None = None) -> Tensor:
    """Standard-normal logits times 4, rounded to `dtype`."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return (4 * torch.randn(*shape, dtype=torch.float64, generator=generator)).to(dtype)


def _inside(
    shape: tuple[int, ...], like: Tensor, window: Callable[[Tensor], Tensor], values: Tensor
) -> Tensor:
    """A view that holds `values`: the `window` of a tensor of `shape`, which is NaN elsewhere."""
    view = window(torch.full(shape, torch.nan, dtype=like.dtype))
    view.copy_(values)
    return view


def _offset(x: Tensor) -> Tensor:
    return _inside((x.numel() + 1,), x, lambda t: t[1:].view(x.shape), x)


def _half_of_batch(x: Tensor) -> Tensor:
    b, n, v = x.shape
    return _inside((2 * b, n, v), x, lambda t: t[b:], x)


def _every_other_sample(x: Tensor) -> Tensor:
    b, n, v = x.shape
    return _inside((2 * b, n, v), x, lambda t: t[1::2], x)


def _token_slice(x: Tensor) -> Tensor:
    b, n, v = x.shape
    return _inside((b, n + 5, v), x, lambda t: t[:, 2 : 2 + n], x)


def _every_other_token(x: Tensor) -> Tensor:
    b, n, v = x.shape
    return _inside((b, 2 * n, v), x, lambda t: t[:, 1::2], x)


def _vocabulary_slice(x: Tensor) -> Tensor:
    b, n, v = x.shape
    return _inside((b, n, v + 7), x, lambda t: t[..., 3 : 3 + v], x)


def _every_other_column(x: Tensor) -> Tensor:
    b, n, v = x.shape
    return _inside((b, n, 2 * v), x, lambda t: t[..., 1::2], x)


def _channel_major(x: Tensor) -> Tensor:
    return x.mT.contiguous().mT


def _tokens_first(x: Tensor) -> Tensor:
    return x.transpose(0, 1).contiguous().transpose(0, 1)


# Each layout returns a view with the values of x. The last three repeat one sample, token or column of x.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.clone(),
    "offset": _offset,
    "half_of_batch": _half_of_batch,
    "every_other_sample": _every_other_sample,
    "token_slice": _token_slice,
    "every_other_token": _every_other_token,
    "vocabulary_slice": _vocabulary_slice,
    "every_other_column": _every_other_column,
    "channel_major": _channel_major,
    "tokens_first": _tokens_first,
    "one_sample": lambda x: x[:1].clone().expand_as(x),
    "one_token": lambda x: x[:, :1].clone().expand_as(x),
    "one_column": lambda x: x[..., :1].clone().expand_as(x),
}
# The layouts that an `out` may have: no two elements share memory, and the vocabulary is contiguous.
OUT_LAYOUTS = (
    "contiguous",
    "offset",
    "half_of_batch",
    "every_other_sample",
    "token_slice",
    "every_other_token",
    "vocabulary_slice",
    "tokens_first",
)


@dataclass(frozen=True)
class Call:
    """One call of an operator. Hypothesis draws it, and a failure prints it."""

    size: tuple[int, int]
    prev_size: tuple[int, int]
    batch: int = 2
    vocabulary: int = 16
    dtype: torch.dtype = torch.float32
    prior: str = "dse"
    interpolation: str = "bilinear"
    rescale: bool = False
    is_cfg: bool = False
    # "float", "scalar" (0-d) or "vector" (B,) for each of beta, cfg, prev_cfg.
    kinds: tuple[str, str, str] = ("float", "float", "float")
    layout: str = "contiguous"
    prev_layout: str = "contiguous"
    seed: int = 0
    options: tuple[str, str, bool] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", (self.prior, self.interpolation, self.rescale))

    def logits(self) -> Tensor:
        return self._logits(self.size, self.layout, 0)

    def prev_logits(self) -> Tensor:
        return self._logits(self.prev_size, self.prev_layout, 1)

    def strengths(self) -> tuple[float | Tensor, ...]:
        """beta, and for a call with cfg also t and the t of the previous scale."""
        generator = torch.Generator().manual_seed(self.seed + 2)
        names = ("beta", "cfg", "prev_cfg") if self.is_cfg else ("beta",)
        strengths: list[float | Tensor] = []
        for _, kind in zip(names, self.kinds, strict=False):
            values = torch.rand(max(self.batch, 1), dtype=torch.float64, generator=generator) * 3 - 0.5
            # float32 can hold these values, so that a float and a tensor of it are the same strength.
            values = values.float()
            strengths.append(
                {"float": values[0].item(), "scalar": values[0], "vector": values[: self.batch]}[kind]
            )
        return tuple(strengths)

    def _logits(self, size: tuple[int, int], layout: str, salt: int) -> Tensor:
        rows = 2 * self.batch if self.is_cfg else self.batch
        values = normal(rows, size[0] * size[1], self.vocabulary, dtype=self.dtype, seed=self.seed + salt)
        return LAYOUTS[layout](values)


@st.composite
def sides(draw: st.DrawFn, largest: int) -> tuple[int, int]:
    """n' and n of one axis, with n' <= n. They are often equal."""
    n = draw(st.integers(1, largest))
    return draw(st.one_of(st.just(n), st.integers(1, n))), n


@st.composite
def calls(draw: st.DrawFn, *, largest: int = 24, dtypes: tuple[torch.dtype, ...] = DTYPES) -> Call:
    """Any valid call. A side of its grids is at most `largest`; grids need not be square."""
    (prev_h, h), (prev_w, w) = draw(sides(largest)), draw(sides(largest))
    is_cfg = draw(st.booleans())
    batch = draw(st.integers(0, 3))
    widest = max(1, min(400, _MAX_ELEMENTS // (h * w * max(1, batch) * (2 if is_cfg else 1))))
    layouts = st.sampled_from(list(LAYOUTS))
    return Call(
        size=(h, w),
        prev_size=(prev_h, prev_w),
        batch=batch,
        vocabulary=draw(st.one_of(st.integers(1, min(40, widest)), st.integers(1, widest))),
        dtype=draw(st.sampled_from(dtypes)),
        prior=draw(st.sampled_from(PRIORS)),
        interpolation=draw(st.sampled_from(INTERPOLATIONS)),
        rescale=draw(st.booleans()),
        is_cfg=is_cfg,
        kinds=draw(st.tuples(*[st.sampled_from(("float", "scalar", "vector"))] * 3)),
        layout=draw(layouts),
        prev_layout=draw(layouts),
        seed=draw(st.integers(0, 2**31)),
    )
