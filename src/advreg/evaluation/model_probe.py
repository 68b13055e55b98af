"""Properties of the model that every evaluation records as flags, measured with a few passes on 64 examples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from advreg.attacks.outputs import reject_classes
from advreg.attacks.search import QuerySpec, query
from advreg.attacks.verification import outputs_of
from advreg.evaluation.ledger_checks import black_boxes
from advreg.objectives import scale_free
from advreg.results.ledger_rows import Row
from advreg.results.ledger_table import LedgerTable, table_of
from advreg.tasks import CLASSES, Task

_SAMPLE = 64
_REPEATS = 5
_SPREAD = 1e-4  # spread of logits, as a share of the largest, above which AutoAttack calls a model random
_CUTS = (1, 3, 8)  # cuts of a batch into uneven parts: one example, two, five, the others
ROUNDING = 0.01
"""Tolerated spread: float32 kernels differ by 1e-6 of the largest logit between batches, lower precisions by more."""


@dataclass(frozen=True)
class ModelProbe:
    """Properties of a model on a few clean examples.

    Attributes:
        randomised: whether repeated outputs on the same inputs differ.
        batch_dependent: whether an example's output depends on its batch, or the model raises on one example alone.
        zero_gradients: share of the examples with an input gradient of exactly zero; None where there is no gradient.
        few_classes: whether losses that need 4 classes are replaced by margins.
        forwards, backwards: example-forwards and example-backwards spent.
    """

    randomised: bool
    batch_dependent: bool
    zero_gradients: float | None
    few_classes: bool
    forwards: int
    backwards: int


def probe_model(model: nn.Module, x: Tensor, y: Tensor, task: Task = CLASSES) -> ModelProbe:
    """Evaluate the original model several times on the same inputs, once in uneven parts and once with a gradient.

    Args:
        model: the original.
        x: clean inputs ``(B, ...)``; the first 64 are used.
        y: labels ``(B,)``, or targets ``(B, ...)``.
        task: what an output is worth.

    Returns:
        The measurements.

    Example:
        >>> probe_model(nn.Linear(4, 3).eval(), torch.rand(2, 4), torch.tensor([0, 1])).randomised
        False
    """
    x, y = x[:_SAMPLE], y[:_SAMPLE]
    logits = torch.stack([_flat_outputs(model, x) for _ in range(_REPEATS - 1)])
    if task is CLASSES:
        reject_classes(y, logits.shape[2])
    gradient = _gradient(model, x, y, task)
    apart = _logits_in_parts_or_none(model, x)
    randomised = bool((logit_spread(logits) > _SPREAD).any())
    differs = apart is not None and bool((logit_spread(torch.stack([logits[0], apart])) > ROUNDING).any())
    dead = None if gradient is None else float((gradient.flatten(1) == 0).all(1).double().mean())
    return ModelProbe(
        randomised=randomised,
        batch_dependent=apart is None or (differs and not randomised),  # in a random model the spread has another cause
        zero_gradients=dead,
        few_classes=task is CLASSES and not scale_free(logits.shape[2]),
        forwards=(_REPEATS + (apart is not None)) * len(x),
        backwards=0 if gradient is None else len(x),
    )


def logit_spread(logits: Tensor) -> Tensor:
    """Return the spread of repeated logits ``(A, B, K)`` of the same inputs, as a share of the largest logit: ``(B,)``.

    Returns:
        Shares ``(B,)``.

    Example:
        >>> logit_spread(torch.tensor([[[4.0, 0.0]], [[3.0, 0.0]]])).tolist()
        [0.25]
    """
    size = logits.abs().amax((0, 2)).clamp_min(1e-30)
    return (logits.amax(0) - logits.amin(0)).amax(1) / size


def logits_in_parts(model: nn.Module, x: Tensor) -> Tensor:
    """Return the logits ``(B, K)`` of a batch evaluated in uneven parts, the first of one example.

    Args:
        model: the original.
        x: inputs ``(B, ...)``.

    Returns:
        Logits ``(B, K)``.
    """
    return torch.cat([_flat_outputs(model, part) for part in torch.tensor_split(x, _CUTS) if len(part)])


def _logits_in_parts_or_none(model: nn.Module, x: Tensor) -> Tensor | None:
    """Return the logits of a batch in parts, or None where the model raises on some part."""
    try:
        return logits_in_parts(model, x)
    except Exception:  # such as a BatchNorm without statistics, which needs more than one example
        return None


def _flat_outputs(model: nn.Module, x: Tensor) -> Tensor:
    """Return the outputs of any task as rows ``(B, K)``."""
    return outputs_of(model, x)[:, None].flatten(1)


def _gradient(model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Tensor | None:
    try:
        return query(QuerySpec(model, task.objective, task=task), x, y)[2]
    except Exception:  # no path, or a backward that raises: attacks have no gradient
        return None


def black_box_gain(rows: Iterable[Row] | LedgerTable, n: int) -> float | None:
    """Return the share of all examples that attacks without gradients broke after gradient attacks, None without such attacks.

    Above 0.002 AutoAttack's authors distrust the gradients.

    Args:
        rows: rows of a ledger.
        n: number of examples.

    Returns:
        The share, or None.
    """
    blind = black_boxes(rows)
    return sum(len(ids) for ids in blind.values()) / n if blind else None


def flags_of(probed: ModelProbe, rows: Iterable[Row] | LedgerTable, n: int, far: float, **more: Any) -> dict[str, Any]:
    """Return the flags in the form of results.json.

    Args:
        probed: the measurements of `probe_model`.
        rows: the ledger.
        n: number of examples.
        far: finite substitute for an infinite margin; rows at or below its negative count as not finite.
        more: further flags.

    Returns:
        Flag by name.

    Example:
        >>> flags_of(ModelProbe(False, False, 0.0, False, 64, 64), [], n=0, far=1e30)["randomised"]
        False
    """
    return {**more, **model_flags(probed), **ledger_flags(table_of(rows), n, far)}


def model_flags(probed: ModelProbe) -> dict[str, Any]:
    """Return the flags of the model itself.

    Args:
        probed: the measurements of `probe_model`.
    """
    return {
        "randomised": probed.randomised,
        "batch_dependent": probed.batch_dependent,
        "zero_gradients": probed.zero_gradients,
        "few_classes": probed.few_classes,
    }


def ledger_flags(table: LedgerTable, n: int, far: float) -> dict[str, Any]:
    """Return the flags that a finished ledger shows.

    Args:
        table: the ledger.
        n: number of examples.
        far: as for `flags_of`.
    """
    return {"non_finite": int((table["margin"] <= -far).sum()), "black_box_gain": black_box_gain(table, n)}
