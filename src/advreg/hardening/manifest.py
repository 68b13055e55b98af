"""The manifest of a snapshot: what a challenger is trained on, with labels, reviewers and shares of the loss."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from advreg.hardening.data_selection import Caps, Selection
from advreg.hardening.influence import equal_shares, share_of_groups


@dataclass(frozen=True)
class Snapshot:
    """The immutable record of a challenger's training examples: hashes, labels, reviewers and the rule of admission.

    Attributes:
        id: ``s-0001`` and so on.
        base: SHA-256 of the trusted weights that training starts from.
        clean: name, SHA-256 and number of the trusted examples.
        caps: the bounds in force.
        members: the chosen examples, by id, each with its share of the training loss.
        left_out: cap -> number of examples it excluded.
        shares: the effective share of the loss: ``total principal label tier reviewer`` -> name -> share.
    """

    id: str
    base: str
    clean: Mapping[str, Any]
    caps: Mapping[str, Any]
    members: tuple[Mapping[str, Any], ...]
    left_out: Mapping[str, int]
    shares: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def text(self) -> str:
        """Return the manifest as canonical JSON: equal contents give equal text."""
        record = {"schema": "advreg/snapshot@1", **asdict(self)}
        return json.dumps(record, sort_keys=True, indent=1) + "\n"

    def sha256(self) -> str:
        """Return the SHA-256 of the manifest."""
        return hashlib.sha256(self.text().encode()).hexdigest()


def snapshot_of(
    name: str,
    selection: Selection,
    base: str,
    clean: Mapping[str, Any],
    caps: Caps,
    contents: Mapping[str, Mapping[str, Any]] | None = None,
) -> Snapshot:
    """Return the snapshot of a selection.

    Args:
        name: its id, such as ``s-0001``.
        selection: the chosen candidates.
        base: SHA-256 of the trusted weights.
        clean: name, SHA-256 and number of the trusted examples.
        caps: the bounds in force.
        contents: example id -> further keys of its entry; ``loss_share`` where training does not treat examples alike.

    Returns:
        The snapshot.
    """
    chosen, more = selection.chosen, contents or {}
    equal = equal_shares(chosen, int(clean["n"]))
    shares = {one.id: more.get(one.id, {}).get("loss_share", equal[one.id]) for one in chosen}
    rule = f"label by review, quarantine {caps.quarantine:g} s, {caps.cluster} a cluster, caps"
    members = tuple({**asdict(c), "reviewers": list(c.reviewers), "rule": rule, **more.get(c.id, {})} for c in chosen)
    caps_in_force = {key: dict(value) if isinstance(value, Mapping) else value for key, value in asdict(caps).items()}
    left_out = dict(Counter(selection.left_out.values()))
    return Snapshot(name, base, dict(clean), caps_in_force, members, left_out, share_of_groups(chosen, shares))
