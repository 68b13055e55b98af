"""Sweeps over adversarial shares and learning rates: robustness and its cost for several trainings of one model."""
