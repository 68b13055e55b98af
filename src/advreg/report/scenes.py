"""Pictures of attacked scenes: image and masks, before and under attack, side by side."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from advreg.report.facts import EvaluationFacts
from advreg.report.gallery import data_uri

CARDS = 24
"""Largest number of scenes shown."""
IGNORED = 255
"""Class of pixels that are drawn grey."""


@dataclass(frozen=True)
class SceneCard:
    """One attacked scene as the page shows it.

    Attributes:
        id: of the example.
        score: share of its pixels that are right at the worst point.
        attack: name of the attack that found it; empty for the clean image.
        pictures: titles and PNG data URIs.
    """

    id: int
    score: float
    attack: str
    pictures: tuple[tuple[str, str], ...]

    @property
    def size(self) -> int:
        """Bytes that the pictures take in the page."""
        return sum(len(uri) for _, uri in self.pictures)


def scene_cards(evaluation: EvaluationFacts, budget: int) -> list[SceneCard]:
    """Return the stored scenes of an evaluation, the lowest scores first.

    Args:
        evaluation: an evaluation of segmentation; others have no scenes.
        budget: largest number of bytes of all pictures.

    Returns:
        At most 24 cards.
    """
    scenes = evaluation.scenes
    if scenes is None:
        return []
    classes = 1 + int(max(scenes[name][scenes[name] != IGNORED].max(initial=0) for name in ("labels", "clean_output")))
    chosen = []
    for row in np.argsort(scenes["score"], kind="stable")[:CARDS].tolist():
        card = _card(evaluation, row, classes)
        budget -= card.size
        if budget < 0:
            break
        chosen.append(card)
    return chosen


def _card(evaluation: EvaluationFacts, row: int, classes: int) -> SceneCard:
    scenes = evaluation.scenes
    assert scenes is not None
    attack, (low, high) = int(scenes["attack"][row]), evaluation.threat.box
    images = [
        ((scenes[name][row].astype(np.float64) - low) / (high - low)).clip(0, 1) for name in ("clean", "adversarial")
    ]
    masks = [
        paint_mask(scenes[name][row].astype(np.int64), classes)
        for name in ("labels", "clean_output", "adversarial_output")
    ]
    pixels = [np.rint(255 * image.transpose(1, 2, 0)).astype(np.uint8) for image in images] + masks
    titles = ("clean", "attacked", "label", "predicted", "predicted under attack")
    return SceneCard(
        int(scenes["ids"][row]),
        float(scenes["score"][row]),
        evaluation.attacks[attack].name if 0 <= attack < len(evaluation.attacks) else "",
        tuple((title, data_uri(each)) for title, each in zip(titles, pixels, strict=True)),
    )


def paint_mask(mask: NDArray[np.int64], classes: int) -> NDArray[np.uint8]:
    """Return a mask as colours, hues spread evenly over the classes; ignored pixels are grey.

    Args:
        mask: classes ``(H, W)``.
        classes: number of classes.

    Returns:
        Colours ``(H, W, 3)``.

    Example:
        >>> paint_mask(np.array([[0, 255]]), 2).tolist()
        [[[217, 87, 87], [128, 128, 128]]]
    """
    hues = [colorsys.hsv_to_rgb(k / max(classes, 1), 0.6, 0.85) for k in range(classes)]
    table = np.full((256, 3), 128, dtype=np.uint8)
    table[: len(hues)] = np.rint(255 * np.array(hues))[:256]
    coloured: NDArray[np.uint8] = table[mask.clip(0, 255)]
    return coloured
