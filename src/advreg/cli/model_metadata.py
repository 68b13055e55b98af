"""Metadata of a model: the names of its classes and the shape of its input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from advreg.documents import parse_json, read_text
from advreg.errors import ModelError, did_you_mean
from advreg.plugins import import_extra

_SIDE = 224  # pixels; the input of most networks for photographs


def class_names(model: str, net: nn.Module, file: Path | None = None) -> list[str]:
    """Return the names of a model's classes; an empty list where they are unknown.

    Args:
        model: the name of the model or its run folder. A run folder, timm and torchvision know their classes; any other
            model may have an attribute ``classes``.
        net: the model.
        file: text file with one name a line, which takes precedence.

    Returns:
        Names in the order of the labels.

    Raises:
        ModelError: the file cannot be read.
    """
    if file is not None:
        return _lines(file)
    if Path(model).is_dir():
        return [str(name) for name in _spec(model).get("classes", [])]
    if names := _names_of(net):
        return names
    scheme, _, name = model.partition(":")
    readers = {"timm": lambda: _timm(net), "torchvision": lambda: _torchvision(name)}
    return readers[scheme]() if scheme in readers else []


def label_of(wanted: str, names: Sequence[str]) -> int:
    """Return the label of a class given by its name, one of its synonyms, or its number.

    Args:
        wanted: the name, in any case, or the number.
        names: names of the classes, synonyms separated by commas.

    Returns:
        The label.

    Raises:
        ModelError: no such class.

    Example:
        >>> names = ["tabby, tabby cat", "airliner"]
        >>> label_of("Airliner", names), label_of("tabby cat", names), label_of("7", [])
        (1, 0, 7)
    """
    if wanted.isdecimal():
        return int(wanted)
    synonyms = {part.strip().lower(): k for k, name in reversed(list(enumerate(names))) for part in name.split(",")}
    known = synonyms | {name.lower(): k for k, name in reversed(list(enumerate(names)))}
    if wanted.lower() in known:
        return known[wanted.lower()]
    if not names:
        raise ModelError(
            f"class is {wanted!r}, but the classes of the model have no names; give a number, or --classes FILE"
        )
    raise ModelError(f"the model has no class {wanted!r}.{did_you_mean(wanted.lower(), known)}")


def input_shape(model: str, net: nn.Module) -> tuple[int, int]:
    """Return the number of channels and the side in pixels of a model's input; 3 and 224 where they are unknown.

    Args:
        model: the name of the model or its run folder.
        net: the model.

    Returns:
        Channels and side.
    """
    if Path(model).is_dir():
        shape = _spec(model).get("shape")
        if isinstance(shape, list) and len(shape) == 3:
            return int(shape[0]), int(shape[1])
    config: dict[str, Any] = next(
        (vars(part)["pretrained_cfg"] for part in net.modules() if "pretrained_cfg" in vars(part)), {}
    )
    size = config.get("input_size", (None, None, _SIDE))
    first = next((part for part in net.modules() if isinstance(part, nn.Conv2d)), None)
    small = model.startswith("zoo:mnist")
    return (1 if small else first.in_channels if first is not None else 3), (28 if small else int(size[-1]))


def _names_of(net: nn.Module) -> list[str]:
    """Return the names in a model's attribute ``classes`` or, for Hugging Face models, in ``config.id2label``."""
    names, labels = getattr(net, "classes", None), getattr(getattr(net, "config", None), "id2label", None)
    if isinstance(names, list | tuple):
        return [str(name) for name in names]
    return [str(labels[k]) for k in sorted(labels)] if isinstance(labels, dict) else []


def _lines(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as cause:
        raise ModelError(
            f"cannot read class names from {file} ({cause}); give a text file with one name a line"
        ) from cause


def _spec(run: str) -> dict[str, Any]:
    file = Path(run) / "model.json"  # `models.load` has read and checked it
    spec: dict[str, Any] = parse_json(read_text(file))
    return spec


def _timm(net: nn.Module) -> list[str]:
    data = import_extra("timm.data", "advreg[vision]")
    subset = data.infer_imagenet_subset(next(part for part in net.modules() if hasattr(part, "num_classes")))
    if not subset:
        return []
    info = data.ImageNetInfo(subset)
    return [info.index_to_description(k) for k in range(info.num_classes())]


def _torchvision(name: str) -> list[str]:
    weights = import_extra("torchvision.models", "advreg[vision]").get_model_weights(name).DEFAULT
    return [str(category) for category in weights.meta.get("categories", [])]
