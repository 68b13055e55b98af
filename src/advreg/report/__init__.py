"""Reports: pure functions from the files of a run folder to one HTML file that needs nothing else."""

from advreg.report.comparison_table import Row, comparison
from advreg.report.html import write, write_comparison
from advreg.report.junit import Case, Threshold, cases, junit
from advreg.report.model_card import model_card
from advreg.report.training_table import Trained, trainings

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
