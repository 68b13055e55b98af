"""Proved bounds of feed-forward networks: interval and linear bounds, optimised slopes, branch and bound."""

from advreg.bounds.branching import BranchResult, branch_and_bound
from advreg.bounds.graph import Graph, trace
from advreg.bounds.inputs import InputSet
from advreg.bounds.interval import interval_bounds
from advreg.bounds.linear import LowerBound, Rows, lower_bounds
from advreg.bounds.margins import margin_rows, margins
from advreg.bounds.slopes import optimised_margins
from advreg.bounds.tightening import tight_intervals

__all__ = [
    "BranchResult",
    "Graph",
    "InputSet",
    "LowerBound",
    "Rows",
    "branch_and_bound",
    "interval_bounds",
    "lower_bounds",
    "margin_rows",
    "margins",
    "optimised_margins",
    "tight_intervals",
    "trace",
]
