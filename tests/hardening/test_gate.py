"""The gate: what is better passes, and everything that is worse, too little, or not the same question is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import advreg
from advreg.errors import HardeningError, RunError
from advreg.hardening.gate.decision import hash_of
from advreg.hardening.gate.power_analysis import bearable_loss, enough
from advreg.hardening.gate.read import weights_sha256
from advreg.models import state_sha256
from advreg.statistics import mcnemar, noninferiority
from tests.hardening.runs import write_certificate, write_json, write_run


@pytest.fixture
def champion(tmp_path) -> Path:
    """20 of 1000 wrong, 300 more broken."""
    return write_run(tmp_path / "champion", wrong=range(20), broken=range(20, 320))


def better(folder: Path, **changed: object) -> Path:
    """100 fewer broken, two others newly wrong, three newly right."""
    facts = {"wrong": [*range(17), 500, 501], "broken": range(20, 220)} | changed
    return write_run(folder, **facts)


def test_what_is_better_and_not_worse_is_promoted(champion: Path, tmp_path: Path) -> None:
    decision = advreg.gate(champion, better(tmp_path / "challenger"), clean_margin=0.01)
    assert decision.promote
    assert decision.verdict == "PROMOTE"
    assert decision.reasons == ()
    tests = {test.name: test for test in decision.tests}
    superior = tests["robust accuracy, better"]
    assert superior.p_value == mcnemar(103, 2, "greater")
    assert superior.estimate == pytest.approx(0.101)
    clean = tests["clean accuracy, not worse"]
    assert clean.p_value == noninferiority(2, 3, 1000, 0.01)
    assert clean.interval[0] < clean.estimate < clean.interval[1]
    assert decision.plan[0].startswith("1000 examples")


def test_a_decision_is_a_file_with_its_hash(champion: Path, tmp_path: Path) -> None:
    decision = advreg.gate(champion, better(tmp_path / "challenger"), out=tmp_path / "challenger")
    record = json.loads((tmp_path / "challenger" / "decision.json").read_text())
    assert record["promote"] is True
    assert record["sha256"] == decision.sha256 == hash_of(record)
    record["promote"] = False
    assert hash_of(record) != record["sha256"]


@pytest.mark.parametrize(
    ("changed", "verdict", "words"),
    [
        ({"wrong": range(20), "broken": range(20, 320)}, "REFUSED", "robust accuracy, better"),  # as before
        ({"broken": range(20, 400)}, "REFUSED", "robust accuracy, better"),  # worse
        ({"broken": range(20, 317)}, "UNDERPOWERED", "a gain from"),  # 3 better: chance
        ({"wrong": range(50), "broken": range(100)}, "REFUSED", "clean accuracy, not worse"),  # 3 points of clean lost
        ({"wrong": range(28), "broken": range(100)}, "UNDERPOWERED", "too few examples"),  # 0.8 lost, margin 1
        ({"protocol": "linf-0.1-quick@2"}, "REFUSED", "not comparable"),
        ({"data": "e" * 64}, "REFUSED", "not comparable"),
        ({"seed": 1}, "REFUSED", "not comparable"),
        ({"n": 990}, "REFUSED", "not comparable"),
        ({"verdict": "UNRELIABLE"}, "UNRELIABLE", "diagnosis: UNRELIABLE"),
        ({"verdict": "SUSPECT"}, "UNRELIABLE", "diagnosis: SUSPECT"),
        ({"model": "champion"}, "REFUSED", "the same weights"),
    ],
)
def test_what_is_not_shown_is_refused_in_one_line(champion, tmp_path, changed, verdict, words) -> None:
    decision = advreg.gate(champion, better(tmp_path / "challenger", **changed))
    assert not decision.promote
    assert decision.verdict == verdict
    assert any(words in reason for reason in decision.reasons), decision.reasons
    assert not any("\n" in reason for reason in decision.reasons)


def test_a_guarded_class_is_looked_at_by_itself(champion: Path, tmp_path: Path) -> None:
    sevens = [i for i in range(1000) if i % 10 == 7]
    challenger = better(tmp_path / "challenger", wrong=[i for i in range(20) if i % 10 != 7] + sevens[:10])
    assert advreg.gate(champion, challenger, clean_margin=0.03).promote
    refused = advreg.gate(champion, challenger, clean_margin=0.03, classes=[7])
    assert [reason.partition(":")[0] for reason in refused.reasons] == ["clean accuracy, class 7, not worse"]
    by_ids = advreg.gate(champion, challenger, clean_margin=0.03, slices={"night": sevens})
    assert by_ids.tests[-1].p_value == refused.tests[-1].p_value
    for ids in ([], [5000]):
        with pytest.raises(HardeningError, match="night"):
            advreg.gate(champion, challenger, slices={"night": ids})


def test_many_slices_are_held_to_a_stricter_level_each(champion: Path, tmp_path: Path) -> None:
    challenger = better(tmp_path / "challenger")
    alone = advreg.gate(champion, challenger, slice_margin=0.05, classes=[3]).tests[-1].p_value
    crowd = advreg.gate(champion, challenger, slice_margin=0.05, classes=range(10)).tests
    assert next(test for test in crowd if "class 3" in test.name).p_value > alone


def test_incidents_must_be_right_unless_waived(champion: Path, tmp_path: Path) -> None:
    challenger = better(tmp_path / "challenger")
    rows = [{"example": "a" * 64, "broken": True}, {"example": "b" * 64, "broken": False}]
    write_json(challenger, "incidents.json", model="challenger", rows=rows)
    refused = advreg.gate(champion, challenger)
    assert refused.reasons == ("incidents: 1 of 2 confirmed incidents still fool it, such as aaaaaaaaaaaa (0 waived)",)
    assert advreg.gate(champion, challenger, waivers=["a" * 64]).promote
    write_json(champion, "incidents.json", model="champion", rows=[{"example": "c" * 64, "broken": True}])
    assert "not tried" in advreg.gate(champion, challenger, waivers=["a" * 64]).reasons[0]


def test_probes_count_where_present_and_are_demanded_where_required(champion: Path, tmp_path: Path) -> None:
    challenger = better(tmp_path / "challenger")
    missing = advreg.gate(champion, challenger, require=["canaries", "trigger", "diagnosis"])
    assert [reason.partition(":")[0] for reason in missing.reasons] == ["canaries", "trigger", "diagnosis"]
    checks = [
        {"name": "canaries", "passed": True, "says": "ok"},
        {"name": "trigger", "passed": False, "says": "class 0"},
    ]
    write_json(challenger, "probes.json", model="challenger", checks=checks)
    assert advreg.gate(champion, challenger).reasons == ("trigger: class 0",)
    with pytest.raises(HardeningError, match="allowed: diagnosis"):
        advreg.gate(champion, challenger, require=["luck"])


def test_results_of_other_weights_are_refused(champion: Path, tmp_path: Path) -> None:
    challenger = better(tmp_path / "challenger")
    advreg.RunFolder.at(challenger).save_model(torch.nn.Linear(2, 2))
    refused = advreg.gate(champion, challenger)
    assert "model.safetensors is of other weights" in refused.reasons[0]


def test_a_diagnosis_of_these_weights_counts_and_one_of_others_is_refused(champion: Path, tmp_path: Path) -> None:
    challenger = better(tmp_path / "challenger")
    write_json(challenger, "diagnosis.json", verdict="TRUSTED", model={"sha256": "challenger"})
    assert advreg.gate(champion, challenger, require=["diagnosis"]).promote
    write_json(challenger, "diagnosis.json", verdict="SUSPECT", model={"sha256": "challenger"})
    assert advreg.gate(champion, challenger).verdict == "UNRELIABLE"
    write_json(challenger, "diagnosis.json", verdict="TRUSTED", model={"sha256": "another"})
    assert "diagnosis.json is of other weights" in advreg.gate(champion, challenger).reasons[0]


def test_weights_have_the_hash_that_evaluations_carry(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Linear(2, 2).bfloat16())
    file = advreg.RunFolder.at(tmp_path).save_model(model)
    assert weights_sha256(file) == state_sha256(model)
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(RunError, match="not a whole"):
        weights_sha256(file)


def test_edited_results_are_damaged_results(champion: Path, tmp_path: Path) -> None:
    challenger = better(tmp_path / "challenger")
    file = next(challenger.glob("evaluation/*/results.json"))
    file.write_text(json.dumps({**json.loads(file.read_text()), "robust_accuracy": 0.99}))
    with pytest.raises(RunError, match="do not agree"):
        advreg.gate(champion, challenger)


def test_which_protocol_is_asked_for_where_there_are_several(champion: Path, tmp_path: Path) -> None:
    challenger = better(tmp_path / "challenger")
    for run in (champion, challenger):
        shutil.copytree(run / "evaluation/linf-0.1-basic@2", run / "evaluation/linf-0.1-other@1")
    with pytest.raises(HardeningError, match="--protocol"):
        advreg.gate(champion, challenger)
    assert advreg.gate(champion, challenger, protocol="linf-0.1-basic@2").promote
    with pytest.raises(HardeningError, match="Did you mean"):
        advreg.gate(champion, challenger, protocol="linf-0.1-basic@3")


def test_a_folder_without_results_is_wrong_use(champion: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="advreg evaluate"):
        advreg.gate(champion, tmp_path / "empty")
    for margin in (0, 1, -0.1):
        with pytest.raises(HardeningError, match="between 0 and 1"):
            advreg.gate(champion, champion, clean_margin=margin)


def test_the_planner_says_exactly_what_the_test_can_show() -> None:
    loss = bearable_loss(1000, 0.01, 0.05)
    assert noninferiority(loss, 0, 1000, 0.01) <= 0.05 < noninferiority(loss + 1, 0, 1000, 0.01)
    few = enough(0.01, 0.05)
    assert noninferiority(0, 0, few, 0.01) <= 0.05
    assert bearable_loss(100, 0.01, 0.05) == -1


def test_real_runs_pass_through_the_gate(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, y = torch.rand(200, 1, 4, 4), torch.randint(2, (200,))
    x[y == 1, 0, 0] = 1 - 0.3 * x[y == 1, 0, 0]
    x[y == 0, 0, 0] *= 0.3
    good = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)).eval()
    with torch.no_grad():
        good[1].weight.zero_()[1, :4] = 1
        good[1].bias.copy_(torch.tensor([2.0, 0.0]))
    weak = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)).eval()
    with torch.no_grad():
        weak[1].weight.zero_()[1, 0] = 1
        weak[1].bias.copy_(torch.tensor([0.5, 0.0]))
    threat = advreg.ThreatModel("linf", 0.3)
    found = {
        name: advreg.evaluate(model, (x, y), threat=threat, protocol="basic", out=tmp_path / name)
        for name, model in (("weak", weak), ("good", good))
    }
    decision = advreg.gate(tmp_path / "weak", tmp_path / "good", clean_margin=0.03)
    better = next(test for test in decision.tests if test.name == "robust accuracy, better")
    assert better.passed
    assert better.estimate == pytest.approx(found["good"].robust_accuracy - found["weak"].robust_accuracy)
    assert {test.name for test in decision.tests if not test.passed} <= {"diagnosis"}
    assert not advreg.gate(tmp_path / "good", tmp_path / "weak", clean_margin=0.03).promote


@pytest.mark.parametrize(
    ("unproved", "promoted"), [(range(60, 160), True), (range(60, 170), True), (range(300), False)]
)
def test_fewer_proofs_than_the_champion_are_refused(
    champion: Path, tmp_path: Path, unproved: range, promoted: bool
) -> None:
    challenger = better(tmp_path / "challenger")
    write_certificate(champion, range(100))
    write_certificate(challenger, unproved)
    decision = advreg.gate(champion, challenger)
    assert decision.promote is promoted
    (test,) = (test for test in decision.tests if test.name.startswith("certified"))
    assert test.name == "certified accuracy, linf-0.1-certified@1, not worse"
    assert test.estimate == pytest.approx((100 - len(unproved)) / 1000)


def test_certificates_of_other_examples_are_not_compared(champion: Path, tmp_path: Path) -> None:
    challenger = better(tmp_path / "challenger")
    write_certificate(champion, range(100))
    write_certificate(challenger, range(500), data="e" * 64)
    decision = advreg.gate(champion, challenger)
    assert not any(test.name.startswith("certified") for test in decision.tests)
