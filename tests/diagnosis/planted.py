"""Networks whose robustness is known by construction: masks planted on a network that has none, and honest ones.

Each planted case is a network that PGD seems unable to break, made from parts anybody might write. What it is worth without
its mask is what the same weights are worth. They are trained here, in seconds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import advreg
from advreg import attacks
from advreg.data import Batches, Dataset

NARROW, BROAD, WIDE = (advreg.ThreatModel("linf", eps) for eps in (0.1, 0.2, 0.3))


@cache
def mnist() -> tuple[Dataset, Dataset]:
    return advreg.load_data("mnist")


def trained(
    net: nn.Module,
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor],
    *,
    epochs: int = 2,
    images: int = 10_000,
    lr: float = 2e-3,
    batch: int = 100,
) -> nn.Module:
    """Train a network on the first images for some epochs: Adam, learning rate falling to zero."""
    batches = Batches(mnist()[0].select(range(images)), batch, seed=0)
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * len(batches))
    net.train()
    for epoch in range(epochs):
        for b in batches.epoch(epoch):
            value = loss(net, b.x, b.y)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
    return net.eval().requires_grad_(False)


def fresh(seed: int = 0, name: str = "zoo:mnist-small") -> nn.Module:
    torch.manual_seed(seed)
    return advreg.load_model(name)


def clean_loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net(x), y)


def against(threat: advreg.ThreatModel, **options: Any) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    def loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(net(attacks.craft(net, x, y, threat, **options).x_adv), y)

    return loss


@cache
def plain() -> nn.Module:
    return trained(fresh(), clean_loss)


@cache
def robust() -> nn.Module:
    """Trained on two steps of PGD at linf 0.1: honest, and robust."""
    return trained(fresh(1), against(NARROW, steps=2), epochs=4)


@cache
def collapsed() -> nn.Module:
    """Trained on one step from the clean point at linf 0.3 until it learned to mislead that step."""
    net = trained(fresh(0, "zoo:mnist-dnn"), clean_loss, epochs=1, images=5000).requires_grad_(True)
    return trained(net, against(WIDE, steps=1, start="zero"), epochs=24, images=5000, lr=3e-3)


@cache
def distilled(temperature: float = 100.0) -> nn.Module:
    """A student trained on a teacher's softened answers at the same temperature, and used at temperature 1."""
    teacher = trained(fresh(3), lambda net, x, y: F.cross_entropy(net(x) / temperature, y))

    def soft(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(net(x) / temperature, (teacher(x) / temperature).softmax(1))

    return trained(fresh(4), soft)


class Sign(nn.Module):
    """-1 or 1, trained through as if it were the identity inside [-1, 1], and without any slope afterwards."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return torch.sign(x)
        soft = x.clamp(-1, 1)
        return soft + (torch.sign(x) - soft).detach()


@cache
def signed() -> nn.Module:
    torch.manual_seed(5)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 4, stride=2, padding=1), nn.BatchNorm2d(16), Sign(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.BatchNorm2d(32), Sign(),
        nn.Flatten(), nn.Linear(1568, 10),
    )  # fmt: skip
    return trained(net, clean_loss)


class Quantised(nn.Module):
    """Rounds pixels to 256 levels, as a camera does."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 255).round() / 255


class Scaled(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, z: Tensor) -> Tensor:
        return z * self.factor


class Hardened(nn.Module):
    """A softmax at a temperature near zero: nearly an argmax, in scores from 0 to 10."""

    def forward(self, z: Tensor) -> Tensor:
        return (1000 * z).softmax(1) * 10


class RandomResize(nn.Module):
    """Shrinks or not, pads to a random place: another picture for every call and example."""

    def forward(self, x: Tensor) -> Tensor:
        side = x.shape[-1]
        small = int(torch.randint(side - 6, side + 1, ()))
        resized = F.interpolate(x, size=(small, small), mode="bilinear", align_corners=False)
        left, top = (int(torch.randint(0, side - small + 1, ())) for _ in range(2))
        return F.pad(resized, (left, side - small - left, top, side - small - top))


class RandomNoise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.25 * torch.randn_like(x)


class Jpeg(nn.Module):
    """Blocks of 4x4 through a cosine transform, coefficients rounded to multiples of 0.1, and back."""

    basis: Tensor

    def __init__(self) -> None:
        super().__init__()
        k = torch.arange(4.0)
        basis = torch.cos(torch.pi * (2 * k[None] + 1) * k[:, None] / 8) / 2**0.5
        basis[0] = 0.5
        self.register_buffer("basis", basis)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        blocks = x.view(b, c, h // 4, 4, w // 4, 4).transpose(3, 4)
        turned = (self.basis @ blocks @ self.basis.T / 0.1).round() * 0.1
        return (self.basis.T @ turned @ self.basis).transpose(3, 4).reshape(b, c, h, w)


class Thermometer(nn.Module):
    """A pixel as ten bits, one for each level that it passes; the network behind it gets their mean."""

    def forward(self, x: Tensor) -> Tensor:
        levels = torch.arange(0.05, 1.0, 0.1).view(-1, 1, 1, 1, 1)
        return (x[None] > levels).float().mean(0)


class Broken(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        raise RuntimeError("no backward here")


class Raising(nn.Module):
    """Does nothing, and raises when a gradient comes back through it."""

    def forward(self, x: Tensor) -> Tensor:
        return Broken.apply(x)


def dropping() -> nn.Module:
    """The plain network with dropout in front, left in train mode."""
    return nn.Sequential(nn.Dropout(0.3), copy.deepcopy(plain())).train()


def masked(*parts: nn.Module) -> nn.Module:
    return nn.Sequential(*parts).eval()


@dataclass(frozen=True)
class Case:
    """A network, the threat it is measured at, what is wrong with it, and the same network without that.

    Attributes:
        causes: what may be named first; empty where nothing is wrong.
    """

    name: str
    make: Callable[[], nn.Module]
    causes: tuple[str, ...] = ()
    bare: Callable[[], nn.Module] = plain
    threat: advreg.ThreatModel = BROAD


PLANTED = [
    Case("8-bit input quantisation", lambda: masked(Quantised(), plain()), ("shattered gradients",)),
    Case("logits times 100", lambda: masked(plain(), Scaled(100.0)), ("saturated",)),
    Case("argmax-like temperature", lambda: masked(plain(), Hardened()), ("saturated",)),
    Case("random resize and padding", lambda: masked(RandomResize(), plain()), ("random",), plain, NARROW),
    Case("random noise", lambda: masked(RandomNoise(), plain()), ("random",), plain, NARROW),
    Case("JPEG-like preprocessing", lambda: masked(Jpeg(), plain()), ("shattered gradients",)),
    Case("thermometer code", lambda: masked(Thermometer(), plain()), ("no gradient path",)),
    Case("sign activations", signed, ("shattered gradients",), signed),
    Case("FGSM-trained, collapsed", collapsed, ("overfitted to one step",), collapsed, WIDE),
    Case("left in train mode", dropping, ("train mode",)),
    Case("softmax inside", lambda: masked(plain(), nn.Softmax(1)), ("probabilities",)),
    Case("defensive distillation", distilled, ("saturated",), distilled),
    Case("raises in backward", lambda: masked(Raising(), plain()), ("no gradient path",)),
]

HONEST = [
    Case("plain", plain),
    Case("PGD-trained", robust, bare=robust, threat=NARROW),
]


def two_class() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """The plain network asked only whether a digit is 5 or more, with its test images."""
    x, y = mnist()[1].tensors(n=200)
    return masked(plain(), Halves()), (x, (y >= 5).long())


class Halves(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return torch.stack([z[:, :5].logsumexp(1), z[:, 5:].logsumexp(1)], 1)


def named(name: str) -> Case:
    return next(case for case in PLANTED + HONEST if case.name == name)
