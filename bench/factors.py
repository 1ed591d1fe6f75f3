"""The linear map of the ``dse`` prior with bilinear interpolation, built in float64 from PyTorch alone.

Nothing here comes from ssg_kernels, so the baselines that use these matrices are an independent check.

An axis that goes from n to N points has three factors. U interpolates. B = C_N[:n]^T C_n copies the coarse spectrum
into the fine one. G = C_N[:n]^T C_N[:n] U is the low band of the interpolated signal, which the splice removes. Then
prior = U x U^T + B x B^T - G x G^T.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SIGNS = (1.0, 1.0, -1.0)


def dct_matrix(n: int) -> Tensor:
    """(n, n) orthonormal DCT-II matrix."""
    k = torch.arange(n, dtype=torch.float64)
    matrix = torch.cos(math.pi / n * torch.outer(k, k + 0.5)) * math.sqrt(2 / n)
    matrix[0] = math.sqrt(1 / n)
    return matrix


def interpolation_matrix(n: int, m: int) -> Tensor:
    """(m, n) matrix of bilinear ``torch.nn.functional.interpolate`` along one axis."""
    columns = torch.eye(n, dtype=torch.float64).reshape(1, n, n, 1)
    return torch.nn.functional.interpolate(columns, size=(m, 1), mode="bilinear")[0, :, :, 0].T


def axis_terms(n: int, m: int) -> Tensor:
    """(3, m, n): U, B and G of one axis."""
    low = dct_matrix(m)[:n]
    upsample = interpolation_matrix(n, m)
    return torch.stack((upsample, low.T @ dct_matrix(n), low.T @ low @ upsample))


def dense_operator(prev_size: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """(L, L') matrix of the whole prior."""
    rows, cols = (axis_terms(n, m) for n, m in zip(prev_size, size, strict=True))
    return sum(
        (
            sign * torch.kron(r.contiguous(), c.contiguous())
            for sign, r, c in zip(SIGNS, rows, cols, strict=True)
        ),
        start=torch.zeros((), dtype=torch.float64),
    )
