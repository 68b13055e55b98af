"""CIFAR-10 recompressed as JPEG (quality 75): good for ratios between methods, not comparable to published figures.

    python bench/cifar10_jpeg.py OUT.npz        # then: advreg ... --data npz:OUT.npz

The folder is ``$ADVREG_SHARED/data/cifar10-jpeg``, by default ``../shared`` beside the repository; each file holds
``jpeg`` (all images' bytes), ``offsets`` (where each begins, and the end) and ``labels``.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from advreg.data import Dataset
from advreg.data.cifar10 import CLASSES
from advreg.data.images import RGB, pixels

NAME = "cifar10-jpeg"
BESIDE = Path(__file__).resolve().parents[2] / "shared"
FOLDER = Path(os.environ.get("ADVREG_SHARED", BESIDE)) / "data" / NAME


def load(folder: Path = FOLDER, n: int | None = None) -> tuple[Dataset, Dataset]:
    """Return the training set and the test set, or the first ``n`` images of each."""
    return load_part("train", n, folder), load_part("test", n, folder)


def load_part(split: str, n: int | None = None, folder: Path = FOLDER) -> Dataset:
    """Return the ``"train"`` or ``"test"`` set, or the first ``n`` images of it."""
    with np.load(folder / f"{split}.npz", allow_pickle=False) as archive:
        data, offsets, labels = archive["jpeg"].tobytes(), archive["offsets"], archive["labels"][:n]
    spans = pairwise(offsets[: len(labels) + 1])
    images = [pixels(Image.open(io.BytesIO(data[begin:end])), RGB, None) for begin, end in spans]
    return Dataset(torch.stack(images), torch.from_numpy(labels.astype(np.int64)), CLASSES, NAME, split)


def convert(out: Path, folder: Path = FOLDER, n: int | None = None) -> None:
    """Write both sets into one file that ``npz:OUT`` reads."""
    train, test = load(folder, n)
    arrays = {"x": train.images, "y": train.labels, "x_test": test.images, "y_test": test.labels}
    with tempfile.NamedTemporaryFile(dir=out.parent, suffix=".npz", delete=False) as file:
        np.savez(file, classes=np.array(CLASSES), **{key: tensor.numpy() for key, tensor in arrays.items()})
    os.replace(file.name, out)


def main() -> None:
    parser = argparse.ArgumentParser(description="Convert cifar10-jpeg to a file that npz:PATH reads.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("-n", type=int, default=None, help="only the first n images of each set")
    given = parser.parse_args()
    convert(given.out, given.folder, given.n)


if __name__ == "__main__":
    main()
