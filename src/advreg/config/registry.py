"""Functions that a configuration selects by name, with options that their signatures check."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from pydantic import ConfigDict, ValidationError, validate_call

from advreg.config.error_messages import describe_invalid
from advreg.errors import ConfigError, did_you_mean

T = TypeVar("T")

_validate_options = validate_call(config=ConfigDict(strict=True, allow_inf_nan=False))


class Registry(dict[str, Callable[..., T]]):
    """Name -> function; `build` calls one with the options of a configuration.

    Args:
        section: section of the configuration, for error messages.
        functions: name -> function; each signature declares the options, their types and their limits.
        unknown: error message for an unknown name; ``{name}`` is the name.

    Example:
        >>> shapes = Registry("shape", {"square": lambda side=1: side**2})
        >>> shapes.build("square", {"side": 3})
        9
        >>> shapes.build("squre")
        Traceback (most recent call last):
        advreg.errors.ConfigError: shape.name is 'squre'; allowed: square. Did you mean 'square'?
    """

    def __init__(self, section: str, functions: Mapping[str, Callable[..., T]], *, unknown: str = "") -> None:
        super().__init__(functions)
        self.section = section
        self.unknown = unknown or f"{section}.name is {{name!r}}"

    def build(self, name: str, options: Mapping[str, Any] | None = None, *leading: Any) -> T:
        """Return what the function of this name returns.

        Args:
            name: a name of the registry.
            options: keyword arguments, checked against the signature; none by default.
            leading: positional arguments that no configuration gives, such as the network.

        Raises:
            ConfigError: an unknown name or option, or an option of a wrong type or outside its limits.
        """
        if name not in self:
            problem = self.unknown.format(name=name)
            raise ConfigError(f"{problem}; allowed: {', '.join(self)}.{did_you_mean(name, self)}")
        function = partial(self[name], *leading) if leading else self[name]
        return call_with_options(self.section, name, function, options or {})


def call_with_options(section: str, name: str, function: Callable[..., T], options: Mapping[str, Any]) -> T:
    """Call a function with options that its signature allows.

    Args:
        section: section of the configuration, for error messages.
        name: name of the function, for error messages.
        function: its annotations declare the types and limits of the options.
        options: keyword arguments.

    Returns:
        The function's result.

    Raises:
        ConfigError: an unknown option, or an option of a wrong type or outside its limits.

    Example:
        >>> def square(side: int = 1) -> int: return side**2
        >>> call_with_options("shape", "square", square, {"side": "3"})
        Traceback (most recent call last):
        advreg.errors.ConfigError: shape.options.side is '3'; allowed: a valid integer.
    """
    allowed = list(inspect.signature(function).parameters)
    for option in options:
        if option not in allowed:
            known, hint = ", ".join(allowed) or "none", did_you_mean(option, allowed)
            raise ConfigError(f"{section} {name!r} has no option {option!r}; allowed: {known}.{hint}")
    try:
        return _validate_options(function)(**options)
    except ValidationError as error:
        first = error.errors()[0]["loc"][0]
        problems = [problem for problem in error.errors() if problem["loc"][0] == first]
        raise ConfigError(describe_invalid(f"{section}.options.{first}", problems)) from None
