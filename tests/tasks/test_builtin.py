"""Oracles of the tasks: closed forms on linear models, and scores, losses and figures computed another way."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import advreg
from advreg import tasks
from advreg.tasks.boxes import average_precision, iou, matches
from advreg.tasks.pairs import equal_error_rate
from advreg.tasks.pixels import jensen_shannon, mean_iou
from advreg.threat import ThreatModel

EPS = 0.07


def linear(outputs: int, n: int = 60, features: int = 8) -> tuple[nn.Linear, Tensor, Tensor]:
    """Return a linear model in float64, inputs in the middle of the box, and the largest change of each output."""
    torch.manual_seed(3)
    model = nn.Linear(features, outputs).double().eval().requires_grad_(False)
    x = 0.3 + 0.4 * torch.rand(n, features, generator=torch.Generator().manual_seed(0)).double()
    return model, x, EPS * model.weight.abs().sum(1)


def test_labels_reach_the_closed_form_of_a_linear_model() -> None:
    model, x, change = linear(5)
    z = model(x)
    z = z - z.mean(0)
    model.bias.data -= model(x).mean(0)
    y = (z > 0).long()
    exact = ((2 * y - 1) * z - change / 8 <= 0).any(1)
    found = advreg.evaluate(model, (x, y), ThreatModel("linf", EPS / 8), task="labels")
    assert 5 < int(exact.sum()) < 55
    assert torch.equal(found.broken, exact)


def test_shares_of_labels_never_go_below_the_closed_form() -> None:
    model, x, change = linear(5)
    model.bias.data -= model(x).mean(0)
    z = model(x)
    y = (z > 0).long()
    least = ((2 * y - 1) * z - change > 0).double().mean(1)  # every label attacked by itself
    found = advreg.evaluate(model, (x, y), ThreatModel("linf", EPS), task="labels:score=share", protocol="standard")
    assert found.scores is not None
    assert bool((found.scores >= least - 1e-9).all())
    assert float(found.scores.mean()) < 1.0


@pytest.mark.parametrize("outputs", [1, 3])
def test_numbers_reach_the_closed_form_of_a_linear_model(outputs: int) -> None:
    model, x, change = linear(outputs)
    y = model(x) + 0.1 * torch.randn(60, outputs, generator=torch.Generator().manual_seed(5)).double()
    units = [0.25, 0.2, 0.3][:outputs]
    exact = ((model(x) - y).abs() + change > torch.tensor(units)).any(1)
    found = advreg.evaluate(model, (x, y), ThreatModel("linf", EPS), task=tasks.number(units))
    assert 5 < int(exact.sum()) < 55
    assert torch.equal(found.broken, exact)


def test_ordinal_without_tolerance_is_classification() -> None:
    model, x, _ = linear(4)
    model.bias.data -= model(x).mean(0)
    y = model(x).argmax(1)
    threat = ThreatModel("linf", 0.03)
    expected = advreg.pgd(model, x, y, threat, restarts=4)
    found = advreg.pgd(model, x, y, threat, restarts=4, task=tasks.ordinal(0))
    assert 5 < int(expected.broken.sum()) < 55
    assert torch.equal(found.broken, expected.broken)


def test_ordinal_needs_a_class_beyond_the_tolerance() -> None:
    z = torch.tensor([[9.0, 0, 0, 0], [0, 9.0, 0, 0], [0, 0, 9.0, 0], [0, 0, 0, 9.0]])
    for label, tolerance in itertools.product(range(4), range(3)):
        found = tasks.ordinal(tolerance).rate(z, torch.full((4,), label))
        assert found.tolist() == [abs(k - label) <= tolerance for k in range(4)]


def masks(n: int = 3, classes: int = 4, size: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(n, classes, size, size, generator=generator).double()
    y = torch.randint(classes, (n, size, size), generator=generator)
    y[torch.rand(y.shape, generator=generator) < 0.2] = 255
    return z, y


def test_pixel_accuracy_and_miou_equal_a_confusion_matrix() -> None:
    z, y = masks()
    task, guess = tasks.pixels(), z.argmax(1)
    counted = y != 255
    for i, score in enumerate(task.rate(z, y).tolist()):
        assert score == pytest.approx(float((guess == y)[i][counted[i]].double().mean()))
    confusion = np.zeros((4, 4))
    np.add.at(confusion, (y[counted].numpy(), guess[counted].numpy()), 1)
    inside = np.diag(confusion)
    expected = (inside / (confusion.sum(0) + confusion.sum(1) - inside)).mean()
    assert task.corpus["miou"].figure(task.corpus["miou"].rows(z, y)) == pytest.approx(float(expected))


def test_mean_iou_leaves_absent_classes_out() -> None:
    assert mean_iou([[2, 0, 4, 0]]) == 0.5


def test_jensen_shannon_is_that_of_the_definition() -> None:
    z, y = masks()
    y = y.clamp_max(3)
    p, one = z.softmax(1), nn.functional.one_hot(y, 4).permute(0, 3, 1, 2).double()
    middle = (p + one) / 2
    kl = [(a * (a.clamp_min(1e-300) / middle).log()).sum(1) for a in (p, one)]
    expected = ((kl[0] + kl[1]) / 2).flatten(1).mean(1)
    assert torch.allclose(jensen_shannon(z, y, torch.ones_like(y, dtype=torch.bool)), expected)
    assert float(expected.max()) < math.log(2)


def test_objectives_of_pixels_are_steered_by_plain_cross_entropy() -> None:
    z, y = masks()
    plain = nn.functional.cross_entropy(z, y, reduction="none", ignore_index=255).flatten(1).sum(1)
    plain = plain / (y != 255).flatten(1).sum(1)
    gradients = []
    for objective in tasks.pixels().objectives.values():
        point = z.clone().requires_grad_(True)
        value = objective(point, y)
        assert torch.allclose(value.detach(), plain)
        gradients.append(torch.autograd.grad(value.sum(), point)[0])
        assert float(gradients[-1].permute(0, 2, 3, 1)[y == 255].abs().max()) == 0.0
    assert not any(torch.allclose(a, b) for a, b in itertools.combinations(gradients, 2))


def test_masked_objectives_pull_on_right_pixels_alone() -> None:
    z, y = masks()
    for name in ("masked-ce", "cosine"):
        point = z.clone().requires_grad_(True)
        gradient = torch.autograd.grad(tasks.pixels().objectives[name](point, y).sum(), point)[0]
        wrong = (z.argmax(1) != y) & (y != 255)
        assert float(gradient.permute(0, 2, 3, 1)[wrong].abs().max()) == 0.0


def test_the_balance_moves_from_right_to_wrong_pixels() -> None:
    z, y = masks()
    balanced = tasks.pixels().objectives["balanced-ce"]
    right = (z.argmax(1) == y) & (y != 255)
    wrong = (z.argmax(1) != y) & (y != 255)
    for share, expected in ((0.0, 0.0), (1.0, 1.0)):
        point = z.clone().requires_grad_(True)
        gradient = torch.autograd.grad(balanced.at(share)(point, y).sum(), point)[0].permute(0, 2, 3, 1)  # type: ignore[attr-defined]
        size = gradient.abs().sum(-1)
        assert (float(size[wrong].max()) > 0) == bool(expected)
        assert float(size[right].max()) > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda z, y: (z, y.clamp_max(200)), "a pixel has class 200"),
        (lambda z, y: (z, y[:, :3]), "give logits"),
        (lambda z, y: (z, torch.full_like(y, 255)), "no pixel but those"),
        (lambda z, y: (z, y.double()), "whole class numbers"),
    ],
)
def test_masks_that_cannot_be_scored_are_named(change, words: str) -> None:  # type: ignore[no-untyped-def]
    fits = tasks.pixels().fits
    assert fits is not None
    assert words in fits(*change(*masks()))


def scenes(n: int = 40, queries: int = 5, targets: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)

    def boxes(count: int) -> Tensor:
        corner = 10 * torch.rand(n, count, 2, generator=generator)
        return torch.cat([corner, corner + 3 + 4 * torch.rand(n, count, 2, generator=generator)], 2)

    kind = torch.randint(-1, 2, (n, targets, 1), generator=generator)
    y = torch.cat([boxes(targets), kind.float()], 2)
    near = y[:, torch.randint(targets, (queries,), generator=generator), :4]
    moved = near + torch.randn(n, queries, 4, generator=generator)
    return torch.cat([moved, torch.randn(n, queries, 3, generator=generator)], 2), y


def overlap_of(a: list[float], b: list[float]) -> float:
    wide, high = (max(0.0, min(a[k + 2], b[k + 2]) - max(a[k], b[k])) for k in (0, 1))
    area = [max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1]) for box in (a, b)]
    return wide * high / max(area[0] + area[1] - wide * high, 1e-9)


def test_f1_equals_greedy_matching_by_hand() -> None:
    z, y = scenes()
    assert torch.allclose(
        iou(z[..., :4], y[..., :4])[3, 1, 2], torch.tensor(overlap_of(z[3, 1].tolist(), y[3, 2].tolist()))
    )
    for i, score in enumerate(tasks.boxes().rate(z, y).tolist()):
        left = [box for box in y[i].tolist() if box[4] >= 0]
        total, hits = len(left), 0
        kept = sorted((row for row in z[i].tolist() if row[4] >= 0), key=lambda row: -row[4])
        for row in kept:
            same = [box for box in left if box[4] == (0 if row[5] >= row[6] else 1) and overlap_of(row, box) >= 0.5]
            if same:
                hits += 1
                left.remove(max(same, key=lambda box: overlap_of(row, box)))
        whole = len(kept) + total
        assert score == pytest.approx(2 * hits / whole if whole else 1.0)


def test_average_precision_of_a_known_order() -> None:
    rows = [[4.0, 3.0, 1, 0, 2], [2.0, 1.0, 1, 1, 2]]  # hit, miss, hit, hit of four targets
    assert average_precision(rows) == pytest.approx(0.25 + 0.25 * 0.75 + 0.25 * 0.75)


def test_every_objective_of_boxes_is_differentiable() -> None:
    z, y = scenes()
    for objective in tasks.boxes().objectives.values():
        point = z.clone().requires_grad_(True)
        gradient = torch.autograd.grad(objective(point, y).sum(), point)[0]
        assert float(gradient.abs().sum()) > 0
        assert bool(torch.isfinite(gradient).all())
    assert bool((matches(z, y, 0.5, 0.0) <= (z[..., 4] >= 0)).all())


def test_the_threshold_keeps_its_false_acceptance_rate() -> None:
    similarity = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    y = (torch.arange(1000) % 2 == 0).long()
    for rate in (0.0, 1e-3, 0.01, 0.25):
        cut = tasks.threshold_at(similarity, y, rate)
        accepted = float((similarity[y == 0] >= cut).double().mean())
        assert accepted <= rate
        assert accepted > rate - 1 / 500


def test_the_equal_error_rate_is_that_of_a_sweep() -> None:
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(2, (200,), generator=generator)
    similarity = torch.randn(200, generator=generator).double() + y
    sweep = []
    for cut in similarity.tolist():
        rejected = float((similarity[y == 1] < cut).double().mean())
        accepted = float((similarity[y == 0] >= cut).double().mean())
        sweep.append((abs(rejected - accepted), (rejected + accepted) / 2))
    assert equal_error_rate(torch.stack([similarity, y.double()], 1)) == pytest.approx(min(sweep)[1])


def test_pairs_are_attacked_on_their_first_input_alone() -> None:
    torch.manual_seed(0)
    embed = nn.Sequential(nn.Linear(6, 8), nn.Tanh()).double().eval().requires_grad_(False)

    class Similarity(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cosine_similarity(embed(x[:, 0]), embed(x[:, 1]), dim=1)[:, None]

    x = torch.rand(30, 2, 6).double()
    x[::2, 1] = (x[::2, 0] + 0.05 * torch.randn(15, 6)).clamp(0, 1)
    y = (torch.arange(30) % 2 == 0).long()
    model = Similarity().eval()
    task = tasks.pairs(tasks.threshold_at(model(x), y, 0.2))
    scale = torch.ones(2, 6)
    scale[1] = 0
    threat = ThreatModel("linf", 0.2, scale=scale)
    found = advreg.pgd(model, x, y, threat, task=task)
    assert torch.equal(found.x_adv[:, 1], x[:, 1])
    assert int(found.broken[y == 1].sum()) > int((~task.rate(model(x), y))[y == 1].sum())
