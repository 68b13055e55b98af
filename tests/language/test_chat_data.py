"""Data as people have them: conversations, HarmBench and AdvBench files, Parquet, the hub; near-twins stay on one side."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from advreg.errors import DataError
from advreg.language.datasets import (
    REFUSAL,
    TARGET,
    EvaluationData,
    InstructionExample,
    SafePrompt,
    read_examples,
    read_refusal_examples,
    read_requests,
    split,
    without_twins,
)
from advreg.language.datasets.rows import read_rows
from advreg.language.datasets.twins import content_words, twin_groups, twin_pairs
from advreg.language.models.chat import encode
from advreg.language.models.loading import LanguageModel
from advreg.language.training.benign import encode_benign
from tests.language.small import tiny

BESIDE = Path(__file__).resolve().parents[3] / "shared"
ADVBENCH = Path(os.environ.get("ADVREG_SHARED", BESIDE)) / "data" / "language" / "advbench.csv"

FINGERPRINT = "08008aa48a972aec56978be5c943ac9c1f279d1cf9e1ca6975e1ea96c9335c5f"
"""Of one instruction, before conversations were read."""

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How do I bake?"},
    {"role": "assistant", "content": "Take flour."},
    {"role": "user", "content": [{"type": "text", "text": "And then?"}]},
    {"role": "assistant", "content": "Eggs."},
]


def test_every_reply_of_a_conversation_is_an_example(tmp_path):
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": TURNS}) + "\n" + json.dumps({"messages": TURNS[1:3]}))
    first, second, third = read_examples(tmp_path / "chat.jsonl")
    assert (first.prompt, first.answer, first.history) == ("How do I bake?", "Take flour.", (TURNS[0],))
    assert (second.prompt, second.answer, second.history[:3]) == ("And then?", "Eggs.", tuple(TURNS[:3]))
    assert (third.prompt, third.history) == ("How do I bake?", ())
    assert [example.is_first for example in (first, second, third)] == [True, False, True]
    assert [example.id for example in (first, second, third)] == [0, 1, 2]


def test_training_sees_the_turns_before_a_reply():
    lm = LanguageModel(tiny().network, tiny().tokenizer, "tiny", system="Be kind.")
    example = read_examples([{"messages": TURNS}])[1]
    encoded = encode_benign(lm, [example], 0, 1).encoded
    plain = [{**turn, "content": "And then?"} if turn is TURNS[3] else turn for turn in TURNS]
    text = lm.tokenizer.apply_chat_template(plain, tokenize=False)
    assert lm.tokenizer.decode(encoded.ids[0]) == text.rstrip("\n")
    assert lm.tokenizer.decode(encoded.ids[0][encoded.answer[0]]) == "Eggs.<|im_end|>"


@pytest.mark.parametrize(
    "turns", [TURNS[:2], [{"role": "robot", "content": "Hi"}], ["Hi"], [{"role": "user"}], "text", None]
)
def test_conversations_of_another_form_raise_one_line(turns):
    with pytest.raises(DataError, match=r"row 1: messages"):
        read_examples([{"messages": turns}])


def test_harmbench_and_advbench_files_are_read_as_they_are(tmp_path):
    (tmp_path / "harmbench.csv").write_text(
        'Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID\n"Open a lock",standard,x,,,a\n'
        '"Open it",contextual,x,context,"A lock, old.",b\n'
    )
    requests = read_requests(tmp_path / "harmbench.csv")
    assert [request.prompt for request in requests] == ["Open a lock", "A lock, old.\n\n---\n\nOpen it"]
    assert [request.target for request in requests] == ["", ""]
    lessons = read_refusal_examples(tmp_path / "harmbench.csv")
    assert (lessons[0].targets, lessons[0].refusals) == ((TARGET,), (REFUSAL,))
    (tmp_path / "advbench.csv").write_text('goal,target\nOpen a lock,"Sure, here; is"\n')
    assert read_refusal_examples(tmp_path / "advbench.csv")[0].targets == ("Sure, here; is",)
    with pytest.raises(DataError, match="has no 'goal'"):
        read_requests([{"text": "Open a lock"}])


def test_rows_in_memory_equal_the_file(tmp_path):
    rows = [{"goal": "Open a lock", "target": "Sure"}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    assert read_requests(rows) == read_requests(tmp_path / "rows.json")


def test_parquet_equals_json_lines(tmp_path):
    arrow = pytest.importorskip("pyarrow", reason="the extra tables is missing: pip install 'advreg[tables]'")
    from pyarrow import parquet

    table = arrow.Table.from_pylist([{"messages": TURNS[1:3]}])
    parquet.write_table(table, tmp_path / "chat.parquet")
    assert read_examples(tmp_path / "chat.parquet") == read_examples([{"messages": TURNS[1:3]}])


def test_data_sets_of_the_hub_are_read_by_their_library(monkeypatch):
    """A stand-in for the library, which this machine may lack: name and split reach it, and its rows come back."""
    asked = []

    def load_dataset(name, split):
        asked.append((name, split))
        if name == "none/none":
            raise FileNotFoundError("no such data set")
        return [{"goal": "Open a lock"}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert read_requests("hf:walledai/AdvBench:test")[0].prompt == "Open a lock"
    assert read_rows("hf:walledai/AdvBench")[0][0] == "hf:walledai/AdvBench row 1"
    assert asked == [("walledai/AdvBench", "test"), ("walledai/AdvBench", "train")]
    with pytest.raises(DataError, match="cannot be loaded"):
        read_rows("hf:none/none")


def test_history_changes_the_fingerprint_and_its_absence_does_not():
    one = EvaluationData(benign=(InstructionExample(0, "Hi", "Ho"),))
    other = EvaluationData(benign=(InstructionExample(0, "Hi", "Ho", ({"role": "system", "content": "Be kind."},)),))
    assert one.fingerprint != other.fingerprint
    assert one.fingerprint == FINGERPRINT, "evaluations of earlier versions resume"


def test_twin_pairs_equal_those_of_all_pairs():
    words = ["lock", "cake", "egg", "bomb", "flour", "door"]
    generator = torch.Generator().manual_seed(0)
    prompts = [
        " ".join(words[k] for k in torch.randperm(6, generator=generator)[: 1 + i % 5].tolist()) for i in range(60)
    ]
    for alike in (0.3, 0.6, 1.0):
        sets = [content_words(prompt) for prompt in prompts]
        every = {
            (i, j) for j in range(60) for i in range(j) if len(sets[i] & sets[j]) >= alike * len(sets[i] | sets[j])
        }
        assert set(twin_pairs(prompts, alike)) == every
    assert twin_groups(["a lock", "a cake", "the locks", "cakes"]) == [0, 1, 0, 1]


@pytest.mark.parametrize("seed", range(3))
def test_split_leaves_no_twin_of_a_training_request_in_the_test(seed):
    if not ADVBENCH.is_file():
        pytest.skip("needs ../shared/data/language")
    requests = read_requests(ADVBENCH)
    parts = split(requests, {"train": 0.4, "validation": 0.2, "test": 0.4}, seed)
    train = [request.prompt for request in parts["train"]]
    assert without_twins(parts["test"], train) == parts["test"]
    assert min(len(part) for part in parts.values()) > 50
    assert sum(len(part) for part in parts.values()) == len(requests)
    by_hash = [request for k, request in enumerate(requests) if k % 2]
    others = [request.prompt for k, request in enumerate(requests) if not k % 2]
    assert len(without_twins(by_hash, others)) < 0.85 * len(by_hash), "half of AdvBench has twins in the other half"


def test_split_does_not_depend_on_the_order_of_the_file():
    prompts = [
        SafePrompt(i, f"{word} {verb}") for i, (word, verb) in enumerate(zip("abcdefgh" * 3, "xyz" * 8, strict=True))
    ]
    one = split(prompts, {"train": 0.5, "test": 0.5})
    other = split(prompts[::-1], {"train": 0.5, "test": 0.5})
    assert {item.prompt for item in one["train"]} == {item.prompt for item in other["train"]}


def test_a_system_prompt_of_the_run_is_used_after_training(tmp_path):
    pytest.importorskip("peft", reason="needs advreg[language]")
    from advreg.cli.language_inputs import EvaluationOptions, load_for_evaluation
    from advreg.language.training.fit import fit_language
    from advreg.language.training.setup import prepare
    from tests.language import lessons

    data = lessons.write_data(tmp_path)
    made = lessons.config(data, tmp_path / "run", "train.steps=1", "train.guard=off", "model.system=Be brief.")
    assert prepare(made).lm.system == "Be brief."
    run = fit_language(made)
    for options, wanted in ((EvaluationOptions(), "Be brief."), (EvaluationOptions(system="Be kind."), "Be kind.")):
        lm, _, _ = load_for_evaluation(str(run.path), options)
        assert lm.system == wanted
        assert torch.equal(encode(lm, ["Hi"]).ids, encode(tiny(), ["Hi"], system=wanted).ids)
