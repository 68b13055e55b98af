"""Minimum-norm attacks: they search for the nearest misclassified point, so one run gives a whole robustness curve."""

from advreg.attacks.minimum_norm.bisection import minimum_distance, refine_by_bisection
from advreg.attacks.minimum_norm.carlini_wagner import carlini_wagner
from advreg.attacks.minimum_norm.ddn import ddn
from advreg.attacks.minimum_norm.deepfool import deepfool
from advreg.attacks.minimum_norm.fab import fab
from advreg.attacks.minimum_norm.fmn import fmn
from advreg.attacks.minimum_norm.l0 import SparseThreat
from advreg.attacks.minimum_norm.refinement import refine_by_radius
from advreg.attacks.minimum_norm.result import MinimalResult

__all__ = [
    "MinimalResult",
    "SparseThreat",
    "carlini_wagner",
    "ddn",
    "deepfool",
    "fab",
    "fmn",
    "minimum_distance",
    "refine_by_bisection",
    "refine_by_radius",
]
