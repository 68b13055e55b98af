"""The ledger: an append-only list of results that belongs to one model, one protocol and one data set."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from advreg.errors import RunError
from advreg.runs.files import Record, append_lines, explain_os_error, read_first, read_lines, write_atomic

_SCHEMA = "advreg/ledger@1"


@dataclass(frozen=True)
class Ledger:
    """Rows that were measured once and are never measured again; an interrupted evaluation continues from them.

    Attributes:
        path: the JSON-lines file.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "ledger.jsonl"
        >>> ledger = Ledger.open(path, model="a1", protocol="linf-0.3-quick@1", data="d1")
        >>> ledger.append([{"id": 0, "attack": "pgd", "broken": True}])
        >>> Ledger.open(path, model="a1", protocol="linf-0.3-quick@1", data="d1").rows()
        [{'id': 0, 'attack': 'pgd', 'broken': True}]
    """

    path: Path

    @classmethod
    def open(cls, path: str | Path, **identity: str | int) -> Ledger:
        """Open the ledger at `path`, starting it with its identity when there is none.

        Args:
            path: the JSON-lines file; its folder is made when needed.
            identity: what the rows belong to: the weights' SHA-256, the protocol's id, the data's fingerprint, ...

        Raises:
            RunError: the ledger there belongs to another model, protocol or data set, or is no ledger.
        """
        ledger = cls(Path(path))
        header = {"schema": _SCHEMA, **identity}
        found = read_first(ledger.path)
        if found is not None:
            _require_same_identity(ledger.path, found, header)
        else:
            with explain_os_error("create", ledger.path.parent):
                ledger.path.parent.mkdir(parents=True, exist_ok=True)
            append_lines(ledger.path, [header])
        return ledger

    def rows(self) -> list[Record]:
        """Return every row written so far, in order; a row cut by a crash is left out with a warning."""
        return read_lines(self.path)[1:]

    def replace(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Hold these rows instead, in one stroke: for joining the ledgers of several processes, and dropping half work."""
        self.replace_lines((json.dumps(dict(row)) + "\n").encode() for row in rows)

    def replace_lines(self, lines: Iterable[bytes]) -> None:
        """Hold these rows instead, in one stroke, as `replace` does.

        Args:
            lines: rows as they are written, with their ends, any number of them in one piece.
        """
        with self.path.open("rb") as file:
            header = file.readline()
        write_atomic(self.path, chain([header], lines))

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows in one write."""
        append_lines(self.path, rows)


def _require_same_identity(path: Path, found: Record, expected: Mapping[str, str | int]) -> None:
    for key, value in expected.items():
        if found.get(key) != value:
            raise RunError(
                f"{path} belongs to {key} {found.get(key)!r}, not to {value!r}; "
                "give another folder, or remove this ledger to measure again"
            )
