"""The comparison of protocols: what a row is called, what is run again, what the table says. No peer is imported."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import pytest
import torch

import advreg
from advreg.errors import ConfigError
from advreg.objectives import margin
from advreg.runs.files import append_lines, read_lines

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))

import protocols
import robust_networks
from competitors import Count
from evaluation import Case

THREAT = advreg.ThreatModel("l2", 0.05)
CASE = "small/l2:0.05"


def small_case(_text: str = CASE, n: int = 6) -> Case:
    """A linear network on noise; every label but the first is its own answer."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).eval()
    x = torch.rand(n, 1, 4, 4)
    y = model(x).argmax(1)
    y[0] = (y[0] + 1) % 3
    return Case(CASE, model, x, y, THREAT)


def row(program: str, broken: list[int], forwards: int) -> dict[str, object]:
    none = {"tried": 0, "broken": 0, "forwards": 0, "backwards": 0}
    stages = {"square": {"tried": 4, "broken": 1, "forwards": 30, "backwards": 10}, "fab-t": none}
    counts = {"n": 4, "robust_accuracy": 1 - sum(broken) / 4, "forwards": forwards, "backwards": 0}
    return {"program": program, "case": CASE, "broken": broken, "cpu_seconds": 1.0, "stages": stages, **counts}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_table_compares_with_standard_and_the_reference() -> None:
    rows = [
        row("pyautoattack", [1, 1, 0, 0], 800),
        row("l2-0.05-standard@2", [1, 0, 0, 0], 400),
        row("l2-0.05-strong@3", [1, 0, 1, 1], 100),
    ]
    head, _, reference, standard, strong = protocols.table(rows).split("\n")
    assert cells(head)[:5] == ["program", "robust", "over", "gained", "missed"]
    assert cells(reference)[1:8] == ["50.0%", "-25.0", "0", "0", "200", "0", "1.0"]
    assert cells(standard)[1:8] == ["75.0%", "+0.0", "0", "1", "100", "0", "2.0"]
    assert cells(strong)[1:8] == ["25.0%", "-50.0", "2", "1", "25", "0", "8.0"]
    assert cells(strong)[-1] == "square: 1 of 4, 10"


def test_table_without_standard_or_reference_compares_with_nothing() -> None:
    line = protocols.table([row("l2-0.05-quick@1", [0, 0, 0, 0], 40)]).split("\n")[-1]
    assert [cells(line)[k] for k in (2, 3, 4, 7)] == ["-"] * 4


def test_program_id_names_current_version_unless_one_is_given() -> None:
    current = advreg.evaluation.protocols.resolve("quick", "l2").version
    assert protocols.program_id("pyautoattack", THREAT) == "pyautoattack"
    assert protocols.program_id("quick", THREAT) == f"l2-0.05-quick@{current}"
    assert protocols.program_id("quick@77", THREAT) == "l2-0.05-quick@77"
    with pytest.raises(ConfigError, match="no longer runs"):
        protocols.work_of("quick@77", THREAT)
    with pytest.raises(ConfigError, match="network one of wk17"):
        protocols.case_of("wk18/l2:1", 4)


def test_rows_in_the_file_are_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(protocols, "case_of", lambda text, n: made.append(text) or small_case(text, n))
    options = argparse.Namespace(program=["quick", "fgsm"], n=6, out=tmp_path / "protocols.jsonl")
    append_lines(options.out, [{**row("l2-0.05-quick@0", [0] * 6, 6), "n": 6, "clean_accuracy": 1.0}])
    for _ in range(2):
        protocols.run_case(CASE, options)
    old, *rows = read_lines(options.out)
    assert old["program"] == "l2-0.05-quick@0"
    assert [r["program"] for r in rows] == [protocols.program_id(name, THREAT) for name in options.program]
    assert made == [CASE]
    assert all(r["broken"][0] == 1 and r["clean_accuracy"] == pytest.approx(5 / 6) for r in rows)
    assert all(s["forwards"] > 0 for r in rows for s in r["stages"].values())
    written = options.out.with_suffix(".md").read_text(encoding="utf-8")
    assert all(r["program"] in written for r in (old, *rows))


def test_stages_of_the_reference_are_read_from_its_log() -> None:
    stages, count = {}, Count()
    log = logging.getLogger("auto-attack")
    level = log.level
    with protocols.logged(stages, count):
        count.forwards, count.backwards = 100, 50
        log.debug("fab-t - 1/2 - 3 out of 250 successfully perturbed")
        log.debug("robust accuracy after FAB-T: 10.00% (total time 1.0 s)")
        count.forwards, count.backwards = 140, 60
        log.debug("fab-t - 2/2 - 1 out of 20 successfully perturbed")
        count.forwards = 200
        log.debug("square - 1/1 - 0 out of 266 successfully perturbed")
    log.debug("square - 1/1 - 9 out of 266 successfully perturbed")
    assert stages == {
        "fab-t": {"tried": 270, "broken": 4, "forwards": 140, "backwards": 60},
        "square": {"tried": 266, "broken": 0, "forwards": 60, "backwards": 0},
    }
    assert (log.level, log.handlers) == (level, [])


def test_sparse_training_points_gain_more_than_one_pixel_can() -> None:
    case, threat = small_case(), advreg.ThreatModel("l1", 3.0)
    found = robust_networks.sparse(case.model, case.x, case.y, threat, steps=5)
    assert bool(threat.contains(found.x_adv, case.x, 1e-6).all())
    assert found.forwards == found.backwards == 5 * len(case.x)
    pixel = torch.eye(16).view(16, 1, 4, 4)
    singles = [case.x * (1 - p) + p * value for p in pixel for value in (0.0, 1.0)]
    best = torch.stack([margin(case.model(point), case.y).detach() for point in singles]).amax(0)
    assert bool((margin(case.model(found.x_adv), case.y) > best).all())


def test_every_default_case_names_a_network_and_a_threat() -> None:
    for text in protocols.CASES:
        network, _, threat = text.partition("/")
        assert network in robust_networks.NETWORKS
        advreg.ThreatModel.parse(threat)
