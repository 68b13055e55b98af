"""Small networks of every kind of operation that has bounds, with the inputs they take."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advreg.models import normalized


class Residual(nn.Module):
    """Two convolutions around a sum, functional spellings, a mean over the image."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.norm, self.last = nn.BatchNorm2d(3), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.first(x))
        h = h + self.second(torch.relu(self.norm(h)))
        return self.last(h.mean((2, 3)))


class Branches(nn.Module):
    """Concatenation, a difference, scaling, slices and in-place operations."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.last = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(x.size(0), -1)
        a, b = self.a(2 * x - 1).relu_(), self.b(x / 3)
        both = torch.cat([a - b, F.leaky_relu(b, 0.1)], 1)
        return self.last(both) - both[:, :4]


class Weighted(nn.Module):
    """Sums and differences with a factor, after a normalisation that no layer takes in."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.third, self.last = nn.Conv2d(2, 2, 3, padding=1, bias=False), nn.Linear(2 * 3 * 3, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first((x - 0.4) / 0.3))
        h = torch.relu(torch.sub(self.second(h), h, alpha=2))
        h = torch.relu(torch.add(h, self.third(F.avg_pool2d(F.pad(h, (1, 1, 1, 1)), 3, 1)), alpha=-1.5))
        return self.last(F.avg_pool2d(h, 2).flatten(1))


def networks() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Return name -> (network in eval mode, shape of an input); weights are fixed."""
    torch.manual_seed(0)
    found: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
        "linear": (nn.Linear(6, 4), (6,)),
        "mlp": (nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), (6,)),
        "cnn": (
            nn.Sequential(
                nn.Conv2d(1, 3, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(),
                nn.Conv2d(4, 2, 2, stride=2), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(2 * 2 * 2, 4),
            ), (1, 8, 8),
        ),
        "grouped": (
            nn.Sequential(
                nn.Conv2d(2, 4, 3, dilation=2, padding=2), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.ReLU(), nn.AvgPool2d(2),
                nn.Flatten(), nn.Linear(16, 4),
            ), (2, 6, 6),
        ),
        "residual": (Residual(), (1, 5, 5)),
        "branches": (Branches(), (6,)),
        "smooth": (nn.Sequential(nn.Linear(6, 6), nn.Sigmoid(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 4)), (6,)),
        "normalised": (
            normalized(nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)), [0.5], [0.2]), (1, 4, 4),
        ),
        "pooled": (
            nn.Sequential(
                nn.Conv2d(1, 3, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(3, 3, 2), nn.BatchNorm2d(3),
                nn.MaxPool2d((2, 1), stride=1), nn.Flatten(), nn.Linear(3 * 1 * 2, 4),
            ), (1, 8, 8),
        ),
        "weighted": (Weighted(), (1, 6, 6)),
        "curved": (
            nn.Sequential(
                nn.Conv2d(1, 2, 3), nn.GELU(), nn.Conv2d(2, 3, 2), nn.SiLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 6),
                nn.GELU("tanh"), nn.Linear(6, 4),
            ), (1, 7, 7),
        ),
        "signal": (nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 4)), (2, 8)),
    }  # fmt: skip
    for net, _ in found.values():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
    return {name: (net.eval(), shape) for name, (net, shape) in found.items()}
