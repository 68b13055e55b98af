"""Choosing a function by its name and options, as a configuration does, with one clear line for what is wrong."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TypeVar

from pydantic import ConfigDict, ValidationError, validate_call

from advreg.config.error_messages import wrong
from advreg.errors import ConfigError, did_you_mean

T = TypeVar("T")

_CHECKED = validate_call(config=ConfigDict(strict=True, allow_inf_nan=False))


def choose(section: str, table: Mapping[str, Callable[..., T]], name: str, options: Mapping[str, object]) -> T:
    """Call the function of this name in the table with these options.

    Args:
        section: section of the configuration, for messages.
        table: name -> function; the function's signature says which options there are, of which types and limits.
        name: what the configuration says.
        options: keyword arguments.

    Raises:
        ConfigError: an unknown name or option, or an option of a wrong type or outside its limits.
    """
    if name not in table:
        known = ", ".join(table)
        raise ConfigError(f"{section}.name is {name!r}; allowed: {known}.{did_you_mean(name, table)}")
    allowed = list(inspect.signature(table[name]).parameters)
    for option in options:
        if option not in allowed:
            known = ", ".join(allowed) or "none"
            hint = did_you_mean(option, allowed)
            raise ConfigError(f"{section} {name!r} has no option {option!r}; allowed: {known}.{hint}")
    try:
        return _CHECKED(table[name])(**options)
    except ValidationError as error:
        first = error.errors()[0]["loc"][0]
        problems = [problem for problem in error.errors() if problem["loc"][0] == first]
        raise ConfigError(wrong(f"{section}.options.{first}", problems)) from None
