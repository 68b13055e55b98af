"""What attacks on the same model, data and threat model have broken already: no proof is for those, and none may contradict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from advreg.errors import RunError
from advreg.results.ledger_rows import Row
from advreg.runs.files import read_lines

CERTIFICATES = ("-certified@", "-smoothed@")


def broken_by_attacks(folder: Path, protocol: str, *, model: str, data: str) -> dict[int, str]:
    """Return the examples that evaluations in a run folder broke, each with the attack and the ledger that say so.

    Args:
        folder: the run folder's ``evaluation``.
        protocol: frozen id of the certification; evaluations of the same threat model share its beginning.
        model: SHA-256 of the weights.
        data: fingerprint of the examples.

    Returns:
        Example id to witness.
    """
    prefix = protocol.rsplit("-", 1)[0] + "-"
    found: dict[int, str] = {}
    for path in sorted(folder.glob(f"{prefix}*/ledger.jsonl")):
        if any(name in path.parent.name for name in CERTIFICATES):
            continue
        header, *rows = read_lines(path) or [{}]
        if header.get("model") == model and header.get("data") == data:
            found.update({row["id"]: f"{row['attack']!r} in {path}" for row in rows if row.get("broken")})
    return found


def check_no_contradiction(rows: Iterable[Row], witnesses: Mapping[int, str]) -> None:
    """Raise if an example is both proved and broken.

    Args:
        rows: rows of the certification.
        witnesses: examples that attacks broke, from `broken_by_attacks`.

    Raises:
        RunError: the example, its proof and its witness.
    """
    for row in rows:
        if row["verdict"] == "proved" and row["id"] in witnesses:
            raise RunError(
                f"example {row['id']} is proved by {row['method']!r} and broken by {witnesses[row['id']]}; "
                "one of them is wrong: keep both folders and report it"
            )
