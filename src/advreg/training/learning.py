"""Detects training that learns nothing: a network with constant predictions has a loss of ln K, whatever its weights.

Adversarial training ends there if eps is too large at the start; equal robust and clean accuracy then hide the failure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advreg.attacks.model import query_model
from advreg.module_modes import eval_mode
from advreg.statistics import clopper_pearson_interval

NOT_LEARNING = "not learning"
REMEDY = "none: lower optimizer.lr, let eps grow from 0 (policy warmup), or check that labels belong to their inputs"

_CONSTANT = 0.98  # of a constant network's loss: below it, something was learned


@dataclass(frozen=True)
class LearningRecord:
    """What a network achieves on some clean examples in eval mode: mean cross-entropy, and how many are right."""

    loss: float
    right: float


def measure_clean(model: nn.Module, x: Tensor, y: Tensor) -> LearningRecord:
    """Return loss and number of correct predictions on clean examples; the model's modes are restored.

    Args:
        model: the network.
        x: clean examples ``(n, ...)``.
        y: their labels ``(n,)``.
    """
    with eval_mode(model), torch.no_grad():
        logits = query_model(model, x)
    return LearningRecord(float(F.cross_entropy(logits, y)), float((logits.argmax(1) == y).sum()))


def detect_not_learning(record: LearningRecord, y: Tensor, when: str) -> str | None:
    """Return the sign that a network has learned nothing, or None.

    The best constant prediction is the share of each class, and its loss the entropy of the labels, ``ln K`` for K classes of
    equal size. Both must hold: the loss is no lower than that, and the exact interval of accuracy is not above the share of
    the largest class.

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
    counts = torch.bincount(y.cpu()).double()
    shares = counts[counts > 0] / len(y)
    entropy = float(-(shares * shares.log()).sum())
    above = clopper_pearson_interval(round(record.right), len(y))[0] > float(shares.max())
    if not entropy or above or record.loss < _CONSTANT * entropy:
        return None
    loss = f"{record.loss:.2f}, no less than the {entropy:.2f} of"
    if max(record.loss, math.log(len(shares))) < entropy / _CONSTANT:
        loss = f"ln {len(shares)} = {math.log(len(shares)):.2f}, that of"
    return f"the loss is {loss} a constant network {when} (accuracy {record.right / len(y):.0%})"
