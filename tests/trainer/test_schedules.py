"""Schedules as functions of progress, and the steps they are taken at."""

from __future__ import annotations

import pytest
import torch
from torch.optim import SGD

from advreg.errors import ConfigError
from advreg.trainer import schedules

STEPS = 20


def rates(factor: schedules.Factor) -> list[float]:
    """Return the learning rate of each step of a run, 1 being the configured one."""
    optimizer = SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0)
    scheduler = schedules.scheduler(optimizer, factor, STEPS)
    found = []
    for _ in range(STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_no_step_is_wasted_and_none_exceeds_the_rate(name):
    assert all(0 < rate <= 1 for rate in rates(schedules.SCHEDULES.build(name, {})))


def test_triangle_is_symmetric_about_its_peak():
    found = rates(schedules.triangular(peak=0.5))
    assert found == pytest.approx(found[::-1])
    assert max(found) == found[STEPS // 2]


def test_cosine_warms_up_then_only_falls():
    found = rates(schedules.cosine(warmup=0.25))
    assert found[:5] == sorted(found[:5])
    assert found[5:] == sorted(found[5:], reverse=True)
    assert found[0] == pytest.approx(0.1)


def test_multistep_divides_at_each_milestone():
    found = rates(schedules.multistep([0.5, 0.75], 0.1))
    assert found == pytest.approx([1.0] * 10 + [0.1] * 5 + [0.01] * 5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cosin", {}, "Did you mean 'cosine'"),
        ("constant", {"peak": 0.5}, "schedule 'constant' has no option 'peak'; allowed: none"),
        ("triangular", {"peak": 0.0}, "schedule.options.peak is 0.0; allowed: greater than 0"),
        ("multistep", {"milestones": [0.5, 2.0]}, "schedule.options.milestones"),
    ],
)
def test_wrong_options_are_named(name, options, message):
    with pytest.raises(ConfigError) as error:
        schedules.SCHEDULES.build(name, options)
    assert message in str(error.value)
