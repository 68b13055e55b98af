"""Data sets by name, as one tensor each, any form of the user's data, and batches that come out the same every time."""

from typing import TYPE_CHECKING

from advreg._lazy import deprecated
from advreg.data.augment import augmentation
from advreg.data.dataset import Dataset
from advreg.data.loader import Batches, DataBatch
from advreg.data.loading import load, load_images, stream
from advreg.data.streaming import StreamingDataset
from advreg.data.table import Table
from advreg.data.targets import load_targets
from advreg.data.validation import check_labels, check_pair, check_pixels

__all__ = [
    "Batches",
    "DataBatch",
    "Dataset",
    "StreamingDataset",
    "Table",
    "augmentation",
    "check_labels",
    "check_pair",
    "check_pixels",
    "load",
    "load_images",
    "load_targets",
    "stream",
]

if not TYPE_CHECKING:
    __getattr__ = deprecated(__name__, {"Batch": "DataBatch", "Streamed": "StreamingDataset"})
