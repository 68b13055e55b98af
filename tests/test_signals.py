"""Signal-to-noise ratios: eps as a share of each signal's length, without its mean."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from advreg import ThreatModel, attacks, evaluate
from advreg.errors import ThreatError
from advreg.objectives import margin


def signals() -> Tensor:
    g = torch.Generator().manual_seed(2)
    wave = torch.sin(torch.linspace(0, 12, 64, dtype=torch.float64) * (1 + torch.rand(24, 1, 1, generator=g)))
    return wave * torch.logspace(-2, 1, 24)[:, None, None] + 5


def ratio(a: Tensor, x: Tensor) -> Tensor:
    """Return the signal-to-noise ratio in dB, in float64."""
    clean = x.double().flatten(1)
    power = (clean - clean.mean(1, keepdim=True)).square().sum(1)
    return 10 * torch.log10(power / (a.double().flatten(1) - clean).square().sum(1))


class Filter(nn.Module):
    """Two classes by the correlation with a template."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        z = x.flatten(1) @ self.weight
        return torch.stack([torch.zeros_like(z) + 1e4, z], 1)


@pytest.mark.parametrize("decibel", [30.0, 20.0, 10.0])
@pytest.mark.parametrize("attack", [attacks.pgd, attacks.apgd, attacks.capgd, attacks.cosine_pgd])
def test_attacks_use_the_whole_noise_and_no_more(attack, decibel: float) -> None:
    x, threat = signals(), ThreatModel.parse(f"snr:{decibel:g}@-50,50")
    found = attack(Filter(), x, torch.zeros(24, dtype=torch.long), threat, steps=20, objective=margin, early_stop=False)
    used = ratio(found.x_adv, x)
    assert float(used.min()) >= decibel - 1e-9
    assert float(used.max()) <= decibel + 0.001
    assert bool(threat.contains(found.x_adv, x).all())


def test_a_constant_offset_is_no_signal_and_silence_does_not_move() -> None:
    x = torch.cat([signals()[:1], signals()[:1] + 7, torch.full((1, 1, 64), 3.0).double()])
    threat = ThreatModel.parse("snr:20@-50,50")
    moved = threat.project(x + 100 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)), x)
    torch.testing.assert_close(threat.distance(moved[:2], x[:2]), torch.full((2,), 0.1).double())
    assert torch.equal(moved[2], x[2])


def test_the_text_of_a_ratio_round_trips_and_names_the_protocol() -> None:
    threat = ThreatModel.parse("snr:20@-50,50")
    assert str(threat) == "snr:20@-50,50"
    assert ThreatModel.parse(str(threat)) == threat
    assert threat != ThreatModel("l2", 0.1, (-50.0, 50.0))
    with pytest.raises(ThreatError, match="needs the clean inputs"):
        threat.steepest(signals())


def test_an_evaluation_takes_a_ratio() -> None:
    x, model = signals(), Filter()
    with torch.no_grad():
        middle = (x.flatten(1) @ model.weight).median()
    net = nn.Sequential(model).eval()
    net[0].forward = lambda rows: torch.stack([middle.expand(len(rows)), rows.flatten(1) @ model.weight], 1)
    y = net(x).argmax(1)
    found = evaluate(net, (x, y), "snr:10@-50,50")
    assert "-snr-" in found.protocol
    assert found.robust_accuracy < found.clean_accuracy
