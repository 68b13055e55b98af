"""The examples that an evaluation keeps for pictures: clean and worst inputs, and what the model makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from advreg.attacks.verification import logits_of, outputs_of
from advreg.evaluation.examples import Examples
from advreg.results.ledger_rows import UNIT, Row, broken_ids, score_of, worst_rows
from advreg.tasks import CLASSES, Task


def picture_tensors(
    model: nn.Module, examples: Examples, points: Path, names: Sequence[str], rows: Sequence[Row], task: Task = CLASSES
) -> dict[str, Tensor]:
    """Return clean and adversarial inputs of the first 256 examples with the predictions of the original model.

    Args:
        model: the original.
        examples: examples of the evaluation.
        points: folder with the points of each attack, ``<attack>+<first id>.safetensors``.
        names: names of the attacks in order, the clean examples first.
        rows: rows of the ledger.
        task: what an output is worth.

    Returns:
        Tensors by name; in other tasks than classification, outputs in place of classes and confidences.
    """
    x, y = examples.x[:UNIT], examples.y[:UNIT]
    last = None if task is CLASSES else {i: row["attack"] for i, row in worst_rows(rows).items()}
    adversarial, attack = _points(x, points, names, last)
    broken_rows = broken_ids(rows)
    broken = torch.tensor([i in broken_rows for i in range(len(x))])
    distance = {row["id"]: row["distance"] for row in rows if row["id"] < UNIT}
    if last is not None:
        distance = {i: row["distance"] for i, row in worst_rows(rows).items()}
    device = next((p.device for p in model.parameters()), x.device)
    both = (x.to(device), adversarial.to(device))
    return {
        "clean": x.contiguous(),
        "adversarial": adversarial.contiguous(),
        "ids": torch.arange(len(x)),
        "labels": y.contiguous(),
        **(_predictions(model, both) if task is CLASSES else _outputs(model, both, rows, len(x))),
        "distance": torch.tensor([distance[i] for i in range(len(x))], dtype=torch.float64),
        "broken": broken.to(torch.uint8),
        "attack": torch.where(broken, attack, -1) if last is None else attack,
    }


def _points(x: Tensor, folder: Path, names: Sequence[str], last: Mapping[int, str] | None) -> tuple[Tensor, Tensor]:
    """Return the last point of each example, or that of the attack in ``last``, and the number of its attack."""
    adversarial, attack = x.clone(), torch.full((len(x),), -1)
    for k, stage in enumerate(names):
        for file in folder.glob(f"{stage}+*.safetensors"):
            stored = load_file(file)
            kept = [last is None or last.get(i) == stage for i in stored["ids"].tolist()]
            ids = stored["ids"][kept]
            adversarial[ids], attack[ids] = stored["x"][kept], k - 1
    return adversarial, attack


def _predictions(model: nn.Module, both: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    clean_p, adversarial_p = (logits_of(model, points).softmax(1).cpu() for points in both)
    return {
        "clean_predicted": clean_p.argmax(1),
        "adversarial_predicted": adversarial_p.argmax(1),
        "clean_confidence": clean_p.amax(1),
        "adversarial_confidence": adversarial_p.amax(1),
    }


def _outputs(model: nn.Module, both: tuple[Tensor, Tensor], rows: Sequence[Row], n: int) -> dict[str, Tensor]:
    """Return outputs of both points (classes of pixels in place of their logits) and the lowest scores."""
    clean, adversarial = (outputs_of(model, points).cpu() for points in both)
    shown = [z.argmax(1).to(torch.uint8) if z.ndim == 4 else z.contiguous() for z in (clean, adversarial)]
    worst = worst_rows(rows)
    score = torch.tensor([score_of(worst[i]) for i in range(n)], dtype=torch.float64)
    return {"clean_output": shown[0], "adversarial_output": shown[1], "score": score}
