"""Attacks: functions ``(model, x, y, threat, ...) -> result``, on one engine, judged by one judge."""

from advreg.attacks.annealed import annealed
from advreg.attacks.apgd import apgd, apgd_targeted
from advreg.attacks.blackbox import hopskipjump, random_search, spsa, square, transfer
from advreg.attacks.gradient import craft, fgsm, mifgsm, nifgsm, pgd
from advreg.attacks.judge import verify
from advreg.attacks.minimal import bisected, carlini, ddn, deepfool, fab, fmn, nearest, tightened
from advreg.attacks.result import AttackResult, Crafted
from advreg.attacks.shrinking_pgd import shrinking_pgd

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
