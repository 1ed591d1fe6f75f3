"""Writes what guide.cpp runs into a folder: a package of AOTInductor, its inputs, and Python's results.

python export.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import ssg_kernels

SCALES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)  # VAR, 256 x 256 pixels
VOCABULARY = 4096
BETA, CFG = 0.5, 1.5


class Generation(nn.Module):
    """Guidance and sampling of every scale. Takes the logits and the uniforms of each scale in turn.

    Returns the tokens of each scale, and the guided logits of the last one.
    """

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        logits, uniforms = inputs[::2], inputs[1::2]
        ssg = ssg_kernels.SSG(SCALES, BETA)
        results = []
        for both, uniform in zip(logits, uniforms, strict=True):
            guided = ssg(both, cfg=CFG)
            results.append(ssg_kernels.sample(guided, uniform, 900, 0.96))
        return (*results, guided)


def write(file: Path, tensors: tuple[Tensor, ...]) -> None:
    file.write_bytes(b"".join(x.contiguous().numpy().tobytes() for x in tensors))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    torch.manual_seed(0)
    inputs = []
    for n in SCALES:
        inputs += [4 * torch.randn(2, n * n, VOCABULARY), torch.rand(1, n * n)]
    write(folder / "inputs.bin", tuple(inputs))
    write(folder / "expected.bin", Generation()(*inputs))
    program = torch.export.export(Generation(), tuple(inputs))
    torch._inductor.aoti_compile_and_package(program, package_path=str(folder / "generation.pt2"))
