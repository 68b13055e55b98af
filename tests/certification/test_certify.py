"""Certificates: exact on small networks, never in contradiction with an attack, the published figure on a verified network."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import advreg
from advreg import ThreatModel, certify, report
from advreg.bounds import InputSet, margin_rows, tight_intervals, trace
from advreg.certification.milp import minimise_exactly
from advreg.cli.app import app
from advreg.errors import ConfigError, ModelError, RunError


def planar(seed: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a network of two inputs, points and the labels that it gives them."""
    return balanced(*deep(seed))


def deep(seed: int) -> tuple[nn.Sequential, Tensor]:
    """Return a network of two inputs with one class nearly everywhere, and points."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(2, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    return net, torch.rand(24, 2)


def balanced(net: nn.Sequential, x: Tensor) -> tuple[nn.Module, Tensor, Tensor]:
    """Return the network with mean logits of 0, so that its boundaries pass between the points, and its labels."""
    with torch.no_grad():
        net[-1].bias -= net(x).mean(0)
        return net, x, net(x).argmax(1)


def is_robust_on_grid(net: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, side: int = 121) -> Tensor:
    """Return whether no valid point of a fine grid is misclassified, ``(B,)``."""
    steps = torch.linspace(-1, 1, side) * float(threat.eps)
    grid = torch.cartesian_prod(steps, steps)
    robust = []
    for point, label in zip(x, y, strict=True):
        near = threat.project((point + grid).clamp(0, 1), point.expand(len(grid), 2))
        with torch.no_grad():
            robust.append(bool((net(near).argmax(1) == label).all()))
    return torch.tensor(robust)


@pytest.mark.parametrize("threat", [ThreatModel("linf", 0.1), ThreatModel("l2", 0.15), ThreatModel("l1", 0.15)])
@pytest.mark.parametrize("seed", range(3))
def test_verdicts_on_small_networks_are_those_of_a_grid(seed: int, threat: ThreatModel) -> None:
    net, x, y = planar(seed)
    found = certify(net, (x, y), threat)
    robust = is_robust_on_grid(net, x, y, threat)
    assert 0 < int(robust.sum()) < len(x)  # else the grid says nothing
    assert not bool((found.proved & ~robust).any())
    assert int(found.open.sum()) <= (0 if threat.norm == "linf" else 2)
    assert bool((found.proved ^ found.broken ^ found.open).all())


@pytest.mark.parametrize("method", ["ibp", "crown", "alpha", "complete", "auto"])
def test_stronger_methods_prove_what_weaker_ones_prove(method: str) -> None:
    net, x, y = planar(0)
    found = certify(net, (x, y), "linf:0.05", method=method)
    weakest = certify(net, (x, y), "linf:0.05", method="ibp")
    assert found.certified_accuracy <= found.robust_accuracy <= found.clean_accuracy
    assert not bool((weakest.proved & ~found.proved).any())


def test_milp_is_the_least_margin_of_a_grid() -> None:
    net, x, y = planar(1)
    net, x = net.double(), x.double()
    with torch.no_grad():
        graph = trace(net, x[:1])
        for k in range(6):
            one = InputSet(x[k : k + 1], ThreatModel("linf", 0.2))
            row = margin_rows(y[k : k + 1], 3, torch.float64).coefficients[:1]
            low, high = one.interval
            steps = torch.linspace(0, 1, 301, dtype=torch.float64)
            grid = torch.cartesian_prod(*(low[0, i] + steps * (high - low)[0, i] for i in range(2)))
            least = float((net(grid) @ row[0]).min())
            found = minimise_exactly(graph, one, row, tight_intervals(graph, one)).lower
            assert found <= least + 1e-6
            assert found >= least - 0.02


def test_what_an_evaluation_broke_is_not_attacked_again(tmp_path: Path) -> None:
    net, x, y = planar(0)
    evaluated = advreg.evaluate(net, (x, y), "linf:0.1", protocol="quick", out=tmp_path)
    found = certify(net, (x, y), "linf:0.1", out=tmp_path)
    alone = certify(net, (x, y), "linf:0.1")
    ledger = next(method for method in found.by_method if method.name == "ledger")
    assert ledger.broken == int(evaluated.broken.sum()) - int((net(x).argmax(1) != y).sum()) > 0
    assert found.proved.tolist() == alone.proved.tolist()
    assert found.forwards < alone.forwards


def test_a_proof_of_a_broken_example_is_an_error(tmp_path: Path) -> None:
    net, x, y = planar(0)
    advreg.evaluate(net, (x, y), "linf:0.02", protocol="quick", out=tmp_path)
    path = tmp_path / "evaluation" / "linf-0.02-quick@2" / "ledger.jsonl"
    lines = path.read_text().splitlines()
    path.write_text(
        "\n".join([lines[0], *(line.replace('"broken": false', '"broken": true') for line in lines[1:])]) + "\n"
    )
    with pytest.raises(RunError, match=r"is proved by '\w+' and broken by '[\w-]+' in .*quick"):
        certify(net, (x, y), "linf:0.02", out=tmp_path)


def pooled(seed: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a network of two inputs with a max pooling, points and labels."""
    torch.manual_seed(seed)
    layers = (nn.Linear(2, 8), nn.Unflatten(1, (2, 2, 2)), nn.MaxPool2d(2), nn.Flatten(), nn.ReLU(), nn.Linear(2, 3))
    return balanced(nn.Sequential(*layers).eval(), torch.rand(16, 2))


@pytest.mark.parametrize("seed", range(3))
def test_max_pooling_is_decided_as_on_a_grid(seed: int) -> None:
    net, x, y = pooled(seed)
    found, robust = certify(net, (x, y), "linf:0.1"), is_robust_on_grid(net, x, y, ThreatModel("linf", 0.1))
    assert 0 < int(robust.sum()) < len(x)
    assert not bool((found.proved & ~robust).any())
    assert int(found.open.sum()) == 0


def test_eps_0_proves_exactly_what_is_classified_correctly() -> None:
    net, x, _ = planar(2)
    y = torch.arange(len(x)) % 3
    found = certify(net, (x, y), "linf:0")
    assert found.certified_accuracy == found.robust_accuracy == found.clean_accuracy


def test_a_network_that_rounds_away_its_input_stays_open() -> None:
    """In exact arithmetic the label holds everywhere, but float32 loses the input in a constant that cancels."""
    net, x = deep(3)
    with torch.no_grad():
        y = net(x).argmax(1)
    winner = int(y[0])
    assert bool((y == winner).all())
    shift, back = nn.Linear(3, 3), nn.Linear(3, 3)
    with torch.no_grad():
        for layer, sign in ((shift, 1.0), (back, -1.0)):
            layer.weight.copy_(torch.eye(3))
            layer.bias.fill_(sign * 3e7)
        shift.weight.copy_(
            torch.eye(3).roll(-winner, 0)
        )  # the winner comes first, as it does where all logits are equal
    trap = nn.Sequential(*net, shift, back).eval()
    with torch.no_grad():
        assert bool((copy.deepcopy(trap).double()(x.double()).argmax(1) == 0).all())
    found = certify(trap, (x, torch.zeros_like(y)), "linf:0.0001", method="crown")
    assert found.clean_accuracy == 1.0
    assert found.certified_accuracy == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda net: net.half(), "float16"),
        (lambda net: net.train(), "train mode"),
    ],
)
def test_models_without_a_sound_bound_are_rejected(change, message: str) -> None:
    net, x, y = planar(0)
    with pytest.raises(ModelError, match=message):
        certify(change(net), (x, y), "linf:0.1")


def test_unknown_method_names_those_allowed() -> None:
    net, x, y = planar(0)
    with pytest.raises(ConfigError, match="ibp, crown, alpha, complete, auto"):
        certify(net, (x, y), "linf:0.1", method="magic")


def test_certification_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    net, x, y = planar(0)
    x, y = x.repeat(25, 1), y.repeat(25)
    certify(net, (x, y), "linf:0.05", out=tmp_path / "whole")

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        certify(net, (x, y), "linf:0.05", out=tmp_path / "cut", on_progress=stop)
    certify(net, (x, y), "linf:0.05", out=tmp_path / "cut")
    name = "evaluation/linf-0.05-certified@1"
    whole, cut = ((tmp_path / run / name / "ledger.jsonl").read_bytes() for run in ("whole", "cut"))
    assert whole == cut
    record = json.loads((tmp_path / "whole" / name / "certificate.json").read_text())
    assert record["proved"] + record["broken"] + record["open"] == len(y)
    with pytest.raises(RunError, match="budget"):
        certify(net, (x, y), "linf:0.05", out=tmp_path / "cut", budget=5)


def test_verified_network_is_decided_as_published(shared: Path) -> None:
    """Tjeng et al. 2019 decided all 10,000 test images (95.62%); here each of the first 128 is decided, as an attack says."""
    model = advreg.load_model("zoo:mnist-small", weights=shared / "checkpoints" / "mnist_wk17a_linf0.1.pth").eval()
    test = advreg.load_data("mnist")[1]
    found = certify(model, test, "linf:0.1", n=128)
    attacked = advreg.evaluate(model, test, "linf:0.1", protocol="strong", n=128)
    assert not bool(found.open.any())
    assert torch.equal(found.broken, attacked.broken)
    assert {method.name: method.proved for method in found.by_method}["crown"] >= 120  # linear bounds alone


def test_report_states_both_ends(tmp_path: Path) -> None:
    net, x, y = planar(0)
    certify(net, (x, y), "linf:0.05", out=tmp_path)
    advreg.evaluate(net, (x, y), "linf:0.05", out=tmp_path)
    text = report.write(tmp_path).read_text()
    assert "Proved and attacked" in text
    assert "linf-0.05-certified@1" in text
    assert "linf-0.05-quick" in text


def test_exact_methods_leave_smooth_and_leaky_networks_alone() -> None:
    torch.manual_seed(0)
    for activation in (nn.Tanh(), nn.LeakyReLU(0.3)):
        net = nn.Sequential(nn.Linear(2, 6), activation, nn.Linear(6, 3)).eval()
        x = torch.rand(24, 2)
        with torch.no_grad():
            y = net(x).argmax(1)
        threat = ThreatModel("linf", 0.3)
        found = certify(net, (x, y), threat, method="complete")
        assert not bool((found.proved & ~is_robust_on_grid(net, x, y, threat)).any())
        assert all(method.proved == method.broken == 0 for method in found.by_method if method.name == "milp")


def test_the_verb_names_missed_thresholds_and_conflicts() -> None:
    arguments = ["certify", "zoo:mnist-dnn", "--data", "mnist", "--threat", "linf:0.3", "--method", "ibp", "-n", "4"]
    found = CliRunner().invoke(app, [*arguments, "--at-least", "0.5"])
    assert found.exit_code == 1
    assert "proved 0.00%, below --at-least 50.00%" in found.output
    both = CliRunner().invoke(app, [*arguments, "--sigma", "0.5"])
    assert "leave one of them out" in str(both.exception)
