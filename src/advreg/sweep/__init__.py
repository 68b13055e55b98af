"""Sweeps: the trade-off between clean and robust accuracy over values of any keys of a configuration."""

from advreg.sweep.result import Sweep
from advreg.sweep.run import SweepPlan, run_sweep
from advreg.sweep.space import Choices, SearchInterval, parse_keys

__all__ = ["Choices", "SearchInterval", "Sweep", "SweepPlan", "parse_keys", "run_sweep"]
