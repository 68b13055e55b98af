"""The configuration of a training run: frozen dataclasses <-> TOML <-> ``--set section.key=value``."""

from advreg.config.config import Config
from advreg.config.sections import (
    AttackSection,
    AverageSection,
    DataSection,
    ModelSection,
    OptimizerSection,
    Options,
    PolicySection,
    RecipeSection,
    ScheduleSection,
    ThreatSection,
    TrainSection,
)

__all__ = [
    "AttackSection",
    "AverageSection",
    "Config",
    "DataSection",
    "ModelSection",
    "OptimizerSection",
    "Options",
    "PolicySection",
    "RecipeSection",
    "ScheduleSection",
    "ThreatSection",
    "TrainSection",
]
