"""Attacks: functions ``(model, x, y, threat, ...) -> AttackResult``, all on one engine, all judged by one judge."""

from advreg.attacks.gradient import craft, fgsm, mifgsm, pgd
from advreg.attacks.judge import verify
from advreg.attacks.result import AttackResult, Crafted

__all__ = ["AttackResult", "Crafted", "craft", "fgsm", "mifgsm", "pgd", "verify"]
