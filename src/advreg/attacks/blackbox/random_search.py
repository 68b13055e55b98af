"""Random search: points drawn uniformly from the ball. What it breaks, everything should break."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from advreg._deprecation import renamed_options
from advreg.attacks.blackbox.score_based import QueryState, run_score_based
from advreg.attacks.model import Model, bind_dtype
from advreg.attacks.result import AttackResult
from advreg.attacks.search import QuerySpec, search
from advreg.errors import ThreatError
from advreg.objectives import Objective, margin
from advreg.threat import ThreatModel


@renamed_options(draws="queries")
def random_search(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    queries: int = 1000,
    objective: Objective = margin,
    targeted: bool = False,
    early_stop: bool = True,
    ids: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 512,
) -> AttackResult:
    """Attack with points drawn uniformly from the ball (then projected into the box); keep the one of highest loss.

    An example that stands costs ``draws + 2`` forwards: the clean point, the draws, the judge's at the best of them.

    Args:
        model: any function from ``(B, ...)`` to scores ``(B, K)``; in eval mode if it is a module.
        x: clean inputs ``(B, ...)`` in the threat's box.
        y: labels ``(B,)``; the wanted classes if targeted.
        threat: what the adversary may do.
        draws: points to try on each example.
        objective: what to maximise, a function of scores and labels.
        targeted: whether ``y`` is the class the adversary wants.
        early_stop: whether a broken example leaves at once, or is searched to the end.
        ids: example ids ``(B,)``: an example's draws depend on its id and the seed only.
        seed: seed of the draws.
        batch_size: examples under attack at a time.

    Returns:
        An `AttackResult`, judged by the original model.

    Raises:
        ThreatError: no draws.
        ModelError, DataError: a model or inputs that cannot be used as given.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(4, 3).eval()
        >>> x, y = torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> random_search(model, x, y, ThreatModel("l2", 1e-4), queries=5, early_stop=False).forwards
        14
    """
    if queries < 1:
        raise ThreatError(f"queries is {queries}; give at least 1")
    ask = QuerySpec(bind_dtype(model, x), objective, targeted)

    def attempt(x: Tensor, y: Tensor, threat: ThreatModel, ids: Tensor, _: int) -> AttackResult:
        def propose(state: QueryState, k: int) -> QueryState:
            return replace(state, adv=state.threat.random_start(state.x, state.ids, seed, k))

        return run_score_based(ask, x, y, threat, ids, propose, queries, early_stop=early_stop)

    return search(ask, x, y, threat, attempt, ids=ids, early_stop=early_stop, batch_size=batch_size)
