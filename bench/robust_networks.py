"""Networks that protocols are compared on: two published ones, and five trained here for linf, l2 and l1.

    python bench/robust_networks.py [--only NAME ...] [--n 200]      # train what is missing; clean and robust accuracy

Training takes minutes for each network on one core. Seeds are fixed, the weights are kept in ``runs/bench``. Inner attacks
are PGD (l2), N-FGSM (linf), and sparse steps in l1, where a steepest step would move a single pixel.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

import advreg
import cifar10_jpeg
import networks
import speedrun
import training
from advreg import example_rng
from advreg.attacks import CraftedExamples
from advreg.attacks.auto_pgd.l1 import sparse_rule
from advreg.attacks.search import QuerySpec
from advreg.attacks.wider_balls import find_peak
from advreg.objectives import Objective, cross_entropy
from advreg.runs.files import write_atomic
from advreg.training import TrainState, prepare
from advreg.training.inner.escalation import EscalatingAttack

CHECKPOINTS = networks.SHARED / "checkpoints"


@dataclass(frozen=True)
class Network:
    """Where a network comes from.

    Attributes:
        zoo: architecture, with its options.
        data: ``"mnist"`` or ``"cifar10-jpeg"``; the test set that it is measured on.
        file: published weights; None for a network that is trained here.
        threat: what it was trained for.
        changes: training, as changes of the default configuration.
    """

    zoo: str
    data: str
    threat: str
    file: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    changes: tuple[str, ...] = ()


WIDTH = 0.25
CIFAR_OPTIONS = {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2470, 0.2435, 0.2616], "width": WIDTH}


def _mnist(threat: str, *changes: str) -> Network:
    return Network("zoo:mnist-small", "mnist", threat, changes=(*training.MNIST, "train.epochs=5", *changes))


def _cifar(threat: str, *changes: str) -> Network:
    own = (f"model.options.width={WIDTH}", *changes)
    changed = (*training.CIFAR, *own)
    return Network("zoo:preact-resnet18", cifar10_jpeg.NAME, threat, options=CIFAR_OPTIONS, changes=changed)


NETWORKS: dict[str, Network] = {
    "wk17": Network("zoo:mnist-small", "mnist", "linf:0.1", CHECKPOINTS / "mnist_wk17a_linf0.1.pth"),
    "trades": Network("zoo:mnist-trades", "mnist", "linf:0.3", networks.TRADES),
    "mnist-l2": _mnist("l2:1.5", "attack.steps=5"),
    "mnist-l1": _mnist("l1:8", "attack.steps=5", "train.epochs=3"),
    "cifar-linf": _cifar("linf:8/255", "attack.name=n-fgsm", "train.epochs=8"),
    "cifar-l2": _cifar("l2:0.5", "attack.steps=2", "train.epochs=6"),
    "cifar-l1": _cifar("l1:12", "attack.steps=4", "train.epochs=4", "policy.name=warmup"),
}


def sparse(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: advreg.ThreatModel,
    *,
    steps: int = 10,
    objective: Objective = cross_entropy,
    ids: Tensor | None = None,
    seed: int = 0,
) -> CraftedExamples:
    """Make l1 training points: the highest loss on the way of Auto-PGD's sparse steps from a random sparse point.

    Args:
        model: maps inputs ``(B, ...)`` to logits ``(B, K)``.
        x: clean inputs ``(B, ...)`` in the box of ``threat``.
        y: labels ``(B,)``.
        threat: norm, eps and box of the adversary.
        steps: gradient steps.
        objective: function of logits and labels to maximise.
        ids: example ids ``(B,)``; 0 to B-1 if None.
        seed: seed of the random starts.

    Returns:
        A `CraftedExamples` after ``steps`` forwards and as many backwards an example.
    """
    ids = torch.arange(len(x)) if ids is None else ids
    start = x + example_rng.normal(ids, tuple(x.shape[1:]), seed, dtype=x.dtype)
    found = find_peak(QuerySpec(model, objective), x, y, threat, start, steps=steps, rule=sparse_rule(steps, warm=True))
    return CraftedExamples(found, forwards=steps * len(x), backwards=steps * len(x))


def load(name: str) -> nn.Module:
    """Return a network in eval mode, trained at its first use."""
    network = NETWORKS[name]
    file = network.file or networks.KEPT / f"{name}.safetensors"
    if not file.is_file() and network.changes:
        print(f"training {name} for {network.threat}; kept in {file}", file=sys.stderr, flush=True)
        weights = trained(network).state_dict()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, save({key: value.contiguous() for key, value in weights.items()}))
    return advreg.load_model(network.zoo, weights=file, **network.options)


def images(name: str, n: int) -> tuple[Tensor, Tensor]:
    """Return the first test images and labels."""
    data = NETWORKS[name].data
    test = advreg.load_data("mnist")[1] if data == "mnist" else cifar10_jpeg.load(n=n)[1]
    return test.tensors(n=n)


def trained(network: Network) -> nn.Module:
    """Return the network after its training."""
    session = session_of(network)
    speedrun.trained(session)
    return session.eval_model.eval()


def session_of(network: Network) -> TrainState:
    """Return the training of a network; in l1 with sparse steps in place of the configured attack."""
    file = networks.KEPT / "cifar10-jpeg.npz"
    if network.data == cifar10_jpeg.NAME and not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        cifar10_jpeg.convert(file)
    norm, _, eps = network.threat.partition(":")
    own = (f"threat.norm={norm}", f"threat.eps={eps}", f"model.name={network.zoo}", "train.precision=bfloat16")
    session = prepare(training.configured(*network.changes, *own))
    if norm != "l1":
        return session
    return replace(
        session, attack=EscalatingAttack(session.config.attack, lambda section: partial(sparse, steps=section.steps))
    )


def measured(name: str, n: int) -> str:
    """Return the row of a network: clean accuracy, and robust accuracy under `strong` for what it was trained for."""
    threat = advreg.ThreatModel.parse(NETWORKS[name].threat)
    found = advreg.evaluate(load(name), images(name, n), threat=threat, protocol="strong")
    return f"| {name} | {found.protocol} | {n} | {found.clean_accuracy:.2%} | {found.robust_accuracy:.2%} |"


def main() -> None:
    """Read the command line, train what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--n", type=int, default=200, help="test images")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| network | protocol | n | clean | robust |\n|---|---|---|---|---|")
    for name in options.only:
        print(measured(name, options.n), flush=True)


if __name__ == "__main__":
    main()
