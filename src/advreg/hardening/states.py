"""The states of an example and of a model version, and the only ways from one to another."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from advreg.errors import HardeningError


class State(StrEnum):
    """Where a submitted example stands."""

    RECEIVED = "received"
    QUARANTINED = "quarantined"
    REVIEWED = "reviewed"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    IN_SNAPSHOT = "in snapshot"
    REVOKED = "revoked"


class Stage(StrEnum):
    """Where a model version stands; a trusted one was handed in by an admin and has passed no gate."""

    TRUSTED = "trusted"
    TRAINED = "trained"
    EVALUATED = "evaluated"
    PASSED = "passed"
    REFUSED = "refused"
    CHAMPION = "champion"
    PREVIOUS = "previous"
    RETIRED = "retired"


TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.RECEIVED: frozenset({State.QUARANTINED}),
    State.QUARANTINED: frozenset({State.REVIEWED, State.REJECTED}),
    State.REVIEWED: frozenset({State.QUARANTINED, State.REJECTED, State.ACCEPTED}),
    State.REJECTED: frozenset({State.QUARANTINED}),
    State.ACCEPTED: frozenset({State.IN_SNAPSHOT, State.REVOKED}),
    State.IN_SNAPSHOT: frozenset({State.REVOKED}),
    State.REVOKED: frozenset(),
}
"""State -> the states that may follow; back to quarantine is a reviewer's undo."""

STAGES: Mapping[Stage, frozenset[Stage]] = {
    Stage.TRUSTED: frozenset({Stage.CHAMPION}),
    Stage.TRAINED: frozenset({Stage.EVALUATED}),
    Stage.EVALUATED: frozenset({Stage.PASSED, Stage.REFUSED}),
    Stage.PASSED: frozenset({Stage.CHAMPION, Stage.EVALUATED}),
    Stage.REFUSED: frozenset(),
    Stage.CHAMPION: frozenset({Stage.PREVIOUS, Stage.RETIRED}),
    Stage.PREVIOUS: frozenset({Stage.CHAMPION, Stage.RETIRED}),
    Stage.RETIRED: frozenset(),
}
"""Stage -> the stages that may follow; a champion that was rolled back is retired, one that passed against another champion
than reigns now is compared again."""


def check_transition(what: str, before: StrEnum, after: StrEnum) -> None:
    """Refuse a step that the tables above do not hold.

    Raises:
        HardeningError: one line with the step and those that are allowed.

    Example:
        >>> check_transition("example 1f", State.RECEIVED, State.ACCEPTED)
        Traceback (most recent call last):
        advreg.errors.HardeningError: example 1f is received and cannot become accepted; allowed from there: quarantined
    """
    allowed = TRANSITIONS[before] if isinstance(before, State) else STAGES[Stage(before)]
    if after not in allowed:
        known = ", ".join(sorted(allowed)) or "nothing, it is final"
        raise HardeningError(f"{what} is {before} and cannot become {after}; allowed from there: {known}")
