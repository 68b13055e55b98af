"""The decision of the gate, its rules and its tests, and the file ``decision.json`` with its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from advreg.errors import HardeningError
from advreg.runs import RunFolder

SCHEMA = "advreg/decision@1"
EVIDENCE = ("diagnosis", "incidents", "canaries", "trigger", "pattern", "activations", "drift")

Verdict = Literal["PROMOTE", "REFUSED", "UNRELIABLE", "UNDERPOWERED"]


@dataclass(frozen=True)
class Rules:
    """The rules of the gate, declared before the comparison.

    Attributes:
        clean_margin: accepted loss of clean accuracy.
        slice_margin: accepted loss of accuracy on each slice.
        alpha: level of the superiority test, and of the non-inferiority tests together.
        classes: classes with a separate guard of their clean accuracy.
        slices: further guarded slices, name -> example ids.
        waivers: SHA-256 of incidents that the challenger may get wrong.
        require: required evidence: any of ``diagnosis incidents canaries trigger pattern activations drift``.
    """

    clean_margin: float = 0.01
    slice_margin: float = 0.05
    alpha: float = 0.05
    classes: Sequence[int] = ()
    slices: Mapping[str, Sequence[int]] = field(default_factory=dict)
    waivers: Sequence[str] = ()
    require: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("clean_margin", "slice_margin", "alpha"):
            if not 0 < getattr(self, name) < 1:
                raise HardeningError(f"{name} is {getattr(self, name)}; allowed: between 0 and 1, such as 0.01")
        for name in self.require:
            if name not in EVIDENCE:
                raise HardeningError(f"require is {name!r}; allowed: {', '.join(EVIDENCE)}")


@dataclass(frozen=True)
class Test:
    """One condition of the gate.

    Attributes:
        name: the tested property.
        passed: whether the condition holds.
        says: one line with the numbers.
        p_value: p-value of a statistical test, adjusted for multiplicity; None for a check without statistics.
        estimate: challenger minus champion; None for a check without statistics.
        interval: 95% interval of the estimate; None for a check without statistics.
        underpowered: whether it failed only because there are too few examples.
        control: the MITRE ATLAS mitigation that it implements.
    """

    __test__ = False  # not one of pytest's

    name: str
    passed: bool
    says: str
    p_value: float | None = None
    estimate: float | None = None
    interval: tuple[float, float] | None = None
    underpowered: bool = False
    control: str = "AML.M0008"


@dataclass(frozen=True)
class Decision:
    """Whether to promote the challenger, and why.

    Attributes:
        promote: whether the challenger may replace the champion.
        verdict: ``PROMOTE``, ``REFUSED``, ``UNRELIABLE`` (the figures cannot be trusted), ``UNDERPOWERED`` (too few examples).
        reasons: one line for each condition that does not hold; empty if all hold.
        plan: the power analysis, fixed before the comparison.
        tests: every condition.
        champion: summary of the champion's results.
        challenger: summary of the challenger's results.
        rules: the declared rules.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    plan: tuple[str, ...]
    tests: tuple[Test, ...]
    champion: Mapping[str, Any]
    challenger: Mapping[str, Any]
    rules: Rules

    @property
    def promote(self) -> bool:
        """Return whether the verdict is ``PROMOTE``."""
        return self.verdict == "PROMOTE"

    def record(self) -> dict[str, Any]:
        """Return the content of decision.json, its hash last."""
        plain = {"schema": SCHEMA, "promote": self.promote, **asdict(self)}
        return {**plain, "sha256": hash_of(plain)}

    @property
    def sha256(self) -> str:
        """The SHA-256 of everything in the record."""
        return str(self.record()["sha256"])

    def write(self, folder: str | Path) -> Path:
        """Write ``decision.json`` into a folder and return its path."""
        return RunFolder.at(folder).write_json("decision.json", self.record())


def hash_of(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a record's canonical JSON text, without the key ``sha256``.

    Args:
        record: content of decision.json.

    Example:
        >>> hash_of({"a": (1, 2)}) == hash_of({"a": [1, 2], "sha256": "..."})
        True
    """
    plain = {key: value for key, value in record.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
