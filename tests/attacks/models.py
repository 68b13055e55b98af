"""Small networks with a closed-form worst case, and an independent counter of passes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advreg import ThreatModel


def linear(n: int, classes: int = 2, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """A linear network on flattened inputs."""
    g = torch.Generator().manual_seed(seed)
    layer = nn.Linear(n, classes, dtype=dtype)
    layer.weight.data = torch.randn(classes, n, generator=g, dtype=dtype)
    layer.bias.data = torch.randn(classes, generator=g, dtype=dtype)
    return nn.Sequential(nn.Flatten(), layer).eval()


def small_cnn(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """A convolutional network with random weights for inputs (B, 1, 8, 8)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(72, 5),
        )
    return net.to(dtype).eval()


def best_linear_gain(w: Tensor, x: Tensor, threat: ThreatModel) -> Tensor:
    """Return ``max <w, d>`` over the threat model around each x, by the definition of each norm, one example at a time."""
    gains = []
    for row in x.flatten(1):
        room = torch.where(w > 0, threat.box[1] - row, row - threat.box[0])
        eps = float(threat.eps)
        if threat.norm == "linf":
            moved = room.clamp_max(eps)
        elif threat.norm == "l1":  # spend the budget where a unit of it brings most
            order = w.abs().argsort(descending=True)
            spent = room[order].cumsum(0) - room[order]
            moved = torch.zeros_like(row)
            moved[order] = (eps - spent).clamp_min(0).minimum(room[order])
        else:  # along w, cut at the box, as far as the sphere allows: bisection on how far
            near, far = 0.0, 1e6
            for _ in range(200):
                middle = (near + far) / 2
                fits = float((middle * w.abs()).minimum(room).norm()) <= eps
                near, far = (middle, far) if fits else (near, middle)
            moved = (near * w.abs()).minimum(room)
        gains.append((w.abs() * moved).sum())
    return torch.stack(gains)


class Counter:
    """Counts example-forwards and example-backwards of a module by hooks, and whether any weight got a gradient."""

    def __init__(self, module: nn.Module) -> None:
        self.forwards = self.backwards = 0
        self.module = module
        module.register_forward_hook(self._forward)

    def _forward(self, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.forwards += len(output)
        if output.requires_grad and torch.is_grad_enabled():
            output.register_hook(self._backward)

    def _backward(self, grad: Tensor) -> None:
        self.backwards += len(grad)

    def weight_gradients(self) -> int:
        """Return how many parameters hold a gradient."""
        return sum(p.grad is not None for p in self.module.parameters())


def images_of_small_cnn(n: int = 12, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random images and the labels that `small_cnn` gives them."""
    x = torch.rand(n, 1, 8, 8, dtype=dtype, generator=torch.Generator().manual_seed(3))
    return x, small_cnn(dtype=dtype)(x).argmax(1)
