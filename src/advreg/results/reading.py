"""Read the ledger of an evaluation, for reports, gates and diagnoses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advreg.errors import RunError
from advreg.results.ledger_rows import CLEAN, Row, broken_ids
from advreg.runs.files import read_lines

LEDGER = "ledger.jsonl"


@dataclass(frozen=True, repr=False)
class LedgerContents:
    """A ledger as read from disk.

    Attributes:
        header: protocol, model, data, n and seed that the rows belong to; empty where there is no ledger.
        rows: one per example and attack, in order.
    """

    header: dict[str, Any]
    rows: list[Row]

    @property
    def clean(self) -> list[Row]:
        """Rows of the unattacked examples."""
        return [row for row in self.rows if row["attack"] == CLEAN]

    @property
    def broken(self) -> set[int]:
        """Ids of the examples that are misclassified or that some attack broke."""
        return broken_ids(self.rows)

    def __repr__(self) -> str:
        return f"LedgerContents({self.header.get('protocol', 'no protocol')}, {len(self.rows)} rows)"


def read_ledger(file: Path) -> LedgerContents:
    """Return the header and the rows of a ledger; both are empty where the file does not exist.

    Args:
        file: ``<run>/evaluation/<protocol id>/ledger.jsonl``.

    Returns:
        Header and rows.

    Raises:
        RunError: a line is damaged.

    Example:
        >>> read_ledger(Path("no/such/ledger.jsonl")).rows
        []
    """
    header, *rows = read_lines(file) or [{}]
    if not isinstance(header.get("protocol", ""), str):
        raise RunError(
            f"{file}: 'protocol' is {str(header['protocol'])[:40]}, must be text; evaluate again in another folder"
        )
    return LedgerContents(header, rows)
