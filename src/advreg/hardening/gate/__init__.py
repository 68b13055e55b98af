"""The gate: two runs' results in, promote or refuse out, with the statistics. Plain run folders, no store, no torch."""

from advreg.hardening.gate.decision import Decision, Rules, Test
from advreg.hardening.gate.gate import gate

__all__ = ["Decision", "Rules", "Test", "gate"]
