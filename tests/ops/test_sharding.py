"""DTensor: sharding over the batch and the vocabulary stays, and moves no data."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

import ssg_kernels

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch was built without distributed")

SIZE, PREV_SIZE = (3, 4), (2, 3)


@pytest.fixture(scope="module")
def mesh() -> Iterator[DeviceMesh]:
    """Two by two ranks of which this process is the first; a fake process group sends nothing anywhere."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    yield init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "model"))
    dist.destroy_process_group()


def shard(x: Tensor | float, mesh: DeviceMesh, placements: tuple) -> object:
    from torch.distributed.tensor import distribute_tensor

    # Without a source rank each rank takes its part of what it has: here every rank has the same.
    return distribute_tensor(x.detach(), mesh, placements, src_data_rank=None) if isinstance(x, Tensor) else x


def placements(name: str) -> tuple[tuple, tuple]:
    """Of the logits, and of a strength of shape (B,)."""
    from torch.distributed.tensor import Replicate, Shard

    return {
        "batch": ((Shard(0), Replicate()), (Shard(0), Replicate())),
        "vocabulary": ((Replicate(), Shard(2)), (Replicate(), Replicate())),
        "both": ((Shard(0), Shard(2)), (Shard(0), Replicate())),
        "vocabulary_twice": ((Shard(2), Shard(2)), (Replicate(), Replicate())),
        "replicated": ((Replicate(), Replicate()), (Replicate(), Replicate())),
    }[name]


def guide(logits: Tensor, prev_logits: Tensor, *strengths: Tensor | float) -> Tensor:
    function = ssg_kernels.guided_logits if len(strengths) == 1 else ssg_kernels.guided_logits_cfg
    return function(logits, prev_logits, SIZE, PREV_SIZE, *strengths)


def check(inputs: list, mesh: DeviceMesh, of_logits: tuple, of_strengths: tuple) -> None:
    from torch.distributed.tensor import DTensor, Replicate
    from torch.distributed.tensor.debug import CommDebugMode

    scalar = (Replicate(), Replicate())
    sharded = [shard(x, mesh, of_logits) for x in inputs[:2]]
    sharded += [
        shard(x, mesh, of_strengths if isinstance(x, Tensor) and x.ndim else scalar) for x in inputs[2:]
    ]
    with CommDebugMode() as communication:
        result = guide(*sharded)
    assert communication.get_total_counts() == 0
    assert result.placements == of_logits
    expected = guide(*inputs)
    assert result.shape == expected.shape
    torch.testing.assert_close(result.to_local(), shard(expected, mesh, of_logits).to_local())

    for x in sharded[:2]:
        x.requires_grad_()
    seed = torch.randn_like(expected)
    local_seed = DTensor.from_local(shard(seed, mesh, of_logits).to_local(), mesh, of_logits)
    result = guide(*sharded)
    with CommDebugMode() as communication:
        grads = torch.autograd.grad(result, sharded[:2], local_seed)
    assert communication.get_total_counts() == 0
    leaves = [x.detach().requires_grad_() for x in inputs[:2]]
    for ours, theirs in zip(
        grads, torch.autograd.grad(guide(*leaves, *inputs[2:]), leaves, seed), strict=True
    ):
        assert ours.placements == of_logits
        torch.testing.assert_close(ours.to_local(), shard(theirs, mesh, of_logits).to_local())


@pytest.mark.parametrize("sharding", ["batch", "vocabulary", "both", "vocabulary_twice", "replicated"])
@pytest.mark.parametrize(
    "beta", [0.5, torch.tensor(0.5), torch.linspace(0, 1, 4)], ids=["float", "scalar", "vector"]
)
def test_guided_logits(mesh: DeviceMesh, sharding: str, beta: Tensor | float) -> None:
    check([torch.randn(4, 12, 8), torch.randn(4, 6, 8), beta], mesh, *placements(sharding))


@pytest.mark.parametrize("sharding", ["vocabulary", "vocabulary_twice", "replicated"])
def test_guided_logits_cfg(mesh: DeviceMesh, sharding: str) -> None:
    inputs = [torch.randn(4, 12, 8), torch.randn(4, 6, 8), torch.rand(2), 1.5, torch.tensor(0.5)]
    check(inputs, mesh, *placements(sharding))


def test_other_shardings_are_gathered(mesh: DeviceMesh) -> None:
    """Over the tokens no shard can be computed alone, nor over the batch of cfg, which holds two halves."""
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.debug import CommDebugMode

    logits, prev_logits = torch.randn(4, 12, 8), torch.randn(4, 6, 8)
    for dim, strengths in ((1, (0.5,)), (0, (0.5, 1.5, 1.5))):
        sharded = [shard(x, mesh, (Shard(dim), Replicate())) for x in (logits, prev_logits)]
        with torch.inference_mode(), CommDebugMode() as communication:
            result = guide(*sharded, *strengths)
        assert communication.get_total_counts() > 0
        assert result.shape == guide(logits, prev_logits, *strengths).shape


@pytest.mark.parametrize("first", ["ssg_kernels", "torch.distributed.tensor"])
def test_order_of_imports(first: str) -> None:
    """The rules are there whichever is imported first, and importing us does not import DTensor."""
    program = f"""
import importlib, importlib.util, sys
importlib.import_module({first!r})
import ssg_kernels, torch
if {first!r} == "ssg_kernels":
    assert "torch.distributed.tensor" not in sys.modules
    importlib.util.find_spec("torch.distributed.tensor")  # looking for it is not importing it
from torch.distributed.tensor import DTensor
rules = DTensor._op_dispatcher.sharding_propagator.op_strategy_funcs
assert torch.ops.ssg.guided_logits.default in rules
assert torch.ops.ssg.guided_logits_cfg.float_beta in rules
assert not any(type(finder).__module__.startswith("ssg_kernels") for finder in sys.meta_path)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
