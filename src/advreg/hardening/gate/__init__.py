"""The gate: decides from the results of two runs whether to promote or reject. Plain run folders, no store, no torch."""

from advreg.hardening.gate.decision import Decision, Rules, Test
from advreg.hardening.gate.gate import gate

__all__ = ["Decision", "Rules", "Test", "gate"]
