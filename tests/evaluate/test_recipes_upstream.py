"""The recipes on the real checkouts, with small random weights, and the toy's feature network instead of Inception."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support import toy_recipe
from support.checkouts import checkout, empty, folder_of, randomize
from torch import Tensor, nn

from ssg_kernels.__main__ import main
from ssg_kernels.evaluate import outputs, upstream
from ssg_kernels.evaluate.recipe import Source
from ssg_kernels.evaluate.recipes import find as recipe_of

SCALES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)


class Cosine:
    """Stands for CLIPScore: the length of the prompts."""

    def reset(self) -> None:
        self.lengths: list[int] = []

    def update(self, images: Tensor, prompts: list[str]) -> None:
        assert len(images) == len(prompts)
        self.lengths += [len(prompt) for prompt in prompts]

    def compute(self) -> Tensor:
        return torch.tensor(self.lengths).float().mean()


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(outputs, "inception", lambda device: toy_recipe.network)
    monkeypatch.setattr(outputs, "clip_score", lambda model: Cosine())
    path = list(sys.path)
    yield
    sys.path[:] = path


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """As the meta_data.json of MJHQ-30K."""
    path = tmp_path / "meta_data.json"
    path.write_text(json.dumps({f"{i:x}": {"category": "x", "prompt": "a" * (i + 1)} for i in range(12)}))
    return path


def reference(tmp_path: Path, shape: tuple[int, ...]) -> Path:
    path = tmp_path / "reference.npz"
    np.savez(path, arr_0=np.random.default_rng(0).integers(0, 256, (20, *shape, 3), dtype=np.uint8))
    return path


def evaluated(name: str, checkout_name: str, tmp_path: Path, *arguments: Any) -> dict[str, Any]:
    """Runs the recipe without and with guidance, twice with different numbers of images."""
    rows = []
    for images in (6, 7):
        out = tmp_path / f"out{images}"
        command = [
            *("evaluate", name, "--upstream", folder_of(checkout_name), "--out", out, "--images", images),
            *("--beta", 0, 0.5, "--temperature", 1, 1.5, "--keep", "npz", *arguments),
        ]
        assert main([str(part) for part in command]) == 0
        found = json.loads((out / "results.json").read_text())
        rows.append({path.parent.name: np.load(path)["arr_0"] for path in (out / "samples").rglob("*.npz")})
    few, many = rows
    assert len(few) == 4
    for setting, images in few.items():
        # The last chunk of six is cut from a whole one.
        assert (images == many[setting][:6]).all(), setting
    distinct = {images.tobytes() for images in few.values()}
    assert len(distinct) == 4
    for images in few.values():
        assert len({image.tobytes() for image in images}) == 6
    result: dict[str, Any] = found
    return result


def test_var(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(recipe_of("var"), "chunk", 4)
    with checkout("VAR"):
        import models

        # build_vae_var switches off the initialisation of these layers for good.
        for kind in (nn.Linear, nn.LayerNorm, nn.BatchNorm2d, nn.SyncBatchNorm, nn.Conv1d, nn.Conv2d,
                     nn.ConvTranspose1d, nn.ConvTranspose2d):  # fmt: skip
            monkeypatch.setattr(kind, "reset_parameters", kind.reset_parameters)
        vae, model = models.build_vae_var("cpu", SCALES, V=64, Cvae=8, ch=32, num_classes=10, depth=2)
        randomize(vae)
        randomize(model)
        weights = [tmp_path / "var.pth", tmp_path / "vae.pth"]
        torch.save(model.state_dict(), weights[0])
        torch.save(vae.state_dict(), weights[1])
        # The real decoder takes a second an image here.
        monkeypatch.setattr(models.VQVAE, "fhat_to_img", lambda self, f_hat: f_hat[:, :3] / 4)
        known = ["--reference", reference(tmp_path, (16, 16)), "--set", "top_k=20"]
        found = evaluated("var", "VAR", tmp_path, "--weights", *weights, *known)
        assert found["model"] == "VAR-d2"
        assert found["rows"][0]["setting"] | {"cfg": 0} == found["rows"][0]["setting"] | {
            "cfg": 0,
            "top_p": 0.96,
        }
        command = [
            "evaluate",
            "var",
            "--upstream",
            folder_of("VAR"),
            "--out",
            tmp_path / "wrong",
            *known,
            "--images",
            5,
        ]
        for given, sentence in (
            (weights[::-1], "--weights must be the transformer, such as var_d16.pth, then the VAE"),
            (weights[:1], "var needs --weights: the transformer, such as var_d16.pth; then the VAE"),
            ([weights[0], tmp_path / "reference.npz"], "is no checkpoint that torch can load"),
            ([weights[0], tmp_path / "nothing.pth"], "there is no such file or folder"),
        ):
            assert main([str(part) for part in (*command, "--weights", *given)]) == 2
            assert sentence in capsys.readouterr().err
        torch.save({**model.state_dict(), "head.weight": torch.zeros(3, 3)}, weights[0])
        assert main([str(part) for part in (*command, "--weights", *weights)]) == 2
        assert "var.pth does not fit VAR" in capsys.readouterr().err
        assert not list((tmp_path / "wrong").rglob("*.npz"))


def test_var_needs_its_checkout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", "var", "--out", str(tmp_path / "out"), "--weights", "a", "b"]
    assert main(command) == 2
    assert "--upstream DIR, a checkout of FoundationVision/VAR at 78b9539" in capsys.readouterr().err
    assert main([*command, "--upstream", str(tmp_path)]) == 2
    assert f"--upstream {tmp_path} has no models/var.py" in capsys.readouterr().err


def rms_norm(out: Tensor, x: Tensor, weight: Tensor, eps: float, use_quant: bool) -> None:
    """HART's kernel."""
    out.copy_(x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight)


def without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (torch.Tensor, nn.Module):
        monkeypatch.setattr(kind, "cuda", lambda self, *_, **__: self)


def test_hart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prompts: Path) -> None:
    pytest.importorskip("transformers")
    without_cuda(monkeypatch)
    backend, kernels = types.ModuleType("hart_backend"), types.ModuleType("hart_backend.fused_kernels")
    backend.fused_kernels, kernels.rms_norm = kernels, rms_norm  # type: ignore[attr-defined]
    stubs = {"hart_backend": backend, "hart_backend.fused_kernels": kernels}
    words, width = 12, 16
    with checkout("hart", stubs | empty("hart.utils.safety_check")):
        import hart.modules.models.autoencoder as autoencoder
        import hart.modules.models.transformer.hart_transformer_t2i as module

        def from_pretrained(path: Any) -> Any:
            config = autoencoder.HARTAutoEncoderConfig(
                vocab_size=640, z_channels=8, ch=32, v_patch_nums=SCALES, quantizer_type="var_hybrid", hybrid=True,
                disable_quant_resi=True, test_mode=True,
            )  # fmt: skip
            return SimpleNamespace(vae=autoencoder.HARTAutoEncoder(config))

        monkeypatch.setattr(module.HARTAutoEncoderWithDisc, "from_pretrained", from_pretrained)

        def build(self: Any, source: Source) -> None:
            self.prompts = upstream.Prompts(source, self.name)
            config = module.HARTForT2IConfig(
                vae_path="", context_token=words, context_dim=width, depth=2, embed_dim=32, num_heads=2,
                patch_nums=SCALES, attn_type="llama", mlp_type="llama", disable_aln=True, diff_width=32, diff_depth=1,
                num_sampling_steps="2",
            )  # fmt: skip
            torch.manual_seed(0)
            self.hart = module.HARTForT2I(config).eval()
            randomize(self.hart)
            self.hart.vae_proxy[0].fhat_to_img = lambda f_hat: f_hat[:, :3] / 4

        def encoded(self: Any, texts: Any) -> Any:
            features = torch.stack([torch.full((words, width), len(text) / 10).sin() for text in texts])
            return features, torch.ones(len(texts), words).long(), torch.arange(words).repeat(len(texts), 1)

        monkeypatch.setattr(recipe_of("hart"), "build", build)
        monkeypatch.setattr(recipe_of("hart"), "encoded", encoded)
        (tmp_path / "weights").mkdir()
        found = evaluated(
            "hart", "hart", tmp_path, "--weights", *[tmp_path / "weights"] * 2, "--prompts", prompts,
            "--reference", reference(tmp_path, (16, 16)),
        )  # fmt: skip
    # Seven prompts of 1 to 7 letters. The stand-in's mean goes through a chunk of 4 and one of 3.
    assert found["rows"][0]["metrics"]["clip_score"]["value"] == pytest.approx((2.5 * 4 + 6 * 3) / 7 / 100)


def flash_attn_func(*_: Any) -> Tensor:
    raise NotImplementedError("Infinity calls its own attention")


def flash_attn_varlen_kvpacked_func(
    q: Tensor, kv: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, softmax_scale: float, **_: Any
) -> Tensor:
    """Attention of each sequence to its own text."""
    found = []
    for i in range(len(cu_seqlens_q) - 1):
        (a, b), (c, d) = cu_seqlens_q[i : i + 2].tolist(), cu_seqlens_k[i : i + 2].tolist()
        k, v = (part[None] for part in kv[c:d].transpose(0, 2).unbind(1))
        out = nn.functional.scaled_dot_product_attention(
            q[a:b].transpose(0, 1)[None], k, v, scale=softmax_scale
        )
        found.append(out[0].transpose(0, 1))
    return torch.cat(found)


class InfinityVae:
    """Stands for the bitwise tokenizer: an image of the first three bits."""

    embed_dim = 32

    def __init__(self) -> None:
        def codes(bits: Tensor, label_type: str) -> Tensor:
            return 2.0 * bits.permute(0, 4, 1, 2, 3) - 1.0

        lfq = SimpleNamespace(mask=None, indices_to_codes=codes)
        self.quantizer = SimpleNamespace(lfq=lfq, z_interplote_up="trilinear")

    @staticmethod
    def decode(codes: Tensor) -> Tensor:
        return (codes[:, :3] / 4).clamp(-1, 1)


def test_infinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prompts: Path) -> None:
    pytest.importorskip("transformers")
    without_cuda(monkeypatch)
    monkeypatch.setattr(recipe_of("infinity"), "chunk", 4)
    stubs = empty(
        "timm", "timm.models", "timm.models.layers", "timm.loss", "pytz", "colorama", "wandb", "cv2", "pandas",
        "torchvision", "torchvision.transforms", "torchvision.transforms.functional",
    )  # fmt: skip
    stubs["timm.models"].register_model = lambda function: function  # type: ignore[attr-defined]
    stubs["timm.loss"].SoftTargetCrossEntropy = nn.CrossEntropyLoss  # type: ignore[attr-defined]
    flash = stubs["flash_attn"] = types.ModuleType("flash_attn")
    flash.flash_attn_func = flash_attn_func  # type: ignore[attr-defined]
    flash.flash_attn_varlen_kvpacked_func = flash_attn_varlen_kvpacked_func  # type: ignore[attr-defined]
    with checkout("Infinity", stubs):
        import infinity.models.infinity as module
        import tools.run_infinity as tools

        def build(self: Any, source: Source) -> None:
            self.prompts = upstream.Prompts(source, self.name)
            self.tools, self.tokenizer, self.text = tools, None, None
            torch.manual_seed(0)
            self.vae = InfinityVae()
            self.infinity = module.Infinity(
                self.vae, text_channels=128, text_maxlen=8, embed_dim=64, depth=2, num_heads=2, block_chunks=2,
                shared_aln=True, rope2d_each_sa_layer=1, rope2d_normalized_by_hw=2, pn="0.06M",
                apply_spatial_patchify=0, use_bit_label=1, inference_mode=True,
            ).eval()  # fmt: skip
            randomize(self.infinity)
            self.scales = [(1, n, n) for n in (1, 2, 4, 6, 8, 12, 16)]

        def encode_prompt(tokenizer: Any, encoder: Any, prompt: str, *_: Any) -> Any:
            lens = [len(prompt) % 7 + 1]
            text = torch.randn(lens[0], 128, generator=torch.Generator().manual_seed(len(prompt)))
            return text, lens, torch.tensor([0, *lens]).int(), lens[0]

        monkeypatch.setattr(recipe_of("infinity"), "build", build)
        monkeypatch.setattr(tools, "encode_prompt", encode_prompt)
        (tmp_path / "weights").touch()
        evaluated(
            "infinity", "Infinity", tmp_path, "--weights", *[tmp_path / "weights"] * 3, "--prompts", prompts,
            "--reference", reference(tmp_path, (16, 16)),
        )  # fmt: skip


class Text(nn.Module):
    """Random embeddings of the prompts, in the width of one of Switti's two text encoders."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(64, 5, width))

    def encode(self, texts: Any) -> Any:
        texts = [texts] if isinstance(texts, str) else texts
        hidden = self.table[[len(text) % 64 for text in texts]]
        bias = torch.zeros(len(texts), 5, dtype=self.table.dtype)
        return SimpleNamespace(last_hidden_state=hidden, pooler_output=hidden[:, 0], attn_bias=bias)


def test_switti(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prompts: Path) -> None:
    pytest.importorskip("diffusers")
    pytest.importorskip("einops")
    import diffusers.models.embeddings

    assert diffusers.models.embeddings.GaussianFourierProjection
    monkeypatch.setattr(recipe_of("switti"), "chunk", 4)
    stubs = empty("torchvision", "torchvision.transforms", "models.clip", "utils.arg_util")
    stubs["utils.arg_util"].RESOLUTION_PATCH_NUMS_MAPPING = {}  # type: ignore[attr-defined]
    with checkout("switti", stubs):
        import models

        class Pipeline(models.SwittiPipeline):  # type: ignore[misc,name-defined]
            @classmethod
            def from_pretrained(cls, path: str, torch_dtype: Any, device: str, reso: int) -> Any:
                assert (cls.vae_path, reso) == (str(tmp_path / "weights"), 512)
                torch.manual_seed(0)
                vae = models.VQVAE(48, z_channels=8, ch=32, v_patch_nums=SCALES).eval()
                model = models.Switti(Cvae=8, V=48, depth=2, embed_dim=32, num_heads=2, patch_nums=SCALES)
                randomize(model)
                vae.fhat_to_img = lambda f_hat: f_hat[:, :3].float() / 4
                return cls(model, vae, Text(768), Text(1280), device, torch_dtype)

        monkeypatch.setattr(models, "SwittiPipeline", Pipeline)
        (tmp_path / "weights").mkdir()
        evaluated(
            "switti", "switti", tmp_path, "--weights", *[tmp_path / "weights"] * 4, "--prompts", prompts,
            "--reference", reference(tmp_path, (16, 16)), "--set", "top_k=20", "--cfg-order", "before",
        )  # fmt: skip


class ImageCodec(nn.Module):
    def decode(self, tokens: Tensor) -> Tensor:
        return tokens.view(len(tokens), 1, 6, 6).expand(-1, 3, -1, -1) * 10.0


def test_vq_diffusion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("einops")
    without_cuda(monkeypatch)
    monkeypatch.setattr(sys.modules[recipe_of("vq_diffusion").__module__], "CLASSES", 10)
    monkeypatch.setattr(recipe_of("vq_diffusion"), "chunk", 4)
    with checkout("VQ-Diffusion"):
        from image_synthesis.modeling.models import conditional_dalle

        modeling = "image_synthesis.modeling"
        diffusion = {
            "target": f"{modeling}.transformers.diffusion_transformer.DiffusionTransformer",
            "params": {
                "diffusion_step": 10,
                "alpha_init_type": "alpha1",
                "transformer_config": {
                    "target": f"{modeling}.transformers.transformer_utils.Condition2ImageTransformer",
                    "params": {
                        "n_layer": 2, "n_embd": 16, "n_head": 2, "content_seq_len": 36, "mlp_hidden_times": 2,
                        "content_spatial_size": [6, 6], "block_activate": "GELU2", "mlp_type": "fc",
                        "class_number": 1001,
                    },
                },
                "condition_emb_config": {
                    "target": f"{modeling}.embeddings.class_embedding.ClassEmbedding", "params": {"identity": True},
                },
                "content_emb_config": {
                    "target": f"{modeling}.embeddings.dalle_mask_image_embedding.DalleMaskImageEmbedding",
                    "params": {"num_embed": 24, "spatial_size": [6, 6], "embed_dim": 16},
                },
            },
        }  # fmt: skip

        def build(self: Any, source: Source) -> None:
            self.dalle = conditional_dalle.C_DALLE(
                content_codec_config={"target": f"{__name__}.ImageCodec"}, diffusion_config=diffusion
            )
            randomize(self.dalle)
            with torch.no_grad():
                self.dalle.transformer.transformer.to_logits[-1].weight.mul_(3)

        monkeypatch.setattr(recipe_of("vq_diffusion"), "build", build)
        (tmp_path / "weights").touch()
        evaluated(
            "vq_diffusion", "VQ-Diffusion", tmp_path, "--weights", tmp_path / "weights",
            "--reference", reference(tmp_path, (6, 6)),
        )  # fmt: skip
