"""The gate of an artefact: what is shipped against what was trained, on the same examples and the same points."""

from __future__ import annotations

from advreg.hardening.gate.decision import Decision, Rules
from advreg.hardening.gate.gate import GuardedMetric, find_mismatch, not_worse, pairs_of, verdict_of
from advreg.hardening.gate.power_analysis import shows
from advreg.hardening.gate.read import GateResults
from advreg.statistics import holm, noninferiority


def decide_artefact(trained: GateResults, artefact: GateResults, rules: Rules) -> Decision:
    """Return whether an artefact may be shipped: clean and robust accuracy not worse than the trained model's by a margin.

    Args:
        trained: results of the trained model; ``broken`` by its own points or by those made on the artefact.
        artefact: results of the artefact on the same examples and points.
        rules: ``clean_margin`` and level; the margin holds for both accuracies.

    Returns:
        The decision; ``promote`` is True if both tests pass (exact, Holm).
    """
    mismatch = find_mismatch(trained, artefact)
    ids, margin = sorted(artefact.labels), rules.clean_margin
    wrong = {"clean accuracy": (trained.wrong, artefact.wrong), "robust accuracy": (trained.broken, artefact.broken)}
    guarded = [GuardedMetric(name, pairs_of(*sets, ids), len(ids), margin) for name, sets in wrong.items()]
    raw = holm([noninferiority(*one.pair, one.n, one.margin) for one in guarded])
    tests = () if mismatch else tuple(not_worse(one, p, rules.alpha) for one, p in zip(guarded, raw, strict=True))
    reasons = (mismatch,) if mismatch else tuple(f"{test.name}: {test.says}" for test in tests if not test.passed)
    plan = (f"{len(ids)} examples, margin {100 * margin:.1f} pp: {shows(len(ids), margin, rules.alpha / 2)}",)
    verdict = verdict_of(mismatch, tests)
    return Decision(verdict, reasons, plan, tests, trained.summary(), artefact.summary(), rules)
