"""`evaluate`: freeze the model, run the protocol's attacks on the survivors, verify on the original model, write a ledger.

examples -> chunks of 1,024 -> clean, attack 1, attack 2, ... each on the survivors, in batches -> rows -> ledger -> figures
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from advreg import models
from advreg._deprecation import renamed_attribute
from advreg.attacks.model import input_dtype
from advreg.distributed import SINGLE, Ranks
from advreg.engines import MapUnits, Shard, run_in_process
from advreg.errors import ModelError, RunError
from advreg.evaluation import model_probe
from advreg.evaluation.attack_units import CLEAN_STAGE, SAMPLE, AttackedBatch, Unit, UnitRunner
from advreg.evaluation.batch_sizing import batching_on
from advreg.evaluation.coarse_outputs import measure_coarseness, record_coarseness
from advreg.evaluation.examples import examples_of, threat_on
from advreg.evaluation.journal import EvaluationJournal, recorded_batching
from advreg.evaluation.ledger_columns import FAR as FAR
from advreg.evaluation.looseness import broken_beyond
from advreg.evaluation.model_identity import IDENTIFIED, matches_ledger
from advreg.evaluation.protocols import DEFAULT_PROTOCOL, Protocol, resolve
from advreg.evaluation.proved_examples import proved_ids
from advreg.evaluation.summarize import summarize
from advreg.results.evaluation import Evaluation
from advreg.results.ledger_rows import Batching
from advreg.tasks import CLASSES, Task, as_task
from advreg.threat import ThreatModel

if TYPE_CHECKING:
    from advreg.data.adapters import Data
    from advreg.results.certificate import Certification


_MEMORY = 1  # forwards that measure the memory of an example


@dataclass(frozen=True)
class EvaluationProgress:
    """Progress of an evaluation, reported after each attack on at most 256 examples.

    Attributes:
        stage: the attack.
        done, total: examples started, and in all.
        survivors: examples started that no attack has broken.
        seconds: wall time of the attacks, including those of an interrupted run.
        share: estimated share of the work done; every attack counts the same.
    """

    stage: str
    done: int
    total: int
    survivors: int
    seconds: float
    share: float = 0.0

    @property
    def robust_accuracy(self) -> float:
        """Share of the examples started so far that survive."""
        return self.survivors / max(self.done, 1)

    standing = renamed_attribute("standing", "survivors")


@torch.inference_mode(False)  # inside the caller's inference mode too: the copy under attack needs gradients
def evaluate(
    model: nn.Module,
    data: Data,
    threat: ThreatModel | str,
    *,
    protocol: str | Protocol = DEFAULT_PROTOCOL,
    n: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    precision: Literal["float32", "bfloat16", "auto"] = "float32",
    compiled: bool = False,
    ranks: Ranks = SINGLE,
    on_progress: Callable[[EvaluationProgress], None] | None = None,
    task: Task | str = CLASSES,
    certificate: Certification | None = None,
    engine: MapUnits = run_in_process,
) -> Evaluation:
    """Measure clean and robust accuracy: the worst case over a protocol's attacks.

    An example counts as robust if the model classifies it correctly and no attack finds, inside the threat model, a point
    that the original model in its own precision misclassifies. Attacks work on a fast frozen copy, which only proposes.

    Args:
        model: maps inputs ``(B, ...)`` in the threat's box to logits ``(B, K)``; eval mode.
        data: a data set, a pair ``(x, y)`` of floats ``(N, ...)`` and labels ``(N,)``, a DataLoader or any other form of
            ``docs/your-data.md``.
        threat: norm and eps, one number for all examples: a `ThreatModel`, or text such as ``"linf:8/255"``.
        protocol: name of a protocol, or your own `Protocol`; ``"quick"`` by default, on the command line too.
        n: how many examples, from the first; all by default.
        seed: seed of the random draws; an example's draws depend on it and on the example's place in the data only.
        out: run folder to write ``evaluation/<protocol id>/`` into; an interrupted evaluation there is resumed.
        precision: of the fast copy; the original model verifies in its own precision.
        compiled: whether black-box attacks query a compiled copy: compiling takes about a minute.
        ranks: which of several processes this is; each does its share of the chunks, and all return the same result.
        on_progress: called after each attack on at most 256 examples.
        task: what an output is worth: a `Task`, or text such as ``"labels"``, ``"pixels"`` or ``"number:tolerance=0.5"``.
            ``data`` then holds targets ``(N, ...)``, and the figures are mean scores, each example at its lowest.
        certificate: from `advreg.certify`, of the same model, data and threat model: what it proves is not attacked, and
            every attack tries all that it leaves. The protocol's id says so.
        engine: where the units of work run, such as ``advreg.engines.engine_of("local", 4)``; in this process by default.

    Returns:
        An `Evaluation`, with 95% intervals: exact for shares, of the bootstrap for mean scores.

    Raises:
        ModelError, DataError, ConfigError: a model, data or protocol that cannot be used as given.
        RunError: ``out`` cannot be written, or it holds the ledger of another model (other weights or outputs), data set or
            number of examples.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
        >>> x, y = torch.rand(8, 1, 2, 2), torch.tensor([0, 1] * 4)
        >>> found = evaluate(net, (x, y), "linf:0.1")
        >>> found.robust_accuracy <= found.clean_accuracy
        True
    """
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
        certificate=certificate,
    )
    with prepared.journal(out, ranks=ranks) as journal:
        spent, flags = probe_evaluation(prepared, journal)
        units = group_chunks(ranks.share(prepared.runner.examples.chunks()), prepared.runner.batching)
        run_units(prepared, units, journal, engine, on_progress)
        flags["batch"] = prepared.runner.context.batcher.size
        journal.close()
        table = journal.table()
        if journal.folder is not None and (beyond := broken_beyond(journal.folder.path, table)):
            flags["broken_beyond"] = beyond
        evaluation = summarize(
            table,
            protocol=prepared.protocol,
            stages=prepared.stage_names,
            threat=prepared.runner.threat,
            classes=prepared.runner.examples.classes,
            seed=seed,
            seconds=journal.seconds,
            spent=spent,
            flags=flags | model_probe.ledger_flags(table, len(prepared.runner.examples), FAR),
            task=prepared.runner.task,
        )
        journal.finish(evaluation, prepared.runner.model, prepared.runner.task)
    return evaluation


@dataclass(frozen=True, eq=False)
class PreparedEvaluation:
    """Everything that the arguments of an evaluation resolve to.

    Attributes:
        protocol: frozen id.
        runner: model, examples, attacks and settings.
        identity: what a resumed ledger must have in common.
    """

    protocol: str
    runner: UnitRunner
    identity: dict[str, Any]

    @property
    def stage_names(self) -> list[str]:
        """Names of the attacks in order, the clean examples first."""
        return [stage.name for stage in self.runner.stages]

    def journal(
        self, out: str | Path | None, ranks: Ranks = SINGLE, shard: Shard | None = None
    ) -> AbstractContextManager[EvaluationJournal]:
        """Open the journal in a run folder.

        Args:
            out: run folder, or None.
            ranks: which of several processes this is.
            shard: which of several shards this is.
        """
        stages = [(stage.name, stage.nearest) for stage in self.runner.stages]
        known = self.identity | self.runner.batching.header()
        return EvaluationJournal.open(
            out,
            protocol=self.protocol,
            stages=stages,
            examples=self.runner.examples,
            identity=known,
            ranks=ranks,
            shard=shard,
        )


def prepare_evaluation(
    model: nn.Module,
    data: Data,
    threat: ThreatModel | str,
    *,
    protocol: str | Protocol = DEFAULT_PROTOCOL,
    n: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    precision: Literal["float32", "bfloat16", "auto"] = "float32",
    compiled: bool = False,
    task: Task | str = CLASSES,
    shard: Shard | None = None,
    certificate: Certification | None = None,
) -> PreparedEvaluation:
    """Check model, data and threat model, and resolve the protocol, as `evaluate` does before it attacks.

    Args:
        model: the original.
        data: examples in any form of `evaluate`.
        threat: norm and eps.
        protocol: name of a protocol, or your own.
        n: how many examples, from the first; all if None.
        seed: of the random draws.
        out: run folder; an evaluation that was begun there keeps its batching.
        precision: of the fast copy.
        compiled: whether black-box attacks query a compiled copy.
        task: what an output is worth.
        shard: the shard to evaluate, if it is one.
        certificate: what it proves is not attacked.

    Returns:
        The resolved evaluation.
    """
    threat, task = threat_on(data, threat), as_task(task)
    chosen = resolve(protocol, threat.norm, task, limited=threat.limits is not None)
    if certificate is not None:
        chosen = chosen.on_unproved()
    name = chosen.id(threat, task)
    examples = examples_of(data, n, threat, input_dtype(model), task)
    model = models.among(model, examples.outputs) if task is CLASSES else model
    device = next((p.device for p in model.parameters()), examples.x.device)
    models.check_model(model, examples.x[:8].to(device), task=task, y=examples.y.to(device))
    described = models.describe(model)
    proved = None if certificate is None else proved_ids(certificate, described["sha256"], examples, threat)
    runner = UnitRunner(
        model,
        examples,
        threat,
        stages=(CLEAN_STAGE, *chosen.stages),
        seed=seed,
        task=task,
        batching=recorded_batching(out, name, shard) or batching_on(device),
        device=device,
        precision=precision,
        compiled=compiled,
        proved=proved,
    )
    target = runner.context.target.choice
    identity = {"model": described, "n": len(examples), "seed": seed, "target": target}
    return PreparedEvaluation(name, runner, identity)


def probe_evaluation(
    prepared: PreparedEvaluation, journal: EvaluationJournal
) -> tuple[tuple[int, int], dict[str, Any]]:
    """Measure the model's properties on the first examples, after a check that it is the model of the journal.

    Args:
        prepared: the evaluation.
        journal: its journal.

    Returns:
        Example-forwards and example-backwards spent, and flags.

    Raises:
        RunError: a model with these weights and other outputs.
    """
    runner = prepared.runner
    x, y = runner.examples.x, runner.examples.y
    rows = journal.first_clean_rows(IDENTIFIED)
    if not matches_ledger(runner.model, x, y, rows, runner.task):
        raise RunError(
            f"{journal.folder} holds the ledger of a model with the same weights and other outputs (was forward() changed?); "
            "use another folder, or remove this one to measure again"
        )
    x, y = x[:SAMPLE].to(runner.device), y[:SAMPLE].to(runner.device)
    probed = model_probe.probe_model(runner.model, x, y, runner.task)
    coarse = measure_coarseness(runner.model, x, runner.threat, runner.seed)
    flags: dict[str, Any] = {
        "target": runner.context.target.choice,
        "answers_only": isinstance(runner.model, models.InferenceOnlyModel),
        **record_coarseness(coarse),
        **model_probe.model_flags(probed),
    }
    return (_MEMORY + probed.forwards + getattr(coarse, "forwards", 0), probed.backwards), flags


def group_chunks(chunks: Sequence[Tensor], batching: Batching) -> list[Unit]:
    """Return the chunks in groups that are attacked together: the units of work.

    Args:
        chunks: example ids of each chunk, all in a row.
        batching: number of chunks in a group.

    Returns:
        Units, in order.
    """
    ranges = [range(int(ids[0]), int(ids[-1]) + 1) for ids in chunks]
    return [tuple(ranges[first : first + batching.chunks]) for first in range(0, len(ranges), batching.chunks)]


def run_units(
    prepared: PreparedEvaluation,
    units: Sequence[Unit],
    journal: EvaluationJournal,
    engine: MapUnits,
    on_progress: Callable[[EvaluationProgress], None] | None,
) -> None:
    """Run the units that the journal lacks on an engine, and write what comes back at once.

    Args:
        prepared: the evaluation.
        units: units of work.
        journal: journal that receives the batches.
        engine: where the units run.
        on_progress: called after each batch.

    Raises:
        ModelError: the model changed its own weights.
    """
    for batch in engine(journal.work(units), prepared.runner):
        journal.write(batch)
        if on_progress and batch.rows:
            on_progress(_progress_of(batch, journal))
    _require_unchanged_weights(prepared.runner.model, prepared.identity["model"]["sha256"])


def _progress_of(batch: AttackedBatch, journal: EvaluationJournal) -> EvaluationProgress:
    total, survivors = len(journal.examples), journal.started - journal.broken
    return EvaluationProgress(batch.stage, journal.started, total, survivors, journal.total_seconds, journal.share)


def _require_unchanged_weights(model: nn.Module, sha256: str) -> None:
    if models.describe(model)["sha256"] != sha256:
        raise ModelError(
            "the model changed its own weights or buffers during the evaluation, so the figures mix several models; "
            "freeze what it updates in eval mode, then measure again in another folder"
        )
