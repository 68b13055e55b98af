"""Error lines of configurations: file, section, key, given value and allowed values."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from advreg.errors import ConfigError, did_you_mean

T = TypeVar("T")


def validate_config(adapter: TypeAdapter[T], schema: type[T], values: Mapping[str, Any], source: str) -> T:
    """Return the configuration of nested dictionaries, validated.

    Args:
        adapter: pydantic adapter of the schema.
        schema: the dataclass of the whole configuration.
        values: section name -> key -> value.
        source: origin of the values, for error messages.

    Returns:
        An instance of ``schema``.

    Raises:
        ConfigError: an unknown key, or a value of a wrong type or outside its limits.

    Example:
        >>> from advreg.config.sections import ThreatConfig
        >>> validate_config(TypeAdapter(ThreatConfig), ThreatConfig, {"norm": "l2", "eps": 0.5}, "run.toml").norm
        'l2'
    """
    try:
        return adapter.validate_json(json.dumps(dict(values), default=str))
    except ValidationError as error:
        raise ConfigError(explain(error, schema, source)) from None


def explain(error: ValidationError, schema: type, source: str) -> str:
    """Return one line about the first invalid key, and the number of further ones.

    Args:
        error: pydantic's error.
        schema: the dataclass of the whole configuration.
        source: origin of the values: a file, ``--set``.

    Returns:
        The line.
    """
    by_key: dict[tuple[str, ...], list[ErrorDetails]] = {}
    for problem in error.errors():
        by_key.setdefault(_key(problem), []).append(problem)
    key, problems = next(iter(by_key.items()))
    unknown = problems[0]["type"] == "unexpected_keyword_argument"
    line = _unknown(schema, key) if unknown else describe_invalid(".".join(key), problems)
    more = f" (and {len(by_key) - 1} more)" if len(by_key) > 1 else ""
    return f"{source}: {line}{more}"


def describe_invalid(key: str, problems: list[ErrorDetails]) -> str:
    """Return the given value of a key and the allowed values.

    Args:
        key: section and key.
        problems: pydantic's errors for the key.

    Returns:
        The text.
    """
    expected = [re.sub(r"^Input should be ", "", problem["msg"]) for problem in problems]
    allowed = " or ".join(dict.fromkeys(text[0].lower() + text[1:] for text in expected))
    given = problems[0]["input"]
    names = re.findall(r"'([^']*)'", allowed)
    return f"{key} is {given!r}; allowed: {allowed}.{did_you_mean(str(given), names)}"


def _unknown(schema: type, key: tuple[str, ...]) -> str:
    *parents, name = key
    section = _section(schema, parents)
    where = f"[{'.'.join(parents)}]" if parents else "the top level"
    homes = [home for home in _keys(schema) if name in _keys(_section(schema, [home]))]
    hint = f" It belongs to [{homes[0]}]." if homes else did_you_mean(name, _keys(section))
    return f"unknown key {name!r} in {where}; allowed: {', '.join(_keys(section))}.{hint}"


def _key(problem: ErrorDetails) -> tuple[str, ...]:
    """Return section and key, without pydantic's suffix for members of a union."""
    return tuple(str(part) for part in problem["loc"][:2])


def _section(schema: type, path: list[str]) -> Any:
    for part in path:
        schema = get_type_hints(schema)[part]
    return schema


def _keys(section: Any) -> list[str]:
    return [item.name for item in fields(section)] if is_dataclass(section) else []
