"""Data sets of texts for training and evaluation, read from files, from the hub or from memory."""

from advreg.language.datasets.examples import (
    REFUSAL,
    TARGET,
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
from advreg.language.datasets.twins import without_twins

__all__ = [
    "REFUSAL",
    "TARGET",
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
    "without_twins",
]
