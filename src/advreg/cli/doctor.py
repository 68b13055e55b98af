"""The verb ``doctor``: versions, devices, the speed of an attack on this machine, and the time a training would take."""

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

_NET = "zoo:mnist-small"
_IMAGES = 128
_STEPS = 10
_REQUIREMENT = re.compile(r"""([\w.-]+).*extra\s*==\s*['"]([\w-]+)['"]""")


def examine(run: Path | None = None) -> dict[str, dict[str, Any]]:
    """Return versions, devices, extras and measured speed, in sections.

    Args:
        run: a run.toml or a run folder whose training time is estimated; None for no estimate.

    Returns:
        Section -> fact -> value.

    Raises:
        ConfigError: the configuration cannot be read.
    """
    sections: dict[str, dict[str, Any]] = {
        "environment": dict(runtime.environment()),
        "devices": devices(),
        "extras": {name: _versions(name, packages) for name, packages in extras().items()},
        "speed": speed(),
    }
    return sections | ({"training": estimate(run)} if run is not None else {})


def lines(sections: Mapping[str, Mapping[str, Any]]) -> str:
    """Format the sections of `examine`, one fact a line under its heading; seconds are for programs, and left out.

    Args:
        sections: facts by section.

    Returns:
        Text of several lines.

    Example:
        >>> print(lines({"devices": {"cpu": "2 threads"}}))
        devices
          cpu                         2 threads
    """
    parts = []
    for heading, facts in sections.items():
        rows = [f"  {name:<28}{'-' if value is None else value}" for name, value in facts.items() if name != "seconds"]
        parts.append("\n".join([heading, *rows]))
    return "\n\n".join(parts)


def devices() -> dict[str, str]:
    """Return the devices of this machine by name, and the device that ``auto`` selects."""
    found = {"auto is": str(runtime.choose_device()), "cpu": f"{torch.get_num_threads()} threads"}
    for k in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(k)
        found[f"cuda:{k}"] = f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB"
    return found | ({"mps": "available"} if torch.backends.mps.is_available() else {})


def extras() -> dict[str, dict[str, str | None]]:
    """Return the version of each library of each extra, None where it is missing."""
    try:
        requirements = requires("advreg") or []
    except PackageNotFoundError:  # advreg runs from a checkout that is not installed
        requirements = []
    named = [match.groups() for text in requirements if (match := _REQUIREMENT.match(text))]
    found: dict[str, dict[str, str | None]] = {}
    for package, extra in named:
        if extra != "dev" and package != "advreg":
            found.setdefault(extra, {})[package] = _version(package)
    return dict(sorted(found.items()))


def speed() -> dict[str, str]:
    """Measure how many images a second PGD with ten steps attacks, for each precision."""
    device = runtime.choose_device()
    net = models.load(_NET).to(device)
    x = torch.rand(_IMAGES, 1, 28, 28, device=device)
    y = torch.zeros(_IMAGES, dtype=torch.int64, device=device)
    found = {}
    for precision in ("float32", "bfloat16"):
        copy = models.freeze(net, x[:64], precision=precision)
        found[f"pgd-{_STEPS}, {precision}"] = f"{_images_a_second(copy, x, y):,.0f} images a second on {_NET}"
    return found


def estimate(run: Path) -> dict[str, Any]:
    """Estimate the time of a training from a few steps on a copy; nothing is written.

    Args:
        run: a run.toml or a run folder.

    Returns:
        Configuration, model, data, steps an epoch, and the time of an epoch and of the whole training.

    Raises:
        ConfigError: the configuration cannot be read.
    """
    from advreg.training.dry_run import estimated_seconds
    from advreg.training.setup import prepare

    config = load_config(run)
    session = prepare(config)
    epoch = estimated_seconds(session, 1)
    return {
        "configuration": str(run),
        "model": config.model.name,
        "data": config.data.name,
        "steps an epoch": session.steps,
        "an epoch": minutes(epoch),
        "in all": minutes(epoch * config.train.epochs),
        "seconds": round(epoch * config.train.epochs, 1),
    }


def _versions(extra: str, packages: Mapping[str, str | None]) -> str:
    found = ", ".join(f"{name} {version or 'missing'}" for name, version in packages.items())
    return found if all(packages.values()) else f"{found}: pip install 'advreg[{extra}]'"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _images_a_second(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    threat = ThreatModel("linf", 0.1)
    attacks.craft(model, x, y, threat, steps=1)
    began = time.perf_counter()
    attacks.craft(model, x, y, threat, steps=_STEPS).x_adv.sum().item()  # .item() waits for the device
    return len(x) / (time.perf_counter() - began)
