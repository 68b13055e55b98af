"""What the shell proposes after Tab: names of protocols, models, data and devices, and the run folders at hand; no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

PROTOCOLS = ("fgsm", "quick", "basic", "strong", "standard", "plus", "rand", "blackbox", "labels")
NETWORKS = (
    "mnist-cnn", "mnist-dnn", "mnist-small", "mnist-trades", "preact-resnet18", "signal-cnn", "mlp", "wide-resnet-28-10",
)  # fmt: skip
DATA = ("mnist", "fashion-mnist", "cifar10")
_MODEL_FORMS = ("timm:", "torchvision:", "onnx:", "http://")
_DATA_FORMS = ("folder:", "npz:", "csv:", "parquet:", "hf:", "torchvision:")
_DEPTH = 3  # runs/sweep/NAME

Completion = Callable[[str], list[str]]


def among(names: Iterable[str]) -> Completion:
    """Return the completion of one of these names.

    Args:
        names: every allowed name.

    Example:
        >>> among(["quick", "standard", "strong"])("st")
        ['standard', 'strong']
    """
    allowed = list(names)

    def complete(incomplete: str) -> list[str]:
        return [name for name in allowed if name.startswith(incomplete)]

    return complete


def run_folders(incomplete: str) -> list[str]:
    """Return the folders below this one of runs that begin with a text.

    Args:
        incomplete: what is typed of the path.

    Returns:
        Paths, at most three levels deep.

    Example:
        >>> run_folders("no-such-folder/")
        []
    """
    marks = ("run.toml", "model.json", "language.toml", "text.toml", "sweep.json")
    files = [file for mark in marks for depth in range(1, _DEPTH + 1) for file in Path().glob("*/" * depth + mark)]
    return sorted({str(file.parent) for file in files if str(file.parent).startswith(incomplete)})


def models(incomplete: str) -> list[str]:
    """Return run folders, networks and the other ways to name a model that begin with a text.

    Args:
        incomplete: what is typed of the name.

    Example:
        >>> models("zoo:mnist-s")
        ['zoo:mnist-small']
    """
    return run_folders(incomplete) + among([*(f"zoo:{name}" for name in NETWORKS), *_MODEL_FORMS])(incomplete)


protocols = among(PROTOCOLS)
data_sets = among([*DATA, *_DATA_FORMS])
devices = among(["auto", "cpu", "cuda", "cuda:0", "mps"])
norms = among(["linf", "l2", "l1"])
precisions = among(["float32", "bfloat16", "auto"])
