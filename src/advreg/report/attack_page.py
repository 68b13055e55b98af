"""Photographs before and after an attack: one HTML page, and one picture that shows both."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from advreg.report import formatting
from advreg.report.facts import Facts, ThreatFacts
from advreg.report.gallery import data_uri, signed_colours
from advreg.report.html import render

SIDE = 320
"""Pixels of a picture's side in the page; the files beside it have full size."""
GAP = 8
"""Pixels between the pictures of `side_by_side`."""

Picture = NDArray[np.uint8]  # (H, W, 1 or 3)


@dataclass(frozen=True, eq=False)
class Photograph:
    """One photograph before and after.

    Attributes:
        name: file name.
        before, after: bytes ``(H, W, C)`` that the model classified.
        top_before, top_after: (class, confidence), the most confident first.
        followed: (class, confidence before, confidence after) of the class predicted before, and of the target or the class
            predicted after.
        target: the target class; empty for an untargeted attack.
        reached: whether the attack succeeded.
        linf, l2: size of the change, for pixels in [0, 1].
    """

    name: str
    before: Picture
    after: Picture
    top_before: Sequence[tuple[str, float]]
    top_after: Sequence[tuple[str, float]]
    followed: Sequence[tuple[str, float, float]]
    target: str
    reached: bool
    linf: float
    l2: float

    @property
    def magnified(self) -> float:
        """Factor by which the change is magnified in pictures."""
        return 1 / self.linf if self.linf else 1.0


def page(photographs: Sequence[Photograph], threat: ThreatFacts, facts: Facts) -> str:
    """Return a self-contained HTML page about attacked photographs.

    Args:
        photographs: at least one.
        threat: the threat model of the attack.
        facts: settings that the page lists, such as model, steps and seed.

    Returns:
        The HTML text.
    """
    shown = [
        (photo, data_uri(photo.before, SIDE), data_uri(_change(photo), SIDE), data_uri(photo.after, SIDE))
        for photo in photographs
    ]
    return render("photographs.html.j2", shown=shown, verdict=verdict, threat=threat, facts=list(facts.items()))


def side_by_side(photo: Photograph) -> bytes:
    """Return a PNG that shows the photograph before, the change magnified, and the photograph after.

    Args:
        photo: the photograph before and after.

    Returns:
        Bytes of the PNG.
    """
    parts = [_rgb(photo.before), _rgb(_on_white(_change(photo))), _rgb(photo.after)]
    height = parts[0].shape[0]
    gap = np.full((height, GAP, 3), 255, np.uint8)
    joined = np.concatenate([parts[0], gap, parts[1], gap, parts[2]], axis=1)
    buffer = io.BytesIO()
    Image.fromarray(joined).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def verdict(photo: Photograph) -> str:
    """Describe the outcome of an attack: the most confident class before and after, and a target that was missed.

    Args:
        photo: the photograph before and after.

    Returns:
        One sentence.
    """
    before, after = photo.top_before[0], photo.top_after[0]
    changed = f"{before[0]} ({formatting.percent(before[1])}) became {after[0]} ({formatting.percent(after[1])})"
    missed = f", not {photo.target}" if photo.target and not photo.reached else ""
    return changed + missed if before[0] != after[0] else f"still {after[0]} ({formatting.percent(after[1])}){missed}"


def _change(photo: Photograph) -> Picture:
    change = (photo.after.astype(np.float64) - photo.before.astype(np.float64)) / 255 * photo.magnified
    return signed_colours(change.transpose(2, 0, 1))


def _on_white(picture: Picture) -> Picture:
    if picture.shape[2] != 4:
        return picture
    share = picture[..., 3:].astype(np.float64) / 255
    mixed: Picture = np.rint(picture[..., :3] * share + 255 * (1 - share)).astype(np.uint8)
    return mixed


def _rgb(picture: Picture) -> Picture:
    return np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture
