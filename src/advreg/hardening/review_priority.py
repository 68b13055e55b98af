"""Order of the review queue. The priority accepts and rejects nothing: attackers evade a detector that they know."""

from __future__ import annotations

from collections.abc import Sequence


def review_priority(scores: Sequence[float] | None, *, near_attack: bool = False) -> float:
    """Return how early an example should be reviewed, from 0 to 2.

    ``(1 - margin) + [resembles a known attack]``, where the margin is the largest minus the second largest probability, and
    0.5 without scores. `advreg.hardening.model_disagreement` adds 1 if the previous champion disagrees.

    Args:
        scores: the deployed model's probabilities; None if the client sent none.
        near_attack: whether the example resembles one that was accepted before.

    Example:
        >>> review_priority([0.5, 0.4, 0.1]), review_priority([1.0, 0.0], near_attack=True), review_priority(None)
        (0.9, 1.0, 0.5)
    """
    ordered = sorted(scores or (), reverse=True)
    doubt = 1 - min(max(ordered[0] - ordered[1], 0.0), 1.0) if len(ordered) > 1 else 0.5
    return doubt + near_attack
