"""Transfer, SPSA and HopSkipJump: laws of their own, and the errors of all black-box attacks."""

from __future__ import annotations

import functools

import pytest
import torch

from advreg import ThreatModel, attacks
from advreg.attacks import blackbox
from advreg.attacks.blackbox.hopskipjump_run import LabelQueries
from advreg.errors import AdvregError, DataError, ModelError, ThreatError
from advreg.objectives import margin

from ..models import Counter, linear, small_cnn
from .shapes import balanced
from .test_laws import batch


def test_transfer_from_the_model_itself_equals_the_attack() -> None:
    (x, y), model, threat = batch(20), small_cnn(), ThreatModel("linf", 0.05)
    attack = functools.partial(attacks.pgd, steps=5)
    direct = attack(model, x, y, threat, seed=3)
    carried = blackbox.transfer(model, x, y, threat, surrogate=model, attack=attack, seed=3)
    assert torch.equal(carried.broken, direct.broken)
    assert torch.equal(carried.x_adv, direct.x_adv)
    assert direct.broken.any()


def test_transfer_counts_both_models_and_queries_twice() -> None:
    (x, y), model, other = batch(10), small_cnn(), small_cnn(seed=1)
    target, surrogate = Counter(model), Counter(other)
    found = blackbox.transfer(model, x, y, ThreatModel("linf", 1e-6), surrogate=other)
    assert target.forwards == 20
    assert found.forwards == target.forwards + surrogate.forwards
    assert found.backwards == surrogate.backwards == 10 * 40
    assert target.backwards == 0


def test_transfer_breaks_a_model_without_gradient() -> None:
    inner = small_cnn()
    x, y = batch(20)

    def masked(points: torch.Tensor) -> torch.Tensor:
        return inner((points.detach() * 64).round() / 64)

    y = masked(x).argmax(1)
    threat = ThreatModel("linf", 0.2)
    with pytest.raises(ModelError, match="no gradient"):
        attacks.pgd(masked, x, y, threat)
    possible = attacks.pgd(inner, x, y, threat).broken
    found = blackbox.transfer(masked, x, y, threat, surrogate=inner)
    assert possible.sum() >= 10
    assert found.broken.sum() >= 0.9 * possible.sum()


def test_transfer_accepts_a_users_attack() -> None:
    (x, y), model, threat = batch(6), small_cnn(), ThreatModel("linf", 0.1)
    tags: list[torch.Tensor] = []

    def darker(model, x, y, threat, *, ids, seed):
        tags.append(ids)
        return attacks.CraftedExamples(threat.project(x - 0.1, x), 0, 0)

    found = blackbox.transfer(model, x, y, threat, surrogate=model, attack=darker, ids=torch.arange(6) + 40)
    assert found.cost[:, 0].tolist() == [1 + 1] * 6
    assert torch.equal(tags[0], torch.arange(6) + 40)


def test_spsa_follows_the_gradient_of_a_linear_network() -> None:
    x = torch.full((5, 16), 0.5, dtype=torch.float64)
    model = linear(16, seed=1)
    y = model(x).argmax(1)
    found = blackbox.spsa(
        model, x, y, ThreatModel("linf", 0.01), steps=15, samples=64, step_size=0.002, early_stop=False
    )
    exact = attacks.fgsm(model, x, y, ThreatModel("linf", 0.01))
    clean = margin(model(x), y).detach()
    gain, best = found.loss - clean, margin(model(exact.x_adv), y).detach() - clean
    assert (gain <= best + 1e-9).all()
    assert (gain >= 0.98 * best).all()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_hopskipjump_nears_the_boundary_of_a_linear_network(norm: str) -> None:
    g = torch.Generator().manual_seed(4)
    x = 0.3 + 0.4 * torch.rand(20, 25, dtype=torch.float64, generator=g)
    model = balanced(linear(25, seed=2))
    y = model(x).argmax(1)
    w = (model[1].weight[1] - model[1].weight[0]).detach()
    gap = (model(x)[:, 1] - model(x)[:, 0]).detach().abs()
    exact = gap / (w.norm() if norm == "l2" else w.abs().sum())
    wide = {"l2": 5.0, "linf": 1.0}[norm]
    labels = lambda points: model(points).argmax(1)  # noqa: E731
    found = blackbox.hopskipjump(labels, x, y, ThreatModel(norm, wide), queries=6000, early_stop=False)
    assert found.broken.all()
    assert (found.distance >= exact * (1 - 1e-6)).all()
    assert (found.distance / exact).median() < 1.1
    longer = blackbox.hopskipjump(labels, x, y, ThreatModel(norm, wide), queries=1000, early_stop=False)
    assert (longer.distance >= found.distance - 1e-12).all()


def test_hopskipjump_gives_the_same_for_labels_and_scores() -> None:
    (x, y), model, threat = batch(10), small_cnn(), ThreatModel("l2", 0.8)
    scored = blackbox.hopskipjump(model, x, y, threat, queries=300)
    labelled = blackbox.hopskipjump(lambda p: model(p).argmax(1), x, y, threat, queries=300)
    assert torch.equal(scored.x_adv, labelled.x_adv)
    assert set(labelled.loss.tolist()) <= {-1.0, 1.0}


def test_row_of_nan_is_not_a_label() -> None:
    z = torch.tensor([[0.0, torch.nan], [0.0, 1.0]])
    votes = LabelQueries(lambda _: z, 2)(torch.zeros(2, 3))
    assert votes[0].isnan().all()
    assert votes[1].tolist() == [0.0, 1.0]


X = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y, THREAT = torch.tensor([0, 1, 2, 3]), ThreatModel("linf", 0.1)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: blackbox.square(small_cnn(), X, Y, THREAT, queries=0), ThreatError, "give 1 query or more"),
        (lambda: blackbox.square(small_cnn(), X, Y, THREAT, p=1.5), ThreatError, r"share in \(0, 1\]"),
        (lambda: blackbox.square(small_cnn().train(), X, Y, THREAT), ModelError, "model.eval"),
        (lambda: blackbox.square(lambda x: x.sum(), X, Y, THREAT), ModelError, r"return logits \(4, classes\)"),
        (lambda: blackbox.square(small_cnn(), X * 255, Y, THREAT), DataError, "divide images by 255"),
        (lambda: blackbox.random_search(small_cnn(), X, Y, THREAT, queries=0), ThreatError, "queries is 0"),
        (lambda: blackbox.spsa(small_cnn(), X, Y, ThreatModel("l2", 1.0)), ThreatError, "works in linf"),
        (lambda: blackbox.spsa(small_cnn(), X, Y, THREAT, delta=0.0), ThreatError, "more than 0"),
        (lambda: blackbox.hopskipjump(small_cnn(), X, Y, ThreatModel("l1", 1.0)), ThreatError, "l2 and linf"),
        (lambda: blackbox.hopskipjump(small_cnn().train(), X, Y, THREAT), ModelError, "model.eval"),
        (lambda: blackbox.hopskipjump(lambda x: x, X, Y, THREAT), ModelError, "labels .* or scores"),
        (lambda: blackbox.hopskipjump(lambda x: x[:, 0, 0, 0], X, Y, THREAT), ModelError, "labels 0 to classes-1"),
        (lambda: blackbox.hopskipjump(small_cnn(), X, Y, THREAT, queries=0), ThreatError, "queries is 0"),
        (lambda: blackbox.transfer(small_cnn(), X, Y, THREAT, surrogate=small_cnn().train()), ModelError, "train mode"),
    ],
)
def test_bad_input_raises_one_line(call, kind, words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        call()
    assert issubclass(kind, AdvregError)
    assert "\n" not in str(caught.value)
