"""Training that learns nothing says so: on the terminal, in metrics.jsonl and in the report; training that learns does not."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import typer

import advreg
from advreg import report
from advreg.cli.progress import training
from advreg.cli.train import TrainOptions, run_train
from advreg.trainer import events
from advreg.trainer.events import Checkpointed, Guarded
from advreg.training import learning, rollback, setup
from advreg.training.learning import LearningRecord
from advreg.training.policies import Moment
from advreg.training.step import take_step
from advreg.training.validation import Score
from tests.training import small
from tests.training.test_resume import outcome

BALANCED = torch.arange(120) % 3


@pytest.mark.parametrize(
    ("loss", "right", "warned"),
    [
        (math.log(3), 40, True),
        (5.0, 40, True),  # confident and wrong
        (math.log(3), 60, False),  # half are right: it learns, whatever the loss
        (1.0, 40, False),  # a lower loss than any constant answer has
    ],
)
def test_a_loss_of_ln_k_at_chance_is_not_learning(loss: float, right: int, warned: bool) -> None:
    said = learning.detect_not_learning(LearningRecord(loss, right), BALANCED, "at the end")
    assert (said is not None) == warned


def test_a_constant_loss_is_the_entropy_of_unequal_labels() -> None:
    y = torch.tensor([0] * 90 + [1] * 10)
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert learning.detect_not_learning(LearningRecord(entropy, 90), y, "at the end")
    assert learning.detect_not_learning(LearningRecord(0.9 * entropy, 90), y, "at the end") is None
    assert (
        learning.detect_not_learning(LearningRecord(0.0, 100), torch.zeros(100, dtype=torch.int64), "at the end")
        is None
    )


@pytest.mark.parametrize(("loss", "warned"), [(0.95, True), (0.88, False)])
def test_one_predicted_class_near_ln_k_is_not_learning(loss: float, warned: bool) -> None:
    record = LearningRecord(loss * math.log(3), 40, predicted=1)
    said = learning.detect_not_learning(record, BALANCED, "at the end")
    assert (said is not None) == warned
    assert said is None or said.endswith("(accuracy 33%, one class predicted)")


def test_chance_level_is_where_the_exact_interval_leaves_the_largest_class() -> None:
    from advreg.statistics import clopper_pearson_interval

    for n in (12, 49, 120, 128):
        y = torch.arange(n) % 3
        right = round(learning.chance_level(y) * n)
        share = float(learning.class_shares(y).max())
        assert clopper_pearson_interval(right, n)[0] <= share < clopper_pearson_interval(right + 1, n)[0]


def test_a_constant_epoch_is_at_chance_whatever_its_robust_accuracy() -> None:
    assert Score(0.11, 0.11, chance=0.11).is_chance
    assert not Score(0.95, 0.05, chance=0.11).is_chance
    assert not Score(1.0, 1.0, chance=1.0).is_chance, "a single class has no chance level"


def trained(data: Path, out: Path, *changes: str) -> list[Guarded]:
    heard: list[events.Event] = []
    advreg.fit(small.config(data, out, *changes), on_event=heard.append)
    return [e for e in heard if isinstance(e, Guarded) and e.trouble == "not learning"]


def test_training_that_learns_nothing_is_reported(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ("model.name=tests.training.small:constant", "train.epochs=33", "attack.steps=1")
    found = trained(data, tmp_path / "run", *changes)
    assert [(e.epoch, e.step) for e in found] == [(11, 5), (33, 5)], "after a third of 165 steps, and at the end"
    assert "ln 3 = 1.10" in found[0].message
    assert "after a third of the training" in found[0].message
    page = report.write(tmp_path / "run").read_text()
    assert "not learning: the loss is ln 3 = 1.10" in page
    with training() as watch:
        watch(found[0])
    assert "not learning in epoch 11, step 5: the loss is ln 3" in capsys.readouterr().err


def test_a_short_training_is_only_looked_at_in_the_end(data: Path, tmp_path: Path) -> None:
    found = trained(data, tmp_path / "run", "model.name=tests.training.small:constant")
    assert [(e.epoch, e.step) for e in found] == [(3, 5)]


def test_a_training_that_learns_is_not_warned(data: Path, tmp_path: Path) -> None:
    assert trained(data, tmp_path / "run", "train.epochs=15") == []


def test_an_epoch_at_chance_level_is_never_the_best(data: Path, tmp_path: Path) -> None:
    heard: list[events.Event] = []
    changes = ("model.name=tests.training.small:constant", "data.validation=60")
    run = advreg.fit(small.config(data, tmp_path / "run", *changes), on_event=heard.append)
    assert [event.best for event in heard if isinstance(event, Checkpointed)] == [False] * 3
    best, last = (advreg.load_model(str(run.path), weights=run / f"{name}.safetensors") for name in ("model", "last"))
    assert str(best.state_dict()) == str(last.state_dict()), "a folder without a model would be no run"


def test_a_run_that_learned_nothing_fails(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = small.config(data, tmp_path / "run", "model.name=tests.training.small:constant")
    (tmp_path / "run.toml").write_text(config.to_toml())
    with pytest.raises(typer.Exit) as end:
        run_train(TrainOptions(tmp_path / "run.toml"))
    assert end.value.exit_code == 1
    assert "failed: nothing was learned: the loss is ln 3 = 1.10" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="nothing was learned"):
        advreg.fit(config, resume=True)


def test_a_restart_restores_what_was_there_before_the_first_step(data: Path, tmp_path: Path) -> None:
    changes = ("average.name=ema", "policy.name=iaat", "policy.options.warmup=0.0", "attack.name=stored", "recipe.name=pgi",
               "policy.options.method=margin")  # fmt: skip
    made, fresh = (setup.prepare(small.config(data, tmp_path / "run", *changes)) for _ in range(2))
    batch = next(iter(made.batches.epoch(1)))
    made.model.train()
    for step in range(3):
        take_step(made, batch, Moment(1, step, 15))
    assert str(made.model.state_dict()) != str(fresh.model.state_dict())
    rollback.restart(made)
    assert str(made.model.state_dict()) == str(fresh.model.state_dict())
    assert made.average is not None
    assert fresh.average is not None
    assert str(made.average.state_dict()) == str(fresh.average.state_dict())
    assert [str(part.state_dict()) for part in (made.policy, made.attack)] == [  # type: ignore[attr-defined]
        str(part.state_dict())
        for part in (fresh.policy, fresh.attack)  # type: ignore[attr-defined]
    ]
    assert not made.optimizer.state
    assert made.scheduler.last_epoch == 3, "the schedule goes on"


def test_a_repair_restarts_with_a_growing_eps_and_resumes(data: Path, tmp_path: Path) -> None:
    changes = ("model.name=tests.training.small:constant", "train.epochs=11", "attack.steps=1", "train.guard=repair")
    found = trained(data, tmp_path / "whole", *changes)
    assert [e.action.split(";")[0] for e in found] == [
        "restarted from the initial weights",
        learning.REMEDY.split(";")[0],
    ]

    def kill(event: events.Event) -> None:
        if isinstance(event, Checkpointed) and event.epoch == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        advreg.fit(small.config(data, tmp_path / "cut", *changes), on_event=kill)
    run = advreg.fit(small.config(data, tmp_path / "cut", *changes), resume=True, on_event=lambda event: None)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")
    kept = torch.load(run / "checkpoint.pt", weights_only=True)
    assert kept["memory"]["guard"]["ramp"] == 50


def test_a_guard_that_is_off_warns_of_nothing(data: Path, tmp_path: Path) -> None:
    changes = ("model.name=tests.training.small:constant", "train.guard=off")
    assert trained(data, tmp_path / "run", *changes) == []
