"""What has no meaning in a task is one line: what was given, what is allowed, what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import advreg
from advreg import attacks, tasks
from advreg.errors import AdvregError
from advreg.objectives import dlr
from advreg.threat import ThreatModel

THREAT = ThreatModel("linf", 0.1)


def rows(outputs: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return nn.Linear(4, outputs).eval(), torch.rand(6, 4)


def scenes() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return nn.Conv2d(3, 3, 1).eval(), torch.rand(6, 3, 4, 4)


def evaluate(made: tuple[nn.Module, Tensor], y: Tensor, task: Any = tasks.CLASSES) -> object:
    return advreg.evaluate(made[0], (made[1], y), THREAT, task=task, protocol="fgsm")


CASES: dict[str, tuple[Callable[[], object], list[str]]] = {
    "dlr of a regression": (
        lambda: attacks.apgd(*rows(1), torch.rand(6), THREAT, objective=dlr, task=tasks.number(0.1)),
        ["objective dlr compares logits of classes", "number-0.1", "above, below"],
    ),
    "dlr of a regression in training": (
        lambda: attacks.craft(*rows(1), torch.rand(6), THREAT, objective=dlr, task=tasks.number(0.1)),
        ["objective dlr", "leave objective out"],
    ),
    "mask of another length": (
        lambda: evaluate(scenes(), torch.zeros(5, 4, 4).long(), "pixels"),
        ["(6, 3, 4, 4)", "(5, 4, 4)"],
    ),
    "mask of another size": (
        lambda: evaluate(scenes(), torch.zeros(6, 8, 8).long(), "pixels"),
        ["masks are (6, 8, 8)", "give logits (B, K, H, W) and classes (B, H, W)"],
    ),
    "unlabelled class": (
        lambda: evaluate(scenes(), torch.full((6, 4, 4), 254), "pixels"),
        ["a pixel has class 254", "ignore=254"],
    ),
    "all pixels ignored": (
        lambda: evaluate(scenes(), torch.full((6, 4, 4), 255), "pixels"),
        ["no pixel but those of class 255"],
    ),
    "several labels as one": (
        lambda: evaluate(rows(3), torch.eye(3).repeat(2, 1).long()),
        ["(6, 3)", "several labels: task='labels'"],
    ),
    "numbers as labels": (lambda: evaluate(rows(3), torch.rand(6)), ["float32", "numbers: task='number'"]),
    "probabilities as several labels": (
        lambda: evaluate(rows(3), torch.full((6, 3), 1 / 3), "labels"),
        ["task labels", "0"],
    ),
    "one similarity without pairs": (
        lambda: evaluate(rows(2), torch.zeros(6).long(), "pairs:threshold=0.5"),
        ["similarity (B, 1)"],
    ),
    "protocol of classes": (
        lambda: advreg.evaluate(
            *rows(1)[:1], (rows(1)[1], torch.rand(6)), THREAT, task="number:tolerance=1", protocol="rand"
        ),
        ["'rand' is not one of task number-1", "quick"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_has_no_meaning_is_one_line(case: str) -> None:
    call, words = CASES[case]
    with pytest.raises(AdvregError) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_task_may_name_an_objective_of_classes_as_its_own() -> None:
    top = tasks.Task("top", lambda z, y: z.argmax(1) == y, {"dlr": dlr})
    model, x = rows(5)
    assert attacks.fgsm(model, x, torch.zeros(6).long(), THREAT, task=top).x_adv.shape == x.shape
