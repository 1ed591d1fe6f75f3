"""hub/layout.py: the layout that the `kernels` package of Hugging Face loads, from a local folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
DEVELOPMENT = ROOT / "build" / "dev"
USE = """
import sys
from pathlib import Path
import torch
from kernels import get_local_kernel

hub = get_local_kernel(Path(sys.argv[1]), backend="cpu")
assert "ssg_kernels" not in sys.modules
import ssg_kernels  # both can be loaded at once

logits, prev_logits, uniform = torch.randn(2, 16, 8), torch.randn(2, 4, 8), torch.rand(2, 16)
call = (logits, prev_logits, (4, 4), (2, 2), 0.5)
guided = hub.guided_logits(*call)
assert torch.equal(guided, ssg_kernels.guided_logits(*call))
assert torch.equal(hub.sample(guided, uniform, 3), ssg_kernels.sample(guided, uniform, 3))
compiled = torch.compile(hub.guided_logits, backend="eager", fullgraph=True)
assert torch.equal(compiled(*call), guided)
logits.requires_grad_()
hub.guided_logits(*call).sum().backward()
assert logits.grad is not None
registered = torch._C._dispatch_get_registrations_for_dispatch_key("CPU")
print(hub.__name__, f"{hub.__name__}::guided_logits" in registered)
"""


@pytest.mark.usefixtures("extension")
@pytest.mark.skipif(
    torch.version.cuda is not None, reason="the variant of this test is for torch without CUDA"
)
def test_the_kernels_package_loads_it(tmp_path: Path) -> None:
    pytest.importorskip("kernels")
    if not DEVELOPMENT.is_dir() or not (ROOT / ".git").exists():
        pytest.skip("this is not the folder of a development build")
    shutil.copytree(DEVELOPMENT, tmp_path / "objects")  # what is up to date is not compiled again
    (tmp_path / "objects" / "CMakeCache.txt").unlink()
    tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    hub = tmp_path / "hub"
    for command, changed in (
        (
            [ROOT / "hub" / "layout.py", hub, "--build", tmp_path / "objects"],
            # The other arguments are those of the development build, whose objects they keep.
            {"CMAKE_ARGS": f"{os.environ.get('CMAKE_ARGS', '')} -DSSG_CUDA=OFF"},
        ),
        (["-c", USE, hub], {"HF_HUB_OFFLINE": "1", "SSG_KERNELS_BACKEND": ""}),
    ):
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            env={**os.environ, "PATH": tools, **changed},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
    name, is_registered = done.stdout.split()
    assert name.startswith("_ssg_kernels_")
    assert is_registered == "True"
    assert (hub / "README.md").read_text(encoding="utf-8").startswith("---\nlicense: mit")
