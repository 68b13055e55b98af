"""A network with exactly known robust accuracy at linf 0.1, below which no attack may go."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from advreg import ThreatModel, data, models
from advreg.attacks import minimum_norm


def test_fab_on_a_certified_network(shared: Path) -> None:
    model = models.load("zoo:mnist-small", weights=shared / "checkpoints" / "mnist_wk17a_linf0.1.pth")
    x, y = data.load("mnist")[1].tensors(n=50)
    found = minimum_norm.minimum_distance(minimum_norm.fab, model, x, y, "linf", steps=30)
    curve = [float((found.min_distance > eps).double().mean()) for eps in (0.0, 0.1, 0.2, 0.3)]
    assert curve == sorted(curve, reverse=True)
    assert curve[1] >= 0.94  # 95.62% of all 10,000 survive; of the first 50 one or two may break
    assert found.found.double().mean() > 0.95
    assert 0.15 < float(found.min_distance.median()) < 0.22
    aimed = minimum_norm.fab(model, x[:20], y[:20], ThreatModel("linf", 0.2), target_classes=3, steps=20)
    assert torch.equal(aimed.broken, aimed.min_distance <= 0.2)
    assert aimed.broken.any()


@pytest.mark.parametrize(("norm", "median"), [("linf", 0.51), ("l2", 1.95), ("l1", 12.0)])
def test_fmn_finds_all_on_a_flat_network(norm: str, median: float, shared: Path) -> None:
    """TRADES is flat around clean points: the other programs' FMN finds 64 (linf), 64 (l2), 31 (l1) of 64 here."""
    model = models.load("zoo:mnist-trades", weights=shared / "checkpoints" / "mnist_trades_smallcnn.pt")
    x, y = data.load("mnist")[1].tensors(n=24)
    found = minimum_norm.fmn(model, x, y, ThreatModel(norm, 0.0))
    assert found.found.all()
    assert float(found.min_distance.median()) < median


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_deepfool_finds_all_on_a_flat_network(norm: str, shared: Path) -> None:
    model = models.load("zoo:mnist-trades", weights=shared / "checkpoints" / "mnist_trades_smallcnn.pt")
    x, y = data.load("mnist")[1].tensors(n=24)
    assert minimum_norm.deepfool(model, x, y, ThreatModel(norm, 0.0)).found.all()
