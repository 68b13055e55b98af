"""Attacks for training, with an exact cost and without verification."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advreg._lazy import deprecated
from advreg.training.inner.fgsm_pgi import FgsmPgi, Prior
from advreg.training.inner.friendly_pgd import friendly_pgd
from advreg.training.inner.from_config import OBJECTIVES, from_section, maximising
from advreg.training.inner.gaussian_start import trades_pgd
from advreg.training.inner.multi_norm import SampledNorm, multi_steepest, worst_norm
from advreg.training.inner.n_fgsm import Untouched, n_fgsm, unattacked

__all__ = [
    "OBJECTIVES",
    "FgsmPgi",
    "Prior",
    "SampledNorm",
    "Untouched",
    "friendly_pgd",
    "from_section",
    "maximising",
    "multi_steepest",
    "n_fgsm",
    "trades_pgd",
    "unattacked",
    "worst_norm",
]

if not TYPE_CHECKING:
    __getattr__ = deprecated(__name__, {"Stored": "FgsmPgi", "near": "trades_pgd", "friendly": "friendly_pgd"})
