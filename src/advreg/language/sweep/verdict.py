"""What follows from the settings that were measured: frontier, choice, figures over seeds, claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from advreg.language.sweep.claims import claims
from advreg.language.sweep.pareto import costs_of, frontier, over_seeds, point_of, recommend

Row = Mapping[str, Any]


def summarize_sweep(base: Mapping[str, Any], settings: Sequence[Row], budget: float) -> dict[str, Any]:
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
        "claims": claims(base, rows, budget),
    }


def _gain(row: Row) -> str:
    """Say where a choice stops no attacks that the base model does not: then it is no gain."""
    change = (row["results"].get("differences") or {}).get("attack_success", {}).get("at_least_one")
    is_lower = change is not None and change["interval"][1] < 0
    return "" if is_lower else "; but fewer attacks than on the base model are not shown to succeed"


def _seeds(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return attack success and over-refusal over the seeds of a setting, where there are several."""
    groups: dict[tuple[float, float], list[Row]] = {}
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
