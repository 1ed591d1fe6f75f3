"""The guidance step as people usually write it first: permute, interpolate, FFT-based 2-D DCT, splice, inverse DCT.

The DCT follows the scheme of the torch-dct package: Makhoul's reordering, one FFT of the same length along the last
axis, and dct_2d by transposing. It uses today's ``torch.fft.rfft`` and ``irfft``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def dct(x: Tensor) -> Tensor:
    """Orthonormal DCT-II along the last axis."""
    n = x.shape[-1]
    v = torch.cat((x[..., ::2], x[..., 1::2].flip(-1)), dim=-1)
    k = torch.arange(n // 2 + 1, dtype=x.dtype, device=x.device) * (-math.pi / (2 * n))
    spectrum = torch.fft.rfft(v, dim=-1) * torch.complex(k.cos(), k.sin())
    # X[n - k] = -Im of the k-th twiddled coefficient, so the half spectrum of rfft is enough.
    out = torch.cat((spectrum.real, -spectrum.imag[..., 1 : (n + 1) // 2].flip(-1)), dim=-1)
    out = out * math.sqrt(2 / n)
    return torch.cat((out[..., :1] * math.sqrt(0.5), out[..., 1:]), dim=-1)


def idct(x: Tensor) -> Tensor:
    """Inverse of :func:`dct`: orthonormal DCT-III along the last axis."""
    n = x.shape[-1]
    half = n // 2 + 1
    coefficients = torch.cat((x[..., :1] * math.sqrt(2.0), x[..., 1:]), dim=-1) * math.sqrt(n / 2)
    mirrored = torch.cat((torch.zeros_like(x[..., :1]), -coefficients[..., 1:].flip(-1)), dim=-1)[..., :half]
    k = torch.arange(half, dtype=x.dtype, device=x.device) * (math.pi / (2 * n))
    spectrum = torch.complex(coefficients[..., :half], mirrored) * torch.complex(k.cos(), k.sin())
    v = torch.fft.irfft(spectrum, n=n, dim=-1)
    out = torch.empty_like(x)
    out[..., ::2] = v[..., : (n + 1) // 2]
    out[..., 1::2] = v[..., (n + 1) // 2 :].flip(-1)
    return out


def dct_2d(x: Tensor) -> Tensor:
    """Orthonormal 2-D DCT-II over the last two axes."""
    return dct(dct(x).transpose(-1, -2)).transpose(-1, -2)


def idct_2d(x: Tensor) -> Tensor:
    """Inverse of :func:`dct_2d`."""
    return idct(idct(x).transpose(-1, -2)).transpose(-1, -2)


def guided_logits_fft(
    logits: Tensor, prev_logits: Tensor, size: tuple[int, int], prev_size: tuple[int, int], beta: float
) -> Tensor:
    """Alg. 1 and 2 of the paper for ``prior="dse"``, bilinear, on (B, V, h, w) maps.

    float16 and bfloat16 logits are computed in float32, because ``torch.fft`` takes neither on the CPU.
    """
    work = torch.float32 if logits.dtype in (torch.float16, torch.bfloat16) else logits.dtype
    batch, _, vocab = logits.shape
    fine = logits.to(work).permute(0, 2, 1).reshape(batch, vocab, *size)
    coarse = prev_logits.to(work).permute(0, 2, 1).reshape(batch, vocab, *prev_size)
    spectrum = dct_2d(torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")).contiguous()
    spectrum[..., : prev_size[0], : prev_size[1]] = dct_2d(coarse)
    prior = idct_2d(spectrum)
    guided = fine + beta * (fine - prior)
    return guided.reshape(batch, vocab, -1).permute(0, 2, 1).contiguous().to(logits.dtype)
