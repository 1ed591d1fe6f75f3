"""The factors of the prior in float64, folded and padded into the tables that the kernels read.

docs/method.md defines the matrices. For an axis from n to N points, U interpolates, B copies the coarse spectrum, and
G is the low band of the interpolated signal. The prior is a sum of terms H x W^T of these factors.

Let J reverse an axis. The axis is symmetric if J M J = M for each of its factors M. Such an M maps even signals to
even ones and odd signals to odd ones. A kernel then forms x_i + x_i' and x_i - x_i' of each point i and its mirror i',
and multiplies each by a half of M (`fold`). The outputs r and r' are the sum and the difference of the two products.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ssg_kernels import reference
from ssg_kernels._names import PRIOR_TERMS

Size = tuple[int, int]
Term = tuple[Tensor, Tensor]


def axis_factors(n: int, m: int, interpolation: str, rescale: bool) -> dict[str, Tensor]:
    """The factors U, B and G of an axis from n to m points: (m, n) each, in float64 on the CPU."""
    if n == m:
        # The exact identity, without rounding errors: at equal sizes the prior is the previous logits themselves.
        return dict.fromkeys("UBG", torch.eye(n, dtype=torch.float64, device="cpu"))
    with torch.device("cpu"):
        u = reference.interpolation_weights(n, m, interpolation).contiguous()
        low = reference.dct_matrix(m)[:n]
        gain = math.sqrt(m / n) if rescale else 1.0
        return {"U": u, "B": gain * (low.mT @ reference.dct_matrix(n)), "G": low.mT @ (low @ u)}


def term_count(size: Size, prev_size: Size, prior: str) -> int:
    """How many terms `prior_terms` returns: one if an axis does not grow, because its factors are all the identity."""
    grows = all(n < m for n, m in zip(prev_size, size, strict=True))
    return len(PRIOR_TERMS[prior]) if grows else 1


def prior_terms(
    size: Size, prev_size: Size, prior: str, interpolation: str, rescale: bool, transpose: bool
) -> list[Term]:
    """(H, W) of each term of the prior, or of its transpose. If an axis does not grow, one term is the sum of all."""
    h, w = (axis_factors(n, m, interpolation, rescale) for n, m in zip(prev_size, size, strict=True))
    terms = [(sign * h[factor], w[factor]) for sign, factor in PRIOR_TERMS[prior]]
    if size[1] == prev_size[1]:
        terms = [(torch.stack([a for a, _ in terms]).sum(0), terms[0][1])]
    elif size[0] == prev_size[0]:
        signed = [sign * w[factor] for sign, factor in PRIOR_TERMS[prior]]
        terms = [(h["U"], torch.stack(signed).sum(0))]
    return [(a.mT.contiguous(), b.mT.contiguous()) for a, b in terms] if transpose else terms


@functools.cache
def is_symmetric(n: int, m: int, prior: str, interpolation: str) -> bool:
    """Whether every factor of an axis from n to m points is symmetric. B always is, and G is if U is."""
    if n == m or all(factor == "B" for _, factor in PRIOR_TERMS[prior]):
        return True
    u = reference.interpolation_weights(n, m, interpolation)
    return torch.allclose(u, u.flip(0, 1), rtol=0, atol=1e-13)


def fold(factor: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """An (N, n) factor in quarters, (ceil(N/2), ceil(n/2)) each: even to even, odd to odd, odd to even, even to odd.

    They multiply x_i + x_i' (even) and x_i - x_i' (odd). The outputs r and r' are the sum and the difference of what
    they give. The last two are zero if the factor is symmetric. A middle point is its own mirror and counts twice in
    the sum, so its even column is halved.
    """
    outputs, inputs = ((n + 1) // 2 for n in factor.shape)
    quarters = []
    for rows, columns in ((1, 1), (-1, -1), (1, -1), (-1, 1)):
        half = (factor + rows * factor.flip(0))[:outputs] / 2
        quarter = (half + columns * half.flip(1))[:, :inputs] / 2
        if columns == 1 and factor.shape[1] % 2:
            quarter[:, -1] /= 2
        quarters.append(quarter)
    even, odd, odd_to_even, even_to_odd = quarters
    return even, odd, odd_to_even, even_to_odd


def dense_table(terms: Sequence[Term], halves: bool, rows: int, columns: int) -> Tensor:
    """The prior as a table (quarters, rows, columns) of matrices of tokens by tokens.

    It holds one matrix, or with `halves` four: (even, odd) along h times (even, odd) along w. Columns of zeros, and the
    first row again, pad each matrix to multiples of `rows` and `columns`. Rows of zeros, or of a middle token, would
    look as if float16 had lost the logits (`common.py`).
    """
    if not halves:
        return _padded([_summed(terms)], rows, columns)
    folded = [(fold(h), fold(w)) for h, w in terms]
    quarters = [_summed([(h[p], w[q]) for h, w in folded]) for p in (0, 1) for q in (0, 1)]
    return _padded(quarters, rows, columns)


def axis_table(factors: Sequence[Tensor], terms: int, rows: int, columns: int) -> Tensor:
    """The factors of one axis as a table (terms, rows, columns).

    Zeros pad it to `terms`, which is at least the number of factors. Columns of zeros, and the first row again, pad
    each factor to multiples of `rows` and `columns`.
    """
    return _padded([*factors, *[torch.zeros_like(factors[0])] * (terms - len(factors))], rows, columns)


def _summed(terms: Sequence[Term]) -> Tensor:
    return torch.stack([torch.kron(h, w) for h, w in terms]).sum(0)


def _padded(matrices: Sequence[Tensor], rows: int, columns: int) -> Tensor:
    height, width = matrices[0].shape
    table = matrices[0].new_zeros(len(matrices), -(-height // rows) * rows, -(-width // columns) * columns)
    for padded, matrix in zip(table, matrices, strict=True):
        padded[:height, :width] = matrix
        padded[height:, :width] = matrix[0]
    return table
