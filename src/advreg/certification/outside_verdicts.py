"""Verdicts of other verifiers on the properties that `advreg export --vnnlib` wrote, checked before they count.

A property must be the one of this example and threat model, to the byte, and the folder's model must have these weights.
``unsat`` is recorded as proved under the verifier's name; ``sat`` counts only with a counterexample that the original model
misclassifies.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from torch import Tensor, nn

from advreg.attacks.verification import verify_with_logits
from advreg.errors import DataError
from advreg.evaluation.examples import Examples
from advreg.export.vnnlib import read_verdicts, vnnlib_property
from advreg.threat import ThreatModel

_VALUE = re.compile(r"\(\s*X_(\d+)\s+([-+.\deE]+)\s*\)")


def outside_verdicts(
    file: Path, model: nn.Module, weights: str, examples: Examples, threat: ThreatModel
) -> dict[int, tuple[str, str]]:
    """Return the verdicts of a results file as ``{id: (verdict, name of the verifier)}``; the name is that of the file.

    Args:
        file: ``model,property,...,verdict,...`` lines, in the folder of the properties; counterexamples beside it as
            ``example-NNNNN.counterexample``.
        model: the original model.
        weights: SHA-256 of its weights.
        examples: what is certified.
        threat: the threat model, in linf.

    Returns:
        What is proved, and what is broken by a verified counterexample.

    Raises:
        DataError: no such file, the folder of another model, or a property of another example or threat model.
    """
    if not file.is_file():
        raise DataError(f"no results at {file}; give the file that the verifier wrote, in the folder of the properties")
    _require_weights(file.parent, weights)
    low, high = threat.interval(examples.x)
    with torch.no_grad():
        classes = model(examples.x[:1]).shape[1]
    found: dict[int, tuple[str, str]] = {}
    for i, verdict in read_verdicts(file.read_text(encoding="utf-8").splitlines()).items():
        if i >= len(examples) or verdict == "open":
            continue
        _require_property(file.parent, i, vnnlib_property(low[i], high[i], int(examples.y[i]), classes))
        if verdict == "proved" or _is_counterexample(file.parent, i, model, examples, threat):
            found[i] = verdict, file.stem
    return found


def _require_weights(folder: Path, weights: str) -> None:
    path = folder / "model.json"
    recorded = json.loads(path.read_text(encoding="utf-8")).get("sha256") if path.is_file() else None
    if recorded != weights:
        raise DataError(
            f"{folder} has properties of weights {recorded}, and the model has {weights}; export this model with --vnnlib"
        )


def _require_property(folder: Path, i: int, expected: str) -> None:
    path = folder / f"example-{i:05d}.vnnlib"
    if not path.is_file() or path.read_text(encoding="utf-8") != expected:
        raise DataError(
            f"{path} is not the property of example {i} in this threat model; verdicts count for the folder that "
            "`advreg export --vnnlib` wrote with the same threat and data"
        )


def _is_counterexample(folder: Path, i: int, model: nn.Module, examples: Examples, threat: ThreatModel) -> bool:
    """Return whether the original model misclassifies the verifier's point, cast to the inputs' type and projected."""
    path, x = folder / f"example-{i:05d}.counterexample", examples.x[i : i + 1]
    point = _point(path.read_text(encoding="utf-8"), x) if path.is_file() else None
    if point is None:
        return False
    return bool(verify_with_logits(model, x, threat.project(point, x), examples.y[i : i + 1], threat)[0])


def _point(text: str, x: Tensor) -> Tensor | None:
    """Return the input of a counterexample ``((X_0 0.5) (X_1 0.25) ...)``, None where values are missing."""
    values = {int(place): float(value) for place, value in _VALUE.findall(text)}
    if sorted(values) != list(range(x.numel())):
        return None
    return torch.tensor([values[k] for k in range(x.numel())], dtype=torch.float64).to(x.dtype).view_as(x)
