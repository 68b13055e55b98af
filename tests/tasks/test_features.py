"""Tasks on limited features: the search by mutation reaches the exact worst case, and the rules of every point hold."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

import advreg
from advreg import attacks, tasks
from advreg.constraints import FeatureRules
from advreg.errors import AdvregError
from advreg.evaluation import resolve
from advreg.threat import ThreatModel

WHOLE = ThreatModel("linf", 1.0, (0.0, 3.0), scale=torch.ones(3), rules=FeatureRules(integer=(0, 1, 2)))


def rows(n: int, outputs: int) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, outputs)).eval()
    x = torch.randint(0, 4, (n, 3)).float()
    return net, x, net(x).detach()


def exact(task: tasks.Task, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the lowest score of each row over all whole rows within the threat."""
    moves = torch.tensor(list(itertools.product((-1.0, 0.0, 1.0), repeat=3)))
    allowed = [(x + move).clamp(0, 3) for move in moves]
    with torch.no_grad():
        return torch.stack([task.rate(net(points), y).double() for points in allowed]).amin(0)


@pytest.mark.parametrize("task", [tasks.labels("share"), tasks.labels(), tasks.number([0.2, 0.3, 0.3])])
def test_mutate_finds_the_exact_worst_case(task: tasks.Task) -> None:
    net, x, z = rows(24, 3)
    y = z if task.name.startswith("number") else (z > 0).long()
    found = attacks.mutate(net, x, y, WHOLE, queries=400, task=task)
    assert torch.equal(found.worth.double(), exact(task, net, x, y))
    assert WHOLE.rules is not None
    assert bool(WHOLE.rules.kept(found.x_adv).all())


def test_capgd_lowers_the_score_of_a_regression() -> None:
    net, x, y = rows(24, 1)
    found = attacks.capgd(net, x, y, WHOLE, task=tasks.number(0.1))
    assert 0 < int(found.broken.sum()) <= int((exact(tasks.number(0.1), net, x, y) == 0).sum())


def test_protocols_of_tasks_keep_the_rules_of_features() -> None:
    net, x, y = rows(12, 1)
    found = advreg.evaluate(net, (x, y), WHOLE, task="number:tolerance=0.1")
    assert [each.name for each in found.by_attack] == ["capgd-above", "capgd-below", "mutate"]
    assert found.protocol.endswith("-quick@2")
    assert found.robust_accuracy == pytest.approx(float(exact(tasks.number(0.1), net, x, y).mean()))


def test_a_direction_needs_classes() -> None:
    net, x, y = rows(4, 1)
    with pytest.raises(AdvregError, match="direction is 1, a class, and the task is number"):
        attacks.mutate(net, x, y, WHOLE, direction=1, task=tasks.number(0.1))


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("linf", 0.8), ("l2", 0.5)])
def test_stages_in_wider_balls_cost_the_same_and_stay_inside(norm: str, eps: float) -> None:
    torch.manual_seed(0)
    net, threat = nn.Conv2d(3, 3, 3, padding=1).eval(), ThreatModel(norm, eps)
    x, y = torch.rand(4, 3, 6, 6), torch.randint(0, 3, (4, 6, 6))
    found = attacks.apgd(net, x, y, threat, steps=20, large_eps=True, early_stop=False, task=tasks.pixels())
    assert (found.forwards, found.backwards) == (4 * 23, 4 * 20)
    assert bool(threat.contains(found.x_adv, x).all())
    assert float(found.worth.mean()) < float(tasks.pixels().rate(net(x), y).mean())


def test_sea_takes_300_steps_on_each_loss_of_a_segmentation() -> None:
    chosen = resolve("sea", "linf", tasks.pixels(ignore=0))
    assert [stage.name for stage in chosen.stages] == ["apgd-masked-ce", "apgd-balanced-ce", "apgd-js", "apgd-cosine"]
    assert [stage.attack.keywords["steps"] for stage in chosen.stages] == [300] * 4
    with pytest.raises(AdvregError, match="'sea' is not one of task number"):
        resolve("sea", "linf", tasks.number(1))
