"""Writing the part of TOML that a configuration uses: tables of booleans, numbers, texts and lists."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any


def dumps(table: Mapping[str, Any]) -> str:
    """Return TOML text for nested tables; empty tables are written too, so that every default shows.

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
    """Read one value as TOML would; a bare word such as ``cosine`` is a text.

    Example:
        >>> value("3"), value("true"), value("[0.5, 0.75]"), value("8/255")
        (3, True, [0.5, 0.75], '8/255')
    """
    try:
        document = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return document["value"] if set(document) == {"value"} else text


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    if path:
        yield ""
        yield f"[{'.'.join(path)}]"
    for key, item in table.items():
        if not isinstance(item, Mapping):
            yield f"{_key(key)} = {_literal(item)}"
    for key, item in table.items():
        if isinstance(item, Mapping):
            yield from _lines(item, (*path, _key(key)))


def _key(key: str) -> str:
    bare = key.isascii() and key.replace("-", "").replace("_", "").isalnum()
    return key if bare else _literal(key)


def _literal(item: Any) -> str:
    """JSON's booleans, numbers, texts and lists are TOML's, save DEL, which JSON leaves as it is."""
    return json.dumps(item).replace("\x7f", "\\u007f")
