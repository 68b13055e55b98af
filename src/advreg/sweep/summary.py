"""Summary of a sweep: settings with their means and intervals, the frontier and a recommendation. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from advreg.pareto import mean_over_seeds, pareto_frontier
from advreg.statistics import clopper_pearson_interval

Row = Mapping[str, Any]
COMPLETE = "complete"
STOPPED, FAILED = "stopped", "failed"
ACCURACIES = ("clean_accuracy", "robust_accuracy")


def summarize(rows: Sequence[Row], budget: float) -> dict[str, Any]:
    """Return the part of sweep.json that follows from the rows.

    Args:
        rows: a row for each training; the plain one has an empty setting.
        budget: largest acceptable loss of clean accuracy, as a share.

    Returns:
        ``settings`` (means over seeds), ``reference`` (the best clean accuracy), ``frontier`` (indices of settings),
        ``recommended`` or ``nearest`` (an index), and ``why``.
    """
    settings = [_mean_of_setting(group) for group in _group(rows)]
    measured = [k for k, each in enumerate(settings) if each["clean_accuracy"] is not None]
    if not measured:
        return {
            "settings": settings,
            "reference": None,
            "frontier": [],
            "recommended": None,
            "nearest": None,
            "why": "",
        }
    clean = {k: settings[k]["clean_accuracy"]["value"] for k in measured}
    robust = {k: settings[k]["robust_accuracy"]["value"] for k in measured}
    first = max(measured, key=lambda k: clean[k])
    within = [k for k in measured if clean[k] >= clean[first] - budget]
    best = max(within, key=lambda k: (robust[k], clean[k]))
    qualifies = bool(settings[best]["setting"])
    costs = [(-clean[k], -robust[k]) for k in measured]
    return {
        "settings": settings,
        "reference": {"index": first, "clean_accuracy": clean[first]},
        "frontier": [measured[k] for k in pareto_frontier(costs)],
        "recommended": best if qualifies else None,
        "nearest": None if qualifies else _nearest(settings, measured, clean),
        "why": _reason(settings[best], clean[first], budget, len(within)),
    }


def _group(rows: Sequence[Row]) -> list[list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(json.dumps(row["setting"], sort_keys=True), []).append(row)
    return list(groups.values())


def _mean_of_setting(rows: Sequence[Row]) -> dict[str, Any]:
    """Return a setting with its accuracies: an exact interval for one seed, Student's over several."""
    complete = [row for row in rows if row["state"] == COMPLETE]
    means = {name: _estimate(complete, name) if len(complete) == len(rows) else None for name in ACCURACIES}
    sums = {name: sum(row[name] for row in rows) for name in ("forwards", "backwards", "processor_seconds")}
    return {
        "name": rows[0]["name"],
        "setting": dict(rows[0]["setting"]),
        "state": next((row["state"] for row in rows if row["state"] != COMPLETE), COMPLETE),
        "why": next((row["why"] for row in rows if row["why"]), ""),
        "seeds": [row["seed"] for row in rows],
        **means,
        **sums,
    }


def _estimate(rows: Sequence[Row], name: str) -> dict[str, Any]:
    """Return the mean over seeds with its interval; ``n`` is the number of images of one seed."""
    n = rows[0]["n"]
    shares = [row[name] for row in rows]
    if len(rows) > 1:
        return {**mean_over_seeds(shares), "n": n, "seeds": len(rows)}
    return {"value": shares[0], "interval": list(clopper_pearson_interval(round(shares[0] * n), n)), "n": n, "seeds": 1}


def _nearest(settings: Sequence[Row], measured: Sequence[int], clean: Mapping[int, float]) -> int | None:
    adversarial = [k for k in measured if settings[k]["setting"]]
    return max(adversarial, key=lambda k: clean[k]) if adversarial else None


def _reason(best: Row, reference: float, budget: float, within: int) -> str:
    points = "1 point" if round(100 * budget, 9) == 1 else f"{100 * budget:g} points"
    limit = f"clean accuracy of at least {reference - budget:.2%}, {points} below the best"
    if not best["setting"]:
        return f"no adversarial setting has a {limit}"
    clean, robust = (best[name]["value"] for name in ACCURACIES)
    return f"the highest robust accuracy of {within} trainings with a {limit}: clean {clean:.2%}, robust {robust:.2%}"
