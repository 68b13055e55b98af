"""Attacks: functions ``(model, x, y, threat, ...) -> result`` that share one search loop and one verification."""

from typing import TYPE_CHECKING

from advreg._lazy import deprecated
from advreg.attacks import corruptions
from advreg.attacks.auto_pgd import apgd, apgd_targeted
from advreg.attacks.blackbox import hopskipjump, random_search, spsa, square, transfer
from advreg.attacks.cosine_pgd import cosine_pgd
from advreg.attacks.minimum_norm import (
    carlini_wagner,
    ddn,
    deepfool,
    fab,
    fmn,
    minimum_distance,
    refine_by_bisection,
    refine_by_radius,
)
from advreg.attacks.momentum import mifgsm, nifgsm
from advreg.attacks.patch import patch
from advreg.attacks.pgd import craft, fgsm, pgd
from advreg.attacks.result import AttackResult, CraftedExamples
from advreg.attacks.several_eps import attack_at_each_eps
from advreg.attacks.shrinking_pgd import shrinking_pgd
from advreg.attacks.spatial import spatial
from advreg.attacks.tabular import capgd, mutate
from advreg.attacks.verification import verify

__all__ = [
    "AttackResult",
    "CraftedExamples",
    "apgd",
    "apgd_targeted",
    "attack_at_each_eps",
    "capgd",
    "carlini_wagner",
    "corruptions",
    "cosine_pgd",
    "craft",
    "ddn",
    "deepfool",
    "fab",
    "fgsm",
    "fmn",
    "hopskipjump",
    "mifgsm",
    "minimum_distance",
    "mutate",
    "nifgsm",
    "patch",
    "pgd",
    "random_search",
    "refine_by_bisection",
    "refine_by_radius",
    "shrinking_pgd",
    "spatial",
    "spsa",
    "square",
    "transfer",
    "verify",
]

if not TYPE_CHECKING:
    __getattr__ = deprecated(
        __name__,
        {
            "Crafted": "CraftedExamples",
            "annealed": "cosine_pgd",
            "bisected": "refine_by_bisection",
            "carlini": "carlini_wagner",
            "nearest": "minimum_distance",
            "tightened": "refine_by_radius",
        },
    )
