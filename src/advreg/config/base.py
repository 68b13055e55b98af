"""`BaseConfig`: validation, TOML and ``--set`` for every configuration, of images, of language and of hardening."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from pydantic import ConfigDict, TypeAdapter

from advreg.config import toml
from advreg.config.error_messages import validate_config
from advreg.config.sections import STRICT
from advreg.errors import ConfigError
from advreg.plugins import check_file_names, trusting

T = TypeVar("T")


@dataclass(frozen=True)
class BaseConfig:
    """Base of the configurations: frozen dataclasses with sections or single keys as fields.

    Example:
        >>> @dataclass(frozen=True)
        ... class Small(BaseConfig):
        ...     epochs: int = 3
        >>> print(Small().replace_with(["epochs=5"]).to_toml(), end="")
        epochs = 5
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "the configuration") -> Self:
        """Build a configuration from nested dictionaries; a missing key has its default.

        Args:
            values: section name -> key -> value.
            source: where the values come from, for error messages.

        Returns:
            A validated configuration.

        Raises:
            ConfigError: an unknown key, a wrong type, or values that cannot go together.
        """
        config = validate_config(_adapter(cls), cls, values, source)
        config.check_combinations(source)
        return config

    @classmethod
    def load(cls, path: str | Path, *, trust_code: bool = False) -> Self:
        """Read a TOML file.

        Args:
            path: the file.
            trust_code: allow names of code (``pkg.module:factory``).

        Returns:
            A validated configuration.

        Raises:
            ConfigError: the file is missing, is not TOML, holds a key or a value that is not allowed, or names code.
        """
        values = cls.read(path)
        with trusting(trust_code):
            check_file_names(values, str(path), ConfigError)
        return cls.from_dict(values, source=str(path))

    @classmethod
    def read(cls, path: str | Path) -> dict[str, Any]:
        """Return the nested dictionaries of a TOML file, before validation."""
        return toml.read(path)

    def check_combinations(self, source: str) -> None:
        """Raise `ConfigError` for values that are each valid but cannot go together; the base has no such rule.

        Args:
            source: origin of the values, for error messages.
        """

    def replace_with(self, assignments: Iterable[str] | Mapping[str, Any]) -> Self:
        """Return the configuration with keys changed.

        Args:
            assignments: ``section.key=value`` texts, as ``--set`` gives them, or a mapping ``{"section.key": value}``.

        Returns:
            A validated configuration; this one does not change.

        Raises:
            ConfigError: an assignment without ``=``, an unknown key or a value that is not allowed.
        """
        return type(self).from_dict(toml.assign(self.to_dict(), assignments), source="--set")

    def checked(self) -> Self:
        """Return the same configuration, validated: the constructor does not validate."""
        return type(self).from_dict(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return nested dictionaries with every key, defaults included."""
        return asdict(self)

    def to_toml(self) -> str:
        """Return TOML text with every key, defaults included; `load` reads an equal configuration from it."""
        return toml.dumps(self.to_dict())


_ADAPTERS: dict[type, TypeAdapter[Any]] = {}


def _adapter(schema: type[T]) -> TypeAdapter[T]:
    """Return the validator of a configuration; building one takes milliseconds, so each is built once."""
    if schema not in _ADAPTERS:
        _ADAPTERS[schema] = TypeAdapter(schema)
    return _ADAPTERS[schema]
