"""Square: random search over windows of the input, with scores and without gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from advreg import example_rng
from advreg.attacks.blackbox.score_based import Proposal, QueryState, draw_uniform, run_score_based
from advreg.attacks.blackbox.square_windows import WindowGrid, bumps, put, take, window_share
from advreg.attacks.input_limits import require_alike_features
from advreg.attacks.model import Model, bind_dtype
from advreg.attacks.result import AttackResult
from advreg.attacks.search import QuerySpec, search
from advreg.errors import ThreatError
from advreg.tasks import CLASSES, Task
from advreg.threat import ThreatModel

Attack = Callable[..., AttackResult]

_START = 1 << 40
"""First random stream of the starting points."""
_FADING = 0.999
"""Weight of the old window against the new bump; below 1, so that the two never cancel."""
_TILES = 5
"""Number of bumps along a side of the starting point."""


def square(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    queries: int = 5000,
    p: float = 0.8,
    rescale: bool = False,
    warm_start: Attack | None = None,
    restarts: int = 1,
    targeted: bool = False,
    early_stop: bool = True,
    ids: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 512,
    task: Task = CLASSES,
) -> AttackResult:
    """Attack by random search: change one window of the input at a time, and keep the change if the margin rises.

    linf: the start is vertical stripes of ``+-eps``; a query repaints one window with ``+-eps`` in each channel. l2, l1:
    the start is a tiling of bumps; a query moves the mass of two windows into a new bump in one of them. In l2 the offset
    is scaled to length eps; in l1 the longer raw offset is projected onto ball and box exactly. Windows shrink during the
    search (`window_share`). Every example has its own windows, so its result does not depend on its batch.

    An example that survives costs ``restarts * (queries + 1) + 1`` forwards: the queries, the verification of the best
    point of each restart, and the clean point; with ``warm_start``, also the cost of that attack.

    Args:
        model: any function from inputs ``(B, ...)`` to scores ``(B, K)``; a module must be in eval mode.
        x: clean inputs in the box of ``threat``: images ``(B, C, H, W)``, sequences ``(B, C, n)`` or vectors ``(B, n)``.
        y: labels ``(B,)``; the target classes if ``targeted``.
        threat: norm, eps and box of the adversary; eps may differ between examples.
        queries: forwards of one attempt on an example, the starting point included.
        p: share of the input that the first windows cover.
        rescale: whether the windows shrink in proportion to ``queries``; the published schedule is for 10,000.
        warm_start: an attack ``(model, x, y, threat, *, ids, seed)``; the search starts at its end points instead of
            at stripes or bumps. After a gradient attack it finds the remaining points for a third of the queries.
        restarts: number of attempts, each on the examples that survive.
        targeted: whether ``y`` holds the classes that the adversary wants.
        early_stop: whether a broken example leaves the batch at once; otherwise its margin is raised in all queries.
        ids: example ids ``(B,)``; the random draws of an example depend on its id and the seed only; 0 to B-1 if None.
        seed: seed of the random draws.
        batch_size: number of examples attacked at a time.
        task: what an output is worth and when it is broken; `advreg.tasks` has others than classification.

    Returns:
        An `AttackResult`, verified on the original model.

    Raises:
        ThreatError: ``queries`` below 1, or ``p`` outside (0, 1].
        ConfigError: ``restarts`` below 1.
        ModelError: train mode, or wrong output.
        DataError: inputs that do not fit the box or the labels.

    Example:
        >>> model = torch.nn.Linear(4, 3).eval()
        >>> x, y = torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> result = square(model, x, y, ThreatModel("linf", 0.1), queries=20)
        >>> bool((result.distance <= 0.1).all()), result.backwards
        (True, 0)

    Reference: Andriushchenko, Croce, Flammarion, Hein, "Square attack: a query-efficient black-box adversarial attack via
    random search", ECCV 2020, arXiv:1912.00049; for l1 Croce and Hein, "Mind the box", ICML 2021, arXiv:2103.01208.
    """
    require_alike_features("square", threat)
    if queries < 1 or not 0 < p <= 1:
        raise ThreatError(f"queries is {queries} and p is {p}; give 1 query or more and a share in (0, 1]")
    spec = QuerySpec(bind_dtype(model, x), task.nearness, targeted, task=task)
    budget = queries if rescale else None

    def attempt(x: Tensor, y: Tensor, threat: ThreatModel, ids: Tensor, restart: int) -> AttackResult:
        make = _repaint_proposal if threat.norm == "linf" else _move_proposal
        propose = make(WindowGrid.of(x), p, budget, seed, restart)
        if warm_start is None:
            return run_score_based(spec, x, y, threat, ids, propose, queries=queries, early_stop=early_stop)
        first = warm_start(model, x, y, threat, ids=ids, seed=seed + restart)
        rows = (~first.broken).nonzero()[:, 0] if early_stop else torch.arange(len(x), device=x.device)
        if not len(rows):
            return first
        propose = _start_at(first.x_adv[rows], propose)
        found = run_score_based(
            spec, x[rows], y[rows], threat.select(rows), ids[rows], propose, queries=queries, early_stop=early_stop
        )
        unranked = first.loss.index_fill(0, rows, -torch.inf)  # the two attacks may maximise different objectives
        return replace(first, loss=unranked).improved_by(found, rows)

    return search(spec, x, y, threat, attempt, restarts=restarts, ids=ids, early_stop=early_stop, batch_size=batch_size)


def _start_at(start: Tensor, propose: Proposal) -> Proposal:
    """Return the same proposal with another first point."""

    def replaced(state: QueryState, k: int) -> QueryState:
        state = propose(state, k)
        return state if k else replace(state, adv=start)

    return replaced


def _repaint_proposal(grid: WindowGrid, p: float, budget: int | None, seed: int, restart: int) -> Proposal:
    """Return the proposal for linf: stripes, then windows, all at the faces of the ball."""

    def propose(state: QueryState, k: int) -> QueryState:
        if k == 0:
            return _striped_start(state, grid, seed, restart)
        state = draw_uniform(state, k - 1, 2 + grid.channels, seed, restart)
        u = state.memory["now"]
        cells = grid.place(u, grid.window(window_share(k - 1, p, budget)))
        low, high = take(state.memory["low"], cells), take(state.memory["high"], cells)
        up = u[:, 2:, None] < 0.5
        paint = torch.where(up, high, low)
        idle = (paint == take(grid.planes(state.best), cells)).flatten(1).all(1)[:, None, None]
        paint = torch.where(up ^ idle, high, low)  # a window that would not change gets the opposite signs
        return replace(state, adv=put(grid.planes(state.best), cells, paint).view_as(state.x))

    return propose


def _striped_start(state: QueryState, grid: WindowGrid, seed: int, restart: int) -> QueryState:
    """Start with one sign for each channel and column, and keep the faces of the ball in ``memory``."""
    radii, project = state.threat.radii(state.x), state.threat.project
    edges = {name: project(state.x + s * radii, state.x) for name, s in (("low", -1), ("high", 1))}
    shape = (grid.channels, 1, grid.width)
    up = example_rng.uniform(state.ids, shape, seed, _START + restart) < 0.5
    wide = up.expand(-1, -1, grid.height, -1).reshape(state.x.shape)
    adv = torch.where(wide, edges["high"], edges["low"])
    return replace(state, adv=adv).remember(**{name: grid.planes(edge) for name, edge in edges.items()})


def _move_proposal(grid: WindowGrid, p: float, budget: int | None, seed: int, restart: int) -> Proposal:
    """Return the proposal for l2 and l1: a tiling of bumps, then mass moved from two windows into one bump."""

    def propose(state: QueryState, k: int) -> QueryState:
        if k == 0:
            return replace(state, adv=_in_ball(state, state.threat.width * _tiled_start(state, grid, seed, restart)))
        state = draw_uniform(state, k - 1, 5 + grid.channels, seed, restart)
        size = grid.odd_window(window_share(k - 1, p, budget))
        move = _move_l1 if state.threat.norm == "l1" else _move_l2
        return replace(state, adv=_in_ball(state, move(state, grid, size)))

    return propose


def _move_l2(state: QueryState, grid: WindowGrid, size: tuple[int, int]) -> Tensor:
    """Return offsets ``(B, C, cells)``: two windows emptied, and one filled with their mass and the unused mass."""
    delta, here, emptied = _empty_windows(state, grid, size)
    held = _power(delta, 2)
    unused = state.threat.radii(state.x).view(-1, 1, 1).square() - held.sum(1, keepdim=True)
    mass = held - _power(emptied, 2) + unused.clamp_min(0.0) / grid.channels
    return put(emptied, here, _bump(state, delta, here, size, 2) * mass.clamp_min(0.0).sqrt())


def _move_l1(state: QueryState, grid: WindowGrid, size: tuple[int, int]) -> Tensor:
    """Return offsets ``(B, C, cells)`` to project: as in l2, but a new window holds ``C`` times as much."""
    delta, here, emptied = _empty_windows(state, grid, size)
    held = _power(delta, 1)
    unused = (state.threat.radii(state.x).view(-1, 1, 1) - held.sum(1, keepdim=True)).clamp_min(0.0)
    mass = unused + grid.channels * (held - _power(emptied, 1))
    return put(emptied, here, _bump(state, delta, here, size, 1) * mass)


def _empty_windows(state: QueryState, grid: WindowGrid, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the offsets ``(B, C, cells)``, the cells of one window, and the offsets with it and another window emptied."""
    u, delta = state.memory["now"], grid.planes(state.best - state.x)
    here, there = grid.place(u[:, 0:2], size), grid.place(u[:, 2:4], size)
    return delta, here, put(put(delta, here, 0.0), there, 0.0)


def _bump(state: QueryState, delta: Tensor, here: Tensor, size: tuple[int, int], order: int) -> Tensor:
    """Return a new window of unit length ``(B, C, cells)``: a signed bump on top of what the window held."""
    u = state.memory["now"]
    pattern = bumps(*size, order).to(delta)[(u[:, 4] < 0.5).long()][:, None]
    old = take(delta, here)
    fresh = torch.where(u[:, 5:, None] < 0.5, pattern, -pattern) + _FADING * old / _length(
        old, order, state.threat.width
    )
    return fresh / _length(fresh, order)


def _tiled_start(state: QueryState, grid: WindowGrid, seed: int, restart: int) -> Tensor:
    """Return offsets ``(B, C, cells)`` in widths of the box: a bump in every tile, with a sign for each tile and channel."""
    height, width = max(grid.height // _TILES, 1), max(grid.width // _TILES, 1)
    down, right = grid.height // height, grid.width // width
    u = example_rng.uniform(state.ids, (1 + grid.channels, down, right), seed, _START + restart)
    order = 1 if state.threat.norm == "l1" else 2
    pattern = bumps(height, width, order).to(state.x)[(u[:, 0] < 0.5).long()]  # (B, down, right, cells of a tile)
    signed = torch.where(u[:, 1:, :, :, None] < 0.5, pattern[:, None], -pattern[:, None])
    tiles = signed.view(*signed.shape[:4], height, width).transpose(3, 4).flatten(4, 5).flatten(2, 3)
    left, top = (grid.width - right * width) // 2, (grid.height - down * height) // 2
    padded = F.pad(tiles, (left, grid.width - right * width - left, top, grid.height - down * height - top))
    return grid.planes(padded)


def _in_ball(state: QueryState, delta: Tensor) -> Tensor:
    """Return ``x + delta`` in ball and box: scaled to length eps in l2, projected without scaling in l1."""
    offset = delta.flatten(1)
    if state.threat.norm == "l2":
        offset = offset / _length(offset, 2, state.threat.width) * state.threat.radii(state.x).flatten(1)
    return state.threat.project(state.x + offset.view_as(state.x), state.x)


def _power(v: Tensor, order: int) -> Tensor:
    return (v.abs() if order == 1 else v.square()).sum(-1, keepdim=True)


def _length(v: Tensor, order: int, width: float = 1.0) -> Tensor:
    """Return lengths to divide by, at least the rounding error of zero in a box of this width."""
    return (_power(v, order) ** (1 / order)).clamp_min(1e-12 * width)
