"""FGSM from where the last epoch left off: one perturbation for each example, kept by its id."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advreg.attacks import CraftedExamples
from advreg.attacks.inputs import read_training
from advreg.attacks.model import widen
from advreg.attacks.outputs import checked_once
from advreg.attacks.search import QuerySpec, query
from advreg.errors import ThreatError
from advreg.objectives import Objective
from advreg.tasks import CLASSES, Task
from advreg.threat import ThreatModel, broadcast_per_example
from advreg.training.per_example_state import PerExampleTable, Saved

Augment = Callable[[Tensor, Tensor, int, int], Tensor]
"""``(images, ids, seed, epoch) -> images`` that moves pixels: the augmentation of the batch."""


@dataclass(frozen=True)
class Prior(CraftedExamples):
    """Training points and the starting points of their step.

    Attributes:
        x_adv: points ``(B, ...)`` inside the threat model.
        forwards: example-forwards spent.
        backwards: example-backwards spent.
        x_start: starting points ``(B, ...)``.
    """

    x_start: Tensor


class FgsmPgi:
    """A one-step attack that starts from the stored perturbation of the last epoch: FGSM-PGI with momentum (MEP).

    ``x_adv = project(x_start + step_size steepest(g))`` with ``g = grad loss(x_start)``, and for the next epoch
    ``m <- momentum m + g / ||g||_1``, ``x_start <- project(x_start + step_size steepest(m))``. It keeps 4 bytes for each value
    of the data set. Its loss is the recipe `pgi`.

    Args:
        examples: number of examples, ids 0 to examples - 1; 0 to grow with the ids.
        momentum: decay of ``m``.
        reset: epochs after which the state is cleared and starts are drawn from the ball again; counted by `start_epoch`.
        step_size: length of the step, in the units of the input; eps if None.
        augment: augmentation of the loader, if any: a perturbation moves with its pixels.
        seed: seed of that augmentation.

    Raises:
        ThreatError: a momentum outside [0, 1) or a reset under 1.

    Example:
        >>> attack, model = FgsmPgi(), nn.Linear(4, 3)
        >>> x, y, ids = torch.full((2, 4), 0.5), torch.tensor([0, 1]), torch.tensor([8, 5])
        >>> first = attack(model, x, y, ThreatModel("linf", 0.1), ids=ids)
        >>> again = attack(model, x.flip(0), y.flip(0), ThreatModel("linf", 0.1), ids=ids.flip(0))
        >>> again.backwards
        2

    Reference: Jia et al., "Prior-guided adversarial initialization for fast adversarial training", ECCV 2022, arXiv:2207.08859.
    """

    def __init__(
        self,
        examples: int = 0,
        momentum: float = 0.3,
        reset: int = 40,
        step_size: float | None = None,
        augment: Augment | None = None,
        seed: int = 0,
    ) -> None:
        if not 0 <= momentum < 1 or reset < 1:
            raise ThreatError(
                f"momentum is {momentum}, reset {reset}; give a momentum in [0, 1), and epochs, 1 or more"
            )
        self.examples, self.momentum, self.reset, self.step_size = examples, momentum, reset, step_size
        self.augment, self.seed, self.epoch = augment, seed, 1
        self.start: PerExampleTable | None = None
        self.trend: PerExampleTable | None = None

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        *,
        objective: Objective | None = None,
        ids: Tensor | None = None,
        seed: int = 0,
        task: Task = CLASSES,
    ) -> Prior:
        """Return the points to train on, and store the start of the next epoch; one forward, one backward.

        Args:
            model: network that returns logits ``(B, K)``; its mode is not changed.
            x: inputs ``(B, ...)`` inside the box.
            y: labels ``(B,)``, or probabilities ``(B, K)`` where the objective takes them.
            threat: norm, eps and box.
            objective: ``(logits, y) -> (B,)``, maximised; the task's default, cross-entropy for classes, if None.
            ids: example ids ``(B,)``, the keys of the stored perturbations; positions in the batch if None.
            seed: seed of the random starts.
            task: what an output is worth.

        Returns:
            A `Prior`: ``x_adv`` inside the threat model, its start and its cost.

        Raises:
            DataError: inputs outside the box, an empty batch, labels that the model does not have.
            ModelError: an output that is not logits, or no gradient path.
        """
        x, y = read_training(x, y, threat, task)
        ids = torch.arange(len(x), device=x.device) if ids is None else ids
        x = widen(x)
        start, trend = self._rows(x)
        places = self._places(x, ids)
        x_start = self._begin(x, threat, start, ids, seed)
        _, _, grad = query(QuerySpec(model, checked_once(objective or task.objective, task), task=task), x_start, y)
        length = threat.radii(x) if self.step_size is None else self.step_size
        moved = self.momentum * self._seen(trend.read(ids), ids).to(x.dtype) + _unit(grad)
        onward = threat.project(x_start + length * threat.steepest(moved, x_start), x)
        start.write(ids, _put_back(onward - x, start.read(ids).nan_to_num(), places))
        trend.write(ids, _put_back(moved, trend.read(ids), places))
        x_adv = threat.project(x_start + length * threat.steepest(grad, x_start), x)
        return Prior(x_adv, forwards=len(x), backwards=len(x), x_start=x_start)

    def start_epoch(self, epoch: int) -> None:
        """Set the epoch, 1 for the first; every ``reset`` epochs, clear the stored perturbations."""
        self.epoch = epoch
        if epoch > 1 and (epoch - 1) % self.reset == 0:
            for rows in (self.start, self.trend):
                if rows is not None:
                    rows.clear()

    def share(self) -> None:
        """Synchronise the stored rows over all ranks."""
        for rows in (self.start, self.trend):
            if rows is not None:
                rows.share()

    def state_dict(self) -> Saved:
        """Return starts (NaN where there is none yet) and trends; nothing before the first call."""
        if self.start is None or self.trend is None:
            return {}
        return {"start": self.start.values, "trend": self.trend.values}

    def load_state_dict(self, state: Saved) -> None:
        """Restore a state that `state_dict` returned."""
        self.start = self.trend = None
        if state:
            start, trend = self._rows(state["start"])
            start.load(state["start"])
            trend.load(state["trend"])

    def _rows(self, x: Tensor) -> tuple[PerExampleTable, PerExampleTable]:
        if self.start is None or self.trend is None:
            shape = tuple(x.shape[1:])
            self.start = PerExampleTable(self.examples, shape, fill=torch.nan, dtype=torch.float16)
            self.trend = PerExampleTable(self.examples, shape, dtype=torch.float16)
        return self.start, self.trend

    def _begin(self, x: Tensor, threat: ThreatModel, start: PerExampleTable, ids: Tensor, seed: int) -> Tensor:
        """Return where each example begins: a random point for those that are new."""
        kept = start.read(ids)
        new = broadcast_per_example(kept.isnan().flatten(1).any(1), x)
        known = threat.project(x + self._seen(kept.nan_to_num(), ids).to(x.dtype), x)
        return torch.where(new, threat.random_start(x, ids, seed), known)

    def _seen(self, rows: Tensor, ids: Tensor) -> Tensor:
        """Return rows as the loader shows their examples in this epoch."""
        return rows if self.augment is None else self.augment(rows, ids, self.seed, self.epoch)

    def _places(self, x: Tensor, ids: Tensor) -> Tensor | None:
        """Return from which pixel of its example, counted from 1, each pixel of ``x`` came; 0 from outside."""
        if self.augment is None:
            return None
        height, width = x.shape[-2:]
        count = torch.arange(1, height * width + 1, device=x.device).view(1, 1, height, width)
        return self.augment(count.expand(len(x), 1, height, width), ids, self.seed, self.epoch)


def _unit(grad: Tensor) -> Tensor:
    """Return gradients of equal l1 norm, the root of their size: neither large nor small values leave half precision."""
    size = grad.flatten(1).abs().sum(1).clamp_min(1e-30)
    return grad * broadcast_per_example(grad[0].numel() ** 0.5 / size, grad)


def _put_back(rows: Tensor, before: Tensor, places: Tensor | None) -> Tensor:
    """Return rows as their examples lie in the data set; pixels that the loader cut off keep what they had."""
    if places is None:
        return rows
    old = before.to(rows.dtype).flatten(2)
    room = torch.cat([old.new_zeros(*old.shape[:2], 1), old], dim=2)  # place 0 takes what came from outside
    where = places.flatten(2).expand_as(old)
    return room.scatter(2, where, rows.flatten(2))[:, :, 1:].view_as(rows)
