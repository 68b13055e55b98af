"""Attacked signals as curves: clean and attacked together, and the change below them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from advreg.report.facts import EvaluationFacts

CARDS, CHANNELS = 12, 3
"""Signals that a report shows, and the first channels of each."""
WIDTH, HEIGHT = 320, 64
"""Size of a curve in the units of its drawing."""
_POINTS = 320  # columns of a curve; a longer signal shows the ends of each column

Wave = NDArray[np.float64]


@dataclass(frozen=True)
class WaveCard:
    """One attacked signal as the page shows it.

    Attributes:
        id: of the example.
        label, predicted: names of the true class and of the prediction under attack.
        attack: name of the attack that broke it.
        linf, l2: size of the change, in the units of the data.
        ratio: signal-to-noise ratio of the change in dB, without the mean; infinite where nothing changed.
        magnified: factor by which the change is magnified.
        channels: one drawing for each channel.
    """

    id: int
    label: str
    predicted: str
    attack: str
    linf: float
    l2: float
    ratio: float
    magnified: float
    channels: tuple[Markup, ...]


def wave_cards(evaluation: EvaluationFacts) -> list[WaveCard]:
    """Return signals that attacks broke, as curves; none for other data.

    Args:
        evaluation: the evaluation, with its stored examples ``(K, C, T)``.

    Returns:
        At most `CARDS` cards, in their order.
    """
    examples = evaluation.examples
    if examples is None or examples.clean.ndim != 3:
        return []
    rows = np.flatnonzero(examples.broken & (examples.clean_predicted == examples.labels))[:CARDS]
    return [_card(evaluation, int(row)) for row in rows]


def _card(evaluation: EvaluationFacts, row: int) -> WaveCard:
    examples, names = evaluation.examples, evaluation.classes
    assert examples is not None
    clean, attacked = examples.clean[row].astype(np.float64), examples.adversarial[row].astype(np.float64)
    change, attack = attacked - clean, int(examples.attack[row])
    most, spread = float(np.abs(change).max(initial=0.0)), float(np.ptp(clean)) or 1.0
    magnified = spread / (2 * most) if most else 1.0
    noise, signal = float((change**2).sum()), float(((clean - clean.mean()) ** 2).sum())
    return WaveCard(
        id=int(examples.ids[row]),
        label=_name(names, int(examples.labels[row])),
        predicted=_name(names, int(examples.adversarial_predicted[row])),
        attack=evaluation.attacks[attack].name if 0 <= attack < len(evaluation.attacks) else "",
        linf=most,
        l2=math.sqrt(noise),
        ratio=10 * math.log10(signal / noise) if noise and signal else math.inf,
        magnified=magnified,
        channels=tuple(draw(clean[k], attacked[k], change[k] * magnified) for k in range(min(CHANNELS, len(clean)))),
    )


def _name(names: tuple[str, ...], label: int) -> str:
    return names[label] if 0 <= label < len(names) else str(label)


def draw(clean: Wave, attacked: Wave, change: Wave) -> Markup:
    """Return one channel as SVG: the attacked curve over the clean one, and the change under both.

    Args:
        clean: the signal ``(T,)``.
        attacked: the attacked signal ``(T,)``.
        change: the magnified change ``(T,)``.

    Returns:
        The drawing, coloured by the style sheet of the page.

    Example:
        >>> draw(np.zeros(2), np.ones(2), np.ones(2)).count("<polyline")
        3
    """
    both = np.concatenate([clean, attacked])
    curves = (("clean", clean, both, 0), ("broken", attacked, both, 0), ("faint", change, change, HEIGHT))
    lines = [
        f'<polyline fill="none" stroke="var(--{colour})" stroke-width="1.2" points="{_points(wave, frame, top)}"/>'
        for colour, wave, frame, top in curves
    ]
    label = "clean and attacked signal, and the magnified change below"
    size = f'viewBox="0 0 {WIDTH} {2 * HEIGHT}" role="img" aria-label="{label}"'
    return Markup(f'<svg class="wave" {size}>{"".join(lines)}</svg>')  # numbers alone


def _points(wave: Wave, frame: Wave, top: int) -> str:
    """Return the corners of a curve, scaled to the ends of ``frame``."""
    low, high = float(frame.min()), float(frame.max())
    unit = (HEIGHT - 6) / ((high - low) or 1.0)
    x, y = _columns(wave)
    return " ".join(f"{a:.1f},{top + 3 + (high - b) * unit:.1f}" for a, b in zip(x, y, strict=True))


def _columns(wave: Wave) -> tuple[Wave, Wave]:
    """Return places and values of a curve; of a long one, the lowest and the highest value of each column."""
    if len(wave) <= 2 * _POINTS:
        return np.linspace(0, WIDTH, max(len(wave), 2))[: len(wave)], wave
    parts = np.array_split(wave, _POINTS)
    ends = np.array([(part.min(), part.max()) for part in parts])
    return np.repeat(np.linspace(0, WIDTH, _POINTS), 2), ends.reshape(-1)
