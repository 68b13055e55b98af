"""The verb ``init``: a commented run.toml for somebody's own data; nothing is asked, nothing is overwritten."""

from __future__ import annotations

import json
import textwrap
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from advreg.config import Config
from advreg.errors import DataError, RunError, ThreatError, did_you_mean
from advreg.report import formatting, prose
from advreg.report.facts import ThreatFacts
from advreg.runs.files import write_atomic

_NORMS = ("linf", "l2", "l1")
_IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_GREY = ("mnist", "fashion-mnist")


@dataclass(frozen=True)
class DetectedData:
    """What is known of the data without reading it: 0 where it is not known."""

    images: int = 0
    classes: int = 0
    channels: int = 3
    size: int = 0
    unequal: str = ""  # which classes are largest and smallest, where they differ much


_KNOWN = {
    "mnist": DetectedData(60_000, 10, 1),
    "fashion-mnist": DetectedData(60_000, 10, 1),
    "cifar10": DetectedData(50_000, 10, 3, 32),
}


def run_init(out: Path, data: str, threat: str | None, model: str | None) -> Path:
    """Write a configuration that trains a robust network on this data.

    Args:
        out: the TOML file; it must not be there yet.
        data: as `advreg train` takes it.
        threat: ``norm:eps``; one that suits the data if None.
        model: as `advreg train` takes it; one that suits the data if None.

    Raises:
        RunError: the file is there already, or cannot be written.
        DataError: a folder that is not there.
        ThreatError: no threat.
    """
    if out.exists():
        raise RunError(f"{out} is there already; remove it, or give another file with --out")
    grey = data in _GREY
    norm, eps, box = _threat(threat or ("linf:0.1" if grey else "linf:8/255"))
    found = _found(data)
    name = model or ("zoo:mnist-cnn" if grey else "zoo:preact-resnet18")
    text = document(data, norm, eps, box, name, _options(name, found), _held_out(found), found.unequal)
    Config.from_dict(tomllib.loads(text), source=str(out))
    write_atomic(out, text)
    return out


def document(
    data: str,
    norm: str,
    eps: str,
    box: tuple[float, float],
    model: str,
    options: Mapping[str, int],
    validation: int,
    remark: str = "",
) -> str:
    """Return the text of a run.toml, every section with a comment that explains it."""
    values = {
        "data": json.dumps(data), "norm": json.dumps(norm), "eps": json.dumps(eps), "box": json.dumps(box),
        "model": json.dumps(model), "options": ", ".join(f"{key} = {value}" for key, value in options.items()),
        "validation": str(validation),
    }  # fmt: skip
    values["remark"] = "".join(f"# {line}\n" for line in textwrap.wrap(remark, 110))
    text = _TEXT
    for key, value in values.items():
        text = text.replace(f"<{key}>", value)
    return text.replace("{  }", "{}")


def _threat(text: str) -> tuple[str, str, tuple[float, float]]:
    """Return norm, eps as it was written, and box of a threat, without torch."""
    norm, _, rest = text.partition(":")
    eps, at, box = rest.partition("@")
    if norm not in _NORMS:
        raise ThreatError(f"threat is {text!r}; norms: {', '.join(_NORMS)}.{did_you_mean(norm, _NORMS)}")
    try:
        radius, ends = Fraction(eps), [float(Fraction(end)) for end in box.split(",")] if at else [0.0, 1.0]
    except (ValueError, ZeroDivisionError):
        radius, ends = Fraction(0), []
    if radius <= 0 or len(ends) != 2:
        raise ThreatError(
            f"threat is {text!r}; write norm:eps with an eps above 0, such as linf:8/255 or l2:0.5, "
            "or norm:eps@low,high for another box than [0, 1]"
        )
    return norm, eps, (ends[0], ends[1])


def _found(data: str) -> DetectedData:
    """Look at the names of a folder's files; other data is not touched."""
    scheme, _, rest = data.partition(":")
    if scheme != "folder":
        return _KNOWN.get(data, DetectedData())
    place, _, query = rest.partition("?")
    root = Path(place).expanduser()
    if not root.is_dir():
        raise DataError(f"no folder {root}; give folder:PATH with one subfolder for each class")
    root = root / "train" if (root / "train").is_dir() else root
    classes = [entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    sizes = {part.name: sum(file.suffix.lower() in _IMAGES for file in part.rglob("*")) for part in classes}
    if not any(sizes.values()):
        raise DataError(f"{root}: no images in its subfolders; put images at {root}/<class>/<image>.png")
    asked = dict(parse_qsl(query))
    channels, side = 1 if asked.get("mode") == "grey" else 3, asked.get("size", "")
    return DetectedData(
        sum(sizes.values()), len(classes), channels, int(side) if side.isdecimal() else 0, _unequal(sizes)
    )


def _unequal(sizes: Mapping[str, int]) -> str:
    """Say that a folder's classes are of unequal size, or nothing."""
    most, least = max(sizes, key=lambda name: sizes[name]), min(sizes, key=lambda name: sizes[name])
    if sizes[most] < prose.CLASS_IMBALANCE * sizes[least]:
        return ""
    return f"classes are unequal: {sizes[most]} images of {most}, {sizes[least]} of {least}; accuracy class by class will tell"


def _options(model: str, found: DetectedData) -> dict[str, int]:
    if not model.startswith("zoo:") or not found.classes or found == _KNOWN["mnist"]:
        return {}
    side = {"size": found.size} if model.startswith("zoo:mnist") and found.size else {}
    return {"classes": found.classes, "channels": found.channels, **side}


def _held_out(found: DetectedData) -> int:
    return min(1000, max(1, found.images // 10)) if found.images else 1000


def shown(config: Config) -> dict[str, Any]:
    """Return what a new configuration says, for ``--json``."""
    low, high = config.threat.box
    return {
        "data": config.data.name,
        "model": config.model.name,
        "threat": formatting.threat_option(ThreatFacts(config.threat.norm, config.threat.eps, (low, high))),
    }


_TEXT = """\
# A training run of advreg. Train with    advreg train THIS_FILE
# change a key for once with              advreg train THIS_FILE --set train.epochs=3
# and measure the result with             advreg evaluate RUN
# A key that is left out has its default; a key that is misspelt is refused.

seed = 0                      # of every random draw: equal files on equal machines give equal bytes

# Which network. zoo:mnist-small for a first try without a GPU, zoo:preact-resnet18, zoo:wide-resnet-28-10,
# timm:resnet50.a1_in1k, torchvision:resnet18, or your own pkg.module:factory, which returns a torch.nn.Module
# from floats (B, C, H, W) in [0, 1] to logits; it normalises inside.
[model]
name = <model>
weights = ""                  # a safetensors file or state dict to start from; "" begins afresh
options = { <options> }       # for the network's constructor

# Which data. folder:PATH?size=64 reads PATH/<class>/<image>.png, or PATH/train and PATH/test with classes inside;
# npz:FILE holds x, y, x_test, y_test; also mnist, fashion-mnist, cifar10, torchvision:NAME, hf:NAME, pkg.module:factory.
<remark>[data]
name = <data>
validation = <validation>             # TRAINING images held out to choose the best epoch; test images are never used for that
augment = "none"              # "crop-flip" for photographs

# What the attacker may do. linf: every pixel by eps; l2: the length of the whole change; l1: its sum. Pixels are in [0, 1],
# so 8/255 is eight of 255 grey levels. `advreg epsilon MODEL` helps to choose: an attack should not be seen at a glance.
[threat]
norm = <norm>
eps = <eps>
box = <box>              # lowest and highest valid value of an input

# How training looks for the worst case: "pgd" with 10 steps is the sound choice, "n-fgsm" and "fgsm" cost a fifth of it or
# less and must be watched for collapse (train.guard does that).
[attack]
name = "pgd"
steps = 10
step_size = "auto"            # 2.5 eps / steps

# Which eps each image has at each step: "fixed", or "warmup" and others where training does not get off the ground.
[policy]
name = "fixed"

# Which loss: "madry" trains on attacked images only; "trades" trades clean against robust accuracy by options = { beta = 6.0 };
# "mixed" keeps a share of clean images, for more clean accuracy.
[recipe]
name = "madry"

# How weights move.
[optimizer]
name = "sgd"
lr = 0.05
momentum = 0.9
weight_decay = 5e-4

# How the learning rate changes from the first step to the last.
[schedule]
name = "cosine"

# Which average of the weights is kept: "none", "ema" or "swa"; an average often gains a point or two of robust accuracy.
[average]
name = "none"

# How long, how large, where to. Each epoch costs attack.steps + 1 times a plain one; advreg doctor --run THIS_FILE
# estimates it.
[train]
epochs = 30
batch_size = 128
guard = "warn"                # says so when training collapses; "repair" goes back and mends it
device = "auto"               # the first accelerator, or the CPU
out = "runs/mine"
"""
