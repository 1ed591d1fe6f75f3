"""The contract: Alg. 1 and Alg. 2 of the SSG paper, line by line, and sampling, in plain PyTorch.

Logits are token-major, (B, L, V) with ``L = h*w`` and token t at row ``t // w``, column ``t % w``. float64 is
computed in float64; float32, bfloat16 and float16 in float32, rounded once at the end. Autograd differentiates
all of it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ssg_kernels import _checks
from ssg_kernels._call import GuidedCall, Options


def interpolate(x: Tensor, size: Sequence[int], mode: str) -> Tensor:
    """Maps (..., h', w') to (..., h, w) as `F.interpolate(align_corners=False)` does on float64 input.

    "nearest" takes the source floor(i*n/m) in exact integers, where `F.interpolate` rounds some indices wrongly.
    """
    (prev_h, prev_w), (h, w) = x.shape[-2:], size
    if mode == "nearest":
        rows, columns = nearest_sources(prev_h, h, x.device), nearest_sources(prev_w, w, x.device)
        return x[..., rows[:, None], columns]
    rows, columns = (
        interpolation_weights(prev_h, h, mode).to(x),
        interpolation_weights(prev_w, w, mode).to(x),
    )
    return product(rows, x, columns.mT)


def nearest_sources(n: int, m: int, device: torch.device) -> Tensor:
    """The source of each of m targets: floor(i*n/m) in exact integers, since `F.interpolate` gets some wrong."""
    return torch.arange(m, device=device) * n // m


def interpolation_weights(n: int, m: int, mode: str) -> Tensor:
    """The (m, n) weights with which interpolation takes n samples to m, in float64."""
    unit = torch.eye(n, dtype=torch.float64)
    if mode == "nearest":
        return unit[nearest_sources(n, m, unit.device)]
    # What `F.interpolate` makes of the unit vectors.
    align_corners = None if mode == "area" else False
    return F.interpolate(unit[None, :, :, None], (m, 1), mode=mode, align_corners=align_corners)[
        0, :, :, 0
    ].mT


def dct(x: Tensor) -> Tensor:
    """Orthonormal 2-D DCT-II of x over its last two dimensions."""
    return product(dct_matrix(x.shape[-2]).to(x), x, dct_matrix(x.shape[-1]).to(x).mT)


def idct(x: Tensor) -> Tensor:
    """The inverse of `dct`."""
    return product(dct_matrix(x.shape[-2]).to(x).mT, x, dct_matrix(x.shape[-1]).to(x))


def product(*matrices: Tensor) -> Tensor:
    """The product of the matrices in their own dtype: `torch.autocast` would multiply them in half precision."""
    device = matrices[0].device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            return functools.reduce(torch.matmul, matrices)
    return functools.reduce(torch.matmul, matrices)


def dct_matrix(n: int) -> Tensor:
    """C[k, i] = sqrt((1 if k == 0 else 2) / n) * cos(pi * k * (2i + 1) / 2n), in float64."""
    k = torch.arange(n)[:, None]
    i = torch.arange(n)
    # cos has period 4n in k * (2i + 1): reducing the integer first keeps the angle exact.
    angle = (k * (2 * i + 1) % (4 * n)).double() * (math.pi / (2 * n))
    return torch.cos(angle) * torch.where(k == 0, 1, 2).double().div(n).sqrt()


def dse_prior(
    prev_logits: Tensor,
    size: Sequence[int],
    prev_size: Sequence[int],
    prior: str = "dse",
    interpolation: str = "bilinear",
    rescale: bool = False,
) -> Tensor:
    """Alg. 1: the prior of a scale of `size` from the raw logits of the previous one.

    Args:
        prev_logits: (B, L', V), any of float32, bfloat16, float16, float64, on any device.
        size: (h, w) of this scale.
        prev_size: (h', w') of the previous one, h' <= h and w' <= w.
        prior: "dse", "dse_zero_pad" (zeros for the interpolated signal's high coefficients) or "spatial" (the
            interpolated signal itself).
        interpolation: "nearest", "bilinear", "bicubic" or "area".
        rescale: multiply the spliced coefficients by ``sqrt(hw / (h'w'))``, so that a constant map keeps its
            value.

    Returns:
        (B, L, V) in the dtype of prev_logits.
    """
    options = Options(prior, interpolation, rescale)
    _checks.prior_source("dse_prior", prev_logits, size, prev_size, options)
    result = _prior(_accurate(prev_logits), size, prev_size, options)
    return result.to(prev_logits.dtype)


def guided_logits(
    logits: Tensor,
    prev_logits: Tensor,
    size: Sequence[int],
    prev_size: Sequence[int],
    beta: Tensor | float,
    prior: str = "dse",
    interpolation: str = "bilinear",
    rescale: bool = False,
) -> Tensor:
    """Alg. 2: logits + beta * (logits - prior), (B, L, V); a logit of -inf stays -inf.

    `beta` is a float or a tensor of shape () or (B,); the other arguments are those of `dse_prior`.
    """
    options = Options(prior, interpolation, rescale)
    call = GuidedCall("guided_logits", logits, prev_logits, size, prev_size, (beta,), options)
    _checks.guided(call)
    return compute(call)


def guided_logits_cfg(
    logits: Tensor,
    prev_logits: Tensor,
    size: Sequence[int],
    prev_size: Sequence[int],
    beta: Tensor | float,
    cfg: Tensor | float,
    prev_cfg: Tensor | float,
    prior: str = "dse",
    interpolation: str = "bilinear",
    rescale: bool = False,
) -> Tensor:
    """Alg. 2 on logits merged by classifier-free guidance, (1 + t) * conditional - t * unconditional.

    `logits` (2B, L, V) and `prev_logits` (2B, L', V) hold the conditional half first; t is `cfg` for the
    former and `prev_cfg` for the latter, a float or a tensor of shape () or (B,) like `beta`. The result is
    (B, L, V); where the conditional logit is -inf it is -inf.
    """
    options = Options(prior, interpolation, rescale)
    strengths = (beta, cfg, prev_cfg)
    call = GuidedCall("guided_logits_cfg", logits, prev_logits, size, prev_size, strengths, options)
    _checks.guided(call)
    return compute(call)


def compute(call: GuidedCall) -> Tensor:
    """`guided_logits` or `guided_logits_cfg` of checked arguments."""
    logits, prev_logits = _accurate(call.logits), _accurate(call.prev_logits)
    conditional, beta = call.logits, call.strengths[0]
    if call.halves == 2:
        _, cfg, prev_cfg = call.strengths
        conditional, _ = call.logits.chunk(2)
        logits, prev_logits = _merge(logits, cfg), _merge(prev_logits, prev_cfg)
    residual = logits - _prior(prev_logits, call.size, call.prev_size, call.options)
    guided = logits + _per_sample(beta, logits) * residual
    # Samplers mask tokens with -inf. Those tokens stay masked, whatever the prior or the merge says there.
    return guided.masked_fill(conditional == -math.inf, -math.inf).to(call.logits.dtype)


# A logit's distance from the largest is counted in units of 2**-25 nats. From 28 nats on, tokens weigh nothing.
_UNIT = 2.0**25
_FAR = 28 << 25
_LOG2_E = 3098164009  # times 2**-31
# 2**30 * 2**f is the sum of f**i times the number i, for f from 0 to 1, within 2**-28.8 of it.
_POWER = (2**30, 744260972, 257944253, 59576866, 10388937, 1338725, 232067)
# Shares of a sum of weights are counted in units of 2**-62.
_WHOLE = 1 << 62


def sample_weights(
    logits: Tensor, top_k: int | Tensor = 0, top_p: Tensor | float = 0.0, scale: Tensor | float = 1.0
) -> Tensor:
    """The weight of each token in `sample`: its probability as a whole number, 0 where a filter removed it.

    The weight of a logit l is about ``2**39 * exp((l - m) * scale)``, with m the largest of its row: a whole number
    with 24 significant bits. `weigh` computes it by additions, one product and integers alone, in float32 (float64 for
    float64 logits), so it has the same bits on every processor. Sums of whole numbers are exact in any order. So every
    kernel finds the same running sums for top-p and for the inverse CDF. In float32 they would depend on how a kernel
    orders and rounds its additions.

    How close this is to exp: at scale 1 a weight is off by less than 2**-23.5 of itself, and by one unit of 2**-39.
    The probabilities of a row are at least as close to those of an exact softmax as float32's softmax is, measured by
    their total variation. What is lost is the tail: a token weighs nothing where its logit lies 27.04 nats or more
    below the largest, which is a chance below 2**-39. That is at most V * 2**-39 of a row.

    Args:
        logits: (B, L, V), any of float32, bfloat16, float16, float64, on any device. V is at most 2**23.
        top_k: 0 for no filter. Otherwise logits below the k-th largest of their row go; ties stay. An int, or a tensor
            of shape () or (B,), in which a number outside [0, V] counts as the nearest one inside.
        top_p: 0.0 for no filter. Otherwise the tokens are put in ascending order of their logits, equal ones in the
            order of the vocabulary (a stable sort). A token goes if its running weight is at most
            ``floor((1 - top_p) * all)``, or ``all - 1`` if that is less, so at least one stays. top_p is cut to a whole
            multiple of 2**-62, and the rest is exact. A float, or a tensor of shape () or (B,), in which a number
            outside [0, 1] counts as the nearest one inside, and NaN as 0.
        scale: 1 / temperature, a float or a tensor of shape () or (B,). It is rounded to float32, and one outside
            [2**-100, 2**100] counts as the nearest number inside.

    Returns:
        (B, L, V), int64. All zero in a row whose largest logit is not finite (it holds a NaN or +inf, or -inf
        alone), and in a sample whose scale is not positive and finite.
    """
    # + 0.0: a sort may tell -0.0 from it.
    values = _accurate(logits) + 0.0
    largest = values.amax(-1, keepdim=True)
    factor = torch.as_tensor(scale, dtype=torch.float64, device=values.device).reshape(-1, 1, 1)
    weights = weigh(values, largest, factor)
    weights = weights.where(largest.isfinite() & factor.isfinite() & (factor > 0), 0)
    if isinstance(top_k, Tensor) or top_k > 0:
        k = _per_sample(top_k, values.double()).nan_to_num(0.0).long().clamp(0, values.shape[-1])
        position = (k - 1).clamp(0).expand(*values.shape[:2], 1)
        kth = values.sort(descending=True).values.gather(-1, position)
        weights = weights.where((values >= kth) | (k == 0), 0)
    if isinstance(top_p, Tensor) or top_p > 0:
        share = _share(_per_sample(top_p, values.double()))
        order = values.argsort(stable=True)
        running = weights.gather(-1, order).cumsum(-1)
        limit = _part(running[..., -1:], _WHOLE - share)
        goes = torch.empty_like(running, dtype=torch.bool).scatter_(-1, order, running <= limit)
        weights = weights.masked_fill(goes & (share > 0), 0)
    return weights


def weigh(values: Tensor, largest: Tensor, scale: Tensor) -> Tensor:
    """``2**39 * exp((values - largest) * scale)``, nearly, by the same steps on every processor.

    `values` are float32 or float64; `largest` and `scale` broadcast to them. The result is int64: 2**39 for the
    largest, and never more for a smaller value than for a larger one.
    """
    factor = scale.float().clamp(2.0**-100, 2.0**100)
    # Far from 0 logits have few digits behind the point, and their difference to the largest is exact wherever it
    # matters. Near 0 it is not, but there a multiple of the unit holds each of them.
    origin = largest.where(largest.float().abs() * factor >= 35.0, 0.0)

    def place(x: Tensor) -> Tensor:
        scaled = (x - origin) * (factor * _UNIT).to(x.dtype)
        return scaled.nan_to_num(0.0).clamp(-63 * _UNIT, 63 * _UNIT).long()

    distance = (place(largest) - place(values)).clamp(max=_FAR)
    octaves = (41 << 26) - (distance * _LOG2_E >> 30)  # in units of 2**-26
    fraction = octaves & (2**26 - 1)
    power = torch.full_like(fraction, _POWER[-1])
    for coefficient in reversed(_POWER[:-1]):
        power = (fraction * power >> 26) + coefficient
    return ((power + 64 >> 7) << 16) >> (41 - (octaves >> 26))


def _share(x: Tensor) -> Tensor:
    """The nearest number from 0 to 1, in units of 2**-62, at least one if it is not 0; 0 for NaN. `x` is float64."""
    share = (x.nan_to_num(0.0).clamp(0.0, 1.0) * float(_WHOLE)).long()
    return share.where(~(x > 0), share.clamp(min=1))


def _part(total: Tensor, share: Tensor) -> Tensor:
    """``floor(share * total)``, or ``total - 1`` if that is less. Both numbers are cut in two, to fit 64 bits."""
    half = 2**31 - 1
    high, low = total >> 31, total & half
    share_high, share_low = share >> 31, share & half
    middle = high * share_low + low * share_high + (low * share_low >> 31)
    return (high * share_high + (middle >> 31)).minimum(total - 1)


def sample(logits: Tensor, uniform: Tensor, top_k: int = 0, top_p: float = 0.0) -> Tensor:
    """The first token, in the order of the vocabulary, whose running weight exceeds ``floor(uniform * all)``.

    `logits` (B, L, V) and the filters are those of `sample_weights`. `uniform` is (B, L), float32 or float64; a number
    outside [0, 1) counts as the nearest one inside, NaN as 0. It is cut to a multiple of 2**-62, and the product is
    exact. The result is (B, L), int64. A row whose weights are all zero raises ValueError on the CPU and gives -1
    elsewhere.
    """
    _checks.sample("sample", logits, uniform, 1.0, top_k, top_p)
    return refuse_empty_rows(draw(logits, uniform, 1.0, top_k, top_p), logits, 1.0)


def sample_tempered(
    logits: Tensor,
    uniform: Tensor,
    scale: Tensor | float,
    top_k: int | Tensor = 0,
    top_p: Tensor | float = 0.0,
) -> Tensor:
    """`sample` of the logits times `scale`, 1 / temperature: a float or a tensor of shape () or (B,)."""
    _checks.sample("_sample_tempered", logits, uniform, scale, top_k, top_p)
    return refuse_empty_rows(draw(logits, uniform, scale, top_k, top_p), logits, scale)


def draw(
    logits: Tensor, uniform: Tensor, scale: Tensor | float, top_k: int | Tensor, top_p: Tensor | float
) -> Tensor:
    """`sample_tempered` of checked arguments, with -1 for a row whose weights are all zero."""
    running = sample_weights(logits, top_k, top_p, scale).cumsum(-1)
    total = running[..., -1]
    target = _part(total, _share(uniform.double())).contiguous()
    tokens = torch.searchsorted(running, target[..., None], right=True)[..., 0]
    return tokens.where(total > 0, -1)


def refuse_empty_rows(tokens: Tensor, logits: Tensor, scale: Tensor | float) -> Tensor:
    """The tokens; raises ValueError where one is -1 on the CPU, where that waits for no device."""
    if tokens.device.type != "cpu":
        return tokens
    for b, token in (tokens < 0).nonzero()[:1].tolist():
        factor = _per_sample(scale, logits.double()).expand(len(logits), 1, 1)[b].item()
        if not 0 < factor < math.inf:
            raise ValueError(f"sample: scale must be positive and finite, got {factor:g}")
        largest = logits[b, token].amax().item()
        raise ValueError(
            f"sample: logits must have a finite largest value in every row, got {largest:g} at ({b}, {token})"
        )
    return tokens


def _prior(prev_logits: Tensor, size: Sequence[int], prev_size: Sequence[int], options: Options) -> Tensor:
    (h, w), (prev_h, prev_w) = size, prev_size
    if (h, w) == (prev_h, prev_w):
        # Every line below is the identity then, or undone by a later one: without them nothing is rounded.
        return prev_logits.clone()
    prev_maps = _to_maps(prev_logits, prev_size)
    interpolated = interpolate(prev_maps, size, options.interpolation)
    if options.prior == "spatial":
        return _to_tokens(interpolated)
    prev_spectrum = dct(prev_maps)
    spectrum = torch.zeros_like(interpolated) if options.prior == "dse_zero_pad" else dct(interpolated)
    gain = math.sqrt(h * w / (prev_h * prev_w)) if options.rescale else 1.0
    # Nothing is written in place: `torch.func.linearize` would drop the write.
    rows = spectrum[..., :prev_h, :].slice_scatter(gain * prev_spectrum, -1, 0, prev_w)
    return _to_tokens(idct(spectrum.slice_scatter(rows, -2, 0, prev_h)))


def _merge(logits: Tensor, cfg: Tensor | float) -> Tensor:
    conditional, unconditional = logits.chunk(2)
    t = _per_sample(cfg, logits)
    return (1 + t) * conditional - t * unconditional


def _per_sample(strength: Tensor | float, like: Tensor) -> Tensor:
    return torch.as_tensor(strength, dtype=like.dtype, device=like.device).reshape(-1, 1, 1)


def _accurate(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _to_maps(x: Tensor, size: Sequence[int]) -> Tensor:
    """(B, h*w, V) to (B, V, h, w)."""
    return x.unflatten(1, tuple(size)).permute(0, 3, 1, 2)


def _to_tokens(x: Tensor) -> Tensor:
    """(B, V, h, w) to (B, h*w, V)."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)
