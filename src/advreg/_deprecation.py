"""Old names of options and attributes, which work for one version and give a `DeprecationWarning`."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def renamed_options(**renamed: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator under which a function also takes options by their old names, with a `DeprecationWarning`.

    Args:
        renamed: old name of an option -> its name in the function's signature.

    Raises:
        TypeError: by the decorated function, if an option is given under both names.

    Example:
        >>> @renamed_options(rounds="steps")
        ... def count(*, steps: int = 1) -> int:
        ...     return steps
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     count(rounds=3)
        3
        >>> str(caught[0].message)
        'count(rounds=...) is now count(steps=...)'
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **options: P.kwargs) -> R:
            for old in renamed.keys() & options.keys():
                _move_option(function.__name__, options, old, renamed[old])
            return function(*args, **options)

        return call

    return decorate


def _move_option(function: str, options: dict[str, Any], old: str, new: str) -> None:
    if new in options:
        raise TypeError(f"{function}() got {new!r} and its old name {old!r}; give {new!r} only")
    warnings.warn(f"{function}({old}=...) is now {function}({new}=...)", DeprecationWarning, stacklevel=3)
    options[new] = options.pop(old)


def renamed_attribute(old: str, new: str) -> Any:
    """Return a property that serves an attribute under its old name, with a `DeprecationWarning`.

    Example:
        >>> class Circle:
        ...     radius = 2.0
        ...     size = renamed_attribute("size", "radius")
        >>> with warnings.catch_warnings(record=True):
        ...     warnings.simplefilter("always")
        ...     Circle().size
        2.0
    """

    def read(self: Any) -> Any:
        warnings.warn(f"{old} is now {new}", DeprecationWarning, stacklevel=2)
        return getattr(self, new)

    return property(read, doc=f"Old name of `{new}`.")
