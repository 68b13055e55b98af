"""Selection of training examples under caps: pure functions, so that every bound holds by construction.

    label by a reviewer, never by the submitter -> quarantine is over -> one example per cluster -> caps -> snapshot

No defence resists an unbounded share of poisoned data or of malicious reviewers, so the caps bound that share.
"""

from __future__ import annotations

import hashlib
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
        window: seconds; half the room under every cap is for the newest window.
        cluster: number (not share) of examples from one cluster of near-duplicates with one label; as many again if the
            deployed model predicted them wrongly, so that a harmless near-duplicate excludes no attack.
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
    window: float = 30 * DAY

    def __post_init__(self) -> None:
        shares = {**_shares(self), "reviewer": self.reviewer, "label_loss": self.label_loss}
        for name, share in shares.items():
            if not 0 <= share < 1:
                raise HardeningError(f"cap {name} is {share}; allowed: a share from 0 up to 1, such as 0.01")
        if not self.window > 0:
            raise HardeningError(f"cap window is {self.window} seconds; allowed: above 0, such as 30 days")
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
        prediction: the deployed model's class; None for a text.
    """

    id: str
    label: int
    reviewers: tuple[str, ...]
    principal: str
    tier: str
    cluster: int
    received_at: float
    prediction: int | None = None

    @property
    def wrong(self) -> bool:
        """Return whether the deployed model predicted another class than the reviewers' label."""
        return self.prediction is not None and self.prediction != self.label


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
    """Choose candidates for a snapshot so that no submission can exceed a cap, nor keep later ones out.

    Up to half the room under every cap is for candidates of the newest window, then older ones, then the rest of the newest
    fill what is left. So a cap that is full is not full for ever, and old attacks are not displaced by a flood of new ones.
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
    half = {name: count - count // 2 for name, count in room.items()}
    fresh, older = _by_window(candidates, caps.window)
    filling = _Filling(caps)
    filling.add(_in_turn(fresh, older), half)
    filling.add(_in_turn(older, ()), room)
    filling.add(_in_turn(fresh, older), room)
    return Selection(tuple(sorted(filling.chosen.values(), key=lambda c: c.id)), filling.left_out)


def _by_window(candidates: Sequence[Candidate], seconds: float) -> tuple[list[Candidate], list[Candidate]]:
    """Return the candidates of the newest window, and the older ones. Time alone moves none: windows end with new receipts."""
    newest = max((c.received_at // seconds for c in candidates), default=0.0)
    fresh = [c for c in candidates if c.received_at // seconds == newest]
    return fresh, [c for c in candidates if c.received_at // seconds != newest]


class _Filling:
    """A selection being filled: the chosen candidates, and how much of each cap they use."""

    def __init__(self, caps: Caps) -> None:
        self.caps = caps
        self.used: Counter[tuple[str, object]] = Counter()
        self.chosen: dict[str, Candidate] = {}
        self.left_out: dict[str, str] = {}

    def add(self, candidates: Sequence[Candidate], room: Mapping[str, int]) -> None:
        """Choose each candidate in order, unless it is chosen already or a cap has no room for it."""
        for candidate in candidates:
            if candidate.id in self.chosen:
                continue
            limits = _limits(candidate, room, self.caps)
            full = next((cap for cap, limit in limits if self.used[cap] >= limit), None)
            if full is not None:
                self.left_out[candidate.id] = full[0]
                continue
            self.chosen[candidate.id] = candidate
            self.left_out.pop(candidate.id, None)
            self.used.update(cap for cap, _ in limits)


def _shares(caps: Caps) -> dict[str, float]:
    return {"total": caps.total, "principal": caps.principal, "label": caps.label, **caps.tiers}


def _limits(candidate: Candidate, room: Mapping[str, int], caps: Caps) -> list[tuple[tuple[str, object], int]]:
    """Return every cap that applies to a candidate with its limit, the narrowest kind first."""
    found: list[tuple[tuple[str, object], int]] = [
        (("cluster", (candidate.cluster, candidate.label, candidate.wrong)), caps.cluster),
        (("principal", candidate.principal), room["principal"]),
        (("label", candidate.label), room["label"]),
        (("total", ""), room["total"]),
    ]
    tier = candidate.tier
    return [*found, (("tier", tier), room[tier])] if tier in caps.tiers else found


def _in_turn(candidates: Sequence[Candidate], known: Sequence[Candidate]) -> list[Candidate]:
    """Return candidates by trust, errors of the deployed model first, and principals in turn, so that no flood excludes others.

    A principal's own candidates take turns over its kinds of error. Ties are drawn by lot: the lot depends on the examples
    received before, so that no submitter can place its own first.
    """
    salt = hashlib.sha256("".join(sorted(c.id for c in known)).encode()).hexdigest()
    lot = {c.id: hashlib.sha256((salt + c.id).encode()).digest() for c in candidates}
    drawn = sorted(candidates, key=lambda c: lot[c.id])
    turn = _turns(_rounds(drawn))
    return sorted(drawn, key=lambda c: (TIERS.index(c.tier), not c.wrong, turn[c.id], lot[c.id]))


def _rounds(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates so that a principal's kinds of error take turns, wrong predictions first."""
    seen: Counter[tuple[str, str, int, int | None]] = Counter()
    placed = []
    for k, c in enumerate(candidates):
        kind = (c.tier, c.principal, c.label, c.prediction)
        placed.append((not c.wrong, seen[kind], k, c))
        seen[kind] += 1
    return [c for *_, c in sorted(placed, key=lambda p: p[:3])]


def _turns(candidates: Sequence[Candidate]) -> dict[str, int]:
    """Return for each candidate the number of its principal's candidates before it."""
    seen: Counter[tuple[str, str]] = Counter()
    turns = {}
    for c in candidates:
        turns[c.id] = seen[c.tier, c.principal]
        seen[c.tier, c.principal] += 1
    return turns
