"""Which settings are worth a look, and which one to take: pure functions of measured figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy import stats

Results = Mapping[str, Any]
"""The results of an evaluation, as they stand in results.json."""


@dataclass(frozen=True)
class TradeoffPoint:
    """A setting as a choice sees it: shares of prompts, and the upper end of over-refusal's 95% interval."""

    attack_success: float
    over_refusal: float
    upper: float


@dataclass(frozen=True)
class Recommendation:
    """What to take and why; where nothing qualifies, what comes nearest and why it does not."""

    index: int
    qualifies: bool
    why: str


def point_of(results: Results) -> TradeoffPoint:
    """Return the figures that a choice looks at."""
    success, refusal = results["axes"]["attack_success"]["at_least_one"], results["axes"]["over_refusal"]
    return TradeoffPoint(success["value"], refusal["value"], refusal["interval"][1])


def costs_of(results: Results) -> tuple[float, float, float]:
    """Return what should be small: attack success, over-refusal, and the lack of help.

    Help is what a judge said of it; without a judge, the instructions followed strictly; without those, how likely good answers
    are.
    """
    axes, point = results["axes"], point_of(results)
    judged, strict = axes["helpfulness"]["judged"], axes["instructions"]["strict"]
    nll = axes["helpfulness"]["proxies"]["answer_nll"]
    help_ = -judged["value"] if judged else -strict["value"] if strict and strict["n"] else nll["value"] if nll else 0.0
    return point.attack_success, point.over_refusal, help_


def frontier(costs: Sequence[Sequence[float]]) -> list[int]:
    """Return the places of those that no other beats: none is as small in every number and smaller in one.

    Args:
        costs: for each setting the same numbers, all better when small.

    Example:
        >>> frontier([(0.9, 0.0), (0.1, 0.3), (0.1, 0.4), (0.5, 0.1), (0.95, 0.05)])
        [0, 1, 3]
    """
    return [k for k, own in enumerate(costs) if not any(_beats(other, own) for other in costs)]


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def least(points: Sequence[TradeoffPoint], budget: float) -> int:
    """Return the place of the lowest attack success whose over-refusal is within the budget; if none is, of the least.

    This is how the dial is set: by estimates, on prompts that the figures do not come from.

    Example:
        >>> dial = [TradeoffPoint(0.9, 0.0, 0.1), TradeoffPoint(0.4, 0.05, 0.2), TradeoffPoint(0.0, 0.3, 0.5)]
        >>> least(dial, 0.05), least(dial, 0.4), least(dial[2:], 0.05)
        (1, 2, 0)
    """
    within = [k for k, point in enumerate(points) if point.over_refusal <= budget]
    if within:
        return min(within, key=lambda k: (points[k].attack_success, points[k].over_refusal, k))
    return min(range(len(points)), key=lambda k: (points[k].over_refusal, points[k].attack_success, k))


def recommend(points: Sequence[TradeoffPoint], budget: float, n: int) -> Recommendation | None:
    """Return the setting with the lowest attack success among those whose over-refusal is within the budget, surely.

    Surely: the upper end of its 95% interval is. Where none is, the nearest is named: the lowest attack success among those
    whose estimate is within the budget, or else the least over-refusal.

    Args:
        points: the settings.
        budget: largest acceptable share of safe prompts that are refused.
        n: safe prompts.

    Returns:
        The choice; None without settings.

    Example:
        >>> sure = [TradeoffPoint(0.9, 0.0, 0.02), TradeoffPoint(0.2, 0.03, 0.045)]
        >>> found = recommend([*sure, TradeoffPoint(0.1, 0.04, 0.08)], 0.05, 250)
        >>> found.index, found.qualifies
        (1, True)
    """
    if not points:
        return None
    sure = [k for k, point in enumerate(points) if point.upper <= budget]
    index = min(sure, key=lambda k: (points[k].attack_success, points[k].upper, k)) if sure else least(points, budget)
    return Recommendation(index, bool(sure), _why(points[index], budget, n, len(sure)))


def _why(point: TradeoffPoint, budget: float, n: int, sure: int) -> str:
    met = f"over-refusal {point.over_refusal:.1%}, with 95% confidence at most {point.upper:.1%}"
    if sure:
        return f"the lowest attack success of {sure} settings within the budget of {budget:.1%}: {met}"
    said = "the estimate is within" if point.over_refusal <= budget else "even the least over-refusal is above"
    return f"{said} the budget of {budget:.1%}, but not surely: {met}{_more(budget, n)}"


def _more(budget: float, n: int) -> str:
    """Say where too few prompts were asked: then not even no refusal at all would do."""
    needed = prompts_needed(budget)
    return f"; {n} safe prompts cannot show it, {needed} or more are needed" if n < needed else ""


def prompts_needed(budget: float) -> int:
    """Return how many safe prompts, all answered, put the upper end of the exact 95% interval within the budget.

    ``1 - 0.025 ** (1 / n) <= budget``

    Example:
        >>> prompts_needed(0.05)
        72
    """
    return 1 if budget >= 0.975 else math.ceil(math.log(0.025) / math.log1p(-budget))


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Return the mean of several trainings' figures and the 95% interval of Student's t, which knows nothing of prompts.

    Example:
        >>> found = over_seeds([0.1, 0.2, 0.3])
        >>> [round(end, 3) for end in found["interval"]]  # 0.2 +- 4.303 * 0.1 / 3 ** 0.5
        [-0.048, 0.448]
    """
    n = len(values)
    mean = math.fsum(values) / n
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / max(n - 1, 1))
    reach = float(stats.t.ppf(0.975, n - 1)) * deviation / math.sqrt(n) if n > 1 else math.inf
    return {"value": mean, "interval": [mean - reach, mean + reach], "n": n}


def summarize_sweep(base: Mapping[str, Any], settings: Sequence[Mapping[str, Any]], budget: float) -> dict[str, Any]:
    """Return the part of ``sweep.json`` that follows from the rest.

    Args:
        base: results of the model before training.
        settings: rows of ``sweep.json``; those without results, whose training failed, are passed over.
        budget: largest acceptable over-refusal.
    """
    places = [k for k, row in enumerate(settings) if row["results"]]
    rows = [settings[k] for k in places]
    found = recommend([point_of(row["results"]) for row in rows], budget, base["axes"]["over_refusal"]["n"])
    named = None if found is None else {"index": places[found.index], "why": found.why + _gain(rows[found.index])}
    return {
        "frontier": [places[k] for k in frontier([costs_of(row["results"]) for row in rows])],
        "recommended": named if found is not None and found.qualifies else None,
        "nearest": None if found is None or found.qualifies else named,
        "budget": {"over_refusal": budget},
        "seeds": _seeds(rows),
    }


def _gain(row: Mapping[str, Any]) -> str:
    """Say where a choice stops no attacks that the base model does not: then it is no gain."""
    change = (row["results"].get("differences") or {}).get("attack_success", {}).get("at_least_one")
    is_lower = change is not None and change["interval"][1] < 0
    return "" if is_lower else "; but fewer attacks than on the base model are not shown to succeed"


def _seeds(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return attack success and over-refusal over the seeds of a setting, where there are several."""
    groups: dict[tuple[float, float], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["mix"], row["lr"]), []).append(row)
    return [
        {
            "mix": mix,
            "lr": lr,
            "attack_success": over_seeds([point_of(row["results"]).attack_success for row in group]),
            "over_refusal": over_seeds([point_of(row["results"]).over_refusal for row in group]),
        }
        for (mix, lr), group in groups.items()
        if len(group) > 1
    ]
