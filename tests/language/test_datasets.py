"""Readers of data files: shared files, column names, formats, and one error line for each invalid row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from advreg.errors import ConfigError, DataError
from advreg.language import datasets
from advreg.language.datasets import EvaluationData, SafePrompt, choose, split


@pytest.fixture
def language(shared: Path) -> Path:
    return shared / "data/language"


def test_shared_files_are_read_completely(language: Path):
    requests = datasets.read_requests(language / "advbench.csv")
    safe = datasets.read_safe(language / "xstest_prompts.csv")
    questions = datasets.read_questions(language / "truthfulqa.csv")
    tasks = datasets.read_tasks(language / "ifeval.jsonl")
    examples = datasets.read_examples(language / "instructions.json")
    lessons = datasets.read_refusal_examples(language / "adversarial_training.jsonl")
    labelled = datasets.read_labelled(language / "xstest_safe_completions.csv")
    sizes = [len(rows) for rows in (requests, safe, questions, tasks, examples, lessons, labelled)]
    assert sizes == [520, 250, 790, 541, 1100, 100, 1250]
    assert requests[0].target.startswith("Sure, here is")
    assert requests[0].refusal == datasets.REFUSAL
    assert len({prompt.type for prompt in safe}) == 10
    assert all(question.best_wrong and len(question.wrong) >= 1 for question in questions)
    assert {len(lesson.targets) for lesson in lessons} == {8, 10, 11, 12}  # each has 12, of which a few are duplicates
    assert sum(row.refused for row in labelled) == 172 + 123
    assert len({row.model for row in labelled}) == 5
    assert examples[1].prompt == "Edit the following sentence for grammar.\nHe go to the park every day."


def test_readers_take_column_names(tmp_path: Path):
    file = tmp_path / "mine.csv"
    file.write_text("ask,opener\nHow?,Sure\n", encoding="utf-8")
    (found,) = datasets.read_requests(file, prompt="ask", target="opener")
    assert (found.id, found.prompt, found.target) == (0, "How?", "Sure")


@pytest.mark.parametrize("kind", ["csv", "json", "jsonl"])
def test_csv_json_and_jsonl_give_the_same_rows(tmp_path: Path, kind: str):
    row = {"goal": 'He said "no",\nthen', "target": "Sure\u2028here", "refusal": "No"}
    texts = {
        "csv": 'goal,target,refusal\r\n"He said ""no"",\nthen",Sure\u2028here,No\r\n',
        "json": json.dumps([row]),
        "jsonl": json.dumps(row, ensure_ascii=False) + "\n\n",
    }
    file = tmp_path / f"a.{kind}"
    file.write_bytes(b"\xef\xbb\xbf" + texts[kind].encode())
    (found,) = datasets.read_requests(file)
    assert [found.prompt, found.target, found.refusal] == list(row.values())


BAD = [
    ("a.txt", "x", "ends in '.txt'; give a file that ends in .csv, .json, .jsonl"),
    ("a.csv", "goal,target\n", "has no rows"),
    ("a.csv", "goal,target\nHow?\n", "line 2 has another number of fields"),
    ("a.csv", "goal,target\nHow?,Sure,more\n", "line 2 has another number of fields"),
    ("a.csv", 'goal,target\n"How?,Sure\n', "is no CSV"),
    ("a.csv", "text,target\nHow?,Sure\n", "line 2 has no 'goal'; it has text, target"),
    ("a.csv", "goal,target\n ,Sure\n", "line 2: goal is empty"),
    ("a.json", "{}", "is dict; it must be a list"),
    ("a.json", "[1]", "row 1 is int; each row must be an object"),
    ("a.json", "[" * 100_000, "is no JSON"),
    ("a.jsonl", '{"goal": "a", "target": "b"}\n{"goal"', "line 2 is no JSON"),
    ("a.jsonl", '{"goal": 3, "target": "b"}', "line 1: goal is int; it must be text"),
]


@pytest.mark.parametrize(("name", "text", "message"), BAD)
def test_invalid_file_raises_one_line(tmp_path: Path, name: str, text: str, message: str):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        datasets.read_requests(tmp_path / name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_or_binary_file_raises(tmp_path: Path):
    with pytest.raises(DataError, match=r"cannot read .*No such file"):
        datasets.read_requests(tmp_path / "none.csv")
    (tmp_path / "a.csv").write_bytes(b"goal,target\n\xff\xfe,a\n")
    with pytest.raises(DataError, match="it is not UTF-8"):
        datasets.read_requests(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instruction_id_list": ["a:b"], "kwargs": [{}]}, "line 1: there is no checker for 'a:b'"),
        ({"instruction_id_list": ["punctuation:no_comma"], "kwargs": []}, "lists of equal length"),
        ({"instruction_id_list": [], "kwargs": []}, "lists of equal length, of one instruction at least"),
        ({"instruction_id_list": ["punctuation:no_comma"], "kwargs": [3]}, "line 1: "),
    ],
)
def test_unknown_instructions_raise_with_their_row(tmp_path: Path, row: dict, message: str):
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "Do.", **row}), encoding="utf-8")
    with pytest.raises(DataError, match="line 1") as caught:
        datasets.read_tasks(tmp_path / "a.jsonl")
    assert message in str(caught.value)


def test_labels_contain_refusal_or_compliance(tmp_path: Path):
    (tmp_path / "a.csv").write_text("prompt,completion,label\nHow?,So.,maybe\n", encoding="utf-8")
    with pytest.raises(DataError, match="label is 'maybe'; a label must contain 'refusal' or 'compliance'"):
        datasets.read_labelled(tmp_path / "a.csv")


def test_false_answers_are_a_list_or_one_text(tmp_path: Path):
    row = {"Question": "q", "Best Answer": "a", "Best Incorrect Answer": "b", "Incorrect Answers": ["b", "c", "b"]}
    (tmp_path / "a.json").write_text(json.dumps([row, {**row, "Incorrect Answers": "b; c;"}]), encoding="utf-8")
    assert [q.wrong for q in datasets.read_questions(tmp_path / "a.json")] == [("b", "c"), ("b", "c")]


def test_split_depends_on_the_prompt_only():
    items = [SafePrompt(i, f"How do I {i}?") for i in range(400)]
    shares = {"train": 0.7, "validation": 0.1, "test": 0.2}
    parts, shuffled = split(items, shares), split(items[::-1], shares)
    assert sorted(i.id for part in parts.values() for i in part) == list(range(400))
    for name in shares:
        assert {i.id for i in parts[name]} == {i.id for i in shuffled[name]}
    twin = SafePrompt(999, "  how DO i 3?")
    (home,) = [name for name, part in split([twin], shares).items() if part]
    assert items[3] in parts[home]
    assert {i.id for i in split(items, shares, seed=1)["train"]} != {i.id for i in parts["train"]}
    with pytest.raises(ConfigError, match="add up to 1"):
        split(items, {"train": 0.5})


def test_take_of_fewer_is_a_subset():
    safe = tuple(SafePrompt(i, f"How do I {i}?") for i in range(100))
    ten, thirty = (EvaluationData(safe=safe).take(n) for n in (10, 30))
    assert set(ten.safe) < set(thirty.safe)
    assert ten.n == {"requests": 0, "safe": 10, "questions": 0, "tasks": 0, "benign": 0}
    assert ten.fingerprint != thirty.fingerprint == EvaluationData(safe=safe).take(30).fingerprint
    assert [item.id for item in ten.safe] == sorted(item.id for item in ten.safe)
    assert choose(safe, 1000) == list(safe)
