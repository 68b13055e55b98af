"""Protocols: budgets, strength beside a reference, draws that never repeat, and verdicts of curves."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import advreg
from advreg import ThreatModel, attacks, evaluate, load_data, load_model, report, robustness_curve
from advreg.evaluation import PROTOCOLS, Protocol, ProtocolStage, resolve
from advreg.evaluation.attack_units import stage_seed
from tests.attacks.models import small_cnn
from tests.evaluation.test_evaluate import batch
from tests.evaluation.test_model_probe import Stepped

EPS = {"linf": 0.02, "l2": 0.1, "l1": 0.5}


class Unbroken(nn.Module):
    """A network that no input changes, with a finite gradient."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tensor([3.0, 0.0, 1.0, 0.0, 0.5]) + 1e-6 * x.flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_quick_costs_at_most_sixty_of_each(norm: str) -> None:
    x, y = torch.rand(256, 1, 8, 8), torch.zeros(256, dtype=torch.int64)
    found = evaluate(Unbroken().eval(), (x, y), threat=ThreatModel(norm, EPS[norm]), protocol="quick")
    attacked = [attack for attack in found.by_attack if attack.tried]
    assert found.robust_accuracy == 1.0
    assert sum(attack.forwards for attack in attacked) <= 60 * 256
    assert sum(attack.backwards for attack in attacked) <= 60 * 256


@pytest.mark.parametrize(("norm", "eps", "quick"), [("l2", 1.5, 0.26), ("l1", 6.0, 0.14)])
def test_strong_leaves_no_more_than_the_reference(shared: Path, norm: str, eps: float, quick: float) -> None:
    reference = json.loads((shared / "cases" / "reference_l1_l2.json").read_text())[f"wk17-{norm}-{eps:g}"]
    model = load_model("zoo:mnist-small", weights=shared / "checkpoints" / "mnist_wk17a_linf0.1.pth")
    data, threat = load_data("mnist")[1].tensors(n=50), ThreatModel(norm, eps)
    strong = evaluate(model, data, threat=threat, protocol="strong")
    survives = torch.tensor(reference["standing"]).bool()
    assert not bool((~strong.broken & ~survives).any())
    assert strong.robust_accuracy <= reference["robust_accuracy"]
    assert evaluate(model, data, threat=threat, protocol="quick").robust_accuracy <= quick
    curve = robustness_curve(model, data, norm=norm, eps=[eps])
    assert curve.points[0].robust_accuracy <= quick


def test_strong_linf_leaves_no_more_than_the_reference(shared: Path) -> None:
    model = load_model("zoo:mnist-trades", weights=shared / "checkpoints" / "mnist_trades_smallcnn.pt")
    data = load_data("mnist")[1].tensors(n=200)
    found = evaluate(model, data, threat=ThreatModel("linf", 0.3), protocol="strong")
    assert found.robust_accuracy <= 0.91  # pyautoattack 0.2.0, standard version, with 8,947 passes an image
    assert (found.forwards + found.backwards) * 50 <= 8947 * 200


def test_no_protocol_beats_the_exact_verifier(shared: Path) -> None:
    model = load_model("zoo:mnist-small", weights=shared / "checkpoints" / "mnist_wk17a_linf0.1.pth")
    data = load_data("mnist")[1].tensors(n=200)
    strong, quick = (evaluate(model, data, threat=ThreatModel("linf", 0.1), protocol=p) for p in ("strong", "quick"))
    assert 0.965 <= strong.robust_accuracy <= quick.robust_accuracy <= strong.robust_accuracy + 0.01
    assert strong.forwards + strong.backwards < 250 * 200


def test_two_stages_never_draw_the_same_start() -> None:
    x, starts = torch.rand(4, 1, 8, 8), []

    def spy(model, x, y, threat, *, ids, seed):
        starts.append(threat.random_start(x, ids, seed))
        return attacks.CraftedExamples(x, 0, 0)

    own = Protocol(
        "own", 1, (ProtocolStage("a", spy), ProtocolStage("b", spy), ProtocolStage("c", functools.partial(spy)))
    )
    evaluate(Unbroken().eval(), (x, torch.zeros(4, dtype=torch.int64)), threat=ThreatModel("linf", 0.1), protocol=own)
    for first, second in ((0, 1), (1, 2), (0, 2)):
        assert not bool((starts[first] == starts[second]).flatten(1).all(1).any())
    assert stage_seed(7, 1) == 7  # the first attack draws as a direct call with the same seed does


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_stages_without_gradients_say_so(name: str, norm: str) -> None:
    x, y = batch(8)
    threat = ThreatModel(norm, 1e-4)
    for stage in resolve(name, norm).stages:
        if not stage.needs_gradient and (name, norm) != ("labels", "l1"):  # HopSkipJump has no l1
            few = {"queries": 20} if "queries" in getattr(stage.attack, "keywords", {}) else {}
            found = stage.attack(small_cnn(), x, y, threat, ids=torch.arange(8), seed=0, **few)
            assert found.backwards == 0


def test_square_begun_after_gradients_counts_as_a_black_box() -> None:
    x, y = batch(120)
    found = evaluate(Stepped().eval(), (x, y), threat=ThreatModel("linf", 0.1), protocol="strong")
    assert found.flags["black_box_gain"] > 0.05
    assert found.verdict == "UNRELIABLE"


class Boxed(nn.Module):
    """The same network in another box."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.net, self.low, self.wide = small_cnn(dtype=torch.float64), low, high - low

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net((x - self.low) / self.wide)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_curves_and_distances_are_equal_in_every_box(norm: str) -> None:
    x = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    y, grid = small_cnn(dtype=torch.float64)(x).argmax(1), [0.0, EPS[norm], 3 * EPS[norm]]
    curves, medians = [], []
    for low, high in ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)):
        wide = high - low
        data, options = (low + wide * x, y), {"norm": norm, "box": (low, high)}
        curve = robustness_curve(Boxed(low, high).eval(), data, eps=[wide * eps for eps in grid], **options)
        curves.append([point.robust_accuracy for point in curve.points])
        medians.append(advreg.minimum_norms(Boxed(low, high).eval(), data, **options).median / wide)
    assert curves[0] == curves[1] == curves[2]
    assert curves[0][-1] < 0.9
    assert medians == pytest.approx([medians[0]] * 3, rel=1e-3)


def test_a_curve_takes_the_smaller_of_attack_and_distance() -> None:
    x, y = batch(60)
    nothing = Protocol(
        "nothing", 1, (ProtocolStage("idle", lambda model, x, y, threat: attacks.CraftedExamples(x, 0, 0)),)
    )
    grid = [0.0, 0.01, 0.02]
    known = advreg.minimum_norms(small_cnn(), (x, y), norm="linf").distances
    by_distance, by_attack = (
        robustness_curve(small_cnn(), (x, y), norm="linf", eps=grid, protocol=protocol, distances=distances)
        for protocol, distances in ((nothing, known), ("strong", torch.full((60,), torch.inf)))
    )
    both = robustness_curve(small_cnn(), (x, y), norm="linf", eps=grid, protocol="strong", distances=known)
    for one, other, least in zip(by_distance.points, by_attack.points, both.points, strict=True):
        assert least.robust_accuracy <= min(one.robust_accuracy, other.robust_accuracy)
    with pytest.raises(advreg.errors.DataError, match="give one for each of 60"):
        robustness_curve(small_cnn(), (x, y), norm="linf", eps=grid, distances=known[:4])


def test_a_curve_carries_a_verdict() -> None:
    x, y = batch(120)
    curve = robustness_curve(Stepped().eval(), (x, y), norm="linf", eps=[0.05, 0.1])
    assert curve.verdict == "UNRELIABLE"
    assert curve.record()["verdict"] == "UNRELIABLE"


def test_nothing_left_to_attack_leaves_a_point_at_every_eps() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    x = torch.rand(40, 1, 8, 8)
    curve = robustness_curve(net, (x, net(x).argmax(1)), norm="linf", eps=[0, 0.5, 0.9, 1.0])
    assert [point.robust_accuracy for point in curve.points] == [1.0, 0.0, 0.0, 0.0]


def test_results_name_the_loose_figure_beside_them(tmp_path: Path) -> None:
    x, y = batch(60)
    weak = Protocol(
        "standard", 9, (ProtocolStage("idle", lambda model, x, y, threat: attacks.CraftedExamples(x, 0, 0)),)
    )
    options = {"threat": ThreatModel("linf", 0.02), "out": tmp_path}
    loose = evaluate(small_cnn(), (x, y), protocol=weak, **options)
    found = evaluate(small_cnn(), (x, y), protocol="strong", **options)
    more = int((found.broken & ~loose.broken).sum())
    assert more > 0
    assert found.flags["broken_beyond"] == {"linf-0.02-standard@9": more}
    page = report.write(tmp_path).read_text()
    assert f"linf-0.02-strong@3 broke {more} examples" in page
    assert f"broke {more} examples that linf-0.02-standard@9 had left" in page
    other = evaluate(small_cnn(seed=1), (x, y), protocol="strong", threat=options["threat"], out=tmp_path / "other")
    assert "broken_beyond" not in other.flags
