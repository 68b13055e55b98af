"""Reports: pure functions from the files of a run folder to a self-contained HTML page, JUnit XML and a model card."""

from typing import TYPE_CHECKING

from advreg._lazy import deprecated
from advreg.report.comparison_table import ComparisonRow, comparison
from advreg.report.html import write, write_comparison
from advreg.report.junit import Case, Threshold, cases, junit
from advreg.report.model_card import model_card
from advreg.report.training_table import TrainingRow, trainings

__all__ = [
    "Case",
    "ComparisonRow",
    "Threshold",
    "TrainingRow",
    "cases",
    "comparison",
    "junit",
    "model_card",
    "trainings",
    "write",
    "write_comparison",
]

if not TYPE_CHECKING:
    __getattr__ = deprecated(__name__, {"Row": "ComparisonRow", "Trained": "TrainingRow"})
