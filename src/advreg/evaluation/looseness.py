"""Find loose figures beside a new one: examples that it broke and another protocol counts as robust."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from advreg.results.ledger_rows import Row, broken_ids
from advreg.results.reading import LEDGER, read_ledger

_SAME = ("model", "data", "n")


def broken_beyond(folder: Path, rows: Iterable[Row]) -> dict[str, int]:
    """Return for each other protocol of the run how many examples it counts as robust and this evaluation broke.

    Only finished evaluations of the same model, data, number of examples and threat are compared; seeds may differ.

    Args:
        folder: folder of this evaluation, ``<run>/evaluation/<protocol id>``.
        rows: rows of its ledger.

    Returns:
        Protocol id to number of examples, zeros left out.
    """
    mine, broken = read_ledger(folder / LEDGER).header, broken_ids(rows)
    found = {}
    for results in sorted(folder.parent.glob("*/results.json")):
        ledger = read_ledger(results.parent / LEDGER)
        header = ledger.header
        same = all(header.get(key) == mine.get(key) for key in _SAME)
        if results.parent != folder and same and _threat(header.get("protocol", "")) == _threat(mine["protocol"]):
            found[str(header.get("protocol", ""))] = len(broken - ledger.broken)
    return {protocol: count for protocol, count in found.items() if count}


def _threat(protocol: str) -> str:
    """Return the part of a protocol id that names norm, eps and box: ``linf-0.3`` of ``linf-0.3-strong@3``."""
    return protocol.rpartition("-")[0]
