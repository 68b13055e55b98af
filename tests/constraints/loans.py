"""A generated loan table with every kind of rule: whole numbers, a one-hot group, derived features, inequalities."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from advreg import ThreatModel
from advreg.constraints import FeatureRules
from advreg.constraints.repair import repair_or_fall_back

NAMES = (
    "amount", "term", "rate", "installment", "income", "open_accounts", "total_accounts",
    "age", "ratio", "own", "rent", "mortgage",
)  # fmt: skip
RULES = FeatureRules(
    integer=(1, 5, 6, 7),
    groups=((9, 10, 11),),
    relations=(
        "installment = amount / term * (1 + rate)",
        "ratio = installment / max(income, 1)",
        "open_accounts <= total_accounts",
        "installment <= 2 * income",
    ),
    names=NAMES,
    one_sided=(0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0),
)
LOW = torch.tensor([100.0, 6.0, 0.0, 0.0, 100.0, 0.0, 0.0, 18.0, 0.0, 0.0, 0.0, 0.0])
HIGH = torch.tensor([50000.0, 60.0, 0.4, 1e5, 30000.0, 30.0, 60.0, 99.0, 1e3, 1.0, 1.0, 1.0])
SCALE = torch.tensor([5000.0, 6.0, 0.05, torch.inf, 2000.0, 2.0, 4.0, 0.0, torch.inf, 2.0, 2.0, 2.0])


def loans(n: int, seed: int = 0) -> Tensor:
    """Return rows ``(n, 12)`` in float32 that keep the rules."""
    g = torch.Generator().manual_seed(seed)
    u = torch.rand(n, 12, generator=g, dtype=torch.float64)
    rows = (LOW + (HIGH - LOW) * u).double()
    for at in (1, 5, 6, 7):
        rows[:, at] = rows[:, at].round()
    rows[:, 6] = rows[:, 6].maximum(rows[:, 5])
    rows[:, 9:] = torch.eye(3, dtype=torch.float64)[(u[:, 9] * 3).long()]
    rows[:, 4] = rows[:, 4].maximum(rows[:, 0] / 6)
    rows = rows.float()
    return RULES.derive(rows.minimum(HIGH).maximum(LOW))


def loan_threat(norm: str, eps: float) -> ThreatModel:
    """Return the threat model of the loan table."""
    return ThreatModel(norm, eps, (LOW, HIGH), scale=SCALE, rules=RULES)  # type: ignore[arg-type]


def violations(a: Tensor, x: Tensor, norm: str, eps: float) -> np.ndarray:
    """Return which rows leave the threat model, by NumPy in float64, written apart from the library."""
    p, c, s = a.double().numpy(), x.double().numpy(), SCALE.double().numpy()
    counted = np.isfinite(s) & (s > 0)
    u = np.abs(p - c)[:, counted] / s[counted]
    size = {"linf": u.max(1), "l2": np.sqrt((u**2).sum(1)), "l1": u.sum(1)}[norm]
    bad = size > eps * (1 + 1e-8)
    bad |= (p < LOW.double().numpy()).any(1) | (p > HIGH.double().numpy()).any(1)
    bad |= (p[:, 7] != c[:, 7]) | (p[:, 6] < c[:, 6])
    for at in (1, 5, 6, 7):
        bad |= p[:, at] != np.round(p[:, at])
    bad |= (np.sort(p[:, 9:], 1) != [0, 0, 1]).any(1)
    installment = p[:, 0] / p[:, 1] * (1 + p[:, 2])
    bad |= np.abs(p[:, 3] - installment) > 1e-6 * np.maximum(1, np.abs(installment))
    ratio = p[:, 3] / np.maximum(p[:, 4], 1)
    bad |= np.abs(p[:, 8] - ratio) > 1e-6 * np.maximum(1, np.abs(ratio))
    return bad | (p[:, 5] > p[:, 6]) | (p[:, 3] > 2 * p[:, 4] * (1 + 1e-6))


def repaired(n: int, norm: str, eps: float, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return clean rows, points repaired from far random targets, and which rows fell back to the clean row."""
    x = loans(n, seed)
    g = torch.Generator().manual_seed(seed + 1)
    reach = torch.where(torch.isfinite(SCALE), SCALE, 1.0)
    target = x + 4 * eps * reach * torch.randn(n, 12, generator=g)
    limits = loan_threat(norm, eps).limits
    assert limits is not None
    return x, *repair_or_fall_back(RULES, limits, torch.tensor(eps, dtype=torch.float64), target, x)
