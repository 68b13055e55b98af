"""Check that a model has the outputs recorded in a ledger: equal weights do not imply equal outputs."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from advreg.attacks.verification import outputs_of
from advreg.evaluation.ledger_columns import finite_nearness
from advreg.evaluation.model_probe import logit_spread
from advreg.objectives import margin
from advreg.results.ledger_rows import CLEAN, Row
from advreg.tasks import CLASSES, Task

IDENTIFIED = 8
"""Number of clean examples on which outputs are compared."""

_TOLERANCE = 1e-3  # share of the largest logit: kernels, batches and devices round differently
_PART = 3


def matches_ledger(model: nn.Module, x: Tensor, y: Tensor, rows: Iterable[Row], task: Task = CLASSES) -> bool:
    """Return whether a model has the outputs on clean examples that the rows record, by the first 8 of them.

    Class and margin are compared (the nearness to broken in other tasks). A model whose outputs are random or depend on the
    batch cannot be identified by them and passes: a second evaluation in other batches detects it. These passes are not
    counted, so that a resumed evaluation has the figures of an uninterrupted one.

    Args:
        model: the original.
        x: clean inputs ``(N, ...)``, on any device; an id is a row.
        y: labels ``(N,)``.
        rows: rows of a ledger.
        task: what an output is worth.

    Returns:
        True also where the rows hold no clean example.

    Example:
        >>> model, x = torch.nn.Linear(2, 2).eval(), torch.rand(1, 2)
        >>> matches_ledger(model, x, torch.tensor([0]), [])
        True
    """
    clean = {row["id"]: row for row in rows if row["attack"] == CLEAN and row["id"] < len(y)}
    known = [clean[i] for i in sorted(clean)[:IDENTIFIED]]
    if not known:
        return True
    ids = torch.tensor([row["id"] for row in known], device=x.device)
    device = next((p.device for p in model.parameters()), x.device)
    inputs, labels = x[ids].to(device), y[ids].to(device)
    logits = outputs_of(model, inputs)
    again = torch.cat([outputs_of(model, part) for part in torch.split(inputs, _PART)])
    if bool((logit_spread(torch.stack([logits, again])[:, :, None].flatten(2)) > _TOLERANCE).any()):
        return True
    if task is not CLASSES:
        near, recorded = finite_nearness(task, logits, labels), logits.new_tensor([row["margin"] for row in known])
        return bool(((near - recorded).abs() <= _TOLERANCE * (1 + recorded.abs())).all())
    return bool(_matching_rows(logits, labels, known).all())


def _matching_rows(logits: Tensor, labels: Tensor, known: list[Row]) -> Tensor:
    """Return which logits ``(B, K)`` have the class and the margin of their rows, up to rounding."""
    slack = _TOLERANCE * logits.abs().amax(1)
    recorded = torch.tensor([row["margin"] for row in known], dtype=logits.dtype, device=logits.device)
    predicted = torch.tensor([row["predicted"] for row in known], device=logits.device)
    if int(predicted.max()) >= logits.shape[1]:
        return torch.zeros_like(predicted, dtype=torch.bool)
    still_first = logits.gather(1, predicted[:, None])[:, 0] >= logits.amax(1) - slack
    return still_first & ((margin(logits, labels) - recorded).abs() <= slack)
