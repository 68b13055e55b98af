"""Lazy public names: a package's stub file is its one table, and its attributes are imported when they are first used."""

from __future__ import annotations

import ast
import importlib
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

GetAttr = Callable[[str], Any]


def attach_stub(
    package: str, file: str, renamed: Mapping[str, str] | None = None
) -> tuple[GetAttr, Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` of a package whose names its ``__init__.pyi`` lists.

    Args:
        package: the package's ``__name__``.
        file: its ``__file__``; the stub lies beside it and holds ``from module import name as name`` lines only.
        renamed: old name -> new name.

    Returns:
        ``__getattr__``, ``__dir__`` and ``__all__``.

    Example:
        >>> import advreg
        >>> "pgd" in dir(advreg), advreg.pgd.__module__.startswith("advreg.attacks")
        (True, True)
    """
    homes = dict(_homes(ast.parse(Path(file).with_suffix(".pyi").read_text())))
    names, old = sorted(homes), deprecated(package, renamed or {})

    def attribute(name: str) -> Any:
        if name not in homes:
            return old(name)
        setattr(sys.modules[package], name, value := _import_name(package, *homes[name]))
        return value

    return attribute, lambda: names, names


def _homes(stub: ast.Module) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield public name -> (module, attribute) for every import of a stub."""
    for node in stub.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                yield name.asname or name.name, (node.module, name.name)


def _import_name(package: str, module: str, name: str) -> Any:
    """Return what ``from module import name`` binds; a package's own import is one of its modules."""
    found = None if module == package else importlib.import_module(module)
    return getattr(found, name) if hasattr(found, name) else importlib.import_module(f"{module}.{name}")


def deprecated(package: str, renamed: Mapping[str, str]) -> GetAttr:
    """Return a package's ``__getattr__`` that serves old names with a `DeprecationWarning`, once each.

    Args:
        package: the package's ``__name__``.
        renamed: old name -> new name in the package, or ``module:name`` elsewhere.

    Returns:
        The function of a name that returns the attribute, or warns and returns the renamed one.

    Raises:
        AttributeError: when called with a name that is not in ``renamed``.

    Example:
        >>> import advreg.attacks, pytest
        >>> with pytest.warns(DeprecationWarning, match="advreg.attacks.pgd"):
        ...     _ = deprecated("advreg.attacks", {"pgd_linf": "pgd"})("pgd_linf")
    """

    def attribute(name: str) -> Any:
        if name not in renamed:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        new = renamed[name] if ":" in renamed[name] else f"{package}:{renamed[name]}"
        warnings.warn(f"{package}.{name} is now {new.replace(':', '.')}", DeprecationWarning, stacklevel=2)
        value = resolve_name(new)
        setattr(sys.modules[package], name, value)
        return value

    return attribute
