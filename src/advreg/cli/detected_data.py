"""What `advreg init` finds out about data before it writes a configuration: the full name, shapes, classes and sizes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from advreg.errors import DataError
from advreg.report import prose

if TYPE_CHECKING:
    from advreg.data import Dataset, Table

SIDES = (32, 48, 64)
"""Sides that images of several sizes are brought to: what a first training run takes without a large GPU."""
_HEADERS = 2000  # images of a folder that are opened to see their sizes
_DIGITS = 3  # of a measured box
_COMPARABLE = 4  # ratio of standard deviations up to which one eps suits all features


@dataclass(frozen=True)
class DetectedData:
    """Facts about a data set.

    Attributes:
        name: full name of the data, such as ``folder:photos?size=64``.
        examples, classes: training examples and classes; 0 where they are not counted.
        shape: shape of an input; empty where nothing was opened.
        kind: ``pixels``, ``table``, ``signal``, ``image`` (floats) or ``example``.
        box: lowest and highest valid value.
        mean, std: of each feature or channel of floats; empty for pixels.
        remarks: sentences for the file.
        draft: text of features.toml; empty where features have no limits of their own.
    """

    name: str
    examples: int = 0
    classes: int = 0
    shape: tuple[int, ...] = ()
    kind: str = "pixels"
    box: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    remarks: tuple[str, ...] = ()
    draft: str = ""


KNOWN = {
    "mnist": DetectedData("mnist", 60_000, 10, (1, 28, 28)),
    "fashion-mnist": DetectedData("fashion-mnist", 60_000, 10, (1, 28, 28)),
    "cifar10": DetectedData("cifar10", 50_000, 10, (3, 32, 32)),
}
"""Data that needs no look: what it holds is known."""


def complete_name(data: str) -> str:
    """Return the name with its prefix: ``photos`` is ``folder:photos`` where that folder exists.

    Args:
        data: what the user typed.

    Returns:
        The full name, or ``data`` itself.

    Example:
        >>> complete_name("mnist")
        'mnist'
    """
    if data in KNOWN:
        return data
    from advreg.data.guess import guess_name

    return guess_name(data) or data


def detect(data: str) -> DetectedData:
    """Open the data, and return what a configuration needs to know; images of a folder are opened as far as their headers.

    Args:
        data: full name of the data.

    Returns:
        The facts.

    Raises:
        DataError: the data cannot be used.
    """
    if data in KNOWN:
        return KNOWN[data]
    if data.startswith("folder:"):
        return _of_folder(data)
    from advreg.data import Table, load

    train, test = load(data)
    found = _of_data_set(data, train)
    if not (isinstance(train, Table) and isinstance(test, Table)):
        return found
    found = _with_values(found, train, test)
    return detect_scaled(found) if _differ_in_scale(found) else found


def detect_table(data: str, target: str) -> DetectedData:
    """Return the facts about a table with its values as they are, and a draft of its ``features.toml``.

    Args:
        data: name of a table, ``csv:FILE`` or ``parquet:FILE``.
        target: name of the label column.

    Returns:
        The facts; the draft covers training and test rows.

    Raises:
        DataError: data of another form, or that cannot be used.
    """
    scheme, _, query = data.partition(":")
    if scheme not in ("csv", "parquet") or "label=" in query:
        raise DataError(
            f"--target {target} names the label of a table and data is {data!r}; give csv:FILE or parquet:FILE"
        )
    from advreg.config.features_draft import draft_features
    from advreg.data import Table, load

    name = f"{data}{'&' if '?' in data else '?'}label={target}"
    train, test = load(name)
    assert isinstance(train, Table)  # as both schemes give
    assert isinstance(test, Table)
    found = _with_values(_of_data_set(name, train), train, test)
    import torch

    return replace(found, draft=draft_features(torch.cat([train.values, test.values]), train.columns))


def _differ_in_scale(found: DetectedData) -> bool:
    """Return whether one eps cannot suit all features of a table, and the name gives no unit yet."""
    scheme, _, query = found.name.partition("?")
    if scheme.partition(":")[0] not in ("csv", "parquet") or "scale=" in query or "box=" in query:
        return False
    return max(found.std) > _COMPARABLE * min(found.std)


def detect_scaled(found: DetectedData) -> DetectedData:
    """Return the facts about the same table with its features in standard deviations.

    Args:
        found: facts about the table as it is.

    Returns:
        The facts, with a remark.
    """
    scaled = detect(f"{found.name}&scale=std")
    remark = "the features differ in scale; scale=std counts each, and eps, in standard deviations of the training rows"
    return replace(scaled, remarks=(remark, *scaled.remarks))


def _of_data_set(name: str, train: Dataset | Table) -> DetectedData:
    counts = Counter(train.labels.tolist())
    sizes = {train.classes[label]: counts.get(label, 0) for label in range(len(train.classes))}
    return DetectedData(name, len(train), len(train.classes), tuple(train.inputs.shape[1:]), remarks=_imbalance(sizes))


def _with_values(found: DetectedData, train: Table, test: Table) -> DetectedData:
    """Return the facts with box, mean and standard deviation of floats; a box that is not declared is measured."""
    axes = [0, *range(2, train.values.ndim)]
    mean, std = train.values.double().mean(axes), train.values.double().std(axes, correction=0)
    spans = (train.span, test.span)
    measured = round_outward(min(low for low, _ in spans), max(high for _, high in spans))
    inside = measured[0] >= 0 and measured[1] <= 1
    box = train.declared or ((0.0, 1.0) if inside else measured)
    remark = (
        ()
        if train.declared or inside
        else (f"the box is measured: the values span {measured[0]:g} to {measured[1]:g}",)
    )
    return replace(
        found,
        kind=train.kind,
        box=box,
        mean=tuple(float(f"{each:.6g}") for each in mean.tolist()),
        std=tuple(float(f"{each:.6g}") or 1.0 for each in std.tolist()),
        remarks=(*found.remarks, *remark),
    )


def round_outward(low: float, high: float) -> tuple[float, float]:
    """Return a box of three digits that contains the span.

    Args:
        low: lowest value.
        high: highest value.

    Returns:
        The box.

    Example:
        >>> round_outward(-2.3981, 2.0021)
        (-2.4, 2.01)
    """
    unit = 10.0 ** (math.floor(math.log10(max(abs(low), abs(high), 1e-30))) - _DIGITS + 1)
    ends = math.floor(low / unit) * unit, math.ceil(high / unit) * unit
    first, second = (float(f"{end:.{_DIGITS}g}") for end in ends)
    return (first, second) if first < second else (first, first + unit)


def _of_folder(data: str) -> DetectedData:
    from advreg.data.folder import image_files
    from advreg.data.images import parse_size, sides, sizes_of

    place, _, query = data.removeprefix("folder:").partition("?")
    options = dict(parse_qsl(query))
    files = image_files(place)
    counts = {name: len(images) for name, images in files.items()}
    total = sum(counts.values())
    sample = [image for images in files.values() for image in images[:: math.ceil(total / _HEADERS)]]
    sizes, channels = sizes_of(sample)
    if options.get("mode") in ("grey", "rgb"):
        channels = 1 if options["mode"] == "grey" else 3
    found = DetectedData(data, total, len(counts), remarks=_imbalance(counts, "images"))
    if "size" in options:
        return replace(found, shape=(channels, *sides(parse_size(options["size"]))))
    if len(sizes) == 1:
        width, height = sizes[0]
        return replace(found, shape=(channels, height, width))
    side = _side(sizes)
    name = f"{data}{'&' if query else '?'}size={side}"
    remark = f"images of {len(sizes)} sizes, {_span(sizes)}: size={side} scales each and crops the middle"
    return replace(found, name=name, shape=(channels, side, side), remarks=(*found.remarks, remark))


def _side(sizes: Sequence[tuple[int, int]]) -> int:
    """Return the largest side of `SIDES` that half of the images have, or that half's own where they are smaller."""
    shorter = sorted(min(size) for size in sizes)
    middle = shorter[len(shorter) // 2]
    return max((side for side in SIDES if side <= middle), default=middle)


def _span(sizes: Sequence[tuple[int, int]]) -> str:
    least, most = min(sizes, key=lambda size: size[0] * size[1]), max(sizes, key=lambda size: size[0] * size[1])
    return f"{least[0]}x{least[1]} to {most[0]}x{most[1]}"


def _imbalance(sizes: Mapping[str, int], what: str = "examples") -> tuple[str, ...]:
    """Return a remark about classes of unequal size; none where their sizes are similar."""
    if len(sizes) < 2:
        return ()
    most, least = max(sizes, key=lambda name: sizes[name]), min(sizes, key=lambda name: sizes[name])
    if sizes[most] < prose.CLASS_IMBALANCE * sizes[least]:
        return ()
    unequal = f"classes are unequal: {sizes[most]} {what} of {most}, {sizes[least]} of {least}"
    return (f"{unequal}; check the accuracy of each class",)


def require_trainable(found: DetectedData) -> None:
    """Raise for data from which no classifier learns.

    Args:
        found: the facts.

    Raises:
        DataError: fewer than two classes, or fewer than four examples.
    """
    if found.classes < 2:
        raise DataError(f"{found.name} has {found.classes} class; a classifier needs two or more")
    if found.examples < 4:
        raise DataError(f"{found.name} has {found.examples} training examples; give four or more")
