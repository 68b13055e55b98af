"""Consensus of reviewers: what their labels together say of an example; a pure function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from advreg.hardening.states import ExampleStatus


@dataclass(frozen=True)
class Consensus:
    """The state that follows from reviews.

    Attributes:
        state: quarantined (undecided), reviewed or rejected.
        label: the class that most reviewers chose; None if undecided or rejected.
        confirmed: whether at least two reviewers chose it.
    """

    state: ExampleStatus
    label: int | None = None
    confirmed: bool = False


def consensus_of(labels: Sequence[int | None]) -> Consensus:
    """Return the consensus of reviewers, each with one vote.

    The choice with the most votes holds, and a tie is undecided. One reviewer against two changes nothing, two against two
    return the example to quarantine, and three against two overturn them.

    Args:
        labels: the class that each reviewer chose, None for a rejection.

    Returns:
        State, label and confirmation.

    Example:
        >>> consensus_of([7, 7, 8])
        Consensus(state=<ExampleStatus.REVIEWED: 'reviewed'>, label=7, confirmed=True)
        >>> consensus_of([7, 7, None, None]).state.value
        'quarantined'
    """
    ranked = Counter(labels).most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return Consensus(ExampleStatus.QUARANTINED)
    (label, votes), *_ = ranked
    if label is None:
        return Consensus(ExampleStatus.REJECTED)
    return Consensus(ExampleStatus.REVIEWED, label, votes > 1)
