"""The figure that is diagnosed: read from the ledger of an evaluation, or measured here with PGD-40."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advreg import attacks
from advreg.attacks import AttackResult
from advreg.diagnosis.context import PGD_40 as NAME
from advreg.diagnosis.context import ROWS, Attack, all_rows, correct_rows, in_batches, margins
from advreg.diagnosis.gradient_checks import describe_or_reraise, input_gradient
from advreg.evaluation.attack_units import stage_seed
from advreg.evaluation.ledger_checks import free_checks
from advreg.evaluation.protocols import PROTOCOLS, ProtocolStage, resolve
from advreg.plugins import filter_kwargs
from advreg.results.checks import Check
from advreg.results.ledger_rows import CLEAN, Row, broken_ids
from advreg.results.reading import LEDGER, read_ledger
from advreg.threat import ThreatModel

PGD_40 = partial(attacks.pgd, steps=40)

_GRADIENT_STAGES = 2  # gradient attacks of a protocol that a check repeats: the first break most


@dataclass(frozen=True, eq=False)
class ReportedAccuracy:
    """A robust accuracy, the examples that it counts as robust, and its attack.

    Attributes:
        name: ``"pgd-40"``, or the id of a protocol.
        attack: attack behind the figure, which checks repeat unchanged.
        robust: whether each example counts as robust ``(N,)``.
        nearness: margin at the worst point found ``(N,)``, highest for the examples nearest to the boundary.
        free: checks made from its ledger.
        precision: precision of the fast copy behind the figure.
        failed: reason why the attack raised; empty where it did not.
    """

    name: str
    attack: Attack
    robust: Tensor
    nearness: Tensor
    free: tuple[Check, ...] = ()
    precision: str = "float32"
    failed: str = ""


def measure_pgd40(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, ids: Tensor, seed: int
) -> ReportedAccuracy:
    """Return the robust accuracy under PGD-40; where the attack raises, all correct examples count as robust.

    Args:
        model: the original.
        x: clean inputs ``(N, ...)``.
        y: labels ``(N,)``.
        threat: norm, eps and box.
        ids: example ids ``(N,)``, on which the random starts depend.
        seed: seed of the random starts.

    Returns:
        The figure; ``failed`` is the reason if the attack raised.

    Example:
        >>> model, x = nn.Linear(4, 3).eval(), torch.rand(2, 4)
        >>> measure_pgd40(model, x, model(x).argmax(1), ThreatModel("linf", 1e-6), torch.arange(2), seed=0).nearness.shape
        torch.Size([2])
    """

    def attack(rows: Tensor) -> Tensor:
        found = PGD_40(model, x[rows], y[rows], threat, ids=ids[rows], seed=seed)
        return torch.stack([(~found.broken).double(), margins(model, found.x_adv, y[rows]).double()], 1)

    try:
        robust, nearness = in_batches(all_rows(x), attack, most=len(x)).T
        return ReportedAccuracy(NAME, PGD_40, robust > 0, nearness)
    except Exception as cause:
        parts = torch.split(all_rows(x), ROWS)
        cut = any(input_gradient(model, x[rows], y[rows])[1] for rows in parts)  # the check gradient-path reports it
        failed = "" if cut else describe_or_reraise(cause)
        return ReportedAccuracy(NAME, PGD_40, correct_rows(model, x, y), margins(model, x, y), failed=failed)


def from_ledger(
    run: Path | str | None, sha256: str, data: str, threat: ThreatModel, n: int, same: Callable[[list[Row]], bool]
) -> ReportedAccuracy | None:
    """Return the figure of the evaluation in a run folder with this model, data and threat; the lowest of several.

    Args:
        run: run folder, or None.
        sha256: SHA-256 of the model's weights.
        data: fingerprint of the data.
        threat: norm, eps and box.
        n: number of examples; evaluations of fewer are left out.
        same: returns whether the model has the outputs that the rows of a ledger record; equal weights do not imply it.

    Returns:
        The figure, or None without a matching evaluation.

    Example:
        >>> from_ledger(None, "", "", ThreatModel("linf", 0.1), 10, lambda rows: True) is None
        True
    """
    folders = sorted(Path(run).glob("evaluation/*/results.json")) if run is not None else []
    figures = [figure for file in folders if (figure := _read(file, sha256, data, threat, n, same))]
    return min(figures, key=lambda figure: (int(figure.robust.sum()), figure.name), default=None)


def _read(
    file: Path, sha256: str, data: str, threat: ThreatModel, n: int, same: Callable[[list[Row]], bool]
) -> ReportedAccuracy | None:
    from advreg.runs import RunFolder

    record = RunFolder(file.parent).read_json(file.name)
    rows = read_ledger(file.parent / LEDGER).rows
    if not (_fits(record, sha256, data, threat, n) and same(rows)):
        return None
    mine = [row for row in rows if row["id"] < n]
    robust = torch.ones(n, dtype=torch.bool)
    robust[sorted(broken_ids(mine))] = False
    nearness = torch.full((n,), -math.inf)
    for row in mine:
        nearness[row["id"]] = max(float(nearness[row["id"]]), row["margin"])
    precision = str(record.get("flags", {}).get("target", "float32")).split()[0]
    attack = attack_of(record["protocol"], threat.norm)
    return ReportedAccuracy(record["protocol"], attack, robust, nearness, tuple(free_checks(record, mine)), precision)


def _fits(record: Mapping[str, Any], sha256: str, data: str, threat: ThreatModel, n: int) -> bool:
    recorded = record.get("threat", {})
    same_threat = (recorded.get("norm"), recorded.get("eps")) == (threat.norm, float(threat.eps))
    same_box = tuple(recorded.get("box", (0.0, 1.0))) == threat.box
    same_box &= recorded.get("features", "") == threat.suffix.lstrip("-")
    known = record.get("model", {}).get("sha256"), record.get("data", {}).get("sha256")
    return same_threat and same_box and known == (sha256, data) and record.get("n", 0) >= n


def attack_of(protocol: str, norm: str) -> Attack:
    """Return the first gradient attacks of a protocol as one attack; PGD-40 for a protocol that is not built in.

    Args:
        protocol: id of a protocol.
        norm: norm of the threat model.

    Returns:
        The attack.
    """
    name = protocol.rpartition("@")[0].rpartition("-")[2]
    limited = any(f"-{part}-" in protocol for part in ("scale", "rules"))
    stages = resolve(name, norm, limited=limited).stages if name in PROTOCOLS else ()
    chosen = [stage for stage in stages if stage.needs_gradient and stage.name != CLEAN]
    return run_stages_in_turn(tuple(chosen[:_GRADIENT_STAGES])) if chosen else PGD_40


def run_stages_in_turn(stages: tuple[ProtocolStage, ...]) -> Attack:
    """Return an attack that runs each stage on the survivors of the stages before it, with a seed of its own.

    Args:
        stages: attacks of a protocol, in order.

    Returns:
        The attack.

    Example:
        >>> def record(model, x, y, threat, *, seed):
        ...     seeds.append(seed)
        ...     return attacks.pgd(model, x, y, threat, steps=1, seed=seed)
        >>> seeds, model, x = [], nn.Linear(2, 2).eval(), torch.rand(1, 2)
        >>> attack = run_stages_in_turn((ProtocolStage("first", record), ProtocolStage("second", record)))
        >>> _ = attack(model, x, model(x).argmax(1), ThreatModel("linf", 0.0), ids=torch.arange(1), seed=7)
        >>> seeds
        [7, 1000010]
    """

    def attack(
        model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, *, ids: Tensor, seed: int = 0
    ) -> AttackResult:
        seeds = [
            stage_seed(seed, k) for k in range(1, len(stages) + 1)
        ]  # with one seed the stages would share their random starts
        options = [filter_kwargs(s.attack, ids=ids, seed=own) for s, own in zip(stages, seeds, strict=True)]
        result: AttackResult = stages[0].attack(model, x, y, threat, **options[0])
        for stage, given in zip(stages[1:], options[1:], strict=True):
            rows = (~result.broken).nonzero()[:, 0]
            if len(rows):
                given = {**given, **({"ids": ids[rows]} if "ids" in given else {})}
                result = result.improved_by(stage.attack(model, x[rows], y[rows], threat, **given), rows)
        return result

    return attack
