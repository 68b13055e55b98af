"""Validation, which selects the best epoch: clean and robust accuracy on held-out TRAINING images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from advreg import distributed
from advreg.attacks.model import query_model
from advreg.data import Dataset, StreamingDataset, Table
from advreg.errors import ConfigError
from advreg.module_modes import eval_mode
from advreg.runtime import derived_seed
from advreg.tasks import CLASSES, Task
from advreg.threat import ThreatModel
from advreg.training.learning import class_shares
from advreg.training.recipes import certified_hits
from advreg.training.task_scores import attacked_score_sum, score_sum

CHUNK = 500
Source = TypeVar("Source", Dataset, Table, StreamingDataset)


@dataclass(frozen=True)
class Score:
    """Accuracies on the held-out images, mean scores in other tasks; ``robust_accuracy`` is None without an attack.

    Attributes:
        clean_accuracy: share of the images that are classified correctly.
        robust_accuracy: share that PGD does not break.
        chance: share of the largest class, the clean accuracy of the best constant prediction; 0 in other tasks.
        certified_accuracy: share that interval bounds prove; None where training has no bounds.
    """

    clean_accuracy: float
    robust_accuracy: float | None
    chance: float = 0.0
    certified_accuracy: float | None = None

    @property
    def is_chance(self) -> bool:
        """Return whether a constant prediction is as accurate; its robust accuracy then means nothing."""
        return self.clean_accuracy <= self.chance < 1

    @property
    def rank(self) -> tuple[float, float]:
        """Key by which the best epoch is the largest: certified or else robust accuracy first, then clean accuracy."""
        proved = self.certified_accuracy
        return ((self.robust_accuracy or 0.0) if proved is None else proved, self.clean_accuracy)


def hold_out(train: Source, n: int, seed: int) -> tuple[Source, Source | None]:
    """Split a training set at random into a training part and a validation part.

    Args:
        train: the training set.
        n: number of validation images.
        seed: of the split.

    Returns:
        The training part, and the validation part (None for ``n`` = 0).

    Raises:
        ConfigError: the training part would be empty.
    """
    if n >= len(train):
        raise ConfigError(
            f"data.validation is {n}, but {train.name} has {len(train)} training images; allowed: fewer than that"
        )
    generator = torch.Generator().manual_seed(derived_seed(seed, "hold out"))
    order = torch.randperm(len(train), generator=generator)
    held = train.select(order[:n].sort().values) if n else None
    return train.select(order[n:].sort().values), held


def validate(
    model: nn.Module, held: Dataset | Table, threat: ThreatModel | None, steps: int, task: Task = CLASSES
) -> Score:
    """Return the clean accuracy of a model on held-out images and, with a threat, the accuracy under PGD.

    Other tasks have mean scores in place of accuracies, and their PGD maximises the loss of training.

    The attack's random start is always the same, so that epochs are compared on equal terms. The model's modes are restored.

    Args:
        model: the network.
        held: held-out images.
        threat: threat model; None for clean accuracy alone.
        steps: gradient steps of PGD.
        task: what an output is worth.

    Returns:
        The score, equal in all processes that share the work.
    """
    clean = robust = 0.0
    device = next(model.parameters()).device
    with eval_mode(model):
        for start in distributed.current_ranks().share(range(0, len(held), CHUNK)):
            x, y = (tensor.to(device) for tensor in held.tensors(n=CHUNK, start=start))
            with torch.no_grad():
                clean += float(score_sum(task, query_model(model, x), y))
            if threat is not None:
                ids = torch.arange(start, start + len(x), device=x.device)
                robust += attacked_score_sum(model, x, y, threat, task, steps=steps, ids=ids)
    clean_hits, robust_hits = distributed.sum_values(clean, robust, device=device)
    chance = float(class_shares(held.labels).max()) if task is CLASSES else 0.0
    return Score(clean_hits / len(held), None if threat is None else robust_hits / len(held), chance)


def certified_accuracy(model: nn.Module, held: Dataset | Table, threat: ThreatModel) -> float:
    """Return the share of held-out images that interval bounds prove.

    Args:
        model: the network; its modes are restored.
        held: held-out images.
        threat: threat model.

    Returns:
        The share, equal in all processes that share the work.
    """
    device, hits = next(model.parameters()).device, 0
    for start in distributed.current_ranks().share(range(0, len(held), CHUNK)):
        x, y = (tensor.to(device) for tensor in held.tensors(n=CHUNK, start=start))
        hits += certified_hits(model, x, y, threat)
    return distributed.sum_values(hits, device=device)[0] / len(held)
