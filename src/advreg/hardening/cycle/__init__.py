"""One cycle of hardening. Each stage reads the store, does what is missing, and records it before the next stage starts.

    ingestion -> admission -> snapshot -> challenger -> evaluation -> gate -> promotion

After a kill at any moment the next cycle continues; without new examples it changes nothing.
"""

from advreg.hardening.cycle.run import Outcome, run_cycle

__all__ = ["Outcome", "run_cycle"]
