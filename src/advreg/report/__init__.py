"""Reports: pure functions from the files of a run folder to one HTML file that needs nothing else."""

from advreg.report.card import model_card
from advreg.report.html import write, write_comparison
from advreg.report.table import Row, comparison
from advreg.report.thresholds import Case, Threshold, cases, junit
from advreg.report.trained import Trained, trainings

__all__ = [
    "Case",
    "Row",
    "Threshold",
    "Trained",
    "cases",
    "comparison",
    "junit",
    "model_card",
    "trainings",
    "write",
    "write_comparison",
]
