"""`Config`: the whole of a training run's configuration, and its way from and to text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter

from advreg.config import toml
from advreg.config.compatibility import refuse_combinations
from advreg.config.error_messages import validated
from advreg.config.sections import (
    STRICT,
    AttackSection,
    AverageSection,
    DataSection,
    ModelSection,
    OptimizerSection,
    PolicySection,
    RecipeSection,
    ScheduleSection,
    ThreatSection,
    TrainSection,
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
    model: ModelSection = field(default_factory=ModelSection)
    data: DataSection = field(default_factory=DataSection)
    threat: ThreatSection = field(default_factory=ThreatSection)
    attack: AttackSection = field(default_factory=AttackSection)
    policy: PolicySection = field(default_factory=PolicySection)
    recipe: RecipeSection = field(default_factory=RecipeSection)
    optimizer: OptimizerSection = field(default_factory=OptimizerSection)
    schedule: ScheduleSection = field(default_factory=ScheduleSection)
    average: AverageSection = field(default_factory=AverageSection)
    train: TrainSection = field(default_factory=TrainSection)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "the configuration") -> Config:
        """Make a configuration from nested dictionaries; what is left out has its default.

        Args:
            values: section name -> key -> value.
            source: where the values come from, for messages.

        Raises:
            ConfigError: an unknown key, a wrong type, or values that cannot go together.
        """
        config = validated(_ADAPTER, cls, values, source)
        refuse_combinations(config, source)
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
