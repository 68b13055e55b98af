"""The states of an example and of a model version, and the transitions between them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from advreg.errors import HardeningError


class ExampleStatus(StrEnum):
    """State of a submitted example."""

    RECEIVED = "received"
    QUARANTINED = "quarantined"
    REVIEWED = "reviewed"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    IN_SNAPSHOT = "in snapshot"
    REVOKED = "revoked"


class ModelStatus(StrEnum):
    """Stage of a model version; a trusted version comes from an admin and has not passed the gate."""

    TRUSTED = "trusted"
    TRAINED = "trained"
    EVALUATED = "evaluated"
    PASSED = "passed"
    REFUSED = "refused"
    CHAMPION = "champion"
    PREVIOUS = "previous"
    RETIRED = "retired"


TRANSITIONS: Mapping[ExampleStatus, frozenset[ExampleStatus]] = {
    ExampleStatus.RECEIVED: frozenset({ExampleStatus.QUARANTINED}),
    ExampleStatus.QUARANTINED: frozenset({ExampleStatus.REVIEWED, ExampleStatus.REJECTED}),
    ExampleStatus.REVIEWED: frozenset({ExampleStatus.QUARANTINED, ExampleStatus.REJECTED, ExampleStatus.ACCEPTED}),
    ExampleStatus.REJECTED: frozenset({ExampleStatus.QUARANTINED}),
    ExampleStatus.ACCEPTED: frozenset({ExampleStatus.IN_SNAPSHOT, ExampleStatus.REVOKED}),
    ExampleStatus.IN_SNAPSHOT: frozenset({ExampleStatus.REVOKED}),
    ExampleStatus.REVOKED: frozenset(),
}
"""State -> the states that may follow; a reviewer's undo leads back to quarantine."""

STAGES: Mapping[ModelStatus, frozenset[ModelStatus]] = {
    ModelStatus.TRUSTED: frozenset({ModelStatus.CHAMPION}),
    ModelStatus.TRAINED: frozenset({ModelStatus.EVALUATED}),
    ModelStatus.EVALUATED: frozenset({ModelStatus.PASSED, ModelStatus.REFUSED}),
    ModelStatus.PASSED: frozenset({ModelStatus.CHAMPION, ModelStatus.EVALUATED}),
    ModelStatus.REFUSED: frozenset(),
    ModelStatus.CHAMPION: frozenset({ModelStatus.PREVIOUS, ModelStatus.RETIRED}),
    ModelStatus.PREVIOUS: frozenset({ModelStatus.CHAMPION, ModelStatus.RETIRED}),
    ModelStatus.RETIRED: frozenset(),
}
"""Stage -> the stages that may follow. A champion that is rolled back is retired. A version that passed the gate against a
former champion is evaluated again."""


def check_transition(what: str, before: StrEnum, after: StrEnum) -> None:
    """Raise unless the tables above allow a transition.

    Args:
        what: the example or the model, for the error message.
        before: its state now.
        after: the state it should have.

    Raises:
        HardeningError: the transition is not allowed; the message lists the allowed ones.

    Example:
        >>> check_transition("example 1f", ExampleStatus.RECEIVED, ExampleStatus.ACCEPTED)
        Traceback (most recent call last):
        advreg.errors.HardeningError: example 1f is received and cannot become accepted; allowed from there: quarantined
    """
    allowed = TRANSITIONS[before] if isinstance(before, ExampleStatus) else STAGES[ModelStatus(before)]
    if after not in allowed:
        known = ", ".join(sorted(allowed)) or "nothing, it is final"
        raise HardeningError(f"{what} is {before} and cannot become {after}; allowed from there: {known}")
