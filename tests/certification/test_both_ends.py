"""Both ends of robust accuracy: evaluations skip what is proved, curves compute no verdict twice, outside verdicts count."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import advreg
from advreg import ThreatModel, certified_curve, certify, evaluate, report
from advreg.bounds import activations
from advreg.certification import CertifySettings
from advreg.cli.app import app
from advreg.errors import DataError, ModelError, RunError
from advreg.export.vnnlib import vnnlib_property
from advreg.models import describe
from advreg.pass_counting import count_passes
from tests.certification.test_certify import planar


def rows_in(run: Path, protocol: str) -> list[dict]:
    """Return the rows of a ledger without its header."""
    lines = (run / "evaluation" / protocol / "ledger.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines][1:]


GRID = [0.0, 0.02, 0.05, 0.1, 0.2]


def test_attacks_skip_what_a_certificate_proves(tmp_path: Path) -> None:
    net, x, y = planar(0)
    proof = certify(net, (x, y), "linf:0.05", method="alpha", out=tmp_path)
    whole = evaluate(net, (x, y), "linf:0.05", protocol="basic")
    rest = evaluate(net, (x, y), "linf:0.05", protocol="basic", certificate=proof, out=tmp_path)
    assert rest.protocol == "linf-0.05-basic+certificate@2"
    assert rest.certified_accuracy == proof.certified_accuracy > 0
    assert rest.certified_accuracy <= rest.robust_accuracy
    assert rest.broken.tolist() == whole.broken.tolist()
    assert rest.by_attack[0].tried == whole.by_attack[0].tried - int(proof.proved.sum())
    cost = [sum(attack.forwards + attack.backwards for attack in each.by_attack) for each in (rest, whole)]
    assert cost[0] < cost[1]
    rows = rows_in(tmp_path, rest.protocol)
    attacked = {row["id"] for row in rows if row["attack"] != "clean"}
    assert attacked.isdisjoint(proof.proved.nonzero()[:, 0].tolist())
    again = evaluate(net, (x, y), "linf:0.05", protocol="basic", certificate=proof, out=tmp_path)
    assert again.broken.tolist() == rest.broken.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda net, x, y: (net, x, y, "linf:0.06"), "of threat"),
        (lambda net, x, y: (planar(1)[0], x, y, "linf:0.05"), "of model"),
        (lambda net, x, y: (net, 0.9 * x, y, "linf:0.05"), "of data"),
    ],
)
def test_a_certificate_of_something_else_is_rejected(change: Callable[..., tuple], message: str) -> None:
    net, x, y = planar(0)
    proof = certify(net, (x, y), "linf:0.05", method="ibp")
    other, inputs, labels, threat = change(net, x, y)
    with pytest.raises(DataError, match=message):
        evaluate(other, (inputs, labels), threat, certificate=proof)


def test_a_curve_has_both_ends_and_computes_no_verdict_twice(tmp_path: Path) -> None:
    net, x, y = planar(0)
    curve = certified_curve(net, (x, y), norm="linf", eps=GRID, out=tmp_path)
    single = [certify(net, (x, y), ThreatModel("linf", eps)) for eps in GRID]
    for before, after in zip(curve.points, curve.points[1:], strict=False):
        assert after.certified_accuracy <= before.certified_accuracy
        assert after.robust_accuracy <= before.robust_accuracy
    for point, alone in zip(curve.points, single, strict=True):
        assert alone.certified_accuracy <= point.certified_accuracy <= point.robust_accuracy <= alone.robust_accuracy
    records = [json.loads(path.read_text()) for path in tmp_path.glob("evaluation/*/certificate.json")]
    assert sum(record["bound_passes"] for record in records) < sum(each.bound_passes for each in single)
    ledger = (tmp_path / "evaluation" / "linf-0.02-certified@1" / "ledger.jsonl").read_text()
    assert '"larger-eps"' in ledger
    assert "Proved and attacked at each eps" in report.write(tmp_path).read_text()
    repeated = certified_curve(net, (x, y), norm="linf", eps=GRID, settings=CertifySettings(), out=tmp_path)
    assert repeated.points == curve.points


def test_forwards_of_a_certificate_are_those_that_hooks_count() -> None:
    net, x, y = planar(0)
    counted = []
    for n in (12, 24):
        with count_passes(net) as passes:
            found = certify(net, (x, y), "linf:0.02", method="alpha", n=n)
        counted.append((passes.forwards, found.forwards))
    assert counted[1][0] - counted[0][0] == counted[1][1] - counted[0][1] == 12
    ibp, crown = (certify(net, (x, y), "linf:0.02", method=method).bound_passes for method in ("ibp", "crown"))
    correct = round(certify(net, (x, y), "linf:0.02", method="ibp").clean_accuracy * 24)
    assert 24 + 2 * correct <= ibp <= 24 + 4 * correct  # logits in float64, two forwards of intervals, close ones twice
    assert crown > ibp


def test_a_planted_unsound_bound_contradicts_an_attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, y = planar(0)
    evaluate(net, (x, y), "linf:0.2", protocol="strong", out=tmp_path)
    relu = activations.relu_lines

    def without_shift(low: Tensor, high: Tensor, slope: Tensor | None = None) -> activations.Lines:
        lines = relu(low, high, slope)
        return activations.Lines(lines.below, 0.5, lines.above, -0.5)

    planted = activations.Activation(torch.relu, without_shift, lambda low, high: (low < 0) & (high > 0), 0.0)
    monkeypatch.setitem(activations.ACTIVATIONS, torch.ops.aten.relu.default, lambda *_: planted)
    with pytest.raises(RunError, match=r"is proved by '\w+' and broken by"):
        certify(net, (x, y), "linf:0.2", method="alpha", out=tmp_path)


def properties(folder: Path, net: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> None:
    """Write what `vnnlib_files` writes, without the ONNX file."""
    (folder / "model.json").write_text(json.dumps({"sha256": describe(net)["sha256"]}))
    low, high = threat.interval(x)
    for i in range(len(y)):
        (folder / f"example-{i:05d}.vnnlib").write_text(vnnlib_property(low[i], high[i], int(y[i]), 3))


def counterexample(folder: Path, i: int, point: Tensor) -> None:
    values = " ".join(f"(X_{k} {value!r})" for k, value in enumerate(point.tolist()))
    (folder / f"example-{i:05d}.counterexample").write_text(f"sat\n({values} (Y_0 0.1))")


def test_outside_verdicts_count_once_they_are_checked(tmp_path: Path) -> None:
    net, x, y = planar(0)
    threat = ThreatModel("linf", 0.1)
    ours = certify(net, (x, y), threat)
    proved, broken = int(ours.proved.nonzero()[0]), (ours.broken & (net(x).argmax(1) == y)).nonzero()[:, 0].tolist()
    attacked = advreg.pgd(net, x, y, threat, steps=40, restarts=4)
    real = next(i for i in broken if bool(attacked.broken[i]))
    claimed = next(i for i in broken if i != real)
    properties(tmp_path, net, x, y, threat)
    counterexample(tmp_path, real, attacked.x_adv[real])
    counterexample(tmp_path, claimed, x[claimed])  # the clean point, which is right
    verdicts = {proved: "unsat", real: "sat", claimed: "sat"}
    results = tmp_path / "abcrown.csv"
    results.write_text("".join(f"toy,model.onnx,example-{i:05d}.vnnlib,0.1,{v},1.0\n" for i, v in verdicts.items()))
    found = certify(net, (x, y), threat, method="ibp", verdicts=results, out=tmp_path / "run")
    rows = rows_in(tmp_path / "run", "linf-0.1-certified@1")
    assert (rows[proved]["verdict"], rows[proved]["method"]) == ("proved", "abcrown")
    assert (rows[real]["verdict"], rows[real]["method"]) == ("broken", "abcrown")
    assert rows[claimed]["method"] != "abcrown"
    assert next(method for method in found.by_method if method.name == "known").proved == 1
    with pytest.raises(DataError, match="is not the property of example"):
        certify(net, (x, y), "linf:0.09", verdicts=results)
    (tmp_path / "model.json").write_text('{"sha256": "other"}')
    with pytest.raises(DataError, match="properties of weights other"):
        certify(net, (x, y), threat, verdicts=results)


class Counting(nn.Module):
    """A model whose output depends on how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Sequential(nn.Linear(2, 3), nn.Softmax(1), nn.Linear(3, 2)), "no bound for aten._softmax"),
        (Counting(), "changed|other logits|cannot be traced|no bound|do not depend"),
        (Noise(), "random|no bound|other logits"),
        (nn.Linear(2, 5000), "5000 classes"),
    ],
)
def test_models_without_a_bound_are_rejected_by_name(net: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        certify(net.eval(), (torch.rand(4, 2), torch.tensor([0, 1, 0, 1])), "linf:0.1", method="ibp")


def test_inputs_outside_the_box_are_rejected() -> None:
    net, x, y = planar(0)
    with pytest.raises(DataError, match=r"outside|box"):
        certify(net, (x + 2, y), "linf:0.1")


@pytest.mark.parametrize("threat", ["linf:1", "l2:1.4", "l1:2"])
def test_a_huge_eps_proves_nothing_that_the_box_refutes(threat: str) -> None:
    net, x, y = planar(0)
    found = certify(net, (x, y), threat, method="alpha")
    steps = torch.linspace(0, 1, 51)
    with torch.no_grad():
        labels = net(torch.cartesian_prod(steps, steps)).argmax(1)
    assert len(labels.unique()) > 1  # the box holds several classes, so no example is robust
    assert found.certified_accuracy == 0.0


def test_the_verbs_show_both_ends(tmp_path: Path) -> None:
    shared = ["zoo:mnist-dnn", "--data", "mnist", "-n", "4", "--out", str(tmp_path)]
    curve = CliRunner().invoke(app, ["certify", *shared, "--threat", "linf:0.1", "--eps", "0,0.001", "--method", "ibp"])
    assert curve.exit_code == 0, curve.output
    assert "not broken" in curve.output
    shared[-1] = str(tmp_path / "other")  # the weights are drawn anew
    both = CliRunner().invoke(app, ["evaluate", *shared, "--threat", "linf:0.001", "--protocol", "fgsm", "--certify"])
    assert both.exit_code == 0, both.output
    assert "proved, and not attacked" in both.output
