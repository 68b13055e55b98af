"""Attacks on rows with rules: constrained PGD, and a search by mutation for what gradients cannot reach."""

from advreg.attacks.tabular.capgd import capgd
from advreg.attacks.tabular.mutate import mutate

__all__ = ["capgd", "mutate"]
