"""Runs a step of every kind once, for compute-sanitizer (bench/gpu.sh starts it)."""

from __future__ import annotations

import itertools

import torch
from support.gpu_cases import assert_right, random_logits, run
from support.strategies import Call

STEPS = (((2, 2), (1, 1)), ((5, 7), (3, 7)), ((16, 16), (13, 13)), ((32, 32), (24, 24)), ((64, 64), (48, 48)))


def main() -> None:
    device = torch.device("cuda")
    dtypes = (torch.float32, torch.bfloat16)
    count = 0
    for (size, prev_size), dtype, is_cfg, vocabulary in itertools.product(
        STEPS, dtypes, (False, True), (37, 64)
    ):
        call = Call(size, prev_size, 1, vocabulary, dtype, is_cfg=is_cfg)
        logits, prev_logits = random_logits(call, device)
        strengths = call.strengths()
        out = run(call, logits, prev_logits, *strengths)
        torch.cuda.synchronize()
        assert_right(call, out, logits, prev_logits, strengths)
        count += 1
    print(f"{count} calls")


if __name__ == "__main__":
    main()
