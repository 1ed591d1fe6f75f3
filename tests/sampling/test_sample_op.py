"""`sample` as an operator: errors, tracing, export, vmap and DTensor. It has no derivatives."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from support.strategies import normal
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import forward_ad
from torch.export import Dim, export

import ssg_kernels
from ssg_kernels import reference

BATCH, TOKENS, VOCABULARY = 2, 6, 9
OPS = {
    "sample": (torch.ops.ssg.sample.default, ()),
    "tensor": (torch.ops.ssg._sample_tempered.default, (torch.tensor([0.5, 2.0]),)),
    "scalar": (torch.ops.ssg._sample_tempered.default, (torch.tensor(0.5),)),
    "float": (torch.ops.ssg._sample_tempered.float, (0.5,)),
}


def inputs() -> tuple[Tensor, Tensor]:
    return normal(BATCH, TOKENS, VOCABULARY), torch.rand(BATCH, TOKENS)


# Errors

Break = Callable[[dict[str, Any]], None]


def put(**values: Any) -> Break:
    return lambda call: call.update(values)


def alter(name: str, change: Callable[[Tensor], Tensor]) -> Break:
    return lambda call: call.update({name: change(call[name])})


FLOATING = "logits must be float32, bfloat16, float16 or float64, got "
WRONG: list[tuple[str, Break]] = [
    ("logits must be a 3-D tensor (B, L, V), got 2-D", alter("logits", lambda x: x[0])),
    ("logits must be a 3-D tensor (B, L, V), got 4-D", alter("logits", lambda x: x[None])),
    (FLOATING + "torch.int64", alter("logits", lambda x: x.long())),
    (FLOATING + "torch.bool", alter("logits", lambda x: x.bool())),
    (FLOATING + "torch.complex64", alter("logits", lambda x: x.to(torch.complex64))),
    ("logits must have at least one vocabulary column, got 0", alter("logits", lambda x: x[..., :0])),
    (
        "logits must have at most 8388608 vocabulary columns, got 8388609",
        alter("logits", lambda x: x[..., :1].expand(*x.shape[:2], 2**23 + 1)),
    ),
    ("uniform must have shape (B, L) = (2, 6), got (2, 5)", alter("uniform", lambda x: x[:, :5])),
    ("uniform must have shape (B, L) = (2, 6), got (1, 6)", alter("uniform", lambda x: x[:1])),
    ("uniform must have shape (B, L) = (2, 6), got (2, 6, 1)", alter("uniform", lambda x: x[..., None])),
    ("uniform must have shape (B, L) = (2, 6), got (12,)", alter("uniform", lambda x: x.flatten())),
    ("uniform must be float32 or float64, got torch.float16", alter("uniform", lambda x: x.half())),
    ("uniform must be float32 or float64, got torch.int64", alter("uniform", lambda x: x.long())),
    ("uniform must be on the device of logits, cpu, got meta", alter("uniform", lambda x: x.to("meta"))),
    ("top_k must be from 0 to V = 9, got -1", put(top_k=-1)),
    ("top_k must be from 0 to V = 9, got 10", put(top_k=10)),
    ("top_p must be from 0 to 1, got -0.5", put(top_p=-0.5)),
    ("top_p must be from 0 to 1, got 1.5", put(top_p=1.5)),
    ("top_p must be from 0 to 1, got nan", put(top_p=float("nan"))),
]


def broken(*breaks: Break) -> dict[str, Any]:
    logits, uniform = inputs()
    call = {"logits": logits, "uniform": uniform, "top_k": 3, "top_p": 0.5}
    for spoil in breaks:
        spoil(call)
    return call


def message_of(function: Callable[..., Any], call: dict[str, Any]) -> str:
    with pytest.raises((ValueError, RuntimeError)) as caught:
        function(**call)
    return str(caught.value)


@pytest.mark.parametrize(("text", "spoil"), WRONG, ids=lambda x: x if isinstance(x, str) else "")
def test_wrong_call(backend: str, text: str, spoil: Break) -> None:
    assert message_of(ssg_kernels.sample, broken(spoil)).startswith(f"sample: {text}")
    assert message_of(reference.sample, broken(spoil)) == f"sample: {text}"
    for op, scale in (OPS["float"], OPS["scalar"]):
        call = broken(spoil)
        assert message_of(op, {**call, "scale": scale[0]}).startswith(f"_sample_tempered: {text}")
    if "device" not in text:
        call = {k: v.to("meta") if isinstance(v, Tensor) else v for k, v in broken(spoil).items()}
        assert f"sample: {text}" in message_of(ssg_kernels.sample, call)


ARGUMENTS = ("logits", "uniform", "top_k", "top_p")


def test_the_first_of_two_mistakes_is_named(backend: str) -> None:
    touched = [next(name for name in ARGUMENTS if text.startswith(name)) for text, _ in WRONG]
    for i, (text, spoil) in enumerate(WRONG):
        for j, (_, other) in enumerate(WRONG):
            if ARGUMENTS.index(touched[i]) < ARGUMENTS.index(touched[j]):
                assert message_of(ssg_kernels.sample, broken(other, spoil)).startswith(f"sample: {text}")


@pytest.mark.parametrize(
    ("text", "scale"),
    [
        ("got shape (3,)", torch.ones(3)),
        ("got shape (1, 1)", torch.ones(1, 1)),
        ("must be a real tensor, got torch.complex64", torch.ones((), dtype=torch.complex64)),
        ("must be on the device of logits, cpu, got meta", torch.ones((), device="meta")),
    ],
)
def test_wrong_scale(backend: str, text: str, scale: Tensor) -> None:
    call = {**broken(), "scale": scale}
    assert re.match(f"_sample_tempered: scale .*{re.escape(text)}", message_of(OPS["tensor"][0], call))
    assert re.match(
        f"_sample_tempered: scale .*{re.escape(text)}", message_of(reference.sample_tempered, call)
    )


def test_a_backend_that_cannot_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, text in (("x", "SSG_KERNELS_BACKEND must be one of"), ("cuda", "cannot serve tensors on cpu")):
        monkeypatch.setenv("SSG_KERNELS_BACKEND", value)
        assert text in message_of(ssg_kernels.sample, broken())
        assert "top_k must be" in message_of(ssg_kernels.sample, broken(put(top_k=-1)))


# Tracing


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(op: str, requires_grad: bool) -> None:
    function, scale = OPS[op]
    logits, uniform = inputs()
    views = [logits, logits.mT.contiguous().mT, normal(2 * BATCH, TOKENS + 1, VOCABULARY)[::2, 1:]]
    for view in views:
        view = view.detach().requires_grad_(requires_grad)
        torch.library.opcheck(function, (view, uniform, *scale, 4, 0.75))


@pytest.mark.parametrize("op", OPS)
def test_meta(op: str) -> None:
    function, scale = OPS[op]
    arguments = [x.to("meta") if isinstance(x, Tensor) else x for x in (*inputs(), *scale, 4, 0.75)]
    result = function(*arguments)
    assert (result.shape, result.dtype, result.device.type) == ((BATCH, TOKENS), torch.int64, "meta")
    assert result.is_contiguous()


@pytest.fixture
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh")
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_two_compilations_over_all_scales(backend: str) -> None:
    def step(logits: Tensor, uniform: Tensor, top_k: int) -> Tensor:
        return ssg_kernels.sample(logits * 1.25, uniform, top_k, 0.9) + 1

    counter = CompileCounterWithBackend(backend)
    ours = torch.compile(step, backend=counter, fullgraph=True)
    with torch.inference_mode():
        for k, n in enumerate((1, 2, 3, 4, 5, 6, 8)):
            logits, uniform = normal(2, n * n, 16), torch.rand(2, n * n)
            assert torch.equal(ours(logits, uniform, 3 + k), step(logits, uniform, 3 + k))
    assert counter.frame_count <= 2


@pytest.mark.usefixtures("_fresh")
def test_two_compilations_over_all_top_ps() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    ours = torch.compile(ssg_kernels.sample, backend=counter, fullgraph=True)
    logits, uniform = inputs()
    for top_k, top_p in ((3, 0.5), (4, 0.6), (5, 0.75), (9, 0.9), (0, 0.3)):
        assert torch.equal(
            ours(logits, uniform, top_k, top_p), ssg_kernels.sample(logits, uniform, top_k, top_p)
        )
    assert counter.frame_count <= 3  # 0 is a top_k of its own for a compiler


class Sample(nn.Module):
    def forward(self, logits: Tensor, uniform: Tensor) -> Tensor:
        return ssg_kernels.sample(logits, uniform, 3, 0.9)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("kind", [Dim.DYNAMIC, Dim.AUTO, "named"])
def test_export(kind: Any, strict: bool) -> None:
    b, n, v = map(Dim, ("b", "n", "v")) if kind == "named" else (kind,) * 3
    program = export(Sample(), inputs(), dynamic_shapes=({0: b, 1: n, 2: v}, {0: b, 1: n}), strict=strict)
    program = program.run_decompositions()
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert targets == [torch.ops.ssg.sample.default]
    for shape in ((5, 16, 100), (2, 1, 4096), (3, 7, 3)):
        logits, uniform = normal(*shape), torch.rand(shape[:2])
        assert torch.equal(program.module()(logits, uniform), Sample()(logits, uniform))
    with pytest.raises((RuntimeError, ValueError), match="top_k must be from 0 to V = 2, got 3"):
        program.module()(normal(2, 5, 2), torch.rand(2, 5))


@pytest.mark.usefixtures("extension")
def test_aot_inductor(tmp_path: Any) -> None:
    b, n, v = (Dim.DYNAMIC,) * 3
    program = export(Sample(), inputs(), dynamic_shapes=({0: b, 1: n, 2: v}, {0: b, 1: n}))
    package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "sample.pt2"))
    logits, uniform = normal(3, 10, 50), torch.rand(3, 10)
    compiled = torch._inductor.aoti_load_package(package)
    assert torch.equal(compiled(logits, uniform), Sample()(logits, uniform))


# vmap


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("in_dims", [(0, 0), (None, 0), (1, None), (3, 2), (-1, 1)])
def test_vmap(backend: str, op: str, in_dims: tuple) -> None:
    function, scale = OPS[op]
    count = 3
    shapes = ((BATCH, TOKENS, VOCABULARY), (BATCH, TOKENS))
    tensors = []
    for shape, dim in zip(shapes, in_dims, strict=True):
        x = torch.rand(count, *shape) * (4 if len(shape) == 3 else 1)
        tensors.append(x[0] if dim is None else x.movedim(0, dim))
    ours = torch.func.vmap(lambda *x: function(*x, *scale, 4, 0.75), in_dims)(*tensors)
    for i in range(count):
        one = [x if d is None else x.select(d, i) for x, d in zip(tensors, in_dims, strict=True)]
        assert torch.equal(ours[i], function(*one, *scale, 4, 0.75))


def test_vmap_over_the_scale(backend: str) -> None:
    logits, uniform = inputs()
    op = OPS["tensor"][0]
    for shape in ((3,), (3, BATCH)):
        scales = torch.rand(shape) + 0.5
        ours = torch.func.vmap(lambda s: op(logits, uniform, s, 0, 0.9))(scales)
        assert torch.equal(ours, torch.stack([op(logits, uniform, s, 0, 0.9) for s in scales]))
    text = re.escape("uniform must have shape (B, L) = (2, 6), got (2, 5)")
    with pytest.raises((RuntimeError, ValueError), match=text):
        torch.func.vmap(ssg_kernels.sample, (None, 0))(logits, torch.rand(3, BATCH, 5))


# No derivatives


@pytest.mark.parametrize("op", OPS)
def test_tokens_require_no_grad(backend: str, op: str) -> None:
    function, scale = OPS[op]
    logits, uniform = (x.requires_grad_() for x in inputs())
    tokens = function(logits, uniform, *scale, 4, 0.75)
    assert not tokens.requires_grad
    # The tokens serve as indices, so the gradient goes to the logits that they pick.
    taken = logits.gather(-1, tokens[..., None]).sum()
    (grad,) = torch.autograd.grad(taken, logits)
    assert torch.equal(grad, torch.zeros_like(grad).scatter(-1, tokens[..., None], 1))
    grad = torch.func.grad(lambda x: x.gather(-1, function(x, uniform, *scale)[..., None]).sum())(logits)
    assert grad.sum() == tokens.numel()


@pytest.mark.parametrize("op", OPS)
def test_tangents_are_refused(backend: str, op: str) -> None:
    function, scale = OPS[op]
    logits, uniform = inputs()
    text = "sample.* is not differentiable, but one of its arguments has a forward-mode tangent"
    with forward_ad.dual_level():
        for i in (0, 1):
            call = [logits, uniform, *scale]
            call[i] = forward_ad.make_dual(call[i], torch.ones_like(call[i]))
            with pytest.raises(RuntimeError, match=text):
                function(*call)
        assert function(logits, uniform, *scale).shape == (BATCH, TOKENS)
    with pytest.raises(RuntimeError, match=text):
        torch.func.jvp(lambda x: function(x, uniform, *scale), (logits,), (torch.ones_like(logits),))


# DTensor


@pytest.mark.skipif(not dist.is_available(), reason="torch was built without distributed")
@pytest.mark.parametrize("op", OPS)
def test_sharding(op: str) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor
    from torch.distributed.tensor.debug import CommDebugMode
    from torch.testing._internal.distributed.fake_pg import FakeStore

    function, scale = OPS[op]
    logits, uniform = inputs()
    expected = function(logits, uniform, *scale, 4, 0.75)
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    try:
        mesh = init_device_mesh("cpu", (2, 2))

        def shard(x: Any, placements: tuple) -> Any:
            return distribute_tensor(x, mesh, placements, src_data_rank=None) if isinstance(x, Tensor) else x

        for placements in ((Shard(0), Replicate()), (Shard(1), Replicate()), (Shard(0), Shard(1))):
            # A scale of shape () is replicated; one of shape (B,) is sharded like the batch.
            of_scale = tuple(
                p if p == Shard(0) and scale and getattr(scale[0], "ndim", 0) else Replicate()
                for p in placements
            )
            with CommDebugMode() as communication:
                tokens = function(
                    shard(logits, placements), shard(uniform, placements), *(shard(x, of_scale) for x in scale), 4, 0.75
                )  # fmt: skip
            assert communication.get_total_counts() == 0
            assert tokens.placements == placements
            assert tokens.shape == expected.shape
            assert torch.equal(tokens.to_local(), shard(expected, placements).to_local())
        # A draw needs the whole row, so a sharded vocabulary is gathered first.
        everywhere = (Replicate(), Replicate())
        whole = [shard(x, everywhere) for x in (uniform, *scale)]
        with CommDebugMode() as communication:
            tokens = function(shard(logits, (Shard(2), Replicate())), *whole)
        assert communication.get_total_counts() > 0
        assert tokens.shape == expected.shape
    finally:
        dist.destroy_process_group()
