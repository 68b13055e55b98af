"""The configuration of a training run: frozen dataclasses <-> TOML <-> ``--set section.key=value``."""

from advreg.config.base import BaseConfig
from advreg.config.config import Config
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
    ThreatConfig,
    TrainConfig,
)

__all__ = [
    "AttackConfig",
    "AverageConfig",
    "BaseConfig",
    "Config",
    "DataConfig",
    "ModelConfig",
    "OptimizerConfig",
    "Options",
    "PolicyConfig",
    "RecipeConfig",
    "ScheduleConfig",
    "ThreatConfig",
    "TrainConfig",
]
