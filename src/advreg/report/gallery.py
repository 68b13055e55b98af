"""Pictures of attacked images: the clean image, the change (magnified), and the attacked image."""

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

CARDS = 48
"""Largest number of images shown."""
SIDE = 128
"""Largest side of a picture in pixels; larger images are reduced so that the report stays small."""
RISE, FALL = np.array([214.0, 92.0, 40.0]), np.array([38.0, 103.0, 190.0])  # distinct for colour-blind readers too

Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class Card:
    """One attacked image as the page shows it.

    Attributes:
        id: of the example.
        label, clean_predicted, adversarial_predicted: names of the true class and of the predictions.
        clean_confidence, adversarial_confidence: of the predictions.
        outcome: ``"fooled"``, ``"withstood"`` or ``"wrong"`` (without an attack).
        attack: name of the attack that broke it; empty if none did.
        linf, l2: size of the change, in pixel units.
        ssim: structural similarity of the clean and the attacked image.
        breaking_eps: smallest eps known to break it; None if none is known.
        magnified: factor by which the change is magnified.
        clean, change, adversarial: PNG data URIs.
    """

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
    breaking_eps: float | None
    magnified: float
    clean: str
    change: str
    adversarial: str

    @property
    def size(self) -> int:
        """Bytes that the pictures take in the page."""
        return len(self.clean) + len(self.change) + len(self.adversarial)


def cards(evaluation: EvaluationFacts, budget: int) -> list[Card]:
    """Return the stored examples of an evaluation as cards: a mix of classes and outcomes, broken examples first.

    Args:
        evaluation: its examples have pixels ``(K, C, H, W)``, with one or three channels.
        budget: largest number of bytes of all pictures.

    Returns:
        At most 48 cards; none where the examples are no images.
    """
    examples = evaluation.examples
    if examples is None or examples.clean.ndim != 4 or examples.clean.shape[1] not in (1, 3):
        return []
    kinds = [(_outcome(examples, row), int(examples.labels[row])) for row in range(len(examples.ids))]
    chosen: list[Card] = []
    for row in _take_turns(kinds, CARDS):
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


def _take_turns(kinds: Sequence[Hashable], limit: int) -> list[int]:
    """Return at most `limit` indices in turns: the first of every kind, then the second of every kind, ..."""
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
        breaking_eps=_breaking_eps(evaluation, examples, row, change),
        magnified=(box[1] - box[0]) / most if most else 1.0,
        clean=data_uri(_grey_levels(clean, box)),
        change=data_uri(signed_colours(change / most if most else change)),
        adversarial=data_uri(_grey_levels(adversarial, box)),
    )


def _breaking_eps(
    evaluation: EvaluationFacts, examples: ExamplesFacts, row: int, change: NDArray[np.float64]
) -> float | None:
    """Return the smallest eps known to break an image: its measured distance or the size of the shown change; None if none."""
    norm, place = evaluation.threat.norm, int(examples.ids[row])
    known: list[float | None] = []
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
    """Return pixels ``(C, H, W)`` in the box as bytes ``(H, W, C)``."""
    unit = (image.astype(np.float64) - box[0]) / ((box[1] - box[0]) or 1.0)
    return _bytes(255 * unit.clip(0.0, 1.0).transpose(1, 2, 0))


def signed_colours(change: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return a change as colours ``(H, W, C)`` in bytes.

    Args:
        change: ``(C, H, W)`` in [-1, 1], with one or three channels. One channel becomes two colours, transparent at 0;
            three channels become mid-grey plus the change.

    Returns:
        Colours ``(H, W, C)`` with 3 or 4 channels.
    """
    if len(change) == 3:
        return _bytes((127.5 + 127.5 * change).transpose(1, 2, 0))
    one = change[0][..., None]
    return _bytes(np.concatenate([np.where(one > 0, RISE, FALL), 255 * np.abs(one)], axis=2))


def _bytes(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    rounded: NDArray[np.uint8] = np.rint(values).astype(np.uint8)
    return rounded


def data_uri(pixels: NDArray[np.uint8], side: int = SIDE) -> str:
    """Return a PNG data URI of an image.

    Args:
        pixels: bytes ``(H, W, C)`` with 1, 3 or 4 channels.
        side: largest side in pixels; a larger image is reduced by leaving out pixels.

    Returns:
        Text that begins with ``data:image/png``.
    """
    step = -(-max(pixels.shape[:2]) // side)
    reduced = np.ascontiguousarray(pixels[::step, ::step])
    buffer = io.BytesIO()
    Image.fromarray(reduced[..., 0] if reduced.shape[2] == 1 else reduced).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
