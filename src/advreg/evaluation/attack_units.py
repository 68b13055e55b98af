"""The unit of work of an evaluation: all attacks of a protocol on one group of chunks, as a stream of verified batches.

unit -> clean, attack 1, attack 2, ... each on the survivors, at most 256 examples at once -> verified rows -> the journal
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from advreg import models
from advreg.attacks import CraftedExamples
from advreg.attacks.verification import require_finite, score_points
from advreg.errors import AdvregError, ModelError
from advreg.evaluation.batch_sizing import AdaptiveBatcher, is_out_of_memory, max_batch_size
from advreg.evaluation.examples import Examples
from advreg.evaluation.ledger_columns import columns_of
from advreg.evaluation.protocols import ProtocolStage
from advreg.evaluation.proved_examples import mark_proved
from advreg.pass_counting import count_passes
from advreg.plugins import filter_kwargs, first_line
from advreg.results.ledger_order import next_ids
from advreg.results.ledger_rows import CLEAN, UNIT, Batching, Row, rows_of, units
from advreg.results.ledger_table import LedgerTable, table_of
from advreg.tasks import CLASSES, Task
from advreg.threat import ThreatModel

_NEXT_SEED = 1_000_003  # difference between the seeds of two stages
SAMPLE = 64
"""Examples that measure the fast copy: folding, precision, memory."""

Unit = tuple[range, ...]
"""Ids of the chunks that are attacked together."""


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


@dataclass(frozen=True, eq=False)
class AttackedBatch:
    """One attack on at most 256 examples of a unit.

    Attributes:
        stage: name of the attack.
        rows: verified rows, in increasing id.
        points: adversarial points of the examples with an id below 256, for pictures; None where there are none.
        seconds: wall time.
        unit: first id of the unit.
        share: share of the unit's attacks that are done; every attack counts the same.
    """

    stage: str
    rows: list[Row]
    points: NDArray[Any] | None = None
    seconds: float = 0.0
    unit: int = 0
    share: float = 0.0


@dataclass(eq=False)
class UnitRunner:
    """Runs a protocol on units; it can be sent to another process, which makes its own fast copy.

    Attributes:
        model: the original, which verifies.
        examples, threat, stages, seed, task: what is attacked, and how.
        batching: rows that are attacked together.
        device: of the attacks.
        precision, compiled: of the fast copy.
        proved: ids that a certificate proves, which are not attacked; None without a certificate.
    """

    model: nn.Module
    examples: Examples
    threat: ThreatModel
    stages: tuple[ProtocolStage, ...]
    seed: int
    task: Task
    batching: Batching
    device: torch.device
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    compiled: bool = False
    proved: frozenset[int] | None = None

    @cached_property
    def context(self) -> EvaluationContext:
        """The fast copy and what it needs, made on first use."""
        sample = self.examples.x[:SAMPLE].to(self.device)
        target = models.freeze(self.model, sample, precision=self.precision, compiled=self.compiled)
        batcher = AdaptiveBatcher(max_batch_size(target, sample, self.batching.rows))
        return EvaluationContext(
            target, self.examples, self.threat, self.seed, self.device, batcher, self.batching, self.task, self.proved
        )

    def __call__(self, unit: Unit, done: Sequence[AttackedBatch]) -> Iterator[AttackedBatch]:
        """Yield the batches of a unit that are missing, then one without rows."""
        yield from attack_unit(self.context, self.stages, unit, [row for batch in done for row in batch.rows])
        yield AttackedBatch("", [], unit=unit[0][0], share=1.0)

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields without the fast copy; its precision is the same in every process."""
        state = {name: value for name, value in vars(self).items() if name != "context"}
        if self.precision == "auto" and "context" in vars(self):
            state["precision"] = self.context.target.choice.split()[0]
        return state | {"task": None if self.task is CLASSES else self.task}  # classification is one object

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the fields."""
        vars(self).update(state | {"task": state["task"] or CLASSES})


def attack_unit(
    context: EvaluationContext,
    stages: Sequence[ProtocolStage],
    unit: Sequence[Sequence[int]],
    known: Sequence[Row] = (),
) -> Iterator[AttackedBatch]:
    """Run each attack on the survivors of those before it; the survivors of all chunks of the unit share batches.

    The examples of an attack are chosen in each chunk alone, so that the grouping changes no verdict.

    Args:
        context: fast copy, examples and settings of the evaluation.
        stages: attacks in order, the clean stage first.
        unit: example ids of each chunk, increasing.
        known: rows of earlier runs; their batches are not run again.

    Yields:
        Batches, as they are verified.
    """
    found = {(row["attack"], row["id"]): row for row in known}
    states = [_ChunkState(ids) for ids in unit]
    for k, stage in enumerate(stages):
        while tried := [i for state in states for i in state.next_ids(stage)]:
            parts = units(tried, context.batching.rows)
            for j, ids in enumerate(parts, 1):
                rows = [found[key] for i in ids if (key := (stage.name, i)) in found]
                if len(rows) < len(ids):
                    share = (k + j / len(parts)) / len(stages)
                    batch = _run_stage(context, stage, stage_seed(context.seed, k), ids, (unit[0][0], share))
                    rows = batch.rows
                    yield batch
                for state in states:
                    state.add(rows)
        for state in states:
            state.drop_decided()


class _ChunkState:
    """Rows of a chunk so far, and the examples that no attack has broken."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.survivors = torch.tensor(list(ids)).numpy()
        self._ids = set(ids)
        self._past: LedgerTable = table_of([])

    def next_ids(self, stage: ProtocolStage) -> list[int]:
        """Return the ids that an attack tries next."""
        return [int(i) for i in next_ids(self._past, (stage.name, stage.nearest), self.survivors)]

    def add(self, rows: list[Row]) -> None:
        """Add the rows of this chunk, and leave out those of others."""
        mine = [row for row in rows if row["id"] in self._ids]
        self._past = self._past.joined_with(table_of(mine)) if mine else self._past

    def drop_decided(self) -> None:
        """Remove broken and proved examples from the survivors."""
        decided = set(self._past.decided_ids.tolist())
        self.survivors = self.survivors[[i not in decided for i in self.survivors.tolist()]]


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
    context: EvaluationContext, stage: ProtocolStage, seed: int, ids: list[int], place: tuple[int, float]
) -> AttackedBatch:
    """Run one attack on these examples, in batches that fit into memory."""
    began = time.perf_counter()
    done = context.batcher.of(torch.tensor(ids), lambda batch: _attack_and_verify(context, stage, seed, batch))
    rows, points = [row for rows, _ in done for row in rows], torch.cat([points for _, points in done])
    pictured = points[: sum(i < UNIT for i in ids)]  # ids increase
    shown = pictured.numpy() if len(pictured) else None
    return AttackedBatch(stage.name, rows, shown, time.perf_counter() - began, *place)


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
