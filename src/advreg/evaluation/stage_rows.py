"""Attacks on some examples without a folder: for curves, and for what a certification leaves undecided."""

from __future__ import annotations

from torch import Tensor, nn

from advreg import models
from advreg.evaluation.attack_units import EvaluationContext, attack_unit
from advreg.evaluation.batch_sizing import AdaptiveBatcher, max_batch_size
from advreg.evaluation.examples import Examples
from advreg.evaluation.protocols import ProtocolStage
from advreg.results.ledger_rows import UNIT, Row
from advreg.tasks import CLASSES, Task
from advreg.threat import ThreatModel


def context_of(
    model: nn.Module, examples: Examples, threat: ThreatModel, seed: int, task: Task = CLASSES
) -> EvaluationContext:
    """Return the fast copy, the examples and the settings of the attacks.

    Args:
        model: the original model, checked and in eval mode.
        examples: the examples; ids are their rows.
        threat: the threat model.
        seed: of the attacks' draws.
        task: what an output is worth.

    Returns:
        The context.
    """
    device = next((p.device for p in model.parameters()), examples.x.device)
    sample = examples.x[:64].to(device)
    target = models.freeze(model, sample)
    batcher = AdaptiveBatcher(max_batch_size(target, sample, UNIT))
    return EvaluationContext(target, examples, threat, seed, device, batcher, task=task)


def stage_rows(context: EvaluationContext, stages: tuple[ProtocolStage, ...], ids: Tensor) -> list[Row]:
    """Return the rows of these attacks on these examples, each on the survivors of those before it.

    Args:
        context: from `context_of`.
        stages: the attacks.
        ids: of the examples ``(B,)``.

    Returns:
        One row for each attack and example that it was run on.
    """
    return [row for batch in attack_unit(context, stages, [ids.tolist()]) for row in batch.rows]
