"""The tables of a language sweep's report, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

UPPER_BOUNDS = ("directional_ablation", "embedding", "latent", "soft_prompt")
"""Attacks on internal activations, which no text can reproduce: reported singly, not part of "at least one"."""

Row = Mapping[str, Any]

Column = tuple[str, tuple[str, ...], bool]
"""Title and path of a metric, and whether it is a share."""


@dataclass(frozen=True)
class MetricRow:
    """A row of a table, as text.

    Attributes:
        name: first cell.
        cells: the other cells.
        marks: labels beside the name.
        note: small text below the name.
    """

    name: str
    cells: Sequence[str]
    marks: Sequence[str] = ()
    note: str = ""


def metric_at(results: Row, path: Sequence[str]) -> Row | None:
    """Return a metric of an evaluation, or None where it was not measured.

    Args:
        results: the content of results.json.
        path: names that lead to the metric.

    Example:
        >>> metric_at({"axes": {"coherence": {"value": 1.0, "n": 3}}}, ("coherence",))["value"]
        1.0
    """
    found: Any = results["axes"]
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) and "value" in found and found.get("n") else None


def format_share(estimate: Row | None) -> str:
    """Return a share with its interval as text, the raw share first.

    Args:
        estimate: value and interval; None where nothing was measured.

    Example:
        >>> format_share({"value": 0.125, "interval": [0.02, 0.31], "n": 24}), format_share(None)
        ('12% [2%, 31%]', 'not measured')
        >>> format_share({"value": 0.2, "interval": [0.1, 0.5], "n": 24, "raw": 0.3, "unscored": 2})
        '30% [10%, 50%], corrected 20%, 2 unscored'
    """
    if estimate is None:
        return "not measured"
    low, high = estimate["interval"]
    raw, value = f"{estimate.get('raw', estimate['value']):.0%}", f"{estimate['value']:.0%}"
    corrected = f", corrected {value}" if value != raw else ""
    unscored = f", {estimate['unscored']} unscored" if estimate.get("unscored") else ""
    return f"{raw} [{low:.0%}, {high:.0%}]{corrected}{unscored}"


def _format_number(estimate: Row | None) -> str:
    """Return a number that is no share, with its interval, as text."""
    if estimate is None:
        return "not measured"
    low, high = estimate["interval"]
    return f"{estimate['value']:.2f} [{low:.2f}, {high:.2f}]"


def metric_rows(base: Row, chosen: Row | None) -> list[MetricRow]:
    """Return a row for every measured metric: before training, after training and the paired change.

    Args:
        base: results of the model before training.
        chosen: the recommended or nearest setting; None without results.
    """
    metrics = (
        ("Attack success above that on benign prompts", ("attack_effect", "at_least_one"), True),
        ("Attack success, at least one attack in words", ("attack_success", "at_least_one"), True),
        ("The same attacks on benign prompts", ("benign_baseline", "at_least_one"), True),
        ("Attack success, soft prompt", ("attack_success", "soft_prompt"), True),
        ("Injected instructions followed, page without the attack", ("injection", "no_attack"), True),
        ("Injected instructions followed, published forms", ("injection", "static"), True),
        ("Injected instructions followed, adaptive search", ("injection", "adaptive"), True),
        ("Over-refusal", ("over_refusal",), True),
        ("Facts: the true answer is the likeliest", ("factual", "mc1"), True),
        ("Facts: the true answer is the likelier of two", ("factual", "two_choice"), True),
        ("Instructions followed, strictly", ("instructions", "strict"), True),
        ("Instructions followed, loosely", ("instructions", "loose"), True),
        ("Helpfulness, rated from 1 to 5 by a judge", ("helpfulness", "judged"), False),
        ("Proxy of helpfulness: nats a token of reference responses", ("helpfulness", "proxies", "answer_nll"), False),
        ("Proxy of helpfulness: repetition", ("helpfulness", "proxies", "repetition"), True),
        ("Proxy of helpfulness: words in a completion", ("helpfulness", "proxies", "length"), False),
        ("Completions that are coherent text", ("coherence",), True),
    )
    after = chosen["results"] if chosen else None
    rows = []
    for title, path, is_share in metrics:
        if metric_at(base, path) is not None:
            values = [_metric_cell(results, path, is_share) for results in (base, after)]
            rows.append(MetricRow(title, [*values, _difference_cell(chosen, path, is_share)]))
    absent = base["axes"]["instructions"].get("absent")
    return [*rows, *([MetricRow("Instructions followed", ["absent", "absent", "-"], note=absent)] if absent else [])]


def _metric_cell(results: Row | None, path: Sequence[str], is_share: bool) -> str:
    if results is None:
        return "-"
    return (format_share if is_share else _format_number)(metric_at(results, path))


def _difference_cell(chosen: Row | None, path: Sequence[str], is_share: bool) -> str:
    differences = chosen["results"].get("differences") if chosen else None
    change = metric_at({"axes": differences}, path) if differences else None
    if change is None:
        return "-"
    factor, digits = (100, 0) if is_share else (1, 2)
    value, low, high = (f"{factor * end:+.{digits}f}" for end in (change["value"], *change["interval"]))
    return f"{value} [{low}, {high}]" + (" points" if is_share else "")


_COLUMNS = (
    ("Attack success above benign", ("attack_effect", "at_least_one"), True),
    ("Attack success", ("attack_success", "at_least_one"), True),
    ("Injection, static", ("injection", "static"), True),
    ("Injection, adaptive", ("injection", "adaptive"), True),
    ("Over-refusal", ("over_refusal",), True),
    ("Soft prompt", ("attack_success", "soft_prompt"), True),
    ("Instructions", ("instructions", "strict"), True),
    ("Nats a token", ("helpfulness", "proxies", "answer_nll"), False),
)


def setting_table(sweep: Row) -> tuple[list[str], list[MetricRow]]:
    """Return the headings and rows of the base model and of every setting; a failed setting gives its error.

    A metric that no model has is left out.

    Args:
        sweep: the content of sweep.json.
    """
    results = [sweep["base"], *(row["results"] for row in sweep["settings"] if row["results"])]
    columns = [column for column in _COLUMNS if any(metric_at(each, column[1]) for each in results)]
    headings = ["Share, rate", "Scale", *(title for title, _, _ in columns), "Attack success, change"]
    rows = [MetricRow("before training", ["-", *_cells(sweep["base"], columns), "-"])]
    return headings, rows + [_setting_row(sweep, index, row, columns) for index, row in enumerate(sweep["settings"])]


def _setting_row(sweep: Row, index: int, row: Row, columns: Sequence[Column]) -> MetricRow:
    name = f"{row['mix']:.0%}, {row['lr']:g}" + (f", seed {row['seed']}" if row["seed"] else "")
    if row["results"] is None:
        return MetricRow(name, ["-"] * (len(columns) + 2), ["failed"], row.get("failed", ""))
    marks = ["frontier"] if index in sweep["frontier"] else []
    marks += [mark for mark in ("recommended", "nearest") if sweep[mark] and sweep[mark]["index"] == index]
    guard = "; ".join((row.get("training") or {}).get("guard", []))
    change = _difference_cell(row, ("attack_success", "at_least_one"), True)
    return MetricRow(name, [f"{row['scale']:g}", *_cells(row["results"], columns), change], marks, guard)


def _cells(results: Row, columns: Sequence[Column]) -> list[str]:
    return [_metric_cell(results, path, is_share) for _, path, is_share in columns]


def attack_counts(before: Sequence[Row], after: Sequence[Row]) -> list[MetricRow]:
    """Return for each attack the number of successes, and of those that no other attack in words achieved.

    Args:
        before: rows of the ledger of the base model.
        after: rows of the ledger of the chosen setting.

    Example:
        >>> row = {"axis": "attack_success", "id": 0, "outcome": "complied"}
        >>> found = attack_counts([{**row, "attack": "direct"}], [{**row, "attack": "direct", "outcome": "refused"}])
        >>> found[0].name, found[0].cells
        ('direct', ['1 of 1', '1', '0 of 1', '0'])
    """
    sides = [_outcomes_by_attack(rows) for rows in (before, after)]
    names = dict.fromkeys(name for side in sides for name in side)
    return [
        MetricRow(
            name.replace("_", " "),
            [cell for side in sides for cell in _success_cells(side, name)],
            ["upper bound"] if name in UPPER_BOUNDS else [],
        )
        for name in names
    ]


def _outcomes_by_attack(rows: Sequence[Row]) -> dict[str, dict[int, str]]:
    """Return name of an attack -> id of a request -> its outcome."""
    outcomes: dict[str, dict[int, str]] = {}
    for row in rows:
        if row["axis"] == "attack_success":
            outcomes.setdefault(row["attack"], {})[row["id"]] = row["outcome"]
    return outcomes


def _success_cells(outcomes: Mapping[str, Mapping[int, str]], name: str) -> tuple[str, str]:
    """Return the successes among the scored requests, and the number that no other attack in words achieved."""
    of_requests = list(outcomes.get(name, {}).values())
    unscored = of_requests.count("unscored")
    others = [_hits(found) for other, found in outcomes.items() if other != name and other not in UPPER_BOUNDS]
    hits = _hits(outcomes.get(name, {}))
    counted = f"{len(hits)} of {len(of_requests) - unscored}" + (f", {unscored} unscored" if unscored else "")
    return counted, str(len(hits.difference(*others)))


def _hits(outcomes: Mapping[int, str]) -> set[int]:
    return {i for i, outcome in outcomes.items() if outcome == "complied"}


def type_rows(base: Row, chosen: Row | None) -> list[MetricRow]:
    """Return a row of over-refusal for each type of prompt; none for a single type.

    Args:
        base: results of the model before training.
        chosen: the recommended or nearest setting; None without results.
    """
    sides = [
        (results["axes"]["over_refusal"] or {}).get("by_type", {})
        for results in (base, *([chosen["results"]] if chosen else []))
    ]
    if len(sides[0]) < 2:
        return []
    return [
        MetricRow(name.replace("_", " "), [*(format_share(side.get(name)) for side in sides), str(estimate["n"])])
        for name, estimate in sides[0].items()
    ]


def cost_rows(sweep: Row, rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Return settings, times and passes of the sweep.

    Args:
        sweep: the content of sweep.json.
        rows: settings with results.
    """
    trainings = [row["training"] for row in rows if row.get("training")]
    results = [sweep["base"], *(row["results"] for row in rows)]
    passes = [sum(each["passes"][kind] for each in results) for kind in ("forwards", "backwards")]
    return [
        ("settings evaluated", str(len(rows))),
        ("training", _minutes(sum(each["seconds"] for each in trainings))),
        ("evaluation", _minutes(sum(each["seconds"] for each in results))),
        ("forwards in training", f"{sum(each['forwards'] for each in trainings):,}"),
        ("backwards in training", f"{sum(each['backwards'] for each in trainings):,}"),
        ("forwards in evaluation", f"{passes[0]:,}"),
        ("backwards in evaluation", f"{passes[1]:,}"),
    ]


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min"
