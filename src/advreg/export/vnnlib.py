"""The claim of a certificate for other verifiers: an ONNX file, and a VNN-LIB property for each example.

``unsat`` from a verifier means that the example is robust; ``sat`` comes with a counterexample.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from torch import Tensor, nn

from advreg import models
from advreg.errors import DataError, ThreatError
from advreg.export.files import onnx_file
from advreg.runs.files import write_atomic
from advreg.threat import ThreatModel, as_threat


def vnnlib_property(low: Tensor, high: Tensor, label: int, classes: int) -> str:
    """Return the VNN-LIB text of ``low <= x <= high and some z_j >= z_label``, which no valid input fulfils if it is robust.

    Args:
        low: lower ends of the inputs, of any shape; they are numbered in row-major order.
        high: upper ends.
        label: the example's class.
        classes: number of logits.

    Returns:
        The text.

    Example:
        >>> import torch
        >>> print(vnnlib_property(torch.tensor([0.1]), torch.tensor([0.25]), label=0, classes=2))
        (declare-const X_0 Real)
        (declare-const Y_0 Real)
        (declare-const Y_1 Real)
        (assert (>= X_0 0.10000000149011612))
        (assert (<= X_0 0.25))
        (assert (or
          (and (>= Y_1 Y_0))
        ))
        <BLANKLINE>

    Reference: VNN-LIB, the format of the competition of neural network verifiers (VNN-COMP).
    """
    ends = list(zip(low.flatten().tolist(), high.flatten().tolist(), strict=True))
    lines = [f"(declare-const X_{i} Real)" for i in range(len(ends))]
    lines += [f"(declare-const Y_{j} Real)" for j in range(classes)]
    for i, (least, most) in enumerate(ends):
        lines += [f"(assert (>= X_{i} {_decimal(least)}))", f"(assert (<= X_{i} {_decimal(most)}))"]
    rivals = [f"  (and (>= Y_{j} Y_{label}))" for j in range(classes) if j != label]
    return "\n".join([*lines, "(assert (or", *rivals, "))", ""])


def vnnlib_files(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel | str,
    folder: str | Path,
    *,
    seconds: int = 300,
) -> list[Path]:
    """Write ``model.onnx``, one property for each example, and ``instances.csv``, the list that verifiers read.

    ``model.json`` has the SHA-256 of the weights, so that verdicts are taken back for the same model alone.

    Args:
        model: maps floats ``(B, ...)`` in the box to logits ``(B, K)``; eval mode.
        x: clean inputs ``(B, ...)``.
        y: labels ``(B,)``.
        threat: norm linf, eps and box.
        folder: the folder; files in it are replaced.
        seconds: limit of each example in ``instances.csv``.

    Returns:
        The properties' paths, in order.

    Raises:
        ThreatError: another norm: its ball is no product of intervals.
        DataError: labels that the model does not have.
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
        ModelError: the model cannot be exported.
    """
    threat = as_threat(threat)
    if threat.norm != "linf":
        raise ThreatError(f"the norm is {threat.norm}; a VNN-LIB property takes intervals of inputs: use linf")
    classes = model(x[:1]).shape[1]
    if int(y.min()) < 0 or int(y.max()) >= classes:
        raise DataError(f"labels go from {int(y.min())} to {int(y.max())}, and the model has {classes} classes")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    onnx_file(model, tuple(x.shape[1:]), folder / "model.onnx")
    write_atomic(folder / "model.json", json.dumps({"sha256": models.describe(model)["sha256"]}) + "\n")
    paths = [folder / f"example-{i:05d}.vnnlib" for i in range(len(x))]
    low, high = threat.interval(x)
    for i, path in enumerate(paths):
        write_atomic(path, vnnlib_property(low[i], high[i], int(y[i]), classes))
    write_atomic(folder / "instances.csv", "".join(f"model.onnx,{path.name},{seconds}\n" for path in paths))
    return paths


def read_verdicts(lines: Sequence[str]) -> dict[int, str]:
    """Return what a verifier found, by example: ``"proved"``, ``"broken"`` or ``"open"``.

    Args:
        lines: lines ``model,property,...,verdict,...`` of its results, with ``sat``, ``unsat`` or another word as verdict.

    Returns:
        Example number to verdict.

    Raises:
        DataError: a line without a property of `vnnlib_files`.

    Example:
        >>> read_verdicts(["acasxu,model.onnx,example-00007.vnnlib,0.1,unsat,0.4"])
        {7: 'proved'}
    """
    found: dict[int, str] = {}
    for line in filter(str.strip, lines):
        cells = [cell.strip() for cell in line.split(",")]
        name = next((Path(cell).name for cell in cells if Path(cell).name.startswith("example-")), "")
        digits = name.removeprefix("example-").removesuffix(".vnnlib")
        if not digits.isdecimal():
            raise DataError(f"no property in {line.strip()[:80]!r}; give the lines that name example-NNNNN.vnnlib")
        found[int(digits)] = "proved" if "unsat" in cells else "broken" if "sat" in cells else "open"
    return found


def _decimal(value: float) -> str:
    """Return a number without exponent, which not every verifier reads, and exactly as it is."""
    if not math.isfinite(value):
        raise DataError(f"an input ends at {value}; bounds must be finite")
    return format(Decimal(value), "f") if "e" in repr(value) else repr(value)
