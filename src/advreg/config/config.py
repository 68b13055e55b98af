"""`Config`: the whole of a training run's configuration, and its way from and to text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter

from advreg.config import toml
from advreg.config.compatibility import check_compatibility
from advreg.config.error_messages import validate_config
from advreg.config.sections import (
    STRICT,
    AttackConfig,
    AverageConfig,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    PolicyConfig,
    RecipeConfig,
    ScheduleConfig,
    ThreatConfig,
    TrainConfig,
)


@dataclass(frozen=True)
class Config:
    """A training run, completely: equal configurations on equal machines give equal bytes.

    Example:
        >>> config = Config().replace_with(["train.epochs=3", "threat.eps=8/255"])
        >>> config.train.epochs, round(config.threat.eps, 4)
        (3, 0.0314)
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    seed: int = 0
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    threat: ThreatConfig = field(default_factory=ThreatConfig)
    attack: AttackConfig = field(default_factory=AttackConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    average: AverageConfig = field(default_factory=AverageConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "the configuration") -> Config:
        """Make a configuration from nested dictionaries; what is left out has its default.

        Args:
            values: section name -> key -> value.
            source: where the values come from, for messages.

        Raises:
            ConfigError: an unknown key, a wrong type, or values that cannot go together.
        """
        config = validate_config(_ADAPTER, cls, values, source)
        check_compatibility(config, source)
        return config

    @classmethod
    def load(cls, path: str | Path) -> Config:
        """Read a TOML file.

        Raises:
            ConfigError: the file is missing, is not TOML, or holds something that is not allowed.
        """
        return cls.from_dict(toml.read(path), source=str(path))

    def replace_with(self, assignments: Iterable[str]) -> Config:
        """Return the configuration with ``section.key=value`` assignments applied, as ``--set`` gives them.

        Raises:
            ConfigError: an assignment without ``=``, an unknown key or a value that is not allowed.
        """
        return type(self).from_dict(toml.assigned(self.to_dict(), assignments), source="--set")

    def checked(self) -> Config:
        """Return the same configuration, validated: one that was made in Python has not been yet."""
        return type(self).from_dict(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return nested dictionaries with every key, defaults included."""
        return asdict(self)

    def to_toml(self) -> str:
        """Return TOML text with every key, defaults included; `load` reads an equal configuration from it."""
        return toml.dumps(self.to_dict())


_ADAPTER = TypeAdapter(Config)
