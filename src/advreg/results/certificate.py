"""The result of a certification: which examples are proved, which are broken, which stay open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from advreg.threat import ThreatModel

SCHEMA = "advreg/certificate@1"


@dataclass(frozen=True, repr=False)
class MethodSummary:
    """One method of a certification.

    Attributes:
        name: ``"clean"``, ``"known"`` (another eps, another verifier), ``"ibp"``, ``"crown"``, ``"alpha"``, ``"ledger"`` (an
            evaluation in the same folder), ``"attack"``, ``"branch"``, ``"milp"`` or ``"smoothing"``.
        tried: examples that were undecided before it.
        proved: examples that it proved.
        broken: examples for which it found a counterexample, verified on the original model.
        seconds: processor seconds.
    """

    name: str
    tried: int
    proved: int
    broken: int
    seconds: float

    def __repr__(self) -> str:
        return f"MethodSummary({self.name}: proved {self.proved} and broke {self.broken} of {self.tried})"


@dataclass(frozen=True, repr=False)
class Certification:
    """Robust accuracy from both sides: proved from below, attacked from above; examples in neither are open.

    Attributes:
        protocol: frozen id, such as ``linf-0.1-certified@1``.
        threat: what the adversary was allowed.
        n: examples.
        seed: of the attacks' random draws.
        clean_accuracy: share classified correctly.
        certified_accuracy: share proved: correct for every valid input; the lower end.
        robust_accuracy: share not broken; the upper end.
        interval: joint 95% interval of the robust accuracy on the distribution: the exact lower end of the proved share and
            the exact upper end of the unbroken share, each at 97.5%.
        proved, broken, open: ``(N,)`` booleans; each example is exactly one of them.
        lower: lowest margin bound of each example, ``(N,)``; NaN where none was computed.
        by_method: one summary for each method, in order.
        forwards, backwards: example-forwards and example-backwards of attacks and verification.
        bound_passes: passes of bounds: 1 for an example's values, 2 for its intervals, 1 for each linear function that is taken
            back through the network.
        seconds: processor seconds.
        facts: budget, unstable neurons, dtype.
        model, data: SHA-256 of the weights, and the examples' fingerprint.
    """

    protocol: str
    threat: ThreatModel
    n: int
    seed: int
    clean_accuracy: float
    certified_accuracy: float
    robust_accuracy: float
    interval: tuple[float, float]
    proved: Tensor
    broken: Tensor
    open: Tensor
    lower: Tensor
    by_method: tuple[MethodSummary, ...]
    forwards: int
    backwards: int
    seconds: float
    facts: Mapping[str, Any] = field(default_factory=dict)
    bound_passes: int = 0
    model: str = ""
    data: str = ""

    def __repr__(self) -> str:
        return (
            f"Certification({self.protocol}, n={self.n}: between {self.certified_accuracy:.2%} (proved) and "
            f"{self.robust_accuracy:.2%} (attacked), {int(self.open.sum())} open)"
        )

    def record(self) -> dict[str, Any]:
        """Return the figures in the form of certificate.json."""
        hidden = ("proved", "broken", "open", "lower", "threat", "by_method", "facts")
        plain = {name: value for name, value in vars(self).items() if name not in hidden}
        return {
            "schema": SCHEMA,
            **plain,
            "threat": {"norm": self.threat.norm, "eps": float(self.threat.eps), "box": list(self.threat.box)},
            "proved": int(self.proved.sum()),
            "broken": int(self.broken.sum()),
            "open": int(self.open.sum()),
            "by_method": [asdict(method) for method in self.by_method],
            **dict(self.facts),
        }
