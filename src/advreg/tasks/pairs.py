"""Verification of pairs: whether two inputs, such as two faces or two recordings, belong together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from advreg.errors import ConfigError, DataError
from advreg.tasks.task import CorpusFigure, Task


def pairs(threshold: float) -> Task:
    """Return the task of verification: inputs ``(B, 2, ...)``, similarities ``(B, 1)``, targets ``(B,)``: 1 same, 0 different.

    A pair is right where ``similarity >= threshold`` exactly if it is the same. Attacks on the same pairs dodge, attacks on
    different pairs impersonate; the figures ``false_rejections`` and ``false_acceptances`` count them apart.

    Args:
        threshold: least similarity that counts as the same, such as that of `threshold_at`.

    Returns:
        The task.

    Raises:
        ConfigError: a threshold that is not finite.

    Example:
        >>> pairs(0.5).rate(torch.tensor([[0.9], [0.7]]), torch.tensor([1, 0])).tolist()
        [True, False]
    """
    if not abs(threshold) < float("inf"):
        raise ConfigError(
            f"task pairs: threshold is {threshold}; give a similarity, such as advreg.tasks.threshold_at(...)"
        )

    def toward(z: Tensor, y: Tensor) -> Tensor:
        return (1 - 2 * y.to(z.dtype)) * (z[:, 0] - threshold)

    return Task(
        f"pairs-{threshold:.6g}".replace("--", "-m").replace("e-", "em"),
        lambda z, y: (z[:, 0] >= threshold) == (y == 1),
        {"similarity": toward},
        near=toward,
        fits=_fits,
        corpus={
            "equal_error_rate": CorpusFigure(_rows, equal_error_rate),
            "false_rejections": CorpusFigure(_rows, lambda rows: _share(rows, same=True, threshold=threshold)),
            "false_acceptances": CorpusFigure(_rows, lambda rows: _share(rows, same=False, threshold=threshold)),
        },
    )


def threshold_at(similarity: Tensor, y: Tensor, false_acceptance_rate: float = 1e-3) -> float:
    """Return the lowest threshold that accepts at most this share of the different pairs, measured on clean data.

    Args:
        similarity: of each pair ``(N,)`` or ``(N, 1)``.
        y: 1 for the same, 0 for different, ``(N,)``.
        false_acceptance_rate: share of different pairs with a similarity of at least the threshold.

    Returns:
        The threshold, just above one of the similarities of different pairs.

    Raises:
        DataError: no different pair.
        ConfigError: a rate outside [0, 1).

    Example:
        >>> round(threshold_at(torch.tensor([0.1, 0.2, 0.3, 0.9]), torch.tensor([0, 0, 0, 1]), 0.4), 3)
        0.2
    """
    different = similarity.flatten()[y.flatten() == 0].double().sort(descending=True).values
    if not len(different):
        raise DataError("y holds no different pair (0), from which a threshold follows; add some")
    if not 0 <= false_acceptance_rate < 1:
        raise ConfigError(
            f"false_acceptance_rate is {false_acceptance_rate}; give a share from 0 up to, not including, 1"
        )
    allowed = int(false_acceptance_rate * len(different) + 1e-9)
    highest = different[allowed].to(similarity.dtype)
    return float(highest.nextafter(highest.new_tensor(torch.inf)))


def equal_error_rate(rows: Any) -> float:
    """Return the error rate at the threshold where false acceptances and false rejections are equally frequent.

    Args:
        rows: similarity and target of each pair, ``(N, 2)``.

    Returns:
        The rate: the mean of the two nearest to each other; 0 where one kind of pair is absent.

    Example:
        >>> equal_error_rate([[0.9, 1], [0.4, 1], [0.6, 0], [0.1, 0]])
        0.5
    """
    table = torch.as_tensor(rows, dtype=torch.float64)
    same, different = (table[table[:, 1] == kind, 0].sort().values for kind in (1, 0))
    if not len(same) or not len(different):
        return 0.0
    cuts = torch.cat([table[:, 0], table[:, 0].max()[None] + 1]).sort().values
    rejected = torch.searchsorted(same, cuts).double() / len(same)
    accepted = 1 - torch.searchsorted(different, cuts).double() / len(different)
    nearest = (rejected - accepted).abs().argmin()
    return float((rejected + accepted)[nearest] / 2)


def _rows(z: Tensor, y: Tensor) -> Tensor:
    return torch.stack([z[:, 0].double(), y.double()], 1)


def _share(rows: Any, *, same: bool, threshold: float) -> float:
    table = torch.as_tensor(rows, dtype=torch.float64)
    mine = table[table[:, 1] == same, 0]
    wrong = mine < threshold if same else mine >= threshold
    return float(wrong.double().mean()) if len(mine) else 0.0


def _fits(z: Tensor, y: Tensor) -> str:
    if z.ndim != 2 or z.shape[1] != 1 or y.ndim != 1:
        return f"outputs are {tuple(z.shape)}, y is {tuple(y.shape)}; give a similarity (B, 1), and (B,) of 1 same, 0 different"
    if bool(((y != 0) & (y != 1)).any()):
        return f"y spans {float(y.min()):g} to {float(y.max()):g}; give 1 for the same, 0 for different"
    return ""
