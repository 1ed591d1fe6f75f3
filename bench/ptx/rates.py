"""What the cards can do, in one table. Nobody measured these with our kernels; each has its source."""

from __future__ import annotations

from dataclasses import dataclass, field

# Warp instructions that a good kernel issues in a cycle on a multiprocessor, which has four schedulers.
ISSUE = 3.0
# 128 bytes: what the 32 banks of a multiprocessor give in a cycle (CUDA programming guide, "Shared Memory").
WAVEFRONTS = 1.0


@dataclass(frozen=True)
class Card:
    name: str
    multiprocessors: int
    clock: float  # Hz
    copy: float  # bytes/s of a copy in device memory, both directions counted
    cache: float  # bytes/s out of the L2 cache
    products: dict[str, float]  # multiply-adds a cycle and multiprocessor that mma.sync reaches, by type
    wide_products: dict[str, float] = field(default_factory=dict)  # the same of wgmma
    float64: float = 2.0  # float64 instructions of a warp a cycle and multiprocessor
    shared: int = 228 << 10  # bytes a multiprocessor
    threads: int = 2048
    blocks: int = 32


# Multiprocessors, clocks, limits and products (dense, with float32 sums): NVIDIA's data sheets and white papers of
# A100, H200, B200 and RTX Blackwell, and the compute capabilities in the CUDA programming guide. Copy: what copies of
# large tensors are reported to reach, 80 to 90 % of the data sheet's bandwidth. mma.sync reaches 62 % of Hopper's
# products. For B200 the same rate is assumed; nobody has measured it. Cache: ssg_kernels/_triton/targets.py.
_HOPPER = {"tf32": 1024.0, "f16": 2048.0, "bf16": 2048.0}
_NARROW = {kind: 0.62 * rate for kind, rate in _HOPPER.items()}
CARDS = {
    "sm_80": Card(
        "A100",
        108,
        1.41e9,
        1.6e12,
        4.0e12,
        {"tf32": 512.0, "f16": 1024.0, "bf16": 1024.0},
        {},
        1.0,
        164 << 10,
    ),
    "sm_90": Card("H200", 132, 1.755e9, 4.3e12, 5.5e12, _NARROW, _HOPPER),
    "sm_100": Card("B200", 148, 1.85e9, 7.0e12, 10.0e12, _NARROW),
    "sm_120": Card(
        "RTX 5090",
        170,
        2.4e9,
        1.6e12,
        6.0e12,
        {"tf32": 128.0, "f16": 256.0, "bf16": 256.0},
        {},
        1 / 16,
        100 << 10,
        1536,
        24,
    ),
}


def resident(card: Card, threads: int, registers: int, shared_bytes: int) -> int:
    """Blocks that a multiprocessor holds at once. Registers are given out by 8 a thread, shared memory by 128 bytes and
    with 1 KB for the system in each block (CUDA programming guide, "Compute Capabilities").
    """
    by_registers = 65536 // (threads * (-(-registers // 8) * 8))
    by_shared = card.shared // (-(-shared_bytes // 128) * 128 + 1024)
    return max(1, min(by_registers, by_shared, card.threads // threads, card.blocks))
