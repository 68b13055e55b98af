"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747; MIT licence)."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

from advreg.data.dataset import Dataset
from advreg.data.download import Progress, cache_folder, download, find
from advreg.data.idx_format import FILES, read_idx, read_pair

NAME = "fashion-mnist"
_URL = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_SHA256 = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def fashion_mnist(progress: Progress | None = None) -> tuple[Dataset, Dataset]:
    """Return Fashion-MNIST, 70,000 articles of 1x28x28; downloaded (30 MB) where it is nowhere found.

    Args:
        progress: called during a download with bytes so far and bytes in all.

    Returns:
        The training set and the test set.

    Raises:
        DataError: a file cannot be downloaded or is damaged.

    Reference: Xiao, Rasul, Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms", 2017,
    arXiv:1708.07747.
    """
    return _read(find(NAME, FILES.values()) or _download(cache_folder() / NAME, progress))


def _download(folder: Path, progress: Progress | None) -> Path:
    for file in FILES.values():
        if not (folder / file).is_file():
            download(_URL + file, folder / file, partial(read_idx, sha256=_SHA256[file]), progress)
    return folder


@cache
def _read(folder: Path) -> tuple[Dataset, Dataset]:
    return read_pair(folder, NAME, _CLASSES, _SHA256)
