"""The recipes on the real checkouts, with small random weights, and the toy's feature network instead of Inception."""

from __future__ import annotations

import copy
import json
import sys
import types
from argparse import Namespace
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
from ssg_kernels.evaluate import outputs
from ssg_kernels.evaluate.recipe import Source
from ssg_kernels.evaluate.recipes import find as recipe_of

SCALES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
WORDS = 12  # of a prompt


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


def evaluated(name: str, upstream: Path, tmp_path: Path, *arguments: Any) -> dict[str, Any]:
    """Runs the recipe without and with guidance, twice with different numbers of images."""
    rows = []
    for images in (6, 7):
        out = tmp_path / f"out{images}"
        command = [
            *("evaluate", name, "--upstream", upstream, "--out", out, "--images", images),
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
        found = evaluated("var", folder_of("VAR"), tmp_path, "--weights", *weights, *known)
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
            (weights[::-1], "such as var_d16.pth; then the VAE, vae_ch160v4096z32.pth: there is no 'lvl_1L'"),
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


def without_cuda(monkeypatch: pytest.MonkeyPatch, recipe: str) -> None:
    """Code that was written for GPUs alone runs on the CPU."""
    monkeypatch.setattr(recipe_of(recipe), "gpu", False)
    for kind in (torch.Tensor, nn.Module):
        monkeypatch.setattr(kind, "cuda", lambda self, *_, **__: self)


def save_tokenizer(folder: Path, **options: Any) -> None:
    """A tokenizer of whole words, as transformers saves one. Every word of the prompts is one that it knows."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = ["<pad>", "<unk>", "</s>", *("a" * n for n in range(1, 13))]
    model = tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special | options).save_pretrained(
        folder
    )


def refused(command: list[Any], weights: list[Any], capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says about weights that are wrong. It writes no chunk."""
    capsys.readouterr()
    assert main([str(part) for part in (*command, "--weights", *weights)]) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    return err.splitlines()[-1]


def test_hart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transformers = pytest.importorskip("transformers")
    without_cuda(monkeypatch, "hart")
    monkeypatch.setattr(sys.modules[recipe_of("hart").__module__], "MAX_TOKENS", WORDS)
    backend, kernels = types.ModuleType("hart_backend"), types.ModuleType("hart_backend.fused_kernels")
    backend.fused_kernels, kernels.rms_norm = kernels, rms_norm  # type: ignore[attr-defined]
    stubs = {"hart_backend": backend, "hart_backend.fused_kernels": kernels}
    width = 16
    with checkout("hart", stubs | empty("hart.utils.safety_check")):
        import hart.modules.models.autoencoder as autoencoder
        import hart.modules.models.transformer.hart_transformer_t2i as module

        def from_pretrained(path: str) -> Any:
            assert path == str(tmp_path / "weights" / "tokenizer")
            config = autoencoder.HARTAutoEncoderConfig(
                vocab_size=640, z_channels=8, ch=32, v_patch_nums=SCALES, quantizer_type="var_hybrid", hybrid=True,
                disable_quant_resi=True, test_mode=True,
            )  # fmt: skip
            torch.manual_seed(0)
            vae = autoencoder.HARTAutoEncoder(config)
            vae.fhat_to_img = lambda f_hat: f_hat[:, :3] / 4
            return SimpleNamespace(vae=vae)

        monkeypatch.setattr(module.HARTAutoEncoderWithDisc, "from_pretrained", from_pretrained)
        config = module.HARTForT2IConfig(
            context_token=WORDS, context_dim=width, depth=2, embed_dim=32, num_heads=2, patch_nums=SCALES,
            attn_type="llama", mlp_type="llama", disable_aln=True, diff_width=32, diff_depth=1, num_sampling_steps="2",
        )  # fmt: skip
        folder, text = tmp_path / "weights" / "llm", tmp_path / "text"
        config.save_pretrained(folder)
        config.name_or_path = str(folder)
        model = module.HARTForT2I(config)
        randomize(model)
        torch.save(model.state_dict(), folder / "ema_model.bin")
        save_tokenizer(text)
        language = transformers.Qwen2Config(
            vocab_size=20, hidden_size=width, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2,
        )  # fmt: skip
        transformers.Qwen2Model(language).save_pretrained(text)
        known = ["--prompts", prompts, "--reference", reference(tmp_path, (16, 16))]
        found = evaluated("hart", folder_of("hart"), tmp_path, "--weights", folder, text, *known)
        command = ["evaluate", "hart", "--upstream", folder_of("hart"), "--out", tmp_path / "wrong", *known]
        assert "has no ema_model.bin" in refused(command, [text, folder], capsys)
        assert "must be the folder llm of hart-0.7b-1024px" in refused(command, [folder, folder], capsys)
        torch.save({"blocks.0.weight": torch.zeros(3)}, folder / "ema_model.bin")
        assert "ema_model.bin does not fit HARTForT2I" in refused(command, [folder, text], capsys)
        monkeypatch.setattr(recipe_of("hart"), "gpu", True)
        assert "the code of hart runs on a GPU alone" in refused(command, [folder, text], capsys)
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


def test_infinity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("einops")
    t5 = transformers.T5EncoderModel  # before flash_attn is stood in for
    without_cuda(monkeypatch, "infinity")
    recipe = sys.modules[recipe_of("infinity").__module__]
    monkeypatch.setattr(recipe_of("infinity"), "chunk", 4)
    monkeypatch.setattr(
        recipe, "ARGUMENTS", recipe.ARGUMENTS | {"pn": "0.06M", "text_channels": 128, "bf16": 0}
    )
    stubs = empty(
        "timm", "timm.models", "timm.models.layers", "timm.loss", "imageio", "pytz", "colorama", "wandb", "cv2",
        "pandas", "torchvision", "torchvision.transforms", "torchvision.transforms.functional",
    )  # fmt: skip
    stubs["timm.models"].register_model = lambda function: function  # type: ignore[attr-defined]
    stubs["timm.loss"].SoftTargetCrossEntropy = nn.CrossEntropyLoss  # type: ignore[attr-defined]
    flash = stubs["flash_attn"] = types.ModuleType("flash_attn")
    flash.flash_attn_func = flash_attn_func  # type: ignore[attr-defined]
    flash.flash_attn_varlen_kvpacked_func = flash_attn_varlen_kvpacked_func  # type: ignore[attr-defined]
    with checkout("Infinity", stubs):
        import infinity.models.bsq_vae.vae as vae_module
        import infinity.models.infinity as module
        import tools.run_infinity as tools

        def small(**options: Any) -> Any:
            sizes = {"depth": 2, "embed_dim": 64, "num_heads": 2, "block_chunks": 2, "drop_path_rate": 0.0}
            return module.Infinity(**options | sizes)

        auto_encoder = vae_module.AutoEncoder

        def narrow(arguments: Any) -> Any:
            vae = auto_encoder(Namespace(**vars(arguments) | {"base_ch": 32}))
            # The real decoder takes a second an image here.
            vae.decode = lambda codes: (codes[:, :3] / 4).clamp(-1, 1)
            return vae

        monkeypatch.setattr(vae_module, "AutoEncoder", narrow)
        monkeypatch.setattr(tools, "Infinity", small)
        monkeypatch.setattr(t5, "to", lambda self, device: self.float())
        weights = [tmp_path / "infinity.pth", tmp_path / "vae.pth", tmp_path / "t5"]
        save_tokenizer(weights[2], model_max_length=512)
        language = transformers.T5Config(
            vocab_size=20, d_model=128, d_kv=8, d_ff=32, num_layers=1, num_heads=2
        )
        t5(language).save_pretrained(weights[2])
        given = Namespace(**recipe.ARGUMENTS, model_path="", vae_path={"vae": {}})
        vae = tools.load_visual_tokenizer(given)
        with monkeypatch.context() as untrained:
            untrained.setattr(torch, "load", lambda *_, **__: {})
            untrained.setattr(module.Infinity, "load_state_dict", lambda *_: "")
            model = tools.load_transformer(vae, given)
        for network, path, content in (
            (model, weights[0], lambda x: x),
            (vae, weights[1], lambda x: {"vae": x}),
        ):
            randomize(network)
            torch.save(content(network.state_dict()), path)
        known = ["--prompts", prompts, "--reference", reference(tmp_path, (16, 16))]
        evaluated("infinity", folder_of("Infinity"), tmp_path, "--weights", *weights, *known)
        command = [
            "evaluate",
            "infinity",
            "--upstream",
            folder_of("Infinity"),
            "--out",
            tmp_path / "wrong",
            *known,
        ]
        torch.save({"vae": {"other": torch.zeros(3)}}, tmp_path / "other.pth")
        for wrong, sentence in (
            ([weights[1], weights[0], weights[2]], "must hold tensors by name at 'vae'"),
            ([weights[1], weights[1], weights[2]], "must be the transformer, infinity_2b_reg.pth"),
            ([weights[0], tmp_path / "other.pth", weights[2]], "0 of the 1 parameters of Infinity's VAE"),
            ([weights[0], weights[1], tmp_path], "the folder of the text model, flan-t5-xl: "),
        ):
            assert sentence in refused(command, wrong, capsys)


def test_switti(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("diffusers")
    pytest.importorskip("einops")
    import diffusers.models.embeddings

    assert diffusers.models.embeddings.GaussianFourierProjection
    monkeypatch.setattr(recipe_of("switti"), "chunk", 4)
    stubs = empty("torchvision", "torchvision.transforms", "utils.arg_util")
    sizes = {256: "_".join(map(str, SCALES)), 512: "1_2_4_6_8_10_12_14_16_32"}
    stubs["utils.arg_util"].RESOLUTION_PATCH_NUMS_MAPPING = sizes  # type: ignore[attr-defined]
    with checkout("switti", stubs):
        from models.switti import SwittiHF
        from models.vqvae import VQVAEHF

        # The real decoder takes a second an image here.
        monkeypatch.setattr(VQVAEHF, "fhat_to_img", lambda self, f_hat: f_hat[:, :3].float() / 4)
        weights = [tmp_path / name for name in ("switti", "vqvae", "clip", "clip2")]
        for network, folder in (
            (SwittiHF(depth=2, reso=256), weights[0]),
            (VQVAEHF(ch=32, reso=256), weights[1]),
        ):
            randomize(network)
            network.save_pretrained(folder)
        words = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a": 2, "a</w>": 3}
        for width, folder in ((768, weights[2]), (1280, weights[3])):
            config = transformers.CLIPTextConfig(
                vocab_size=4, hidden_size=width, intermediate_size=16, num_hidden_layers=1, num_attention_heads=4,
                bos_token_id=0, eos_token_id=1,
            )  # fmt: skip
            transformers.CLIPTextModel(config).save_pretrained(folder)
            (folder / "vocab.json").write_text(json.dumps(words))
            (folder / "merges.txt").write_text("#version: 0.2\n")
            transformers.CLIPTokenizer(
                str(folder / "vocab.json"), str(folder / "merges.txt")
            ).save_pretrained(folder)
        known = ["--prompts", prompts, "--reference", reference(tmp_path, (16, 16))]
        evaluated(
            "switti",
            folder_of("switti"),
            tmp_path,
            "--weights",
            *weights,
            *known,
            "--set",
            "top_k=20",
            "--cfg-order",
            "before",
        )
        command = [
            "evaluate",
            "switti",
            "--upstream",
            folder_of("switti"),
            "--out",
            tmp_path / "wrong",
            *known,
        ]
        swapped = [weights[1], weights[0], *weights[2:]]
        assert "must be the folder of Switti or Switti-1024" in refused(command, swapped, capsys)
        wrong = [weights[0], weights[1], weights[3], weights[1]]
        assert "then the folder of laion/CLIP-ViT-bigG-14" in refused(command, wrong, capsys)


class ImageCodec(nn.Module):
    def decode(self, tokens: Tensor) -> Tensor:
        return tokens.view(len(tokens), 1, 6, 6).expand(-1, 3, -1, -1) * 10.0


def test_vq_diffusion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("einops")
    without_cuda(monkeypatch, "vq_diffusion")
    monkeypatch.setattr(sys.modules[recipe_of("vq_diffusion").__module__], "CLASSES", 10)
    monkeypatch.setattr(recipe_of("vq_diffusion"), "chunk", 4)
    with checkout("VQ-Diffusion", empty("cv2", "torchvision")) as folder:
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

        codec = {"target": f"{__name__}.ImageCodec"}
        parameters = {"content_codec_config": codec, "diffusion_config": diffusion}
        # A checkout whose configuration is of a small model.
        upstream_folder = tmp_path / "checkout"
        upstream_folder.mkdir()
        for entry in folder.iterdir():
            if entry.name != "configs":
                (upstream_folder / entry.name).symlink_to(entry)
        (upstream_folder / "configs").mkdir()
        target = f"{modeling}.models.conditional_dalle.C_DALLE"
        (upstream_folder / "configs" / "imagenet.yaml").write_text(
            json.dumps({"model": {"target": target, "params": parameters}})
        )
        model = conditional_dalle.C_DALLE(**parameters)
        weights = tmp_path / "imagenet_learnable.pth"
        randomize(model, seed=1)
        content = copy.deepcopy({"last_epoch": 3, "model": model.state_dict()})
        randomize(model)
        with torch.no_grad():
            model.transformer.transformer.to_logits[-1].weight.mul_(3)
        torch.save(content | {"ema": model.transformer.state_dict()}, weights)
        loaded = recipe_of("vq_diffusion")()
        loaded.load(Source(upstream_folder, (weights,)))
        for name, value in model.state_dict().items():
            assert torch.equal(loaded.dalle.state_dict()[name], value), name
        known = ["--reference", reference(tmp_path, (6, 6))]
        evaluated("vq_diffusion", upstream_folder, tmp_path, "--weights", weights, *known)
        command = [
            "evaluate",
            "vq_diffusion",
            "--upstream",
            upstream_folder,
            "--out",
            tmp_path / "wrong",
            *known,
        ]
        others: tuple[tuple[Any, str], ...] = (
            ({"model": {"other": torch.zeros(3)}}, "belongs to another model"),
            (model.state_dict(), "must be the model, imagenet_learnable.pth: there is no 'model'"),
            (b"text", "must be the model, imagenet_learnable.pth: "),
        )
        for content, sentence in others:
            torch.save(content, tmp_path / "other.pth")
            assert sentence in refused(command, [tmp_path / "other.pth"], capsys)
