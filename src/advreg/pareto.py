"""Trade-offs between objectives: the Pareto frontier of several settings, and means over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from scipy import special


def pareto_frontier(costs: Sequence[Sequence[float]]) -> list[int]:
    """Return the indices of the settings that no other setting dominates.

    A setting dominates another if it is at least as good in every objective and better in one.

    Args:
        costs: the same objectives for each setting, all better when smaller.

    Returns:
        Indices, ascending.

    Example:
        >>> pareto_frontier([(0.9, 0.0), (0.1, 0.3), (0.1, 0.4), (0.5, 0.1), (0.95, 0.05)])
        [0, 1, 3]
    """
    return [k for k, own in enumerate(costs) if not any(_dominates(other, own) for other in costs)]


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def mean_over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Return the mean over several trainings with Student's 95% interval, which ignores the variance over examples.

    Args:
        values: a value for each seed.

    Returns:
        ``value``, ``interval`` and ``n``, the number of seeds.

    Example:
        >>> found = mean_over_seeds([0.1, 0.2, 0.3])
        >>> [round(end, 3) for end in found["interval"]]  # 0.2 +- 4.303 * 0.1 / 3 ** 0.5
        [-0.048, 0.448]
    """
    n = len(values)
    mean = math.fsum(values) / n
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / max(n - 1, 1))
    reach = float(special.stdtrit(n - 1, 0.975)) * deviation / math.sqrt(n) if n > 1 else math.inf
    return {"value": mean, "interval": [mean - reach, mean + reach], "n": n}
