"""Training on the worst case inside a threat model: recipes, the loop, and what it leaves in a run folder."""

from advreg.module_modes import eval_mode
from advreg.training.fit import fit
from advreg.training.regularizer import AdversarialRegularization

__all__ = ["AdversarialRegularization", "eval_mode", "fit"]
