"""PGD with momentum: the momentum iterative method (MI-FGSM) and its Nesterov variant (NI-FGSM)."""

from __future__ import annotations

from torch import Tensor

from advreg.attacks.model import Model, bind_dtype
from advreg.attacks.pgd import make_attempt
from advreg.attacks.result import AttackResult
from advreg.attacks.search import QuerySpec, require_positive, run_attempt, search
from advreg.attacks.step_rules import Start, momentum_step, nesterov_step
from advreg.objectives import Objective
from advreg.tasks import CLASSES, Task
from advreg.threat import ThreatModel


def mifgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 10,
    step_size: float | None = None,
    restarts: int = 1,
    start: Start = "zero",
    momentum: float = 1.0,
    objective: Objective | None = None,
    targeted: bool = False,
    eot: int = 1,
    early_stop: bool = True,
    ids: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 512,
    task: Task = CLASSES,
) -> AttackResult:
    """Attack by the momentum iterative method: PGD along ``v <- momentum * v + grad / ||grad||_1``.

    Args:
        model: maps inputs ``(B, ...)`` to logits ``(B, K)``; must be in eval mode. For a fast copy, its original verifies.
        x: clean inputs ``(B, ...)`` in the box of ``threat``.
        y: labels ``(B,)`` or probabilities ``(B, K)``; the target classes if ``targeted``.
        threat: norm, eps and box of the adversary; eps may differ between examples.
        steps: gradient steps of one attempt.
        step_size: length of a step in the units of the input; ``eps / steps`` of each example if None.
        restarts: number of attempts, each on the examples that survive.
        start: ``"zero"`` (the clean point) or ``"uniform"`` (a draw from the ball).
        momentum: decay of the averaged gradient.
        objective: function of logits and labels to maximise; the task's default, cross-entropy for classes, if None.
        targeted: whether ``y`` holds the classes that the adversary wants.
        eot: number of samples averaged at every query, for models that are random.
        early_stop: whether a broken example leaves the batch at once (same verdicts, fewer passes).
        ids: example ids ``(B,)``; the random draws of an example depend on its id and the seed only; 0 to B-1 if None.
        seed: seed of the random starts.
        batch_size: number of examples attacked at a time.
        task: what an output is worth and when it is broken; `advreg.tasks` has others than classification.

    Returns:
        An `AttackResult`, verified on the original model.

    Raises:
        ModelError: train mode, no gradient path, wrong output.
        DataError: inputs that do not fit the box or the labels.
        ConfigError: ``steps``, ``restarts`` or ``eot`` below 1.
        ThreatError: another ``start``.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(4, 3).eval()
        >>> mifgsm(model, torch.full((2, 4), 0.5), torch.tensor([0, 1]), ThreatModel("linf", 0.1)).x_adv.shape
        torch.Size([2, 4])

    Reference: Dong et al., "Boosting adversarial attacks with momentum", CVPR 2018, arXiv:1710.06081.
    """
    require_positive(steps=steps)
    spec = QuerySpec(bind_dtype(model, x), objective or task.objective, targeted, eot, task)
    attempt = make_attempt(
        spec, momentum_step(step_size, 1 / steps, momentum), steps, start, seed, early_stop=early_stop
    )
    return search(spec, x, y, threat, attempt, restarts=restarts, ids=ids, early_stop=early_stop, batch_size=batch_size)


def nifgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 10,
    step_size: float | None = None,
    momentum: float = 1.0,
    objective: Objective | None = None,
    targeted: bool = False,
    early_stop: bool = True,
    ids: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 512,
    task: Task = CLASSES,
) -> AttackResult:
    """Attack by the Nesterov iterative method: momentum with the gradient at a look-ahead point.

    The look-ahead goes ``momentum * step_size`` along the norm's steepest direction; it stays inside the threat model and
    counts as an iterate.

    Args:
        model: maps inputs ``(B, ...)`` to logits ``(B, K)``; must be in eval mode. For a fast copy, its original verifies.
        x: clean inputs ``(B, ...)`` in the box of ``threat``.
        y: labels ``(B,)`` or probabilities ``(B, K)``; the target classes if ``targeted``.
        threat: norm, eps and box of the adversary; eps may differ between examples.
        steps: gradient steps.
        step_size: length of a step in the units of the input; ``eps / steps`` of each example if None.
        momentum: decay of the averaged gradient, and length of the look-ahead in steps.
        objective: function of logits and labels to maximise; the task's default, cross-entropy for classes, if None.
        targeted: whether ``y`` holds the classes that the adversary wants.
        early_stop: whether a broken example leaves the batch at once (same verdicts, fewer passes).
        ids: accepted because every attack accepts them; this attack draws nothing.
        seed: accepted because every attack accepts it; this attack draws nothing.
        batch_size: number of examples attacked at a time.
        task: what an output is worth and when it is broken; `advreg.tasks` has others than classification.

    Returns:
        An `AttackResult`, verified on the original model.

    Raises:
        ModelError: train mode, no gradient path, wrong output.
        DataError: inputs that do not fit the box or the labels.
        ConfigError: ``steps`` below 1.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(4, 3).eval()
        >>> nifgsm(model, torch.full((2, 4), 0.5), torch.tensor([0, 1]), ThreatModel("linf", 0.1)).x_adv.shape
        torch.Size([2, 4])

    Reference: Lin et al., "Nesterov accelerated gradient and scale invariance for adversarial attacks", ICLR 2020,
    arXiv:1908.06281.
    """
    require_positive(steps=steps)
    spec = QuerySpec(bind_dtype(model, x), objective or task.objective, targeted, task=task)
    rule = nesterov_step(step_size, 1 / steps, momentum)

    def attempt(x: Tensor, y: Tensor, threat: ThreatModel, ids: Tensor, restart: int) -> AttackResult:
        return run_attempt(spec, x, y, threat, x, rule, steps=steps, early_stop=early_stop)

    return search(spec, x, y, threat, attempt, ids=ids, early_stop=early_stop, batch_size=batch_size)
