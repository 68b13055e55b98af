"""What a mistyped name of data may have meant: a path without its prefix, a prefix without a path, a name close to another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from advreg.errors import did_you_mean, did_you_mean_path

_FILES = {".npz": "npz", ".csv": "csv", ".tsv": "csv", ".gz": "csv", ".parquet": "parquet"}
_EXAMPLES: Mapping[str, str] = {
    "folder": "folder:PATH?size=64",
    "npz": "npz:FILE",
    "csv": "csv:FILE?label=COLUMN",
    "parquet": "parquet:FILE?label=COLUMN",
    "torchvision": "torchvision:CIFAR100",
    "hf": "hf:NAME",
}


def guess_name(name: str) -> str:
    """Return the full name of data that was given without its prefix, by what lies at that path; empty where nothing does.

    Args:
        name: such as ``photos`` or ``table.csv?label=paid``.

    Returns:
        Such as ``folder:photos``, or an empty text.

    Example:
        >>> guess_name("no such path")
        ''
    """
    path = Path(name.partition("?")[0]).expanduser()
    if path.is_dir():
        return f"folder:{name}"
    scheme = _FILES.get(path.suffix.lower()) if path.is_file() else None
    return f"{scheme}:{name}" if scheme else ""


def hint_for(name: str, forms: list[str]) -> str:
    """Return what to do about an unknown name, with a leading space.

    Args:
        name: the unknown name.
        forms: names and prefixes that exist.

    Returns:
        A hint, or an empty text.

    Example:
        >>> hint_for("csv", ["mnist", "csv:"])
        ' csv needs what to read: csv:FILE?label=COLUMN.'
    """
    if guess := guess_name(name):
        return f" Did you mean {guess!r}?"
    scheme, _, rest = name.partition(":")
    if scheme in _EXAMPLES and not rest:
        return f" {scheme} needs what to read: {_EXAMPLES[scheme]}."
    path = Path(name.partition("?")[0])
    missing = f" There is no file {str(path)!r}." if path.suffix.lower() in _FILES and not rest else ""
    return missing + (did_you_mean(f"{scheme}:" if rest else name, forms) or did_you_mean_path(path))
