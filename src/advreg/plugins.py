"""Code given by name: functions of the user as ``pkg.module:function``, and optional libraries."""

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
    """Return an exception as one line, ``TypeError: message``."""
    message = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def filter_kwargs(function: Callable[..., Any], **options: Any) -> dict[str, Any]:
    """Return the options that a function accepts, because a user's attack may lack seeds and ids.

    Args:
        function: the function.
        options: keyword arguments.

    Example:
        >>> filter_kwargs(lambda x, *, seed: x, seed=0, ids=None)
        {'seed': 0}
    """
    parameters = inspect.signature(function).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {name: value for name, value in options.items() if takes_all or name in parameters}


def is_factory(name: str) -> bool:
    """Return whether a name has the form ``pkg.module:factory``.

    Example:
        >>> is_factory("nets.small:make"), is_factory("mnist")
        (True, False)
    """
    return re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name) is not None


def call_factory(name: str, error: type[AdvregError], **options: Any) -> Any:
    """Import ``pkg.module``, also from the current folder, and return the output of ``factory(**options)``.

    Args:
        name: ``pkg.module:factory``.
        error: class of the error to raise, `ModelError` or `DataError`.
        options: keyword arguments of the factory.

    Raises:
        AdvregError: no such module or attribute, or an exception in either; of class ``error``, in one line.

    Example:
        >>> call_factory("collections:Counter", AdvregError, a=1)
        Counter({'a': 1})
    """
    factory = named_function(name, error)
    try:
        return factory(**options)
    except AdvregError:
        raise
    except Exception as cause:
        raise error(f"{name}: the factory failed: {first_line(cause)}") from cause


def named_function(name: str, error: type[AdvregError]) -> Callable[..., Any]:
    """Import ``pkg.module``, also from the current folder, and return its ``function`` without calling it.

    Args:
        name: ``pkg.module:function``.
        error: class of the error to raise.

    Raises:
        AdvregError: no such module or function; of class ``error``, in one line.

    Example:
        >>> named_function("math:sqrt", AdvregError)(4.0)
        2.0
    """
    if not is_factory(name):
        raise error(f"{name!r} is not the name of a function; write pkg.module:function")
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
    """Import an optional library.

    Args:
        module: name of the module, such as ``"timm"``.
        install: argument of ``pip install`` that provides it, such as ``"advreg[vision]"``.

    Raises:
        MissingExtraError: it is missing, or its import fails; the line has the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as cause:  # a torchvision made for another torch raises RuntimeError
        reason = first_line(cause)
        raise MissingExtraError(f"{module} cannot be imported ({reason}); pip install '{install}'") from cause
