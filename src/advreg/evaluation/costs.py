"""What an evaluation will cost, before it runs: a few examples under the whole protocol, attack by attack."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from advreg import runtime
from advreg.attacks.model import query_model
from advreg.evaluation.attack_units import attack_unit
from advreg.evaluation.batch_sizing import example_bytes
from advreg.evaluation.evaluate import PreparedEvaluation, prepare_evaluation
from advreg.evaluation.protocols import Protocol
from advreg.results.ledger_rows import UNIT
from advreg.results.ledger_table import LedgerTable, table_of
from advreg.tasks import CLASSES, Task
from advreg.threat import ThreatModel

if TYPE_CHECKING:
    from advreg.data.adapters import Data


@dataclass(frozen=True)
class StageCosts:
    """One attack of a protocol, as a sample of the examples shows it.

    Attributes:
        name: of the attack.
        share: share of all examples that it is run on.
        forwards, backwards: mean passes of such an example, verification included.
        most_forwards, most_backwards: largest passes of an example in the sample.
    """

    name: str
    share: float
    forwards: float
    backwards: float
    most_forwards: int
    most_backwards: int


@dataclass(frozen=True)
class EvaluationCosts:
    """Passes, time and memory of an evaluation.

    Attributes:
        protocol: frozen id.
        n: examples of the evaluation.
        sample: examples that were measured.
        stages: the attacks in order, the clean examples first.
        bytes: memory of one example under attack.
        rows: examples that are attacked together.
    """

    protocol: str
    n: int
    sample: int
    stages: tuple[StageCosts, ...]
    bytes: int
    rows: int

    @property
    def forwards(self) -> int:
        """Expected example-forwards: the share of survivors is that of the sample."""
        return round(self.n * sum(stage.share * stage.forwards for stage in self.stages))

    @property
    def backwards(self) -> int:
        """Expected example-backwards."""
        return round(self.n * sum(stage.share * stage.backwards for stage in self.stages))

    @property
    def most(self) -> tuple[int, int]:
        """Forwards and backwards if every attack were run on every example at its largest cost."""
        return (
            self.n * sum(stage.most_forwards for stage in self.stages),
            self.n * sum(stage.most_backwards for stage in self.stages),
        )

    @property
    def unmeasured(self) -> list[str]:
        """Attacks that no example of the sample reached: their cost is not in the figures."""
        return [stage.name for stage in self.stages if not stage.share]


def evaluation_costs(
    model: nn.Module,
    data: Data,
    threat: ThreatModel | str,
    *,
    protocol: str | Protocol,
    n: int | None = None,
    sample: int = 32,
    seed: int = 0,
    task: Task | str = CLASSES,
) -> EvaluationCosts:
    """Run a protocol on the first examples, and return what it will cost on all.

    Args:
        model: the original.
        data: examples in any form of `advreg.evaluate`.
        threat: norm and eps.
        protocol: name of a protocol, or your own.
        n: how many examples the evaluation will have; all by default.
        sample: how many of them are measured.
        seed: of the random draws.
        task: what an output is worth.

    Returns:
        The costs.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
        >>> data = torch.rand(8, 1, 2, 2), torch.tensor([0, 1] * 4)
        >>> costs = evaluation_costs(net, data, "linf:0.1", protocol="fgsm")
        >>> costs.forwards <= costs.most[0]
        True
    """
    prepared = prepare_evaluation(model, data, threat, protocol=protocol, n=n, seed=seed, task=task)
    runner = prepared.runner
    count = min(sample, len(runner.examples))
    rows = [row for batch in attack_unit(runner.context, runner.stages, [range(count)]) for row in batch.rows]
    stages = tuple(_stage_costs(table_of(rows), name, count) for name in prepared.stage_names)
    size = example_bytes(runner.context.target, runner.examples.x[:1].to(runner.device))
    return EvaluationCosts(prepared.protocol, len(runner.examples), count, stages, size, runner.context.batcher.size)


def _stage_costs(table: LedgerTable, name: str, count: int) -> StageCosts:
    mine = table.select(table.of(name))
    if not len(mine):
        return StageCosts(name, 0.0, 0.0, 0.0, 0, 0)
    forwards, backwards = mine["forwards"], mine["backwards"]
    return StageCosts(
        name,
        share=len(mine) / count,
        forwards=float(forwards.mean()),
        backwards=float(backwards.mean()),
        most_forwards=int(forwards.max()),
        most_backwards=int(backwards.max()),
    )


@dataclass(frozen=True)
class Speed:
    """Seconds of a pass on one machine, at the batch of a unit of work.

    Attributes:
        forward, backward: seconds of an example-forward, and of an example-backward beside it.
        machine: versions, processor and threads.
    """

    forward: float
    backward: float
    machine: Mapping[str, Any]

    def seconds(self, forwards: float, backwards: float) -> float:
        """Return the time of these passes.

        Args:
            forwards: example-forwards.
            backwards: example-backwards.
        """
        return forwards * self.forward + backwards * self.backward


def measure_speed(prepared: PreparedEvaluation, seconds: float = 10.0) -> Speed:
    """Time forwards and backwards of the fast copy on a batch, the median of several.

    Args:
        prepared: the evaluation.
        seconds: time to spend.

    Returns:
        The speed of this machine.
    """
    runner = prepared.runner
    x = runner.examples.x[:UNIT].to(runner.device)
    target = runner.context.target

    def forward() -> None:
        with torch.no_grad():
            query_model(target, x)

    def both() -> None:
        inputs = x.clone().requires_grad_(True)
        query_model(target, inputs).sum().backward()  # type: ignore[no-untyped-call]

    one, two = (_median_seconds(work, x, seconds / 2) / len(x) for work in (forward, both))
    return Speed(one, max(two - one, 0.0), runtime.environment())


def _median_seconds(work: Callable[[], None], x: Tensor, seconds: float) -> float:
    work()
    times: list[float] = []
    while not times or (sum(times) < seconds and len(times) < 100):
        runtime.synchronize(x.device)
        began = time.perf_counter()
        work()
        runtime.synchronize(x.device)
        times.append(time.perf_counter() - began)
    return sorted(times)[math.ceil(len(times) / 2) - 1]
