"""Data sets by name, as one uint8 tensor each, and batches that come out the same every time."""

from advreg.data.augment import augmentation
from advreg.data.dataset import Dataset
from advreg.data.loader import Batch, Batches
from advreg.data.loading import load, stream
from advreg.data.streaming import Streamed
from advreg.data.validation import check_labels, check_pair, check_pixels

__all__ = [
    "Batch",
    "Batches",
    "Dataset",
    "Streamed",
    "augmentation",
    "check_labels",
    "check_pair",
    "check_pixels",
    "load",
    "stream",
]
