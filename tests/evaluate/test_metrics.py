"""Metrics against the libraries called by hand, and on features against scipy and NumPy in float64."""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from support import toy_recipe
from torch import Tensor

from ssg_kernels.evaluate import EvaluateError, measure, metrics, outputs, reference
from ssg_kernels.evaluate.metrics import Statistics
from ssg_kernels.evaluate.recipe import chunk_seed

MADE, REAL, WIDTH, CLASSES = 700, 900, 24, 10


@pytest.fixture(scope="module")
def features() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    mix = torch.randn(WIDTH, WIDTH, generator=generator)
    made, real = (torch.randn(n, WIDTH, generator=generator) for n in (MADE, REAL))
    return made @ mix * 0.7 + 0.4, real @ mix


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Textbook, by scipy."""
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T))
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root.real))


def test_fid(features: tuple[Tensor, Tensor]) -> None:
    made, real = (part.double().numpy() for part in features)
    assert metrics.fid(*features) == pytest.approx(frechet(made, real), rel=1e-9)
    statistics = Statistics(torch.from_numpy(real.mean(0)), torch.from_numpy(np.cov(real.T)))
    assert metrics.fid(features[0], statistics) == pytest.approx(frechet(made, real), rel=1e-9)
    assert metrics.fid(features[1], features[1]) == pytest.approx(0, abs=1e-6)


def test_fid_of_nearly_redundant_features() -> None:
    a, b = torch.randn(200, 5).double(), 2 * torch.randn(300, 5).double() + 1
    b[:, 0] = 0.01 * b[:, 1] + 1e-3 * torch.randn(300)
    assert metrics.fid(a, b) == pytest.approx(frechet(a.numpy(), b.numpy()), rel=1e-6)
    assert metrics.fid(a, a + 2) == pytest.approx(20)


def test_kid(features: tuple[Tensor, Tensor]) -> None:
    """All images in one subset: the unbiased estimate of the squared MMD, whatever the order."""
    made, real = (part[:600].double().numpy() for part in features)

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.asarray((x @ y.T / WIDTH + 1) ** 3)

    n = 600
    inner = sum((kernel(x, x).sum() - np.trace(kernel(x, x))) / (n * (n - 1)) for x in (made, real))
    expected = inner - 2 * kernel(made, real).mean()
    assert metrics.kid(features[0][:600], features[1][:600]) == pytest.approx(expected, rel=1e-9)


def test_inception_score() -> None:
    logits = torch.randn(MADE, CLASSES, generator=torch.Generator().manual_seed(1)) * 3
    p = scipy.special.softmax(logits.double().numpy(), 1)
    expected = np.exp((p * (np.log(p) - np.log(p.mean(0)))).sum(1).mean())
    assert metrics.inception_score(logits) == pytest.approx(expected, rel=1e-9)


def test_precision_and_recall(features: tuple[Tensor, Tensor]) -> None:
    made, real = (part.double() for part in features)

    def share(centres: Tensor, others: Tensor) -> float:
        radii = torch.cdist(centres, centres).topk(4, largest=False).values[:, -1]
        return (torch.cdist(others, centres) <= radii).any(1).double().mean().item()

    precision, recall = metrics.precision_recall(*features)
    assert precision == pytest.approx(share(real, made), abs=2 / MADE)
    assert recall == pytest.approx(share(made, real), abs=2 / REAL)
    assert 0 < recall < 1


def test_precision_and_recall_of_known_sets() -> None:
    real = torch.randn(500, 2).double()
    assert metrics.precision_recall(real, real) == (1, 1)
    assert metrics.precision_recall(real + 100, real) == (0, 0)
    # Half of the data is missing from what was made, but all that was made looks like data.
    two = torch.cat([real[:250], real[250:] + 100])
    assert metrics.precision_recall(real[:250], two) == (1, pytest.approx(0.5, abs=0.02))
    # Each ball ends at the third neighbour: at distances of 4, 3, 2, 4 and 7.
    line = torch.tensor([[0.0], [1.0], [2.0], [4.0], [8.0]])
    made = torch.tensor([[-3.9], [-4.1], [14.9], [15.1], [0.0], [16.0]])
    assert metrics.precision_recall(made, line)[0] == 0.5
    assert metrics.precision_recall(torch.cat([made[:4], made]), line, limit=5)[0] == 0.6


def test_they_are_repeatable_and_leave_the_generator_alone(features: tuple[Tensor, Tensor]) -> None:
    more = features[0].repeat(2, 1), features[1].repeat(2, 1)  # now KID draws subsets
    state = torch.random.get_rng_state()
    assert metrics.kid(*more) == metrics.kid(*more)
    assert (torch.random.get_rng_state() == state).all()


def test_the_command_gives_what_the_libraries_give(evaluate: Callable[..., int], tmp_path: Path) -> None:
    """torchmetrics and prdc, called by hand on the images that were kept."""
    from prdc import compute_prdc
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.inception import InceptionScore
    from torchmetrics.image.kid import KernelInceptionDistance

    assert evaluate("--beta", 0.4, "--keep", "npz", "--images", 80) == 0
    out = tmp_path / "out"
    found = json.loads((out / "results.json").read_text())["rows"][0]["metrics"]
    made = torch.from_numpy(np.load(out / "samples/beta=0.4/seed0.npz")["arr_0"]).permute(0, 3, 1, 2)
    real = torch.cat(list(toy_recipe.Toy().reference()))

    class Network(torch.nn.Module):
        def __init__(self, output: str) -> None:
            super().__init__()
            self.output, self.num_features = output, 6

        def forward(self, images: Tensor) -> Tensor:
            return toy_recipe.network(images)[self.output].double()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fid = FrechetInceptionDistance(Network("features"))
        kid = KernelInceptionDistance(Network("features"), subset_size=80)
        score = InceptionScore(Network("logits"), splits=1)
    for metric in (fid, kid):
        metric.update(made, real=False)
        metric.update(real, real=True)
    score.update(made)
    prc = compute_prdc(*(toy_recipe.network(part)["features"].numpy() for part in (real, made)), nearest_k=3)
    expected = {
        "fid": fid.compute().item(), "kid": kid.compute()[0].item(), "is": score.compute()[0].item(),
        "precision": prc["precision"], "recall": prc["recall"],
    }  # fmt: skip
    assert {name: figure["value"] for name, figure in found.items()} == pytest.approx(expected, rel=1e-6)


def test_ten_thousand_features_take_seconds() -> None:
    generator = torch.Generator().manual_seed(0)
    made, real = (torch.randn(10_000, 64, generator=generator) for _ in range(2))
    start = time.process_time()
    metrics.fid(made, real)
    metrics.inception_score(made)
    metrics.kid(made, real)
    assert time.process_time() - start < 20


class TestReferences:
    """Every kind of reference gives the same distance as the images themselves."""

    @pytest.fixture
    def images(self) -> np.ndarray:
        return torch.cat(list(toy_recipe.Toy().reference())).permute(0, 2, 3, 1).numpy()

    def load(self, path: Path) -> reference.Reference:
        return reference.load(path, toy_recipe.network)

    def expected(self, images: np.ndarray) -> Tensor:
        return toy_recipe.network(torch.from_numpy(images).permute(0, 3, 1, 2))["features"]

    def test_a_folder(self, images: np.ndarray, tmp_path: Path) -> None:
        from PIL import Image

        folder = tmp_path / "images" / "deeper"
        folder.mkdir(parents=True)
        for i, image in enumerate(images):
            Image.fromarray(image).save(folder / f"{i:03d}.png")
        (folder / "readme.txt").touch()
        for _ in range(2):  # the second time from the cache
            torch.testing.assert_close(self.load(tmp_path / "images").features, self.expected(images))
        Image.fromarray(images[0]).save(folder / "more.png")
        assert len(self.load(tmp_path / "images").features) == len(images) + 1  # type: ignore[arg-type]

    def test_an_npz_of_images(self, images: np.ndarray, tmp_path: Path) -> None:
        np.savez(tmp_path / "images.npz", arr_0=images)
        torch.testing.assert_close(self.load(tmp_path / "images.npz").features, self.expected(images))

    def test_the_file_of_the_adm_evaluator(
        self, images: np.ndarray, tmp_path: Path, evaluate: Callable[..., int]
    ) -> None:
        """It has images, and the statistics of far more of them: the FID comes from these."""
        path = tmp_path / "virtual.npz"
        mean, covariance = np.arange(6.0), np.eye(6) * 2
        np.savez(path, arr_0=images, mu=mean, sigma=covariance, mu_s=mean, sigma_s=covariance)
        assert evaluate("--reference", path) == 0
        found = json.loads((tmp_path / "out/results.json").read_text())["rows"][0]["metrics"]
        assert set(found) == {"fid", "kid", "is", "precision", "recall"}
        made = torch.stack([toy_recipe.image(0, i, 0.0) for i in range(48)])
        features = toy_recipe.network(made)["features"].double().numpy()
        root = scipy.linalg.sqrtm(np.cov(features.T) @ covariance).real
        distance = ((features.mean(0) - mean) ** 2).sum() + np.trace(
            np.cov(features.T) + covariance - 2 * root
        )
        assert found["fid"]["value"] == pytest.approx(distance, rel=1e-9)

    def test_statistics_alone(
        self, tmp_path: Path, evaluate: Callable[..., int], capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "statistics.npz"
        np.savez(path, mu=np.zeros(6), sigma=np.eye(6))
        assert evaluate("--reference", path) == 0
        found = json.loads((tmp_path / "out/results.json").read_text())
        assert set(found["rows"][0]["metrics"]) == {"fid", "is"}
        assert found["unmeasured"]["recall"] == "the reference has mu and sigma only"
        np.savez(path, mu=np.zeros(7), sigma=np.eye(7))
        assert evaluate("--reference", path, out=tmp_path / "other") == 2
        assert "made with another network" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            ({"x": np.zeros(3)}, "must have images (N, H, W, 3) as arr_0, or mu and sigma; it has x"),
            (
                {"arr_0": np.zeros((4, 3, 8, 8), np.uint8)},
                "arr_0 must be images (N, H, W, 3), uint8, got (4, 3, 8, 8)",
            ),
            ({"arr_0": np.zeros((4, 8, 8, 3))}, "float64"),
            (
                {"mu": np.zeros(3), "sigma": np.eye(4)},
                "mu must be (D,) and sigma (D, D), got (3,) and (4, 4)",
            ),
            ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "mu or sigma holds NaN"),
        ],
    )
    def test_a_wrong_npz(self, content: dict[str, np.ndarray], sentence: str, tmp_path: Path) -> None:
        np.savez(tmp_path / "wrong.npz", **content)
        with pytest.raises(EvaluateError) as caught:
            self.load(tmp_path / "wrong.npz")
        assert sentence in str(caught.value)

    def test_what_is_no_reference(self, tmp_path: Path) -> None:
        (tmp_path / "text.npz").write_text("text")
        (tmp_path / "empty").mkdir()
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / "image.png").write_text("text")
        np.savez(tmp_path / "damaged.npz", arr_0=np.zeros((4, 8, 8, 3), np.uint8))
        content = bytearray((tmp_path / "damaged.npz").read_bytes())
        content[300] ^= 1
        (tmp_path / "damaged.npz").write_bytes(content)
        for name, sentence in (
            ("text.npz", "is no npz file"), ("empty", "holds no image"), ("broken", "image.png cannot be read"),
            ("damaged.npz", "arr_0 cannot be read: Bad CRC-32"),
        ):  # fmt: skip
            with pytest.raises(EvaluateError, match=sentence):
                self.load(tmp_path / name)


def test_clip_score(tmp_path: Path) -> None:
    """The mean cosine of transformers' CLIP, on a small random one."""
    transformers = pytest.importorskip("transformers")
    words = {
        word: i for i, word in enumerate(["<|startoftext|>", "<|endoftext|>", "a</w>", "b</w>", "a", "b"])
    }
    (tmp_path / "vocab.json").write_text(json.dumps(words))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    layers = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": 6, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1}
    vision = {"image_size": 32, "patch_size": 16}
    config = transformers.CLIPConfig(
        text_config=layers | text, vision_config=layers | vision, projection_dim=16
    )
    model = transformers.CLIPModel(config).eval()
    tokenizer = transformers.CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    resize = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    processor = transformers.CLIPProcessor(resize, tokenizer)
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    images = torch.randint(0, 256, (60, 3, 40, 40), dtype=torch.uint8)
    prompts = ["a", "b", "a b"] * 20
    with torch.no_grad():
        out = model(**processor(text=prompts, images=list(images), return_tensors="pt", padding=True))
    expected = (out.image_embeds * out.text_embeds).sum(1).mean().item()
    found = outputs.Outputs(None, outputs.clip_score(str(tmp_path)), "cpu").of(images, prompts)["clip"]
    assert found == pytest.approx(np.full(60, max(expected, 0)), rel=1e-5)


def test_weights_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(EvaluateError, match="--clip DIR"):
        outputs.clip_score(str(tmp_path / "nothing"))
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(
        EvaluateError, match="pip install torch-fidelity, and a torchvision that fits your torch"
    ):
        outputs.inception("cpu")


def rows(*figures: tuple[float, float, float | None, str]) -> list[dict[str, Any]]:
    return [
        {
            "setting": {"beta": beta, "prior": prior if beta else None},
            "metrics": {"fid": {"value": value, "error": error}},
        }
        for beta, value, error, prior in figures
    ]


def test_the_best_beta() -> None:
    """The last beta before the FID gets significantly worse."""
    single = rows((0.0, 3.4, None, "dse"), (0.2, 3.3, None, "dse"), (0.4, 3.31, None, "dse"))
    assert measure.best(single) == 1
    several = rows(
        (0.0, 3.4, 0.02, "dse"), (0.2, 3.3, 0.02, "dse"), (0.4, 3.33, 0.02, "dse"), (0.6, 3.5, 0.02, "dse"),
        (0.8, 3.31, 0.02, "spatial"),
    )  # fmt: skip
    assert measure.best(several) == 2
    # Without guidance is where the sweep begins.
    close = rows((0.0, 3.3, 0.02, "dse"), (0.2, 3.31, 0.02, "dse"), (0.4, 3.5, 0.02, "dse"))
    assert measure.best(close) == 1
    assert measure.best([{"setting": {"beta": 0}, "metrics": {}}]) is None


def test_chunk_seeds_differ() -> None:
    seeds = {chunk_seed(seed, first) for seed in range(50) for first in range(0, 50_000, 50)}
    assert len(seeds) > 49_990  # of 50,000 draws out of 2**31 a collision or none
    assert all(0 <= seed < 2**31 for seed in seeds)
