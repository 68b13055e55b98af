"""HopSkipJump: walks along the decision boundary towards the clean point, with labels and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from advreg._deprecation import renamed_options
from advreg.attacks.blackbox.hopskipjump_run import HopSkipJumpRun, LabelQueries
from advreg.attacks.inputs import as_tensor, read_batch, read_ids
from advreg.attacks.model import Model, bind_dtype
from advreg.attacks.result import AttackResult
from advreg.attacks.scoreboard import Scoreboard
from advreg.attacks.search import QuerySpec, search
from advreg.attacks.verification import reject_device, require_eval_mode
from advreg.errors import DataError, ThreatError
from advreg.objectives import labels_of, margin
from advreg.threat import ThreatModel


@renamed_options(tries="init_tries", samples="gradient_samples")
def hopskipjump(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    queries: int = 2500,
    gradient_samples: int = 100,
    init_tries: int = 100,
    starts: Tensor | None = None,
    targeted: bool = False,
    early_stop: bool = True,
    ids: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 64,
) -> AttackResult:
    """Attack with labels only: find a point of another class, then bring it nearer along the boundary (l2, linf).

    Each step estimates the boundary's normal from the labels of random points around the iterate, steps along it, and
    bisects back to the boundary on the way to the clean point. An example is broken as soon as that point is within eps;
    where none is, the nearest one is projected into the ball and judged there. One that stands costs at most ``queries +
    2`` forwards.

    Args:
        model: any function from ``(B, ...)`` to labels ``(B,)``, or to scores ``(B, K)`` of which the largest counts.
        x: clean inputs ``(B, ...)`` in the threat's box.
        y: labels ``(B,)``; the wanted classes if targeted.
        threat: what the adversary may do; norm l2 or linf.
        queries: forwards an example may cost; a step that does not fit is not begun.
        samples: directions at the first step; at step t, ``samples sqrt(t)``.
        tries: points drawn uniformly from the box to find one of another class.
        starts: points of another class (of the wanted one, if targeted) to begin from, ``(B, ...)``, instead of those
            draws.
        targeted: whether ``y`` is the class the adversary wants.
        early_stop: whether an example leaves once it is broken, or is brought nearer to the end.
        ids: example ids ``(B,)``: an example's draws depend on its id and the seed only.
        seed: seed of the random draws.
        batch_size: examples under attack at a time; a forward takes 16 inputs for each of them.

    Returns:
        An `AttackResult`, judged by the original model; ``loss`` is 1 where the label is wrong and -1 where it is right.

    Raises:
        ThreatError: norm l1, or a count that is not positive.
        ModelError, DataError: a model or inputs that cannot be used as given.

    Example:
        >>> model = torch.nn.Linear(4, 3).eval()
        >>> x, y = torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> result = hopskipjump(lambda x: model(x).argmax(1), x, y, ThreatModel("l2", 0.5), queries=300)
        >>> bool((result.distance <= 0.5).all())
        True

    Reference: Chen, Jordan, Wainwright, "HopSkipJumpAttack", IEEE S&P 2020.
    """
    if threat.norm == "l1":
        raise ThreatError(f"hopskipjump is made for l2 and linf, the threat is {threat}; use square for l1")
    if min(queries, gradient_samples, init_tries) < 1:
        raise ThreatError(
            f"queries is {queries}, gradient_samples {gradient_samples}, init_tries {init_tries}; give 1 or more"
        )
    require_eval_mode(model)
    model = bind_dtype(model, x)
    x, y = read_batch(x, y, threat)
    reject_device(model, x)
    starts = None if starts is None else _starts(starts, x)
    ask = QuerySpec(LabelQueries(model, int(labels_of(y).max()) + 1), margin, targeted)
    place = torch.arange(len(x), device=x.device)
    tags = torch.stack([read_ids(ids, x), place], 1)  # its id, and where its start is

    def attempt(x: Tensor, y: Tensor, threat: ThreatModel, tags: Tensor, _: int) -> AttackResult:
        hike = HopSkipJumpRun(Scoreboard(ask, x, y, threat), tags[:, 0], seed, queries, early_stop)
        hike.begin(init_tries) if starts is None else hike.begin_at(starts[tags[:, 1]])
        return hike.run(gradient_samples)

    return search(ask, x, y, threat, attempt, ids=tags, early_stop=early_stop, batch_size=batch_size)


def _starts(starts: Tensor, x: Tensor) -> Tensor:
    found = as_tensor(starts, "starts").to(x)
    if found.shape != x.shape:
        raise DataError(f"starts are {tuple(found.shape)}, x is {tuple(x.shape)}; give one point for each input")
    return found
