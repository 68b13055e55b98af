"""Whole evaluations timed: our `strong` and `standard` against pyautoattack, torchattacks and ART on the same images.

    python bench/evaluation.py [--case mnist|resnet] [--n N] [--threads T] [--only NAME ...] [--out FILE.jsonl]

Every program gets the same network, images and threat, runs once, and is judged by `advreg.verify`. It takes hours: each
result is appended to the file as it comes, and what the file holds is not run again. Processor seconds are given beside
wall seconds, for they suffer less from what else the machine does. The peers live in ``.venv-peers``, made at first use.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import advreg
import cifar10_jpeg
import networks
import peers
from advreg import runtime
from advreg.runs.files import append_lines, read_lines
from competitors import counted

Row = dict[str, Any]
REFERENCE = "pyautoattack standard"


@dataclass(frozen=True)
class Case:
    """A network, the first images of a test set (clean errors too), and the threat."""

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor
    threat: advreg.ThreatModel


def mnist(n: int) -> Case:
    """Return the network that TRADES published, at linf 0.3."""
    model = advreg.load_model("zoo:mnist-trades", weights=networks.TRADES)
    return Case("mnist-trades", model, *advreg.load_data("mnist")[1].tensors(n=n), advreg.ThreatModel("linf", 0.3))


def resnet(n: int) -> Case:
    """Return a briefly trained ResNet-18 on small colour images, at linf 8/255."""
    train, test = cifar10_jpeg.load(n=10_000)
    threat = advreg.ThreatModel("linf", 8 / 255)
    model = networks.trained("zoo:preact-resnet18", train, threat, steps=120, lr=0.1)
    return Case(f"preact-resnet18, {test.name}", model, *test.tensors(n=n), threat)


CASES = {"mnist": mnist, "resnet": resnet}


def ours(case: Case, *, protocol: str, precision: Any) -> Row:
    """Run one of our protocols."""
    found = advreg.evaluate(case.model, (case.x, case.y), threat=case.threat, protocol=protocol, precision=precision)
    stages = {
        a.name: {
            "tried": a.tried,
            "broken": a.broken,
            "forwards": a.forwards,
            "backwards": a.backwards,
            "seconds": round(a.seconds, 1),
        }
        for a in found.by_attack
    }
    return {
        "protocol": found.protocol,
        "broken": found.broken.int().tolist(),
        "forwards": found.forwards,
        "backwards": found.backwards,
        "stages": stages,
    }


def peer(case: Case, attack: Callable[[Case], Tensor]) -> Row:
    """Run a peer's ensemble, count what it asks, and judge what it returns."""
    with counted(case.model) as count:
        x_adv = attack(case)
    broken = advreg.verify(case.model, case.x, x_adv.detach(), case.y, case.threat)
    return {"broken": broken.int().tolist(), "forwards": count.forwards, "backwards": count.backwards}


def pyautoattack(case: Case) -> Tensor:
    """Run the standard version of the reference program."""
    from pyautoattack import AutoAttack

    made = AutoAttack(case.model, eps=case.threat.eps, norm=case.threat.norm.capitalize(), seed=0, version="standard")
    found = made.run_standard_evaluation(case.x, case.y, batch_size=256)
    return found if isinstance(found, Tensor) else found[0]


def torchattacks(case: Case) -> Tensor:
    """``torchattacks.AutoAttack``, its standard version."""
    from torchattacks import AutoAttack

    return AutoAttack(case.model, eps=case.threat.eps, n_classes=10, seed=0)(case.x, case.y)


def art(case: Case) -> Tensor:
    """``art.attacks.evasion.AutoAttack`` with its own four attacks."""
    from art.attacks.evasion import AutoAttack
    from art.estimators.classification import PyTorchClassifier

    shape = tuple(case.x.shape[1:])
    network = PyTorchClassifier(case.model, nn.CrossEntropyLoss(), shape, 10, clip_values=case.threat.box)
    made = AutoAttack(network, eps=case.threat.eps, eps_step=case.threat.eps / 4, batch_size=256)
    return torch.from_numpy(made.generate(case.x.numpy(), case.y.numpy()))


PROGRAMS: dict[str, Callable[[Case], Row]] = {
    "advreg strong, bfloat16": partial(ours, protocol="strong", precision="bfloat16"),
    "advreg strong, float32": partial(ours, protocol="strong", precision="float32"),
    "advreg standard, bfloat16": partial(ours, protocol="standard", precision="bfloat16"),
    "advreg standard, float32": partial(ours, protocol="standard", precision="float32"),
    REFERENCE: partial(peer, attack=pyautoattack),
    "torchattacks AutoAttack": partial(peer, attack=torchattacks),
    "ART AutoAttack": partial(peer, attack=art),
}


def measured(name: str, case: Case, program: Callable[[Case], Row]) -> Row:
    """Run one program and return what it found and cost."""
    runtime.seed_everything(0)
    wall, cpu = time.perf_counter(), time.process_time()
    row = program(case)
    spent = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    standing = len(case.y) - sum(row["broken"])
    known = {"program": name, "case": case.name, "n": len(case.y), "threads": torch.get_num_threads()}
    return {**known, "robust_accuracy": standing / len(case.y), **row, **spent, "environment": runtime.environment()}


def table(rows: list[Row]) -> str:
    """Return a Markdown table: verdicts, passes, time, and each program's ratio to the reference program."""
    head = "| program | robust | agree | forwards | backwards | wall s | CPU s | reference CPU / this |"
    lines = [head, "|" + "---|" * 8]
    base = next((row for row in rows if row["program"] == REFERENCE), None)
    for row in rows:
        agree, ratio = "-", "-"
        if base:
            same = sum(a == b for a, b in zip(row["broken"], base["broken"], strict=True))
            agree, ratio = f"{same / row['n']:.1%}", f"{base['cpu_seconds'] / row['cpu_seconds']:.1f}"
        passes = f"{row['forwards']:,} | {row['backwards']:,}"
        times = f"{row['seconds']:,.0f} | {row['cpu_seconds']:,.0f}"
        lines.append(f"| {row['program']} | {row['robust_accuracy']:.2%} | {agree} | {passes} | {times} | {ratio} |")
    return "\n".join(lines)


def main() -> None:
    """Read the command line, run what the file does not hold yet, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, default="mnist")
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--out", type=Path, default=networks.KEPT / "evaluation.jsonl")
    options = parser.parse_args()
    peers.enter()
    torch.set_num_threads(options.threads)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    case = CASES[options.case](options.n)
    for name in options.only:
        if not any(_is(row, name, case) for row in read_lines(options.out)):
            print(f"{name} on {case.name}, {options.n} images ...", file=sys.stderr, flush=True)
            append_lines(options.out, [measured(name, case, PROGRAMS[name])])
    print(table([row for name in PROGRAMS for row in read_lines(options.out) if _is(row, name, case)]))
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "pyautoattack", "torchattacks"))
    print(f"\n{case.threat}, {options.n} images, {options.threads} threads, {versions}")


def _is(row: Row, name: str, case: Case) -> bool:
    return (row["program"], row["case"], row["n"]) == (name, case.name, len(case.y))


if __name__ == "__main__":
    main()
