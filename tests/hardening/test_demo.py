"""The demo's attacker: as many attacks as were wanted, no more images than allowed."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("fastapi", reason="the demo needs advreg[harden]")

from advreg import data
from advreg.cli.harden_demo import _ATTACKS, _TRIES, _fooling, _Traffic


@pytest.mark.parametrize(("every", "tried"), [(1, 200), (4, 800), (1000, 3000)])
def test_the_attacker_goes_on_until_it_has_enough(every: int, tried: int, capsys: pytest.CaptureFixture[str]) -> None:
    traffic, count = _Traffic(data.load("mnist")[1]), 0

    def attack(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        nonlocal count
        labels = torch.arange(count, count + len(x))
        count += len(x)
        return torch.where(labels % every == 0, (y + 1) % 10, y).float()[:, None, None, None].expand_as(x)

    def model(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(x[:, 0, 0, 0].long(), 10).float()

    points, shown = _fooling(torch.nn.Sequential(Reading(model)).eval(), traffic, attack)
    assert count == tried <= _TRIES
    assert len(points) == len(shown) == min(_ATTACKS, tried // every + (tried % every > 0))
    assert bool((model(points).argmax(1) != shown).all())
    assert f"tried {tried} images and found {len(points)} attacks" in capsys.readouterr().out


class Reading(torch.nn.Module):
    """A network that says what a function says."""

    def __init__(self, says) -> None:
        super().__init__()
        self.says = says

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.says(x)
