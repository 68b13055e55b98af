"""Training on the worst case inside a threat model: recipes, the loop, and what it leaves in a run folder."""

from advreg.module_modes import eval_mode
from advreg.training.fit import fit
from advreg.training.policies import Moment
from advreg.training.regularizer import AdversarialRegularization
from advreg.training.rollback import warm_up
from advreg.training.setup import TrainState, prepare
from advreg.training.step import take_step

__all__ = ["AdversarialRegularization", "Moment", "TrainState", "eval_mode", "fit", "prepare", "take_step", "warm_up"]
