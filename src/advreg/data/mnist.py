"""MNIST, which travels with the package (Y. LeCun and C. Cortes, CC BY-SA 3.0), so nothing is downloaded."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from advreg.data.dataset import Dataset
from advreg.data.idx_format import read_pair

_CLASSES = tuple("0123456789")
_SHA256 = {
    "train-images-idx3-ubyte.gz": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte.gz": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte.gz": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte.gz": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


@cache
def mnist() -> tuple[Dataset, Dataset]:
    """Return MNIST, 60,000 and 10,000 digits of 1x28x28; read and checked once a process."""
    return read_pair(Path(__file__).parent / "mnist", "mnist", _CLASSES, _SHA256)
