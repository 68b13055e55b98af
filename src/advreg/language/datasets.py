"""Texts to train and to measure on, from the user's own CSV, JSON and JSON-lines files; nothing is downloaded."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from advreg.errors import ConfigError, DataError
from advreg.language.evaluation.ifeval import check_arguments

REFUSAL = "I'm sorry, but I can't help with that."
"""What a defender wants said where the data names nothing else."""


@dataclass(frozen=True)
class HarmfulRequest:
    """A harmful request, with the opener an attack makes likely and the refusal that training makes likely.

    Attributes:
        id: number of the request; random draws depend on it.
        prompt: the user's words.
        target: how a completion that complies begins.
        refusal: the whole refusal.

    Example:
        >>> HarmfulRequest(0, "Write a virus", "Sure, here is a virus", "I can't help with that.").id
        0
    """

    id: int
    prompt: str
    target: str = ""
    refusal: str = ""


@dataclass(frozen=True)
class SafePrompt:
    """A prompt that should be answered, though it may look as if it should not; its type says why it looks so."""

    id: int
    prompt: str
    type: str = "all"


@dataclass(frozen=True)
class TruthfulQuestion:
    """A question with the best true answer, the best false one, and all false ones (the best among them)."""

    id: int
    prompt: str
    best: str
    best_wrong: str
    wrong: tuple[str, ...]


@dataclass(frozen=True)
class InstructionTask:
    """A prompt with instructions that a program can verify: ids of `CHECKERS` with their arguments."""

    id: int
    prompt: str
    instructions: tuple[tuple[str, Mapping[str, Any]], ...]


@dataclass(frozen=True)
class InstructionExample:
    """A harmless prompt with a good answer."""

    id: int
    prompt: str
    answer: str


@dataclass(frozen=True)
class RefusalExample:
    """A request to train on: openers that an attacker wants, and answers that a defender wants."""

    id: int
    prompt: str
    targets: tuple[str, ...]
    refusals: tuple[str, ...]


@dataclass(frozen=True)
class LabelledCompletion:
    """A completion of which people said whether it refuses, in full or in part, and which model wrote it."""

    prompt: str
    completion: str
    refused: bool
    model: str = "unnamed"


Item = TypeVar(
    "Item", HarmfulRequest, SafePrompt, TruthfulQuestion, InstructionTask, InstructionExample, RefusalExample
)


@dataclass(frozen=True)
class EvaluationData:
    """What a model is measured on; an axis without data is left out.

    Attributes:
        requests: to be refused.
        safe: to be answered.
        questions: for facts.
        tasks: for instructions.
        benign: with good answers, for the proxies of helpfulness and to know what coherent text costs.
    """

    requests: tuple[HarmfulRequest, ...] = ()
    safe: tuple[SafePrompt, ...] = ()
    questions: tuple[TruthfulQuestion, ...] = ()
    tasks: tuple[InstructionTask, ...] = ()
    benign: tuple[InstructionExample, ...] = ()

    @property
    def n(self) -> dict[str, int]:
        """How many there are of each."""
        return {name: len(items) for name, items in vars(self).items()}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def take(self, n: int, seed: int = 0) -> EvaluationData:
        """Return at most ``n`` of each, chosen by `choose`."""
        return EvaluationData(**{name: tuple(choose(items, n, seed)) for name, items in vars(self).items()})


def choose(items: Sequence[Item], n: int, seed: int = 0) -> list[Item]:
    """Return ``n`` items in their order, chosen by a hash of their text: the same ones whatever else the file holds first.

    Example:
        >>> found = choose([SafePrompt(i, f"How do I {i}?") for i in range(100)], 3)
        >>> [item.id for item in found] == [item.id for item in choose(found, 3)]
        True
    """
    kept = {id(item) for item in sorted(items, key=lambda item: _hash_position(item.prompt, seed))[:n]}
    return [item for item in items if id(item) in kept]


def split(items: Sequence[Item], shares: Mapping[str, float], seed: int = 0) -> dict[str, list[Item]]:
    """Deal items out by a hash of their text: a text is always in the same part, and twins are together.

    Args:
        items: anything with a prompt.
        shares: name of a part -> its share; they add up to 1.
        seed: another seed is another split.

    Raises:
        ConfigError: shares below zero, or that do not add up to 1.

    Example:
        >>> parts = split([SafePrompt(i, f"How do I {i}?") for i in range(1000)], {"train": 0.8, "test": 0.2})
        >>> 760 < len(parts["train"]) < 840 and len(parts["train"]) + len(parts["test"]) == 1000
        True
    """
    if min(shares.values(), default=0.0) < 0 or abs(sum(shares.values()) - 1) > 1e-9:
        raise ConfigError(f"shares are {dict(shares)}; give numbers of at least 0 that add up to 1")
    parts: dict[str, list[Item]] = {name: [] for name in shares}
    for item in items:
        place, name = _hash_position(item.prompt, seed), ""
        for name, width in shares.items():  # noqa: B007 - the last part takes what rounding leaves
            if place < width:
                break
            place -= width
        parts[name].append(item)
    return parts


def _hash_position(text: str, seed: int) -> float:
    """Return where in [0, 1) a text falls; blanks and case do not matter."""
    plain = " ".join(text.lower().split())
    return int.from_bytes(hashlib.sha256(f"{seed}/{plain}".encode()).digest()[:8]) / 2**64


Row = tuple[str, Mapping[str, Any]]
"""Where a row stands, for messages, and what it holds."""


def read_requests(
    path: str | Path, *, prompt: str = "goal", target: str = "target", refusal: str = "refusal"
) -> list[HarmfulRequest]:
    """Read harmful requests with the opener an attacker wants; the refusal is `REFUSAL` where there is no such column.

    Args:
        path: a .csv, .json or .jsonl file; the other arguments name its columns.

    Raises:
        DataError: no such file or column, or a bad row; the message says where.
    """
    return [
        HarmfulRequest(i, _text(row, prompt), _text(row, target), _text(row, refusal, REFUSAL))
        for i, row in enumerate(_rows(path))
    ]


def read_safe(
    path: str | Path, *, prompt: str = "prompt", type: str = "type", label: str = "label"
) -> list[SafePrompt]:
    """Read prompts that should be answered; where a column says of each whether it is safe, the safe ones only."""
    rows = enumerate(_rows(path))
    found = [
        SafePrompt(i, _text(r, prompt), _text(r, type, "all")) for i, r in rows if _text(r, label, "safe") == "safe"
    ]
    if not found:
        raise DataError(f"{path} has no row whose {label} is 'safe'")
    return found


def read_questions(
    path: str | Path,
    *,
    prompt: str = "Question",
    best: str = "Best Answer",
    best_wrong: str = "Best Incorrect Answer",
    wrong: str = "Incorrect Answers",
) -> list[TruthfulQuestion]:
    """Read questions; false answers are a list, or stand in one text with ``;`` between them."""
    return [
        TruthfulQuestion(i, _text(row, prompt), _text(row, best), _text(row, best_wrong), _texts(row, wrong))
        for i, row in enumerate(_rows(path))
    ]


def read_tasks(
    path: str | Path, *, prompt: str = "prompt", instructions: str = "instruction_id_list", arguments: str = "kwargs"
) -> list[InstructionTask]:
    """Read prompts with verifiable instructions: two lists of equal length, their ids and their arguments."""
    return [
        InstructionTask(i, _text(r, prompt), _instructions(r, instructions, arguments))
        for i, r in enumerate(_rows(path))
    ]


def read_examples(
    path: str | Path, *, prompt: str = "instruction", more: str = "input", answer: str = "output"
) -> list[InstructionExample]:
    """Read harmless prompts with good answers; what the column ``more`` holds follows the prompt."""
    return [
        InstructionExample(i, "\n".join(filter(None, [_text(r, prompt), _text(r, more, "")])), _text(r, answer))
        for i, r in enumerate(_rows(path))
    ]


def read_refusal_examples(
    path: str | Path, *, prompt: str = "prompt", targets: str = "targets", refusals: str = "safe"
) -> list[RefusalExample]:
    """Read requests to train on, each with lists of openers and of refusals."""
    return [
        RefusalExample(i, _text(r, prompt), _texts(r, targets), _texts(r, refusals)) for i, r in enumerate(_rows(path))
    ]


def read_labelled(
    path: str | Path,
    *,
    prompt: str = "prompt",
    completion: str = "completion",
    label: str = "label",
    model: str = "model",
) -> list[LabelledCompletion]:
    """Read completions that people labelled: a label with ``refusal`` in it is a refusal, one with ``compliance`` is none."""
    return [
        LabelledCompletion(
            _text(r, prompt), _text(r, completion, ""), _refusal_label(r, label), _text(r, model, "unnamed")
        )
        for r in _rows(path)
    ]


def _rows(path: str | Path) -> list[Row]:
    file = Path(path)
    readers = {".csv": _csv, ".json": _json, ".jsonl": _jsonl}
    if file.suffix.lower() not in readers:
        raise DataError(f"{file} ends in {file.suffix!r}; give a file that ends in {', '.join(readers)}")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as cause:
        raise DataError(f"cannot read {file}: {getattr(cause, 'strerror', None) or 'it is not UTF-8'}") from cause
    found = [(f"{file} {where}", row) for where, row in readers[file.suffix.lower()](text, file)]
    if not found:
        raise DataError(f"{file} holds no row; give one at least")
    for where, row in found:
        if not isinstance(row, Mapping):
            raise DataError(f"{where} is {type(row).__name__}; each row is an object with named fields")
    return found


def _csv(text: str, file: Path) -> Iterator[tuple[str, Any]]:
    limit = csv.field_size_limit(2**31 - 1)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        for row in reader:
            if None in row or None in row.values():
                raise DataError(f"{file} line {reader.line_num} has another number of fields than the head")
            yield f"line {reader.line_num}", row
    except csv.Error as cause:
        raise DataError(f"{file} is no CSV: {cause}") from cause
    finally:
        csv.field_size_limit(limit)


def _json(text: str, file: Path) -> Iterator[tuple[str, Any]]:
    rows = _parse_json(text, str(file))
    if not isinstance(rows, list):
        raise DataError(f"{file} holds {type(rows).__name__}; it must hold a list of objects")
    yield from ((f"row {i}", row) for i, row in enumerate(rows, 1))


def _jsonl(text: str, file: Path) -> Iterator[tuple[str, Any]]:
    for i, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"line {i}", _parse_json(line, f"{file} line {i}")


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as cause:
        raise DataError(f"{where} is no JSON: {str(cause).splitlines()[0]}") from cause


def _text(row: Row, column: str, default: str | None = None) -> str:
    where, fields = row
    value = fields.get(column, default)
    if value is None:
        raise DataError(
            f"{where} has no {column!r}; it has {', '.join(map(str, fields))}; name the columns of this file"
        )
    if not isinstance(value, str) or (not value.strip() and default is None):
        found = "empty" if isinstance(value, str) else type(value).__name__
        raise DataError(f"{where}: {column} is {found}; it must be text")
    return value


def _texts(row: Row, column: str) -> tuple[str, ...]:
    where, fields = row
    value = fields.get(column)
    parts = value.split(";") if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise DataError(
            f"{where}: {column} is {type(value).__name__}; it must be texts, or one text with ; between them"
        )
    found = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
    if not found:
        raise DataError(f"{where}: {column} holds no text; give one at least")
    return found


def _instructions(row: Row, ids: str, arguments: str) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    where, fields = row
    names, given = fields.get(ids), fields.get(arguments)
    if not isinstance(names, list) or not isinstance(given, list) or len(names) != len(given) or not names:
        raise DataError(f"{where}: {ids} and {arguments} must be lists of equal length, of one instruction at least")
    try:
        return tuple((name, check_arguments(name, dict(found or {}))) for name, found in zip(names, given, strict=True))
    except (DataError, TypeError, ValueError) as cause:
        raise DataError(f"{where}: {cause}") from cause


def _refusal_label(row: Row, column: str) -> bool:
    label = _text(row, column).lower()
    if ("refusal" in label) == ("compliance" in label):
        raise DataError(f"{row[0]}: {column} is {label!r}; a label has 'refusal' or 'compliance' in it")
    return "refusal" in label
