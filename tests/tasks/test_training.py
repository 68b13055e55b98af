"""Recipes in other tasks: their loss, their worst case, and the recipes that are for classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import advreg
from advreg import attacks, recipes, tasks
from advreg.errors import AdvregError
from advreg.threat import ThreatModel

THREAT = ThreatModel("linf", 0.05)
NUMBER = tasks.number(0.2)


def problem(seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(seed)
    x = torch.rand(64, 6)
    y = (x[:, 0] - x[:, 1]) + 0.2 * (8 * x[:, 2]).sin()
    return nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 1)), x, y


@pytest.mark.parametrize("name", ["standard", "madry", "mixed", "multiplier", "free", "trades"])
def test_recipes_learn_other_tasks(name: str) -> None:
    model, x, y = problem()
    recipe = recipes.RECIPES.build(name, {"task": NUMBER})
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    for _ in range(60):
        loss = recipe(model, x, y, attacks.craft, THREAT)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 3


def test_adversarial_training_makes_a_regression_robust() -> None:
    scores = {}
    for name in ("standard", "madry"):
        model, x, y = problem()
        recipe, optimizer = recipes.RECIPES.build(name, {"task": NUMBER}), torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(300):
            optimizer.zero_grad()
            recipe(model, x, y, attacks.craft, THREAT).backward()
            optimizer.step()
        scores[name] = advreg.evaluate(model.eval(), (x, y), THREAT, task=NUMBER, n=48).robust_accuracy
    assert scores["madry"] > scores["standard"] + 0.1


def test_the_loss_at_the_worst_case_is_above_the_clean_loss() -> None:
    model, x, y = problem()
    clean = recipes.standard(task=NUMBER)(model, x, y, None, THREAT)  # type: ignore[arg-type]
    worst = recipes.madry(task=NUMBER)(model, x, y, attacks.craft, THREAT)
    assert float(worst.detach()) > float(clean.detach())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: recipes.mart(task=NUMBER), ["mart", "for classes", "madry"]),
        (lambda: recipes.madry(0.1, task=NUMBER), ["label_smoothing is 0.1", "for classes"]),
        (lambda: recipes.trades(task=tasks.boxes()), ["needs a divergence", "boxes"]),
        (lambda: recipes.madry(task="pixel"), ["allowed: classes", "pixels"]),
    ],
)
def test_recipes_for_classes_raise_in_other_tasks(make: Any, words: list[str]) -> None:
    with pytest.raises(AdvregError) as caught:
        make()
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_an_attack_for_classes_is_named() -> None:
    model, x, y = problem()
    with pytest.raises(AdvregError, match="attack deepfool is for classes"):
        recipes.madry(task=NUMBER)(model, x, y, attacks.deepfool, THREAT)
