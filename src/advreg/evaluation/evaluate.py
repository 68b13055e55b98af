"""`evaluate`: freeze the model, run the protocol's attacks on the survivors, verify on the original model, write a ledger.

examples -> chunks of 1,024 -> clean, attack 1, attack 2, ... each on the survivors, in batches -> rows -> ledger -> figures
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from advreg import models
from advreg._deprecation import renamed_attribute
from advreg.attacks import CraftedExamples
from advreg.attacks.model import input_dtype
from advreg.attacks.verification import require_finite, score_points
from advreg.distributed import SINGLE, Ranks
from advreg.errors import AdvregError, ModelError, RunError
from advreg.evaluation import model_probe
from advreg.evaluation.batch_sizing import AdaptiveBatcher, batching_on, is_out_of_memory, max_batch_size
from advreg.evaluation.coarse_outputs import measure_coarseness, record_coarseness
from advreg.evaluation.examples import Examples, examples_of, threat_on
from advreg.evaluation.journal import EvaluationJournal, recorded_batching
from advreg.evaluation.ledger_columns import FAR as FAR
from advreg.evaluation.ledger_columns import columns_of
from advreg.evaluation.looseness import broken_beyond
from advreg.evaluation.model_identity import matches_ledger
from advreg.evaluation.protocols import DEFAULT_PROTOCOL, Protocol, ProtocolStage, resolve
from advreg.evaluation.proved_examples import mark_proved, proved_ids
from advreg.evaluation.summarize import summarize
from advreg.pass_counting import count_passes
from advreg.plugins import filter_kwargs, first_line
from advreg.results.evaluation import Evaluation
from advreg.results.ledger_rows import CLEAN, Batching, Row, broken_ids, decided_ids, next_ids, rows_of, units
from advreg.tasks import CLASSES, Task, as_task
from advreg.threat import ThreatModel

if TYPE_CHECKING:
    from advreg.data.adapters import Data
    from advreg.results.certificate import Certification


_NEXT_SEED = 1_000_003  # difference between the seeds of two stages
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
    threat, task = threat_on(data, threat), as_task(task)
    chosen = resolve(protocol, threat.norm, task, limited=threat.limits is not None)
    if certificate is not None:
        chosen = chosen.on_unproved()
    name = chosen.id(threat, task)
    examples = examples_of(data, n, threat, input_dtype(model), task)
    model = models.among(model, examples.outputs) if task is CLASSES else model
    device = next((p.device for p in model.parameters()), examples.x.device)
    models.check_model(model, examples.x[:8].to(device), task=task, y=examples.y.to(device))
    sample = examples.x[:64].to(device), examples.y[:64].to(device)
    target = models.freeze(model, sample[0], precision=precision, compiled=compiled)
    batching = recorded_batching(out, name) or batching_on(device)
    batcher = AdaptiveBatcher(max_batch_size(target, sample[0], batching.rows))
    stages = (CLEAN_STAGE, *chosen.stages)
    names = [stage.name for stage in stages]
    shares = [(stage.name, stage.nearest) for stage in stages]
    identity: dict[str, Any] = {
        "model": models.describe(model),
        "n": len(examples),
        "seed": seed,
        "target": target.choice,
    }
    proved = None if certificate is None else proved_ids(certificate, identity["model"]["sha256"], examples, threat)
    context = EvaluationContext(target, examples, threat, seed, device, batcher, batching, task, proved)
    known = identity | batching.header()
    with EvaluationJournal.open(
        out, protocol=name, stages=shares, examples=examples, identity=known, ranks=ranks
    ) as journal:
        _require_same_outputs(model, examples, journal, task)
        probed = model_probe.probe_model(model, *sample, task)
        for chunks in group_chunks(ranks.share(examples.chunks()), context.batching):
            attack_chunks(context, stages, chunks, journal, on_progress)
        _require_unchanged_weights(model, identity["model"]["sha256"])
        journal.close()
        blind, coarse = isinstance(model, models.InferenceOnlyModel), measure_coarseness(model, sample[0], threat, seed)
        flags: dict[str, Any] = {
            "target": target.choice,
            "batch": batcher.size,
            "answers_only": blind,
            **record_coarseness(coarse),
        }
        if journal.folder is not None and (beyond := broken_beyond(journal.folder.path, journal.rows)):
            flags["broken_beyond"] = beyond
        evaluation = summarize(
            journal.rows,
            protocol=name,
            stages=names,
            threat=threat,
            classes=examples.classes,
            seed=seed,
            seconds=journal.seconds,
            spent=(_MEMORY + probed.forwards + getattr(coarse, "forwards", 0), probed.backwards),
            flags=model_probe.flags_of(probed, journal.rows, len(examples), FAR, **flags),
            task=task,
        )
        journal.finish(evaluation, model, task)
    return evaluation


def _require_same_outputs(model: nn.Module, examples: Examples, journal: EvaluationJournal, task: Task) -> None:
    if not matches_ledger(model, examples.x, examples.y, journal.known.values(), task):
        raise RunError(
            f"{journal.folder} holds the ledger of a model with the same weights and other outputs (was forward() changed?); "
            "use another folder, or remove this one to measure again"
        )


def _require_unchanged_weights(model: nn.Module, sha256: str) -> None:
    if models.describe(model)["sha256"] != sha256:
        raise ModelError(
            "the model changed its own weights or buffers during the evaluation, so the figures mix several models; "
            "freeze what it updates in eval mode, then measure again in another folder"
        )


@dataclass(frozen=True, eq=False)
class EvaluationContext:
    """Fast copy, examples and settings that all attacks of an evaluation share, and what a certificate proves."""

    target: models.FastCopy
    examples: Examples
    threat: ThreatModel
    seed: int
    device: torch.device
    batcher: AdaptiveBatcher
    batching: Batching = field(default_factory=Batching)
    task: Task = CLASSES
    proved: frozenset[int] | None = None


def group_chunks(chunks: Sequence[Tensor], batching: Batching) -> list[Sequence[Tensor]]:
    """Return the chunks in groups that are attacked together.

    Args:
        chunks: example ids of each chunk.
        batching: number of chunks in a group.

    Returns:
        Groups of chunks, in order.
    """
    return [chunks[first : first + batching.chunks] for first in range(0, len(chunks), batching.chunks)]


def attack_chunks(
    context: EvaluationContext,
    stages: tuple[ProtocolStage, ...],
    chunks: Sequence[Tensor],
    journal: EvaluationJournal,
    on_progress: Callable[[EvaluationProgress], None] | None = None,
) -> None:
    """Run each attack on the survivors of those before it; the survivors of all these chunks share batches.

    The examples of an attack are chosen in each chunk alone, so that the grouping changes no verdict. Batches that the journal
    already holds are not run again.

    Args:
        context: fast copy, examples and settings of the evaluation.
        stages: attacks in order, the clean stage first.
        chunks: example ids of each chunk ``(B,)``.
        journal: journal that receives the rows.
        on_progress: called after each batch.
    """
    states = [_ChunkState(ids.tolist()) for ids in chunks]
    size = sum(len(ids) for ids in chunks)
    for k, stage in enumerate(stages):
        while tried := [
            i for state in states for i in next_ids(state.past, (stage.name, stage.nearest), state.survivors)
        ]:
            parts = units(tried, context.batching.rows)
            for j, unit in enumerate(parts, 1):
                rows = _run_stage(context, stage, stage_seed(context.seed, k), torch.tensor(unit), journal)
                for state in states:
                    state.add(rows)
                if on_progress:
                    started = sum(row["attack"] == CLEAN for state in states for row in state.past)
                    ahead = size * (k + j / len(parts)) / len(stages) - started
                    on_progress(_progress_of(context, stage, journal, ahead))
            for state in states:
                state.drop_decided()


class _ChunkState:
    """Rows of a chunk so far, and the examples that no attack has broken."""

    def __init__(self, ids: list[int]) -> None:
        self.survivors, self._ids = ids, set(ids)
        self.past: list[Row] = []

    def add(self, rows: list[Row]) -> None:
        """Add the rows of this chunk, and leave out those of others."""
        self.past += [row for row in rows if row["id"] in self._ids]

    def drop_decided(self) -> None:
        """Remove broken and proved examples from the survivors."""
        decided = decided_ids(self.past)
        self.survivors = [i for i in self.survivors if i not in decided]


def _progress_of(
    context: EvaluationContext, stage: ProtocolStage, journal: EvaluationJournal, ahead: float
) -> EvaluationProgress:
    """Return the progress; ``ahead`` is the work beyond the number of examples started, in examples (negative: behind)."""
    done, total = sum(row["attack"] == CLEAN for row in journal.rows), len(context.examples)
    left = done - len(broken_ids(journal.rows))
    return EvaluationProgress(stage.name, done, total, left, journal.total_seconds, (done + ahead) / total)


def stage_seed(seed: int, k: int) -> int:
    """Return the seed of stage ``k`` (the clean examples are stage 0), so that no stage repeats the draws of another.

    Args:
        seed: seed of the evaluation.
        k: number of the stage.

    Returns:
        The seed.
    """
    return seed + max(k - 1, 0) * _NEXT_SEED


def _run_stage(
    context: EvaluationContext, stage: ProtocolStage, seed: int, ids: Tensor, journal: EvaluationJournal
) -> list[Row]:
    """Return the rows of one attack on these examples: those in the journal, or new ones in batches that fit into memory."""
    known = journal.find(stage.name, ids)
    if known is not None:
        return known
    began = time.perf_counter()
    done = context.batcher.of(ids, lambda batch: _attack_and_verify(context, stage, seed, batch))
    rows, points = [row for rows, _ in done for row in rows], torch.cat([points for _, points in done])
    journal.write(stage.name, ids, rows, points, time.perf_counter() - began)
    return rows


def _attack_and_verify(
    context: EvaluationContext, stage: ProtocolStage, seed: int, ids: Tensor
) -> tuple[list[Row], Tensor]:
    """Run one attack on these examples and verify its points on the original model."""
    x, y = context.examples.x[ids].to(context.device), context.examples.y[ids].to(context.device)
    points, cost = _propose(context, stage, seed, x, y, ids)
    score, outputs = score_points(context.target, x, points, y, context.threat, context.task)
    if stage.name == CLEAN:
        require_finite(outputs)
    cost, distance = cost + torch.tensor([1, 0]), context.threat.distance(points, x)
    columns = columns_of(context.task, y, score, outputs, distance, cost, ids=ids)
    rows = rows_of(stage.name, columns)
    if stage.name == CLEAN and context.proved is not None:
        rows = mark_proved(rows, context.proved)
    return rows, points.cpu()


def _propose(
    context: EvaluationContext, stage: ProtocolStage, seed: int, x: Tensor, y: Tensor, ids: Tensor
) -> tuple[Tensor, Tensor]:
    """Return an attack's points and the passes of each example ``(B, 2)``; hooks count those of attacks that do not."""
    options = filter_kwargs(stage.attack, seed=seed, ids=ids, batch_size=context.batching.rows)
    if context.task is not CLASSES:
        options |= filter_kwargs(stage.attack, task=context.task)
    try:
        with count_passes(*context.target.counted_modules) as passes:
            found = stage.attack(context.target, x, y, context.threat, **options)
    except AdvregError:
        raise
    except Exception as cause:  # a model or a user's attack may raise anything
        if is_out_of_memory(cause):
            raise
        where = f"{stage.name}, examples {int(ids[0])} to {int(ids[-1])}"
        raise ModelError(f"the model failed under attack ({where}): {first_line(cause)}") from cause
    points: Tensor = found.x_adv.detach()
    if points.shape != x.shape:
        raise ModelError(
            f"{stage.name} returned x_adv {tuple(points.shape)} for inputs {tuple(x.shape)}; return one for each"
        )
    cost = getattr(found, "cost", None)
    return points, passes.shares(len(x)) if cost is None else cost.cpu()


def _clean_points(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> CraftedExamples:
    """Return the clean points, so that clean errors are verified as an attack's points."""
    return CraftedExamples(x, 0, 0)


CLEAN_STAGE = ProtocolStage(CLEAN, _clean_points, needs_gradient=False)
