"""Tasks: what the output of a model is, when it is right, and what an attack maximises."""

from advreg.tasks.boxes import boxes
from advreg.tasks.by_name import TASKS, as_task, make_task
from advreg.tasks.classes import CLASSES
from advreg.tasks.labels import labels
from advreg.tasks.numbers import number, ordinal
from advreg.tasks.pairs import pairs, threshold_at
from advreg.tasks.pixels import pixels
from advreg.tasks.task import CorpusFigure, Task

__all__ = [
    "CLASSES",
    "TASKS",
    "CorpusFigure",
    "Task",
    "as_task",
    "boxes",
    "labels",
    "make_task",
    "number",
    "ordinal",
    "pairs",
    "pixels",
    "threshold_at",
]
