"""On a network whose robust accuracy at linf 0.1 was computed exactly, no attack may find less."""

from __future__ import annotations

from pathlib import Path

import torch

from advreg import ThreatModel, data, models
from advreg.attacks import minimal


def test_fab_on_a_certified_network(shared: Path) -> None:
    model = models.load("zoo:mnist-small", weights=shared / "checkpoints" / "mnist_wk17a_linf0.1.pth")
    x, y = data.load("mnist")[1].tensors(n=50)
    found = minimal.nearest(minimal.fab, model, x, y, "linf", steps=30)
    curve = [float((found.minimal > eps).double().mean()) for eps in (0.0, 0.1, 0.2, 0.3)]
    assert curve == sorted(curve, reverse=True)
    assert curve[1] >= 0.94  # 95.62% of all 10,000 stand; of the first 50 one or two may fall
    assert found.found.double().mean() > 0.95
    assert 0.15 < float(found.minimal.median()) < 0.22
    aimed = minimal.fab(model, x[:20], y[:20], ThreatModel("linf", 0.2), targets=3, steps=20)
    assert torch.equal(aimed.broken, aimed.minimal <= 0.2)
    assert aimed.broken.any()
