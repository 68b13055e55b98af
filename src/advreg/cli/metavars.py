"""One style for the values in ``--help``: NAME, FILE or N in capitals, and nothing beside a flag."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer
from typer.models import ArgumentInfo, OptionInfo

_WORDS: dict[Any, str] = {bool: "", str: "TEXT", int: "N", float: "NUMBER", Path: "PATH"}


def name_values(app: typer.Typer) -> None:
    """Give every option and argument without a word for its value one that says what it is.

    Args:
        app: verbs and groups of verbs, which are changed.

    Example:
        >>> app = typer.Typer()
        >>> _ = app.command()(lambda: None)
        >>> name_values(app)
    """
    for command in app.registered_commands:
        for name, kind, info in _parameters(command.callback):
            if info.metavar is None:
                info.metavar = _WORDS[kind] if isinstance(info, OptionInfo) else name.upper()
    for group in app.registered_groups:
        if group.typer_instance is not None:
            name_values(group.typer_instance)


def _parameters(callback: Any) -> Iterator[tuple[str, Any, OptionInfo | ArgumentInfo]]:
    """Yield the name, the type of one value and the declaration of every parameter of a verb."""
    callback.__annotations__ = get_type_hints(
        callback, include_extras=True
    )  # text would be read anew, without the words
    for name, hint in callback.__annotations__.items():
        for info in getattr(hint, "__metadata__", ()):
            if isinstance(info, OptionInfo | ArgumentInfo):
                yield name, _value_type(hint.__origin__), info


def _value_type(kind: Any) -> Any:
    """Return ``int`` for ``int``, ``int | None``, ``list[int]`` and ``list[int] | None``."""
    parts = [part for part in get_args(kind) if part is not type(None)]
    return _value_type(parts[0]) if parts else kind
