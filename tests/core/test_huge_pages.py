"""Huge pages are asked for where the allocator has mapped a result by itself, and never in its heap."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.usefixtures("extension"),
    pytest.mark.skipif(
        not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="this system has no huge pages"
    ),
]

# Prints where results of 32 and 40 MiB lie, and whether huge pages were asked for there ("hg").
PROGRAM = """
import re, torch, ssg_kernels
for tokens in (8192, 10240):
    logits, prev_logits = torch.zeros(1, tokens, 1024), torch.zeros(1, 1, 1024)
    out = ssg_kernels.guided_logits(logits, prev_logits, (1, tokens), (1, 1), 0.5, prior="spatial")
    middle = out.data_ptr() + out.nbytes // 2
    for mapping in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", open("/proc/self/smaps").read())[1:]:
        begin, end = (int(address, 16) for address in mapping.split()[0].split("-"))
        if begin <= middle < end:
            flags = re.search("VmFlags:(.*)", mapping)[1].split()
            print("heap" if "[heap]" in mapping.splitlines()[0] else "mapped", "hg" in flags)
"""


@pytest.mark.parametrize(("threshold", "place"), [(1 << 30, "heap"), (1 << 20, "mapped")])
def test_only_mapped_results_get_huge_pages(threshold: int, place: str) -> None:
    environment = {
        **os.environ,
        "SSG_KERNELS_BACKEND": "cpu",
        "MALLOC_MMAP_THRESHOLD_": str(threshold),  # glibc maps blocks from this size on
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    found = done.stdout.splitlines()
    if {line.split()[0] for line in found} != {place}:
        pytest.skip(f"this allocator puts the results elsewhere: {found}")
    assert found == [f"{place} {place == 'mapped'}"] * 2
