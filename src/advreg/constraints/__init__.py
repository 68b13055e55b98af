"""Rules that valid inputs keep: whole numbers, one-hot groups, relations; the only place that knows them."""

from advreg.constraints.relations import Relation
from advreg.constraints.repair import repair
from advreg.constraints.rules import FeatureRules

__all__ = ["FeatureRules", "Relation", "repair"]
