"""What tasks cost a classifier: the same attack as classification and as a task of its own, passes and processor seconds.

    python bench/task_cost.py [--repeats 15] [--n 64] [--steps 20]

Classification has a path of its own through the engine (labels, no general checks of scores). A `Task` with the same functions
takes the general path. Both run in turn, so that a busy machine slows both alike. Prints passes, whether all points are equal,
and the ratio of the processor seconds: the median over pairs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn

from advreg import attacks, tasks
from advreg.attacks import AttackResult
from advreg.threat import ThreatModel

CLASSES = tasks.CLASSES
GENERAL = tasks.Task("labels-of-one", CLASSES.score, CLASSES.objectives, near=CLASSES.near)


def network() -> nn.Module:
    """Return a small convolutional classifier of 10 classes."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 10)).eval()


def timed(attack: Callable[..., AttackResult], task: tasks.Task) -> tuple[AttackResult, float]:
    """Return the result of an attack and its processor seconds."""
    began = time.process_time()
    found = attack(task=task)
    return found, time.process_time() - began


def compare(name: str, attack: Callable[..., AttackResult], repeats: int) -> None:
    """Print one line: passes, equality and the ratio of the processor seconds."""
    timed(attack, CLASSES), timed(attack, GENERAL)  # the first calls warm up
    ratios = []
    for k in range(repeats):
        order = (CLASSES, GENERAL) if k % 2 else (GENERAL, CLASSES)
        found = {task.name: timed(attack, task) for task in order}
        (bare, one), (general, two) = found[CLASSES.name], found[GENERAL.name]
        ratios.append(two / one)
    same = torch.equal(bare.x_adv, general.x_adv) and torch.equal(bare.broken, general.broken)
    passes = f"{bare.forwards} + {bare.backwards} against {general.forwards} + {general.backwards}"
    print(f"{name:14s} forwards + backwards {passes}, equal points: {same}, seconds {median(ratios):.3f}x")


def main() -> None:
    """Read the command line and compare three attacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    model, threat = network(), ThreatModel("linf", 0.01)
    x = torch.rand(chosen.n, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    y: Tensor = model(x).argmax(1)

    def run(attack: Callable[..., AttackResult], **options: object) -> Callable[..., AttackResult]:
        return lambda task: attack(model, x, y, threat, early_stop=False, task=task, **options)

    compare("pgd", run(attacks.pgd, steps=chosen.steps), chosen.repeats)
    compare("apgd", run(attacks.apgd, steps=chosen.steps), chosen.repeats)
    compare("square", run(attacks.square, queries=5 * chosen.steps), chosen.repeats)


if __name__ == "__main__":
    main()
