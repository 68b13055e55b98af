"""From rows of the ledger to figures: every number of a result is a query on the rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from advreg.evaluation.checks import Check, Verdict, provisional
from advreg.evaluation.ledger_checks import free_checks
from advreg.evaluation.ledger_rows import CLEAN, Row, broken_ids
from advreg.statistics import clopper_pearson_interval
from advreg.threat import ThreatModel

SCHEMA = "advreg/results@1"


@dataclass(frozen=True)
class AttackSummary:
    """One attack of a protocol: how many it was tried on, how many it broke, what stood after it, what it cost."""

    name: str
    tried: int
    broken: int
    robust_accuracy: float
    forwards: int
    backwards: int
    seconds: float


@dataclass(frozen=True)
class ClassSummary:
    """Accuracy on the examples of one class."""

    name: str
    n: int
    clean_accuracy: float
    robust_accuracy: float


@dataclass(frozen=True, repr=False)
class Evaluation:
    """The result of an evaluation. Robust accuracy found by attacks is an upper bound: a better attack may lower it.

    Attributes:
        protocol: frozen id, such as ``linf-0.3-quick@1``.
        threat: what the adversary was allowed.
        n: examples evaluated.
        clean_accuracy, clean_interval: share classified correctly, and its exact 95% interval.
        robust_accuracy, interval: share that no attack broke (clean errors count as broken), and its exact 95% interval.
        attack_success_rate, attack_success_interval: share of the correctly classified that was broken.
        broken: verdict for each example, ``(N,)`` booleans.
        by_attack: one summary for each attack, in order; each ran on what the ones before it left standing.
        per_class: one summary for each class.
        forwards, backwards: example-forwards and example-backwards spent, the judge's among them.
        seconds: wall time.
        flags: findings that bear on how far the figures can be trusted.
        checks, verdict: what those findings and the ledger say of that, free of charge: ``"TRUSTED"``, ``"SUSPECT"``,
            ``"UNRELIABLE"``, or None where too little was tried to say; `advreg.diagnose` looks closer.
    """

    protocol: str
    threat: ThreatModel
    n: int
    seed: int
    clean_accuracy: float
    clean_interval: tuple[float, float]
    robust_accuracy: float
    interval: tuple[float, float]
    attack_success_rate: float
    attack_success_interval: tuple[float, float]
    broken: Tensor
    by_attack: tuple[AttackSummary, ...]
    per_class: tuple[ClassSummary, ...]
    forwards: int
    backwards: int
    seconds: float
    flags: Mapping[str, Any] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    verdict: Verdict | None = None

    def __repr__(self) -> str:
        low, high = self.interval
        return (
            f"Evaluation({self.protocol}, n={self.n}: clean {self.clean_accuracy:.2%}, "
            f"robust {self.robust_accuracy:.2%} [{low:.2%}, {high:.2%}]{f', {self.verdict}' if self.verdict else ''})"
        )

    def record(self) -> dict[str, Any]:
        """Return the figures as they stand in results.json."""
        eps, box = float(self.threat.eps), list(self.threat.box)
        plain = {name: value for name, value in vars(self).items() if name not in ("broken", "threat", "protocol")}
        return {
            "schema": SCHEMA,
            "protocol": self.protocol,
            "threat": {"norm": self.threat.norm, "eps": eps, "box": box},
            **plain,
            "by_attack": [asdict(attack) for attack in self.by_attack],
            "per_class": [
                {"class": c.name, **{k: v for k, v in asdict(c).items() if k != "name"}} for c in self.per_class
            ],
            "flags": dict(self.flags),
            "verdict": self.verdict,
            "checks": [check.record() for check in self.checks],
        }


def summarize(
    rows: list[Row],
    *,
    protocol: str,
    stages: list[str],
    threat: ThreatModel,
    classes: tuple[str, ...],
    seed: int,
    seconds: Mapping[str, float],
    flags: Mapping[str, Any],
    spent: tuple[int, int] = (0, 0),
) -> Evaluation:
    """Return the figures of a complete set of rows.

    Args:
        rows: the ledger's rows; those of the clean examples first in every chunk.
        protocol: frozen id.
        stages: names of the attacks in order, `CLEAN` first.
        threat: what the adversary was allowed.
        classes: names of the classes.
        seed: seed of the random draws.
        seconds: wall time spent in each stage.
        flags: findings that bear on trust.
        spent: example-forwards and example-backwards besides those of the rows.
    """
    clean = [row for row in rows if row["attack"] == CLEAN]
    n, wrong, lost = len(clean), broken_ids(clean), broken_ids(rows)
    correct, standing = n - len(wrong), n - len(lost)
    verdicts = torch.zeros(n, dtype=torch.bool)
    verdicts[sorted(lost)] = True
    found = Evaluation(
        protocol=protocol,
        threat=threat,
        n=n,
        seed=seed,
        clean_accuracy=correct / n,
        clean_interval=clopper_pearson_interval(correct, n),
        robust_accuracy=standing / n,
        interval=clopper_pearson_interval(standing, n),
        attack_success_rate=(correct - standing) / max(correct, 1),
        attack_success_interval=clopper_pearson_interval(correct - standing, correct),
        broken=verdicts,
        by_attack=tuple(_by_attack(rows, stages, n, seconds)),
        per_class=tuple(_per_class(clean, lost, wrong, classes)),
        forwards=spent[0] + sum(row["forwards"] for row in rows),
        backwards=spent[1] + sum(row["backwards"] for row in rows),
        seconds=sum(seconds.values()),
        flags=flags,
    )
    checks = tuple(free_checks(found.record(), rows))
    return replace(found, checks=checks, verdict=provisional(checks))


def _by_attack(rows: list[Row], stages: list[str], n: int, seconds: Mapping[str, float]) -> list[AttackSummary]:
    found, standing = [], n
    for stage in stages:
        mine = [row for row in rows if row["attack"] == stage]
        broken = len(broken_ids(mine))
        standing -= broken
        forwards, backwards = (sum(row[name] for row in mine) for name in ("forwards", "backwards"))
        cost = (forwards, backwards, seconds.get(stage, 0.0))
        found.append(AttackSummary(stage, len(mine), broken, standing / n, *cost))
    return found[1:]


def _per_class(clean: list[Row], lost: set[int], wrong: set[int], classes: tuple[str, ...]) -> list[ClassSummary]:
    found = []
    for label, name in enumerate(classes):
        mine = {row["id"] for row in clean if row["label"] == label}
        if mine:
            count = len(mine)
            found.append(ClassSummary(name, count, 1 - len(mine & wrong) / count, 1 - len(mine & lost) / count))
    return found
