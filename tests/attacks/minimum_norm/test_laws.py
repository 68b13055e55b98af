"""Laws of minimum-norm attacks: verified, inside the box, independent of the batch, exactly counted."""

from __future__ import annotations

import functools

import pytest
import torch

from advreg import ThreatModel, attacks, models
from advreg.attacks import minimum_norm
from advreg.attacks.minimum_norm import SparseThreat, fallback
from advreg.errors import AdvregError, ConfigError, DataError, ModelError, ThreatError
from tests.attacks.models import Counter, linear, small_cnn

FAB_T = functools.partial(minimum_norm.fab, target_classes=2)
SHORT = {
    "fab": (functools.partial(minimum_norm.fab, steps=8), ("linf", "l2", "l1")),
    "fab-t": (functools.partial(FAB_T, steps=8), ("linf", "l2", "l1")),
    "fab-2": (functools.partial(minimum_norm.fab, steps=5, restarts=2), ("linf", "l2", "l1")),
    "fmn": (functools.partial(minimum_norm.fmn, steps=12, restarts=2), ("linf", "l2", "l1", "l0")),
    "ddn": (functools.partial(minimum_norm.ddn, steps=12, restarts=2), ("l2",)),
    "deepfool": (functools.partial(minimum_norm.deepfool, steps=8), ("linf", "l2", "l1")),
    "carlini_wagner": (
        functools.partial(minimum_norm.carlini_wagner, binary_search_steps=3, steps=15, weight=1.0),
        ("l2",),
    ),
}
CASES = [(name, norm) for name, (_, norms) in SHORT.items() for norm in norms]
EPS = {"linf": 0.03, "l2": 0.3, "l1": 2.0, "l0": 4}


def ball(norm: str, eps: float | torch.Tensor | None = None):
    eps = EPS[norm] if eps is None else eps
    return SparseThreat(eps) if norm == "l0" else ThreatModel(norm, eps)


def batch(n: int = 16, dtype: torch.dtype = torch.float32):
    g = torch.Generator().manual_seed(1)
    x = (torch.rand(n, 1, 8, 8, generator=g, dtype=dtype) * 1.4 - 0.2).clamp(0, 1)
    y = small_cnn(dtype=dtype)(x).argmax(1)
    y[0] = (y[0] + 1) % 5  # one clean error
    return small_cnn(dtype=dtype), x, y


@pytest.mark.parametrize(("name", "norm"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_are_inside_the_box_and_confirmed(name: str, norm: str, dtype: torch.dtype) -> None:
    (model, x, y), threat = batch(dtype=dtype), ball(norm)
    found = SHORT[name][0](model, x, y, threat)
    assert threat.contains(found.x_adv, x, tol=0.0).all()
    assert found.x_adv.dtype == found.closest_adv.dtype == dtype
    assert torch.equal(found.broken, attacks.verify(model, x, found.x_adv, y, threat))
    assert bool(((found.closest_adv >= 0) & (found.closest_adv <= 1)).all())
    fools = model(found.closest_adv).argmax(1) != y
    assert torch.equal(fools, found.found)
    torch.testing.assert_close(threat.distance(found.closest_adv, x)[fools], found.min_distance[fools], atol=0, rtol=0)
    assert torch.equal(found.closest_adv[~fools], x[~fools])
    assert torch.equal(found.broken, found.min_distance <= EPS[norm])
    assert float(found.min_distance[0]) == 0
    assert found.found.double().mean() > 0.6
    gap = (model(found.x_adv) - 0).scatter(1, y[:, None], -torch.inf).amax(1) - model(found.x_adv)[range(16), y]
    torch.testing.assert_close(found.loss, gap.detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "norm"), CASES)
@pytest.mark.parametrize("eps", [None, 0.0])
def test_results_do_not_depend_on_the_batch(name: str, norm: str, eps: float | None) -> None:
    (model, x, y), threat, ids = batch(dtype=torch.float64), ball(norm, eps), torch.arange(16) * 3
    attack = functools.partial(SHORT[name][0], model, threat=threat, seed=5)
    whole = attack(x, y, ids=ids)
    for rows in (torch.arange(16).flip(0), torch.arange(5), torch.tensor([9])):
        part = attack(x[rows], y[rows], ids=ids[rows])
        assert torch.equal(part.broken, whole.broken[rows])
        assert torch.equal(part.cost, whole.cost[rows])
        torch.testing.assert_close(part.closest_adv, whole.closest_adv[rows], atol=1e-9, rtol=0)


@pytest.mark.parametrize(("name", "norm"), CASES)
@pytest.mark.parametrize("eps", [None, 0.0])
def test_cost_equals_hook_counts(name: str, norm: str, eps: float | None) -> None:
    model, x, y = batch()
    count = Counter(model)
    found = SHORT[name][0](model, x, y, ball(norm, eps))
    assert (found.forwards, found.backwards) == (count.forwards, count.backwards)
    assert count.weight_gradients() == 0
    assert found.cost[0].tolist() == [1, 0]  # a clean error costs the forward that found it


def test_fab_costs_its_documented_passes() -> None:
    model, x, y = batch()
    far = functools.partial(minimum_norm.fab, model, x[1:], y[1:], ThreatModel("linf", 0.0), steps=20)
    aimed, all_round = far(target_classes=3, restarts=2), far()
    assert aimed.found.all()
    assert (aimed.cost[:, 1] == 3 * 2 * 40).all()
    assert ((aimed.cost[:, 0] > 1 + 6 * 41) & (aimed.cost[:, 0] <= 1 + 6 * (41 + 1))).all()
    assert (all_round.cost == torch.tensor([1 + 41 + 1, 4 * 40])).all()  # four other classes
    more_than_there_are = far(target_classes=9)
    assert (more_than_there_are.cost[:, 1] == 4 * 40).all()


def test_examples_within_eps_leave_the_batch() -> None:
    model, x, y = batch()
    threat = ThreatModel("linf", 0.3)
    stop, on = (
        minimum_norm.fab(model, x, y, threat, target_classes=4, restarts=3, early_stop=s, steps=20)
        for s in (True, False)
    )
    assert stop.broken.all()
    assert torch.equal(stop.broken, on.broken)
    assert stop.forwards < on.forwards / 5
    assert (on.min_distance <= stop.min_distance).all()


@pytest.mark.parametrize(("name", "norm"), [c for c in CASES if c[1] != "l0"])
def test_bisection_only_reduces_distances_and_is_counted(name: str, norm: str) -> None:
    model, x, y = batch(dtype=torch.float64)
    threat = ball(norm, 0.0)
    found = SHORT[name][0](model, x, y, threat)
    count = Counter(model)
    finer = minimum_norm.refine_by_bisection(found, model, x, y, threat, binary_search_steps=10)
    assert count.forwards == finer.forwards - found.forwards == 10 * int((found.found & (found.min_distance > 0)).sum())
    assert (finer.min_distance <= found.min_distance).all()
    assert torch.equal(model(finer.closest_adv).argmax(1) != y, finer.found)
    moved = finer.min_distance < found.min_distance
    assert moved.any()
    torch.testing.assert_close(threat.distance(finer.closest_adv, x)[moved], finer.min_distance[moved])
    assert (finer.min_distance[moved] > 0).all()


def test_points_bisected_to_within_eps_are_broken() -> None:
    model, x, y = batch(dtype=torch.float64)
    rough = minimum_norm.minimum_distance(
        minimum_norm.deepfool, model, x, y, "l2", binary_search_steps=0, overshoot=0.5
    )
    fine = minimum_norm.refine_by_bisection(rough, model, x, y, ThreatModel("l2", 0.0))
    threat = ThreatModel("l2", (rough.min_distance + fine.min_distance) / 2)
    finer = minimum_norm.refine_by_bisection(rough, model, x, y, threat)
    assert finer.broken[1:].any()
    assert threat.contains(finer.x_adv, x).all()
    assert torch.equal(finer.broken, attacks.verify(model, x, finer.x_adv, y, threat) | (finer.min_distance == 0))


@pytest.mark.parametrize("name", ["fab", "fmn", "ddn", "deepfool", "carlini_wagner"])
def test_targeted_attacks_reach_the_target_class(name: str) -> None:
    model, x, y = batch()
    target = (y + 2) % 5
    options = {"carlini_wagner": {"binary_search_steps": 6, "steps": 40}}.get(name, {"steps": 60})
    attack = getattr(minimum_norm, name)
    found = minimum_norm.minimum_distance(attack, model, x, target, "l2", targeted=True, **options)
    assert torch.equal(model(found.closest_adv).argmax(1) == target, found.found)
    assert found.found.double().mean() > 0.7
    free = minimum_norm.minimum_distance(FAB_T, model, x, y, "l2", target_classes=4, steps=40)
    assert (
        float((found.min_distance >= 0.95 * free.min_distance).double().mean()) > 0.9
    )  # a target class costs distance


def test_fast_copy_proposes_and_the_original_verifies() -> None:
    model, x, y = batch()
    target = models.freeze(model, x, precision="bfloat16")
    found = minimum_norm.minimum_distance(minimum_norm.fab, target, x, y, "linf", steps=30)
    exact = minimum_norm.minimum_distance(minimum_norm.fab, model, x, y, "linf", steps=30)
    assert torch.equal(model(found.closest_adv).argmax(1) != y, found.found)
    assert float(found.found.double().mean()) >= 0.9
    assert float((found.min_distance / exact.min_distance)[1:].median()) < 1.1


def test_eps_may_differ_between_examples() -> None:
    model, x, y = batch(dtype=torch.float64)
    eps = torch.linspace(0, 0.2, 16, dtype=torch.float64)
    found = minimum_norm.fab(model, x, y, ThreatModel("linf", eps), steps=10)
    for row in (3, 9, 15):
        alone = minimum_norm.fab(
            model, x[row : row + 1], y[row : row + 1], ThreatModel("linf", float(eps[row])), steps=10
        )
        assert bool(alone.broken) == bool(found.broken[row])
        torch.testing.assert_close(alone.min_distance, found.min_distance[row : row + 1], atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", ["fab", "fab-t", "fmn"])
def test_results_do_not_depend_on_the_gradient_mode(name: str) -> None:
    model, x, y = batch()
    plain = SHORT[name][0](model, x, y, ball("l2"))
    with torch.inference_mode():
        inferred = SHORT[name][0](model, x.clone(), y.clone(), ball("l2"))
    traced = SHORT[name][0](model, x.clone().requires_grad_(), y, ball("l2"))
    assert torch.equal(inferred.closest_adv, plain.closest_adv)
    assert torch.equal(traced.closest_adv, plain.closest_adv)
    assert not traced.closest_adv.requires_grad
    assert not traced.x_adv.requires_grad


class Blind(torch.nn.Module):
    """A linear network where every gradient is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.net = linear(64, 5, dtype=torch.float32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits that depend on the input without a slope."""
        return self.net(x.detach()) + 0 * x.flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize(("name", "norm"), [c for c in CASES if c[0] in {"fmn", "deepfool"}])
def test_without_a_slope_a_random_point_is_refined(name: str, norm: str) -> None:
    model, threat = Blind().eval(), ball(norm, 0.0)
    x = batch()[1]
    y = model(x).argmax(1)
    count = Counter(model)
    found = getattr(minimum_norm, name)(model, x, y, threat, steps=12)
    assert (found.forwards, found.backwards) == (count.forwards, count.backwards)
    start = fallback.random_point(x, (0.0, 1.0), torch.arange(16), 0)
    fooling = model(start).argmax(1) != y
    assert 4 < int(fooling.sum()) < 16
    assert torch.equal(found.found, fooling)
    if norm != "l0":  # all points of a line are equally far in l0
        assert (found.min_distance[fooling] < 0.95 * threat.distance(start, x)[fooling]).all()


X, Y = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3])


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: minimum_norm.fab(small_cnn().train(), X, Y, ball("l2")), ModelError, "call model.eval"),
        (lambda: minimum_norm.fab(small_cnn(), X, Y, SparseThreat(3)), ThreatError, "fab searches in linf, l2, l1"),
        (lambda: minimum_norm.ddn(small_cnn(), X, Y, ball("linf")), ThreatError, "the threat is linf"),
        (lambda: minimum_norm.carlini_wagner(small_cnn(), X, Y, ball("l1")), ThreatError, "the threat is l1"),
        (lambda: minimum_norm.fab(small_cnn(), X, Y, ball("l2"), target_classes=0), ConfigError, "target_classes is 0"),
        (
            lambda: minimum_norm.fab(small_cnn(), X, Y, ball("l2"), target_classes=2, targeted=True),
            ConfigError,
            "leave target_classes out",
        ),
        (lambda: minimum_norm.fmn(small_cnn(), X, Y, ball("l2"), steps=0), ConfigError, "steps is 0"),
        (lambda: minimum_norm.fmn(small_cnn(), X * 255, Y, SparseThreat(3)), DataError, "divide images by 255"),
        (lambda: minimum_norm.fab(small_cnn(), X, Y + 2, ball("l2")), DataError, "label 5"),
        (lambda: minimum_norm.minimum_distance(minimum_norm.fab, small_cnn(), X, Y, "l3"), ThreatError, "'l3'"),
        (lambda: SparseThreat(-1), ThreatError, "0 or more"),
        (
            lambda: minimum_norm.fab(lambda x: small_cnn()(x.detach()).detach(), X, Y, ball("l2", 0.0)),
            ModelError,
            "gradient",
        ),
    ],
)
def test_bad_input_raises_one_line(call, kind, words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        call()
    assert issubclass(kind, AdvregError)
    assert "\n" not in str(caught.value)
