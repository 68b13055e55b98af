"""Find loose figures beside a new one: examples that it broke and another protocol counts as robust."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from advreg.results.ledger_table import LedgerTable, read_table
from advreg.results.reading import LEDGER
from advreg.runs.files import read_first

_SAME = ("model", "data", "n")


def broken_beyond(folder: Path, table: LedgerTable) -> dict[str, int]:
    """Return for each other protocol of the run how many examples it counts as robust and this evaluation broke.

    Only finished evaluations of the same model, data, number of examples and threat are compared; seeds may differ.

    Args:
        folder: folder of this evaluation, ``<run>/evaluation/<protocol id>``.
        table: its ledger.

    Returns:
        Protocol id to number of examples, zeros left out.
    """
    mine = read_first(folder / LEDGER) or {}
    found = {}
    for results in sorted(folder.parent.glob("*/results.json")):
        header = read_first(results.parent / LEDGER) or {}
        same = all(header.get(key) == mine.get(key) for key in _SAME)
        if (
            results.parent != folder
            and same
            and _threat(str(header.get("protocol", ""))) == _threat(str(mine["protocol"]))
        ):
            other = read_table(results.parent / LEDGER)
            found[str(header.get("protocol", ""))] = len(np.setdiff1d(table.broken_ids, other.broken_ids))
    return {protocol: count for protocol, count in found.items() if count}


def _threat(protocol: str) -> str:
    """Return the part of a protocol id that names norm, eps and box: ``linf-0.3`` of ``linf-0.3-strong@3``."""
    return protocol.rpartition("-")[0]
