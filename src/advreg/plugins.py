"""Code given by name: functions of the user as ``pkg.module:function``, and optional libraries.

A name that the user types or passes is the user's word. A name that a file holds (``model.json``, ``run.toml``) may be a
stranger's: it is rejected unless the user trusts the code, and is never looked for in the current folder.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

from advreg.errors import AdvregError, MissingExtraError, did_you_mean

SCHEMES = frozenset(
    {
        "zoo",
        "robustbench",
        "timm",
        "torchvision",
        "hf",
        "hf-gguf",
        "gguf",
        "export",
        "onnx",
        "folder",
        "npz",
        "csv",
        "parquet",
    }
)
"""First parts of names that are no modules: ``zoo:mnist-cnn`` is never the function ``mnist-cnn`` of a module ``zoo``."""

_TRUSTED: ContextVar[bool] = ContextVar("trust_code", default=False)
_PYTHONPATH = {Path(place).resolve() for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place}
_ADDED: set[str] = set()
"""Folders that typed names put on the path; names from files are not looked for there."""


def first_line(error: BaseException) -> str:
    """Return an exception as one line, ``TypeError: message``.

    Args:
        error: any exception.

    Returns:
        One line.

    Example:
        >>> first_line(ValueError("no\\nsecond line"))
        'ValueError: no'
    """
    message = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def filter_kwargs(function: Callable[..., Any], **options: Any) -> dict[str, Any]:
    """Return the options that a function accepts, because a user's attack may lack seeds and ids.

    Args:
        function: the function.
        options: keyword arguments.

    Returns:
        The accepted options.

    Example:
        >>> filter_kwargs(lambda x, *, seed: x, seed=0, ids=None)
        {'seed': 0}
    """
    parameters = inspect.signature(function).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {name: value for name, value in options.items() if takes_all or name in parameters}


def is_factory(name: str) -> bool:
    """Return whether a name has the form ``pkg.module:factory``; a scheme such as ``zoo`` is no module.

    Args:
        name: name of a model, of data or of a function.

    Returns:
        True for ``pkg.module:factory`` and for ``pkg/module.py:factory``, which means the same.

    Example:
        >>> is_factory("nets.small:make"), is_factory("nets/small.py:make"), is_factory("mnist"), is_factory("timm:resnet50")
        (True, True, False, False)
    """
    named = re.fullmatch(r"([A-Za-z_][\w.]*|[A-Za-z_][\w./]*\.py):[A-Za-z_]\w*", name) is not None
    return named and name.partition(":")[0] not in SCHEMES


@contextmanager
def trusting(allowed: bool) -> Iterator[None]:
    """Let files that are read inside the block name code, or not.

    Args:
        allowed: True as ``--trust-code`` and ``trust_code=True`` give it; False leaves an outer permission as it is.

    Example:
        >>> with trusting(True):
        ...     check_file_name("math:sqrt", "run.toml: model.name", AdvregError)
    """
    token = _TRUSTED.set(allowed or _TRUSTED.get())
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def check_file_name(name: str, source: str, error: type[AdvregError]) -> None:
    """Reject a name of code that a file holds, unless the user trusts it; then import it, but not from the current folder.

    Args:
        name: any value of the file; only ``pkg.module:function``, ``export:``, ``http:`` and ``https:`` are code or leave this
            machine.
        source: file and key, for the message.
        error: class of the error to raise.

    Raises:
        AdvregError: the name is that of code and not trusted, or its module is neither installed nor on PYTHONPATH.

    Example:
        >>> check_file_name("os:system", "model.json: name", AdvregError)
        Traceback (most recent call last):
        advreg.errors.AdvregError: model.json: name is 'os:system', which runs code; add --trust-code if you trust it
    """
    scheme = name.partition(":")[0]
    web, program = scheme in ("http", "https"), scheme == "export"
    if not (web or program or is_factory(name)):
        return
    if not _TRUSTED.get():
        does = "sends the data to another machine" if web else "runs code"
        raise error(f"{source} is {name[:80]!r}, which {does}; add --trust-code if you trust it")
    if not (web or program):
        with _without_current_folder():
            _import_module(_module_of(name), error, "must be installed or on PYTHONPATH")


def check_file_names(values: object, source: str, error: type[AdvregError]) -> None:
    """Check every text of a document; see `check_file_name`.

    Args:
        values: nested mappings, lists and values, as parsed from the file.
        source: the file, for the message.
        error: class of the error to raise.

    Raises:
        AdvregError: a text is the name of code that is not trusted.
    """
    if isinstance(values, str):
        check_file_name(values, source, error)
    elif isinstance(values, Mapping):
        for key, value in values.items():
            check_file_names(value, f"{source}{'.' if ': ' in source else ': '}{key}", error)
    elif isinstance(values, list | tuple):
        for value in values:
            check_file_names(value, source, error)


def call_factory(name: str, error: type[AdvregError], **options: Any) -> Any:
    """Import ``pkg.module``, also from the current folder, and return the output of ``factory(**options)``.

    Args:
        name: ``pkg.module:factory``.
        error: class of the error to raise, `ModelError` or `DataError`.
        options: keyword arguments of the factory.

    Returns:
        The output of the factory.

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

    Returns:
        The function.

    Raises:
        AdvregError: no such module or function; of class ``error``, in one line.

    Example:
        >>> named_function("math:sqrt", AdvregError)(4.0)
        2.0
    """
    if not is_factory(name):
        raise error(f"{name!r} is not the name of a function; write pkg.module:function")
    module_name, attribute = _module_of(name), name.partition(":")[2]
    module = _import_user_module(module_name, error)
    found: Callable[..., Any] | None = getattr(module, attribute, None)
    if not callable(found):
        public = [key for key, value in vars(module).items() if callable(value)]
        raise error(f"{name}: {module_name} has no function {attribute!r}.{did_you_mean(attribute, public)}")
    return found


def _module_of(name: str) -> str:
    """Return ``pkg.module`` of ``pkg.module:function`` or of ``pkg/module.py:function``."""
    return name.partition(":")[0].removesuffix(".py").replace("/", ".")


def _import_user_module(name: str, error: type[AdvregError]) -> ModuleType:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last, so that a local file never shadows an installed library
        _ADDED.add(os.getcwd())
    return _import_module(name, error, f"must be installed or lie in {os.getcwd()}")


def _import_module(name: str, error: type[AdvregError], places: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as cause:
        raise error(f"cannot import {name}: {cause}; it {places}") from cause
    except Exception as cause:
        raise error(f"cannot import {name}: {first_line(cause)}") from cause


@contextmanager
def _without_current_folder() -> Iterator[None]:
    """Take the current folder off the path where Python (first) or a typed name (last) put it, unless PYTHONPATH has it."""
    here, before = Path.cwd(), sys.path[:]
    own = (
        {""}
        if here in _PYTHONPATH
        else {"", *_ADDED, *(place for place in before[:1] if Path(place).resolve() == here)}
    )
    sys.path[:] = [place for place in before if place not in own]
    try:
        yield
    finally:
        sys.path[:] = before


def import_extra(module: str, install: str) -> Any:
    """Import an optional library.

    Args:
        module: name of the module, such as ``"timm"``.
        install: argument of ``pip install`` that provides it, such as ``"advreg[vision]"``.

    Returns:
        The module.

    Raises:
        MissingExtraError: it is not installed, or it is and its import fails; the line has the command for either.

    Example:
        >>> import_extra("math", "advreg[vision]").sqrt(4.0)
        2.0
    """
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as cause:  # a torchvision made for another torch raises RuntimeError
        package = module.partition(".")[0]
        missing = package if importlib.util.find_spec(package) is None else getattr(cause, "name", None)
        if isinstance(cause, ModuleNotFoundError) and (missing == package or module.endswith(f".{missing}")):
            raise MissingExtraError(f"{missing} is not installed; pip install '{install}'") from cause
        broken = f"{package} is installed, but cannot be imported ({first_line(cause)})"
        raise MissingExtraError(f"{broken}; pip install --force-reinstall '{install}'") from cause
