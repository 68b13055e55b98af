"""Claims that are often quoted without a source, each with the measurement of this sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
"""A setting of sweep.json with results."""

SOURCE = "none found: repeated without a reference to a measurement"


def claims(base: Mapping[str, Any], settings: Sequence[Row], budget: float) -> list[dict[str, str]]:
    """Return the claims with the measurements on this model and these prompts.

    Args:
        base: results of the model before training.
        settings: settings with results.
        budget: largest acceptable over-refusal, as a share.
    """
    measured = {
        "The best share of adversarial examples is 15 to 30%": _best_share(settings, budget),
        "Start with a share of 5 to 15%": _start(settings),
        "Robust training takes helpfulness from 4.5 to 3.2 of 5": _help(base, settings),
        "Robust training takes over-refusal from 0.5% to 12%": _refusal(base, settings),
    }
    return [{"claim": claim, "source": SOURCE, "measured": result} for claim, result in measured.items()]


def _best_share(settings: Sequence[Row], budget: float) -> str:
    by_mix: dict[float, list[Row]] = {}
    for row in settings:
        if _value(row, "over_refusal") <= budget:
            by_mix.setdefault(row["mix"], []).append(row)
    if not by_mix:
        return f"no setting had an over-refusal of at most {budget:.0%}"
    best = {mix: min(_value(row, "attack_success", "at_least_one") for row in rows) for mix, rows in by_mix.items()}
    by_share = ", ".join(f"{mix:.0%}: {value:.0%}" for mix, value in sorted(best.items()))
    least = min(best.values())
    winners = " and ".join(f"{mix:.0%}" for mix, value in sorted(best.items()) if value == least)
    return f"lowest attack success with over-refusal of at most {budget:.0%}, by share: {by_share}; the lowest is at {winners}"


def _start(settings: Sequence[Row]) -> str:
    small = [row for row in settings if 0 < row["mix"] <= 0.15 and row["results"].get("differences")]
    if not small:
        return "not measured: no share above 0 and up to 15% was trained"
    return "attack success against the base model: " + "; ".join(f"{_describe(row)} {_change(row)}" for row in small)


def _help(base: Mapping[str, Any], settings: Sequence[Row]) -> str:
    before, after = _rating(base), [_rating(row["results"]) for row in settings]
    if before is not None and any(value is not None for value in after):
        worst = min(value for value in after if value is not None)
        return f"rated {before:.2f} before, {worst:.2f} at worst after"
    proxies = [_proxy(base), *(_proxy(row["results"]) for row in settings)]
    known = [value for value in proxies[1:] if value is not None]
    if proxies[0] is None or not known:
        return "not measured: no service rated helpfulness"
    proxy = (
        f"-log p of a good answer's tokens was {proxies[0]:.2f} before and {min(known):.2f} to {max(known):.2f} after"
    )
    return f"not measured, because no service rated helpfulness; a proxy: {proxy}"


def _refusal(base: Mapping[str, Any], settings: Sequence[Row]) -> str:
    before = base["axes"]["over_refusal"]
    if not settings:
        return f"{_format(before)} before"
    worst = max(settings, key=lambda row: _value(row, "over_refusal"))
    after = _format(worst["results"]["axes"]["over_refusal"])
    return f"{_format(before)} before; at most {after} after, at {_describe(worst)}"


def _describe(row: Row) -> str:
    return f"{row['mix']:.0%}, rate {row['lr']:g}, scale {row['scale']:g}"


def _value(row: Row, *path: str) -> float:
    found: Any = row["results"]["axes"]
    for name in path:
        found = found[name]
    return float(found["value"])


def _format(estimate: Mapping[str, Any]) -> str:
    low, high = estimate["interval"]
    return f"{estimate['value']:.1%} [{low:.1%}, {high:.1%}]"


def _change(row: Row) -> str:
    estimate = row["results"]["differences"]["attack_success"]["at_least_one"]
    low, high = estimate["interval"]
    return f"{100 * estimate['value']:+.0f} points [{100 * low:+.0f}, {100 * high:+.0f}]"


def _rating(results: Mapping[str, Any]) -> float | None:
    estimate = results["axes"]["helpfulness"]["judged"]
    return None if estimate is None else float(estimate["value"])


def _proxy(results: Mapping[str, Any]) -> float | None:
    estimate = results["axes"]["helpfulness"]["proxies"]["answer_nll"]
    return None if estimate is None else float(estimate["value"])
