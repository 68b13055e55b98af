"""Selection of training examples under caps: pure functions, so that every bound holds by construction.

    label by a reviewer, never by the submitter -> quarantine is over -> one example per cluster -> caps -> snapshot

No defence resists an unbounded share of poisoned data or of malicious reviewers, so the caps bound that share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from advreg.errors import HardeningError

TIERS = ("internal", "reviewed", "customer", "anonymous")
"""Tiers of trust, most trusted first; an example becomes ``reviewed`` when a second reviewer confirms its label."""

DAY = 86_400.0


@dataclass(frozen=True)
class Caps:
    """Largest share of a snapshot, and of the training loss, that may come from each source.

    Shares of a snapshot count clean and submitted examples together; `advreg.hardening.influence` bounds the loss.

    Attributes:
        total: of all submitted examples.
        principal: of the examples of one principal.
        label: of the examples of one class.
        tiers: of the examples of one tier, for tiers with a cap of their own.
        reviewer: of the loss, of the examples that one reviewer labelled.
        label_loss: of the loss, of the examples of one class: a backdoor needs one class only.
        cluster: number (not share) of examples from one cluster of near-duplicates.
        quarantine: seconds that an example waits, so that campaigns show up as clusters before they train anything.
    """

    total: float = 0.05
    principal: float = 0.01
    label: float = 0.01
    tiers: Mapping[str, float] = field(default_factory=lambda: {"customer": 0.03, "anonymous": 0.005})
    cluster: int = 1
    quarantine: float = 7 * DAY
    reviewer: float = 0.03
    label_loss: float = 0.005

    def __post_init__(self) -> None:
        shares = {**_shares(self), "reviewer": self.reviewer, "label_loss": self.label_loss}
        for name, share in shares.items():
            if not 0 <= share < 1:
                raise HardeningError(f"cap {name} is {share}; allowed: a share from 0 up to 1, such as 0.01")
        for name in self.tiers:
            if name not in TIERS:
                raise HardeningError(f"cap for tier {name!r}; allowed: {', '.join(TIERS)}")


@dataclass(frozen=True)
class Candidate:
    """A reviewed example with the facts that selection uses.

    Attributes:
        id: SHA-256 of its bytes.
        label: the reviewers' label.
        reviewers: the reviewers' names.
        principal: the user it was submitted for.
        tier: the trust in that user; one of `TIERS`.
        cluster: id of its cluster of near-duplicates.
        received_at: seconds since 1970.
    """

    id: str
    label: int
    reviewers: tuple[str, ...]
    principal: str
    tier: str
    cluster: int
    received_at: float

    @property
    def rank(self) -> tuple[int, float, str]:
        """The order of selection: trust, then age."""
        return TIERS.index(self.tier), self.received_at, self.id


def quarantine_over(candidate: Candidate, now: float, caps: Caps) -> bool:
    """Return whether an example's quarantine is over; internal examples need none.

    Args:
        candidate: the example.
        now: seconds since 1970.
        caps: its ``quarantine`` is the wait in seconds.
    """
    return candidate.tier == "internal" or now - candidate.received_at >= caps.quarantine


@dataclass(frozen=True)
class Selection:
    """The candidates in a snapshot, and for each excluded candidate the cap that excluded it."""

    chosen: tuple[Candidate, ...]
    left_out: Mapping[str, str]


def select(candidates: Sequence[Candidate], clean: int, caps: Caps) -> Selection:
    """Choose candidates for a snapshot, principals in turn, so that no submission can exceed a cap.

    Shares are taken of the clean examples alone, so they also hold for the whole, larger snapshot.

    Args:
        candidates: accepted examples, each once.
        clean: number of trusted examples.
        caps: the bounds.

    Returns:
        The chosen candidates by id, and the cap that excluded each of the others.

    Example:
        >>> flood = [Candidate(f"{k:064x}", 3, ("ann",), "eve", "customer", k, 0.0) for k in range(10_000)]
        >>> len(select(flood, clean=10_000, caps=Caps(principal=0.002)).chosen)
        20
    """
    room = {name: int(share * clean) for name, share in _shares(caps).items()}
    used: Counter[tuple[str, object]] = Counter()
    chosen, left_out = [], {}
    for candidate in _in_turn(candidates):
        full = next((cap for cap, limit in _limits(candidate, room, caps) if used[cap] >= limit), None)
        if full is not None:
            left_out[candidate.id] = full[0]
            continue
        chosen.append(candidate)
        used.update(cap for cap, _ in _limits(candidate, room, caps))
    return Selection(tuple(sorted(chosen, key=lambda c: c.id)), left_out)


def _shares(caps: Caps) -> dict[str, float]:
    return {"total": caps.total, "principal": caps.principal, "label": caps.label, **caps.tiers}


def _limits(candidate: Candidate, room: Mapping[str, int], caps: Caps) -> list[tuple[tuple[str, object], int]]:
    """Return every cap that applies to a candidate with its limit, the narrowest kind first."""
    found: list[tuple[tuple[str, object], int]] = [
        (("cluster", candidate.cluster), caps.cluster),
        (("principal", candidate.principal), room["principal"]),
        (("label", candidate.label), room["label"]),
        (("total", ""), room["total"]),
    ]
    tier = candidate.tier
    return [*found, (("tier", tier), room[tier])] if tier in caps.tiers else found


def _in_turn(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates by trust, and principals in turn within a tier, so that a flood from one excludes no other."""
    turns: Counter[tuple[str, str]] = Counter()
    placed = []
    for candidate in sorted(candidates, key=lambda c: c.rank):
        turn = turns[candidate.tier, candidate.principal]
        turns[candidate.tier, candidate.principal] += 1
        placed.append((candidate.rank[0], turn, candidate.rank, candidate))
    return [candidate for *_, candidate in sorted(placed, key=lambda p: p[:3])]
