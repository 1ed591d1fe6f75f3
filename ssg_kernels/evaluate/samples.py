"""Samples as other tools take them: PNG files, and the npz of the ADM evaluator."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from ssg_kernels.evaluate.folder import Folder, Item, write


def write_png(out: Path, item: Item, pixels: np.ndarray) -> None:
    """Writes images (B, H, W, 3) to samples/SETTING/seedN/NUMBER.png."""
    from PIL import Image

    folder = out / "samples" / item.name / f"seed{item.seed}"
    for i, image in enumerate(pixels):
        picture = io.BytesIO()
        Image.fromarray(image).save(picture, "PNG")
        write(folder / f"{item.first + i:06d}.png", picture.getvalue())


def write_npz(folder: Folder, items: Sequence[Item]) -> Path:
    """Writes the images of the chunks as samples/SETTING/seedN.npz, with the array `arr_0` (N, H, W, 3) alone.

    The chunks are copied one by one, so that the images need not fit in memory.
    """
    path = folder.path / "samples" / items[0].name / f"seed{items[0].seed}.npz"
    one = folder.read(items[:1], "images")

    def content(file: IO[bytes]) -> None:
        shape = (sum(item.count for item in items), *one.shape[1:])
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        with zipfile.ZipFile(file, "w") as archive, archive.open("arr_0.npy", "w", force_zip64=True) as array:
            np.lib.format.write_array_header_1_0(array, header)
            for item in items:
                array.write(folder.read([item], "images").tobytes())

    write(path, content)
    return path
