"""Backdoors at default caps: the trigger gains less than 5 points, on the challenger itself, before any gate."""

from __future__ import annotations

import pytest
from bench.hardening_attacks import Attack, attempt


@pytest.mark.parametrize(
    "attack",
    [
        Attack("blend", 0.01),
        Attack("blend", 0.0025),
        Attack("patch", 0.01, principals=5, reviewers=2),
        Attack("patch", 0.0025),
    ],
    ids=lambda attack: attack.name,
)
def test_a_trigger_gains_less_than_five_points(attack: Attack) -> None:
    found = attempt(attack, seed=0)
    assert found["verdicts"], "a challenger was trained on the poison"
    assert found["worst"] - found["base"] <= 0.05
    assert found["champion"] - found["base"] <= 0.05
