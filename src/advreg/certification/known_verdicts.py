"""Verdicts that a run folder holds on the same model and data: none is computed again, and none may contradict another.

What is proved at an eps is proved at every smaller one; what is broken at an eps is broken at every larger one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from advreg.certification.undecided import Known
from advreg.errors import RunError
from advreg.results.ledger_rows import Row
from advreg.runs.files import read_lines
from advreg.threat import ThreatModel

CERTIFIED, SMOOTHED = "-certified@", "-smoothed@"
LARGER, SMALLER = "larger-eps", "smaller-eps"
"""Methods in rows of examples that are proved at a larger eps, or broken at a smaller one."""


def read_known(folder: Path, protocol: str, threat: ThreatModel, *, model: str, data: str) -> Known:
    """Return the verdicts of finished and unfinished evaluations and certificates in a run folder.

    Args:
        folder: the run folder's ``evaluation``.
        protocol: frozen id of the certification; evaluations of the same threat model share its beginning.
        threat: the threat model.
        model: SHA-256 of the weights.
        data: fingerprint of the examples.

    Returns:
        Verdicts by example id.
    """
    prefix = protocol.rsplit("-", 1)[0] + "-"
    broken: dict[int, str] = {}
    settled: dict[int, tuple[str, str]] = {}
    for path in sorted(folder.glob("*/ledger.jsonl")):
        name = path.parent.name
        header, *rows = read_lines(path) or [{}]
        if SMOOTHED in name or header.get("model") != model or header.get("data") != data:
            continue
        if name.startswith(prefix):
            if CERTIFIED not in name:
                broken.update({row["id"]: f"{row['attack']!r} in {path}" for row in rows if row.get("broken")})
        elif (eps := _eps_of(path.parent, threat)) is not None:
            add_settled(settled, carry_over(rows, eps, float(threat.eps)))
    return Known(broken, settled)


def add_settled(found: dict[int, tuple[str, str]], more: Iterable[tuple[int, tuple[str, str]]]) -> None:
    """Add verdicts by example id.

    Args:
        found: verdicts and methods so far; changed.
        more: others.

    Raises:
        RunError: an example is both proved and broken.
    """
    for i, verdict in more:
        before = found.setdefault(i, verdict)
        if before[0] != verdict[0]:
            raise RunError(
                f"example {i} is {before[0]} ({before[1]}) and {verdict[0]} ({verdict[1]}); one of them is wrong: keep the "
                "folders and report it"
            )


def carry_over(rows: Iterable[Row], eps: float, wanted: float) -> Iterator[tuple[int, tuple[str, str]]]:
    """Yield the verdicts at one eps that hold at another, as ``(id, (verdict, method))``.

    Args:
        rows: rows of a certification or an evaluation at ``eps``.
        eps: radius of the rows.
        wanted: the other radius.

    Example:
        >>> list(carry_over([{"id": 3, "verdict": "proved", "broken": False}], 0.2, 0.1))
        [(3, ('proved', 'larger-eps'))]
    """
    for row in rows:
        if eps >= wanted and row.get("verdict") == "proved":
            yield row["id"], ("proved", LARGER)
        elif eps <= wanted and row.get("broken"):
            yield row["id"], ("broken", SMALLER)


def _eps_of(folder: Path, threat: ThreatModel) -> float | None:
    """Return the exact eps of a finished evaluation or certificate in the same norm and box, else None."""
    for name in ("certificate.json", "results.json"):
        if (folder / name).is_file():
            found: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8")).get("threat", {})
            same = found.get("norm") == threat.norm and found.get("box") == list(threat.box)
            plain = "features" not in found and threat.limits is None
            return float(found["eps"]) if same and plain else None
    return None


def check_no_contradiction(rows: Iterable[Row], witnesses: Mapping[int, str]) -> None:
    """Raise if an example is both proved and broken.

    Args:
        rows: rows of the certification.
        witnesses: examples that attacks broke, from `read_known`.

    Raises:
        RunError: the example, its proof and its witness.
    """
    for row in rows:
        if row["verdict"] == "proved" and row["id"] in witnesses:
            raise RunError(
                f"example {row['id']} is proved by {row['method']!r} and broken by {witnesses[row['id']]}; "
                "one of them is wrong: keep both folders and report it"
            )
