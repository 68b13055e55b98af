"""Evaluations in shards on machines that share nothing: each writes its own ledger, and the merge writes the figures.

machine k: shard k of n -> ledger.k-of-n.jsonl, shard.k-of-n.json -> copied to one place -> merge -> ledger.jsonl, results.json
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from advreg import runtime
from advreg.engines import MapUnits, Shard, run_in_process
from advreg.engines.merge import ShardFiles, merge_ledgers, write_facts
from advreg.evaluation import model_probe
from advreg.evaluation.evaluate import (
    EvaluationProgress,
    PreparedEvaluation,
    group_chunks,
    prepare_evaluation,
    probe_evaluation,
    run_units,
)
from advreg.evaluation.journal import EvaluationJournal
from advreg.evaluation.ledger_columns import FAR
from advreg.evaluation.looseness import broken_beyond
from advreg.evaluation.protocols import DEFAULT_PROTOCOL, Protocol
from advreg.evaluation.summarize import summarize
from advreg.results.evaluation import Evaluation
from advreg.runs import RunFolder
from advreg.tasks import CLASSES, Task
from advreg.threat import ThreatModel

if TYPE_CHECKING:
    from advreg.data.adapters import Data

KIND = "evaluation"
"""Kind of measurement in the facts of a shard."""


@torch.inference_mode(False)  # as in `evaluate`
def evaluate_shard(
    model: nn.Module,
    data: Data,
    threat: ThreatModel | str,
    *,
    shard: Shard | str,
    out: str | Path,
    protocol: str | Protocol = DEFAULT_PROTOCOL,
    n: int | None = None,
    seed: int = 0,
    precision: Literal["float32", "bfloat16"] = "float32",
    compiled: bool = False,
    task: Task | str = CLASSES,
    engine: MapUnits = run_in_process,
    on_progress: Callable[[EvaluationProgress], None] | None = None,
    command: str = "",
) -> Path:
    """Evaluate one shard: every ``count``-th chunk of 1,024 examples, beginning with chunk ``number``.

    The shard writes a ledger of its own and continues where it was interrupted. `merge_shards` joins the shards.

    Args:
        model: as for `evaluate`; the same on every machine.
        data: all the data, of which the shard takes its part.
        threat: norm and eps.
        shard: number and count, such as ``"3/8"``; the first shard is 0.
        out: run folder of this machine, or one that all share.
        protocol: name of a protocol, or your own.
        n: how many examples in all shards together, from the first; all by default.
        seed: of the random draws.
        precision: of the fast copy; ``"auto"`` would differ between machines.
        compiled: whether black-box attacks query a compiled copy.
        task: what an output is worth.
        engine: where the units of this shard run.
        on_progress: called after each attack on at most 256 examples.
        command: command with ``{shard}`` in place of the shard, which a merge shows where a shard is missing.

    Returns:
        The ledger of the shard.

    Raises:
        ConfigError: no such shard.
        RunError: ``out`` cannot be written, or holds the same shard of another measurement.

    Example:
        >>> import tempfile
        >>> net, out = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval(), Path(tempfile.mkdtemp())
        >>> x, y = torch.rand(8, 1, 2, 2), torch.tensor([0, 1] * 4)
        >>> evaluate_shard(net, (x, y), "linf:0.1", shard="0/1", out=out).name
        'ledger.0-of-1.jsonl'
    """
    shard = Shard.parse(shard) if isinstance(shard, str) else shard
    prepared = prepare_evaluation(
        model,
        data,
        threat,
        protocol=protocol,
        n=n,
        seed=seed,
        out=out,
        precision=precision,
        compiled=compiled,
        task=task,
        shard=shard,
    )
    runner = prepared.runner
    with prepared.journal(out, shard=shard) as journal:
        assert journal.folder is not None
        facts = _facts(prepared, journal, command)
        write_facts(journal.folder, shard, facts)
        first = probe_evaluation(prepared, journal) if shard.number == 0 else ((0, 0), {})
        run_units(
            prepared, group_chunks(shard.share(runner.examples.chunks()), runner.batching), journal, engine, on_progress
        )
        if first[1]:
            first[1]["batch"] = runner.context.batcher.size
        journal.close()
        journal.write_pictures(runner.model, runner.task)
        shutil.rmtree(journal.folder / "points", ignore_errors=True)
        write_facts(journal.folder, shard, facts | {"spent": first[0], "flags": first[1]})
        return journal.folder / shard.file("ledger", "jsonl")


def _facts(prepared: PreparedEvaluation, journal: EvaluationJournal, command: str) -> dict[str, Any]:
    """Return what the figures need besides the ledgers."""
    threat = prepared.runner.threat
    plain = prepared.runner.task is CLASSES and not threat.suffix
    return {
        "kind": KIND,
        "command": command or "the same evaluation with shard {shard}",
        "stages": [[stage.name, stage.nearest] for stage in prepared.runner.stages],
        "threat": {"norm": threat.norm, "eps": float(threat.eps), "box": list(threat.box)} if plain else None,
        "seed": prepared.runner.seed,
        **journal.origin(),
    }


def merge_shards(shards: Sequence[ShardFiles], out: str | Path) -> Evaluation | None:
    """Join the shards of an evaluation: the ledger has the bytes of a single process's, and the figures follow from it.

    Args:
        shards: all shards, checked by `advreg.engines.merge.require_one_measurement`.
        out: run folder.

    Returns:
        The figures; None for tasks and for threats on features: there ``advreg evaluate`` makes them from the ledger.

    Raises:
        RunError: a shard is not finished.
    """
    protocol, facts = shards[0].header["protocol"], shards[0].facts
    folder = RunFolder.at(Path(out) / "evaluation" / protocol)
    stages = [(str(name), float(nearest)) for name, nearest in facts["stages"]]
    with folder.lock():
        table, seconds = merge_ledgers(shards, stages, facts["data"]["n"], folder)
        _copy_pictures(shards[0], folder)
        if facts["threat"] is None:
            return None
        flags = facts["flags"] | model_probe.ledger_flags(table, facts["data"]["n"], FAR)
        if beyond := broken_beyond(folder.path, table):
            flags["broken_beyond"] = beyond
        threat = facts["threat"]
        evaluation = summarize(
            table,
            protocol=protocol,
            stages=[name for name, _ in stages],
            threat=ThreatModel(threat["norm"], threat["eps"], tuple(threat["box"])),
            classes=tuple(facts["data"]["classes"]),
            seed=facts["seed"],
            seconds=seconds,
            spent=tuple(facts["spent"]),
            flags=flags,
        )
        origin = {"model": facts["model"], "data": facts["data"]}
        folder.write_json("results.json", {**evaluation.record(), **origin, "environment": runtime.environment()})
    return evaluation


def _copy_pictures(shard: ShardFiles, folder: RunFolder) -> None:
    pictures = shard.ledger.parent / "examples.safetensors"
    if pictures.exists() and pictures.parent.resolve() != folder.path.resolve():
        folder.write(pictures.name, pictures.read_bytes())
