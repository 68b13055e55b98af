"""Data sets of texts for training and evaluation, read from local CSV, JSON and JSON-lines files."""

from advreg.language.datasets.examples import (
    REFUSAL,
    HarmfulRequest,
    InstructionExample,
    InstructionTask,
    Item,
    LabelledCompletion,
    RefusalExample,
    SafePrompt,
    TruthfulQuestion,
)
from advreg.language.datasets.readers import (
    read_examples,
    read_labelled,
    read_questions,
    read_refusal_examples,
    read_requests,
    read_safe,
    read_tasks,
)
from advreg.language.datasets.selection import (
    EvaluationData,
    choose,
    split,
)

__all__ = [
    "REFUSAL",
    "EvaluationData",
    "HarmfulRequest",
    "InstructionExample",
    "InstructionTask",
    "Item",
    "LabelledCompletion",
    "RefusalExample",
    "SafePrompt",
    "TruthfulQuestion",
    "choose",
    "read_examples",
    "read_labelled",
    "read_questions",
    "read_refusal_examples",
    "read_requests",
    "read_safe",
    "read_tasks",
    "split",
]
