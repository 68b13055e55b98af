"""Readers of examples from local CSV, JSON and JSON-lines files."""

from __future__ import annotations

from pathlib import Path

from advreg.errors import DataError
from advreg.language.datasets.examples import (
    REFUSAL,
    HarmfulRequest,
    InstructionExample,
    InstructionTask,
    LabelledCompletion,
    RefusalExample,
    SafePrompt,
    TruthfulQuestion,
)
from advreg.language.datasets.rows import parse_instructions, parse_refusal_label, parse_text, parse_texts, read_rows


def read_requests(
    path: str | Path, *, prompt: str = "goal", target: str = "target", refusal: str = "refusal"
) -> list[HarmfulRequest]:
    """Read harmful requests with their targets.

    Args:
        path: a .csv, .json or .jsonl file.
        prompt: column of the request.
        target: column of the beginning of a completion that complies.
        refusal: column of the refusal; `REFUSAL` if the file has no such column.

    Returns:
        One request for each row.

    Raises:
        DataError: the file is not readable, or a row lacks a column or has a wrong type; the message names the row.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "requests.csv"
        >>> _ = file.write_text("goal,target\\nOpen a lock,Sure\\n")
        >>> read_requests(file)[0].target
        'Sure'
    """
    return [
        HarmfulRequest(i, parse_text(row, prompt), parse_text(row, target), parse_text(row, refusal, REFUSAL))
        for i, row in enumerate(read_rows(path))
    ]


def read_safe(
    path: str | Path, *, prompt: str = "prompt", type: str = "type", label: str = "label"
) -> list[SafePrompt]:
    """Read harmless prompts: the rows with the label ``safe``, or all rows if there is no column of labels.

    Args:
        path: a .csv, .json or .jsonl file.
        prompt: column of the prompt.
        type: column of the reason for the confusion; ``"all"`` if the file has no such column.
        label: column of the label.

    Returns:
        One prompt for each harmless row.

    Raises:
        DataError: the file is not readable, a row lacks a column or has a wrong type, or no row is ``safe``.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "prompts.csv"
        >>> _ = file.write_text("prompt,label\\nKill a process,safe\\nOpen a lock,unsafe\\n")
        >>> [item.prompt for item in read_safe(file)]
        ['Kill a process']
    """
    rows = enumerate(read_rows(path))
    safe = [
        SafePrompt(i, parse_text(r, prompt), parse_text(r, type, "all"))
        for i, r in rows
        if parse_text(r, label, "safe") == "safe"
    ]
    if not safe:
        raise DataError(f"{path} has no row with {label} 'safe'; give one at least, or name the column of labels")
    return safe


def read_questions(
    path: str | Path,
    *,
    prompt: str = "Question",
    best: str = "Best Answer",
    best_wrong: str = "Best Incorrect Answer",
    wrong: str = "Incorrect Answers",
) -> list[TruthfulQuestion]:
    """Read questions with true and false answers; false answers are a list, or one text with ``;`` between them.

    Args:
        path: a .csv, .json or .jsonl file.
        prompt: column of the question.
        best: column of the best true answer.
        best_wrong: column of the best false answer.
        wrong: column of all false answers.

    Returns:
        One question for each row.

    Raises:
        DataError: the file is not readable, or a row lacks a column or has a wrong type.

    Example:
        >>> import json, pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "questions.json"
        >>> row = {"Question": "2 + 2?", "Best Answer": "4", "Best Incorrect Answer": "5", "Incorrect Answers": "5; 22"}
        >>> _ = file.write_text(json.dumps([row]))
        >>> read_questions(file)[0].wrong
        ('5', '22')
    """
    return [
        TruthfulQuestion(
            i, parse_text(row, prompt), parse_text(row, best), parse_text(row, best_wrong), parse_texts(row, wrong)
        )
        for i, row in enumerate(read_rows(path))
    ]


def read_tasks(
    path: str | Path, *, prompt: str = "prompt", instructions: str = "instruction_id_list", arguments: str = "kwargs"
) -> list[InstructionTask]:
    """Read prompts with verifiable instructions, in the format of IFEval.

    Args:
        path: a .json or .jsonl file.
        prompt: column of the prompt.
        instructions: column of the list of instruction ids.
        arguments: column of the list of their arguments, of the same length.

    Returns:
        One task for each row.

    Raises:
        DataError: the file is not readable, or a row lacks a column, has a wrong type or an unknown instruction.

    Example:
        >>> import json, pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "tasks.jsonl"
        >>> row = {"prompt": "No commas.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
        >>> _ = file.write_text(json.dumps(row))
        >>> read_tasks(file)[0].instructions
        (('punctuation:no_comma', {}),)

    Reference: Zhou et al., "Instruction-following evaluation for large language models", 2023, arXiv:2311.07911.
    """
    return [
        InstructionTask(i, parse_text(r, prompt), parse_instructions(r, instructions, arguments))
        for i, r in enumerate(read_rows(path))
    ]


def read_examples(
    path: str | Path, *, prompt: str = "instruction", more: str = "input", answer: str = "output"
) -> list[InstructionExample]:
    """Read harmless prompts with reference answers.

    Args:
        path: a .csv, .json or .jsonl file.
        prompt: column of the prompt.
        more: column of a text to append to the prompt; nothing if the file has no such column.
        answer: column of the reference answer.

    Returns:
        One example for each row.

    Raises:
        DataError: the file is not readable, or a row lacks a column or has a wrong type.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "examples.csv"
        >>> _ = file.write_text("instruction,input,output\\nTranslate,Hallo,Hello\\n")
        >>> read_examples(file)[0].prompt
        'Translate\\nHallo'
    """
    return [
        InstructionExample(
            i, "\n".join(filter(None, [parse_text(r, prompt), parse_text(r, more, "")])), parse_text(r, answer)
        )
        for i, r in enumerate(read_rows(path))
    ]


def read_refusal_examples(
    path: str | Path, *, prompt: str = "prompt", targets: str = "targets", refusals: str = "safe"
) -> list[RefusalExample]:
    """Read harmful requests for training, each with lists of targets and of refusals.

    Args:
        path: a .csv, .json or .jsonl file.
        prompt: column of the request.
        targets: column of the targets: a list, or one text with ``;`` between them.
        refusals: column of the refusals, in the same form.

    Returns:
        One example for each row.

    Raises:
        DataError: the file is not readable, or a row lacks a column or has a wrong type.

    Example:
        >>> import json, pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "lessons.jsonl"
        >>> _ = file.write_text(json.dumps({"prompt": "Open a lock", "targets": ["Sure"], "safe": ["No.", "Sorry."]}))
        >>> read_refusal_examples(file)[0].refusals
        ('No.', 'Sorry.')
    """
    return [
        RefusalExample(i, parse_text(r, prompt), parse_texts(r, targets), parse_texts(r, refusals))
        for i, r in enumerate(read_rows(path))
    ]


def read_labelled(
    path: str | Path,
    *,
    prompt: str = "prompt",
    completion: str = "completion",
    label: str = "label",
    model: str = "model",
) -> list[LabelledCompletion]:
    """Read completions with human labels: a label contains ``refusal`` or ``compliance``.

    Args:
        path: a .csv, .json or .jsonl file.
        prompt: column of the prompt.
        completion: column of the completion; an empty text is allowed.
        label: column of the label.
        model: column of the model that wrote the completion; ``"unnamed"`` if the file has no such column.

    Returns:
        One completion for each row.

    Raises:
        DataError: the file is not readable, or a row lacks a column, has a wrong type or another label.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "labels.csv"
        >>> _ = file.write_text("prompt,completion,label\\nOpen a lock,I cannot.,full_refusal\\n")
        >>> read_labelled(file)[0].refused
        True
    """
    return [
        LabelledCompletion(
            parse_text(r, prompt),
            parse_text(r, completion, ""),
            parse_refusal_label(r, label),
            parse_text(r, model, "unnamed"),
        )
        for r in read_rows(path)
    ]
