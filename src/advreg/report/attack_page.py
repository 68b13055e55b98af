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
from advreg.report.gallery import data_uri, signed
from advreg.report.html import render

SIDE = 320  # of a picture in the page; the files beside it are whole
GAP = 8

Picture = NDArray[np.uint8]  # (H, W, 1 or 3)


@dataclass(frozen=True, eq=False)
class Photograph:
    """One photograph before and after.

    Attributes:
        name: of its file.
        before, after: (H, W, C) bytes as the model saw them.
        said_before, said_after: (class, confidence), the likeliest first.
        followed: (class, confidence before, after) of the class that was seen and of the one that is wanted or seen now.
        wanted: the class that the attack aimed at, empty where it aimed at any other.
        reached: whether the model was fooled as wanted.
        linf, l2: size of the change, in units of pixels in [0, 1].
    """

    name: str
    before: Picture
    after: Picture
    said_before: Sequence[tuple[str, float]]
    said_after: Sequence[tuple[str, float]]
    followed: Sequence[tuple[str, float, float]]
    wanted: str
    reached: bool
    linf: float
    l2: float

    @property
    def magnified(self) -> float:
        """By how much the change is magnified where it is shown."""
        return 1 / self.linf if self.linf else 1.0


def page(photographs: Sequence[Photograph], threat: ThreatFacts, facts: Facts) -> str:
    """Return the HTML page, which loads nothing.

    Args:
        photographs: at least one.
        threat: what the attack was allowed.
        facts: model, steps, seed and whatever else was chosen, as the page lists it.
    """
    shown = [
        (photo, data_uri(photo.before, SIDE), data_uri(_change(photo), SIDE), data_uri(photo.after, SIDE))
        for photo in photographs
    ]
    return render("photographs.html.j2", shown=shown, verdict=verdict, threat=threat, facts=list(facts.items()))


def side_by_side(photo: Photograph) -> bytes:
    """Return a PNG: before, the change magnified, and after."""
    parts = [_rgb(photo.before), _rgb(_on_white(_change(photo))), _rgb(photo.after)]
    height = parts[0].shape[0]
    gap = np.full((height, GAP, 3), 255, np.uint8)
    joined = np.concatenate([parts[0], gap, parts[1], gap, parts[2]], axis=1)
    buffer = io.BytesIO()
    Image.fromarray(joined).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def verdict(photo: Photograph) -> str:
    """Say in words what became of a photograph."""
    before, after = photo.said_before[0], photo.said_after[0]
    told = f"{before[0]} ({formatting.percent(before[1])}) became {after[0]} ({formatting.percent(after[1])})"
    missed = f", not {photo.wanted}" if photo.wanted and not photo.reached else ""
    return told + missed if before[0] != after[0] else f"still {after[0]} ({formatting.percent(after[1])}){missed}"


def _change(photo: Photograph) -> Picture:
    change = (photo.after.astype(np.float64) - photo.before.astype(np.float64)) / 255 * photo.magnified
    return signed(change.transpose(2, 0, 1))


def _on_white(picture: Picture) -> Picture:
    if picture.shape[2] != 4:
        return picture
    share = picture[..., 3:].astype(np.float64) / 255
    mixed: Picture = np.rint(picture[..., :3] * share + 255 * (1 - share)).astype(np.uint8)
    return mixed


def _rgb(picture: Picture) -> Picture:
    return np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture
