"""Laws of black-box attacks: inside the threat model, independent of the batch, exact number of queries."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch

from advreg import ThreatModel, attacks
from advreg.attacks import blackbox
from advreg.attacks.model import ProxyModel
from advreg.objectives import margin
from advreg.threat import NORMS

from ..models import Counter, best_linear_gain, linear, small_cnn
from .shapes import balanced

EPS = {"linf": 0.1, "l2": 0.7, "l1": 3.0}
ATTACKS = {
    "square": functools.partial(blackbox.square, queries=30),
    "square-restarts": functools.partial(blackbox.square, queries=12, restarts=2),
    "random-search": functools.partial(blackbox.random_search, queries=20),
    "spsa": functools.partial(blackbox.spsa, steps=4, samples=18, step_size=0.05),
    "hopskipjump": functools.partial(blackbox.hopskipjump, queries=120, gradient_samples=20),
}
PAIRS = [
    (name, norm)
    for name in ATTACKS
    for norm in NORMS
    if not (name == "spsa" and norm != "linf") and not (name == "hopskipjump" and norm == "l1")
]


def batch(n: int = 24, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs, some at the faces of the box, and the labels of a random network."""
    g = torch.Generator().manual_seed(1)
    x = (torch.rand(n, 1, 8, 8, generator=g, dtype=dtype) * 1.4 - 0.2).clamp(0, 1)
    return x, small_cnn(dtype=dtype)(x).argmax(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "norm"), PAIRS)
def test_attacks_stay_inside_the_threat_model(name: str, norm: str, dtype: torch.dtype) -> None:
    (x, y), threat, model = batch(dtype=dtype), ThreatModel(norm, EPS[norm]), small_cnn(dtype=dtype)
    for early_stop in (True, False):
        found = ATTACKS[name](model, x, y, threat, early_stop=early_stop)
        assert threat.contains(found.x_adv, x, tol=0.0).all()
        assert found.x_adv.dtype == dtype
        assert torch.equal(found.broken, attacks.verify(model, x, found.x_adv, y, threat))
        assert (found.distance > 0).any()


@pytest.mark.parametrize(("name", "norm"), PAIRS)
def test_results_do_not_depend_on_the_batch(name: str, norm: str) -> None:
    (x, y), threat = batch(8, torch.float64), ThreatModel(norm, 2.5 * EPS[norm])
    attack = functools.partial(ATTACKS[name], small_cnn(dtype=torch.float64), threat=threat, seed=5)
    ids = torch.arange(8) * 3
    whole = attack(x, y, ids=ids)
    assert whole.broken.any()
    for size in (1, 3):
        parts = [attack(x[r], y[r], ids=ids[r]) for r in torch.arange(8).split(size)]
        assert torch.equal(torch.cat([p.broken for p in parts]), whole.broken)
        assert torch.equal(torch.cat([p.cost for p in parts]), whole.cost)
        torch.testing.assert_close(torch.cat([p.x_adv for p in parts]), whole.x_adv, atol=1e-12, rtol=0)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    shuffled = attack(x[order], y[order], ids=ids[order], batch_size=4)
    assert torch.equal(shuffled.broken, whole.broken[order])
    torch.testing.assert_close(shuffled.x_adv, whole.x_adv[order], atol=1e-12, rtol=0)


@pytest.mark.parametrize(("name", "norm"), PAIRS)
def test_draws_depend_on_the_seed_and_no_global_state(name: str, norm: str) -> None:
    (x, y), threat, model = batch(8), ThreatModel(norm, EPS[norm] / 2), small_cnn()
    first = ATTACKS[name](model, x, y, threat, seed=1)
    torch.manual_seed(77)
    assert torch.equal(ATTACKS[name](model, x, y, threat, seed=1).x_adv, first.x_adv)
    assert not torch.equal(ATTACKS[name](model, x, y, threat, seed=2).x_adv, first.x_adv)


@pytest.mark.parametrize(
    ("attack", "option", "norm", "budgets"),
    [
        (blackbox.square, "queries", "linf", (1, 10, 40, 160)),
        (blackbox.square, "queries", "l2", (1, 10, 40, 160)),
        (blackbox.square, "queries", "l1", (1, 10, 40)),
        (blackbox.square, "restarts", "linf", (1, 2, 3)),
        (blackbox.random_search, "queries", "l2", (1, 10, 50)),
        (blackbox.spsa, "steps", "linf", (1, 4, 8)),
        (blackbox.hopskipjump, "queries", "l2", (1, 200, 400, 800)),
    ],
)
def test_more_effort_never_breaks_fewer(attack, option: str, norm: str, budgets: tuple[int, ...]) -> None:
    (x, y), threat = batch(40, torch.float64), ThreatModel(norm, EPS[norm] * 0.7)
    rest = {"queries": 12} if option == "restarts" else {"samples": 16} if attack is blackbox.spsa else {}
    broken = [
        attack(small_cnn(dtype=torch.float64), x, y, threat, **{option: budget, **rest}).broken for budget in budgets
    ]
    for fewer, more in itertools.pairwise(broken):
        assert (more | ~fewer).all()
    assert broken[-1].sum() > broken[0].sum()


@pytest.mark.parametrize(
    ("attack", "each"),
    [
        (functools.partial(blackbox.square, queries=33), 1 + 33 + 1),
        (functools.partial(blackbox.square, queries=5, restarts=3), 1 + 3 * (5 + 1)),
        (functools.partial(blackbox.random_search, queries=12), 1 + 12 + 1),
        (functools.partial(blackbox.spsa, steps=3, samples=20), 1 + 3 * (2 * 20 + 1) + 1),
    ],
)
def test_robust_example_costs_exactly_its_queries(attack, each: int) -> None:
    (x, y), model = batch(6), small_cnn()
    count = Counter(model)
    found = attack(model, x, y, ThreatModel("linf", 1e-6))
    assert not found.broken.any()
    assert found.cost[:, 0].tolist() == [each] * 6
    assert (found.forwards, found.backwards) == (count.forwards, count.backwards) == (6 * each, 0)


@pytest.mark.parametrize(("name", "norm"), PAIRS)
def test_cost_equals_hook_counts_and_stops_once_broken(name: str, norm: str) -> None:
    (x, y), model = batch(24), small_cnn()
    count = Counter(model)
    found = ATTACKS[name](model, x, y, ThreatModel(norm, 3 * EPS[norm]))
    assert found.forwards == count.forwards
    assert found.broken.any()
    assert count.weight_gradients() == 0
    cheapest = found.cost[found.broken, 0].min()
    robust = ATTACKS[name](model, x, y, ThreatModel(norm, 1e-7))
    assert cheapest < robust.cost[:, 0].min()
    wrong = ATTACKS[name](model, x, (y + 1) % 5, ThreatModel(norm, EPS[norm]))
    assert wrong.broken.all()
    assert wrong.forwards == 24  # a clean error costs the one forward that found it


def test_hopskipjump_never_exceeds_its_query_budget() -> None:
    (x, y), model = batch(10), small_cnn()
    for queries in (1, 40, 333):
        found = blackbox.hopskipjump(model, x, y, ThreatModel("l2", 1e-6), queries=queries)
        assert found.cost[:, 0].max() <= queries + 2


@pytest.mark.parametrize(("name", "norm"), PAIRS)
def test_early_stop_gives_the_same_verdicts_for_less(name: str, norm: str) -> None:
    (x, y), model, threat = batch(24, torch.float64), small_cnn(dtype=torch.float64), ThreatModel(norm, 2 * EPS[norm])
    stop = ATTACKS[name](model, x, y, threat)
    on = ATTACKS[name](model, x, y, threat, early_stop=False)
    assert torch.equal(stop.broken, on.broken)
    assert stop.forwards < on.forwards


@pytest.mark.parametrize(("name", "norm"), [pair for pair in PAIRS if pair[0] != "hopskipjump"])
def test_check_interval_changes_only_the_cost(name: str, norm: str, monkeypatch) -> None:
    (x, y), model, threat = batch(24, torch.float64), small_cnn(dtype=torch.float64), ThreatModel(norm, 2 * EPS[norm])
    often = ATTACKS[name](model, x, y, threat)
    monkeypatch.setattr("advreg.attacks.blackbox.score_based._check_interval", lambda _: 3)
    count = Counter(model)
    seldom = ATTACKS[name](model, x, y, threat)
    assert often.broken.any()
    assert torch.equal(seldom.broken, often.broken)
    torch.testing.assert_close(seldom.x_adv, often.x_adv, atol=1e-12, rtol=0)
    assert often.forwards <= seldom.forwards == count.forwards


@pytest.mark.parametrize(("name", "norm"), [pair for pair in PAIRS if pair[0] != "hopskipjump"])
def test_any_function_of_scores_can_be_attacked(name: str, norm: str) -> None:
    (x, y), model, threat = batch(12), small_cnn(), ThreatModel(norm, EPS[norm])
    sizes: list[int] = []

    def scores(points: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        sizes.append(len(points))
        return model(points)

    result = ATTACKS[name](scores, x, y, threat, batch_size=5)
    assert torch.equal(result.broken, ATTACKS[name](model, x, y, threat).broken)
    assert sum(sizes) == result.forwards
    assert max(sizes) <= 5 * 32


def test_no_attack_beats_the_closed_form_of_a_linear_network() -> None:
    x = torch.rand(60, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    model = balanced(linear(16, seed=3))
    y = model(x).argmax(1)
    direction = (model[1].weight[1] - model[1].weight[0]).detach()
    for name, norm in PAIRS:
        threat = ThreatModel(norm, EPS[norm] / 2)
        found = ATTACKS[name](model, x, y, threat, early_stop=False)
        for label, w in ((0, direction), (1, -direction)):
            rows = y == label
            best = margin(model(x[rows]), y[rows]).detach() + best_linear_gain(w, x[rows], threat)
            assert not (found.broken[rows] & (best < -1e-9)).any()
            if name != "hopskipjump":
                assert (found.loss[rows] <= best + 1e-9).all()


@pytest.mark.parametrize("name", ["square", "hopskipjump", "transfer", "spsa"])
def test_targeted_attacks_reach_the_target_class(name: str) -> None:
    x = batch(10, torch.float64)[0]
    model = balanced(linear(64, classes=4, seed=1))
    target = (model(x).argmax(1) + 1) % 4
    starts = attacks.pgd(model, x, target, ThreatModel("linf", 1.0), targeted=True).x_adv
    options = {
        "square": {"queries": 300},
        "hopskipjump": {"queries": 800, "starts": starts},
        "transfer": {"surrogate": model},
        "spsa": {"steps": 20, "samples": 32, "step_size": 0.05},
    }[name]
    threat = ThreatModel("linf", 0.4)
    found = getattr(blackbox, name)(model, x, target, threat, targeted=True, **options)
    assert torch.equal(model(found.x_adv).argmax(1) == target, found.broken)
    assert found.broken.float().mean() > 0.8
    assert found.x_adv[found.broken].ne(x[found.broken]).any()


def test_eps_per_example_equals_one_call_per_eps() -> None:
    (x, y), model = batch(12, torch.float64), small_cnn(dtype=torch.float64)
    grid = torch.tensor([0.0, 0.05, 0.2])
    for name in ("square", "random-search", "hopskipjump"):
        together = ATTACKS[name](model, x, y, ThreatModel("linf", grid.repeat(4)))
        for k, eps in enumerate(grid.tolist()):
            rows = torch.arange(k, 12, 3)
            alone = ATTACKS[name](model, x[rows], y[rows], ThreatModel("linf", eps), ids=rows)
            assert torch.equal(together.broken[rows], alone.broken)
            torch.testing.assert_close(together.x_adv[rows], alone.x_adv, atol=1e-7, rtol=0)


class Liar(torch.nn.Module, ProxyModel):
    """A fast copy that is always wrong; its original is right."""

    def __init__(self, honest: torch.nn.Module) -> None:
        super().__init__()
        self.honest = honest

    @property
    def original(self) -> torch.nn.Module:
        return self.honest

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -self.honest(x)


@pytest.mark.parametrize(("name", "norm"), PAIRS)
def test_only_points_confirmed_by_the_original_are_broken(name: str, norm: str) -> None:
    x, y = batch(8)
    found = ATTACKS[name](Liar(small_cnn()).eval(), x, y, ThreatModel(norm, 1e-6))
    assert not found.broken.any()
