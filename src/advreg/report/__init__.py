"""Reports: pure functions from the files of a run folder to one HTML file that needs nothing else."""

from advreg.report.html import write, write_comparison
from advreg.report.table import Row, comparison

__all__ = ["Row", "comparison", "write", "write_comparison"]
