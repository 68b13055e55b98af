"""Reports: pure functions from the files of a run folder to one HTML file that needs nothing else."""

from advreg.report.card import model_card
from advreg.report.html import write, write_comparison
from advreg.report.table import Row, comparison
from advreg.report.thresholds import Case, Threshold, cases, junit

__all__ = ["Case", "Row", "Threshold", "cases", "comparison", "junit", "model_card", "write", "write_comparison"]
