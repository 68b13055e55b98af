"""JSON objects whose values are checked when they are read; every error names the file and the key."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from advreg.errors import RunError
from advreg.report.facts import Facts, Interval
from advreg.runs import RunFolder


@dataclass(frozen=True)
class Record:
    """A JSON object and the file it comes from.

    Every method raises a RunError where the value of the key is not of the kind that it returns.
    """

    values: Facts
    file: Path

    def has(self, key: str) -> bool:
        """Return whether the key is present and not null."""
        return self.values.get(key) is not None

    def number(self, key: str) -> float:
        """Return a finite number.

        Raises:
            RunError: another value.
        """
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.damaged(key, "a finite number")
        return float(value)

    def number_or_none(self, key: str) -> float | None:
        """Return a finite number, or None where the key is missing."""
        return self.number(key) if self.has(key) else None

    def count(self, key: str) -> int:
        """Return a whole number, zero or more.

        Raises:
            RunError: another value.
        """
        value = self.number(key)
        if value < 0 or value != int(value):
            raise self.damaged(key, "a whole number, zero or more")
        return int(value)

    def count_or_none(self, key: str) -> int | None:
        """Return a whole number, zero or more, or None where the key is missing."""
        return self.count(key) if self.has(key) else None

    def share(self, key: str) -> float:
        """Return a number from 0 to 1.

        Raises:
            RunError: another value.
        """
        value = self.number(key)
        if not 0.0 <= value <= 1.0:
            raise self.damaged(key, "a number from 0 to 1")
        return value

    def share_or_none(self, key: str) -> float | None:
        """Return a number from 0 to 1, or None where the key is missing."""
        return self.share(key) if self.has(key) else None

    def pair(self, key: str) -> Interval:
        """Return two finite numbers, the lower first.

        Raises:
            RunError: another value.
        """
        value = self.values.get(key)
        if not isinstance(value, list) or len(value) != 2:
            raise self.damaged(key, "two numbers [low, high]")
        ends = Record({"low": value[0], "high": value[1]}, self.file)
        low, high = ends.number("low"), ends.number("high")
        if low > high:
            raise self.damaged(key, "two numbers [low, high]")
        return low, high

    def interval_or_none(self, key: str) -> Interval | None:
        """Return two numbers from 0 to 1, the lower first, or None where the key is missing.

        Raises:
            RunError: another value.
        """
        if not self.has(key):
            return None
        low, high = self.pair(key)
        if low < 0.0 or high > 1.0:
            raise self.damaged(key, "two numbers from 0 to 1")
        return low, high

    def ids(self, key: str) -> frozenset[int]:
        """Return a list of whole numbers as a set.

        Raises:
            RunError: another value.
        """
        value = self.values.get(key)
        if not isinstance(value, list) or not all(type(each) is int and each >= 0 for each in value):
            raise self.damaged(key, "a list of whole numbers")
        return frozenset(value)

    def text(self, key: str) -> str:
        """Return a string; a whole number, such as the class name 7, becomes one.

        Raises:
            RunError: another value.
        """
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise self.damaged(key, "a text")
        return str(value)

    def facts(self, key: str) -> Facts:
        """Return a JSON object, or an empty one where the key is missing.

        Raises:
            RunError: another value.
        """
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.damaged(key, "a JSON object")
        return value or {}

    def record(self, key: str) -> Record:
        """Return a JSON object; the key is required.

        Raises:
            RunError: another value.
        """
        if not self.has(key):
            raise self.damaged(key, "a JSON object")
        return Record(self.facts(key), self.file)

    def rows(self, key: str) -> Iterator[Record]:
        """Yield the JSON objects of a list; none where the key is missing.

        Raises:
            RunError: another value.
        """
        value = self.values.get(key)
        if value is not None and not isinstance(value, list):
            raise self.damaged(key, "a list of JSON objects")
        for row in value or []:
            if not isinstance(row, dict):
                raise self.damaged(key, "a list of JSON objects")
            yield Record(row, self.file)

    def damaged(self, key: str, allowed: str) -> RunError:
        """Return the error for a value that is not allowed.

        Args:
            key: key of the value.
            allowed: the allowed values, as text.
        """
        given = repr(self.values[key])[:60] if key in self.values else "nothing"
        return RunError(f"{self.file}: {key!r} is {given}, must be {allowed}; evaluate again to rewrite the file")


def load(file: Path, schema: str | None = None) -> Record:
    """Read a file that holds one JSON object.

    Args:
        file: the file.
        schema: required value of the key ``schema``; None for any.

    Returns:
        The object.

    Raises:
        RunError: the file cannot be read, is not a JSON object, or has another schema.
    """
    values = RunFolder(file.parent).read_json(file.name)
    if schema is not None and values.get("schema") != schema:
        given = repr(values.get("schema"))[:60]
        raise RunError(f"{file}: schema is {given}, this advreg reads {schema!r}; evaluate again or use its version")
    return Record(values, file)


def load_or_empty(file: Path) -> Facts:
    """Read a file that holds one JSON object; return an empty one where there is no file.

    Args:
        file: the file.

    Returns:
        The object.

    Raises:
        RunError: the file cannot be read, or is not a JSON object.
    """
    return load(file).values if file.is_file() else {}
