"""Join the ledgers of shards: check that they are parts of one measurement, and write the ledger of a single process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from advreg.engines.shards import Shard
from advreg.errors import RunError
from advreg.results.ledger_order import Stage, complete_order
from advreg.results.ledger_rows import CHUNK
from advreg.results.ledger_table import LedgerTable, read_table, row_text
from advreg.runs import Ledger, RunFolder
from advreg.runs.files import read_first

_OWN = ("shard", "schema")  # of a header, besides what all shards have in common
_PATTERN = "ledger.*-of-*.jsonl"


@dataclass(frozen=True)
class ShardFiles:
    """The ledger of one shard and the facts beside it.

    Attributes:
        ledger: the file.
        shard: which one it is.
        header: of the ledger.
        facts: attacks, number of examples, figures' settings, and the command that made it.
    """

    ledger: Path
    shard: Shard
    header: dict[str, Any]
    facts: dict[str, Any]


def find_shards(paths: Iterable[Path]) -> list[ShardFiles]:
    """Return the shards in ledgers, folders of a protocol or run folders.

    Args:
        paths: files and folders.

    Returns:
        Shards by number.

    Raises:
        RunError: a path without a shard, or a shard without its header or facts.
    """
    found = {file.resolve(): file for path in paths for file in _ledgers_in(Path(path))}
    return sorted((_read_shard(file) for file in found.values()), key=lambda each: each.shard.number)


def _ledgers_in(path: Path) -> list[Path]:
    files = sorted(path.rglob(_PATTERN)) if path.is_dir() else [path] if path.is_file() else []
    if not files:
        raise RunError(f"{path} holds no ledger of a shard ({_PATTERN}); give the folders that --shard wrote into")
    return files


def _read_shard(ledger: Path) -> ShardFiles:
    header = read_first(ledger)
    if header is None or not isinstance(header.get("shard"), str):
        raise RunError(f"{ledger} does not begin with the header of a shard; run that shard again")
    shard = Shard.parse(header["shard"])
    facts = RunFolder(ledger.parent).read_json(shard.file("shard", "json"))
    return ShardFiles(ledger, shard, header, facts)


def require_one_measurement(shards: Sequence[ShardFiles]) -> None:
    """Raise unless the shards are all parts of one measurement, each exactly once.

    Args:
        shards: by number.

    Raises:
        RunError: another model, version, protocol, data set or setting; a shard twice, or one that is missing.
    """
    first = shards[0]
    for other in shards[1:]:
        _require_same_header(first, other)
        if other.shard.count != first.shard.count:
            raise RunError(
                f"{first.ledger} is shard {first.shard} and {other.ledger} is shard {other.shard}: they overlap; "
                "merge parts of one number of shards"
            )
    numbers = [each.shard.number for each in shards]
    for before, after in pairwise(shards):
        if before.shard == after.shard:
            raise RunError(
                f"shard {before.shard} is there twice, in {before.ledger} and {after.ledger}; give one of them"
            )
    if missing := sorted(set(range(first.shard.count)) - set(numbers)):
        rest = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        shard = Shard(missing[0], first.shard.count)
        raise RunError(f"shard {shard} is missing{rest}; run: {command_for(first, shard)}")


def _require_same_header(first: ShardFiles, other: ShardFiles) -> None:
    for key in sorted({*first.header, *other.header} - set(_OWN)):
        one, two = first.header.get(key), other.header.get(key)
        if one != two:
            raise RunError(
                f"shard {other.shard} ({other.ledger}) was made with {key} {two!r}, shard {first.shard} with {one!r}; "
                f"remove it and run: {command_for(first, other.shard)}"
            )


def command_for(shards: ShardFiles, shard: Shard) -> str:
    """Return the command that makes a shard, after the one that made another.

    Args:
        shards: a shard of the same measurement.
        shard: the one to make.
    """
    return str(shards.facts.get("command", "the same evaluation with --shard {shard}")).replace("{shard}", str(shard))


def merge_ledgers(
    shards: Sequence[ShardFiles], stages: Sequence[Stage], n: int, folder: RunFolder
) -> tuple[LedgerTable, dict[str, float]]:
    """Write the ledger that a single process would have written.

    Args:
        shards: all shards of one measurement, by number.
        stages: name of each attack, and the share of the survivors that it begins with.
        n: number of examples.
        folder: folder for ``ledger.jsonl`` and ``times.jsonl``.

    Returns:
        The rows in order, and the seconds of each attack.

    Raises:
        RunError: a shard is not finished, or the folder holds the ledger of another measurement.
    """
    files = [each.ledger for each in shards]
    table = read_table(*files)
    order, finished = complete_order(table, stages, n)
    if not finished.all():
        shard = shards[int(np.flatnonzero(~finished)[0]) % len(shards)]
        first = int(np.flatnonzero(~finished)[0]) * CHUNK
        raise RunError(
            f"shard {shard.shard} is not finished (examples {first} to {min(first + CHUNK, n) - 1}); "
            f"run: {command_for(shard, shard.shard)}"
        )
    header = {key: value for key, value in shards[0].header.items() if key not in (*_OWN, "advreg")}
    table = table.select(order)
    ledger = Ledger.open(folder / "ledger.jsonl", **header)
    ledger.replace_lines(row_text(table, files))
    return table, _merge_times(shards, folder)


def _merge_times(shards: Sequence[ShardFiles], folder: RunFolder) -> dict[str, float]:
    seconds: dict[str, float] = {}
    entries = [
        entry for each in shards for entry in RunFolder(each.ledger.parent).read_log(each.shard.file("times", "jsonl"))
    ]
    for entry in entries:
        seconds[entry["attack"]] = seconds.get(entry["attack"], 0.0) + entry["seconds"]
    (folder / "times.jsonl").unlink(missing_ok=True)
    if entries:
        folder.append("times.jsonl", *entries)
    return seconds


def write_facts(folder: RunFolder, shard: Shard, facts: dict[str, Any]) -> None:
    """Write what a merge needs besides a shard's ledger.

    Args:
        folder: folder of the ledger.
        shard: which shard.
        facts: attacks, number of examples, and whatever the figures need.
    """
    folder.write_json(shard.file("shard", "json"), facts)


Merge = Callable[[Sequence[ShardFiles], Path], Any]
"""``(shards, run folder) -> figures``: how a kind of measurement makes its figures from shards."""
