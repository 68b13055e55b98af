"""Read a configuration, and write the part of TOML that it uses: tables of booleans, numbers, texts and lists."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from advreg.documents import parse_toml, read_text
from advreg.errors import ConfigError


def dumps(table: Mapping[str, Any]) -> str:
    """Return TOML text for nested tables; empty tables are written too, so that the file shows every default.

    Args:
        table: nested mappings, lists and values.

    Returns:
        TOML text.

    Example:
        >>> print(dumps({"seed": 0, "model": {"name": "a", "options": {}}}), end="")
        seed = 0
        <BLANKLINE>
        [model]
        name = "a"
        <BLANKLINE>
        [model.options]
    """
    return "\n".join(_lines(table, ())).lstrip("\n") + "\n"


def value(text: str) -> Any:
    """Read one TOML value; a bare word such as ``cosine`` is a text.

    Args:
        text: right side of an assignment.

    Returns:
        The value.

    Example:
        >>> value("3"), value("true"), value("[0.5, 0.75]"), value("8/255")
        (3, True, [0.5, 0.75], '8/255')
    """
    try:
        document = parse_toml(f"value = {text}")
    except ValueError:
        return text
    return document["value"] if set(document) == {"value"} else text


def read(path: str | Path) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Args:
        path: the file.

    Returns:
        Nested dictionaries.

    Raises:
        ConfigError: the file is missing or is not TOML.
    """
    try:
        return parse_toml(read_text(path))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; give a TOML file") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def assign(table: dict[str, Any], assignments: Iterable[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Return the table, modified in place, with assignments applied.

    Args:
        table: nested tables.
        assignments: ``section.key=value`` texts, or a mapping ``{"section.key": value}``.

    Returns:
        The same table.

    Raises:
        ConfigError: an assignment without ``=``, or to a key inside a value.

    Example:
        >>> assign({"train": {"epochs": 1}}, ["train.epochs=3"])
        {'train': {'epochs': 3}}
        >>> assign({"train": {"epochs": 1}}, {"train.epochs": 3})
        {'train': {'epochs': 3}}
    """
    pairs = assignments.items() if isinstance(assignments, Mapping) else map(_parse, assignments)
    for key, item in pairs:
        _assign(table, key, item)
    return table


def _parse(assignment: str) -> tuple[str, Any]:
    """Split ``section.key=value`` and read the value."""
    key, separator, text = assignment.partition("=")
    if not separator or not key.rpartition(".")[2].strip():
        raise ConfigError(f"--set was given {assignment!r}; write section.key=value, such as train.epochs=3")
    return key, value(text.strip())


def _assign(values: dict[str, Any], key: str, item: Any) -> None:
    *parents, leaf = (part.strip() for part in key.split("."))
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set was given {key!r}, but {parent!r} is a value, not a section")
    values[leaf] = item


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    if path:
        yield ""
        yield f"[{'.'.join(path)}]"
    for key, item in table.items():
        if not isinstance(item, Mapping):
            yield f"{bare_or_quoted(key)} = {_literal(item)}"
    for key, item in table.items():
        if isinstance(item, Mapping):
            yield from _lines(item, (*path, bare_or_quoted(key)))


def bare_or_quoted(key: str) -> str:
    """Return a key as TOML writes it.

    Args:
        key: the key.

    Example:
        >>> bare_or_quoted("age"), bare_or_quoted("a b")
        ('age', '"a b"')
    """
    bare = key.isascii() and key.replace("-", "").replace("_", "").isalnum()
    return key if bare else _literal(key)


def _literal(item: Any) -> str:
    """Return a value as TOML: JSON writes booleans, numbers, texts and lists alike, except the character DEL."""
    return json.dumps(item).replace("\x7f", "\\u007f")
