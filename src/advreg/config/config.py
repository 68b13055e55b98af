"""`Config`: the whole configuration of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from advreg.config import toml
from advreg.config.base import BaseConfig
from advreg.config.compatibility import check_compatibility
from advreg.config.features import include_features, parse_features
from advreg.config.sections import (
    AttackConfig,
    AverageConfig,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    Options,
    PolicyConfig,
    RecipeConfig,
    ScheduleConfig,
    TaskConfig,
    ThreatConfig,
    TrainConfig,
)

_CLASSES = asdict(TaskConfig())


@dataclass(frozen=True)
class Config(BaseConfig):
    """A training run, completely: equal configurations on equal machines give equal bytes.

    Attributes:
        seed: seed of weights, order, augmentation and attacks.
        model: the network.
        data: the data set.
        task: what an output is worth; left out where it is classification.
        threat: the threat model.
        attack: the attack in training.
        policy: the eps of each example.
        recipe: the loss.
        optimizer: the optimizer.
        schedule: the learning rate schedule.
        average: the average of the weights.
        train: duration, batch size, precision, device and output.
        features: type, limits and unit of each feature of a table, as in ``features.toml``; left out where empty. In a file,
            ``features = "features.toml"`` reads them from a file beside it.
        relations: ``allowed``, relations between the features; left out where empty.

    Example:
        >>> config = Config().replace_with(["train.epochs=3", "threat.eps=8/255"])
        >>> config.train.epochs, round(config.threat.eps, 4)
        (3, 0.0314)
    """

    seed: int = 0
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    threat: ThreatConfig = field(default_factory=ThreatConfig)
    attack: AttackConfig = field(default_factory=AttackConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    average: AverageConfig = field(default_factory=AverageConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    features: Mapping[str, Options] = field(default_factory=dict)
    relations: Mapping[str, list[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | Path) -> dict[str, Any]:
        """Return the nested dictionaries of a TOML file, with the file of features that it names."""
        return include_features(toml.read(path), Path(path).parent, str(path))

    def to_dict(self) -> dict[str, Any]:
        """Return nested dictionaries with every key but these: classification as task, no features, equal units of values."""
        values, absent = super().to_dict(), {"features": {}, "relations": {}, "task": _CLASSES}
        values["threat"] = {key: each for key, each in values["threat"].items() if key != "scale" or each}
        return {key: each for key, each in values.items() if key not in absent or each != absent[key]}

    def check_combinations(self, source: str) -> None:
        """Raise `ConfigError` for values that cannot go together; see `advreg.config.compatibility`.

        Args:
            source: origin of the values, for error messages.

        Raises:
            ConfigError: values that are each valid but cannot go together.
        """
        check_compatibility(self, source)
        if self.features:
            parse_features({"features": self.features, "relations": self.relations}, source)
