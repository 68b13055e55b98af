"""Laws of tasks in the attack loop: scores, best points, verification, and errors that name the remedy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advreg import attacks
from advreg.errors import AdvregError, ConfigError, DataError
from advreg.objectives import cross_entropy, is_label_largest, margin
from advreg.tasks import CLASSES, Task
from advreg.threat import ThreatModel

THREAT = ThreatModel("linf", 0.1)


def gap(z: Tensor, y: Tensor) -> Tensor:
    return (z - y).abs().amax(1)


def share(z: Tensor, y: Tensor) -> Tensor:
    return ((z - y).abs() < 0.02).double().mean(1)


NUMBERS = Task("mine", share, {"gap": gap})


def network(outputs: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, outputs)).eval().requires_grad_(False)


def examples(n: int = 12, outputs: int = 4) -> tuple[nn.Module, Tensor, Tensor]:
    model, x = network(outputs), torch.rand(n, 6, generator=torch.Generator().manual_seed(1))
    return model, x, model(x).detach()


def test_a_task_of_its_own_equals_classes() -> None:
    model, x, z = examples(24)
    y, own = z.argmax(1), Task("own", is_label_largest, {"ce": cross_entropy}, near=margin)
    for attack, options in ((attacks.pgd, {}), (attacks.apgd, {"restarts": 2}), (attacks.square, {"queries": 40})):
        expected: Any = attack(model, x, y, ThreatModel("linf", 0.3), **options)
        found: Any = attack(model, x, y, ThreatModel("linf", 0.3), task=own, **options)
        for name in ("x_adv", "broken", "loss", "cost"):
            assert torch.equal(getattr(found, name), getattr(expected, name))


def test_float_scores_equal_boolean_verdicts() -> None:
    model, x, z = examples(24)
    y = z.argmax(1)
    own = Task("own", lambda z, y: is_label_largest(z, y).double(), {"ce": cross_entropy}, near=margin)
    found = attacks.pgd(model, x, y, ThreatModel("linf", 0.3), task=own)
    expected = attacks.pgd(model, x, y, ThreatModel("linf", 0.3))
    assert torch.equal(found.broken, expected.broken)
    assert torch.equal(found.x_adv, expected.x_adv)
    assert found.score is not None
    assert torch.equal(found.score, (~found.broken).double())


def test_the_result_has_the_lowest_score_inside_the_threat() -> None:
    model, x, y = examples()
    found = attacks.apgd(model, x, y, THREAT, task=NUMBERS, steps=20, restarts=2)
    assert found.score is not None
    assert torch.equal(found.score, share(model(found.x_adv), y).to(found.score.dtype))
    assert bool(THREAT.contains(found.x_adv, x).all())
    once = attacks.apgd(model, x, y, THREAT, task=NUMBERS, steps=20)
    assert once.score is not None
    assert bool((found.score <= once.score).all())
    assert float(found.score.mean()) < 1.0


def test_a_broken_threshold_ends_the_attack() -> None:
    model, x, y = examples()
    half = Task("half", share, {"gap": gap}, broken_at=0.75)
    full = attacks.pgd(model, x, y, THREAT, task=NUMBERS)
    found = attacks.pgd(model, x, y, THREAT, task=half)
    assert found.forwards < full.forwards
    assert found.score is not None
    assert torch.equal(found.broken, found.score <= 0.75)


def test_verify_uses_the_score_of_the_task() -> None:
    model, x, y = examples()
    found = attacks.pgd(model, x, y, ThreatModel("linf", 0.5), task=NUMBERS)
    assert torch.equal(attacks.verify(model, x, found.x_adv, y, ThreatModel("linf", 0.5), task=NUMBERS), found.broken)
    outside = attacks.verify(model, x, (x + 0.3).clamp(0, 1), y, ThreatModel("linf", 0.01), task=NUMBERS)
    assert not bool(outside.any())


def test_a_targeted_attack_raises_the_score_of_its_target() -> None:
    model, x, y = examples()
    wanted = y + 0.15
    found = attacks.pgd(
        model, x, wanted, ThreatModel("linf", 0.3), task=Task("mine", share, {"gap": gap}), targeted=True
    )
    assert float(gap(model(found.x_adv), wanted).mean()) < float(gap(y, wanted).mean())


def test_an_output_that_is_not_finite_scores_zero() -> None:
    z = torch.tensor([[0.0, torch.nan], [0.0, 0.0]])
    assert NUMBERS.rate(z, torch.zeros(2, 2)).tolist() == [0.0, 1.0]


def test_results_of_a_task_do_not_depend_on_the_batch() -> None:
    model, x, y = examples()
    model, x, y = model.double(), x.double(), y.double()
    together = attacks.pgd(model, x, y, THREAT, task=NUMBERS, steps=10)
    apart = attacks.pgd(model, x, y, THREAT, task=NUMBERS, steps=10, batch_size=5)
    assert torch.equal(together.x_adv, apart.x_adv)


class Scheduled:
    """An objective that records the shares of the attempt at which it was used."""

    def __init__(self) -> None:
        self.shares: list[float] = []

    def __call__(self, z: Tensor, y: Tensor) -> Tensor:
        return gap(z, y)

    def at(self, share: float) -> Scheduled:
        self.shares.append(share)
        return self


def test_an_objective_may_change_with_the_steps() -> None:
    model, x, y = examples()
    scheduled = Scheduled()
    attacks.pgd(model, x, y, THREAT, task=Task("mine", share, {"gap": scheduled}), steps=4)
    assert scheduled.shares == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_craft_makes_examples_for_any_task() -> None:
    model, x, y = examples()
    crafted = attacks.craft(model, x, y, THREAT, task=NUMBERS)
    assert float(gap(model(crafted.x_adv), y).mean()) > 0.05


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (
            Task("mine", share, {"gap": lambda z, y: (z - y).abs().mean()}),
            ["objective gap", "(B,)", "reduction='none'"],
        ),
        (Task("mine", share, {"gap": lambda z, y: ((z - y) - (z - y).mean()).abs().amax(1)}), ["must not depend"]),
        (Task("mine", lambda z, y: gap(z, y) + 2, {"gap": gap}), ["score spans", "[0, 1]"]),
        (Task("mine", share, {"gap": lambda z, y: (z + y[:, :3]).sum(1)}), ["objective gap fails on outputs (12, 4)"]),
        (Task("mine", share, {"gap": gap}, fits=lambda z, y: "give another y"), ["task mine: give another y"]),
    ],
)
def test_a_task_that_mixes_examples_is_rejected(task: Task, words: list[str]) -> None:
    model, x, y = examples()
    shifted = y + torch.linspace(0.1, 0.4, 12)[:, None]
    for attack in (attacks.pgd, attacks.craft):
        with pytest.raises(AdvregError) as caught:
            attack(model, x, shifted, THREAT, task=task)
        assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("name", ["Mine", "a/b", "", "a b"])
def test_a_task_has_a_name_for_ids(name: str) -> None:
    with pytest.raises(ConfigError, match="lower-case"):
        Task(name, share, {"gap": gap})


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (torch.ones(12, 4), ["several labels: task='labels'"]),
        (torch.ones(12, 4).long(), ["several labels: task='labels'"]),
        (torch.rand(12), ["numbers: task='number'"]),
        (torch.zeros(12, 5, 5).long(), ["masks: task='pixels'"]),
    ],
)
def test_targets_of_other_tasks_are_named(y: Tensor, words: list[str]) -> None:
    model, x, _ = examples()
    with pytest.raises(DataError) as caught:
        attacks.pgd(model, x, y, THREAT)
    assert all(word in str(caught.value) for word in words)


def test_targets_must_be_finite_and_one_for_each_input() -> None:
    model, x, y = examples()
    with pytest.raises(DataError, match="NaN or infinity in 1"):
        attacks.pgd(model, x, y.index_fill(0, torch.tensor(0), 0) / torch.tensor([0, 1, 1, 1.0]), THREAT, task=NUMBERS)
    with pytest.raises(DataError, match="one target for each"):
        attacks.pgd(model, x, y[:3], THREAT, task=NUMBERS)


def test_the_default_task_is_classification() -> None:
    assert CLASSES.name == "classes"
    assert next(iter(CLASSES.objectives)) == "ce"
