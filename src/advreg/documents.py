"""Documents of unknown origin: JSON and TOML with bounded nesting and numbers, and folders without links that leave them.

A run folder may come from a stranger. Reading one must not run code, follow a link to other files, or exhaust the memory.
"""

from __future__ import annotations

import json
import math
import os
import stat
import tomllib
from pathlib import Path
from typing import Any

from advreg.errors import RunError

MOST_BYTES = 64 << 20
"""Largest configuration or description, in bytes; logs such as ledgers have no such limit."""

MOST_CLASSES = 100_000
"""Largest number of classes; a single label of 10**9 would otherwise make a list of 10**9 names."""


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Args:
        text: the document.

    Returns:
        The parsed value.

    Raises:
        ValueError: not JSON, nested too deeply, or a number too large.

    Example:
        >>> parse_json("[" * 5000 + "]" * 5000)
        Traceback (most recent call last):
        ValueError: nested too deeply
        >>> parse_json("1e400")
        Traceback (most recent call last):
        ValueError: number 1e400 is too large
    """
    try:
        return json.loads(text, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML.

    Args:
        text: the document.

    Returns:
        The parsed table.

    Raises:
        ValueError: not TOML, nested too deeply, or a number too large.

    Example:
        >>> parse_toml("a = 1")
        {'a': 1}
    """
    try:
        return tomllib.loads(text, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_text(path: str | Path, most: int = MOST_BYTES) -> str:
    """Return the text of a regular file.

    Args:
        path: the file.
        most: largest size in bytes.

    Returns:
        The text.

    Raises:
        OSError: the file is missing, cannot be read, or is no regular file.
        ValueError: the file is too large, or is not UTF-8.
    """
    with open(path, "rb", opener=_open_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(0, "not a regular file")
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"larger than {most} bytes")
    return content.decode("utf-8")


def check_links(folder: str | Path) -> None:
    """Check that a folder holds only files, folders, and links to what lies inside it.

    Args:
        folder: a run folder; it may be a link itself.

    Raises:
        RunError: a link leaves the folder, or something is a device or a pipe.
    """
    root = Path(folder).resolve()
    for place, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(place, name)
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                _reject_link(path, root)
            if not (path.is_file() or path.is_dir() or path.is_symlink()):
                raise RunError(f"{path} is neither a file nor a folder; remove it from the run folder")


def _finite(literal: str) -> float:
    number = float(literal)
    if math.isinf(number) and "inf" not in literal:
        raise ValueError(f"number {literal[:40]} is too large")
    return number


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe without a writer would block


_RUN_FILES = ("run.toml", "language.toml", "model.json", "metrics.jsonl", "evaluation", "diagnosis.json")


def _reject_link(path: Path, root: Path) -> None:
    """Raise about a link that leaves a folder, or about the folder where it holds nothing of a run."""
    if not any(os.path.lexists(root / name) for name in _RUN_FILES):
        raise RunError(f"no run folder at {root}: it holds none of {', '.join(_RUN_FILES)}")
    raise RunError(f"{path} is a link out of the run folder, which is not followed; copy the file instead")
