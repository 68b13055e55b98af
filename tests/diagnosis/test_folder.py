"""The run folder: the ledger is read, the diagnosis written and drawn, the exit status is the verdict."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import advreg
from advreg import report
from advreg.cli.app import app
from advreg.diagnosis import Diagnosis, diagnose
from advreg.diagnosis.reported_accuracy import PGD_40, attack_of, from_ledger
from advreg.errors import RunError
from advreg.evaluation import evaluate
from advreg.evaluation.protocols import Protocol, ProtocolStage

from . import planted
from .conftest import TINY, digits

THREAT, NEAR = planted.BROAD, advreg.ThreatModel("linf", 0.05)  # at the smaller one many examples survive
PROTOCOL = Protocol(
    "mine",
    1,
    (
        ProtocolStage("pgd-40", advreg.pgd),
        ProtocolStage("apgd-t", partial(advreg.attacks.apgd_targeted, steps=20, target_classes=3)),
        ProtocolStage("square", partial(advreg.attacks.square, queries=100)),
    ),
)


@pytest.fixture(scope="module")
def net() -> torch.nn.Module:
    return planted.plain()


@pytest.fixture(scope="module")
def run(net: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "a"
    evaluate(net, digits(), threat=NEAR, protocol=PROTOCOL, out=folder)
    return folder


@pytest.fixture(scope="module")
def found(net: torch.nn.Module, run: Path) -> Diagnosis:
    return diagnose(net, digits(), NEAR, budget=TINY, out=run)


def test_figure_and_checks_are_read_from_the_ledger(found: Diagnosis, run: Path) -> None:
    (file,) = run.glob("evaluation/*/results.json")
    record = json.loads(file.read_text())
    assert found.claim == record["protocol"]
    assert found.robust_accuracy == record["robust_accuracy"]
    read = {check.name for check in found.checks if check.source == "ledger"}
    assert {"black-box", "steps", "randomness", "gradient-path"} <= read
    assert found.robust_accuracy > 0


def test_checks_of_the_ledger_do_not_run_again(
    net: torch.nn.Module, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("Square was run again")

    monkeypatch.setattr(advreg.attacks, "square", refused)
    assert diagnose(net, digits(), NEAR, budget=TINY, out=run).check("black-box").source == "ledger"


@pytest.mark.parametrize("other", ["model", "threat", "data"])
def test_the_ledger_of_something_else_is_not_read(other: str, net: torch.nn.Module, run: Path) -> None:
    from advreg.evaluation.examples import examples_of
    from advreg.models import describe

    x, y = digits()
    sha256, data = describe(net)["sha256"], examples_of((x, y), None, NEAR).sha256
    assert from_ledger(run, sha256, data, NEAR, len(y), lambda rows: True) is not None
    given = {"model": sha256, "data": data, "threat": NEAR, other: "another"}
    threat = THREAT if other == "threat" else NEAR
    assert from_ledger(run, given["model"], given["data"], threat, len(y), lambda rows: True) is None  # type: ignore[arg-type]
    assert from_ledger(run, sha256, data, NEAR, len(y) + 1, lambda rows: True) is None
    assert from_ledger(run, sha256, data, NEAR, len(y), lambda rows: False) is None


def test_ledger_alone_makes_a_masked_figure_unreliable(tmp_path: Path) -> None:
    from advreg.evaluation.ledger_checks import free_checks
    from advreg.results.checks import verdict
    from advreg.runs.files import read_lines

    masked = planted.named("logits times 100").make()
    stages = (ProtocolStage("pgd-40", advreg.pgd), ProtocolStage("square", advreg.attacks.square))
    result = evaluate(masked, digits(), threat=THREAT, protocol=Protocol("mine", 1, stages), out=tmp_path)
    rows = read_lines(next(tmp_path.glob("evaluation/*/ledger.jsonl")))[1:]
    checks = {check.name: check for check in free_checks(result.record(), rows)}
    assert verdict(checks.values()) == "UNRELIABLE"
    assert checks["black-box"].verdict == "fail"


def test_attack_of_a_protocol_is_its_first_gradient_attacks(net: torch.nn.Module) -> None:
    x, y = digits(12)
    ids = torch.arange(12)
    whole = attack_of("linf-0.05-basic@2", "linf")(net, x, y, NEAR, ids=ids, seed=0)
    one, many = advreg.fgsm(net, x, y, NEAR), advreg.pgd(net, x, y, NEAR, ids=ids)
    assert torch.equal(whole.broken, one.broken | many.broken)
    assert attack_of("linf-0.05-mine@1", "linf") is PGD_40


def test_the_diagnosis_is_written_whole(found: Diagnosis, run: Path) -> None:
    record = json.loads((run / "diagnosis.json").read_text())
    assert record["schema"] == "advreg/diagnosis@1"
    assert record["verdict"] == found.verdict
    assert [check["name"] for check in record["checks"]] == [check.name for check in found.checks]
    assert all({"measured", "threshold", "verdict", "remedy", "link"} <= set(check) for check in record["checks"])
    drawn = record["pictures"]
    assert sum(drawn["gradient_norms"]["counts"]) <= TINY.examples
    assert len(drawn["iterations"]["median"]) == 41
    assert [row["restarts"] for row in drawn["restarts"]] == [1, 2, 3, 4]
    accuracies = [row["accuracy"] for row in drawn["restarts"]]
    assert accuracies == sorted(accuracies, reverse=True)
    assert len(drawn["surfaces"][0]["margin"]) == len(drawn["surfaces"][0]["t"])


def test_the_pictures_margin_is_the_models_own(found: Diagnosis, net: torch.nn.Module) -> None:
    line = found.pictures["lines"][0]
    x, y = digits()
    at = line["id"]
    clean = float(advreg.objectives.margin(net(x[at : at + 1]), y[at : at + 1]))
    assert line["attack"][line["t"].index(0.0)] == pytest.approx(clean, abs=1e-4)
    assert line["random"][line["t"].index(0.0)] == pytest.approx(clean, abs=1e-4)
    assert line["attack"][line["t"].index(1.0)] > clean


def test_the_report_draws_it_and_does_without_it(found: Diagnosis, run: Path) -> None:
    page = report.write(run).read_text()
    assert "Can these figures be trusted" in page
    assert page.count('id="diagnosis-') >= 6
    assert "http" not in page.split("<body", 1)[1]
    kept = (run / "diagnosis.json").read_bytes()
    (run / "diagnosis.json").unlink()
    assert "Can these figures be trusted" not in report.write(run).read_text()
    (run / "diagnosis.json").write_bytes(kept)


def test_report_rejects_a_damaged_diagnosis(found: Diagnosis, run: Path) -> None:
    kept = (run / "diagnosis.json").read_bytes()
    record = json.loads(kept)
    record["pictures"]["lines"][0]["attack"] = ["much"]
    (run / "diagnosis.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match=r"diagnosis\.json: 'attack'"):
        report.write(run)
    (run / "diagnosis.json").write_bytes(kept)


def test_a_mask_is_drawn_too(tmp_path: Path) -> None:
    for name in ("8-bit input quantisation", "thermometer code"):
        case = planted.named(name)
        diagnose(case.make(), digits(12), THREAT, budget=TINY, out=tmp_path)
        made = report.diagnosis.section(tmp_path)
        assert made is not None
        assert made.verdict == "UNRELIABLE"
        assert bool(made.drawings) == (name == "8-bit input quantisation")


def advreg_cli(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    return done.exit_code, done.stdout


def test_exit_status_of_diagnose_is_the_verdict(
    net: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(net.state_dict(), tmp_path / "net.pt")
    given = (
        "diagnose",
        "zoo:mnist-small",
        "--weights",
        tmp_path / "net.pt",
        "--data",
        "mnist",
        "--threat",
        "linf:0.05",
    )
    status, text = advreg_cli(*given, "-n", 30, "--quick", "--json", "--out", tmp_path / "out")
    record = json.loads(text)
    assert status == (record["verdict"] != "TRUSTED")
    assert json.loads((tmp_path / "out/diagnosis.json").read_text())["verdict"] == record["verdict"]
    (tmp_path / "masks.py").write_text(_MASKED)
    monkeypatch.chdir(tmp_path)
    status, text = advreg_cli("diagnose", "masks:make", *given[4:], "-n", 20, "--quick")
    assert status == 1
    assert "UNRELIABLE" in text
    assert "probabilities: drop the softmax" not in text
    assert "gradient-path" in text


_MASKED = """
import torch

class Hard(torch.nn.Module):
    def forward(self, x):
        return (x > 0.5).float()

def make():
    torch.manual_seed(0)
    return torch.nn.Sequential(Hard(), torch.nn.Flatten(), torch.nn.Linear(784, 10)).eval()
"""


def test_wrong_use_is_one_line() -> None:
    done = CliRunner().invoke(app, ["diagnose", "zoo:mnist-small", "--data", "mnist"])
    assert "add --threat" in str(done.exception)
    done = CliRunner().invoke(app, ["diagnose", "zoo:mnist-small", "--threat", "linf:0.1"])
    assert "add --data" in str(done.exception)
