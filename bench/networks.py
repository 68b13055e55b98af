"""What the attacks are timed on: a published robust network on MNIST, and a ResNet-18 on small colour images.

The ResNet is trained adversarially for some minutes at its first use (fixed seed, kept in ``runs/bench``): its robust
accuracy is low but is one, neither 0 nor 100%, so that attacks which differ in strength would be told apart.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

import advreg
import cifar10_jpeg
from advreg.attacks import craft
from advreg.data import Batches, Dataset
from advreg.runs.files import write_atomic

ROOT = Path(__file__).resolve().parents[1]
SHARED = cifar10_jpeg.FOLDER.parents[1]
KEPT = ROOT / "runs" / "bench"
TRADES = SHARED / "checkpoints" / "mnist_trades_smallcnn.pt"
CANDIDATES = 32  # times the images of a round: enough for ten rounds of what a briefly trained network gets right


@dataclass(frozen=True)
class Case:
    """A network, images it never saw, and an attack that all competitors are asked to run.

    Attributes:
        name: what tables call it.
        model: original network, eval mode; its weights need no gradient, which favours peers that would compute them.
        test: images that the network gets right, each round takes the next ``n``; those that it gets wrong cost us one
            forward and a peer all its steps, and would flatter us.
        clean_accuracy: of the network on the images among which those were found.
        n: images a round.
        threat, steps, step_size: the attack, PGD with one random start.
    """

    name: str
    model: nn.Module
    test: Dataset
    clean_accuracy: float
    n: int
    threat: advreg.ThreatModel
    steps: int
    step_size: float

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        """Return the images and labels of a round."""
        return self.test.tensors(n=self.n, start=number % (len(self.test) // self.n) * self.n)


def mnist(n: int = 256) -> Case:
    """PGD-40 at linf 0.3 on the network that TRADES published, or one of the same shape trained here."""
    train, test = advreg.load_data("mnist")
    threat = advreg.ThreatModel("linf", 0.3)
    if TRADES.is_file():
        model = advreg.load_model("zoo:mnist-trades", weights=TRADES)
    else:
        model = trained("zoo:mnist-trades", train, threat, steps=600, lr=0.05)
    right, accuracy = rightly(model, test, CANDIDATES * n)
    return Case("PGD-40, mnist-trades, mnist", model, right, accuracy, n, threat, steps=40, step_size=0.01)


def resnet(n: int = 64) -> Case:
    """PGD-10 at linf 8/255 on a ResNet-18 trained here."""
    if cifar10_jpeg.FOLDER.is_dir():
        train, test = cifar10_jpeg.load(n=10_000)
    else:
        train, test = advreg.load_data("cifar10")
    threat = advreg.ThreatModel("linf", 8 / 255)
    model = trained("zoo:preact-resnet18", train, threat, steps=120, lr=0.1)
    right, accuracy = rightly(model, test, CANDIDATES * n)
    return Case(f"PGD-10, preact-resnet18, {test.name}", model, right, accuracy, n, threat, steps=10, step_size=2 / 255)


@torch.no_grad()
def rightly(model: nn.Module, test: Dataset, candidates: int) -> tuple[Dataset, float]:
    """Freeze the weights; return those of the first images that the network gets right, and their share."""
    x, y = test.tensors(n=candidates)
    guesses = [model.requires_grad_(False)(part).argmax(1) for part in torch.split(x, 256)]
    right = (torch.cat(guesses) == y).nonzero()[:, 0]
    return test.select(right), len(right) / len(y)


def trained(name: str, train: Dataset, threat: advreg.ThreatModel, *, steps: int, lr: float) -> nn.Module:
    """Return a network after a short adversarial training, made once and then read from ``runs/bench``."""
    file = KEPT / f"{name.partition(':')[2]}-{train.name}-{steps}.safetensors"
    if not file.is_file():
        print(f"training {name} on {train.name} for {steps} steps; kept in {file}", file=sys.stderr)
        weights = _train(name, train, threat, steps, lr).state_dict()
        KEPT.mkdir(parents=True, exist_ok=True)
        write_atomic(file, save({key: value.contiguous() for key, value in weights.items()}))
    return advreg.load_model(name, weights=file)


def _train(name: str, train: Dataset, threat: advreg.ThreatModel, steps: int, lr: float) -> nn.Module:
    torch.manual_seed(0)
    model = advreg.load_model(name)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch declares no such signature
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, cycle_momentum=False)
    batches = Batches(train, 64, seed=0)
    stream = (batch for epoch in range(steps) for batch in batches.epoch(epoch))
    for _, batch in zip(range(steps), stream, strict=False):
        with torch.autocast("cpu", torch.bfloat16):
            adversarial = craft(model.eval(), batch.x, batch.y, threat, steps=2, ids=batch.ids).x_adv
            loss = F.cross_entropy(model.train()(adversarial), batch.y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return model.eval()


CASES = {"mnist": mnist, "resnet": resnet}
