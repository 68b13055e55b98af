"""In which order examples are reviewed. A score decides nothing: detectors are broken by those who know them."""

from __future__ import annotations

from collections.abc import Sequence


def review_priority(
    scores: Sequence[float] | None, *, disagrees: bool | None = None, near_attack: bool = False
) -> float:
    """Return how early an example should be looked at, from 0 to 3.

    ``(1 - margin) + [champion and previous champion disagree] + [looks like a known attack]``, where the margin is the
    largest minus the second largest probability; where no scores were given, one half stands for it.

    Args:
        scores: the deployed model's probabilities.
        disagrees: whether the previous champion says something else; None where nobody asked it.
        near_attack: whether the image looks like one that was accepted before.

    Example:
        >>> suspicion([0.9, 0.1, 0.0]) < suspicion([0.5, 0.4, 0.1]) < suspicion([0.9, 0.1, 0.0], near_attack=True)
        True
    """
    ordered = sorted(scores or (), reverse=True)
    doubt = 1 - min(max(ordered[0] - ordered[1], 0.0), 1.0) if len(ordered) > 1 else 0.5
    return doubt + bool(disagrees) + near_attack
