"""What training measures of the outputs in any task: scores, and the outputs of a constant network beside them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advreg.attacks.model import query_model
from advreg.attacks.pgd import pgd
from advreg.module_modes import eval_mode
from advreg.tasks import CLASSES, Task
from advreg.threat import ThreatModel
from advreg.training.learning import LearningRecord


def score_sum(task: Task, outputs: Tensor, y: Tensor) -> Tensor:
    """Return the summed scores of a batch, a scalar: the number of correct predictions of a classifier.

    Args:
        task: what an output is worth.
        outputs: outputs ``(B, ...)``.
        y: targets ``(B, ...)``.

    Example:
        >>> score_sum(CLASSES, torch.eye(3), torch.tensor([0, 1, 1])).item()
        2
    """
    return (outputs.argmax(1) == y).sum() if task is CLASSES else task.rate(outputs, y).sum()


def attacked_score_sum(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, task: Task, *, steps: int, ids: Tensor | None = None
) -> float:
    """Return the summed scores under PGD on the loss of training: the number of examples that it does not break.

    Args:
        model: the network in eval mode.
        x: inputs ``(B, ...)``.
        y: targets ``(B, ...)``.
        threat: norm, eps and box.
        task: what an output is worth.
        steps: gradient steps.
        ids: example ids ``(B,)``; positions in the batch if None.

    Returns:
        The sum.
    """
    if task is CLASSES:
        return int((~pgd(model, x, y, threat, steps=steps, ids=ids).broken).sum())
    found = pgd(model, x, y, threat, steps=steps, ids=ids, objective=task.training_loss, task=task)
    return float((~found.broken if found.score is None else found.score).sum())


def measure_learning(model: nn.Module, x: Tensor, y: Tensor, task: Task) -> LearningRecord:
    """Return loss and summed scores on clean examples, beside those of constant outputs; the model's modes are restored.

    Args:
        model: the network.
        x: clean examples ``(n, ...)``.
        y: their targets ``(n, ...)``.
        task: what an output is worth, not classification.

    Returns:
        Loss and scores of the network, of its mean output, and the loss of zeros.
    """
    with eval_mode(model), torch.no_grad():
        outputs = query_model(model, x)
        mean, zero = outputs.mean(0, keepdim=True).expand_as(outputs), torch.zeros_like(outputs)
        loss, constant, origin = (float(task.training_loss(z, y).mean()) for z in (outputs, mean, zero))
        right, luck = (float(score_sum(task, z, y)) for z in (outputs, mean))
    return LearningRecord(loss, right, constant_loss=constant, constant_right=luck, zero_loss=origin)


def detect_constant_outputs(record: LearningRecord, examples: int, when: str) -> str | None:
    """Return the sign that a network uses nothing of its inputs, or None: it is no better than its own mean output.

    Args:
        record: loss and scores of the network, and of its mean output.
        examples: number of examples.
        when: of the training, for the sentence.

    Example:
        >>> record = LearningRecord(0.99, 10, constant_loss=1.0, constant_right=10)
        >>> detect_constant_outputs(record, 100, "at the end")
        "the loss is 0.99, no less than the 1 of the network's own mean output, at the end (mean score 10%)"
        >>> detect_constant_outputs(LearningRecord(0.5, 60, constant_loss=1.0, constant_right=10), 100, "at the end")
    """
    limit = record.constant_loss - 0.02 * abs(record.constant_loss)
    if record.right > record.constant_right or record.loss < limit:
        return None
    return (
        f"the loss is {record.loss:.3g}, no less than the {record.constant_loss:.3g} of the network's own mean output, {when} "
        f"(mean score {record.right / examples:.0%})"
    )


def detect_large_loss(record: LearningRecord, when: str) -> str | None:
    """Return the sign that a network has diverged although its weights are finite, or None: a hundred times the loss of zeros.

    Args:
        record: loss of the network, and of outputs that are all zero.
        when: of the training, for the sentence.

    Example:
        >>> detect_large_loss(LearningRecord(5e4, 0, zero_loss=1.0), "after step 20 of epoch 1")
        'the loss on clean training examples is 5e+04, that of zeros 1, after step 20 of epoch 1'
    """
    if record.zero_loss <= 0 or record.loss <= 100 * record.zero_loss:
        return None
    return f"the loss on clean training examples is {record.loss:.3g}, that of zeros {record.zero_loss:.3g}, {when}"
