"""HopSkipJump: a decision-based attack that moves along the decision boundary, with labels only."""

from __future__ import annotations

import torch
from torch import Tensor

from advreg._deprecation import renamed_options
from advreg.attacks.blackbox.hopskipjump_run import HopSkipJumpRun, LabelQueries
from advreg.attacks.input_limits import require_alike_features
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
    """Attack with labels only: find a point of another class, then bring it nearer along the decision boundary.

    The attack works in l2 and linf. Each step estimates the normal of the boundary from the labels of random points around
    the iterate, steps along it, and bisects back to the boundary on the line to the clean point. An example is broken once
    that point is within eps; if it never is, the nearest point is projected into the ball and verified. A survivor costs at
    most ``queries + 2`` forwards.

    Args:
        model: any function from ``(B, ...)`` to labels ``(B,)``, or to scores ``(B, K)`` of which only the argmax is used.
        x: clean inputs ``(B, ...)`` in the box of ``threat``.
        y: labels ``(B,)``; the target classes if ``targeted``.
        threat: norm (l2 or linf), eps and box of the adversary; eps may differ between examples.
        queries: largest number of forwards of an example; a step that would exceed it does not start.
        gradient_samples: directions at the first step; at step t, ``gradient_samples * sqrt(t)``.
        init_tries: points drawn uniformly from the box to find one of another class.
        starts: points of another class (the target class, if ``targeted``), ``(B, ...)``, instead of these draws.
        targeted: whether ``y`` holds the classes that the adversary wants.
        early_stop: whether a broken example leaves the batch at once; otherwise its point is brought nearer until the end.
        ids: example ids ``(B,)``; the random draws of an example depend on its id and the seed only; 0 to B-1 if None.
        seed: seed of the random draws.
        batch_size: number of examples attacked at a time; a forward has up to 16 inputs for each of them.

    Returns:
        An `AttackResult`, verified on the original model; ``loss`` is 1 where the label is wrong and -1 where it is right.

    Raises:
        ThreatError: norm l1, or a count that is not positive.
        ModelError: train mode, or wrong output.
        DataError: inputs that do not fit the box or the labels.

    Example:
        >>> model = torch.nn.Linear(4, 3).eval()
        >>> x, y = torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> result = hopskipjump(lambda x: model(x).argmax(1), x, y, ThreatModel("l2", 0.5), queries=300)
        >>> bool((result.distance <= 0.5).all())
        True

    Reference: Chen, Jordan, Wainwright, "HopSkipJumpAttack: a query-efficient decision-based attack", IEEE S&P 2020,
    arXiv:1904.02144.
    """
    require_alike_features("hopskipjump", threat)
    if threat.norm == "l1":
        raise ThreatError(f"hopskipjump works in l2 and linf, the threat is {threat}; use square for l1")
    if min(queries, gradient_samples, init_tries) < 1:
        raise ThreatError(
            f"queries is {queries}, gradient_samples {gradient_samples}, init_tries {init_tries}; give 1 or more"
        )
    require_eval_mode(model)
    model = bind_dtype(model, x)
    x, y = read_batch(x, y, threat)
    reject_device(model, x)
    starts = None if starts is None else _read_starts(starts, x)
    spec = QuerySpec(LabelQueries(model, int(labels_of(y).max()) + 1), margin, targeted)
    place = torch.arange(len(x), device=x.device)
    tags = torch.stack([read_ids(ids, x), place], 1)  # the id and the row in starts

    def attempt(x: Tensor, y: Tensor, threat: ThreatModel, tags: Tensor, _: int) -> AttackResult:
        run = HopSkipJumpRun(Scoreboard(spec, x, y, threat), tags[:, 0], seed, queries, early_stop)
        if starts is None:
            run.start_at_random(init_tries)
        else:
            run.start_at(starts[tags[:, 1]])
        return run.attack(gradient_samples)

    return search(spec, x, y, threat, attempt, ids=tags, early_stop=early_stop, batch_size=batch_size)


def _read_starts(starts: Tensor, x: Tensor) -> Tensor:
    points = as_tensor(starts, "starts").to(x)
    if points.shape != x.shape:
        raise DataError(f"starts are {tuple(points.shape)}, x is {tuple(x.shape)}; give one point for each input")
    return points
