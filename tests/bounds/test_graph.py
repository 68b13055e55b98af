"""What has no bound is rejected by name: train mode, random models, other operations, control flow."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from advreg.bounds import trace
from advreg.errors import ModelError
from tests.bounds.networks import networks


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :2] + torch.randn(len(x), 2)


class Choosing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :2] if float(x.sum()) > 0 else -x[:, :2]


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x, 1) * x


class Squared(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x


@pytest.mark.parametrize("name", networks())
def test_trace_gives_the_logits_of_any_batch(name: str) -> None:
    net, shape = networks()[name]
    graph = trace(net, torch.rand(1, *shape))
    for n in (1, 2, 7):
        x = torch.rand(n, *shape)
        assert torch.allclose(graph(x), net(x), atol=1e-5)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Sequential(nn.Linear(4, 2), nn.Dropout()).train(), "train mode"),
        (Noisy(), "no bound for aten.randn|other logits|cannot be traced"),
        (Choosing(), "cannot be traced"),
        (Attention(), "no bound for aten.(_)?softmax"),
        (Squared(), "no bound for aten.mul"),
        (nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.MaxPool2d(2, padding=1)), "no bound for aten.max_pool2d"),
        (nn.Sequential(nn.Linear(4, 4), nn.Hardswish(), nn.Linear(4, 2)), "no bound for aten.clamp"),
    ],
)
def test_what_has_no_bound_is_rejected_by_name(net: nn.Module, message: str) -> None:
    net = net if net.training and "Dropout" in repr(net) else net.eval()
    with pytest.raises(ModelError, match=message):
        trace(net, torch.rand(2, 4))
