"""Diagnoses of the planted cases, each made once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from advreg.diagnosis import Diagnosis, diagnose
from advreg.diagnosis.context import Budget

from . import planted

TINY = Budget(40, 20, 100, 30, 16, 8, 249, thorough=False)
N = 60

Diagnose = Callable[[str], Diagnosis]


def digits(n: int = N) -> tuple[torch.Tensor, torch.Tensor]:
    return planted.mnist()[1].tensors(n=n)


@pytest.fixture(scope="session")
def diagnosed() -> Diagnose:
    """Return what a short diagnosis says of a case, with adaptive attacks where it is a planted one."""
    found: dict[str, Diagnosis] = {}

    def of(name: str) -> Diagnosis:
        if name not in found:
            case = planted.named(name)
            torch.manual_seed(0)  # for the cases that are random on purpose
            adapt = case in planted.PLANTED
            found[name] = diagnose(case.make(), digits(), case.threat, budget=TINY, adapt=adapt)
        return found[name]

    return of
