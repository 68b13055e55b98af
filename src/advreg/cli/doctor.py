"""The verb ``doctor``: what this machine has, and how fast an attack runs on it."""

from __future__ import annotations

import time

import torch

from advreg import attacks, models, runtime
from advreg.threat import ThreatModel


def examination() -> dict[str, str | int | None]:
    """Return versions, devices and the measured speed of PGD on a small network."""
    found = dict(runtime.environment())
    device = runtime.choose_device()
    net = models.load("zoo:mnist-cnn").to(device)
    x, y = torch.rand(256, 1, 28, 28, device=device), torch.zeros(256, dtype=torch.int64, device=device)
    for precision in ("float32", "bfloat16"):
        target = models.freeze(net, x[:64], precision=precision)
        found[f"pgd on mnist-cnn, {precision}"] = f"{_speed(target, x, y):,.0f} gradient steps a second"
    return found


def _speed(target: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int = 5) -> float:
    threat = ThreatModel("linf", 0.1)
    attacks.craft(target, x, y, threat, steps=1)
    began = time.perf_counter()
    attacks.craft(target, x, y, threat, steps=steps).x_adv.sum().item()  # reading a number waits for the device
    return steps * len(x) / (time.perf_counter() - began)
