"""A draft of ``features.toml``: types, one-hot groups, ranges, units and identifiers of a table, measured from its rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from advreg.config.toml import bare_or_quoted

if TYPE_CHECKING:
    from torch import Tensor

UNDECIDED = "?"
_HEAD = """\
# What an adversary can change in a row. Decide for each feature: mutable = true or false; "?" is rejected until then.
# type: real, int, or cat for one column of a one-hot group. scale is the unit that eps counts in; "free" counts nothing.
# direction = "up" or "down" allows one-sided changes; min or max = "clean" ends at the value of the row itself.
# Relations between columns: [relations] allowed = ["a <= b", "total = amount * rate"]; a single name left of = is recomputed.
"""
_FEWEST = 20  # rows below which all values differ by chance
_PAIR = 1.4142  # a change of category moves two columns: as a unit it costs 1 in l2


def draft_features(x: Tensor, names: tuple[str, ...] = ()) -> str:
    """Return a ``features.toml`` for rows, with types, ranges and units measured, and ``mutable`` undecided.

    The unit is the interquartile range, or the standard deviation where that is 0. Columns of one value, and whole numbers that
    differ in every row, such as account numbers, are immovable.

    Args:
        x: rows ``(N, F)``.
        names: names of the columns; ``x0, x1, ...`` if empty.

    Returns:
        The text of the file.

    Example:
        >>> import torch
        >>> print(draft_features(torch.tensor([[1.0], [3.0]]), ("age",)).splitlines()[5])
        [features.age]
    """
    names = names or tuple(f"x{k}" for k in range(x.shape[1]))
    groups = one_hot_groups(x, names)
    sections = [_section(x[:, at], name, groups.get(at, "")) for at, name in enumerate(names)]
    return "\n".join([_HEAD, *sections])


def one_hot_groups(x: Tensor, names: tuple[str, ...]) -> dict[int, str]:
    """Return the name of the one-hot group of each column that is in one.

    A group is a set of columns of 0 and 1, exactly one of them 1 in every row: columns of one prefix, as ``home_own`` and
    ``home_rent``, or else neighbours.

    Args:
        x: rows ``(N, F)``.
        names: names of the columns.

    Returns:
        Group by column.

    Example:
        >>> import torch
        >>> rows = torch.tensor([[1.0, 0.0, 5.0], [0.0, 1.0, 7.0]])
        >>> one_hot_groups(rows, ("home_own", "home_rent", "age"))
        {0: 'home', 1: 'home'}
    """
    binary = [at for at in range(len(names)) if bool(((x[:, at] == 0) | (x[:, at] == 1)).all())]
    by_prefix: dict[str, list[int]] = {}
    for at in binary:
        by_prefix.setdefault(_prefix(names[at]), []).append(at)
    found = {at: prefix for prefix, group in by_prefix.items() if prefix and _is_one_hot(x, group) for at in group}
    for first in binary:
        run = [first]
        while first not in found and run[-1] + 1 in binary and run[-1] + 1 not in found and not _is_one_hot(x, run):
            run.append(run[-1] + 1)
        if first not in found and _is_one_hot(x, run):
            found |= dict.fromkeys(run, f"{names[first]}_or_others")
    return dict(sorted(found.items()))


def _prefix(name: str) -> str:
    return next((name.rpartition(mark)[0] for mark in ("=", "_", ".", " ") if mark in name), "")


def _is_one_hot(x: Tensor, group: list[int]) -> bool:
    return len(group) > 1 and bool((x[:, group].sum(1) == 1).all())


def _section(column: Tensor, name: str, group: str) -> str:
    """Return the section of one feature."""
    import torch  # here, because reading a configuration needs no torch

    low, high = (_shortest(end) for end in torch.aminmax(column))
    whole = bool((column == column.round()).all())
    fixed = _reason_to_fix(column, whole=whole)
    keys: Mapping[str, str] = {
        "type": '"cat"' if group else '"int"' if whole else '"real"',
        **({"group": f'"{group}"'} if group else {}),
        "mutable": f"false   # {fixed}" if fixed else f'"{UNDECIDED}"',
        "min": low,
        "max": high,
        "scale": f"{_PAIR if group else _unit(column):.4g}",
    }
    return "\n".join([f"[features.{bare_or_quoted(name)}]", *(f"{key} = {value}" for key, value in keys.items()), ""])


def _reason_to_fix(column: Tensor, *, whole: bool) -> str:
    """Return why no adversary changes a column; empty where a person has to decide."""
    if bool((column == column[0]).all()):
        return "one value in all rows"
    if whole and len(column) >= _FEWEST and len(set(column.tolist())) == len(column):
        return "another whole number in every row, as an account number"
    return ""


def _shortest(end: Tensor) -> str:
    """Return the shortest decimal that reads as the same number in its precision."""
    return str(end.numpy()[()]).removesuffix(".0")


def _unit(column: Tensor) -> float:
    column = column.double()
    spread = float(column.quantile(0.75) - column.quantile(0.25)) or float(column.std(correction=0)) or 1.0
    return 1.0 if spread < 1 and bool((column == column.round()).all()) else spread
