"""Pareto frontier and recommendation of a sweep: pure functions of measured metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from advreg.errors import RunError
from advreg.pareto import mean_over_seeds, pareto_frontier

Results = Mapping[str, Any]
"""The content of results.json of an evaluation."""


@dataclass(frozen=True)
class TradeoffPoint:
    """Attack success and over-refusal of a setting.

    Attributes:
        attack_success: share of requests on which at least one attack in words succeeds.
        over_refusal: share of safe prompts that are refused.
        upper: upper end of the 95% interval of over-refusal.
    """

    attack_success: float
    over_refusal: float
    upper: float


@dataclass(frozen=True)
class Recommendation:
    """The recommended setting, or the nearest one where none qualifies.

    Attributes:
        index: its index.
        qualifies: whether its over-refusal is within the budget with 95% confidence.
        why: the reason, as a phrase.
    """

    index: int
    qualifies: bool
    why: str


def tradeoff_point(results: Results) -> TradeoffPoint:
    """Return attack success and over-refusal of an evaluation.

    Args:
        results: the content of results.json of an evaluation.

    Raises:
        RunError: the judge scored no completion.

    Example:
        >>> share = {"value": 0.5, "interval": [0.4, 0.6], "n": 96}
        >>> tradeoff_point({"axes": {"attack_success": {"at_least_one": share}, "over_refusal": share}}).upper
        0.6
    """
    success, refusal = results["axes"]["attack_success"]["at_least_one"], results["axes"]["over_refusal"]
    if not success["n"] or not refusal["n"]:
        raise RunError("no completion was scored: run the sweep again when the judge's service works; it resumes")
    return TradeoffPoint(success["value"], refusal["value"], refusal["interval"][1])


def has_unscored(results: Results | None) -> bool:
    """Return whether a judge left completions of an evaluation without a verdict.

    Args:
        results: the content of results.json, or a part of it; None for a failed training.

    Example:
        >>> has_unscored({"axes": {"over_refusal": {"value": 0.5, "n": 2, "unscored": 1}}}), has_unscored(None)
        (True, False)
    """
    nested = results.values() if isinstance(results, Mapping) else ()
    return any(has_unscored(value) for value in nested) or (
        isinstance(results, Mapping) and bool(results.get("unscored"))
    )


def objectives(results: Results) -> tuple[float, float, float]:
    """Return attack success, over-refusal and negative helpfulness, all better when smaller.

    Helpfulness is the rating; without one, the share of prompts whose instructions are strictly followed; without those,
    the likelihood of reference responses.

    Args:
        results: the content of results.json of an evaluation.
    """
    metrics, point = results["axes"], tradeoff_point(results)
    return point.attack_success, point.over_refusal, _unhelpfulness(metrics["helpfulness"], metrics["instructions"])


def _unhelpfulness(helpfulness: Mapping[str, Any], instructions: Mapping[str, Any]) -> float:
    rating, strict, nll = helpfulness["judged"], instructions["strict"], helpfulness["proxies"]["answer_nll"]
    if rating:
        return -float(rating["value"])
    if strict and strict["n"]:
        return -float(strict["value"])
    return float(nll["value"]) if nll else 0.0


def lowest_attack_success(points: Sequence[TradeoffPoint], budget: float) -> int:
    """Return the index of the lowest attack success with over-refusal within the budget, else of the least over-refusal.

    Estimates decide, not intervals.

    Args:
        points: at least one setting.
        budget: largest acceptable over-refusal, as a share.

    Example:
        >>> points = [TradeoffPoint(0.9, 0.0, 0.1), TradeoffPoint(0.4, 0.05, 0.2), TradeoffPoint(0.0, 0.3, 0.5)]
        >>> [lowest_attack_success(points, budget) for budget in (0.05, 0.4)], lowest_attack_success(points[2:], 0.05)
        ([1, 2], 0)
    """
    within = [k for k, point in enumerate(points) if point.over_refusal <= budget]
    if within:
        return min(within, key=lambda k: (points[k].attack_success, points[k].over_refusal, k))
    return min(range(len(points)), key=lambda k: (points[k].over_refusal, points[k].attack_success, k))


def recommend(points: Sequence[TradeoffPoint], budget: float, n: int) -> Recommendation | None:
    """Return the setting with the lowest attack success among those within the budget with 95% confidence.

    A setting is within the budget if the upper end of the 95% interval of its over-refusal is. If none is, the nearest
    setting is returned: see `lowest_attack_success`.

    Args:
        points: the settings.
        budget: largest acceptable over-refusal, as a share.
        n: number of safe prompts.

    Returns:
        The recommendation; None without settings.

    Example:
        >>> sure = [TradeoffPoint(0.9, 0.0, 0.02), TradeoffPoint(0.2, 0.03, 0.045)]
        >>> found = recommend([*sure, TradeoffPoint(0.1, 0.04, 0.08)], 0.05, 250)
        >>> found.index, found.qualifies
        (1, True)
    """
    if not points:
        return None
    sure = [k for k, point in enumerate(points) if point.upper <= budget]
    index = (
        min(sure, key=lambda k: (points[k].attack_success, points[k].upper, k))
        if sure
        else lowest_attack_success(points, budget)
    )
    return Recommendation(index, bool(sure), _reason(points[index], budget, n, len(sure)))


def _reason(point: TradeoffPoint, budget: float, n: int, qualified: int) -> str:
    measured = f"over-refusal {point.over_refusal:.1%}, with 95% confidence at most {point.upper:.1%}"
    if qualified:
        return f"the lowest attack success of {qualified} settings within the budget of {budget:.1%}: {measured}"
    if point.over_refusal <= budget:
        start = f"the estimate is within the budget of {budget:.1%}, its 95% interval is not"
    else:
        start = f"even the least over-refusal is above the budget of {budget:.1%}"
    return f"{start}: {measured}{_sample_size_note(budget, n)}"


def _sample_size_note(budget: float, n: int) -> str:
    """Return a note where the safe prompts are too few to show the budget, even without a single refusal."""
    needed = prompts_needed(budget)
    return f"; {n} safe prompts cannot show it, {needed} or more are needed" if n < needed else ""


def prompts_needed(budget: float) -> int:
    """Return the number of safe prompts that can show a budget if the model refuses none of them.

    It is the least ``n`` with ``1 - 0.025 ** (1 / n) <= budget``: the upper end of the exact 95% interval.

    Args:
        budget: largest acceptable over-refusal, as a share.

    Example:
        >>> prompts_needed(0.05)
        72
    """
    return 1 if budget >= 0.975 else math.ceil(math.log(0.025) / math.log1p(-budget))


def summarize_sweep(base: Results, settings: Sequence[Mapping[str, Any]], budget: float) -> dict[str, Any]:
    """Return the part of sweep.json that follows from the results: frontier, recommendation and means over seeds.

    Args:
        base: results of the model before training.
        settings: rows of sweep.json; rows without results, whose training failed, are ignored.
        budget: largest acceptable over-refusal, as a share.
    """
    indices = [k for k, row in enumerate(settings) if row["results"]]
    rows = [settings[k] for k in indices]
    choice = recommend([tradeoff_point(row["results"]) for row in rows], budget, base["axes"]["over_refusal"]["n"])
    record = None
    if choice is not None:
        record = {"index": indices[choice.index], "why": choice.why + _no_gain_note(rows[choice.index])}
    is_recommended = choice is not None and choice.qualifies
    return {
        "frontier": [indices[k] for k in pareto_frontier([objectives(row["results"]) for row in rows])],
        "recommended": record if is_recommended else None,
        "nearest": None if is_recommended else record,
        "budget": {"over_refusal": budget},
        "seeds": _seed_summaries(rows),
    }


def _no_gain_note(row: Mapping[str, Any]) -> str:
    """Return a note where the attack success is not shown to be below that of the base model."""
    change = (row["results"].get("differences") or {}).get("attack_success", {}).get("at_least_one")
    is_lower = change is not None and change["interval"][1] < 0
    return "" if is_lower else "; an attack success below the base model's is not shown"


def _seed_summaries(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return mean attack success and over-refusal of each setting that was trained with several seeds."""
    groups: dict[tuple[float, float], list[TradeoffPoint]] = {}
    for row in rows:
        groups.setdefault((row["mix"], row["lr"]), []).append(tradeoff_point(row["results"]))
    return [
        {
            "mix": mix,
            "lr": lr,
            "attack_success": mean_over_seeds([point.attack_success for point in points]),
            "over_refusal": mean_over_seeds([point.over_refusal for point in points]),
        }
        for (mix, lr), points in groups.items()
        if len(points) > 1
    ]
