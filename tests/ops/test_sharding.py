"""DTensor: sharding over the batch and the vocabulary stays, and moves no data."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("sharding", ["batch", "vocabulary", "both", "replicated"])
def test_out(mesh: DeviceMesh, sharding: str, mode: type, in_place: bool) -> None:
    from torch.distributed.tensor.debug import CommDebugMode

    logits, prev_logits, layout = torch.randn(4, 12, 8), torch.randn(4, 6, 8), placements(sharding)[0]
    with mode():
        sharded = [shard(x, mesh, layout) for x in (logits.clone(), prev_logits)]
        out = sharded[0] if in_place else shard(torch.empty(4, 12, 8), mesh, layout)
        local = out.to_local()
        with CommDebugMode() as communication:
            result = ssg_kernels.guided_logits(*sharded, SIZE, PREV_SIZE, 0.5, out=out)
        assert communication.get_total_counts() == 0
        assert result is out
        assert out.placements == layout
        expected = shard(guide(logits, prev_logits, 0.5), mesh, layout).to_local()
        torch.testing.assert_close(local, expected)


@pytest.mark.parametrize("sharding", ["batch", "tokens", "both", "replicated"])
def test_sampler_draws_in_the_layout_of_the_logits(mesh: DeviceMesh, sharding: str) -> None:
    """The tokens are those of one process, in every layout."""
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.debug import CommDebugMode

    layout = {
        "batch": (Shard(0), Replicate()),
        "tokens": (Replicate(), Shard(1)),
        "both": (Shard(0), Shard(1)),
        "replicated": (Replicate(), Replicate()),
    }[sharding]
    logits = torch.randn(4, 16, 8)
    expected = ssg_kernels.GuidedSampler((4,), 0.5)(logits, torch.Generator().manual_seed(1))
    sharded = shard(logits, mesh, layout)
    with CommDebugMode() as communication:
        tokens = ssg_kernels.GuidedSampler((4,), 0.5)(sharded, torch.Generator().manual_seed(1))
    assert communication.get_total_counts() == 0
    assert tokens.placements == layout
    assert torch.equal(tokens.to_local(), shard(expected, mesh, layout).to_local())


def test_between_two_processes(tmp_path: Path) -> None:
    """Layouts that need communication, and generations with cfg: the values are those of one process."""
    program = f"""
import os, sys, torch, torch.distributed as dist
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://{tmp_path}/store", rank=rank, world_size=2)
import ssg_kernels
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor, init_device_mesh
mesh = init_device_mesh("cpu", (2,))
torch.manual_seed(0)
logits, prev_logits = torch.randn(4, 16, 8), torch.randn(4, 4, 8)

def check(ours, expected):
    assert isinstance(ours, DTensor)
    torch.testing.assert_close(ours.full_tensor(), expected)

for placement in (Shard(0), Shard(1), Shard(2), Replicate()):
    def spread(x, placement=placement):
        return distribute_tensor(x, mesh, [placement])
    expected = ssg_kernels.guided_logits(logits, prev_logits, (4, 4), (2, 2), 0.5)
    for placement_of_out in (Shard(0), Shard(1), Shard(2), Replicate()):
        out = spread(torch.zeros(4, 16, 8), placement_of_out)
        ssg_kernels.guided_logits(spread(logits), spread(prev_logits), (4, 4), (2, 2), 0.5, out=out)
        assert out.placements == (placement_of_out,)
        check(out, expected)
    in_place = spread(logits)
    ssg_kernels.guided_logits(in_place, spread(prev_logits), (4, 4), (2, 2), 0.5, out=in_place)
    check(in_place, expected)
    generations = [{{}}, {{"cfg": 1.5, "cfg_schedule": "ramp", "temperature": 0.5}}]
    if placement != Shard(2):  # before torch 2.13, DTensor refuses to make rows of a sharded vocabulary
        generations.append({{"cfg": 1.5, "cfg_order": "before", "classes": 2}})
    for options in generations:
        ours, expected_sampler = (ssg_kernels.GuidedSampler((2, 4), 0.5, **options) for _ in range(2))
        generators = [torch.Generator().manual_seed(1) for _ in range(2)]
        for x in (prev_logits, logits):
            check(ours(spread(x), generators[0]), expected_sampler(x, generators[1]))
dist.barrier()
dist.destroy_process_group()
"""
    ranks = [subprocess.Popen([sys.executable, "-c", program, str(rank)]) for rank in range(2)]
    assert [rank.wait() for rank in ranks] == [0, 0]


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
