"""Laws that every gradient attack keeps, over norms, starts and precisions."""

from __future__ import annotations

import functools

import pytest
import torch

from advreg import ThreatModel, attacks
from advreg.attacks.cosine_pgd import cosine_pgd
from advreg.objectives import cross_entropy, margin, targeted_dlr
from advreg.threat import NORMS

from .models import best_linear_gain, linear, small_cnn

EPS = {"linf": 8 / 255, "l2": 0.3, "l1": 1.0}
ATTACKS = {
    "fgsm": attacks.fgsm,
    "rs-fgsm": functools.partial(attacks.fgsm, start="uniform"),
    "bim": functools.partial(attacks.pgd, steps=7, start="zero"),
    "pgd": functools.partial(attacks.pgd, steps=7, restarts=2),
    "mifgsm": functools.partial(attacks.mifgsm, steps=7),
    "nifgsm": functools.partial(attacks.nifgsm, steps=7),
    "annealed": functools.partial(cosine_pgd, steps=6),
    "annealed-rivals": functools.partial(cosine_pgd, steps=4, target_classes=3, objective=targeted_dlr),
    "eot": functools.partial(attacks.pgd, steps=3, eot=2),
}


def batch(n: int = 24, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs, some at the faces of the box, and the labels of a random network, so that all are correct."""
    g = torch.Generator().manual_seed(1)
    x = (torch.rand(n, 1, 8, 8, generator=g, dtype=dtype) * 1.4 - 0.2).clamp(0, 1)
    return x, small_cnn(dtype=dtype)(x).argmax(1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("start", ["zero", "uniform"])
def test_pgd_reaches_the_closed_form_of_linear_networks(norm: str, start: str) -> None:
    n = 30
    eps = {"linf": 0.15, "l2": 0.8, "l1": 2.0}[norm]
    model, threat = linear(n, seed=3), ThreatModel(norm, eps)
    x = (torch.rand(40, 1, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * 1.2 - 0.1).clamp(
        0, 1
    )
    y = model(x).argmax(1)
    found = attacks.pgd(
        model, x, y, threat, steps=300, step_size=eps / 10, start=start, objective=margin, early_stop=False
    )
    w = model[1].weight[1] - model[1].weight[0]
    for label, direction in ((0, w), (1, -w)):
        rows = y == label
        best = margin(model(x[rows]), y[rows]) + best_linear_gain(direction.detach(), x[rows], threat)
        torch.testing.assert_close(found.loss[rows], best.detach(), atol=1e-6, rtol=0)
        assert torch.equal(found.broken[rows], best > 0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_stay_inside_the_threat_model(name: str, dtype: torch.dtype, norm: str) -> None:
    (x, y), threat = batch(dtype=dtype), ThreatModel(norm, EPS[norm])
    found = ATTACKS[name](small_cnn(dtype=dtype), x, y, threat)
    assert threat.contains(found.x_adv, x, tol=0.0).all()
    assert found.x_adv.dtype == dtype
    torch.testing.assert_close(found.distance, threat.distance(found.x_adv, x).to(dtype))


@pytest.mark.parametrize("norm", NORMS)
def test_attack_and_verification_agree(norm: str) -> None:
    (x, y), model, threat = batch(), small_cnn(), ThreatModel(norm, 2 * EPS[norm])
    found = attacks.pgd(model, x, y, threat, steps=10)
    assert torch.equal(found.broken, attacks.verify(model, x, found.x_adv, y, threat))
    assert found.broken.any()
    torch.testing.assert_close(found.loss, cross_entropy(model(found.x_adv), y).detach())


def assert_same(a: torch.Tensor, b: torch.Tensor, norm: str) -> None:
    """To the last bit where steps are signs. A matrix product rounds otherwise for other batch sizes: an l2 step carries that,
    and in l1, of two iterates that differ in their last bit, it may decide which is the better one.
    """
    torch.testing.assert_close(a, b, atol=0.0 if norm == "linf" else 1e-12, rtol=0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["pgd", "mifgsm", "rs-fgsm", "annealed-rivals"])
def test_results_do_not_depend_on_the_batch(name: str, norm: str) -> None:
    (x, y), model, threat = (
        batch(64, torch.float64),
        small_cnn(dtype=torch.float64),
        ThreatModel(norm, EPS[norm]),
    )
    ids = torch.arange(64) * 3
    whole = ATTACKS[name](model, x, y, threat, ids=ids, seed=5)
    for size in (1, 7, 64):
        parts = [ATTACKS[name](model, x[r], y[r], threat, ids=ids[r], seed=5) for r in torch.arange(64).split(size)]
        assert torch.equal(torch.cat([p.broken for p in parts]), whole.broken)
        assert_same(torch.cat([p.x_adv for p in parts]), whole.x_adv, norm)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    shuffled = ATTACKS[name](model, x[order], y[order], threat, ids=ids[order], seed=5)
    assert torch.equal(shuffled.broken, whole.broken[order])
    assert_same(shuffled.x_adv, whole.x_adv[order], norm)


def test_more_restarts_or_eps_never_break_fewer() -> None:
    (x, y), model = batch(64), small_cnn()
    one = attacks.pgd(model, x, y, ThreatModel("linf", 0.02), steps=3)
    more = attacks.pgd(model, x, y, ThreatModel("linf", 0.02), steps=3, restarts=4)
    assert (more.broken | ~one.broken).all()
    longer = attacks.pgd(model, x, y, ThreatModel("linf", 0.02), steps=3, start="zero", step_size=0.01)
    longest = attacks.pgd(model, x, y, ThreatModel("linf", 0.02), steps=9, start="zero", step_size=0.01)
    assert (longest.broken | ~longer.broken).all()
    assert one.broken.any()
    assert not one.broken.all()


def test_early_stop_gives_the_same_verdicts_for_less() -> None:
    (x, y), model, threat = (
        batch(64, torch.float64),
        small_cnn(dtype=torch.float64),
        ThreatModel("linf", 0.03),
    )
    stop = attacks.pgd(model, x, y, threat, steps=10)
    on = attacks.pgd(model, x, y, threat, steps=10, early_stop=False)
    assert torch.equal(stop.broken, on.broken)
    assert stop.forwards < on.forwards
    assert (on.loss >= stop.loss - 1e-12).all()  # attacked to the end, the best iterate is kept


@pytest.mark.parametrize("objective", [cross_entropy, margin])
def test_targeted_attacks_reach_the_target_class(objective) -> None:
    x, y = batch(16)
    model, target = small_cnn(), (y + 1) % 5
    found = attacks.pgd(model, x, target, ThreatModel("linf", 0.5), steps=30, targeted=True, objective=objective)
    assert torch.equal(model(found.x_adv).argmax(1) == target, found.broken)
    assert found.broken.float().mean() > 0.8


INTEGER = {
    "pgd": functools.partial(attacks.pgd, steps=3),
    "nifgsm": functools.partial(attacks.nifgsm, steps=3),
    "apgd_targeted": functools.partial(attacks.apgd_targeted, steps=3, target_classes=2),
    "square": functools.partial(attacks.square, queries=20),
    "hopskipjump": functools.partial(attacks.hopskipjump, queries=100),
    "fab": functools.partial(attacks.fab, steps=3),
    "fab_t": functools.partial(attacks.fab, steps=3, target_classes=2),
    "carlini": functools.partial(attacks.carlini_wagner, steps=3, binary_search_steps=2),
}


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
@pytest.mark.parametrize("name", INTEGER)
def test_labels_of_any_integer_type_are_the_same_labels(name: str, dtype: torch.dtype) -> None:
    (x, y), model, threat = batch(6), small_cnn(), ThreatModel("l2" if name == "carlini" else "linf", 0.05)
    given, expected = (INTEGER[name](model, x, labels, threat) for labels in (y.to(dtype), y))
    assert torch.equal(given.x_adv, expected.x_adv)
    assert torch.equal(given.broken, attacks.verify(model, x, given.x_adv, y.to(dtype), threat))
    assert torch.equal(
        attacks.craft(model, x, y.to(dtype), threat, steps=2).x_adv, attacks.craft(model, x, y, threat, steps=2).x_adv
    )


@pytest.mark.parametrize("attack", [attacks.mifgsm, attacks.nifgsm])
@pytest.mark.parametrize("norm", NORMS)
def test_momentum_steps_scale_with_eps_per_example(attack, norm: str) -> None:
    (x, y), model, eps = batch(6, torch.float64), small_cnn(dtype=torch.float64), EPS[norm]
    one = attack(model, x, y, ThreatModel(norm, eps), steps=4, early_stop=False)
    each = attack(model, x, y, ThreatModel(norm, torch.full((6,), eps, dtype=torch.float64)), steps=4, early_stop=False)
    assert_same(each.x_adv, one.x_adv, "l2")


def test_nifgsm_accepts_the_common_options() -> None:
    (x, y), model, threat = batch(12), small_cnn(), ThreatModel("linf", 0.05)
    stopped, on = (attacks.nifgsm(model, x, y, threat, steps=4, early_stop=early, seed=3) for early in (True, False))
    assert torch.equal(stopped.broken, on.broken)
    assert stopped.forwards < on.forwards == 12 * (4 + 3)


def test_probabilities_are_accepted_as_labels() -> None:
    (x, y), model, threat = batch(), small_cnn(), ThreatModel("linf", 0.05)
    hard = attacks.pgd(model, x, y, threat, steps=5)
    soft = attacks.pgd(model, x, torch.nn.functional.one_hot(y, 5).float(), threat, steps=5)
    assert torch.equal(soft.broken, hard.broken)
    torch.testing.assert_close(soft.x_adv, hard.x_adv)


def test_eps_per_example_equals_one_call_per_eps() -> None:
    (x, y), model = batch(12, torch.float64), small_cnn(dtype=torch.float64)
    grid = torch.tensor([0.0, 0.01, 0.1])
    together = attacks.pgd(model, x, y, ThreatModel("linf", grid.repeat(4)), steps=5)
    for k, eps in enumerate(grid.tolist()):
        rows = torch.arange(k, 12, 3)
        alone = attacks.pgd(model, x[rows], y[rows], ThreatModel("linf", eps), steps=5, ids=rows)
        assert torch.equal(together.broken[rows], alone.broken)
        torch.testing.assert_close(together.x_adv[rows], alone.x_adv, atol=1e-8, rtol=0)
