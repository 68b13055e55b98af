"""Influence of submitted examples: each gets a share of the training loss, and no group of them exceeds its cap.

    maximise the smallest share  subject to  sum of the shares in g <= cap(g)  for every group g

Groups are all submitted examples, one principal, one class, one tier, one reviewer. A cap on the number of examples does not
bound their influence, because training draws them as often as it likes; a cap on their share of the loss does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from advreg.hardening.data_selection import Candidate, Caps

Group = tuple[str, str]
"""The kind of a group and its name, such as ``("principal", "user-17")``."""

_BELOW = 1 - 1e-9  # sums of rounded shares stay below the caps


def loss_shares(chosen: Sequence[Candidate], caps: Caps, replay: float) -> dict[str, float]:
    """Return each example's share of the training loss under the caps; the rest of the loss is the clean examples'.

    All shares rise together; an example stops when one of its groups has reached its cap (max-min fairness).

    Args:
        chosen: the examples of a snapshot.
        caps: the largest shares.
        replay: wanted share of all examples together; they get less if the caps allow less.

    Returns:
        Example id -> share of the loss.

    Example:
        >>> few = [Candidate(f"{k:064x}", k, ("ann",), "eve", "customer", k, 0.0) for k in range(4)]
        >>> round(sum(loss_shares(few, Caps(principal=0.01), replay=0.1).values()), 6)
        0.01

    Reference: Bertsekas and Gallager, "Data networks", 1992, section 6.5.2 (max-min flow control).
    """
    limits, members = _limits(chosen, caps, replay)
    share, rising = np.zeros(len(chosen)), np.ones(len(chosen), dtype=bool)
    while rising.any():
        count = members @ rising
        room = np.maximum(limits - members @ share, 0.0)
        share[rising] += np.min(room[count > 0] / count[count > 0])
        full = members @ share >= limits - 1e-12
        rising &= ~(members[full] > 0).any(0)
    return {one.id: float(value) for one, value in zip(chosen, share * _BELOW, strict=True)}


def equal_shares(chosen: Sequence[Candidate], clean: int) -> dict[str, float]:
    """Return the shares of a training that treats every example alike, submitted or clean.

    Args:
        chosen: the examples of a snapshot.
        clean: number of trusted examples.
    """
    return {one.id: 1 / (clean + len(chosen)) for one in chosen}


def share_of_groups(chosen: Sequence[Candidate], shares: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return the effective share of the loss of every group.

    Args:
        chosen: the examples of a snapshot.
        shares: example id -> share of the loss.

    Returns:
        Kind of group -> name -> share; the kinds are ``total principal label tier reviewer``.
    """
    found: dict[str, dict[str, float]] = {kind: defaultdict(float) for kind in _KINDS}
    for one in chosen:
        for kind, name in _groups(one):
            found[kind][name] += shares[one.id]
    return {kind: dict(sorted(part.items())) for kind, part in found.items()}


_KINDS = ("total", "principal", "label", "tier", "reviewer")


def _groups(one: Candidate) -> Iterator[Group]:
    yield "total", "all"
    yield "principal", one.principal
    yield "label", str(one.label)
    yield "tier", one.tier
    for reviewer in sorted(set(one.reviewers)):
        yield "reviewer", reviewer


def _limit(group: Group, caps: Caps, replay: float) -> float:
    kind, name = group
    if kind == "tier":
        return caps.tiers.get(name, caps.total)
    return {
        "total": min(caps.total, replay),
        "principal": caps.principal,
        "label": min(caps.label, caps.label_loss),
        "reviewer": caps.reviewer,
    }[kind]


def _limits(chosen: Sequence[Candidate], caps: Caps, replay: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the cap of every group ``(G,)`` and the membership of the examples in the groups ``(G, N)``."""
    row: dict[Group, int] = {}
    pairs = [(row.setdefault(group, len(row)), k) for k, one in enumerate(chosen) for group in _groups(one)]
    members = np.zeros((len(row), len(chosen)))
    for group, k in pairs:
        members[group, k] = 1.0
    return np.array([_limit(group, caps, replay) for group in row]), members
