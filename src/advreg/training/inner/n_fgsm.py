"""Training points in no step, and in one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advreg._deprecation import renamed_options
from advreg.attacks import CraftedExamples
from advreg.attacks.input_limits import require_alike_features
from advreg.attacks.inputs import read_training
from advreg.attacks.model import widen
from advreg.attacks.outputs import checked_once
from advreg.attacks.search import QuerySpec, query
from advreg.attacks.wider_balls import wider
from advreg.errors import ThreatError
from advreg.objectives import Objective
from advreg.tasks import CLASSES, Task
from advreg.threat import ThreatModel


@dataclass(frozen=True)
class Untouched:
    """The result of no attack.

    Attributes:
        x_adv: the clean inputs ``(B, ...)``.
    """

    x_adv: Tensor


def unattacked(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, **_: object) -> Untouched:
    """Return the clean inputs: the attack of a recipe that needs none.

    Args:
        model: not used.
        x: inputs ``(B, ...)``.
        y: not used.
        threat: not used.

    Returns:
        An `Untouched`; its ``x_adv`` is ``x``.

    Example:
        >>> x = torch.zeros(2, 4)
        >>> unattacked(nn.Linear(4, 3), x, torch.tensor([0, 1]), ThreatModel("linf", 0.1)).x_adv is x
        True
    """
    return Untouched(x)


@renamed_options(noise="noise_scale")
def n_fgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    noise_scale: float = 2.0,
    step_size: float | None = None,
    objective: Objective | None = None,
    ids: Tensor | None = None,
    seed: int = 0,
    task: Task = CLASSES,
) -> CraftedExamples:
    """Make training points with one step from strong noise, kept in the box but not in the ball: one forward, one backward.

    ``x_adv = box(x_noisy + step_size steepest(grad loss(x_noisy)))``, ``x_noisy = box(x + U(-s eps, s eps))``, s the scale.

    Args:
        model: network that returns logits ``(B, K)``; its mode is not changed.
        x: inputs ``(B, ...)`` inside the box.
        y: labels ``(B,)``, or probabilities ``(B, K)`` where the objective takes them.
        threat: norm, eps and box.
        noise_scale: radius of the noise, in eps; in l2 and l1, the radius of the ball that it is drawn from.
        step_size: length of the step, in the units of the input; eps if None.
        objective: ``(logits, y) -> (B,)``, maximised; the task's default, cross-entropy for classes, if None.
        ids: example ids ``(B,)`` that seed the random draws; positions in the batch if None.
        seed: seed of the random draws.
        task: what an output is worth.

    Returns:
        A `CraftedExamples`; its points may be ``noise_scale eps + step_size`` away from ``x``.

    Raises:
        ThreatError: a negative noise scale.
        DataError: inputs outside the box, an empty batch, labels that the model does not have.
        ModelError: an output that is not logits, or no gradient path.

    Example:
        >>> x, y = torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> n_fgsm(nn.Linear(4, 3), x, y, ThreatModel("linf", 0.1)).backwards
        2

    Reference: de Jorge et al., "Make some noise: reliable and efficient single-step adversarial training", NeurIPS 2022,
    arXiv:2202.01181.
    """
    if not noise_scale >= 0:
        raise ThreatError(f"noise_scale is {noise_scale}; give the radius of the noise in eps, 0 or more, such as 2")
    x, y = read_training(x, y, threat, task)
    require_alike_features("n_fgsm", threat)
    low, high = threat.box
    ids = torch.arange(len(x), device=x.device) if ids is None else ids
    x = widen(x)
    noisy = wider(threat, noise_scale).random_start(x, ids, seed)
    _, _, grad = query(QuerySpec(model, checked_once(objective or task.objective, task), task=task), noisy, y)
    length = threat.radii(x) if step_size is None else step_size
    return CraftedExamples(
        (noisy + length * threat.steepest(grad, noisy)).clamp(low, high), forwards=len(x), backwards=len(x)
    )
