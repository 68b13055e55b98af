"""Accuracy of a model under common corruptions: noise, blur, weather and digital artefacts at five severities."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from advreg import models
from advreg.attacks.corruptions import CORRUPTIONS, SEVERITIES, corrupt, corruption_accuracy
from advreg.attacks.model import input_dtype
from advreg.attacks.verification import logits_of
from advreg.errors import DataError
from advreg.evaluation.examples import Examples, examples_of
from advreg.objectives import correct
from advreg.results.corruptions import CorruptionAccuracy
from advreg.runs import RunFolder
from advreg.threat import ThreatModel

if TYPE_CHECKING:
    from advreg.data.adapters import Data

FILE = "corruptions.json"
_BATCH = 64  # images; a corruption may hold twenty copies of them
_CLEAN = ThreatModel("linf", 0.0)


@torch.inference_mode()
def evaluate_corruptions(
    model: nn.Module,
    data: Data,
    *,
    corruptions: Iterable[str] = CORRUPTIONS,
    severities: Iterable[int] = SEVERITIES,
    n: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> CorruptionAccuracy:
    """Measure accuracy under common corruptions.

    Corruptions do not search for the worst case, so the figures say nothing about an attacker.

    Args:
        model: maps images ``(B, C, H, W)`` in [0, 1] to logits ``(B, K)``; eval mode.
        data: images ``(N, C, H, W)`` in [0, 1] with labels: a data set, a pair ``(x, y)``, a DataLoader or any other form of
            ``docs/your-data.md``.
        corruptions: names from `advreg.attacks.corruptions.CORRUPTIONS`; all fifteen by default.
        severities: of 1 to 5; all by default.
        n: number of examples, from the first; all by default.
        seed: seed of the draws; an example's draws depend on it and on the example's place in the data only.
        out: folder to write ``corruptions.json`` into, such as that of an evaluation.
        on_progress: called with example-forwards done and in all.

    Returns:
        A `CorruptionAccuracy`.

    Raises:
        ModelError: train mode, or outputs that are not logits ``(B, K)``.
        DataError: an unknown corruption or severity, or inputs that are not images in [0, 1].
        RunError: ``out`` cannot be written.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).eval()
        >>> x, y = torch.rand(8, 1, 8, 8), torch.tensor([0, 1] * 4)
        >>> found = evaluate_corruptions(net, (x, y), corruptions=["fog", "contrast"], severities=[1, 3])
        >>> list(found.accuracy), found.forwards
        (['fog', 'contrast'], 40)

    Reference: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
    ICLR 2019, arXiv 1903.12261.
    """
    began = time.perf_counter()
    names, levels = tuple(dict.fromkeys(corruptions)), tuple(sorted(set(severities)))
    examples = examples_of(data, n, _CLEAN, input_dtype(model))
    require_corruptions(examples.x[:1], names, levels)
    model = models.among(model, examples.outputs)
    device = next((p.device for p in model.parameters()), examples.x.device)
    models.check_model(model, examples.x[:8].to(device))
    total = len(examples) * (1 + len(names) * len(levels))
    count = _Counter(names, levels, on_progress, total)
    for ids in torch.split(torch.arange(len(examples)), _BATCH):
        count.add(model, examples, ids, device, seed)
    accuracy = {name: tuple(k / len(examples) for k in row) for name, row in count.right.items()}
    seconds = time.perf_counter() - began
    found = CorruptionAccuracy(len(examples), seed, levels, count.clean / len(examples), accuracy, total, seconds)
    if out is not None:
        RunFolder.at(out).write_json(FILE, found.record())
    return found


def require_corruptions(x: Tensor, names: Iterable[str], severities: Iterable[int]) -> None:
    """Raise unless every corruption can be applied to an image.

    Args:
        x: one image ``(1, C, H, W)`` in [0, 1].
        names: corruptions.
        severities: of 1 to 5.

    Raises:
        DataError: no name or no severity, an unknown one, or an image that a corruption does not take.
    """
    names, severities = tuple(names), tuple(severities)
    if not names or not severities:
        raise DataError(f"no corruption to measure; corruptions: {', '.join(CORRUPTIONS)}; severities: 1 to 5")
    for severity in severities:
        corrupt(x, names[0], severity)
    for name in names:
        corrupt(x, name, severities[0])


class _Counter:
    """Counts correct classifications, clean and under each corruption."""

    def __init__(
        self, names: tuple[str, ...], severities: tuple[int, ...], report: Callable[[int, int], None] | None, total: int
    ) -> None:
        self.severities, self.report = severities, report
        self.total = total
        self.clean, self.done = 0, 0
        self.right = {name: [0] * len(severities) for name in names}

    def add(self, model: nn.Module, examples: Examples, ids: Tensor, device: torch.device, seed: int) -> None:
        """Classify these examples, clean and under every corruption."""
        x, y = examples.x[ids].to(device), examples.y[ids].to(device)
        self.clean += int(correct(logits_of(model, x), y).sum())
        self._advance(len(ids))
        for name, right in self.right.items():
            shares = corruption_accuracy(model, x, y, self.severities, [name], ids=ids.to(device), seed=seed)[name]
            for k, severity in enumerate(self.severities):
                right[k] += round(shares[severity] * len(ids))
            self._advance(len(ids) * len(self.severities))

    def _advance(self, forwards: int) -> None:
        self.done += forwards
        if self.report is not None:
            self.report(self.done, self.total)
