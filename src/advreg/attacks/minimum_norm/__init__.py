"""Minimum-norm attacks: they search the nearest misclassified point, and so give a whole robustness curve from one run."""

from advreg.attacks.minimum_norm.bisection import bisected, nearest
from advreg.attacks.minimum_norm.carlini_wagner import carlini
from advreg.attacks.minimum_norm.ddn import ddn
from advreg.attacks.minimum_norm.deepfool import deepfool
from advreg.attacks.minimum_norm.fab import fab
from advreg.attacks.minimum_norm.fmn import fmn
from advreg.attacks.minimum_norm.l0 import Sparse
from advreg.attacks.minimum_norm.refinement import tightened
from advreg.attacks.minimum_norm.result import MinimalResult

__all__ = ["MinimalResult", "Sparse", "bisected", "carlini", "ddn", "deepfool", "fab", "fmn", "nearest", "tightened"]
