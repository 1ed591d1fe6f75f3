"""What the recipes of other projects share: their checkout, their checkpoints, and sampling chunk by chunk."""

from __future__ import annotations

import contextlib
import csv
import importlib
import json
import os
import pickle
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ssg_kernels.evaluate.recipe import EvaluateError, Recipe, Samples, Source, chunk_seed
from ssg_kernels.evaluate.setting import Setting


class UpstreamRecipe(Recipe):
    """A sampler that draws a batch from one generator.

    It always makes whole chunks, and cuts what is too much from the last one: fewer images at once would take other
    random numbers from the generator. So an image depends on its number, the seed and the size of the chunk.
    """

    package: ClassVar[str]  # a folder or file of the checkout, by which it is known
    gpu: ClassVar[bool] = False  # whether its code runs on GPUs alone
    attach: ClassVar[Callable[..., AbstractContextManager[Any]]]

    def load(self, source: Source) -> None:
        needed = len([weights for weights in self.weights if not weights.startswith("optional")])
        if source.upstream is None:
            raise EvaluateError(
                f"{self.name} runs the model's own code: --upstream DIR, a checkout of {self.upstream}"
            )
        if not (source.upstream / self.package).exists():
            raise EvaluateError(
                f"--upstream {source.upstream} has no {self.package}: it must be a checkout of {self.upstream}"
            )
        if not needed <= len(source.weights) <= len(self.weights):
            raise EvaluateError(f"{self.name} needs --weights: {'; then '.join(self.weights)}")
        for path in source.weights:
            if not path.exists():
                raise EvaluateError(f"--weights {path}: there is no such file or folder")
        if self.gpu and not source.device.startswith("cuda"):
            raise EvaluateError(
                f"the code of {self.name} runs on a GPU alone, and the device is {source.device}"
            )
        self.device = source.device
        if str(source.upstream.resolve()) not in sys.path:
            sys.path.insert(0, str(source.upstream.resolve()))
        try:
            with _without_gaps():
                self.build(source)
        except ImportError as missing:
            raise EvaluateError(
                f"the code of {self.name} needs a package that is not installed: {missing}. Install what "
                f"{source.upstream} asks for"
            ) from missing
        except _LOADING as reason:
            told = " ".join(str(reason).split()) or type(reason).__name__
            told = f"there is no {told}" if isinstance(reason, KeyError) else told
            raise EvaluateError(f"--weights must be {'; then '.join(self.weights)}: {told[:400]}") from reason

    @abstractmethod
    def build(self, source: Source) -> None:
        """Imports the checkout and loads the model. The checkout is on the path, and the weights exist."""

    @abstractmethod
    def sample(self, setting: Setting, seed: int, indices: Sequence[int]) -> Tensor:
        """Images (B, 3, H, W), uint8, of these numbers, from the generator seeded with `seed`, without guidance."""

    @abstractmethod
    def guided(self) -> Any:
        """The object that `attach` takes."""

    def logits_of(self) -> tuple[Any, str]:
        """The object and the name of its method that makes logits. The temperature divides what it returns."""
        return self.guided(), "get_logits"

    def generate(self, setting: Setting, seed: int, first: int, count: int) -> Samples:
        indices = range(first, first + self.chunk)
        with ExitStack() as stack:
            if setting.temperature != 1:
                stack.enter_context(tempered(*self.logits_of(), setting.temperature))
            if setting.guided:
                stack.enter_context(type(self).attach(self.guided(), **setting.guidance()))
            images = self.sample(setting, chunk_seed(seed, first), indices)
        return Samples(images[:count].cpu())

    def autocast(self, dtype: torch.dtype) -> AbstractContextManager[Any]:
        """The autocast of the upstream scripts, which run on GPUs."""
        on = self.device.startswith("cuda")
        return torch.autocast("cuda", dtype=dtype, cache_enabled=True) if on else contextlib.nullcontext()


class Prompts:
    """Prompts for models of text, in the order of the file."""

    def __init__(self, source: Source, recipe: str) -> None:
        if source.prompts is None:
            raise EvaluateError(
                f"{recipe} needs --prompts FILE: the meta_data.json of MJHQ-30K, a CSV with a column prompt or "
                f"caption, or text with a prompt on each line"
            )
        try:
            text = source.prompts.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as reason:
            raise EvaluateError(f"--prompts {source.prompts} cannot be read: {reason}") from reason
        try:
            self.texts = _parsed(source.prompts, text)
        except (ValueError, KeyError, TypeError) as reason:
            raise EvaluateError(
                f"--prompts {source.prompts} is not what its suffix says: {reason!r}"
            ) from reason
        if not self.texts:
            raise EvaluateError(f"--prompts {source.prompts} holds no prompt")

    def __getitem__(self, index: int) -> str:
        return self.texts[index % len(self.texts)]


def _parsed(path: Path, text: str) -> list[str]:
    if path.suffix == ".json":
        found = json.loads(text)
        entries = found.values() if isinstance(found, dict) else found
        return [entry if isinstance(entry, str) else entry["prompt"] for entry in entries]
    if path.suffix == ".csv":
        rows = list(csv.DictReader(text.splitlines()))
        column = next(name for name in ("prompt", "caption", "Prompt", "captions") if name in rows[0])
        return [row[column] for row in rows]
    return [line.strip() for line in text.splitlines() if line.strip()]


@contextlib.contextmanager
def tempered(owner: Any, name: str, temperature: float) -> Iterator[None]:
    """Inside, `owner.name(...)` gives logits divided by the temperature. Cfg and guidance are linear and follow."""
    own = vars(owner).get(name)
    method = getattr(owner, name)
    vars(owner)[name] = lambda *args, **kwargs: method(*args, **kwargs) / temperature
    try:
        yield
    finally:
        del vars(owner)[name]
        if own is not None:
            vars(owner)[name] = own


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Inside, `folder` is the working directory."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def module(name: str) -> Any:
    """A module of the checkout."""
    return importlib.import_module(name)


# What loaders of other projects raise where a file is none of theirs.
_LOADING = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    EOFError,
    pickle.UnpicklingError,
)


def checkpoint(path: Path) -> dict[str, Any]:
    """What `torch.save` wrote. Raises EvaluateError if the file holds anything else than values by name."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as reason:
        raise EvaluateError(
            f"--weights {path} is no checkpoint that torch can load: {str(reason).partition(chr(10))[0]}"
        ) from reason
    if not isinstance(found, dict):
        raise EvaluateError(f"--weights {path} must hold values by name, and holds a {type(found).__name__}")
    return found


def state_dict(path: Path, part: str | None = None) -> dict[str, Tensor]:
    """The tensors in a checkpoint by name, or those in a part of it. Raises EvaluateError if there are none."""
    found = checkpoint(path)
    if part is not None:
        found = found.get(part, {})
    if not isinstance(found, dict) or not any(isinstance(value, Tensor) for value in found.values()):
        where = f" at {part!r}" if part else ""
        raise EvaluateError(f"--weights {path} must hold tensors by name{where}")
    return found


@contextlib.contextmanager
def _without_gaps() -> Iterator[None]:
    """Inside, it is an error to load a checkpoint that lacks most of a model's parameters.

    Projects load with `strict=False`, and transformers only warns. A checkpoint of another model would then leave the
    model at random.
    """
    load = torch.nn.Module.load_state_dict

    def checked(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        result = load(self, *args, **kwargs)
        _require_most_of(self, result.missing_keys)
        return result

    with ExitStack() as stack:
        stack.enter_context(_replaced(torch.nn.Module, "load_state_dict", checked))
        try:
            from transformers import PreTrainedModel  # type: ignore[import-untyped,unused-ignore]
        except (ImportError, RuntimeError):
            pass  # Then nothing is loaded by transformers.
        else:
            from_pretrained = vars(PreTrainedModel)["from_pretrained"].__func__

            def informed(cls: Any, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
                model, info = from_pretrained(cls, *args, output_loading_info=True, **kwargs)
                _require_most_of(model, info["missing_keys"])
                return (model, info) if output_loading_info else model

            stack.enter_context(_replaced(PreTrainedModel, "from_pretrained", classmethod(informed)))
        yield


@contextlib.contextmanager
def _replaced(owner: type, name: str, stand_in: Any) -> Iterator[None]:
    before = vars(owner)[name]
    setattr(owner, name, stand_in)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _require_most_of(model: torch.nn.Module, missing: Iterable[str]) -> None:
    names = {name for name, _ in model.named_parameters()}
    require_most(len(names - set(missing)), len(names), type(model).__name__)


def require_most(found: int, wanted: int, model: str) -> None:
    """Raises ValueError where a checkpoint has less than half of what a model needs: it belongs to another model."""
    if 2 * found < wanted:
        raise ValueError(
            f"one of the files has {found} of the {wanted} parameters of {model}, so it belongs to another model"
        )


def fill(model: torch.nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Loads a state dict. Raises EvaluateError, with what is missing or too much, if it does not fit."""
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as reason:
        told = " ".join(str(reason).split())
        raise EvaluateError(f"--weights {path} does not fit {type(model).__name__}: {told[:400]}") from reason


def to_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1] as uint8. The scripts of VAR, HART and Switti cut off the fraction, and so does this."""
    return images.float().clamp(0, 1).mul(255).to(torch.uint8)
