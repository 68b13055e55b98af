"""The verb ``init``: write a commented run.toml for the user's data, without questions and without overwriting a file."""

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
    """Facts about a data set that are known without reading its images; 0 where a number is unknown.

    Attributes:
        images, classes, channels: numbers of them.
        size: side of an image in pixels.
        imbalance: the largest and the smallest class, where their sizes differ much; else empty.
    """

    images: int = 0
    classes: int = 0
    channels: int = 3
    size: int = 0
    imbalance: str = ""


_KNOWN = {
    "mnist": DetectedData(60_000, 10, 1),
    "fashion-mnist": DetectedData(60_000, 10, 1),
    "cifar10": DetectedData(50_000, 10, 3, 32),
}


def run_init(out: Path, data: str, threat: str | None, model: str | None) -> Path:
    """Write a configuration that trains a robust network on this data.

    Args:
        out: the TOML file; it must not exist.
        data: name of the data set, such as ``folder:photos?size=64``.
        threat: ``norm:eps``; one that suits the data if None.
        model: name of the network; one that suits the data if None.

    Returns:
        The path of the file.

    Raises:
        RunError: the file exists or cannot be written.
        DataError: the folder of the data does not exist or holds no images.
        ThreatError: the text is not a threat model.

    Example:
        >>> import tempfile
        >>> file = run_init(Path(tempfile.mkdtemp()) / "run.toml", "mnist", threat=None, model=None)
        >>> "linf" in file.read_text()
        True
    """
    if out.exists():
        raise RunError(f"{out} exists; remove it, or choose another file with --out")
    grey = data in _GREY
    norm, eps, box = _threat(threat or ("linf:0.1" if grey else "linf:8/255"))
    detected = _detect(data)
    name = model or ("zoo:mnist-cnn" if grey else "zoo:preact-resnet18")
    text = document(
        {
            "data": json.dumps(data),
            "norm": json.dumps(norm),
            "eps": json.dumps(eps),
            "box": json.dumps(box),
            "model": json.dumps(name),
            "options": ", ".join(f"{key} = {value}" for key, value in _options(name, detected).items()),
            "validation": str(_validation_size(detected)),
        },
        detected.imbalance,
    )
    Config.from_dict(tomllib.loads(text), source=str(out))
    write_atomic(out, text)
    return out


def document(values: Mapping[str, str], remark: str = "") -> str:
    """Return the text of a run.toml with a comment above every section.

    Args:
        values: TOML text for data, norm, eps, box, model, options and validation.
        remark: comment above the section of the data.

    Returns:
        TOML text.
    """
    comment = "".join(f"# {line}\n" for line in textwrap.wrap(remark, 110))
    text = _TEXT
    for key, value in {**values, "remark": comment}.items():
        text = text.replace(f"<{key}>", value)
    return text.replace("{  }", "{}")


def _threat(text: str) -> tuple[str, str, tuple[float, float]]:
    """Return the norm, the text of eps, and the box of a threat model, without importing torch."""
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


def _detect(data: str) -> DetectedData:
    """Count the images of a folder by their names; other data sets are not read."""
    scheme, _, rest = data.partition(":")
    if scheme != "folder":
        return _KNOWN.get(data, DetectedData())
    place, _, query = rest.partition("?")
    root = Path(place).expanduser()
    if not root.is_dir():
        raise DataError(f"the folder {root} does not exist; give folder:PATH with one subfolder for each class")
    root = root / "train" if (root / "train").is_dir() else root
    classes = [entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    sizes = {part.name: sum(file.suffix.lower() in _IMAGES for file in part.rglob("*")) for part in classes}
    if not any(sizes.values()):
        raise DataError(f"{root}: no images in its subfolders; put images at {root}/<class>/<image>.png")
    options = dict(parse_qsl(query))
    channels = 1 if options.get("mode") == "grey" else 3
    side = options.get("size", "")
    return DetectedData(
        sum(sizes.values()), len(classes), channels, int(side) if side.isdecimal() else 0, _imbalance(sizes)
    )


def _imbalance(sizes: Mapping[str, int]) -> str:
    """Return a remark about classes of unequal size; empty where their sizes are similar."""
    most, least = max(sizes, key=lambda name: sizes[name]), min(sizes, key=lambda name: sizes[name])
    if sizes[most] < prose.CLASS_IMBALANCE * sizes[least]:
        return ""
    return f"classes are unequal: {sizes[most]} images of {most}, {sizes[least]} of {least}; check the accuracy of each class"


def _options(model: str, detected: DetectedData) -> dict[str, int]:
    if not model.startswith("zoo:") or not detected.classes or detected == _KNOWN["mnist"]:
        return {}
    side = {"size": detected.size} if model.startswith("zoo:mnist") and detected.size else {}
    return {"classes": detected.classes, "channels": detected.channels, **side}


def _validation_size(detected: DetectedData) -> int:
    return min(1000, max(1, detected.images // 10)) if detected.images else 1000


def summary(config: Config) -> dict[str, Any]:
    """Return data, model and threat model of a configuration, as ``--json`` prints them."""
    low, high = config.threat.box
    return {
        "data": config.data.name,
        "model": config.model.name,
        "threat": formatting.threat_option(ThreatFacts(config.threat.norm, config.threat.eps, (low, high))),
    }


_TEXT = """\
# A training run of advreg. Train:        advreg train THIS_FILE
# Change a key for one run:               advreg train THIS_FILE --set train.epochs=3
# Measure the result:                     advreg evaluate RUN
# A missing key has its default; an unknown key is an error.

seed = 0                      # of all random draws; equal files on equal machines give equal bytes

# Which network. zoo:mnist-small for a first try without a GPU, zoo:preact-resnet18, zoo:wide-resnet-28-10,
# timm:resnet50.a1_in1k, torchvision:resnet18, or your own pkg.module:factory, which returns a torch.nn.Module
# that maps floats (B, C, H, W) in [0, 1] to logits and normalises inside.
[model]
name = <model>
weights = ""                  # a safetensors file or state dict to start from; "" starts from random weights
options = { <options> }       # for the network's constructor

# Which data. folder:PATH?size=64 reads PATH/<class>/<image>.png, or PATH/train and PATH/test with classes inside;
# npz:FILE holds x, y, x_test, y_test; also mnist, fashion-mnist, cifar10, torchvision:NAME, hf:NAME, pkg.module:factory.
<remark>[data]
name = <data>
validation = <validation>             # TRAINING images held out to select the best epoch; test images are never used for that
augment = "none"              # "crop-flip" for photographs

# The threat model. linf: every pixel may change by eps; l2: length of the whole change; l1: its sum. Pixels are in [0, 1],
# so 8/255 is eight of 255 grey levels. `advreg epsilon MODEL` helps to choose: a change should not be visible at a glance.
[threat]
norm = <norm>
eps = <eps>
box = <box>              # lowest and highest valid value of an input

# The inner attack of training. "pgd" with 10 steps is the safe choice; "n-fgsm" and "fgsm" cost at most a fifth of it and
# need monitoring for catastrophic overfitting (train.guard).
[attack]
name = "pgd"
steps = 10
step_size = "auto"            # 2.5 eps / steps

# The eps of each image at each step: "fixed", or "warmup" and others where training does not start to learn.
[policy]
name = "fixed"

# The loss. "madry" trains on attacked images only; "trades" balances clean and robust accuracy by options = { beta = 6.0 };
# "mixed" keeps a share of clean images for more clean accuracy.
[recipe]
name = "madry"

# The optimizer of the weights.
[optimizer]
name = "sgd"
lr = 0.05
momentum = 0.9
weight_decay = 5e-4

# The learning rate from the first step to the last.
[schedule]
name = "cosine"

# The average of the weights: "none", "ema" or "swa"; an average often gains a point or two of robust accuracy.
[average]
name = "none"

# Length, batch size and output. An epoch costs attack.steps + 1 times that of standard training; advreg doctor
# --run THIS_FILE estimates the time.
[train]
epochs = 30
batch_size = 128
guard = "warn"                # warns when training collapses; "repair" rolls back and changes the attack
device = "auto"               # the first accelerator, or the CPU
out = "runs/mine"
"""
