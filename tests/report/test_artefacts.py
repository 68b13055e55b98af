"""Files for other programs: results.json by its schema, JUnit by its thresholds, the model card by its metadata."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

from advreg import certify, certify_smoothed, evaluate, report
from advreg.errors import ConfigError, RunError
from advreg.report import read
from advreg.threat import ThreatModel

from .fake_run import results, write_evaluation, write_training

ID = "linf-0.1-quick@2"


def schema() -> dict:
    return json.loads(files("advreg.report").joinpath("results.schema.json").read_text())


def problems(record: dict) -> list[str]:
    jsonschema = pytest.importorskip(
        "jsonschema", reason="jsonschema checks the published schema; pip install jsonschema"
    )
    return [error.message for error in jsonschema.Draft202012Validator(schema()).iter_errors(record)]


def test_results_follow_the_published_schema(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    data = torch.rand(12, 1, 4, 4), torch.arange(12) % 3
    found = evaluate(net, data, threat=ThreatModel("linf", 0.1), protocol="basic", out=tmp_path)
    record = json.loads((tmp_path / "evaluation" / found.protocol / "results.json").read_text())
    assert problems(record) == []
    known = set(schema()["properties"])
    assert set(record) <= known
    assert set(record["flags"]) <= set(schema()["properties"]["flags"]["properties"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schema", "advreg/results@2"),
        ("robust_accuracy", 1.2),
        ("interval", [0.1]),
        ("n", -1),
        ("verdict", "GOOD"),
        ("seed", None),
    ],
)
def test_schema_rejects_what_the_reader_rejects(tmp_path: Path, key: str, value: object) -> None:
    record = results(ID, "linf", 0.1, 0.9) | {key: value}
    assert problems(record)
    write_evaluation(tmp_path / "a", record, shown=0)
    with pytest.raises(RunError):
        read.run(tmp_path / "a")


def test_junit_fails_figures_below_the_threshold(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "a", results(ID, "linf", 0.1, 0.5), shown=0)
    facts = read.run(tmp_path / "a")
    limits = [report.Threshold.parse(text) for text in ("robust=0.5", "robust-low=0.5", "clean=0.9")]
    found = report.cases(facts, limits)
    assert [bool(case.problem) for case in found] == [False, True, False]
    root = ElementTree.fromstring(report.junit(facts, found))
    (suite,) = root.findall("testsuite")
    assert (suite.get("tests"), suite.get("failures"), root.get("failures")) == ("3", "1", "1")
    (failure,) = root.iter("failure")
    assert "below 0.5" in failure.get("message")


def test_unreliable_figure_reaches_no_threshold(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "a", results(ID, "linf", 0.1, 0.9) | {"verdict": "UNRELIABLE"}, shown=0)
    (case,) = report.cases(read.run(tmp_path / "a"), [report.Threshold("robust", 0.1)])
    assert "UNRELIABLE" in case.problem


def diagnosed(run: Path, **changes: object) -> Path:
    """A run folder with a figure, and a diagnosis that calls it UNRELIABLE."""
    write_evaluation(run, results(ID, "linf", 0.1, 0.9), shown=0)
    diagnosis = {"schema": "advreg/diagnosis@1", "verdict": "UNRELIABLE", "claim": ID, "n": 10, "robust_accuracy": 0.9}
    (run / "diagnosis.json").write_text(json.dumps(diagnosis | changes))
    return run


def test_diagnosis_of_this_evaluation_counts_everywhere(tmp_path: Path) -> None:
    facts = read.run(diagnosed(tmp_path / "a"))
    found = report.cases(facts, [report.Threshold("robust", 0.1), report.Threshold("clean", 0.1)])
    assert ["UNRELIABLE" in case.problem for case in found] == [True, False]
    assert 'failures="1"' in report.junit(facts, found)
    assert "| Verdict | UNRELIABLE |" in report.model_card(facts)
    assert report.comparison([tmp_path / "a"])[0].verdict == "UNRELIABLE"


@pytest.mark.parametrize(
    "changes", [{"claim": "pgd-40"}, {"claim": "linf-0.2-quick@2"}, {"model": {"sha256": "another"}}]
)
def test_diagnosis_of_another_evaluation_is_ignored(tmp_path: Path, changes: dict[str, object]) -> None:
    (facts,) = read.run(diagnosed(tmp_path / "a", **changes)).evaluations
    assert facts.verdict is None


def test_unknown_verdict_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"diagnosis\.json: 'verdict' is 'GOOD', must be one of TRUSTED, SUSPECT, UNRELIABLE"
    ):
        read.run(diagnosed(tmp_path / "a", verdict="GOOD"))


@pytest.mark.parametrize("text", ["robust", "robust=high", "robust=45", "robst=0.4", "robust=nan"])
def test_impossible_threshold_is_rejected(text: str) -> None:
    with pytest.raises(ConfigError, match="--fail-under is"):
        report.Threshold.parse(text)


def test_run_without_evaluation_has_no_cases_and_no_card(tmp_path: Path) -> None:
    write_training(tmp_path / "a")
    for use in (lambda facts: report.cases(facts, []), report.model_card):
        with pytest.raises(RunError, match="no evaluation"):
            use(read.run(tmp_path / "a"))


def test_model_card_holds_the_evaluation_block(tmp_path: Path) -> None:
    record = results(ID, "linf", 8 / 255, 0.5)
    record["model"]["name"] = "a | b <i>"
    write_evaluation(tmp_path / "net", record, shown=0)
    card = report.model_card(read.run(tmp_path / "net"))
    _, front, body = card.split("---\n", 2)
    meta = {key: json.loads(value) for key, _, value in (line.partition(": ") for line in front.splitlines())}
    (result,) = meta["model-index"][0]["results"]
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert values == {"accuracy": 0.986, "robust_accuracy": 0.5}
    assert result["dataset"] == {"type": "mnist", "name": "mnist", "split": "test"}
    assert "upper bound" in body
    assert "a \\| b &lt;i>" in body
    assert "advreg evaluate net --data mnist --threat linf:8/255" in body


def test_model_card_has_both_ends_of_a_certificate(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    data = torch.rand(12, 1, 4, 4), torch.arange(12) % 3
    evaluate(net, data, threat="linf:0.1", protocol="basic", out=tmp_path)
    certify(net, data, "linf:0.1", out=tmp_path)
    certify_smoothed(net, data, "l2:0.1", sigma=0.25, samples=100, out=tmp_path)
    card = report.model_card(read.run(tmp_path))
    assert "## linf-0.1-certified@1\n\nRobust accuracy is between" in card
    assert "## l2-0.1-smoothed@1\n\nThe smoothed model (noise 0.25), another model" in card


def test_hub_library_reads_the_model_card(tmp_path: Path) -> None:
    hub = pytest.importorskip(
        "huggingface_hub", reason="huggingface_hub reads model cards; pip install huggingface_hub"
    )
    write_evaluation(tmp_path / "net", results(ID, "linf", 0.1, 0.5), shown=0)
    card = hub.ModelCard(report.model_card(read.run(tmp_path / "net")))
    assert [one.metric_value for one in card.data.eval_results] == [0.986, 0.5]
