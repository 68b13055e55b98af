"""Random search: uniform draws from the ball, the baseline that every other attack should beat."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from advreg._deprecation import renamed_options
from advreg.attacks.blackbox.score_based import QueryState, run_score_based
from advreg.attacks.model import Model, bind_dtype
from advreg.attacks.result import AttackResult
from advreg.attacks.search import QuerySpec, search
from advreg.errors import ThreatError
from advreg.objectives import Objective
from advreg.tasks import CLASSES, Task
from advreg.threat import ThreatModel


@renamed_options(draws="queries")
def random_search(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    queries: int = 1000,
    objective: Objective | None = None,
    targeted: bool = False,
    early_stop: bool = True,
    ids: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 512,
    task: Task = CLASSES,
) -> AttackResult:
    """Attack with points drawn uniformly from the ball, projected into the box; the point of highest loss counts.

    An example that survives costs ``queries + 2`` forwards: the clean point, the draws, and the verification of the best
    draw.

    Args:
        model: any function from inputs ``(B, ...)`` to scores ``(B, K)``; a module must be in eval mode.
        x: clean inputs ``(B, ...)`` in the box of ``threat``.
        y: labels ``(B,)``; the target classes if ``targeted``.
        threat: norm, eps and box of the adversary; eps may differ between examples.
        queries: number of points drawn for each example.
        objective: function of scores and labels to maximise; the task's nearness to broken, the margin for classes, if None.
        targeted: whether ``y`` holds the classes that the adversary wants.
        early_stop: whether a broken example leaves the batch at once (same verdicts, fewer passes).
        ids: example ids ``(B,)``; the random draws of an example depend on its id and the seed only; 0 to B-1 if None.
        seed: seed of the random draws.
        batch_size: number of examples attacked at a time.
        task: what an output is worth and when it is broken; `advreg.tasks` has others than classification.

    Returns:
        An `AttackResult`, verified on the original model.

    Raises:
        ThreatError: ``queries`` below 1.
        ModelError: train mode, or wrong output.
        DataError: inputs that do not fit the box or the labels.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(4, 3).eval()
        >>> x, y = torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> random_search(model, x, y, ThreatModel("l2", 1e-4), queries=5, early_stop=False).forwards
        14
    """
    if queries < 1:
        raise ThreatError(f"queries is {queries}; give 1 or more")
    spec = QuerySpec(bind_dtype(model, x), objective or task.nearness, targeted, task=task)

    def attempt(x: Tensor, y: Tensor, threat: ThreatModel, ids: Tensor, _: int) -> AttackResult:
        def propose(state: QueryState, k: int) -> QueryState:
            return replace(state, adv=state.threat.random_start(state.x, state.ids, seed, k))

        return run_score_based(spec, x, y, threat, ids, propose, queries=queries, early_stop=early_stop)

    return search(spec, x, y, threat, attempt, ids=ids, early_stop=early_stop, batch_size=batch_size)
