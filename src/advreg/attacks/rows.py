"""Batched state with one row per example, of which rows can be selected."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, Self

import torch
from torch import Tensor


class RowState:
    """Base of frozen dataclasses with one row per example: tensors, dicts of tensors, and objects with ``select``."""

    def select(self, rows: Tensor) -> Self:
        """Return the state of these rows only: indices, or booleans, ``(B,)``."""
        selected = {field.name: _select(getattr(self, field.name), rows) for field in fields(self)}  # type: ignore[arg-type]
        return replace(self, **selected)  # type: ignore[type-var]


def _select(value: Any, rows: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value[rows]
    if isinstance(value, dict):
        return {name: entry[rows] for name, entry in value.items()}
    return value.select(rows)


def mask_out(rows: Tensor, size: int) -> Tensor:
    """Return booleans ``(size,)`` that are False in these rows.

    Args:
        rows: row numbers.
        size: number of rows.

    Returns:
        Booleans ``(size,)``.

    Example:
        >>> mask_out(torch.tensor([2, 0]), 4).tolist()
        [False, True, False, True]
    """
    keep = torch.ones(size, dtype=torch.bool, device=rows.device)
    keep[rows] = False
    return keep
