"""`advreg plan`: its passes are those that a run then counts, and a file carries the speed of another machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from advreg import ThreatModel, evaluate, fit
from advreg.cli import plan
from advreg.cli.app import app
from advreg.errors import ConfigError
from advreg.evaluation.costs import evaluation_costs
from advreg.training import prepare
from advreg.training.costs import training_costs
from tests.attacks.models import small_cnn
from tests.evaluation.test_evaluate import batch
from tests.training import small

RUN = """
[model]
name = "zoo:mnist-dnn"
[data]
validation = 59880
[threat]
norm = "linf"
eps = 0.1
[attack]
name = "pgd"
steps = 2
[recipe]
name = "madry"
[train]
epochs = 2
batch_size = 50
validation_steps = 1
"""


@pytest.mark.parametrize("recipe", ["madry", "trades"])
def test_planned_passes_of_a_training_are_the_counted_ones(tmp_path, recipe) -> None:
    """The last batch of an epoch is smaller: the passes of fixed recipes are exact all the same."""
    data = small.write_data(tmp_path / "small.npz")
    config = small.config(data, tmp_path / "run", f"recipe.name={recipe}")
    costs = training_costs(prepare(config))
    run = fit(config)
    lines = [line for line in run.read_log("metrics.jsonl") if "forwards" in line]
    counted = [sum(line[key] for line in lines) for key in ("forwards", "backwards")]
    assert [costs.forwards, costs.backwards] == counted
    assert costs.seconds > 0


def test_planned_passes_of_an_evaluation_are_exact_on_the_sample_and_bounded_beyond() -> None:
    model, data, threat = small_cnn(), batch(120), ThreatModel("linf", 0.02)
    found = evaluate(model, data, threat, protocol="basic")
    attacked = sum(attack.forwards for attack in found.by_attack)
    whole = evaluation_costs(model, data, threat, protocol="basic", sample=120)
    assert whole.forwards == attacked + 120  # and a forward for each clean example
    assert whole.backwards == sum(attack.backwards for attack in found.by_attack)
    some = evaluation_costs(model, data, threat, protocol="basic", sample=30)
    assert some.most[0] >= whole.forwards
    assert some.most[1] >= whole.backwards
    assert some.forwards == pytest.approx(whole.forwards, rel=0.3)


def test_attack_that_the_sample_does_not_reach_is_named() -> None:
    x, y = torch.rand(8, 1, 8, 8), torch.zeros(8, dtype=torch.int64)
    y[:] = (small_cnn()(x).argmax(1) + 1) % 5
    assert evaluation_costs(small_cnn(), (x, y), "linf:0.1", protocol="fgsm").unmeasured == ["fgsm"]


def test_speed_of_another_machine_scales_time_and_money(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(plan, "measure_speed", lambda prepared: plan.Speed(1e-3, 2e-3, {"cpu": "here"}))
    monkeypatch.setattr(plan, "training_costs", lambda session: plan.TrainingCosts(600, 300, 0, 0, 60.0))
    (tmp_path / "run.toml").write_text(RUN)
    options = plan.PlanOptions(tmp_path / "run.toml", "fgsm", 16, 3, price=3.6, calibrate=tmp_path / "speed.json")
    here = plan.make_plan(options)
    assert [job["job"].split(",")[0] for job in here["jobs"]] == ["training", "sweep of 3", "evaluation"]
    assert here["jobs"][1]["seconds"] == 180
    assert here["jobs"][1]["money"] == pytest.approx(0.18)
    twice = plan.Speed(2e-3, 4e-3, {"cpu": "there"})
    plan.write_speed(tmp_path / "there.json", twice)
    assert plan.read_speed(tmp_path / "speed.json").machine == {"cpu": "here"}
    there = plan.make_plan(plan.PlanOptions(tmp_path / "run.toml", "fgsm", 16, machine=tmp_path / "there.json"))
    assert there["jobs"][0]["seconds"] == pytest.approx(120)
    assert there["jobs"][-1]["seconds"] == pytest.approx(2 * here["jobs"][-1]["seconds"])
    shown = CliRunner().invoke(app, ["plan", str(tmp_path / "run.toml"), "--protocol", "fgsm", "-n", "16"])
    assert "the network is not trained yet" in shown.output
    assert "evaluation at most" in shown.output


def test_wrong_use_of_plan_is_one_line(tmp_path) -> None:
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds no speed of a machine; write one there with: advreg plan RUN"):
        plan.read_speed(tmp_path / "other.json")
    with pytest.raises(ConfigError, match="price is -1"):
        plan.make_plan(plan.PlanOptions(Path("run.toml"), price=-1))
