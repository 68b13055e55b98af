"""Attacks on a small grid detector: F1 and average precision under the three objectives of `advreg.tasks.boxes`.

    python bench/detection.py [--n 64] [--eps 16] [--steps 400] [--seed 0]

Trains a plain and a robust detector of 4 x 4 cells on synthetic scenes of one to three shapes in two classes, and
evaluates both.
"""

from __future__ import annotations

import argparse
import functools
import time

import torch
from torch import Tensor, nn

import advreg
from advreg import attacks, recipes, tasks
from advreg.threat import ThreatModel

SIDE, CELLS, MOST = 32, 4, 3
TASK = tasks.boxes()


def scenes(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return images ``(n, 3, 32, 32)`` and boxes ``(n, 3, 5)`` in pixels, one shape a cell at most, class -1 for none."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.5 + 0.06 * torch.randn(n, 3, SIDE, SIDE, generator=generator)
    y = torch.full((n, MOST, 5), -1.0)
    colours = torch.tensor([[0.8, 0.3, 0.3], [0.3, 0.4, 0.8]])
    for i in range(n):
        cells = torch.randperm(CELLS * CELLS, generator=generator)[
            : int(torch.randint(1, MOST + 1, (), generator=generator))
        ]
        for j, cell in enumerate(cells.tolist()):
            kind, size = (
                int(torch.randint(2, (), generator=generator)),
                int(torch.randint(5, 9, (), generator=generator)),
            )
            left, top = (
                8 * part + int(torch.randint(0, 9 - size, (), generator=generator)) for part in (cell % 4, cell // 4)
            )
            x[i, :, top : top + size, left : left + size] = colours[kind][:, None, None]
            y[i, j] = torch.tensor([left, top, left + size, top + size, kind])
    return x.clamp(0, 1), y


class GridDetector(nn.Module):
    """One box for each of 4 x 4 cells: sides relative to the centre of the cell, confidence, and two classes."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 4, stride=4),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 2, stride=2),
            nn.ReLU(),
            nn.Conv2d(2 * width, 7, 1),
        )
        middle = torch.arange(CELLS) * 8.0 + 4
        rows, columns = torch.meshgrid(middle, middle, indexing="ij")
        self.register_buffer("centres", torch.stack([columns, rows, columns, rows], -1).reshape(1, -1, 4))
        self.register_buffer("sides", torch.tensor([-3.0, -3.0, 3.0, 3.0]))

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs ``(B, 16, 7)``."""
        z = self.net(x).flatten(2).transpose(1, 2)
        return torch.cat([self.centres + self.sides + 4 * z[..., :4], z[..., 4:]], 2)


def train(recipe: str, eps: float, steps: int, seed: int) -> nn.Module:
    """Return a trained detector."""
    torch.manual_seed(seed)
    model, (x, y) = GridDetector(), scenes(512, seed + 1)
    loss_of, attack = recipes.RECIPES.build(recipe, {"task": TASK}), functools.partial(attacks.craft, steps=3)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for k in range(steps):
        rows = torch.arange(32 * k, 32 * (k + 1)) % len(x)
        optimizer.zero_grad()
        loss_of(model, x[rows], y[rows], attack, ThreatModel("linf", eps * min(1, 2 * k / steps))).backward()
        optimizer.step()
    return model.eval()


def main() -> None:
    """Read the command line, train both detectors, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--eps", type=float, default=16)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data, eps = scenes(options.n, 99), options.eps / 255
    for name, recipe in (("plain", "standard"), ("robust", "madry")):
        began = time.process_time()
        model = train(recipe, eps, options.steps, options.seed)
        found = advreg.evaluate(model, data, ThreatModel("linf", eps), task=TASK)
        print(f"{name}: clean F1 {found.clean_accuracy:.3f}, worst {found.robust_accuracy:.3f}", end=", ")
        print(f"AP {found.corpus['ap']['clean']:.3f} to {found.corpus['ap']['robust']:.3f}", end=", ")
        print(f"n={options.n}, eps {options.eps:g}/255, {time.process_time() - began:.0f} s of one core")
        for objective, loss in TASK.objectives.items():
            alone = attacks.apgd(model, *data, ThreatModel("linf", eps), task=TASK, objective=loss, steps=20)
            print(f"  {objective:10s} F1 {alone.worth.double().mean():.3f}")


if __name__ == "__main__":
    main()
