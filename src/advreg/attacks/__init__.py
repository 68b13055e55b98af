"""Attacks: functions ``(model, x, y, threat, ...) -> result``, on one engine, judged by one judge."""

from advreg.attacks.auto_pgd import apgd, apgd_targeted
from advreg.attacks.blackbox import hopskipjump, random_search, spsa, square, transfer
from advreg.attacks.cosine_pgd import annealed
from advreg.attacks.minimum_norm import bisected, carlini, ddn, deepfool, fab, fmn, nearest, tightened
from advreg.attacks.pgd import craft, fgsm, mifgsm, nifgsm, pgd
from advreg.attacks.result import AttackResult, Crafted
from advreg.attacks.shrinking_pgd import shrinking_pgd
from advreg.attacks.verification import verify

__all__ = [
    "AttackResult",
    "Crafted",
    "annealed",
    "apgd",
    "apgd_targeted",
    "bisected",
    "carlini",
    "craft",
    "ddn",
    "deepfool",
    "fab",
    "fgsm",
    "fmn",
    "hopskipjump",
    "mifgsm",
    "nearest",
    "nifgsm",
    "pgd",
    "random_search",
    "shrinking_pgd",
    "spsa",
    "square",
    "tightened",
    "transfer",
    "verify",
]
