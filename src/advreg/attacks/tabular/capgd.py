"""Constrained Auto-PGD: ascent on the objective less the violation of the rules, queried at repaired points."""

from __future__ import annotations

from torch import Tensor

from advreg.attacks.auto_pgd.l1 import sparse_rule
from advreg.attacks.auto_pgd.step_rule import momentum_rule
from advreg.attacks.constrained_rule import constrained_rule
from advreg.attacks.model import Model, bind_dtype
from advreg.attacks.result import AttackResult
from advreg.attacks.search import QuerySpec, require_positive, run_attempt, search
from advreg.attacks.tabular.class_filter import only_class, reject_direction
from advreg.objectives import Objective
from advreg.tasks import CLASSES, Task
from advreg.threat import ThreatModel


def capgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 40,
    restarts: int = 2,
    objective: Objective | None = None,
    penalty: float = 1.0,
    direction: int | None = None,
    early_stop: bool = True,
    ids: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 512,
    task: Task = CLASSES,
) -> AttackResult:
    """Attack rows with rules by Auto-PGD on ``objective - penalty * violation``.

    The iterate is continuous; the model is queried at its repaired point, which keeps every rule, and the gradient is passed
    straight through, for derived features by the chain rule. The first attempt starts at the clean row, the others at
    random points. An example that survives costs ``1 + restarts (steps + 2)`` forwards and ``restarts * steps`` backwards.

    Args:
        model: maps inputs ``(B, F)`` to logits ``(B, K)``; must be in eval mode. For a fast copy, its original verifies.
        x: clean inputs ``(B, ...)`` in the box of ``threat`` that keep its rules.
        y: labels ``(B,)``.
        threat: norm, eps, scale, box and rules of the adversary; without rules this is Auto-PGD from the clean point.
        steps: gradient steps of one attempt.
        restarts: number of attempts, each on the examples that survive.
        objective: function of logits and labels to maximise; the task's default, cross-entropy for classes, if None.
        penalty: weight of the violation, which is a share of each relation's size.
        direction: the only class that is attacked, such as 1 for fraud that should pass as no fraud; None: all.
        early_stop: whether a broken example leaves the batch at once (same verdicts, fewer passes).
        ids: example ids ``(B,)``; the random draws of an example depend on its id and the seed only; 0 to B-1 if None.
        seed: seed of the random starts.
        batch_size: number of examples attacked at a time.
        task: what an output is worth and when it is broken; `advreg.tasks` has others than classification.

    Returns:
        An `AttackResult`, verified on the original model; every point keeps the rules.

    Raises:
        ModelError: train mode, no gradient path, wrong output.
        DataError: inputs that do not fit the box, the labels or the rules.
        ConfigError: ``steps`` or ``restarts`` below 1.

    Example:
        >>> import torch
        >>> from advreg.constraints import FeatureRules
        >>> model = torch.nn.Linear(3, 2).eval()
        >>> x, y = torch.tensor([[1.0, 0.0, 0.5]]), torch.tensor([0])
        >>> threat = ThreatModel("l1", 1.0, scale=[2.0, 2.0, 1.0], rules=FeatureRules(groups=((0, 1),)))
        >>> threat.rules.kept(capgd(model, x, y, threat, steps=5).x_adv).tolist()
        [True]

    Reference: after Simonetto et al., "Towards adaptive attacks on constrained tabular machine learning" (CAPGD), 2024,
    arXiv:2406.00775; here integers and groups hold at every query, and violations are shares instead of raw units.
    """
    require_positive(steps=steps, restarts=restarts)
    reject_direction(direction, task)
    spec = QuerySpec(bind_dtype(model, x), objective or task.objective, task=task)
    plain = sparse_rule(steps) if threat.norm == "l1" else momentum_rule(steps)
    rule = constrained_rule(plain, threat.rules, penalty)

    def attempt(x: Tensor, y: Tensor, threat: ThreatModel, ids: Tensor, restart: int) -> AttackResult:
        start = threat.random_start(x, ids, seed, restart) if restart else x
        return run_attempt(spec, x, y, threat, start, rule, steps=steps, early_stop=early_stop)

    limited = only_class(attempt, direction, spec)
    return search(spec, x, y, threat, limited, restarts=restarts, ids=ids, early_stop=early_stop, batch_size=batch_size)
