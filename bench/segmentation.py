"""Four losses of segmentation against plain cross-entropy at equal passes, on two small networks.

    python bench/segmentation.py [--n 64] [--steps 25] [--seed 0]

Trains a plain network and a robust one on synthetic street scenes, then attacks the same images by (a) Auto-PGD on each of the
four objectives of `advreg.tasks.pixels`, (b) Auto-PGD on the plain cross-entropy with four times the steps, (c) PGD on it with
four restarts. All spend the same gradients on each image. Prints the mean of the worst pixel accuracy, mIoU at these points,
and the paired test of (a) against (b) and (c).
"""

from __future__ import annotations

import argparse
import functools

import torch
from scipy import stats
from torch import Tensor, nn

import advreg
from advreg import attacks, recipes, tasks
from advreg.attacks import AttackResult
from advreg.threat import ThreatModel

SIZE = 24
CLASSES = ("sky", "road", "car", "person")
TASK = tasks.pixels()


def scenes(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return images ``(n, 3, 24, 24)`` in [0, 1] and their masks ``(n, 24, 24)``: sky, road, one or two cars, some persons."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.tensor([[0.55, 0.65, 0.8], [0.4, 0.4, 0.42], [0.6, 0.35, 0.35], [0.5, 0.5, 0.3]])
    masks = torch.zeros(n, SIZE, SIZE, dtype=torch.int64)
    for i in range(n):
        horizon = int(torch.randint(8, 13, (), generator=generator))
        masks[i, horizon:] = 1
        for kind, width, height, most in ((2, 7, 4, 2), (3, 2, 6, 3)):
            for _ in range(int(torch.randint(1, most + 1, (), generator=generator))):
                left = int(torch.randint(0, SIZE - width, (), generator=generator))
                top = int(torch.randint(horizon - 2, SIZE - height, (), generator=generator))
                masks[i, top : top + height, left : left + width] = kind
    tint = 0.08 * torch.randn(n, len(CLASSES), 3, generator=generator)
    plain = (colours + tint)[torch.arange(n)[:, None, None], masks].permute(0, 3, 1, 2)
    return (plain + 0.08 * torch.randn(plain.shape, generator=generator)).clamp(0, 1), masks


def network(seed: int = 0, width: int = 16) -> nn.Module:
    """Return a network of four convolutions, two of them dilated: images to logits of every pixel."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inside, outside, dilation in ((3, width, 1), (width, width, 2), (width, width, 4)):
        layers += [nn.Conv2d(inside, outside, 3, padding=dilation, dilation=dilation), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, len(CLASSES), 1))


def train(model: nn.Module, recipe: str, eps: float, *, steps: int, seed: int = 0) -> nn.Module:
    """Return the network after training: ``standard`` or ``madry``."""
    x, y = scenes(512, seed=seed + 1)
    loss_of = recipes.RECIPES.build(recipe, {"task": TASK})
    attack = functools.partial(attacks.craft, steps=3)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(seed)
    for k in range(steps):
        rows = torch.randint(len(x), (32,), generator=generator)
        threat = ThreatModel("linf", eps * min(1.0, 2 * k / steps))
        loss = loss_of(model, x[rows], y[rows], attack, threat)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def worst_of_four(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, steps: int) -> AttackResult:
    """Return the worst of Auto-PGD on each objective of the task."""
    rows = torch.arange(len(x))
    found = [
        attacks.apgd(model, x, y, threat, steps=steps, objective=objective, task=TASK)
        for objective in TASK.objectives.values()
    ]
    return functools.reduce(lambda one, other: one.improved_by(other, rows), found)


def miou(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the mean IoU of these images, intersections and unions summed over all."""
    figure = TASK.corpus["miou"]
    with torch.no_grad():
        return figure.figure(figure.rows(model(x), y))


def compare(name: str, model: nn.Module, eps: float, n: int, steps: int) -> None:
    """Print one table."""
    x, y = scenes(n, seed=99)
    threat, plain = ThreatModel("linf", eps), TASK.training_loss
    apgd = functools.partial(attacks.apgd, task=TASK, objective=plain)
    pgd = functools.partial(attacks.pgd, task=TASK, objective=plain)
    found = {
        "four losses": worst_of_four(model, x, y, threat, steps),
        "APGD-CE": apgd(model, x, y, threat, steps=4 * steps),
        "PGD-CE x4": pgd(model, x, y, threat, steps=steps, restarts=4, early_stop=False),
    }
    with torch.no_grad():
        clean = TASK.rate(model(x), y)
    print(
        f"{name}, eps {eps * 255:g}/255, n={n}: clean pixel accuracy {clean.mean():.2%}, mIoU {miou(model, x, y):.2%}"
    )
    ours = found["four losses"].worth.double()
    for attack, result in found.items():
        score = result.worth.double()
        p = stats.wilcoxon(ours, score, alternative="less").pvalue if attack != "four losses" else float("nan")
        print(
            f"  {attack:12s} pixel accuracy {score.mean():7.2%}  mIoU {miou(model, result.x_adv, y):7.2%}  "
            f"backwards {result.backwards / n:.0f}/image  four losses lower: p = {p:.2g}"
        )


def main() -> None:
    """Read the command line, train both networks, print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--train", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"advreg {advreg.__version__}, torch {torch.__version__}, threads {torch.get_num_threads()}")
    plain = train(network(options.seed), "standard", 0.0, steps=options.train, seed=options.seed)
    compare("plain network", plain, 2 / 255, options.n, options.steps)
    robust = train(network(options.seed + 1), "madry", 12 / 255, steps=options.train, seed=options.seed)
    compare("robust network", robust, 12 / 255, options.n, options.steps)


if __name__ == "__main__":
    main()
