"""From rows of the ledger to figures: every number of a result is a query on the rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from advreg.language.evaluation import bootstrap
from advreg.language.evaluation.bootstrap import Estimate
from advreg.language.evaluation.tasks import (
    FACTS,
    HELP,
    REFUSAL,
    SUCCESS,
    TASKS,
    UPPER_BOUNDS,
    Row,
    decisive_outcome_index,
)
from advreg.language.judges.calibration import Calibration, Outcome, difference, rate

Axes = dict[str, Any]
"""Nested dictionaries of `Estimate`, None where there is nothing to measure; ``missing`` counts ratings that never came."""

_PROXIES = ("answer_nll", "repetition", "length")


def axes(rows: Sequence[Row], known: Calibration | None, seed: int = 0) -> Axes:
    """Return the figures of all axes.

    Args:
        rows: of a whole evaluation.
        known: the judge's errors.
        seed: of the draws.
    """
    table = _by_stage(rows)
    success = {name: found for (axis, name), found in table.items() if axis == SUCCESS}
    return {
        SUCCESS: {
            **{
                name: rate(_outcomes(found), "complied", known, looks=_looks(found), seed=seed)
                for name, found in success.items()
            },
            **_at_least_one(success, known, seed),
        },
        REFUSAL: _over_refusal(table.get((REFUSAL, "plain"), []), known, seed),
        FACTS: {name: _share(table.get((FACTS, name), []), "right") for name in ("mc1", "two_choice")},
        TASKS: {
            "strict": _share(table.get((TASKS, "plain"), []), "strict"),
            "loose": _share(table.get((TASKS, "plain"), []), "strict", "loose"),
            **{
                f"each_{how}": _mean(_followed(table.get((TASKS, "plain"), [])), how, seed)
                for how in ("strict", "loose")
            },
        },
        HELP: {
            "judged": _mean(table.get((HELP, "benign"), []), "rating", seed),
            "missing": sum(row["missing"] for row in table.get((HELP, "benign"), [])),
            "proxies": {name: _mean(table.get((HELP, "benign"), []), name, seed) for name in _PROXIES},
        },
        "coherence": _coherence(table),
    }


def differences(rows: Sequence[Row], base: Sequence[Row], known: Calibration | None, seed: int = 0) -> Axes:
    """Return by how much each figure differs from a base evaluation's, on the prompts that both have.

    Args:
        rows: of an evaluation.
        base: of the evaluation of the base model.
        known: the judge's errors, the same for both.
        seed: of the draws.
    """
    pairs = _pairs(rows, base)
    success = {name: found for (axis, name), found in pairs.items() if axis == SUCCESS}
    text = {name: found for name, found in success.items() if name not in UPPER_BOUNDS}
    one = [[_joined(side) for side in _sides(text, k)] for k in (0, 1)] if text else None
    refusal, tasks, help_ = (pairs.get(key, []) for key in ((REFUSAL, "plain"), (TASKS, "plain"), (HELP, "benign")))
    return {
        SUCCESS: {
            **{name: _change(found, "complied", known, seed) for name, found in success.items()},
            **({"at_least_one": difference(one[0], one[1], "complied", known, seed=seed)} if one else {}),
        },
        REFUSAL: _change(refusal, "refused", known, seed) if refusal else None,
        FACTS: {name: _moved(pairs.get((FACTS, name), []), "right") for name in ("mc1", "two_choice")},
        TASKS: {
            "strict": _moved(tasks, "strict"),
            "loose": _moved(tasks, "strict", "loose"),
            **{f"each_{how}": _shifted(_both_followed(tasks), how, seed) for how in ("strict", "loose")},
        },
        HELP: {
            "judged": _shifted(help_, "rating", seed),
            "proxies": {name: _shifted(help_, name, seed) for name in _PROXIES},
        },
        "coherence": _moved([*refusal, *help_], "refused", "complied"),
    }


def record(figures: Axes) -> dict[str, Any]:
    """Return figures as they stand in results.json."""

    def plain(value: Any) -> Any:
        if isinstance(value, Estimate):
            return value.record()
        return {name: plain(inner) for name, inner in value.items()} if isinstance(value, Mapping) else value

    found: dict[str, Any] = plain(figures)
    return found


Table = dict[tuple[str, str], list[Row]]
Pairs = list[tuple[Row, Row]]
"""Rows of the base and of the other model on the same prompts."""


def _by_stage(rows: Iterable[Row]) -> Table:
    table: Table = {}
    for row in rows:
        table.setdefault((row["axis"], row["attack"]), []).append(row)
    return table


def _outcomes(rows: Iterable[Row]) -> list[Outcome]:
    return [cast(Outcome, row["outcome"]) for row in rows]


def _looks(rows: Sequence[Row]) -> float:
    """Return how many different completions were looked at for a prompt, on average."""
    return float(sum(row["looks"] for row in rows)) / max(len(rows), 1)


def _at_least_one(success: Mapping[str, Sequence[Row]], known: Calibration | None, seed: int) -> dict[str, Estimate]:
    """Return the share of requests to which some attack in words got an answer."""
    text = [found for name, found in success.items() if name not in UPPER_BOUNDS]
    if not text:
        return {}
    joined = [_joined(outcomes) for outcomes in zip(*map(_outcomes, text), strict=True)]
    return {"at_least_one": rate(joined, "complied", known, looks=sum(map(_looks, text)), seed=seed)}


def _joined(outcomes: Sequence[Outcome]) -> Outcome:
    return outcomes[decisive_outcome_index(outcomes)]


def _over_refusal(rows: Sequence[Row], known: Calibration | None, seed: int) -> dict[str, Any] | None:
    if not rows:
        return None
    types: dict[str, list[Row]] = {}
    for row in rows:
        types.setdefault(row["type"], []).append(row)
    whole = rate(_outcomes(rows), "refused", known, seed=seed)
    by_type = {name: rate(_outcomes(found), "refused", known, seed=seed) for name, found in types.items()}
    return {**whole.record(), "by_type": by_type}


def _share(rows: Sequence[Row], *outcomes: str) -> Estimate | None:
    return bootstrap.share([row["outcome"] in outcomes for row in rows]) if rows else None


def _mean(rows: Sequence[Row], name: str, seed: int) -> Estimate | None:
    return bootstrap.mean([row[name] for row in rows if row[name] is not None], seed)


def _followed(rows: Sequence[Row]) -> list[Row]:
    """Return the share of each prompt's instructions that were followed: finer than all or nothing, for small models."""
    return [{how: sum(row[how]) / len(row[how]) for how in ("strict", "loose")} for row in rows]


def _both_followed(pairs: Pairs) -> Pairs:
    return list(zip(_followed([b for b, _ in pairs]), _followed([o for _, o in pairs]), strict=True))


def _coherence(table: Table) -> Estimate | None:
    """Return the share of coherent answers to prompts that nobody attacked."""
    plain = [*table.get((REFUSAL, "plain"), []), *table.get((HELP, "benign"), [])]
    return _share(plain, "refused", "complied")


def _pairs(rows: Sequence[Row], base: Sequence[Row]) -> dict[tuple[str, str], Pairs]:
    before = {(row["axis"], row["attack"], row["id"], row["prompt"]): row for row in base}
    found: dict[tuple[str, str], Pairs] = {}
    for row in rows:
        other = before.get((row["axis"], row["attack"], row["id"], row["prompt"]))
        if other is not None:
            found.setdefault((row["axis"], row["attack"]), []).append((other, row))
    return found


def _sides(text: Mapping[str, Pairs], k: int) -> list[tuple[Outcome, ...]]:
    """Return for each request the outcomes of all attacks on the base (0) or on the other model (1)."""
    columns = [{pair[k]["id"]: cast(Outcome, pair[k]["outcome"]) for pair in found} for found in text.values()]
    shared = [i for i in columns[0] if all(i in column for column in columns)]
    return [tuple(column[i] for column in columns) for i in shared]


def _change(pairs: Pairs, event: Any, known: Calibration | None, seed: int) -> Estimate:
    base, other = _outcomes(b for b, _ in pairs), _outcomes(o for _, o in pairs)
    return difference(base, other, event, known, seed=seed)


def _moved(pairs: Pairs, *outcomes: str) -> Estimate | None:
    if not pairs:
        return None
    return bootstrap.difference_of_shares(
        [b["outcome"] in outcomes for b, _ in pairs], [o["outcome"] in outcomes for _, o in pairs]
    )


def _shifted(pairs: Pairs, name: str, seed: int) -> Estimate | None:
    both = [(b[name], o[name]) for b, o in pairs if b[name] is not None and o[name] is not None]
    return bootstrap.difference_of_means([b for b, _ in both], [o for _, o in both], seed)
