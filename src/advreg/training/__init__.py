"""Training on the worst case inside a threat model: recipes, the loop, and what it leaves in a run folder."""

from typing import TYPE_CHECKING

from advreg._lazy import deprecated
from advreg.module_modes import eval_mode
from advreg.training.fit import fit
from advreg.training.policies import Moment
from advreg.training.regularizer import AdversarialRegularization
from advreg.training.rollback import warm_up
from advreg.training.setup import TrainState, prepare
from advreg.training.step import take_step

__all__ = ["AdversarialRegularization", "Moment", "TrainState", "eval_mode", "fit", "prepare", "take_step", "warm_up"]

if not TYPE_CHECKING:
    _HOMES = ("averaging", "events", "loggers", "schedules")
    __getattr__ = deprecated(__name__, {name: f"advreg.trainer:{name}" for name in _HOMES})
