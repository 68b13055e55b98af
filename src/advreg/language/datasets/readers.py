"""Readers of examples from CSV, JSON, JSON-lines and Parquet files, data sets of the hub, and rows in memory."""

from __future__ import annotations

from collections.abc import Iterator

from advreg.errors import DataError
from advreg.language.datasets.examples import (
    REFUSAL,
    TARGET,
    HarmfulRequest,
    InstructionExample,
    InstructionTask,
    LabelledCompletion,
    RefusalExample,
    SafePrompt,
    TruthfulQuestion,
)
from advreg.language.datasets.rows import (
    Row,
    Source,
    parse_instructions,
    parse_messages,
    parse_refusal_label,
    parse_text,
    parse_texts,
    parse_weight,
    parse_yes_or_no,
    present_column,
    read_rows,
)

_REQUEST_COLUMNS = ("goal", "Behavior", "behavior", "prompt")
"""Columns of the request in AdvBench, in HarmBench and JailbreakBench, and in other files."""


def read_requests(
    path: Source, *, prompt: str = "goal", target: str = "target", refusal: str = "refusal"
) -> list[HarmfulRequest]:
    """Read harmful requests with their targets, such as AdvBench, HarmBench or JailbreakBench.

    HarmBench's ``ContextString`` precedes its request. Attacks that need a target raise without one.

    Args:
        path: a .csv, .json, .jsonl or .parquet file, ``hf:ORG/NAME:SPLIT``, or rows.
        prompt: column of the request; if the file has none of this name, ``Behavior`` or ``prompt``.
        target: column of the beginning of a completion that complies; no target if the file has no such column.
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
        HarmfulRequest(i, _request(row, prompt), parse_text(row, target, ""), parse_text(row, refusal, REFUSAL))
        for i, row in enumerate(read_rows(path))
    ]


def read_safe(path: Source, *, prompt: str = "prompt", type: str = "type", label: str = "label") -> list[SafePrompt]:
    """Read harmless prompts: the rows with the label ``safe``, or all rows if there is no column of labels.

    Args:
        path: a .csv, .json, .jsonl or .parquet file, ``hf:ORG/NAME:SPLIT``, or rows.
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
    path: Source,
    *,
    prompt: str = "Question",
    best: str = "Best Answer",
    best_wrong: str = "Best Incorrect Answer",
    wrong: str = "Incorrect Answers",
) -> list[TruthfulQuestion]:
    """Read questions with true and false answers; false answers are a list, or one text with ``;`` between them.

    Args:
        path: a .csv, .json, .jsonl or .parquet file, ``hf:ORG/NAME:SPLIT``, or rows.
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
    path: Source, *, prompt: str = "prompt", instructions: str = "instruction_id_list", arguments: str = "kwargs"
) -> list[InstructionTask]:
    """Read prompts with verifiable instructions, in the format of IFEval.

    Args:
        path: a .json, .jsonl or .parquet file, ``hf:ORG/NAME:SPLIT``, or rows.
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
    path: Source,
    *,
    prompt: str = "instruction",
    more: str = "input",
    answer: str = "output",
    messages: str = "messages",
) -> list[InstructionExample]:
    """Read harmless prompts with reference answers, or conversations: each reply to a user is an example.

    Args:
        path: a .csv, .json, .jsonl or .parquet file, ``hf:ORG/NAME:SPLIT``, or rows.
        prompt: column of the prompt.
        more: column of a text to append to the prompt; nothing if the file has no such column.
        answer: column of the reference answer.
        messages: column of a conversation, a list of ``role`` and ``content``; the other columns are not needed then.

    Returns:
        One example for each row or reply; ``history`` holds the turns before it.

    Raises:
        DataError: the file is not readable, or a row lacks a column or has a wrong type.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "examples.csv"
        >>> _ = file.write_text("instruction,input,output\\nTranslate,Hallo,Hello\\n")
        >>> read_examples(file)[0].prompt
        'Translate\\nHallo'
    """
    rows = (example for row in read_rows(path) for example in _exchanges(row, prompt, more, answer, messages))
    return [InstructionExample(i, *example) for i, example in enumerate(rows)]


def _exchanges(
    row: Row, prompt: str, more: str, answer: str, messages: str
) -> Iterator[tuple[str, str, tuple[dict[str, str], ...]]]:
    """Yield prompt, answer and earlier turns of a row: of each reply in a conversation, or of its columns."""
    if messages in row[1]:
        turns = parse_messages(row, messages)
        for k in range(1, len(turns)):
            if (turns[k - 1]["role"], turns[k]["role"]) == ("user", "assistant") and turns[k]["content"].strip():
                yield turns[k - 1]["content"], turns[k]["content"], tuple(turns[: k - 1])
        return
    text = "\n".join(filter(None, [parse_text(row, prompt), parse_text(row, more, "")]))
    yield text, parse_text(row, answer), tuple(row[1].get("history") or ())


def _request(row: Row, prompt: str) -> str:
    """Return the request of a row after its context, where there is one."""
    names = (prompt, *_REQUEST_COLUMNS) if prompt in _REQUEST_COLUMNS else (prompt,)
    context = str(row[1].get("ContextString") or "").strip()
    request = parse_text(row, present_column(row, *names))
    return f"{context}\n\n---\n\n{request}" if context else request


def read_refusal_examples(
    path: Source,
    *,
    prompt: str = "prompt",
    targets: str = "targets",
    refusals: str = "safe",
    weight: str = "weight",
) -> list[RefusalExample]:
    """Read harmful requests for training, each with lists of targets and of refusals; AdvBench and HarmBench will do.

    Args:
        path: a .csv, .json, .jsonl or .parquet file, ``hf:ORG/NAME:SPLIT``, or rows.
        prompt: column of the request; if the file has none of this name, ``goal`` or ``Behavior``.
        targets: column of the targets: a list, or one text with ``;`` between them; else ``target``; `TARGET` without either.
        refusals: column of the refusals, in the same form; else ``refusal``, or `REFUSAL` without either.
        weight: column of the factor on the loss of a row; 1 if the file has no such column.

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
        RefusalExample(
            i,
            _request(row, prompt),
            _texts(row, (targets, "target"), TARGET),
            _texts(row, (refusals, "refusal"), REFUSAL),
            parse_weight(row, weight),
        )
        for i, row in enumerate(read_rows(path))
    ]


def _texts(row: Row, names: tuple[str, ...], default: str) -> tuple[str, ...]:
    """Return the texts of the first of these columns that the row has, or the default."""
    column = present_column(row, *names)
    if row[1].get(column) is None:
        return (default,)
    return parse_texts(row, column) if column == names[0] else (parse_text(row, column),)


def read_labelled(
    path: Source,
    *,
    prompt: str = "prompt",
    completion: str = "completion",
    label: str = "label",
    model: str = "model",
    harmful: str = "harmful",
) -> list[LabelledCompletion]:
    """Read completions with human labels: of refusals, of harm, or of both.

    Args:
        path: a .csv, .json, .jsonl or .parquet file, ``hf:ORG/NAME:SPLIT``, or rows.
        prompt: column of the prompt; a file with labels of harm alone may lack it.
        completion: column of the completion, or ``response``; an empty text is allowed.
        label: column of the label of refusals, which contains ``refusal`` or ``compliance``.
        model: column of the model that wrote the completion; ``"unnamed"`` if the file has no such column.
        harmful: column of the label of harm: 0 or 1, true or false, yes or no.

    Returns:
        One completion for each row.

    Raises:
        DataError: the file is not readable, or a row lacks a column, has a wrong type or another label.

    Example:
        >>> read_labelled([{"prompt": "Open a lock", "completion": "I cannot.", "label": "full_refusal"}])[0].refused
        True
        >>> read_labelled([{"response": "First take a wire.", "harmful": "1"}])[0].harmful
        True
    """
    labelled = []
    for row in read_rows(path):
        has_harm = harmful in row[1]
        refused = parse_refusal_label(row, label) if label in row[1] or not has_harm else None
        labelled.append(
            LabelledCompletion(
                parse_text(row, prompt, "" if has_harm else None),
                parse_text(row, present_column(row, completion, "response"), ""),
                refused,
                parse_text(row, model, "unnamed"),
                parse_yes_or_no(row, harmful) if has_harm else None,
            )
        )
    return labelled
