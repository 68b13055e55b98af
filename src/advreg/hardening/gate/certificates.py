"""Certificates of two runs: which examples each leaves unproved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from advreg.errors import RunError
from advreg.results.reading import LEDGER, read_ledger


@dataclass(frozen=True)
class Unproved:
    """Ids of a certification's examples, and of those that it did not prove."""

    ids: frozenset[int]
    left: frozenset[int]


def read_certificates(folder: Path, model: str) -> dict[str, Unproved]:
    """Return the certifications of these weights in a run folder, by protocol and data.

    Args:
        folder: the run folder.
        model: SHA-256 of the evaluated weights.

    Returns:
        Protocol and fingerprint of the examples -> what was not proved.

    Raises:
        RunError: a damaged ledger.
    """
    found = {}
    for path in sorted(folder.glob(f"evaluation/*-certified@*/{LEDGER}")):
        contents = read_ledger(path)
        if contents.header.get("model") != model:
            continue
        try:
            ids = frozenset(int(row["id"]) for row in contents.rows)
            left = frozenset(int(row["id"]) for row in contents.rows if row["verdict"] != "proved")
            key = f"{contents.header['protocol']} {contents.header['data']} {contents.header['n']}"
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path} lacks {error}; certify again in another folder") from error
        if len(ids) == contents.header["n"]:
            found[key] = Unproved(ids, left)
    return found


def shared_certificates(
    champion: Mapping[str, Unproved], challenger: Mapping[str, Unproved]
) -> dict[str, tuple[Unproved, Unproved]]:
    """Return the certifications that both runs hold, of the same protocol on the same examples.

    Args:
        champion: of the deployed model.
        challenger: of the candidate.

    Returns:
        Protocol -> champion's and challenger's.
    """
    return {key.split()[0]: (champion[key], challenger[key]) for key in sorted(champion.keys() & challenger.keys())}
