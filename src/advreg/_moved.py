"""Modules under the names of version 0.1: they import from where their contents are now, with a `DeprecationWarning`.

``moved.toml`` beside this file lists old module -> new module, and old name -> new name where a name changed too. Both go with
version 0.3.
"""

from __future__ import annotations

import functools
import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any


@functools.cache
def _table() -> dict[str, dict[str, str]]:
    """Return old module -> {"module": new module, old name: "module:name" or new name}."""
    import tomllib

    return tomllib.loads(Path(__file__).with_name("moved.toml").read_text())


class _MovedLoader(Loader):
    """Makes a module whose attributes are those of the new one."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return an empty package, so that old submodules are found below it."""
        module = ModuleType(spec.name)
        module.__path__ = []
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Warn, and let attributes be imported when they are first used."""
        names = _table()[module.__name__]
        new = f"advreg.{names['module']}"
        warnings.warn(f"{module.__name__} is now {new}", DeprecationWarning, stacklevel=2)

        def attribute(name: str) -> Any:
            home, _, renamed = names.get(name, name).rpartition(":")
            found = importlib.import_module(f"advreg.{home}" if home else new)
            try:
                return functools.reduce(getattr, renamed.split("."), found)
            except AttributeError:
                raise AttributeError(
                    f"module {module.__name__!r} has no attribute {name!r}; it is now {found.__name__}"
                ) from None

        module.__getattr__ = attribute  # type: ignore[method-assign]
        _protect_parent(module.__name__)


class _Parent(ModuleType):
    """A package in which an old submodule replaces no public name, such as the function `attacks.apgd`."""

    def __setattr__(self, name: str, value: Any) -> None:
        taken = not isinstance(vars(self).get(name), ModuleType | None)
        if not (taken and isinstance(getattr(value, "__loader__", None), _MovedLoader)):
            super().__setattr__(name, value)


def _protect_parent(module: str) -> None:
    """Keep the parent's public name where an old module has the same: an import binds the submodule in its parent."""
    parent = sys.modules[module.rpartition(".")[0]]
    if type(parent) is ModuleType:
        parent.__class__ = _Parent


class _MovedFinder(MetaPathFinder):
    """Finds old modules; it is the last finder, so it costs nothing if a module exists."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the spec of a moved module, None for any other name."""
        if not name.startswith("advreg.") or name not in _table():
            return None
        return ModuleSpec(name, _MovedLoader(), is_package=True)


def serve_moved_modules() -> None:
    """Let old module names be imported."""
    if not any(isinstance(finder, _MovedFinder) for finder in sys.meta_path):
        sys.meta_path.append(_MovedFinder())
