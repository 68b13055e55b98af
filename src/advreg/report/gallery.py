"""Pictures of attacks: clean image, what the attack added (magnified), and what the model was shown instead."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from advreg.report.facts import EvaluationFacts, ExamplesFacts, Interval
from advreg.report.ssim import ssim

CARDS = 48  # more pictures than this tire the reader
SIDE = 128  # larger images are shown reduced: a report must travel by mail
RISE, FALL = np.array([214.0, 92.0, 40.0]), np.array([38.0, 103.0, 190.0])  # told apart by every eye

Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class Card:
    """One attacked image, ready to be shown."""

    id: int
    label: str
    clean_predicted: str
    adversarial_predicted: str
    clean_confidence: float
    adversarial_confidence: float
    outcome: str
    attack: str
    linf: float
    l2: float
    ssim: float
    falls: float | None
    magnified: float
    clean: str
    change: str
    adversarial: str

    @property
    def size(self) -> int:
        """Bytes this card's pictures take in the page."""
        return len(self.clean) + len(self.change) + len(self.adversarial)


def cards(evaluation: EvaluationFacts, budget: int) -> list[Card]:
    """The examples of an evaluation as cards: a mix of classes and outcomes, those that were broken first.

    Args:
        evaluation: with examples; pixels (K, C, H, W) with one or three channels.
        budget: bytes that all pictures together may take.

    Returns:
        Cards, none where there is nothing that can be shown as a picture.
    """
    examples = evaluation.examples
    if examples is None or examples.clean.ndim != 4 or examples.clean.shape[1] not in (1, 3):
        return []
    kinds = [(_outcome(examples, row), int(examples.labels[row])) for row in range(len(examples.ids))]
    chosen: list[Card] = []
    for row in _mixed(kinds, CARDS):
        card = _card(evaluation, examples, row)
        budget -= card.size
        if budget < 0:
            break
        chosen.append(card)
    order = ("fooled", "withstood", "wrong")
    return sorted(chosen, key=lambda card: (order.index(card.outcome), card.label, card.id))


def _outcome(examples: ExamplesFacts, row: int) -> str:
    if examples.clean_predicted[row] != examples.labels[row]:
        return "wrong"
    return "fooled" if examples.broken[row] else "withstood"


def _mixed(kinds: Sequence[Hashable], limit: int) -> list[int]:
    """Indices in turns: the first of every kind, then the second of every kind, up to `limit`."""
    seen: Counter[Hashable] = Counter()
    turns = []
    for index, kind in enumerate(kinds):
        turns.append((seen[kind], index))
        seen[kind] += 1
    return [index for _, index in sorted(turns)[:limit]]


def _card(evaluation: EvaluationFacts, examples: ExamplesFacts, row: int) -> Card:
    clean, adversarial = examples.clean[row], examples.adversarial[row]
    box = evaluation.threat.box
    change = adversarial.astype(np.float64) - clean.astype(np.float64)
    most = float(np.abs(change).max(initial=0.0))
    attack = int(examples.attack[row])
    names = evaluation.classes
    return Card(
        id=int(examples.ids[row]),
        label=_name(names, examples.labels[row]),
        clean_predicted=_name(names, examples.clean_predicted[row]),
        adversarial_predicted=_name(names, examples.adversarial_predicted[row]),
        clean_confidence=float(examples.clean_confidence[row]),
        adversarial_confidence=float(examples.adversarial_confidence[row]),
        outcome=_outcome(examples, row),
        attack=evaluation.attacks[attack].name if 0 <= attack < len(evaluation.attacks) else "",
        linf=most,
        l2=float(np.sqrt((change**2).sum())),
        ssim=ssim(clean, adversarial, box[1] - box[0]),
        falls=_falls(evaluation, examples, row, change),
        magnified=(box[1] - box[0]) / most if most else 1.0,
        clean=data_uri(_grey_levels(clean, box)),
        change=data_uri(signed(change / most if most else change)),
        adversarial=data_uri(_grey_levels(adversarial, box)),
    )


def _falls(evaluation: EvaluationFacts, examples: ExamplesFacts, row: int, change: NDArray[np.float64]) -> float | None:
    """The smallest eps at which the image is known to fall: measured for it, or that of the picture; None where it stands."""
    norm, place = evaluation.threat.norm, int(examples.ids[row])
    known = []
    if evaluation.norms is not None and evaluation.norms.norm == norm and 0 <= place < len(evaluation.norms.distances):
        known.append(evaluation.norms.distances[place])
    if examples.broken[row] and norm in _LENGTH:
        known.append(float(_LENGTH[norm](np.abs(change))))
    return min((distance for distance in known if distance is not None), default=None)


_LENGTH: dict[str, Callable[[NDArray[np.float64]], np.floating]] = {
    "linf": lambda size: size.max(initial=0.0),
    "l2": lambda size: np.sqrt((size**2).sum()),
    "l1": lambda size: size.sum(),
}


def _name(names: Sequence[str], label: np.int64) -> str:
    return names[int(label)] if 0 <= label < len(names) else str(label)


def _grey_levels(image: Pixels, box: Interval) -> NDArray[np.uint8]:
    """Pixels (C, H, W) in the box as (H, W, C) bytes."""
    unit = (image.astype(np.float64) - box[0]) / ((box[1] - box[0]) or 1.0)
    return _bytes(255 * unit.clip(0.0, 1.0).transpose(1, 2, 0))


def signed(change: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A change in [-1, 1] as colours: see-through where there is none; for colour images mid-grey plus the change."""
    if len(change) == 3:
        return _bytes((127.5 + 127.5 * change).transpose(1, 2, 0))
    one = change[0][..., None]
    return _bytes(np.concatenate([np.where(one > 0, RISE, FALL), 255 * np.abs(one)], axis=2))


def _bytes(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    rounded: NDArray[np.uint8] = np.rint(values).astype(np.uint8)
    return rounded


def data_uri(pixels: NDArray[np.uint8], side: int = SIDE) -> str:
    """Bytes (H, W, 1, 3 or 4) as a PNG data URI, reduced to whole pixels of the original where it is large."""
    step = -(-max(pixels.shape[:2]) // side)
    kept = np.ascontiguousarray(pixels[::step, ::step])
    buffer = io.BytesIO()
    Image.fromarray(kept[..., 0] if kept.shape[2] == 1 else kept).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
