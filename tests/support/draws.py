"""Random calls of `sample`, and checks that a backend keeps the tokens that the reference keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from ssg_kernels import reference
from support.strategies import DTYPES

INF = torch.inf

# Each kind makes (rows, V) float64 logits, which are rounded to the dtype later.
KINDS: dict[str, Callable[[tuple[int, int], torch.Generator], Tensor]] = {
    "normal": lambda shape, g: 4 * torch.randn(shape, generator=g, dtype=torch.float64),
    "narrow": lambda shape, g: 20 + torch.rand(shape, generator=g, dtype=torch.float64) / 64,
    "few_values": lambda shape, g: torch.randint(-2, 3, shape, generator=g).double(),
    "equal": lambda shape, g: torch.full(shape, 1.5, dtype=torch.float64),
    "zeros_of_both_signs": lambda shape, g: (
        torch.randint(0, 2, shape, generator=g).double().mul(-2).add(1) * 0.0
    ),
    "huge": lambda shape, g: 3e4 * torch.randn(shape, generator=g, dtype=torch.float64).clamp(-2, 2),
    "many_magnitudes": lambda shape, g: (
        -torch.exp(-30 + 33 * torch.rand(shape, generator=g, dtype=torch.float64))
    ),
    "ascending": lambda shape, g: torch.linspace(-9, 3, shape[1], dtype=torch.float64).expand(shape),
    "descending": lambda shape, g: torch.linspace(3, -9, shape[1], dtype=torch.float64).expand(shape),
    "one_hot": lambda shape, g: torch.full(shape, -INF, dtype=torch.float64).scatter(
        1, torch.randint(0, shape[1], (shape[0], 1), generator=g), 2.5
    ),
}
SCALES = (1.0, 2.0, 0.125, 1 / 0.7)


@dataclass(frozen=True)
class Draw:
    """One call of `sample`. Hypothesis draws it, and a failure prints it."""

    vocabulary: int
    batch: int = 2
    tokens: int = 3
    kind: str = "normal"
    masked: float = 0.0  # about this share of the columns is -inf
    dtype: torch.dtype = torch.float32
    top_k: int = 0
    top_p: float = 0.0
    scale: float = 1.0
    seed: int = 0

    def logits(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        values = KINDS[self.kind]((self.batch * self.tokens, self.vocabulary), generator).clone()
        if self.masked and self.kind != "one_hot":
            keep = torch.randint(0, self.vocabulary, (), generator=generator)
            gone = torch.rand(self.vocabulary, generator=generator) < self.masked
            values[:, gone & (torch.arange(self.vocabulary) != keep)] = -INF
        return values.to(self.dtype).view(self.batch, self.tokens, self.vocabulary)

    def uniform(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Random numbers. About half are multiples of 1/8, which may be the edge between two tokens of equal logits."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        shape = (self.batch, self.tokens)
        values = torch.rand(shape, generator=generator, dtype=dtype)
        on_edge = torch.rand(shape, generator=generator) < 0.5
        return torch.where(on_edge, (8 * values).floor() / 8, values)


@st.composite
def draws(draw: st.DrawFn, *, widest: int = 3000, dtypes: tuple[torch.dtype, ...] = DTYPES) -> Draw:
    vocabulary = draw(st.one_of(st.integers(1, 40), st.integers(1, widest)))
    return Draw(
        vocabulary=vocabulary,
        batch=draw(st.integers(0, 3)),
        tokens=draw(st.integers(1, 4)),
        kind=draw(st.sampled_from(list(KINDS))),
        masked=draw(st.sampled_from((0.0, 0.0, 0.5, 1.0))),
        dtype=draw(st.sampled_from(dtypes)),
        top_k=draw(st.one_of(st.just(0), st.just(1), st.integers(0, vocabulary))),
        top_p=draw(
            st.one_of(st.sampled_from((0.0, 1.0, 0.5, 0.75, 0.96, 1e-3, 1e-17)), st.floats(0, 1, width=32))
        ),
        scale=draw(st.sampled_from(SCALES)),
        seed=draw(st.integers(0, 2**31)),
    )


def edges(weights: Tensor) -> tuple[Tensor, Tensor]:
    """For weights (V,), uniforms (N,) in float64 near both edges of each token's share, and the tokens of these shares.

    A uniform is rounded to float64, which may move it by 2**-53 of the total. So tokens that weigh little beside that
    are left out, and the uniforms keep that distance from the edges.
    """
    running = weights.cumsum(0).double()
    total = running[-1]
    margin = max(0.5, 2.0**-51 * total.item())
    kept = (weights >= 2 * margin).nonzero().flatten()
    targets = torch.stack([(running - weights)[kept] + margin, running[kept] - margin], 1).flatten()
    return targets / total, kept.repeat_interleave(2)


def assert_same_choice(sampled: Callable[[Tensor, Tensor], Tensor], logits: Tensor, weights: Tensor) -> None:
    """Asserts that `sampled(logits, uniform)` chooses in every row as `weights` say, over the whole range of uniforms.

    So it never chooses a token that a filter removed, and it can choose every token that stays.
    """
    for row, row_weights in zip(logits.flatten(0, 1), weights.flatten(0, 1), strict=True):
        uniform, expected = edges(row_weights)
        tokens = sampled(row.expand(1, len(uniform), -1), uniform[None].to(row.device))
        assert tokens[0].tolist() == expected.tolist()


def probabilities(logits: Tensor, top_k: int, top_p: float) -> tuple[Tensor, Tensor]:
    """The probabilities as samplers compute them, with softmax, sort and cumsum in the dtype of the logits.

    The second result says how far the running probability of each token is from the limit of top-p.
    """
    if top_k > 0:
        logits = logits.where(logits >= logits.topk(top_k).values[..., -1:], -INF)
    distance = torch.full_like(logits, INF)
    if top_p > 0:
        ascending, order = logits.sort(stable=True)
        running = ascending.softmax(-1).cumsum(-1)
        goes = running <= 1 - top_p
        goes[..., -1] = False
        distance = distance.scatter(-1, order, (running - (1 - top_p)).abs())
        logits = logits.masked_fill(torch.zeros_like(goes).scatter(-1, order, goes), -INF)
    return logits.softmax(-1), distance


def chi_square(counts: Tensor, weights: Tensor) -> tuple[float, int]:
    """The chi-square statistic of counts (V,) against chances proportional to `weights`, and its degrees of freedom."""
    expected = counts.sum() * weights.double() / weights.sum()
    assert not counts[weights == 0].any()
    often = expected >= 10
    counts = torch.cat([counts[often], counts[~often].sum()[None]]).double()
    expected = torch.cat([expected[often], expected[~often].sum()[None]])
    met = expected > 0
    statistic = ((counts - expected)[met] ** 2 / expected[met]).sum().item()
    return statistic, int(met.sum()) - 1


def expected_tokens(call: Draw, logits: Tensor, uniform: Tensor) -> Tensor:
    return reference.sample_tempered(logits, uniform, call.scale, call.top_k, call.top_p)
