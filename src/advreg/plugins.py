"""Code that is named, not known: ``pkg.module:factory`` of the user, and optional libraries."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from advreg.errors import AdvregError, MissingExtraError, did_you_mean


def first_line(error: BaseException) -> str:
    """Return an exception as one line, ``TypeError: what it said``."""
    said = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def filter_kwargs(function: Callable[..., Any], **options: Any) -> dict[str, Any]:
    """Return the options that a function takes: a user's own attack need not know of seeds and ids.

    Example:
        >>> filter_kwargs(lambda x, *, seed: x, seed=0, ids=None)
        {'seed': 0}
    """
    parameters = inspect.signature(function).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {name: value for name, value in options.items() if takes_all or name in parameters}


def is_factory(name: str) -> bool:
    """Tell whether a name has the form ``pkg.module:factory``.

    Example:
        >>> is_factory("nets.small:make"), is_factory("mnist")
        (True, False)
    """
    return re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name) is not None


def call_factory(name: str, error: type[AdvregError], **options: Any) -> Any:
    """Import ``pkg.module`` (the current folder counts) and return what ``factory(**options)`` makes.

    Args:
        name: ``pkg.module:factory``.
        error: the kind of error to raise, `ModelError` or `DataError`.
        options: keyword arguments for the factory.

    Raises:
        AdvregError: no such module or attribute, or either of them failed; of the given kind, in one line.
    """
    factory = named_function(name, error)
    try:
        return factory(**options)
    except AdvregError:
        raise
    except Exception as cause:
        raise error(f"{name}: the factory failed: {first_line(cause)}") from cause


def named_function(name: str, error: type[AdvregError]) -> Callable[..., Any]:
    """Import ``pkg.module`` (the current folder counts) and return its ``function``, not called.

    Args:
        name: ``pkg.module:function``.
        error: the kind of error to raise.

    Raises:
        AdvregError: no such module or function; of the given kind, in one line.

    Example:
        >>> named_function("math:sqrt", AdvregError)(4.0)
        2.0
    """
    if not is_factory(name):
        raise error(f"{name!r} is no name of a function; write pkg.module:function")
    module_name, _, attribute = name.partition(":")
    module = _import_user_module(module_name, error)
    found: Callable[..., Any] | None = getattr(module, attribute, None)
    if not callable(found):
        public = [key for key, value in vars(module).items() if callable(value)]
        raise error(f"{name}: {module_name} has no function {attribute!r}.{did_you_mean(attribute, public)}")
    return found


def _import_user_module(name: str, error: type[AdvregError]) -> ModuleType:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last, so that a local file never shadows an installed library
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as cause:
        raise error(f"cannot import {name}: {cause}; it must be installed or lie in {os.getcwd()}") from cause
    except Exception as cause:
        raise error(f"cannot import {name}: {first_line(cause)}") from cause


def import_extra(module: str, install: str) -> Any:
    """Import an optional library, or say in one line which command installs it.

    Args:
        module: what to import, e.g. ``"timm"``.
        install: what to hand to ``pip install``, e.g. ``"advreg[vision]"``.

    Raises:
        MissingExtraError: it is absent, or present and broken.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as cause:  # a torchvision made for another torch raises RuntimeError
        said = first_line(cause)
        raise MissingExtraError(f"{module} cannot be imported ({said}); pip install '{install}'") from cause
