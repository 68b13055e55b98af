"""Points found with a confidence lead by it, and on a linear network they are as near as such points can be."""

from __future__ import annotations

import pytest
import torch

from advreg import ThreatModel
from advreg.attacks import minimum_norm
from advreg.objectives import margin
from tests.attacks.models import linear


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("confidence", [0.0, 0.5, 2.0])
def test_carlini_finds_points_that_lead_by_the_confidence(confidence: float, targeted: bool) -> None:
    model = linear(16)
    x = 0.5 + 0.02 * torch.randn(12, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    right = model(x).argmax(1)
    y = 1 - right if targeted else right
    options = {"weight": 1.0, "binary_search_steps": 6, "steps": 200, "step_size": 0.02, "confidence": confidence}
    found = minimum_norm.carlini_wagner(model, x, y, ThreatModel("l2", 0.0), targeted=targeted, **options)
    lead = margin(model(found.closest_adv), y).detach() * (-1 if targeted else 1)
    assert found.found.all()
    assert float(lead.min()) >= confidence
    w = model[1].weight[0] - model[1].weight[1]
    best = (confidence + margin(model(x), right).abs()) / w.norm()  # no face of the box is near
    ratio = (found.min_distance / best).detach()
    assert float(ratio.min()) >= 1 - 1e-9
    assert float(ratio.max()) < 1.1
