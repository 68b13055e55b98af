"""Training that learns nothing says so: on the terminal, in metrics.jsonl and in the report; training that learns does not."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import advreg
from advreg import report
from advreg.cli.progress import training
from advreg.trainer import events
from advreg.trainer.events import Guarded
from advreg.training import learning
from advreg.training.learning import LearningRecord
from tests.training import small

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


def test_a_guard_that_is_off_warns_of_nothing(data: Path, tmp_path: Path) -> None:
    changes = ("model.name=tests.training.small:constant", "train.guard=off")
    assert trained(data, tmp_path / "run", *changes) == []
