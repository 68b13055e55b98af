"""PGD through shrinking balls: exact where a closed form exists, stronger than the reference, and counted."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from advreg import ThreatModel, attacks, load_data, load_model
from advreg.attacks import shrinking_pgd
from advreg.errors import ConfigError
from advreg.objectives import margin
from tests.attacks.models import Counter, best_linear_gain, linear, small_cnn

EPS = {"linf": 0.05, "l2": 0.4, "l1": 1.5}


class Constant(nn.Module):
    """A network that no input changes, though its gradient is finite."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tensor([2.0, 0.0, -1.0]) + 0.0 * x.flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_shrinking_pgd_nears_the_linear_optimum(norm: str) -> None:
    model, threat = linear(30, seed=3), ThreatModel(norm, EPS[norm])
    x = torch.rand(40, 1, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    y = model(x).argmax(1)
    found = shrinking_pgd(model, x, y, threat, schedule=((4, 10), (1, 60)), early_stop=False)
    w = (model[1].weight[1] - model[1].weight[0]).detach()
    for label, direction in ((0, w), (1, -w)):
        rows = y == label
        clean, gain = margin(model(x[rows]), y[rows]).detach(), best_linear_gain(direction, x[rows], threat)
        assert bool((found.loss[rows] <= clean + gain + 1e-9).all())
        assert bool((found.loss[rows] - clean >= 0.99 * gain).all())


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_survivor_costs_its_documented_passes(norm: str) -> None:
    model, x, y = Constant().eval(), torch.rand(5, 1, 4, 4), torch.zeros(5, dtype=torch.int64)
    count = Counter(model)
    found = shrinking_pgd(model, x, y, ThreatModel(norm, EPS[norm]), schedule=((8, 2), (2, 3), (1, 4)), restarts=3)
    assert (found.forwards, found.backwards) == (count.forwards, count.backwards) == (5 * (1 + 3 * 11), 5 * 3 * 9)


@pytest.mark.parametrize("attack", [shrinking_pgd, attacks.cosine_pgd])
def test_stacked_restarts_give_verdicts_of_single_examples(attack) -> None:
    model, threat = small_cnn(dtype=torch.float64), ThreatModel("l2", 0.25)
    x = torch.rand(12, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    y = model(x).argmax(1)
    together = attack(model, x, y, threat, restarts=6)
    alone = [attack(model, x[k : k + 1], y[k : k + 1], threat, restarts=6, ids=torch.tensor([k])) for k in range(12)]
    assert together.broken.tolist() == [bool(one.broken) for one in alone]
    assert 0 < int(together.broken.sum()) < 12


def test_shrinking_pgd_accepts_eps_per_example_and_targets() -> None:
    model, x = small_cnn(), torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    y, eps = model(x).argmax(1), torch.linspace(0.0, 4.0, 8)
    found = shrinking_pgd(model, x, (y + 1) % 5, ThreatModel("l2", eps), targeted=True)
    assert bool((found.distance <= eps).all())
    assert torch.equal(model(found.x_adv).argmax(1)[found.broken], ((y + 1) % 5)[found.broken])
    assert bool(found.broken.any())


def test_schedules_without_a_last_stage_at_eps_are_rejected() -> None:
    x, y = torch.rand(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64)
    for schedule in ((), ((2, 5),), ((1, 0),), ((-1, 3), (1, 3))):
        with pytest.raises(ConfigError, match="give pairs"):
            shrinking_pgd(small_cnn(), x, y, ThreatModel("l2", 0.1), schedule=schedule)


@pytest.mark.parametrize(("norm", "eps"), [("l2", 1.5), ("l1", 6.0)])
def test_shrinking_pgd_breaks_all_that_the_reference_breaks(shared: Path, norm: str, eps: float) -> None:
    reference = json.loads((shared / "cases" / "reference_l1_l2.json").read_text())[f"wk17-{norm}-{eps:g}"]
    model = load_model("zoo:mnist-small", weights=shared / "checkpoints" / "mnist_wk17a_linf0.1.pth")
    x, y = load_data("mnist")[1].tensors(n=50)
    found = shrinking_pgd(model, x, y, ThreatModel(norm, eps), restarts=12)
    point, wide = found.x_adv.double(), copy.deepcopy(model).double()
    size = torch.linalg.vector_norm((point - x.double()).flatten(1), ord=2 if norm == "l2" else 1, dim=1)
    inside = (size <= eps * (1 + 1e-6)) & (point.flatten(1).amin(1) >= 0) & (point.flatten(1).amax(1) <= 1)
    broken = (wide(point).argmax(1) != y) & inside  # checked apart from the library, in float64
    survives = torch.tensor(reference["standing"]).bool()
    assert not bool((~broken & ~survives).any())
    assert float((~broken).double().mean()) <= {"l2": 0.04, "l1": 0.0}[norm] < reference["robust_accuracy"]
