"""Cost is exact: the cost of a result equals the passes that hooks on the model count."""

from __future__ import annotations

import torch

from advreg import ThreatModel, attacks, freeze
from advreg.objectives import probability_margin

from .models import Counter, small_cnn


def robust_batch(n: int) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """Return a network and inputs that no tiny perturbation breaks, so that every example survives."""
    x = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    model = small_cnn()
    return model, x, model(x).argmax(1)


def test_pgd_costs_its_steps_plus_three_forwards() -> None:
    model, x, y = robust_batch(10)
    count = Counter(model)
    found = attacks.pgd(model, x, y, ThreatModel("linf", 1e-5), steps=40)
    assert not found.broken.any()
    assert (
        found.forwards == count.forwards == 10 * (1 + 40 + 1 + 1)
    )  # the clean point, the steps, the last iterate, the verification
    assert found.backwards == count.backwards == 10 * 40
    assert count.weight_gradients() == 0


def test_restarts_and_eot_samples_multiply() -> None:
    model, x, y = robust_batch(6)
    count = Counter(model)
    found = attacks.pgd(model, x, y, ThreatModel("linf", 1e-5), steps=5, restarts=3, eot=4)
    assert found.forwards == count.forwards == 6 * (1 + 3 * (4 * (5 + 1) + 1))
    assert found.backwards == count.backwards == 6 * 3 * 4 * 5


def test_broken_examples_stop_costing() -> None:
    model, x, y = robust_batch(32)
    count = Counter(model)
    found = attacks.pgd(model, x, y, ThreatModel("linf", 0.5), steps=40, restarts=5)
    assert found.broken.all()
    assert found.forwards == count.forwards < 32 * 20
    assert found.backwards == count.backwards
    wrong = (y + 1) % 5
    already = attacks.pgd(model, x, wrong, ThreatModel("linf", 0.5))
    assert already.cost[already.distance == 0].max() <= 43
    assert already.cost.tolist().count([1, 0]) >= 20  # a clean error costs the one forward that found it


def test_crafted_examples_cost_exactly_their_steps() -> None:
    model, x, y = robust_batch(8)
    model.train()
    count = Counter(model)
    made = attacks.craft(model, x, y, ThreatModel("linf", 0.1), steps=7)
    assert (made.forwards, made.backwards) == (count.forwards, count.backwards) == (8 * 7, 8 * 7)
    assert count.weight_gradients() == 0
    assert ThreatModel("linf", 0.1).contains(made.x_adv, x).all()


def test_original_confirms_clean_errors_of_a_fast_copy() -> None:
    model, x, y = robust_batch(12)
    y[:3] = (y[:3] + 1) % 5
    with torch.no_grad():
        near = int(
            (probability_margin(model(x), y)[3:] > -0.9).sum()
        )  # constant outputs: the clean points decide which rows are near
    assert near > 0
    target = freeze(model, x)
    fast, original = Counter(target), Counter(model)
    found = attacks.pgd(target, x, y, ThreatModel("linf", 1e-5), steps=4)
    assert found.broken.tolist() == [True] * 3 + [False] * 9
    assert fast.forwards == 12 + 9 * 5  # every clean point, then the iterates of the survivors
    # the clean errors, the best iterates of the others, a query of the survivors,
    # and the refinement of near ones: a step, its last iterate, its best
    assert original.forwards == 3 + 9 + 9 + near * (1 + 1 + 1)
    assert found.forwards == fast.forwards + original.forwards
    assert (fast.backwards, original.backwards) == (9 * 4, near)
    assert found.backwards == fast.backwards + original.backwards


def test_one_step_on_a_fast_copy_is_not_extended() -> None:
    model, x, y = robust_batch(12)
    target = freeze(model, x)
    fast, original = Counter(target), Counter(model)
    found = attacks.fgsm(target, x, y, ThreatModel("linf", 1e-5))
    assert (fast.backwards, original.backwards, found.backwards) == (12, 0, 12)
