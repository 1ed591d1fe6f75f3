"""torch.export with dynamic batch, tokens and vocabulary, and AOTInductor on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export

import ssg_kernels


class Guide(nn.Module):
    """Sizes as integer inputs."""

    def forward(
        self,
        logits: Tensor,
        prev_logits: Tensor,
        size: tuple[int, int],
        prev_size: tuple[int, int],
        beta: Tensor,
    ) -> Tensor:
        return ssg_kernels.guided_logits(logits, prev_logits, size, prev_size, beta)


class GuideMaps(nn.Module):
    """Sizes out of the shapes of (B, h, w, V) maps."""

    def forward(self, logits: Tensor, prev_logits: Tensor, beta: Tensor) -> Tensor:
        size, prev_size = logits.shape[1:3], prev_logits.shape[1:3]
        guided = ssg_kernels.guided_logits(
            logits.flatten(1, 2), prev_logits.flatten(1, 2), size, prev_size, beta, "dse", "bicubic", True
        )
        return guided.unflatten(1, size)


class GuideMapsCfg(nn.Module):
    def forward(self, logits: Tensor, prev_logits: Tensor, beta: Tensor) -> Tensor:
        size, prev_size = logits.shape[1:3], prev_logits.shape[1:3]
        tokens, prev_tokens = logits.flatten(1, 2), prev_logits.flatten(1, 2)
        guided = ssg_kernels.guided_logits_cfg(tokens, prev_tokens, size, prev_size, beta, 1.5, beta)
        return guided.unflatten(1, size)


class GuideInPlace(nn.Module):
    def forward(self, logits: Tensor, prev_logits: Tensor, beta: Tensor) -> Tensor:
        return ssg_kernels.guided_logits(logits, prev_logits, (3, 3), (2, 2), beta, out=logits) + 1


BETA = torch.tensor(0.5)


def tokens(size: tuple[int, int], prev_size: tuple[int, int], batch: int, vocabulary: int) -> tuple:
    logits = torch.randn(batch, size[0] * size[1], vocabulary)
    return logits, torch.randn(batch, prev_size[0] * prev_size[1], vocabulary), size, prev_size, BETA


def maps(size: tuple[int, int], prev_size: tuple[int, int], batch: int, vocabulary: int) -> tuple:
    return torch.randn(batch, *size, vocabulary), torch.randn(batch, *prev_size, vocabulary), BETA


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("kind", [Dim.DYNAMIC, Dim.AUTO])
def test_dynamic_tokens(kind: object, strict: bool) -> None:
    dynamic = ({0: kind, 1: kind, 2: kind},) * 2 + ((kind, kind),) * 2 + (None,)
    program = export(Guide(), tokens((4, 5), (3, 2), 2, 8), dynamic_shapes=dynamic, strict=strict).module()
    for call in (
        tokens((7, 9), (5, 5), 3, 11),
        tokens((16, 13), (13, 13), 5, 4),
        tokens((2, 3), (2, 3), 2, 8),
    ):
        torch.testing.assert_close(program(*call), Guide()(*call))
    wrong = (torch.randn(3, 62, 11), *tokens((7, 9), (5, 5), 3, 11)[1:])
    with pytest.raises((AssertionError, RuntimeError, ValueError)):
        program(*wrong)


@pytest.mark.parametrize("module", [GuideMaps, GuideMapsCfg])
def test_named_dimensions(module: Callable[[], nn.Module]) -> None:
    batch, vocabulary = Dim("batch"), Dim("vocabulary")
    if module is GuideMapsCfg:
        batch = 2 * Dim("half")
    h, w, prev_h, prev_w = map(Dim, ("h", "w", "prev_h", "prev_w"))
    dynamic = ({0: batch, 1: h, 2: w, 3: vocabulary}, {0: batch, 1: prev_h, 2: prev_w, 3: vocabulary}, None)
    program = export(module(), maps((4, 5), (3, 2), 4, 8), dynamic_shapes=dynamic).module()
    for call in (maps((7, 9), (5, 5), 6, 11), maps((16, 13), (13, 10), 4, 3)):
        torch.testing.assert_close(program(*call), module()(*call))


def test_graph_has_one_operator() -> None:
    program = export(Guide(), tokens((4, 5), (3, 2), 2, 8)).run_decompositions()
    calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert calls == [torch.ops.ssg.guided_logits.default]


def test_in_place() -> None:
    logits, prev_logits = torch.randn(2, 9, 8), torch.randn(2, 4, 8)
    program = export(GuideInPlace(), (logits.clone(), prev_logits, BETA))
    for exported in (program.module(), program.run_decompositions().module()):
        ours, expected = logits.clone(), logits.clone()
        torch.testing.assert_close(
            exported(ours, prev_logits, BETA), GuideInPlace()(expected, prev_logits, BETA)
        )
        torch.testing.assert_close(ours, expected)
        assert not torch.equal(ours, logits)


def test_aot_inductor(tmp_path: Path) -> None:
    """Both operators in one compiled package."""

    class Both(nn.Module):
        def forward(self, logits: Tensor, prev_logits: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
            return GuideMaps()(logits, prev_logits, beta), GuideMapsCfg()(logits, prev_logits, beta)

    kind = Dim.DYNAMIC
    dynamic = ({0: kind, 1: kind, 2: kind, 3: kind},) * 2 + (None,)
    program = export(Both(), maps((4, 5), (3, 2), 4, 8), dynamic_shapes=dynamic)
    package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "guide.pt2"))
    compiled = torch._inductor.aoti_load_package(package)
    for call in (maps((7, 9), (5, 5), 6, 11), maps((16, 13), (13, 10), 4, 3)):
        for ours, expected in zip(compiled(*call), Both()(*call), strict=True):
            torch.testing.assert_close(ours, expected)
