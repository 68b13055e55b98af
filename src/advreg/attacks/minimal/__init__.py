"""Minimum-norm attacks: they search the nearest misclassified point, and so give a whole robustness curve from one run."""

from advreg.attacks.minimal.boundary import bisected, nearest
from advreg.attacks.minimal.carlini import carlini
from advreg.attacks.minimal.ddn import ddn
from advreg.attacks.minimal.deepfool import deepfool
from advreg.attacks.minimal.fab import fab
from advreg.attacks.minimal.fmn import fmn
from advreg.attacks.minimal.result import MinimalResult
from advreg.attacks.minimal.sparse import Sparse
from advreg.attacks.minimal.tightened import tightened

__all__ = ["MinimalResult", "Sparse", "bisected", "carlini", "ddn", "deepfool", "fab", "fmn", "nearest", "tightened"]
