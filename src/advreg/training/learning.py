"""Detects training that learns nothing: a network with constant predictions has a loss of ln K, whatever its weights.

Adversarial training ends there if eps is too large at the start; equal robust and clean accuracy then hide the failure.
Accuracy that a constant network reaches by luck is chance level: it selects no best epoch and is no sign of anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy import special
from torch import Tensor, nn
from torch.nn import functional as F

from advreg.attacks.model import query_model
from advreg.module_modes import eval_mode
from advreg.runs import RunFolder
from advreg.trainer.checkpoint import METRICS

NOT_LEARNING = "not learning"
MESSAGE = "said"  # key of the guard's sentence in metrics.jsonl
AT_END = "at the end of the training"
REMEDY = (
    "none: lower optimizer.lr, let eps grow from 0 (policy warmup, or train.guard = 'repair'), "
    "or check that labels belong to their inputs"
)

_CONSTANT = 0.98  # of a constant network's loss: below it, something was learned
_BLOWN_UP = 100  # times a constant network's loss: no trained network is so sure of so many errors
_ONE_CLASS = 0.9  # the same, where a single class is predicted


@dataclass(frozen=True)
class LearningRecord:
    """What a network achieves on some clean examples in eval mode.

    Attributes:
        loss: mean cross-entropy, or the task's loss.
        right: number of correct predictions, or the sum of scores.
        predicted: number of classes that are predicted at all.
        constant_loss, constant_right: of the network's own mean output; 0 for classes, where the labels give them.
        zero_loss: of outputs that are all zero; 0 for classes.
    """

    loss: float
    right: float
    predicted: float = 2.0
    constant_loss: float = 0.0
    constant_right: float = 0.0
    zero_loss: float = 0.0


def measure_clean(model: nn.Module, x: Tensor, y: Tensor) -> LearningRecord:
    """Return loss and number of correct predictions on clean examples; the model's modes are restored.

    Args:
        model: the network.
        x: clean examples ``(n, ...)``.
        y: their labels ``(n,)``.
    """
    with eval_mode(model), torch.no_grad():
        logits = query_model(model, x)
    found = logits.argmax(1)
    return LearningRecord(float(F.cross_entropy(logits, y)), float((found == y).sum()), float(len(set(found.tolist()))))


def class_shares(y: Tensor) -> Tensor:
    """Return the share of each class that occurs, in float64.

    Args:
        y: labels ``(n,)``.

    Example:
        >>> class_shares(torch.tensor([0, 2, 2, 2])).tolist()
        [0.25, 0.75]
    """
    counts = torch.bincount(y.cpu()).double()
    return counts[counts > 0] / len(y)


def chance_level(y: Tensor) -> float:
    """Return the largest accuracy that shows nothing learned: its exact 95% interval reaches the largest class's share.

    Args:
        y: labels ``(n,)``.

    Example:
        >>> chance_level(torch.arange(100) % 10)  # 16 of 100 right may be luck, 17 are not
        0.16
    """
    return _chance_count(y) / len(y)


def _chance_count(y: Tensor) -> int:
    return math.ceil(float(special.bdtrik(0.975, len(y), float(class_shares(y).max()))))


def detect_not_learning(record: LearningRecord, y: Tensor, when: str) -> str | None:
    """Return the sign that a network has learned nothing, or None.

    The best constant prediction is the share of each class, and its loss the entropy of the labels, ``ln K`` for K classes of
    equal size. Both must hold: accuracy is at `chance_level`, and the loss is no lower than 98% of the entropy, or than 90%
    where one class alone is predicted.

    Args:
        record: loss and correct predictions of the network on clean examples.
        y: their labels ``(B,)``.
        when: of the training, for the sentence.

    Example:
        >>> y = torch.arange(100) % 10
        >>> detect_not_learning(LearningRecord(2.31, 10), y, "after a third of the training")
        'the loss is ln 10 = 2.30, that of a constant network after a third of the training (accuracy 10%)'
        >>> detect_not_learning(LearningRecord(2.0, 30), y, "at the end")
    """
    shares = class_shares(y)
    entropy = float(-(shares * shares.log()).sum())
    limit = _ONE_CLASS if record.predicted == 1 else _CONSTANT
    if not entropy or record.right > _chance_count(y) or record.loss < limit * entropy:
        return None
    loss = _comparison(record.loss, entropy, len(shares))
    classes = ", one class predicted" if record.predicted == 1 else ""
    return f"the loss is {loss} a constant network {when} (accuracy {record.right / len(y):.0%}{classes})"


def _comparison(loss: float, entropy: float, classes: int) -> str:
    """Return the loss beside that of a constant network."""
    if loss < _CONSTANT * entropy:
        return f"{loss:.2f}, little less than the {entropy:.2f} of"
    if max(loss, math.log(classes)) < entropy / _CONSTANT:
        return f"ln {classes} = {math.log(classes):.2f}, that of"
    return f"{loss:.2f}, no less than the {entropy:.2f} of"


def detect_blow_up(loss: float, y: Tensor, when: str) -> str | None:
    """Return the sign that a network has diverged although its weights are still finite, or None.

    Args:
        loss: its mean cross-entropy on clean training examples.
        y: their labels ``(n,)``.
        when: of the training, for the sentence.

    Example:
        >>> detect_blow_up(5e4, torch.arange(10), "after step 20 of epoch 1")
        'the loss on clean training examples is 5e+04, that of a constant network 2.3, after step 20 of epoch 1'
    """
    constant = math.log(max(2, len(class_shares(y))))
    if loss <= _BLOWN_UP * constant:
        return None
    return f"the loss on clean training examples is {loss:.3g}, that of a constant network {constant:.2g}, {when}"


def failure_to_learn(run: RunFolder) -> str | None:
    """Return why a finished run counts as failed, the guard's message at its end, or None.

    Args:
        run: folder of an image run.
    """
    ends = (line[MESSAGE] for line in run.read_log(METRICS) if line.get("trouble") == NOT_LEARNING)
    return next((message for message in ends if AT_END in message), None)
