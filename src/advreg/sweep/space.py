"""The space of a sweep: values of keys of a configuration, as texts that ``--set`` would take."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from advreg.errors import ConfigError

Setting = dict[str, str]
"""Key of the configuration -> its value as text, such as ``{"recipe.options.ratio": "0.3"}``."""


@dataclass(frozen=True)
class Choices:
    """Values to try, each a text that ``--set`` would take.

    Attributes:
        values: the texts, in the order given.
    """

    values: tuple[str, ...]


@dataclass(frozen=True)
class SearchInterval:
    """Numbers to search between two ends; the search is logarithmic where the upper end is at least ten times the lower.

    Attributes:
        low, high: the ends, both included.
        whole: whether only integers are tried.
    """

    low: float
    high: float
    whole: bool = False

    @property
    def is_logarithmic(self) -> bool:
        """Return whether the search is uniform in the logarithm."""
        return self.low > 0 and self.high >= 10 * self.low


Space = Mapping[str, Choices | SearchInterval]


def parse_keys(texts: Iterable[str]) -> dict[str, Choices | SearchInterval]:
    """Read the keys of a sweep.

    Args:
        texts: ``section.key=value,value,...`` each, or ``section.key=low..high`` for a search.

    Returns:
        Key -> its values.

    Raises:
        ConfigError: a text without ``=`` or without values, a key given twice, or an interval without numbers.

    Example:
        >>> parse_keys(["threat.eps=2/255,4/255", "schedule.options.milestones=[0.5,0.75],[0.9]"])["threat.eps"].values
        ('2/255', '4/255')
        >>> parse_keys(["optimizer.lr=1e-4..1e-1"])["optimizer.lr"].is_logarithmic
        True
    """
    space: dict[str, Choices | SearchInterval] = {}
    for text in texts:
        name, _, values = (part.strip() for part in text.partition("="))
        if not name or not values or name in space:
            twice = "is given twice" if name in space else f"was given {text!r}"
            raise ConfigError(f"--key {twice}; write --key section.key=value,value or section.key=low..high")
        space[name] = _parse_interval(name, values) if ".." in values else Choices(_split(name, values))
    return space


def _split(name: str, values: str) -> tuple[str, ...]:
    """Split at the commas outside brackets; drop repeated values."""
    parts = [part.strip() for part in re.split(r",(?![^\[]*\])", values)]
    if not all(parts):
        raise ConfigError(f"--key {name} is {values!r}, with an empty value; write value,value")
    return tuple(dict.fromkeys(parts))


def _parse_interval(name: str, text: str) -> SearchInterval:
    ends = text.split("..")
    try:
        low, high = map(float, ends)
    except ValueError as cause:
        raise ConfigError(f"--key {name} is {text!r}; an interval is low..high, such as 1e-4..1e-1") from cause
    if not low < high:
        raise ConfigError(f"--key {name} is {text!r}; the first end must be below the second")
    return SearchInterval(low, high, whole=all(re.fullmatch(r"[+-]?\d+", end.strip()) for end in ends))


def grid(space: Space) -> list[Setting]:
    """Return all combinations of values, the last key varying fastest.

    Args:
        space: keys and their values.

    Returns:
        The settings.

    Raises:
        ConfigError: a key has an interval, which only a search can cover.

    Example:
        >>> grid(parse_keys(["a.b=1,2", "c.d=x"]))
        [{'a.b': '1', 'c.d': 'x'}, {'a.b': '2', 'c.d': 'x'}]
    """
    for name, values in space.items():
        if isinstance(values, SearchInterval):
            raise ConfigError(f"--key {name} is an interval, which a grid cannot cover; give values, or --trials N")
    columns = [values.values for values in space.values() if isinstance(values, Choices)]
    return [dict(zip(space, row, strict=True)) for row in itertools.product(*columns)]


def setting_name(setting: Setting) -> str:
    """Return a name for people and for folders; the digits at its end tell similar texts apart.

    Args:
        setting: key -> value.

    Returns:
        The name.

    Example:
        >>> setting_name({"recipe.options.ratio": "0.3", "threat.eps": "8/255"})[:-7]
        'ratio=0.3,eps=8-255'
    """
    pairs = ",".join(f"{key.rpartition('.')[2]}={value}" for key, value in setting.items())
    digest = hashlib.sha256(repr(sorted(setting.items())).encode()).hexdigest()[:6]
    return f"{re.sub(r'[^A-Za-z0-9.,=+_-]+', '-', pairs)[:60]}-{digest}"
