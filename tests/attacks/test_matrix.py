"""One matrix: attack x norm x box x dtype x model x shape, against closed forms and brute force."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advreg import ThreatModel, attacks
from advreg.objectives import margin
from tests.attacks.models import best_linear_gain

NORMS = ("linf", "l2", "l1")
ATTACKS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "fgsm": (attacks.fgsm, NORMS),
    "pgd": (functools.partial(attacks.pgd, steps=20, objective=margin), NORMS),
    "mifgsm": (attacks.mifgsm, NORMS),
    "nifgsm": (attacks.nifgsm, NORMS),
    "annealed": (functools.partial(attacks.cosine_pgd, steps=20, restarts=2), NORMS),
    "shrinking_pgd": (functools.partial(attacks.shrinking_pgd, restarts=3), NORMS),
    "apgd": (functools.partial(attacks.apgd, steps=30), NORMS),
    "apgd_targeted": (functools.partial(attacks.apgd_targeted, steps=20, target_classes=2), NORMS),
    "fab": (functools.partial(attacks.fab, steps=20), NORMS),
    "fmn": (functools.partial(attacks.fmn, steps=60), NORMS),
    "ddn": (functools.partial(attacks.ddn, steps=60), ("l2",)),
    "deepfool": (attacks.deepfool, NORMS),
    "carlini": (functools.partial(attacks.carlini_wagner, steps=40), ("l2",)),
    "square": (functools.partial(attacks.square, queries=200), NORMS),
    "random_search": (functools.partial(attacks.random_search, queries=50), NORMS),
    "spsa": (functools.partial(attacks.spsa, steps=10, samples=32), ("linf",)),
    "hopskipjump": (functools.partial(attacks.hopskipjump, queries=400), ("linf", "l2")),
}
CELLS = [(name, norm) for name, (_, norms) in ATTACKS.items() for norm in norms]
EPS = {"linf": 0.08, "l2": 0.3, "l1": 0.9}
BOXES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))
SHAPES = ((16,), (2, 8), (1, 4, 4))
EXACT = ("pgd", "annealed", "apgd", "fab", "deepfool", "fmn")
"""Attacks that reach the closed form of a linear network with two classes."""


class Linear(nn.Module):
    """``K`` linear classes over inputs scaled to [0, 1], in any box and shape; optionally in place."""

    def __init__(self, classes: int, box: tuple[float, float], *, writes: bool = False) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(classes)
        self.weight = nn.Parameter(torch.randn(classes, 16, generator=g, dtype=torch.float64))
        self.low, self.wide, self.writes = box[0], box[1] - box[0], writes
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        unit = x.sub_(self.low).div_(self.wide) if self.writes else (x - self.low) / self.wide
        return unit.flatten(1) @ self.weight.T


def inputs(shape: tuple[int, ...], box: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    unit = torch.rand(12, *shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return (box[0] + (box[1] - box[0]) * unit).clamp(*box)


def run(name: str, norm: str, model: nn.Module, x: Tensor, box: tuple[float, float]) -> tuple[Any, Tensor, ThreatModel]:
    """Attack the predicted classes; return the result, the labels and the threat model."""
    attack, threat = ATTACKS[name][0], ThreatModel(norm, EPS[norm] * (box[1] - box[0]), box)
    with torch.no_grad():
        kind = next(model.parameters()).dtype if isinstance(model, nn.Module) else x.dtype
        y = model(x.to(kind).clone()).argmax(1)
    return attack(model, x, y, threat, seed=1), y, threat


def confirmed(model: nn.Module, x: Tensor, y: Tensor, found: Any, threat: ThreatModel) -> Tensor:
    """Return which points are inside ball and box, measured here in float64, and misclassified."""
    point = found.x_adv.double()
    offset, order = (point - x.double()).flatten(1), {"linf": torch.inf, "l2": 2.0, "l1": 1.0}[threat.norm]
    inside = torch.linalg.vector_norm(offset, ord=order, dim=1) <= float(threat.eps) * (1 + 1e-6)
    within = (point >= threat.box[0]).flatten(1).all(1) & (point <= threat.box[1]).flatten(1).all(1)
    with torch.no_grad():
        wrong = model(found.x_adv.to(next(model.parameters()).dtype).clone()).argmax(1) != y
    return inside & within & wrong


@pytest.mark.parametrize(("name", "norm"), CELLS)
def test_every_box_gives_equal_verdicts(name: str, norm: str) -> None:
    seen = []
    for box in BOXES:
        model, x = Linear(4, box), inputs((16,), box)
        found, y, threat = run(name, norm, model, x, box)
        assert torch.equal(confirmed(model, x, y, found, threat), found.broken)
        seen.append(found.broken.tolist())
    assert seen[0] == seen[1] == seen[2]


@pytest.mark.parametrize(("name", "norm"), CELLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_dtype_keeps_the_whole_ball(name: str, norm: str, dtype: torch.dtype) -> None:
    model = Linear(4, BOXES[0]).to(dtype)
    x = inputs((16,)).to(dtype)
    found, y, threat = run(name, norm, model, x, BOXES[0])
    assert found.x_adv.dtype == torch.float32
    assert torch.equal(confirmed(model, x, y, found, threat), found.broken)
    whole, *_ = run(name, norm, Linear(4, BOXES[0]).float(), x.float(), BOXES[0])
    assert int(found.broken.sum()) >= int(whole.broken.sum()) - 2  # outputs rounded to 8 bits flip near the boundary


@pytest.mark.parametrize(("name", "norm"), CELLS)
def test_models_that_write_into_their_input_give_equal_results(name: str, norm: str) -> None:
    x = inputs((16,), BOXES[1])
    before = x.clone()
    still, *_ = run(name, norm, Linear(4, BOXES[1]), x, BOXES[1])
    found, *_ = run(name, norm, Linear(4, BOXES[1], writes=True), x, BOXES[1])
    assert torch.equal(x, before)
    assert torch.equal(found.broken, still.broken)
    assert (found.forwards, found.backwards) == (still.forwards, still.backwards)


@pytest.mark.parametrize(("name", "norm"), CELLS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_attacked(name: str, norm: str, shape: tuple[int, ...]) -> None:
    model, x = Linear(4, BOXES[0]), inputs(shape)
    found, y, threat = run(name, norm, model, x, BOXES[0])
    assert found.x_adv.shape == x.shape
    assert torch.equal(confirmed(model, x, y, found, threat), found.broken)


@pytest.mark.parametrize(("name", "norm"), CELLS)
def test_attacks_reach_but_never_beat_the_closed_form(name: str, norm: str) -> None:
    model, x = Linear(2, BOXES[0]), inputs((16,))
    found, y, threat = run(name, norm, model, x, BOXES[0])
    w = (model.weight[1] - model.weight[0]).detach()
    with torch.no_grad():
        lead = margin(model(x), y)
    best = torch.stack(
        [best_linear_gain(w if label == 0 else -w, row[None], threat)[0] for row, label in zip(x, y, strict=True)]
    )
    breakable = lead + best > 0
    assert not bool((found.broken & ~breakable).any())
    clear = (lead + best).abs() > 0.02 * best  # an iterative attack may stop short of the last percent
    if name in EXACT:
        assert torch.equal(found.broken[clear], breakable[clear])


def ball(norm: str, eps: float, n: int, steps: int) -> Tensor:
    """Return a grid of offsets in the ball, ``(G, n)``."""
    axis = torch.linspace(-eps, eps, steps, dtype=torch.float64)
    grid = torch.tensor(list(itertools.product(axis.tolist(), repeat=n)), dtype=torch.float64)
    order = {"linf": torch.inf, "l2": 2.0, "l1": 1.0}[norm]
    return grid[torch.linalg.vector_norm(grid, ord=order, dim=1) <= eps]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("n", "classes"), [(2, 2), (2, 3), (2, 6), (3, 3), (3, 5)])
def test_brute_force_breaks_no_more_than_all_attacks(norm: str, n: int, classes: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(10 * n + classes)
        model = nn.Sequential(nn.Linear(n, 16), nn.Tanh(), nn.Linear(16, classes)).double().eval()
    x = torch.rand(24, n, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y, threat = model(x).argmax(1), ThreatModel(norm, {"linf": 0.15, "l2": 0.18, "l1": 0.22}[norm])
    offsets = ball(norm, float(threat.eps), n, {2: 61, 3: 25}[n])
    with torch.no_grad():
        points = (x[:, None] + offsets).clamp(0, 1)
        lead = margin(model(points.flatten(0, 1)), y.repeat_interleave(len(offsets))).view(len(x), -1).amax(1)
    broken = torch.zeros(len(x), dtype=torch.bool)
    for attack in (
        attacks.cosine_pgd,
        attacks.apgd,
        attacks.shrinking_pgd,
        functools.partial(attacks.square, queries=300),
    ):
        broken |= attack(model, x, y, threat, seed=3).broken
    assert not bool(((lead > 0) & ~broken).any())
    scale = (lead.abs().amax() / 50).item()  # the grid misses points between its nodes
    assert not bool((broken & (lead < -scale)).any())
