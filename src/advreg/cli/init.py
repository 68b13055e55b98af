"""The verb ``init``: open the user's data and write a commented run.toml that trains on it, without overwriting a file."""

from __future__ import annotations

import json
import textwrap
import tomllib
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from advreg.cli.detected_data import KNOWN, DetectedData, complete_name, detect, detect_table, require_trainable
from advreg.cli.init_text import FEATURES, LIMITED, NETWORKS, PIXELS, TEXT, VALUES
from advreg.config import Config
from advreg.errors import RunError, ThreatError, did_you_mean
from advreg.report import formatting
from advreg.report.facts import ThreatFacts
from advreg.runs.files import write_atomic

_NORMS = ("linf", "l2", "l1", "snr")
_SHARE = 0.1
"""The suggested eps of floats, as a share of a standard deviation."""
_MOST_COLUMNS = 200
"""Features up to which mean and standard deviation of each are written."""
_STREAMED = 2 << 30
"""Bytes of images from which they are read batch by batch."""


FEATURES_FILE = "features.toml"


def run_init(out: Path, data: str, threat: str | None, model: str | None, target: str | None = None) -> Path:
    """Write a configuration that trains a robust network on this data; one step of it is tried before.

    Args:
        out: the TOML file; it must not exist.
        data: name of the data set, such as ``folder:photos?size=64``; a path alone gets its prefix.
        threat: ``norm:eps``; one that suits the data if None.
        model: name of the network; one that suits the data if None.
        target: label column of a table: features.toml is drafted beside the file; None for other data.

    Returns:
        The path of the file.

    Raises:
        RunError: a file exists or cannot be written.
        DataError: the data cannot be used, or hold fewer than two classes.
        ModelError, ConfigError: the network does not take the data, or a step of training fails.
        ThreatError: the text is not a threat model.

    Example:
        >>> import tempfile
        >>> file = run_init(Path(tempfile.mkdtemp()) / "run.toml", "mnist", threat=None, model=None)
        >>> "linf" in file.read_text()
        True
    """
    features = out.with_name(FEATURES_FILE)
    for path in (out, features) if target else (out,):
        if path.exists():
            raise RunError(f"{path} exists; remove it, or choose another file with --out")
    if threat is not None:
        _threat(threat)
    name = complete_name(data)
    found = detect(name) if target is None else detect_table(name, target)
    require_trainable(found)
    text = document(_values(found, threat, model), found)
    values = {**tomllib.loads(text), **(tomllib.loads(found.draft) if found.draft else {})}
    config = Config.from_dict(values, source=str(out))
    if model is not None or found.name not in KNOWN:
        from advreg.cli.init_trial import try_one_step

        try_one_step(config, found)
    if found.draft:
        write_atomic(features, found.draft)
    write_atomic(out, text)
    return out


def document(values: Mapping[str, str], found: DetectedData) -> str:
    """Return the text of a run.toml with a comment above every section.

    Args:
        values: TOML text for data, norm, eps, box, model, options, validation, stream, batch and drop.
        found: facts about the data, for the comments.

    Returns:
        TOML text.
    """
    wrapped = [line for remark in found.remarks for line in textwrap.wrap(remark, 110)]
    text = TEXT
    for key, value in {
        **values,
        "remark": "".join(f"# {line}\n" for line in wrapped),
        "what": _threat_comment(found),
        "network": NETWORKS.get(found.kind, NETWORKS["pixels"]),
        "features": FEATURES if found.draft else "",
    }.items():
        text = text.replace(f"<{key}>", value)
    return text.replace("{  }", "{}")


def _threat_comment(found: DetectedData) -> str:
    """Return the comment above the threat model, in the words of the data."""
    if found.draft:
        return LIMITED
    return PIXELS if found.kind == "pixels" else VALUES.replace("<value>", _VALUE.get(found.kind, "value"))


_VALUE = {"table": "feature", "signal": "sample", "image": "pixel"}


def _values(found: DetectedData, threat: str | None, model: str | None) -> dict[str, str]:
    norm, eps, box = _threat(threat or _suggested_threat(found))
    if threat is None or "@" not in threat:
        box = found.box
    name, options = (model, _options(model, found)) if model else _suggested_model(found)
    listed = ", ".join(f"{key} = {json.dumps(value)}" for key, value in options.items())
    return {
        "data": json.dumps(_full_name(found)),
        "norm": json.dumps(norm),
        "eps": json.dumps(eps),
        "box": json.dumps(box),
        "model": json.dumps(name),
        "options": listed,
        "validation": str(_validation_size(found)),
        "stream": json.dumps(_is_streamed(found)),
        "batch": str(_batch_size(found)),
        "drop": json.dumps(found.name not in KNOWN),
    }


def _full_name(found: DetectedData) -> str:
    """Return the name; streamed images are in colour unless it says otherwise."""
    is_grey = _is_streamed(found) and found.shape[0] == 1 and "mode=" not in found.name
    return f"{found.name}&mode=grey" if is_grey else found.name


def _is_streamed(found: DetectedData) -> bool:
    size = found.examples
    for side in found.shape:
        size *= side
    return found.name.startswith("folder:") and "size=" in found.name and size > _STREAMED


def _suggested_threat(found: DetectedData) -> str:
    if found.draft:
        return "l2:0.5"
    if found.kind == "pixels":
        return "linf:0.1" if found.name in KNOWN and found.shape[0] == 1 else "linf:8/255"
    middle = sorted(found.std)[len(found.std) // 2]
    eps = float(f"{min(_SHARE * middle, found.box[1] - found.box[0]):.2g}")
    return f"linf:{eps:.10g}"


def _suggested_model(found: DetectedData) -> tuple[str, dict[str, Any]]:
    """Return the name and the options of a network that takes inputs of this shape."""
    scale: dict[str, Any] = {}
    if found.kind != "pixels" and len(found.mean) <= _MOST_COLUMNS and "scale=" not in found.name:
        scale = {"mean": list(found.mean), "std": list(found.std)}
    if found.kind == "table":
        return "zoo:mlp", {"features": found.shape[0], "classes": found.classes, **scale}
    if found.kind == "signal":
        return "zoo:signal-cnn", {"channels": found.shape[0], "classes": found.classes, **scale}
    if found.name in KNOWN and found.shape[0] == 1:
        return "zoo:mnist-cnn", _options("zoo:mnist-cnn", found)
    return "zoo:preact-resnet18", {"classes": found.classes, "channels": found.shape[0], **scale}


def _options(model: str, found: DetectedData) -> dict[str, Any]:
    """Return the options of a network that the user chose, or of one for MNIST."""
    if not model.startswith("zoo:") or (found.name in KNOWN and found.shape[0] == 1):
        return {}
    if model == "zoo:mlp":
        return {"features": found.shape[0], "classes": found.classes}
    side = {"size": found.shape[-1]} if model.startswith("zoo:mnist") else {}
    return {"classes": found.classes, "channels": found.shape[0], **side}


def _validation_size(found: DetectedData) -> int:
    return min(1000, max(1, found.examples // 10))


def _batch_size(found: DetectedData) -> int:
    """Return 128, or about an eighth of few examples, so that an epoch has several steps."""
    return 128 if found.examples >= 512 else max(4, 1 << ((found.examples // 8).bit_length()))


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


def summary(config: Config) -> dict[str, Any]:
    """Return data, model and threat model of a configuration, as ``--json`` prints them."""
    low, high = config.threat.box
    size = formatting.threat_option(ThreatFacts(config.threat.norm, config.threat.eps, (low, high)))
    return {"data": config.data.name, "model": config.model.name, "threat": size}
