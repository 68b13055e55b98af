"""The configuration of a training run: frozen dataclasses <-> TOML <-> ``--set section.key=value``."""

from advreg.config.document import Config
from advreg.config.sections import (
    AttackSection,
    DataSection,
    ModelSection,
    OptimizerSection,
    Options,
    RecipeSection,
    ScheduleSection,
    ThreatSection,
    TrainSection,
)

__all__ = [
    "AttackSection",
    "Config",
    "DataSection",
    "ModelSection",
    "OptimizerSection",
    "Options",
    "RecipeSection",
    "ScheduleSection",
    "ThreatSection",
    "TrainSection",
]
