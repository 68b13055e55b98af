"""Load a data set by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from advreg.data.cifar10 import cifar10
from advreg.data.dataset import Dataset
from advreg.data.download import Progress
from advreg.data.fashion_mnist import fashion_mnist
from advreg.data.folder import folder, streamed_folder
from advreg.data.guess import hint_for
from advreg.data.images import parse_size
from advreg.data.mnist import mnist
from advreg.data.npz import npz
from advreg.data.streaming import StreamingDataset
from advreg.data.table import Table
from advreg.data.table_files import csv_table, parquet_table, parse_box
from advreg.data.third_party import factory, hugging_face, torchvision
from advreg.errors import DataError, did_you_mean
from advreg.plugins import is_factory

Pair = tuple[Dataset, Dataset] | tuple[Table, Table]
Option = Callable[[str], Any]

_NAMED: dict[str, Callable[[Progress | None], Pair]] = {
    "mnist": lambda _: mnist(),
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar10,
}
SCHEMES: dict[str, tuple[Callable[..., Pair], dict[str, Option]]] = {
    "folder": (folder, {"size": parse_size, "mode": str, "broken": str, "bits": int}),
    "npz": (npz, {"box": parse_box}),
    "csv": (csv_table, {"label": str, "box": parse_box, "drop": str, "scale": str, "test": str, "sep": str}),
    "parquet": (parquet_table, {"label": str, "box": parse_box, "drop": str, "scale": str, "test": str}),
    "torchvision": (torchvision, {"size": parse_size}),
    "hf": (hugging_face, {"size": parse_size, "label": str, "box": parse_box, "drop": str, "scale": str}),
}
"""The schemes of names: their readers, and their options with the functions that read them."""


def load(name: str, *, progress: Progress | None = None) -> Pair:
    """Return the training set and the test set of a name.

    Args:
        name: ``mnist`` (embedded), ``fashion-mnist``, ``cifar10``, ``folder:PATH?size=224``, ``npz:PATH?box=-1,1``,
            ``csv:FILE?label=COLUMN``, ``parquet:FILE?label=COLUMN``, ``torchvision:NAME``, ``hf:NAME``, or
            ``pkg.module:factory``, called without arguments.
        progress: called during a download with bytes so far and bytes in all.

    Returns:
        ``(train, test)``.

    Raises:
        DataError: unknown name, damaged files, or data that cannot be used.
        MissingExtraError: the name needs a library that is not installed.

    Example:
        >>> train, test = load("mnist")
        >>> test
        <mnist/test: 10000 images of 1x28x28, 10 classes>
    """
    scheme, _, rest = name.partition(":")
    if name in _NAMED:
        return _NAMED[name](progress)
    if scheme in SCHEMES and rest:
        reader, allowed = SCHEMES[scheme]
        place, options = split_options(rest, allowed)
        return reader(place, **options)
    if is_factory(name):
        return factory(name)
    forms = [*_NAMED, *(f"{key}:" for key in SCHEMES)]
    raise DataError(f"unknown data {name!r}.{hint_for(name, forms)} Allowed: {' '.join(forms)} pkg.module:factory")


def load_images(name: str, *, progress: Progress | None = None) -> tuple[Dataset, Dataset]:
    """Return the training set and the test set of a name, for what takes 8-bit images alone.

    Args:
        name: see `load`.
        progress: see `load`.

    Returns:
        ``(train, test)``.

    Raises:
        DataError: as `load` raises it, and for tables and signals.
    """
    train, test = load(name, progress=progress)
    if isinstance(train, Table) or isinstance(test, Table):
        raise DataError(f"{name} is {train!r}; only 8-bit images can be used here")
    return train, test


def stream(name: str) -> tuple[StreamingDataset, StreamingDataset]:
    """Return the training set and the test set of ``folder:PATH?size=224``, to be read batch by batch.

    Args:
        name: ``folder:PATH?size=SIDE``; see `advreg.data.folder`.

    Returns:
        ``(train, test)``.

    Raises:
        DataError: another form of data, which has no files to read from, or a folder that cannot be used.

    Example:
        >>> stream("mnist")
        Traceback (most recent call last):
        ...
        advreg.errors.DataError: 'mnist' cannot be streamed; give folder:PATH?size=224, or do not stream it
    """
    scheme, _, rest = name.partition(":")
    if scheme != "folder" or not rest:
        raise DataError(f"{name!r} cannot be streamed; give folder:PATH?size=224, or do not stream it")
    place, options = split_options(rest, SCHEMES["folder"][1])
    return streamed_folder(place, **options)


def split_options(rest: str, allowed: Mapping[str, Option]) -> tuple[str, dict[str, Any]]:
    """Return path and options of ``PATH?key=value&key=value``.

    Args:
        rest: the text.
        allowed: name of each option, and the function that reads its value.

    Raises:
        DataError: an option that is not allowed, or a value that is no number.
    """
    place, _, query = rest.partition("?")
    given = dict(parse_qsl(query, keep_blank_values=True))
    for key in given:
        if key not in allowed:
            words = " ".join(allowed) or "none"
            raise DataError(f"unknown option {key!r} in {rest!r}.{did_you_mean(key, allowed)} Allowed: {words}")
    try:
        return place, {key: allowed[key](value) for key, value in given.items()}
    except ValueError as cause:
        raise DataError(f"an option in {rest!r} is not a number, or not two for box=-3,3: {cause}") from cause
