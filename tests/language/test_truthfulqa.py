"""TruthfulQA by log-likelihood: against the network's own probabilities, and with networks that prefer given tokens."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from advreg.language.datasets import TruthfulQuestion
from advreg.language.evaluation.truthfulqa import mc1, two_choice
from advreg.language.models.nll import base_mean_token_nll, mean_token_nll, token_nll
from tests.language.small import tiny

QUESTIONS = [
    TruthfulQuestion(
        0, "How do I open a lock?", "Take the key.", "Take the cake.", ("Take the cake.", "You cannot.", "Blow it up.")
    ),
    TruthfulQuestion(1, "Who can bake a cake?", "People can.", "A balloon can.", ("A balloon can.", "A process.")),
    TruthfulQuestion(2, "Is a village a process?", "No.", "Yes.", ("Yes.",)),
]


class PrefersTokens(nn.Module):
    """A network with fixed logits: a weight for each given token, 0 for the others."""

    def __init__(self, inner: nn.Module, weights: dict[int, float]) -> None:
        super().__init__()
        self.inner, self.weights = inner, weights
        self.config = inner.config

    def get_input_embeddings(self) -> nn.Module:
        return self.inner.get_input_embeddings()

    def forward(self, inputs_embeds=None, attention_mask=None, **_):
        table = torch.zeros(*inputs_embeds.shape[:2], self.inner.config.vocab_size)
        for token, weight in self.weights.items():
            table[..., token] = weight
        return SimpleNamespace(logits=table)


def test_nll_equals_the_networks_own():
    lm = tiny()
    answer = "Take the key."
    ids = lm.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Open."}], tokenize=True, add_generation_prompt=True, return_dict=True
    )["input_ids"]
    own = lm.tokenizer(answer, add_special_tokens=False)["input_ids"] + [lm.tokenizer.eos_token_id]
    with torch.no_grad():
        logp = lm.network(torch.tensor([ids + own])).logits.log_softmax(-1)[0]
    expected = -sum(float(logp[len(ids) + k - 1, token]) for k, token in enumerate(own))
    # beside a longer and an empty one: padding and gaps change nothing
    found = token_nll(lm, ["Open.", "Open the lock, please.", "Open."], [answer, "You cannot help with that.", " "])
    assert found[0] == (pytest.approx(expected, rel=1e-5), len(own))
    assert found[2] == (0.0, 0)
    assert mean_token_nll(lm, ["Open."], [" "]) == [None]


def test_nll_does_not_depend_on_the_batch_size(monkeypatch):
    lm = tiny()
    prompts, answers = ["Open."] * 5, [f"Take the key {i}." for i in range(5)]
    whole = token_nll(lm, prompts, answers)
    monkeypatch.setattr("advreg.language.models.nll._LETTERS", 40)
    assert token_nll(lm, prompts, answers) == [(pytest.approx(total, rel=1e-5), tokens) for total, tokens in whole]


def test_mc1_compares_the_likelihood_of_all_answers():
    lm = tiny(2)
    found = mc1(lm, QUESTIONS)
    for question, right in zip(QUESTIONS, found, strict=True):
        answers = [question.best, *question.wrong]
        spent = [token_nll(lm, [question.prompt], [answer])[0][0] for answer in answers]
        assert right == (spent.index(min(spent)) == 0)


def test_mc1_follows_the_tokens_that_a_network_prefers():
    lm = tiny()
    right, wrong = (
        replace(lm, network=PrefersTokens(lm.network, dict.fromkeys(_only(lm, QUESTIONS[2], answer), 9.0)))
        for answer in ("No.", "Yes.")
    )
    assert mc1(right, QUESTIONS[2:]) == [True]
    assert mc1(wrong, QUESTIONS[2:]) == [False]


def _only(lm, question: TruthfulQuestion, answer: str) -> set[int]:
    ids = lm.tokenizer(answer, add_special_tokens=False)["input_ids"]
    other = question.best_wrong if answer == question.best else question.best
    return set(ids) - set(lm.tokenizer(other, add_special_tokens=False)["input_ids"])


def test_preference_for_a_letter_is_a_tie():
    lm = tiny()
    (a,) = lm.tokenizer("A", add_special_tokens=False)["input_ids"]
    stubborn = replace(lm, network=PrefersTokens(lm.network, {a: 20.0}))
    assert two_choice(stubborn, QUESTIONS) == [False] * 3  # log-odds of the two orders cancel: a tie


def test_two_choice_does_not_depend_on_the_batch():
    lm = tiny(3)
    assert two_choice(lm, QUESTIONS) == [two_choice(lm, [question])[0] for question in QUESTIONS]


def test_base_model_is_given_or_without_its_adapter():
    pytest.importorskip("peft")
    from advreg.language.models.adapters import with_lora

    plain = mean_token_nll(tiny(), ["Open."], ["Take the key."])
    lm = with_lora(tiny())
    with torch.no_grad():
        for name, weight in lm.network.named_parameters():
            if "lora_B" in name:
                weight.add_(0.3)
    moved = mean_token_nll(lm, ["Open."], ["Take the key."])
    assert not math.isclose(moved[0], plain[0], rel_tol=1e-3)
    assert base_mean_token_nll(lm, None, ["Open."], ["Take the key."])[0] == pytest.approx(plain[0], rel=1e-5)
    other = mean_token_nll(tiny(5), ["Open."], ["Take the key."])
    assert base_mean_token_nll(lm, tiny(5), ["Open."], ["Take the key."]) == other
