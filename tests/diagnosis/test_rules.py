"""A masked model of a table is found under rules of features too, and an honest one is not called unreliable."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from advreg import diagnose
from tests.constraints.loans import LOW, SCALE, loan_threat, loans
from tests.diagnosis.planted import Scaled

_FREE = (SCALE > 0) & SCALE.isfinite()


class Steps(nn.Module):
    """Round each feature to a grid of a hundredth of its unit; the gradient is zero almost everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        unit = torch.where(_FREE, SCALE, 1.0) / 100
        return (x / unit).round() * unit


def scorer() -> nn.Module:
    """Return a linear score of amount, term and income in their units, centred between the rows."""
    net = nn.Linear(12, 2).eval()
    x = loans(400)
    weight = torch.zeros(12)
    weight[[0, 1, 4]] = torch.tensor([1.0, -0.8, -0.6]) / SCALE[[0, 1, 4]]
    with torch.no_grad():
        net.weight[:] = torch.stack([-weight, weight])
        middle = (x @ weight).median()
        net.bias[:] = torch.stack([middle, -middle])
    return net


def verdict(model: nn.Module) -> str:
    x = loans(24, seed=1)
    with torch.no_grad():
        y = scorer()(x).argmax(1)
    assert bool((x >= LOW).all())
    return diagnose(model, (x, y), loan_threat("linf", 0.5), n=24, quick=True).verdict


@pytest.mark.parametrize("mask", [Steps, lambda: Scaled(1e5)], ids=["rounded inputs", "saturated"])
def test_a_masked_model_of_a_table_is_never_trusted(mask) -> None:
    parts = [mask(), scorer()] if mask is Steps else [scorer(), mask()]
    assert verdict(nn.Sequential(*parts).eval()) != "TRUSTED"


def test_an_honest_model_of_a_table_is_not_called_unreliable() -> None:
    assert verdict(scorer()) != "UNRELIABLE"
