"""The verb ``doctor``: what this machine has, how fast an attack runs on it, and how long a training would take."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import torch

from advreg import attacks, models, runtime
from advreg.cli.resolution import load_config
from advreg.cli.tables import minutes
from advreg.threat import ThreatModel

_NET, _IMAGES, _STEPS = "zoo:mnist-small", 128, 10
_REQUIREMENT = re.compile(r"""([\w.-]+).*extra\s*==\s*['"]([\w-]+)['"]""")


def examination(run: Path | None = None) -> dict[str, dict[str, Any]]:
    """Return versions, devices, extras and measured speed; with a configuration, how long its training would take.

    Args:
        run: a run.toml, or a run folder.
    """
    found: dict[str, dict[str, Any]] = {
        "environment": dict(runtime.environment()),
        "devices": devices(),
        "extras": {name: _told(packages) for name, packages in extras().items()},
        "speed": speed(),
    }
    return found | ({"training": estimate(run)} if run is not None else {})


def lines(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return an examination as text, one fact a line under its heading."""
    parts = []
    for heading, facts in found.items():
        told = [f"  {name:<28}{'-' if value is None else value}" for name, value in facts.items()]
        parts.append("\n".join([heading, *told]))
    return "\n\n".join(parts)


def devices() -> dict[str, str]:
    """Return what can compute here, the one that ``auto`` takes first."""
    chosen = str(runtime.choose_device())
    found = {"auto is": chosen, "cpu": f"{torch.get_num_threads()} threads"}
    for k in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(k)
        found[f"cuda:{k}"] = f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB"
    return found | ({"mps": "there"} if torch.backends.mps.is_available() else {})


def extras() -> dict[str, dict[str, str | None]]:
    """Return for each extra its libraries with their versions, None where one is missing."""
    try:
        wanted = requires("advreg") or []
    except PackageNotFoundError:  # run from a checkout that is not installed
        wanted = []
    named = [match.groups() for text in wanted if (match := _REQUIREMENT.match(text))]
    found: dict[str, dict[str, str | None]] = {}
    for package, extra in named:
        if extra != "dev" and package != "advreg":
            found.setdefault(extra, {})[package] = _version(package)
    return dict(sorted(found.items()))


def speed() -> dict[str, str]:
    """Measure how many images a second a PGD attack of ten steps goes through, by precision."""
    device = runtime.choose_device()
    net = models.load(_NET).to(device)
    x = torch.rand(_IMAGES, 1, 28, 28, device=device)
    y = torch.zeros(_IMAGES, dtype=torch.int64, device=device)
    found = {}
    for precision in ("float32", "bfloat16"):
        target = models.freeze(net, x[:64], precision=precision)
        found[f"pgd-{_STEPS}, {precision}"] = f"{_images_a_second(target, x, y):,.0f} images a second on {_NET}"
    return found


def estimate(run: Path) -> dict[str, Any]:
    """Measure a few steps of a training on a copy, and say how long the whole would take; nothing is written.

    Args:
        run: a run.toml, or a run folder.
    """
    from advreg.training.dry_run import estimated_seconds
    from advreg.training.setup import prepare

    config = load_config(run)
    session = prepare(config)
    one = estimated_seconds(session, 1)
    return {
        "configuration": str(run),
        "model": config.model.name,
        "data": config.data.name,
        "steps an epoch": session.steps,
        "an epoch": minutes(one),
        "in all": minutes(one * config.train.epochs),
        "seconds": round(one * config.train.epochs, 1),
    }


def _told(packages: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} {found or 'missing'}" for name, found in packages.items())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _images_a_second(target: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    threat = ThreatModel("linf", 0.1)
    attacks.craft(target, x, y, threat, steps=1)
    began = time.perf_counter()
    attacks.craft(target, x, y, threat, steps=_STEPS).x_adv.sum().item()  # reading a number waits for the device
    return len(x) / (time.perf_counter() - began)
