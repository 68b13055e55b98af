"""Training on the worst case inside a threat model: recipes, the loop, and what it leaves in a run folder."""

from advreg.training.loop import fit
from advreg.training.modes import eval_mode

__all__ = ["eval_mode", "fit"]
